"""Lived: finds what a running daemon would make of utterances that are kept, in a turn of their own.

Each is heard again by the stream's own ``Hearing`` with everything that counts in the household: embeddings, takes and
decoder, until an event comes or the pause behind the utterance is over. What was before it, and how long it is quiet
behind it, is not kept: its first and its last embedding, which are of the room, stand for these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.attempt import AFTER, BEFORE
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.decoder import UTTERANCE_GAP, Listening
from idiolect.listening.pipeline.hearing import Hearing, Still
from idiolect.listening.pipeline.household import TAUGHT_THRESHOLD, Household
from idiolect.listening.pipeline.weighing import PAUSE
from idiolect.values import GUEST, WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.learning.model import Heard, Model

QUIET_DB = 40.0
"""Assumed where it was not kept how clearly somebody was heard, in dB: as in a quiet room."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Lists the phrases that count in a turn of a household, besides those that the person taught."""

    limits: Mapping[str, float]
    """Threshold in a turn of each phrase and wake word of the bundle that is listened for, 0..1."""
    taught: float = TAUGHT_THRESHOLD
    always_on: Collection[str] = ()
    pause: int = PAUSE
    """Blocks (``decoder.Listening.pause``)."""
    lent: Sequence[tuple[Adapter, Collection[str]]] = ()
    """Adapters of others, and the phrases of each that everybody may say."""

    @classmethod
    def of(cls, model: Model) -> Wish:
        """Return all that a bundle has, with its own thresholds."""
        return cls(dict(model.thresholds))


@dataclass(frozen=True, slots=True)
class Utterance:
    """An utterance to be heard again, step by step.

    Args:
        embeddings: float32 (BEFORE + length + AFTER, 96).
        heard: The window that ends with each step (n, ...) after the base model, for TAIL steps more.
        clear: By how many dB it stands out from the room.
    """

    embeddings: NDArray[np.float32] = field(repr=False)
    heard: Heard = field(repr=False)
    clear: float = QUIET_DB


TAIL = WINDOW
"""Steps behind an utterance after which its windows are all of the room."""


def utterance_of(model: Model, example: Example) -> Utterance | None:
    """Return the utterance of an example; None where only its end was kept, or nobody knows how long it was."""
    if len(example.whole):
        embeddings = example.whole
    elif 0 < example.length <= WINDOW - BEFORE:
        embeddings = example.spans[0][-(BEFORE + example.length + AFTER) :]
    else:
        return None
    around = np.pad(embeddings, ((WINDOW - 1, TAIL), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, WINDOW, axis=0).transpose(0, 2, 1)
    return Utterance(embeddings, model.hear(windows), float(example.clear or QUIET_DB))


class Lived:
    """One person in one household. ``adapter`` None: with the base model alone."""

    def __init__(self, model: Model, wish: Wish, adapter: Adapter | None) -> None:
        self._household = _household(model, wish, adapter)
        self._profile = adapter.profile if adapter else GUEST
        self._room = Still(QUIET_DB)
        self._most = max(UTTERANCE_GAP, wish.pause) + 1
        listening = _listening(model, wish, self._household.taught if self._household else ())
        self._hearing = Hearing(model.head, listening, self._room)
        self._hearing.listen_for(listening, self._household)
        self._hearing.address(self._profile)

    def understands(self, said: Utterance) -> str:
        """Return the phrase that is understood, "" for none, or where two of them cannot be told apart."""
        hearing, embeddings, scores = self._hearing, said.embeddings, self._scores(said.heard)
        self._room.stands_out = said.clear
        hearing.begin_turn(embeddings[0])
        for number in range(len(embeddings) + self._most):
            active = BEFORE <= number < len(embeddings) - AFTER
            embedding = embeddings[min(number, len(embeddings) - 1)]
            event = hearing.step_scored(embedding, scores[min(number, len(scores) - 1)].copy(), active=active).detection
            if event is not None:
                return event.phrase if event.kind != "rejected" else ""
        return ""

    def _scores(self, heard: Heard) -> NDArray[np.float32]:
        household = self._household
        if household is None:
            return heard.posteriors()
        return household.posteriors(self._profile, heard.logits, household.rows(heard.z, heard.rivals))


def _household(model: Model, wish: Wish, adapter: Adapter | None) -> Household | None:
    if adapter is None:
        return None
    others = [(each, names) for each, names in wish.lent if each.profile != adapter.profile]
    shared = {each.profile: names for each, names in others}
    return Household(model.space, model.classes, [adapter, *(each for each, _ in others)], shared)


def _listening(model: Model, wish: Wish, taught: Sequence[str]) -> Listening:
    """Return the decoder's settings for a turn: which phrases it listens for, and their thresholds."""
    names = (*model.classes, *taught)
    extra = np.arange(len(names)) >= len(model.classes)
    wake = np.array([name in wish.limits and name in model.wake_words for name in names], np.bool_)
    limits = np.array([wish.limits.get(name, 1.0) for name in names], np.float32)
    limits[extra] = wish.taught
    return Listening(
        classes=names,
        wake=wake & ~extra,
        phrases=np.array([name in wish.limits for name in names], np.bool_) & ~wake | extra,
        always_on=np.array([name in wish.always_on for name in names], np.bool_) & ~extra,
        thresholds=limits,
        turn_thresholds=limits,
        pause=wish.pause,
    )
