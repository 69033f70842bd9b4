"""The base model in the form in which learning uses it: a bundle's head, space, thresholds and guard set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from idiolect.listening.pipeline.alignment import Standard
from idiolect.listening.pipeline.household import softmax
from idiolect.listening.pipeline.space import offset_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.listening.pipeline.head import Head
    from idiolect.listening.pipeline.space import Space


@dataclass(frozen=True)
class Model:
    """The base that never changes. ``digest`` is the bundle's, ``thresholds`` those of a turn, by phrase."""

    digest: str
    head: Head
    space: Space
    wake_words: tuple[str, ...]
    thresholds: Mapping[str, float]
    guard_stored: NDArray[np.int8]
    """(n, 16, 96) of other people; as numbers they are four times as large, and wanted by the worker only"""
    guard_scale: float
    guard_labels: tuple[str, ...]
    guard_strata: Mapping[str, tuple[str, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the head's classes, in order."""
        return self.head.classes

    @property
    def phrases(self) -> tuple[str, ...]:
        """Return the classes that one can say on purpose."""
        return tuple(name for name in self.classes if name in self.thresholds)

    @cached_property
    def limits(self) -> NDArray[np.float32]:
        """Return the threshold of every class, 1 for those that are no phrase."""
        return np.array([self.thresholds.get(name, 1.0) for name in self.classes], np.float32)

    @property
    def guard_windows(self) -> NDArray[np.float32]:
        """Return the guard set's windows, (n, 16, 96), made anew each time."""
        return self.guard_stored.astype(np.float32) * np.float32(self.guard_scale)

    @cached_property
    def standard(self) -> Standard:
        """Return the standard by which embeddings are compared with takes: as they are spread in the guard set."""
        return Standard.of(self.guard_windows)

    @cached_property
    def guard_frames(self) -> NDArray[np.float32]:
        """Return the guard set's embeddings as they are aligned with takes, (n, 16, 96)."""
        return self.standard.frames(self.guard_windows)

    @cached_property
    def guard(self) -> Heard:
        """Return the guard set, embedded and scored once."""
        return self.hear(self.guard_windows)

    @cached_property
    def cohort_rivals(self) -> NDArray[np.float32]:
        """Return ``Space.rival`` of the cohort's windows, each beside the others."""
        return self.space.rival(self.space.cohort, itself=True)

    def hear_examples(self, spans: NDArray[np.float32]) -> Heard:
        """Run the windows of examples (n, 18, 96) through the base model, and keep the examples beside the result."""
        return replace(self.hear(offset_windows(spans)), spans=spans)

    def hear(self, windows: NDArray[np.floating]) -> Heard:
        """Return base logits and z of windows (..., 16, 96)."""
        flat = np.asarray(windows, np.float32).reshape(-1, *windows.shape[-2:])
        shape = windows.shape[:-2]
        if not len(flat):
            nothing = np.zeros((*shape, len(self.classes)), np.float32)
            return Heard(nothing, self.space.features(windows), np.zeros((*shape, len(self.classes) + 1), np.float32))
        z = self.space.features(windows)
        return Heard(self.head.logits(flat).reshape(*shape, -1), z, self.space.rival(z))


@dataclass(frozen=True, slots=True)
class Heard:
    """Windows after the base model: ``logits`` (..., C), ``z`` (..., D), and ``Space.rival`` of them, (..., C + 1)."""

    logits: NDArray[np.float32]
    z: NDArray[np.float32]
    rivals: NDArray[np.float32]
    spans: NDArray[np.float32] | None = None
    """(n, 18, 96): the examples themselves, where they are to be aligned with takes."""

    def posteriors(self) -> NDArray[np.float32]:
        """Return the base head's posteriors, (..., C)."""
        return softmax(self.logits.copy())

    def take(self, chosen: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]) -> Heard:
        """Return the chosen windows only, by index or mask."""
        return Heard(self.logits[chosen], self.z[chosen], self.rivals[chosen])


def joined(parts: Sequence[Heard]) -> Heard:
    """Return the windows of all parts, one part after the other."""
    return Heard(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("logits", "z", "rivals")))
