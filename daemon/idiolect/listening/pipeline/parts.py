"""Tells whether each part of a phrase was said, or only most of it.

Goes in: takes of a phrase, and the frames that were heard. Comes out: by how much the worst part stands out.

"volume up" costs little against "volume down", for half of it is the same. Noise, pace and another day's voice raise
the cost of all parts alike; another word raises that of one. So what is looked at is by how much the worst part costs
more than the whole, less what it costs in the person's own takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.alignment import NEVER, PENALTY, step

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS, PART = 12, 4
"""A phrase has so many points, and a part of it so many."""
OWN = 0.5
"""Share of a part's cost in the person's own takes that is taken off before it is judged."""


def profile(take: NDArray[np.float32], heard: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what each of PARTS points of a take (frames, 96) costs in its best match in what was heard, (n, 96)."""
    costs = 1.0 - heard @ take.T
    matches = np.full((len(costs) + 2, len(take)), NEVER, np.float32)  # two rows before the first embedding
    for row, now in enumerate(costs, 2):
        matches[row] = step(matches[row - 1], matches[row - 2], now)
    row, frame = 2 + int(matches[2:, -1].argmin()), len(take) - 1
    along = np.zeros(len(take), np.float32)
    along[frame] = costs[row - 2, frame]
    while frame > 0 and row > 2:
        direct, slower = matches[row - 1, frame - 1], matches[row - 2, frame - 1] + PENALTY
        both = matches[row - 1, frame - 2] + costs[row - 2, frame - 1] + PENALTY if frame > 1 else NEVER
        if both < min(direct, slower):
            along[frame - 1] = costs[row - 2, frame - 1]
            row, frame = row - 1, frame - 2
        else:
            row, frame = row - (1 if direct <= slower else 2), frame - 1
        along[frame] = costs[max(row - 2, 0), frame]
    places = np.linspace(0, len(take) - 1, PARTS)
    return np.interp(places, np.arange(len(take)), along).astype(np.float32)


def of_takes(takes: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what each point costs when one of these takes is heard as another, (PARTS,); 0 of a single one."""
    pairs = [profile(take, heard) for take in takes for heard in takes if heard is not take]
    return np.mean(pairs, axis=0, dtype=np.float32) if pairs else np.zeros(PARTS, np.float32)


def unevenness(takes: Sequence[NDArray[np.float32]], own: NDArray[np.float32], heard: NDArray[np.float32]) -> float:
    """Return by how much the worst part of a phrase costs more than all of it, in what was heard, (n, 96).

    ``own`` is ``of_takes``.
    """
    points = np.mean([profile(take, heard) for take in takes], axis=0) - OWN * own
    parts = np.convolve(points, np.full(PART, 1.0 / PART), "valid")
    return float(parts.max() - points.mean())
