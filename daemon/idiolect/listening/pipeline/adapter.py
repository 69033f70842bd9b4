"""One person's adapter as the stream hears with it: shifts of base phrases, and phrases of their own.

Only values are in here. ``learning.adapter_file`` reads them from a file, ``household`` hears with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.alignment import Standard

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Shift:
    """One phrase as this person says it: m_c, (D,) float32, and the examples behind it (sum of weights)."""

    vector: NDArray[np.float32]
    evidence: float
    floor: float = 0.0
    """The score that a row has to exceed, before the gain: the one that other people's other words reach."""


@dataclass(frozen=True, slots=True)
class Taught:
    """A phrase that the person taught, or a base phrase said their own way (then it has that phrase's name)."""

    name: str
    direction: NDArray[np.float32]
    threshold: float
    """Score at which it counts as said: cosine less what its rivals take."""
    evidence: float = 0.0
    takes: tuple[NDArray[np.int8], ...] = ()
    """Takes that what is said is aligned with, each (frames, 96), the largest number of a frame 127; none where their
    lengths are unknown."""
    cost: float = 0.0
    """Cost of an alignment (see ``alignment``) up to which it counts as said."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One person's delta beside the base model. ``number`` counts the versions of a profile from 1."""

    profile: str
    number: int = 0
    shifts: Mapping[str, Shift] = field(default_factory=dict)
    taught: tuple[Taught, ...] = ()
    raises: Mapping[str, float] = field(default_factory=dict)
    """Log-odds by which a phrase's threshold is raised for this person; never below 0."""
    prior: Mapping[str, float] = field(default_factory=dict)
    """Log prior by phrase, within +-PRIOR_SPAN."""
    gain: float = 0.0
    voice: NDArray[np.float32] | None = None
    """(D,) of length 1: the direction in which this person differs, with the consent voice_match only."""
    standard: Standard | None = None
    """The measures by which embeddings are compared with takes; None where there are no takes."""
