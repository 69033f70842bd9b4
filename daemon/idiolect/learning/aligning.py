"""Takes of a taught phrase: which of them are kept for aligning what is said with them, and how near it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from idiolect.pipeline.alignment import SHORTEST, Standard, costs, unit
from idiolect.pipeline.alignment import take_of as cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.ledger import Example
    from idiolect.pipeline.personal import Taught

MOST = 3
"""Takes of a phrase that are aligned with: its newest. Each costs up to 16 frames of time in a turn, and of space."""
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
    frames = [unit(take) for take in kept]
    between = [float(np.delete(costs([[f] for f in frames], heard), i).mean()) for i, heard in enumerate(frames)]
    return replace(row, takes=kept, cost=LIMIT + OWN * float(np.mean(between)))


def stored(take: NDArray[np.float32]) -> NDArray[np.int8]:
    """A take as it is kept: each frame in steps of a 127th of its largest number, as its direction is what counts."""
    whole: NDArray[np.int8] = np.rint(take * (127.0 / np.abs(take).max(-1, keepdims=True))).astype(np.int8)
    return whole
