"""The personal space: where one person's few examples can be compared with what anybody says.

A window (16, 96) is standardised, flattened in order of time, projected to its principal components, whitened by the
covariance *within* words (so that what differs between speakers and takes counts for little) and scaled to length 1.
There the mean of a handful of examples is a usable detector (cosine), and the mean of their residuals from a phrase's
prototype says how one person differs from everybody. All statistics are the bundle's and never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from idiolect.values import EMBEDDING, WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

OFFSETS = (-1, 0, 1)
"""Steps around the end of an utterance whose windows make an example: an end is not known better than that."""
SPAN = WINDOW + len(OFFSETS) - 1
"""Embeddings that an example keeps."""
NEAREST = 3
RIVAL = 0.6
NAMES = ("space_projection", "space_offset", "space_prototypes", "space_cohort")


@dataclass(frozen=True, slots=True)
class Space:
    """The personal space's arrays, float32. D = dimensions, C = classes of the head, N = windows of the cohort."""

    projection: NDArray[np.float32]
    """(1536, D): standardisation, components and whitening in one."""
    offset: NDArray[np.float32]
    """(D,): added to each dimension after the projection."""
    prototypes: NDArray[np.float32]
    """(C, D): mean of each class; a zero row for a class without one."""
    cohort: NDArray[np.float32]
    """(N, D): windows of other people's words and sentences, of length 1; a bundle may keep them in integers."""

    known: NDArray[np.float32] = field(init=False)
    """(C, D): the prototypes, of length 1."""
    absent: NDArray[np.float32] = field(init=False)
    """(C,): -1 for a class without one."""

    def __post_init__(self) -> None:
        length = np.linalg.norm(self.prototypes, axis=1, keepdims=True)
        object.__setattr__(self, "known", self.prototypes / np.maximum(length, 1e-9))
        object.__setattr__(self, "absent", np.where(length[:, 0] > 0.0, 0.0, -1.0).astype(np.float32))

    @classmethod
    def from_arrays(cls, classes: int, arrays: Mapping[str, NDArray[Any]]) -> Space | None:
        """Return the space of a bundle, or None when it ships none; ``ValueError`` names the array that is wrong."""
        if NAMES[0] not in arrays:
            return None
        taken = {}
        for name in NAMES:
            if name not in arrays:
                raise ValueError(f"array {name} is missing")
            taken[name.removeprefix("space_")] = np.ascontiguousarray(arrays[name], np.float32)
            if not np.isfinite(taken[name.removeprefix("space_")]).all():
                raise ValueError(f"array {name} holds numbers that are not finite")
        size = taken["offset"].size
        shapes = {"projection": (WINDOW * EMBEDDING, size), "offset": (size,), "prototypes": (classes, size)}
        for name, shape in shapes.items():
            if taken[name].shape != shape:
                raise ValueError(f"array space_{name} has shape {taken[name].shape}, expected {shape}")
        if taken["cohort"].ndim != 2 or taken["cohort"].shape[1] != size or not len(taken["cohort"]):
            raise ValueError(f"array space_cohort has shape {taken['cohort'].shape}, expected (n, {size})")
        if arrays["space_cohort"].dtype.kind == "i":  # in steps of any size: what is known is their length
            taken["cohort"] /= np.linalg.norm(taken["cohort"], axis=1, keepdims=True) + np.float32(1e-9)
        return cls(**taken)

    @property
    def size(self) -> int:
        """Return D, the number of dimensions."""
        return self.offset.size

    def rival(self, z: NDArray[np.float32], *, itself: bool = False) -> NDArray[np.float32]:
        """Return how near z (..., D) lies to anything known: the nearest prototype, or NEAREST windows of the cohort.

        (..., C + 1): column c leaves the prototype of class c out, the last one none. What is near to everything, or
        plainly something else, is not the phrase that somebody taught: taking RIVAL of this from a phrase's score (in
        speaker verification: adaptive score normalization, Matejka et al. 2017) finds 5 points more of short words at
        1 % false accepts. With ``itself`` z are the cohort's own windows.
        """
        alike = z @ self.cohort.T
        if itself:
            np.fill_diagonal(alike, -1.0)
        count = min(NEAREST, alike.shape[-1])
        near: NDArray[np.float32] = np.partition(alike, -count, axis=-1)[..., -count:].mean(-1)
        known = z @ self.known.T + self.absent
        best = np.partition(known, -2, axis=-1)[..., -2:]
        found = np.empty((*z.shape[:-1], known.shape[-1] + 1), np.float32)
        found[..., :-1] = np.where(known >= best[..., 1:], best[..., :1], best[..., 1:])
        found[..., -1] = best[..., 1]
        return np.maximum(found, near[..., None])

    def features(self, windows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return z (..., D) of length 1 for windows (..., 16, 96)."""
        flat = np.asarray(windows, np.float32).reshape(*windows.shape[:-2], WINDOW * EMBEDDING)
        z: NDArray[np.float32] = flat @ self.projection
        z += self.offset
        z /= np.sqrt(np.sum(z * z, axis=-1, keepdims=True)) + np.float32(1e-9)
        return z


def as_span(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one window, (16, 96), as an example keeps it, (18, 96), where nothing is known of what was around it."""
    return np.concatenate([window[:1], window, window[-1:]])


def offset_windows(spans: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the windows of examples, (..., 18, 96) -> (..., 3, 16, 96)."""
    shifted = [spans[..., i : i + WINDOW, :] for i in range(len(OFFSETS))]
    return np.stack(shifted, axis=-3).astype(np.float32, copy=False)
