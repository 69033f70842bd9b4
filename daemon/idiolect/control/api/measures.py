"""The numbers that `/metrics` shows, as frozen values: ``service.metrics`` fills them, ``api.metrics`` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Spread(Protocol):
    """Durations in seconds: how many were at most each of ``bounds``, and in the end how many were beyond them."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """Return the upper ends of the ranges, rising, in seconds."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Return how many durations there were in each range, one number more than ``bounds``."""

    @property
    def total(self) -> float:
        """Return the sum of all durations, in seconds."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """Numbers from the vault, none while there are no keys. Counts are since the start of the daemon.

    ``adapters``: versions by state; ``newest``: the highest number in use; ``verdicts``: of the gate, "passed" or the
    number of the check that failed; ``rounds``: by what came of them; ``moves``: of versions, by the state that they
    came to; ``checkpoint``: when the audit log was last checked, in seconds since the epoch, None before the first.
    """

    profiles: int
    adapters: Mapping[str, int]
    newest: int
    verdicts: Mapping[str, int]
    rounds: Mapping[str, int]
    moves: Mapping[str, int]
    checkpoint: int | None


@dataclass(frozen=True, slots=True)
class Process:
    """The daemon's process: CPU in seconds, its own and that of the workers that have ended; memory in bytes."""

    cpu_s: float
    worker_cpu_s: float
    resident: int
    files: int
    started: float


@dataclass(frozen=True, slots=True)
class Measures:
    """All numbers that are exported, at one moment."""

    version: str
    bundle: tuple[str, int, bool]
    """Name, version, and whether it is signed."""
    configuration: str
    events: Mapping[tuple[str, str], int]
    """Counts by kind (wake, phrase, rejected) and class of phrase (base, taught, none)."""
    latency: Mapping[str, Spread]
    """Durations by kind of event, in seconds."""
    processing: Spread
    microphone: str
    overruns: int
    reopened: int
    dropped_blocks: int
    queue_blocks: int
    listening: str
    playback: bool
    learning: str
    keys: str
    protected: bool
    learnt: Learnt | None
    """None without keys."""
    jobs: Mapping[str, int]
    process: Process
    celsius: float | None
    throttled: bool
    clients: Mapping[str, int]
    """Counts by what they are connected to: events, and what else is served."""
