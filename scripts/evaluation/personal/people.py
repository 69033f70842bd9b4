"""The recordings as people who use the device: who said what, embedded, the utterance's span and the whole clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundlebuild import corpus, space
from bundlebuild.words import COMMANDS, DIGITS
from evaluation.embed import Heard
from evaluation.tasks import decide_digit, decide_sc12, windows
from idiolect.learning import gate, trainer
from idiolect.learning import round as rounds
from idiolect.learning.ledger import Example, Ledger, Source
from idiolect.learning.model import Heard as Scored
from idiolect.learning.model import Model
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.space import offset_windows
from idiolect.values import EMBEDDING, WINDOW

DAY = 20_000
HEAVY = 30
"""Clips of a speaker of Speech Commands from which on she is a person to adapt to."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance: the 20 embeddings around its end, and all windows of its presentation by condition."""

    heard: Heard
    span: NDArray[np.float32]

    @property
    def word(self) -> str:
        """What was said: the folder's name, a digit's spelled out."""
        return self.heard.clip.label if self.heard.clip.source == "digits" else self.heard.clip.path.parent.name

    @property
    def label(self) -> str:
        """The head's class."""
        return self.heard.clip.label

    @property
    def speaker(self) -> str:
        """Who said it."""
        return self.heard.clip.speaker


def persons(recordings: Iterable[corpus.Clip]) -> frozenset[str]:
    """Speakers with enough clips to be adapted to and tested on: all of the digits, HEAVY clips elsewhere."""
    count = Counter(c.speaker for c in recordings if c.source == "speech_commands")
    heavy = {name for name, clips in count.items() if clips >= HEAVY}
    return frozenset(heavy | {c.speaker for c in recordings if c.source == "digits"})


def clips(heard: Sequence[Heard]) -> list[Clip]:
    """Every clip that is one utterance."""
    return [Clip(h, space.span_of(h.embeddings["clean"], h.end)) for h in heard if not h.clip.running]


def spoken(chosen: Sequence[Clip], sentences: Sequence[Heard] = ()) -> space.Spoken:
    """The same as material for training, and sentences with it."""
    running = [_passing(h, 3 * space.PASSING) for h in sentences]
    return space.Spoken(
        np.stack([c.span for c in chosen]),
        np.stack([_passing(c.heard, space.PASSING) for c in chosen]),
        np.array([c.word for c in chosen]),
        np.array([c.label for c in chosen]),
        np.array([c.speaker for c in chosen]),
        np.concatenate(running) if running else np.zeros((0, WINDOW, EMBEDDING), np.float32),
    )


def _passing(heard: Heard, count: int) -> NDArray[np.float32]:
    return space.passing(heard.embeddings["clean"], heard.end, count, heard.digest)


def sentences(heard: Sequence[Heard]) -> tuple[list[Heard], list[Heard]]:
    """Running speech in two halves, by content: the first to set phrases apart from, the second to count accepts in."""
    running = [h for h in heard if h.clip.running]
    return [h for h in running if h.digest[0] % 2 == 0], [h for h in running if h.digest[0] % 2]


def example(clip: Clip, number: int, source: Source = "enrolment", phrase: str = "", heard: str = "") -> Example:
    """A clip as an example in a ledger."""
    session = f"{number // 5:04x}"
    return Example(number, phrase or clip.word, source, session, DAY, "00" * 32, clip.span[None, 1:-1], heard)


def enrolled(chosen: Sequence[Clip], profile: str = "aa" * 8) -> Ledger:
    """A ledger of enrolments."""
    return Ledger(profile, tuple(example(clip, i) for i, clip in enumerate(chosen)))


def learn(model: Model, ledger: Ledger) -> tuple[Adapter | None, rounds.Outcome]:
    """The adapter after the gate, None for the base model."""
    outcome = rounds.run(model, ledger, trainer.When(DAY))
    return (outcome.adapter if outcome.verdict.passed else None), outcome


class Stream:
    """The whole presentation of one clip through a model."""

    def __init__(self, model: Model, embeddings: NDArray[np.float32]) -> None:
        self.model = model
        self.scored: Scored = model.hear(windows(embeddings))

    def posteriors(self, adapter: Adapter | None) -> NDArray[np.float32]:
        """(n, C) base, or (n, C + taught) with an adapter."""
        return self.scored.posteriors() if adapter is None else trainer.adapted(self.model, adapter, self.scored)

    def decide(self, adapter: Adapter | None, words: Sequence[str]) -> str:
        """What was said, by the same rules as the base figures'."""
        scores = self.posteriors(adapter)[:, : len(self.model.classes)]
        if words is DIGITS:
            return decide_digit(scores, self.model.classes)
        return decide_sc12(scores, self.model.classes)


def utterances(chosen: Sequence[Clip]) -> NDArray[np.float32]:
    """The windows around the ends of clips, as the device learns from them, (n, 3, 16, 96)."""
    return offset_windows(np.stack([c.span[1:-1] for c in chosen]))


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return float(np.mean(values)) if len(values) else None


def words_of(source: str) -> Sequence[str]:
    """The closed set of a source."""
    return DIGITS if source == "digits" else COMMANDS


def names(model: Model, adapter: Adapter) -> tuple[str, ...]:
    """Columns of an adapted stream."""
    return gate.names_of(model, adapter)
