"""Thresholds: from how high each phrase's score rises in clips of it and in clips of anything else.

Scores are posteriors averaged over ``SMOOTHING`` steps, as the decoder averages them; a clip's score for a phrase is
the highest it reaches. Only clips of speakers that the final figures are not taken from may be used here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from idiolect.pipeline.decoder import SMOOTHING
from idiolect.pipeline.hearing import UNSETTLED
from idiolect.values import BLOCK

from . import head
from .audio import RATE, Audio, to_int16
from .features import windows
from .head import Array
from .train import Trained, logits

LEAD = (UNSETTLED + 1) * BLOCK
MARGIN = 0.05
"""Distance kept above the highest score of other speech."""
LOWEST, HIGHEST = 0.78, 0.85
ALWAYS_LOWEST = 0.78
"""For commands that need no wake word by default: an hour of anything else must not contain them."""
OPEN_LOWEST, OPEN_HIGHEST = 0.6, 0.9
MISSED = 0.02
"""Part of the clips of a phrase that its threshold may lose at most, before that rule gives way to ``LOWEST``."""


def smoothed(posteriors: Array, steps: int = SMOOTHING) -> Array:
    """Mean over the last ``steps`` rows at every row, (n, C)."""
    total = np.cumsum(np.concatenate([np.zeros((1, posteriors.shape[1])), posteriors]), axis=0)
    at = np.arange(1, len(posteriors) + 1)
    since = np.maximum(0, at - steps)
    return np.asarray((total[at] - total[since]) / (at - since)[:, None], np.float32)


def in_a_room(audio: Audio) -> NDArray[np.int16]:
    """A clip after 2.1 s and before 0.8 s of a near-silent room, so that every window of it is whole."""
    heard = np.random.default_rng(0).standard_normal(LEAD + len(audio) + RATE * 4 // 5) * 1e-4
    heard[LEAD : LEAD + len(audio)] += audio
    return to_int16(heard.astype(np.float32))


def clip_scores(model: Trained, clips: list[Array], *, first: int = UNSETTLED) -> Array:
    """Highest smoothed posterior of every class in every clip's embeddings: (clips, C)."""
    rows = []
    for embeddings in clips:
        x = windows(embeddings.astype(np.float32), np.arange(first, len(embeddings)))
        rows.append(smoothed(head.softmax(logits(model, x))).max(0))
    return np.stack(rows)


def threshold(own: Array, other: Array, missed: float = MISSED) -> float:
    """One phrase's threshold from its scores in clips of it and in all other clips.

    As high as it can be while losing no more than ``missed`` of its own clips, but no higher than ``MARGIN`` above
    everything else heard; within LOWEST and HIGHEST.
    """
    above = float(other.max(initial=0.0)) + MARGIN
    kept = float(np.quantile(own, missed)) if len(own) else HIGHEST
    middle = 0.5 * (above + kept) if kept > above else above
    return float(np.clip(middle, LOWEST, HIGHEST))


def open_room(other: Array, turn: float) -> float:
    """A command's threshold where anybody may be talking to anybody: one other word in 500 may reach it.

    Never below ``turn``, its threshold in a turn, and within OPEN_LOWEST and OPEN_HIGHEST.
    """
    above = float(np.quantile(other, 0.998)) + MARGIN if len(other) else OPEN_HIGHEST
    return max(turn, float(np.clip(above, OPEN_LOWEST, OPEN_HIGHEST)))


def balanced(own: Array, other: Array) -> float:
    """A command's threshold in a turn: where misses and ten times the false accepts, as parts of clips, sum to least.

    In a turn somebody is known to speak to the device: one false accept in a hundred other words weighs as much as a
    tenth of the command's own clips. Of equally good thresholds the middle one is taken.
    """
    grid = np.arange(0.3, 0.801, 0.01)
    cost = np.array([np.mean(own < t) + 10.0 * np.mean(other >= t) for t in grid])
    best = grid[cost <= cost.min() + 1e-9]
    return float(best[len(best) // 2])
