"""What the figures mean: from posteriors over a clip to an answer, and from answers to accuracies and rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundlebuild.words import BACKGROUND, COMMANDS, DIGITS, UNKNOWN
from idiolect.pipeline.adapter import Head
from idiolect.pipeline.decoder import Decoder, Listening
from idiolect.pipeline.hearing import UNSETTLED
from idiolect.values import BLOCK, WINDOW

Array = NDArray[np.float32]
STEADY = 4
"""Steps (0.32 s) over which a clip's posteriors are averaged before the highest is taken."""
SPOKEN = 0.9
"""A clip whose speech (all that is not background) never gets above this is silence."""
UNKNOWN_SHARE = 0.7
"""Weight of "some other word" against the ten words: it collects the posteriors of many classes."""
SC12 = (*COMMANDS, UNKNOWN, BACKGROUND)


def windows(embeddings: Array) -> Array:
    """Every window that lies wholly in the presentation, oldest first, (n, 16, 96)."""
    views = np.lib.stride_tricks.sliding_window_view(embeddings, WINDOW, axis=0)[UNSETTLED - WINDOW + 1 :]
    return np.ascontiguousarray(views.transpose(0, 2, 1), np.float32)


def posteriors(head: Head, embeddings: Array) -> Array:
    """Posteriors (n, C) of the same."""
    return head.posteriors(windows(embeddings))


def steady(scores: Array, steps: int = STEADY) -> Array:
    """Mean over the last ``steps`` rows (fewer at the start)."""
    total = np.cumsum(np.concatenate([np.zeros((1, scores.shape[1])), scores]), axis=0)
    at = np.arange(1, len(scores) + 1)
    since = np.maximum(0, at - steps)
    return np.asarray((total[at] - total[since]) / (at - since)[:, None], np.float32)


def decide_sc12(scores: Array, classes: Sequence[str]) -> str:
    """The one rule by which a clip gets one of the twelve labels of the Speech Commands task.

    Posteriors are averaged over STEADY steps. If their speech never exceeds SPOKEN the clip is silence. Otherwise
    each word counts by the highest value it reaches, and "unknown" by UNKNOWN_SHARE times the highest sum of every
    class that is neither one of the ten words nor background (digits and wake words are unknown words here).
    """
    smooth = steady(scores)
    quiet = classes.index(BACKGROUND)
    if 1.0 - float(smooth[:, quiet].min()) < SPOKEN:
        return BACKGROUND
    words = [classes.index(word) for word in COMMANDS]
    other = [i for i in range(len(classes)) if i not in words and i != quiet]
    evidence = [*smooth[:, words].max(0), UNKNOWN_SHARE * float(smooth[:, other].sum(1).max())]
    return (*COMMANDS, UNKNOWN)[int(np.argmax(evidence))]


def decide_digit(scores: Array, classes: Sequence[str], *, among: Sequence[str] = DIGITS) -> str:
    """Which of ``among`` was said in a clip: the one that reaches the highest value, averaged over STEADY steps."""
    smooth = steady(scores)
    return among[int(np.argmax(smooth[:, [classes.index(word) for word in among]].max(0)))]


def wake_events(scores: Array, listening: Listening) -> list[str]:
    """Wake words that the device's own decoder reports in a clip, in order."""
    decoder = Decoder(listening)
    found = []
    for number, row in enumerate(scores):
        event = decoder.push(row, active=True, position=(UNSETTLED + 1 + number) * BLOCK)
        if event and event.kind == "wake":
            found.append(event.phrase)
    return found


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts by (said, heard)."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, labels: Sequence[str], said: Sequence[str], heard: Sequence[str]) -> Confusion:
        """From two equally long lists of labels."""
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for a, b in zip(said, heard, strict=True):
            counts[labels.index(a), labels.index(b)] += 1
        return cls(tuple(labels), counts)

    @property
    def accuracy(self) -> float | None:
        """Part of all clips on the diagonal; None without clips."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts)) / total if total else None
