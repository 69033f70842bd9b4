"""Teaching: takes go through the device's own attempts, what is taken into a ledger, and that through the rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bundlebuild.audio import Audio, to_int16
from evaluation.conditions import ROOM
from idiolect.enrolment import TRIES
from idiolect.learning import aligning, rounds, trainer
from idiolect.learning import ledger as ledgers
from idiolect.learning.attempt import Attempt, Reason, Taken, repeated
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.model import Model
from idiolect.pipeline.chain import Chain
from idiolect.pipeline.personal import Adapter
from idiolect.values import BLOCK

from .people import TAUGHT, Person, rng_of

Array = NDArray[np.float32]
DAY = 20_000
BEFORE, BEHIND = 10 * BLOCK, 12 * BLOCK
"""Samples of room around a take."""
SETTLING = 30 * BLOCK
"""And before the first one."""


@dataclass(slots=True)
class Lessons:
    """What somebody taught. Of ``good`` takes, those said first of each phrase, ``refused`` were not taken."""

    person: Person
    profile: str
    phrases: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    first: dict[str, Array] = field(default_factory=dict)
    """The frames of each phrase's first take."""
    good: int = 0
    refused: int = 0

    def ledger(self, *, voice: bool = False) -> Ledger:
        """As the vault would give it."""
        return Ledger(self.profile, tuple(self.examples), voice=voice)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is in use of somebody afterwards, and the gate's numbers, which `report` tells."""

    lessons: Lessons
    adapter: Adapter | None
    numbers: dict[str, float]


class School:
    """One device at which phrases are taught."""

    def __init__(self, chain: Chain, model: Model) -> None:
        self._chain, self._model = chain, model
        for block in _blocks(np.zeros(SETTLING, np.float32), "settling"):
            chain.steps(block)

    def teach(self, lessons: Lessons, phrase: str) -> bool:
        """Take TAUGHT takes of a phrase, as `idiolect.enrolment` collects them; whether they came together."""
        taken: list[Taken] = []
        frames: list[Array] = []
        others, unlike, take = aligning.takes_beside(self._model, lessons.examples, phrase), 0, 0
        while len(taken) < TAUGHT:
            if take >= TRIES * TAUGHT:
                return False
            first_try = take < TAUGHT  # what is tried again was refused before, and counts once
            outcome = self.attempt(lessons.person.say(phrase, take if first_try else TAUGHT - 1 - take), phrase, take)
            take += 1
            if isinstance(outcome, Taken) and repeated(outcome.samples, [t.samples for t in taken]):
                outcome = Reason.SAME
            if isinstance(outcome, Taken):
                mine = self._frames(outcome)
                outcome = Reason.SHORT if mine is None else aligning.compared(mine, frames, others) or outcome
                unlike = unlike + 1 if outcome is Reason.UNLIKE else 0
                if isinstance(outcome, Taken) and mine is not None:
                    taken.append(outcome)
                    frames.append(mine)
                elif unlike >= 2:
                    taken, frames, unlike = [], [], 0
            lessons.good += first_try
            lessons.refused += first_try and isinstance(outcome, Reason)
        self._keep(lessons, phrase, taken)
        lessons.first[phrase] = frames[0]
        return True

    def accepts_wrong(self, lessons: Lessons, phrase: str, wrong: Audio) -> bool:
        """Whether ``wrong``, which is something else, passes as the second take of a phrase."""
        outcome = self.attempt(wrong, phrase, "wrong")
        if isinstance(outcome, Reason):
            return False
        frames = self._frames(outcome)
        if frames is None:
            return False
        others = aligning.takes_beside(self._model, lessons.examples, phrase)
        return aligning.compared(frames, [lessons.first[phrase]], others) is None

    def attempt(self, clip: Audio, *seed: object) -> Taken | Reason:
        """One attempt in a quiet room, block by block, as the inference thread makes it."""
        attempt = Attempt()
        padded = np.concatenate([np.zeros(BEFORE, np.float32), clip, np.zeros(BEHIND, np.float32)])
        for block in _blocks(padded, *seed):
            self._chain.steps(block)
            outcome = attempt.hear(block, self._chain.recent)
            if outcome is not None:
                return outcome
        return Reason.SILENCE

    def _frames(self, taken: Taken) -> Array | None:
        return aligning.frames_of(self._model.standard, taken.span, taken.length)

    def _keep(self, lessons: Lessons, phrase: str, taken: Sequence[Taken]) -> None:
        session = f"{len(lessons.phrases):08x}"
        for each in taken:
            number = len(lessons.examples) + 1
            example = Example(
                number, phrase, "enrolment", session, DAY, "00" * 32, each.span[None],
                length=each.length, clear=each.clear, whole=each.whole,
            )  # fmt: skip
            lessons.examples.append(ledgers.decode(example.encode()))  # as precisely as the vault keeps it
        lessons.phrases.append(phrase)


def _blocks(clip: Audio, *seed: object) -> Iterator[NDArray[np.int16]]:
    size = -(-len(clip) // BLOCK) * BLOCK
    heard = rng_of("room", *seed).standard_normal(size).astype(np.float32) * np.float32(ROOM)
    heard[: len(clip)] += clip
    samples = to_int16(heard)
    for at in range(0, size, BLOCK):
        yield samples[at : at + BLOCK]


def learn(model: Model, lessons: Lessons, others: Sequence[Lessons] = (), *, voice: bool = False) -> Learnt:
    """What is in use when every phrase has had its round.

    A round depends on the ledger alone, and what one refuses stays in the ledger: so the last one is made first, and
    an earlier one only where the gate refuses it.
    """
    ledger = lessons.ledger(voice=voice)
    own = {example.phrase for example in ledger.examples}
    spans = [e.spans[0] for other in others for e in other.examples if e.phrase not in own]
    heard = model.hear_examples(np.stack(spans)) if spans else None
    for kept in range(len(lessons.phrases), 0, -1):
        names = set(lessons.phrases[:kept])
        part = Ledger(ledger.profile, tuple(e for e in ledger.examples if e.phrase in names), voice=voice)
        outcome = rounds.run(model, part, trainer.When(DAY, 1), rounds.Circumstances(others=heard))
        if outcome.verdict.passed:
            return Learnt(lessons, outcome.adapter, dict(outcome.verdict.numbers))
    return Learnt(lessons, None, {})
