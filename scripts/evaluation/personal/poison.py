"""What an attacker reaches through corrections who knows everything but the key, and what a good owner may still do.

The attacker knows model, ledger and rules, has recordings of everybody, the owner too, and spreads over sessions and
days so that no cap binds. Two goals: that the owner's A is taken for B ("drive"), and that it is not understood at all
("reject"). Two manners: *blunt* takes the recordings that would move most, *evasive* those of them that admission lets
through, one after the other. Success is the share of the owner's other utterances of A, understood before, that are not
understood afterwards, with the adapter that the gate let through in the worst case: rollout's shadow is not counted on.

Admission's constants were chosen on the users with an even number (``tuning``); the others are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bundlebuild.words import BACKGROUND
from idiolect.learning import gate, trainer
from idiolect.learning import round as rounds
from idiolect.learning.admission import Admission
from idiolect.learning.ledger import Example, Ledger, Source
from idiolect.learning.model import Heard, Model
from idiolect.listening.pipeline.adapter import Adapter

from .people import DAY, Clip, example, mean, utterances

SHOTS = 3
STEPS = (1, 2, 10)
PAIRS = 4
TRIED = 300
"""Recordings, best first, that an evasive attacker tries."""
COPY = 0.9999
SUSPICIOUS = (3, 4, 5, 6, 7)


@dataclass(slots=True)
class Attack:
    """One goal against one phrase of one owner: share lost and share of quarantined examples by number injected."""

    goal: str
    manner: str
    lost: dict[int, float] = field(default_factory=dict)
    flagged: dict[int, int] = field(default_factory=dict)
    believed: dict[int, float] = field(default_factory=dict)
    """Share lost if all of it had been taken in as if the owner had taught it: what admission is for."""


@dataclass(slots=True)
class Owner:
    """One user: attacks on her, and what became of her own honest corrections and confirmations."""

    name: str
    attacks: list[Attack] = field(default_factory=list)
    corrections: list[int] = field(default_factory=list)
    """The check that each did not pass, 0 for admitted."""
    confirmations: list[int] = field(default_factory=list)
    gain: tuple[float, float] | None = None
    """Error on the other half before and after corrections alone."""


class Target:
    """An owner with her enrolment, the adapter made of it, and the utterances that are judged."""

    def __init__(self, model: Model, own: Sequence[Clip], *, shots: int = SHOTS, voice: bool = False) -> None:
        self.model = model
        self.own = [c for c in own if c.word in model.phrases]
        self.heard = hear(model, self.own)
        seen: dict[str, int] = {}
        chosen = []
        for i, clip in enumerate(self.own):
            if seen.get(clip.word, 0) < shots and sum(c.word == clip.word for c in self.own) > shots:
                seen[clip.word] = seen.get(clip.word, 0) + 1
                chosen.append(i)
        self.enrolled = chosen
        self.rest = [i for i in range(len(self.own)) if i not in set(chosen)]
        examples = tuple(example(self.own[i], n) for n, i in enumerate(chosen))
        self.ledger = Ledger("aa" * 8, examples, voice=voice)
        self.adapter = self.learn(self.ledger, None)

    def learn(self, ledger: Ledger, active: Adapter | None) -> Adapter | None:
        """What is in use after a round: the new adapter, or the old one when the gate refuses."""
        if not ledger.examples:
            return active
        outcome = rounds.run(self.model, ledger, trainer.When(DAY), rounds.Circumstances(active=active))
        return outcome.adapter if outcome.verdict.passed else active

    def understood(self, adapter: Adapter | None, rows: Sequence[int]) -> list[str]:
        """What is heard in some of the owner's clips."""
        return gate.spoken(self.model, adapter, self.heard.take(np.asarray(rows, np.intp))) if len(rows) else []

    def lost(self, ledger: Ledger, phrase: str, rows: Sequence[int]) -> float:
        """Share of clips in which the phrase is not heard any more after a round with this ledger."""
        after = self.understood(self.learn(ledger, self.adapter), rows)
        return float(np.mean([said != phrase for said in after])) if rows else 0.0

    def with_more(self, more: Sequence[Example]) -> Ledger:
        """The ledger after these."""
        first = len(self.ledger.examples)
        added = tuple(replace(e, sequence=first + n) for n, e in enumerate(more))
        return replace(self.ledger, examples=(*self.ledger.examples, *added))


def hear(model: Model, clips: Sequence[Clip]) -> Heard:
    """Clips as examples (n, 3, ...)."""
    return model.hear(utterances(clips))


@dataclass(frozen=True, slots=True)
class Pool:
    """Recordings at the attacker's hands, with their z (n, D) and logits (n, C) under the owner's model."""

    clips: Sequence[Clip]
    z: NDArray[np.float32]
    logits: NDArray[np.float32]


def pool(model: Model, clips: Sequence[Clip]) -> Pool:
    """Everything that is speech."""
    chosen = [c for c in clips if c.label != BACKGROUND]
    heard = hear(model, chosen)
    return Pool(chosen, heard.z.mean(1), heard.logits.mean(1))


def _injected(clip: Clip, label: str, heard: str, number: int) -> Example:
    """A correction in a session of its own, five a day."""
    made = example(clip, number, "correction", label, heard)
    return replace(made, session=f"a{number:04x}", day=DAY + number // 5)


def attack(target: Target, recordings: Pool, phrase: str, other: str, goal: str, manner: str) -> Attack:  # noqa: PLR0917
    """Run one attack in all of STEPS. ``drive``: clips labelled ``other``; ``reject``: clips labelled ``phrase``."""
    model, index = target.model, list(target.model.classes)
    label, heard = (other, phrase) if goal == "drive" else (phrase, other)
    mu = model.space.prototypes[index.index(label)]
    if goal == "drive":
        mine = [i for i in target.enrolled if target.own[i].word == phrase] or target.rest
        towards = target.heard.z[mine].mean((0, 1)) - mu
    else:
        towards = model.space.prototypes[index.index(other)] - mu
    effect = (recordings.z - mu) @ towards
    if manner == "blunt":  # the evasive takes what sounds like the phrase, too: it is admitted most easily
        effect[[c.word == label for c in recordings.clips]] = -np.inf
    order = np.argsort(-effect, kind="stable")
    chosen = order[: max(STEPS)] if manner == "blunt" else _unnoticed(target, recordings, order, label, heard)
    result = Attack(goal, manner)
    rows = [i for i in target.rest if target.own[i].word == phrase]
    before = target.understood(target.adapter, rows)
    rows = [i for i, said in zip(rows, before, strict=True) if said == phrase]
    for count in STEPS:
        examples = [_injected(recordings.clips[i], label, heard, n) for n, i in enumerate(chosen[:count])]
        ledger = target.with_more(examples)
        _, verdicts = trainer.prepare(model, ledger)
        result.flagged[count] = sum(v.check in SUSPICIOUS for v in verdicts[len(target.ledger.examples) :])
        result.lost[count] = target.lost(ledger, phrase, rows)
        if manner == "blunt":
            taken_in = target.with_more([replace(e, source="enrolment") for e in examples])
            result.believed[count] = target.lost(taken_in, phrase, rows)
    return result


def _unnoticed(target: Target, recordings: Pool, order: NDArray[np.intp], label: str, heard: str) -> list[int]:
    """The first of ``order`` that admission takes, each tried after those taken before it."""
    taken: list[int] = []
    while len(taken) < max(STEPS):
        left = [int(i) for i in order[:TRIED] if i not in set(taken)]
        tried = [_injected(recordings.clips[i], label, heard, len(taken)) for i in left]
        settled = [_injected(recordings.clips[i], label, heard, n) for n, i in enumerate(taken)]
        ledger = target.with_more([*settled, *tried])
        z, logits = (
            np.concatenate([own[target.enrolled].mean(1), others[taken], others[left]])
            for own, others in ((target.heard.z, recordings.z), (target.heard.logits, recordings.logits))
        )
        judge = Admission(target.model, ledger, z, logits)
        first = len(target.ledger.examples) + len(taken)
        judge.run(first)
        found = [i for n, i in enumerate(left) if judge.check(first + n, ledger.examples[first + n]) == 0]
        if not found:
            return taken
        taken.append(found[0])
        if len(taken) == 1:  # from here on the order of trying does not matter: several at once
            taken += found[1 : max(STEPS)]
    return taken


def measure(name: str, own: Sequence[Clip], model: Model, clips: Sequence[Clip]) -> Owner:
    """Everything about one owner."""
    owner, target = Owner(name), Target(model, own)
    rng = np.random.default_rng(list(name.encode()))
    judged = list(dict.fromkeys(target.own[i].word for i in target.rest))
    recordings = pool(model, clips)
    others = [p for p in model.phrases if np.any(model.space.prototypes[list(model.classes).index(p)])]
    bare = Target(model, own, shots=0)
    for number, phrase in enumerate(rng.permutation(judged)[:PAIRS]):
        other = str(rng.choice([p for p in others if p != phrase]))
        victim = bare if number % 2 else target  # half of them never enrolled anything, so the gate has less to go by
        for goal in ("drive", "reject"):
            for manner in ("blunt", "evasive"):
                owner.attacks.append(attack(victim, recordings, str(phrase), other, goal, manner))
    _honest(owner, target)
    owner.gain = _corrected_only(model, own)
    return owner


def _honest(owner: Owner, target: Target) -> None:
    """The owner corrects everything that is misheard, and confirms the rest by going on."""
    rows = _different(target)
    heard = target.understood(target.adapter, rows)
    corrections: list[Example] = []
    confirmations: list[Example] = []
    for n, (i, said) in enumerate(zip(rows, heard, strict=True)):
        clip = target.own[i]
        source: Source = "confirmation" if said == clip.word else "correction"
        made = replace(example(clip, n, source, heard=said), session=f"b{n // 4:04x}", day=DAY + n // 8)
        (confirmations if source == "confirmation" else corrections).append(made)
    for more, into, voice in ((corrections, owner.corrections, False), (confirmations, owner.confirmations, True)):
        ledger = replace(target.with_more(more), voice=voice)
        _, verdicts = trainer.prepare(target.model, ledger)
        into += [v.check for v in verdicts[len(target.ledger.examples) :]]


def _different(target: Target) -> list[int]:
    """The utterances that are not enrolled, each once: some of the recordings are there twice."""
    unit = target.heard.z.reshape(len(target.own), -1)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    before, rows = list(target.enrolled), []
    for i in target.rest:
        if not before or (unit[before] @ unit[i]).max() < COPY:
            rows.append(i)
        before.append(i)
    return rows


def _corrected_only(model: Model, own: Sequence[Clip]) -> tuple[float, float] | None:
    """Without any enrolment: one half is used and corrected, the error counted on the other."""
    target = Target(model, own, shots=0)
    half = target.rest[::2], target.rest[1::2]
    misheard = [(i, said) for i, said in zip(half[0], target.understood(None, half[0]), strict=True)]
    wrong = [(i, said) for i, said in misheard if said != target.own[i].word]
    made = [
        replace(example(target.own[i], n, "correction", heard=said), session=f"c{n // 4:04x}", day=DAY + n // 8)
        for n, (i, said) in enumerate(wrong)
    ]
    if not half[1]:
        return None
    adapter = target.learn(target.with_more(made), None)
    before, after = (target.understood(a, half[1]) for a in (None, adapter))
    errors = [
        float(np.mean([said != target.own[i].word for i, said in zip(half[1], each, strict=True)]))
        for each in (before, after)
    ]
    return errors[0], errors[1]


def figures(owners: Sequence[Owner]) -> dict[str, float | None]:
    """``poison.*`` and ``admission.*``."""
    found: dict[str, float | None] = {}
    attacks = [a for o in owners for a in o.attacks]
    for count in STEPS:
        found[f"poison.success_{count}"] = mean([a.lost[count] for a in attacks])
        for goal in ("drive", "reject"):
            for manner in ("blunt", "evasive"):
                some = [a.lost[count] for a in attacks if (a.goal, a.manner) == (goal, manner)]
                found[f"poison.{goal}.{manner}.success_{count}"] = mean(some)
    for count in STEPS:
        some = [a.believed[count] for a in attacks if a.believed]
        found[f"poison.without_admission.success_{count}"] = mean(some)
    found["poison.detected_after_2"] = mean([float(a.flagged[2] > 0) for a in attacks if a.manner == "blunt"])
    found["poison.evasive.detected_after_2"] = mean([float(a.flagged[2] > 0) for a in attacks if a.manner == "evasive"])
    for name in ("corrections", "confirmations"):
        checks = [c for o in owners for c in getattr(o, name)]
        counted = [c for c in checks if c != 2]  # what a cap leaves out is not refused but enough
        found[f"admission.benign_{name}_accepted"] = mean([float(c == 0) for c in counted])
    both = [c for o in owners for c in (*o.corrections, *o.confirmations) if c != 2]
    found["admission.benign_accepted"] = mean([float(c == 0) for c in both])
    gains = [o.gain for o in owners if o.gain]
    found["admission.corrections_only.error_base"] = mean([b for b, _ in gains])
    found["admission.corrections_only.error"] = mean([a for _, a in gains])
    return found


def tuning(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Users on whom admission was tuned, and those who are reported."""
    ordered = sorted(names)
    return ordered[::2], ordered[1::2]
