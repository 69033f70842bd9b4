"""The base model: from a window of embeddings to the posterior of every class.

The base head is a small network: a convolution over three neighbouring embeddings, one column per position of the
window (the order in time is kept), a projection to whitened features z, and one linear score per class. The class
scores are one matrix product; a profile's shifted prototypes and taught phrases are further rows of that matrix,
which is where personalization enters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.pipeline.household import Household, softmax
from idiolect.values import EMBEDDING, GUEST, WINDOW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TAPS = 3
"""Embeddings that the convolution spans."""
COLUMNS = WINDOW - TAPS + 1
"""Positions of the convolution inside a window: no column looks outside it."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Head:
    """The base head's arrays, float32. H = hidden width, Z = features, C = classes."""

    classes: tuple[str, ...]
    convolution: Array
    """(3 * 96, H): the oldest embedding's rows first; the standardisation of embeddings is folded in."""
    convolution_bias: Array
    """(H,): added to each hidden unit."""
    projection: Array
    """(14 * H, Z): rows in order of time."""
    projection_bias: Array
    """(Z,): added to each feature."""
    scores: Array
    """(Z, C): the linear score of each class."""
    scores_bias: Array
    """(C,): added to each class's score."""

    @classmethod
    def from_arrays(cls, classes: tuple[str, ...], arrays: Mapping[str, NDArray[np.floating]]) -> Head:
        """Check shapes and take the arrays in, as float32; ValueError names the array that does not fit."""
        hidden, features = arrays["convolution_bias"].size, arrays["projection_bias"].size
        shapes = {
            "convolution": (TAPS * EMBEDDING, hidden),
            "convolution_bias": (hidden,),
            "projection": (COLUMNS * hidden, features),
            "projection_bias": (features,),
            "scores": (features, len(classes)),
            "scores_bias": (len(classes),),
        }
        taken = {}
        for name, shape in shapes.items():
            array = np.ascontiguousarray(arrays[name], np.float32)
            if array.shape != shape:
                raise ValueError(f"array {name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"array {name} holds numbers that are not finite")
            taken[name] = array
        return cls(classes=classes, **taken)

    def features(self, windows: Array) -> Array:
        """Return z of a batch of windows, (n, 16, 96) -> (n, Z)."""
        columns = np.lib.stride_tricks.sliding_window_view(windows, TAPS, axis=1)  # (n, 14, 96, 3)
        taps = columns.transpose(0, 1, 3, 2).reshape(len(windows), COLUMNS, -1)
        hidden: Array = taps @ self.convolution
        hidden += self.convolution_bias
        np.maximum(hidden, 0.0, out=hidden)
        z: Array = hidden.reshape(len(windows), -1) @ self.projection + self.projection_bias
        return z

    def logits(self, windows: Array) -> Array:
        """Return class scores of a batch of windows, (n, 16, 96) -> (n, C)."""
        scores: Array = self.features(windows) @ self.scores + self.scores_bias
        return scores

    def posteriors(self, windows: Array) -> Array:
        """Return posteriors of a batch of windows, (n, 16, 96) -> (n, C); each row sums to 1."""
        return softmax(self.logits(windows))


SUSPECTED = 0.1
"""Posterior from which on the head's wake word may be the person's way of saying it."""


class Scorer:
    """Head and household on a stream: each embedding costs one column, the rest of the window is remembered.

    Rings are written twice, a window's length apart, so that the newest window is always one contiguous view.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.household: Household | None = None
        self.profile = GUEST
        self.also: str | None = None
        """Another profile that is heard beside it; see ``Hearing._recognise``."""
        self.attentive = True
        """True when any phrase may come now. Otherwise only suspects can, and a person's own rows, which cost more than
        all of the head, are looked at where the head itself suspects one."""
        self.suspects: Sequence[int] = ()
        """Classes that are listened for at any time: wake words, and what is always on."""
        width = head.convolution_bias.size
        self._embeddings = np.zeros((2 * WINDOW, EMBEDDING), np.float32)
        self._columns = np.zeros((2 * COLUMNS, width), np.float32)
        self._steps = 0

    def reset(self) -> None:
        """Forget the window; it refills with what follows."""
        self._embeddings[:] = 0.0
        self._columns[:] = 0.0
        self._steps = 0

    def push(self, embedding: Array) -> Array:
        """Take the next embedding, (96,); return the posteriors of the window that ends with it, (classes,)."""
        head = self.head
        slot = self._steps % WINDOW
        self._embeddings[slot] = self._embeddings[slot + WINDOW] = embedding
        taps = self._embeddings[slot + 1 + WINDOW - TAPS : slot + 1 + WINDOW].reshape(-1)
        column: Array = taps @ head.convolution
        column += head.convolution_bias
        np.maximum(column, 0.0, out=column)
        place = self._steps % COLUMNS
        self._columns[place] = self._columns[place + COLUMNS] = column
        z: Array = self._columns[place + 1 : place + 1 + COLUMNS].reshape(-1) @ head.projection
        z += head.projection_bias
        logits: Array = z @ head.scores
        logits += head.scores_bias
        self._steps += 1
        household = self.household
        if household is None:
            return softmax(logits)
        if not self.attentive or self._plain(household):
            heard = household.as_guest(logits)
            if self.profile == GUEST or not any(heard.item(i) >= SUSPECTED for i in self.suspects):
                return heard
        return self._heard(household, logits, self._newest(slot))

    def _plain(self, household: Household) -> bool:
        """Return whether nothing but the base head is heard: for a guest, where nobody lets everybody say a phrase."""
        return self.profile == GUEST and not household.shared

    def _heard(self, household: Household, logits: Array, window: Array) -> Array:
        """Return posteriors of a window for whoever is heard, where more than the base head is."""
        rows = household.rows(household.space.features(window))
        if self.also is None:
            return household.posteriors(self.profile, logits, rows)
        return household.of_both(self.profile, self.also, logits, rows)

    def _newest(self, slot: int) -> Array:
        window: Array = self._embeddings[slot + 1 : slot + 1 + WINDOW]
        return window

    def who(self, phrase: str) -> str:
        """Return whose voice said ``phrase`` in the newest window; GUEST when that is not clear."""
        if self.household is None or not self._steps:
            return GUEST
        z = self.household.space.features(self._newest((self._steps - 1) % WINDOW))
        return self.household.who(z, phrase)[0]

    def window(self, window: Array) -> Array:
        """Return posteriors of one window that is not the stream's, (16, 96) -> (classes,)."""
        logits, household = self.head.logits(window[None])[0], self.household
        if household is None:
            return softmax(logits)
        if self._plain(household):
            return household.as_guest(logits)
        return self._heard(household, logits, window)
