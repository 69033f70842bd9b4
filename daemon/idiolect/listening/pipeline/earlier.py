"""Runs an earlier encoder beside the stream's own, for phrases that were taught with it and by nobody anew.

It gets the very frames that the stream's own encoder gets, at the same steps: the gate, its replays, gaps and naps hold
for both. Scores of those phrases come out, and stand beside all other scores in front of the one decoder: so an
utterance has one event, and a phrase one way to be spoken in a turn, whichever model heard it. Everything else is the
stream's own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.head import Scorer
from idiolect.values import GUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from idiolect.listening.pipeline.encoder import Embedder
    from idiolect.listening.pipeline.head import Head
    from idiolect.listening.pipeline.household import Household


@dataclass(frozen=True, slots=True)
class EarlierModel:
    """An earlier model at work, and for whom. ``encoder`` belongs to one stream; ``household`` is of its space."""

    encoder: Embedder
    head: Head
    household: Household

    @property
    def phrases(self) -> tuple[str, ...]:
        """Return the phrases that are listened for with it."""
        return self.household.taught

    def number(self, profile: str, phrase: str) -> int:
        """Return the version of the adapter by which ``profile`` is heard with it to say ``phrase``, 0 for none."""
        adapter = self.household.adapters.get(profile)
        return adapter.number if adapter and any(taught.name == phrase for taught in adapter.taught) else 0


class Beside:
    """One stream through an earlier model."""

    def __init__(self, carried: EarlierModel, *, keep: int, settle: int) -> None:
        """Join a stream with this model.

        Args:
            keep: embeddings that are remembered.
            settle: steps after joining in which nothing is heard.
        """
        self._encoder = carried.encoder
        self._scorer = Scorer(carried.head)
        self._embeddings: deque[NDArray[np.float32]] = deque(maxlen=keep)
        self.reset()
        self._unsettled = settle
        self.carried = carried

    def serves(self, carried: EarlierModel) -> bool:
        """Return whether this stream can go on for ``carried``, the encoder being the same."""
        return carried.encoder is self._encoder

    @property
    def carried(self) -> EarlierModel:
        """Return the model with which it listens, and for whom."""
        return self._carried

    @carried.setter
    def carried(self, carried: EarlierModel) -> None:
        self._carried = carried
        self._scorer.household = carried.household
        base = len(carried.head.classes)
        self._taught = slice(base, base + len(carried.phrases))

    def reset(self) -> None:
        """Forget all audio that it was given."""
        self._encoder.reset()
        self._scorer.reset()
        self._embeddings.clear()
        self._unsettled = 0

    def encode(self, frames: NDArray[np.float32]) -> None:
        """Take one block's features, (8, 32)."""
        self._embeddings.append(self._encoder.step(frames))
        self._unsettled = max(0, self._unsettled - 1)

    def scores(self, profile: str, also: str | None = None, *, attentive: bool) -> NDArray[np.float32]:
        """Return how surely ``profile``, or ``also``, just said each of the phrases, (phrases,).

        All are 0 while none may come. To be called once a step.
        """
        known = [each for each in (profile, also) if each in self._carried.household.adapters]
        self._scorer.profile = known[0] if known else GUEST
        self._scorer.also = known[1] if len(known) > 1 else None
        self._scorer.attentive = attentive
        scores = self._scorer.push(self._embeddings[-1])[self._taught]
        return np.zeros_like(scores) if self._unsettled else scores

    def whole(
        self, length: int, newest: int, resample: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> NDArray[np.float32] | None:
        """Return the phrases' scores for an utterance resampled to one window; None without so many embeddings.

        Args:
            length: embeddings of the utterance.
            newest: embeddings that came after it.
        """
        every = list(self._embeddings)
        if len(every) < length + newest or self._unsettled:
            return None
        spoken = np.array(every[len(every) - newest - length : len(every) - newest], np.float32)
        return self._scorer.window(resample(spoken))[self._taught]
