"""Lived: what a running daemon would make of utterances that are kept, in a turn of their own.

Each is heard again by the stream's own ``Hearing`` with everything that counts in the household: embeddings, takes and
decoder, until an event comes or the pause behind the utterance is over. What was before it, and how long it is quiet
behind it, is not kept: its first and its last embedding, which are of the room, stand for these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning.attempt import AFTER, BEFORE
from idiolect.pipeline.decoder import UTTERANCE_GAP, Listening
from idiolect.pipeline.hearing import Hearing, Still
from idiolect.pipeline.personal import TAUGHT_THRESHOLD, Adapter, Household
from idiolect.pipeline.weighing import PAUSE
from idiolect.values import BLOCK, GUEST, WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.learning.model import Model

QUIET_DB = 40.0
"""How clearly somebody was heard where that was not kept: as in a quiet room."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What counts in a turn of a household, besides what the person taught."""

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
        """All that a bundle has, as it comes."""
        return cls(dict(model.thresholds))


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is heard again.

    Args:
        embeddings: float32 (BEFORE + length + AFTER, 96).
        clear: By how many dB it stands out from the room.
    """

    embeddings: NDArray[np.float32] = field(repr=False)
    clear: float = QUIET_DB


def utterance_of(example: Example) -> Utterance | None:
    """The utterance of an example; None where only its end was kept, or nobody knows how long it was."""
    clear = float(example.clear or QUIET_DB)
    if len(example.whole):
        return Utterance(example.whole, clear)
    if 0 < example.length <= WINDOW - BEFORE:
        return Utterance(example.spans[0][-(BEFORE + example.length + AFTER) :], clear)
    return None


class Lived:
    """One person in one household. ``adapter`` None: with the base model alone."""

    def __init__(self, model: Model, wish: Wish, adapter: Adapter | None) -> None:
        household = _household(model, wish, adapter)
        self._room = Still(QUIET_DB)
        self._wish = wish
        self._hearing = Hearing(model.head, _listening(model, wish, ()), self._room)
        if household is not None:
            self._hearing.listen_for(_listening(model, wish, household.taught), household)
        self._hearing.address(adapter.profile if adapter else GUEST)

    def understands(self, said: Utterance) -> str:
        """The phrase that is understood, "" for none, or where two of them cannot be told apart."""
        hearing, embeddings = self._hearing, said.embeddings
        self._room.stands_out = said.clear
        hearing.begin_turn(embeddings[0])
        quiet = max(UTTERANCE_GAP, self._wish.pause) + 1
        for number in range(len(embeddings) + quiet):
            active = BEFORE <= number < len(embeddings) - AFTER
            hearing.position += BLOCK
            event = hearing.step(embeddings[min(number, len(embeddings) - 1)], active=active).detection
            if event is not None:
                return event.phrase if event.kind != "rejected" else ""
        return ""


def _household(model: Model, wish: Wish, adapter: Adapter | None) -> Household | None:
    if adapter is None:
        return None
    others = [(each, names) for each, names in wish.lent if each.profile != adapter.profile]
    shared = {each.profile: names for each, names in others}
    return Household(model.space, model.classes, [adapter, *(each for each, _ in others)], shared)


def _listening(model: Model, wish: Wish, taught: Sequence[str]) -> Listening:
    """What the decoder listens for in a turn."""
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
