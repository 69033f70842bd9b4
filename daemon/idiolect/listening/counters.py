"""Counters of the inference thread: plain numbers, so that counting costs it next to nothing.

One thread adds and any other may look: what it sees is at most one event behind, and never less than what it saw
before. No phrase, profile or sample is in here.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from idiolect.values import BLOCK, SAMPLE_RATE, Detection

BLOCK_S = BLOCK / SAMPLE_RATE
LATENCY_BOUNDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75, 1.0, 2.0)
"""Seconds. People feel a quarter of a second; what was no phrase is known only after a pause of half a second."""
PROCESSING_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.32)
"""Seconds. A block lasts 0.08: whatever is beyond that for long cannot keep up."""


CLASSES = (("wake", "base"), ("phrase", "base"), ("phrase", "taught"), ("rejected", "none"))
"""Kinds of events, each with the classes that its phrase may be of: the bundle's, taught by somebody, or none."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations in seconds, by upper bounds: ``counts`` has one more than ``bounds``, for what lies beyond them."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Return how many durations there were."""
        return sum(self.counts)


class Durations:
    """Sorts durations into ranges and counts them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count one more of these durations."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def spread(self) -> Spread:
        """Return the counts as they are now."""
        return Spread(self._bounds, tuple(self._counts), self._total)


class Counters:
    """Blocks and events of one inference thread since the start."""

    def __init__(self) -> None:
        self.processing = Durations(PROCESSING_BOUNDS)
        """Time that recognition took of each block."""
        self.latency = {kind: Durations(LATENCY_BOUNDS) for kind in ("wake", "phrase", "rejected")}
        """By kind of event: from the end of what was said until it was published."""
        self.events = dict.fromkeys(CLASSES, 0)
        """By kind of event and class of phrase."""

    def event(self, detection: Detection, *, base: bool, late: float) -> None:
        """Count an event, published ``late`` seconds after its end; ``base`` when its phrase is the bundle's."""
        own = "none" if detection.kind == "rejected" else "base" if base else "taught"
        self.events[detection.kind, own] += 1
        self.latency[detection.kind].add(max(0.0, late))
