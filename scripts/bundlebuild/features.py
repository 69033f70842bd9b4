"""From streams to training windows: the device's own front-end and int8 encoder, and a label for every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idiolect.host import quiet
from idiolect.pipeline.encoder import Encoder
from idiolect.pipeline.frontend import Frontend
from idiolect.pipeline.hearing import LONGEST, resample_window
from idiolect.values import BLOCK, EMBEDDING, WINDOW

from .augment import Placed

IGNORE = -1
EARLY, LATE, FADE = 640, 5_440, 10_000
"""Samples around a phrase's end: a step whose newest sample lies from EARLY before to LATE after it must say the
phrase (the event is due 250 ms after the end); from LATE to FADE it may; later the phrase is over."""
ONSET = 4_000
"""Samples after which running speech must be called unknown; a single unknown word is, like a phrase, at its end:
before that it might still become one."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Embeddings of streams laid end to end, float16 (n, 96), and per step a class (or IGNORE) and a weight.

    Each stream starts with WINDOW - 1 steps of IGNORE, so that no window reaches into the stream before it.
    """

    embeddings: NDArray[np.floating]
    labels: NDArray[np.int16]
    weights: NDArray[np.float32]

    @staticmethod
    def join(parts: Sequence[Labelled]) -> Labelled:
        """One after the other."""
        return Labelled(
            np.concatenate([p.embeddings for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.weights for p in parts]),
        )


class Embedder:
    """Front-end and encoder of one process."""

    def __init__(self, model: bytes) -> None:
        with quiet.without():
            self._frontend, self._encoder = Frontend(), Encoder(model)

    def __call__(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """A fresh stream's embeddings, (len(samples) // 1280, 96)."""
        self._frontend.reset()
        self._encoder.reset()
        count = len(samples) // BLOCK
        out = np.empty((count, EMBEDDING), np.float32)
        for step in range(count):
            out[step] = self._encoder.step(self._frontend.frames(samples[step * BLOCK : (step + 1) * BLOCK]))
        return out


def label_steps(steps: int, places: Sequence[Placed], background: int) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """What the head should say at each step of a stream: class or IGNORE, and weight."""
    newest = (np.arange(steps) + 1) * BLOCK
    labels = np.full(steps, background, np.int16)
    weights = np.ones(steps, np.float32)
    speech = [place for place in places if place.label != background]
    for place in speech:
        labels[(newest > place.start) & (newest < place.end + FADE)] = IGNORE
    for place in reversed(speech):  # where two touch, the earlier phrase is still to be said
        spoken = (newest >= place.end - EARLY) & (newest <= place.end + LATE)
        if place.running:
            spoken |= (newest >= place.start + ONSET) & (newest <= place.end)
        labels[spoken] = place.label
        weights[spoken] = 0.5 if place.running else 1.0
    labels[: WINDOW - 1] = IGNORE
    return labels, weights


def long_windows(embeddings: NDArray[np.float32], places: Sequence[Placed]) -> list[Labelled]:
    """Utterances longer than a window (and up to 4 s), each resampled in time to one as the device does it.

    Each comes as a stream of sixteen steps of which only the last is labelled.
    """
    found = []
    for place in places:
        first, last = place.start // BLOCK, place.end // BLOCK + 1
        if not WINDOW < last - first <= LONGEST or last > len(embeddings):
            continue
        labels = np.full(WINDOW, IGNORE, np.int16)
        labels[-1] = place.label
        window = resample_window(embeddings[first:last]).astype(np.float16)
        found.append(Labelled(window, labels, np.ones(WINDOW, np.float32)))
    return found


def windows(embeddings: NDArray[np.floating], newest: NDArray[np.int64]) -> NDArray[np.float32]:
    """The windows that end at these steps, (n, 16, 96)."""
    found: NDArray[np.float32] = embeddings[newest[:, None] + np.arange(1 - WINDOW, 1)]
    return found
