"""CPU time of several libraries on the same recording, in turns, so that a noisy neighbour disturbs them alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SCRIPTS = Path(__file__).parents[1]
WARM_BLOCKS = 62
"""Blocks (5 s) fed before the clock starts: first inferences allocate, and gates start open."""


class WorkerError(Exception):
    """A library's process ended; its own words are on stderr."""


@dataclass
class Figures:
    """What one library took: CPU seconds per second of audio, one number a round, and its memory in MiB."""

    version: str
    costs: list[float] = field(default_factory=list)
    rss_mib: float = 0.0

    @property
    def median(self) -> float:
        """The round in the middle."""
        return statistics.median(self.costs)

    @property
    def spread(self) -> float:
        """Dearest round minus cheapest, as a part of the median: how much the rounds can be trusted."""
        return (max(self.costs) - min(self.costs)) / self.median


class Worker:
    """One library in a process of its own, with one thread; a context manager."""

    def __init__(self, name: str, python: Path | str = sys.executable, arguments: Sequence[str] = ()) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent / "daemon")])
        self.name = name
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmark.worker", name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version: str = self._answer()["version"]

    def measure(self, wav: Path) -> dict[str, float]:
        """Feed a recording; CPU seconds, audio seconds and the memory held by then."""
        assert self._process.stdin is not None  # noqa: S101  (a pipe by construction)
        print(json.dumps({"wav": str(wav), "warm_blocks": WARM_BLOCKS}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()


def run_rounds(workers: Sequence[Worker], wavs: Mapping[str, Path], repetitions: int) -> dict[str, Figures]:
    """Feed each worker its recording (``wavs`` by its name) so many times, worker after worker in every round."""
    figures = {worker.name: Figures(worker.version) for worker in workers}
    for _ in range(repetitions):
        for worker in workers:
            took = worker.measure(wavs[worker.name])
            figures[worker.name].costs.append(took["cpu_s"] / took["audio_s"])
            figures[worker.name].rss_mib = took["rss_mib"]
    return figures


def ratio(ours: Figures, theirs: Figures) -> float:
    """Our cost over theirs: the median of the ratios within each round, which share the machine's mood."""
    return statistics.median(a / b for a, b in zip(ours.costs, theirs.costs, strict=True))
