"""Takes of a taught phrase: which of them are kept for aligning what is said with them, and how near it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from idiolect.pipeline.alignment import SHORTEST, Standard, cost
from idiolect.pipeline.alignment import take_of as cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.pipeline.personal import Taught

MOST = 5
"""Takes of a phrase that are aligned with: its newest. Each costs 16 frames of time in a turn, and of space."""
FEWEST = 2
"""Of one take nobody knows how it varies."""
LIMIT = 0.20
OWN = 0.5
"""A phrase may cost LIMIT and this much of what its takes cost each other, in a quiet room: halves of it cost 0.24 and
more, one in a hundred of the phrase itself costs more (``pipeline.personal.allowance`` adds to that in noise)."""


def take_of(standard: Standard, example: Example) -> NDArray[np.float32] | None:
    """The frames of an example, (frames, 96); None where its length is unknown, or it is too short."""
    if not example.length:
        return None
    frames = standard.frames(cut(example.spans[0], example.length))
    return frames if len(frames) >= SHORTEST else None


def aligned(row: Taught, takes: Sequence[NDArray[np.float32]]) -> Taught:
    """The same phrase with the newest of its ``takes``, and the limit that these give."""
    kept = tuple(stored(take) for take in takes[-MOST:])
    if len(kept) < FEWEST:
        return row
    between = [cost(a, b) for i, a in enumerate(kept) for j, b in enumerate(kept) if i != j]
    return replace(row, takes=kept, cost=LIMIT + OWN * float(np.mean(between)))


def stored(take: NDArray[np.float32]) -> NDArray[np.float32]:
    """A take as the adapter's file keeps it: in steps of a 127th of each frame's largest number."""
    steps = np.abs(take).max(-1, keepdims=True) / 127.0 + 1e-12
    whole = np.rint(take / steps)
    whole /= np.sqrt((whole * whole).sum(-1, keepdims=True))
    return np.asarray(whole, np.float32)
