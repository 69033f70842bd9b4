"""A slow board: a process and all its children get so much of one core, and so much memory, and no more.

By control groups of either version, where this process may make one; else by SIGSTOP and SIGCONT in turn, which is
coarser and knows no memory. ``Board.how`` says which.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Protocol

ROOT = Path("/sys/fs/cgroup")
LEAST_US = 1_000
"""The least time that the kernel gives at once."""
SHORTEST_US, LONGEST_US = 10_000, 1_000_000
"""Periods. They are as short as the share allows: a slow processor is always slow, and not fast now and then."""
TURN_S = 0.1
"""Period of the duty cycle where there are no control groups."""
MIB = 1 << 20


class Board(Protocol):
    """Where a process is put in."""

    how: str

    def join(self) -> None:
        """Put the calling process in: for ``preexec_fn``."""

    def follow(self, pid: int) -> None:
        """What was started is ``pid``."""

    def limit(self, share: float, mib: int | None = None) -> None:
        """So much of one core (1.0: one), and so many MiB, None for any; at once."""

    def throttled(self) -> tuple[int, float]:
        """How often its time was up before its work was done, and the seconds of waiting."""

    def killed(self) -> int:
        """Processes in it that the kernel killed for memory; -1 where nobody counts."""

    def close(self) -> None:
        """Take it down; whoever was in it has ended."""


def board() -> Board:
    """The best that there is here."""
    for make in (_Two, _One):
        with contextlib.suppress(OSError):
            return make()
    return _Turns()


def quota(share: float) -> tuple[int, int]:
    """So many us in each so many."""
    period = round(min(LONGEST_US, max(SHORTEST_US, LEAST_US / share)))
    return max(LEAST_US, round(share * period)), period


def _number(file: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            word, _, value = line.partition(" ")
            if word == name:
                return int(value)
    return -1


def _remove(folder: Path) -> None:
    for _ in range(50):  # a process that has just ended is in it for a moment
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return


class _Two:
    """cgroup v2: cpu.max and memory.max."""

    how = "cgroup v2"

    def __init__(self) -> None:
        self._group = ROOT / f"idiolect-load-{os.getpid()}"
        if not {"cpu", "memory"} <= set((ROOT / "cgroup.controllers").read_text().split()):
            raise OSError
        with contextlib.suppress(OSError):
            (ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
        self._group.mkdir()
        if not (self._group / "cpu.max").exists():
            self._group.rmdir()
            raise OSError
        with contextlib.suppress(OSError):
            (self._group / "memory.swap.max").write_text("0")

    def join(self) -> None:
        (self._group / "cgroup.procs").write_text("0")

    def follow(self, pid: int) -> None:
        """It joined by itself."""

    def limit(self, share: float, mib: int | None = None) -> None:
        (self._group / "cpu.max").write_text("{} {}".format(*quota(share)))
        (self._group / "memory.max").write_text(str(mib * MIB) if mib else "max")

    def throttled(self) -> tuple[int, float]:
        stat = self._group / "cpu.stat"
        return _number(stat, "nr_throttled"), _number(stat, "throttled_usec") / 1e6

    def killed(self) -> int:
        return _number(self._group / "memory.events", "oom_kill")

    def close(self) -> None:
        _remove(self._group)


class _One:
    """cgroup v1: a group in the hierarchy of each controller."""

    how = "cgroup v1"

    def __init__(self) -> None:
        name = f"idiolect-load-{os.getpid()}"
        self._cpu, self._memory = ROOT / "cpu" / name, ROOT / "memory" / name
        self._cpu.mkdir()
        if not (self._cpu / "cpu.cfs_quota_us").exists():
            self._cpu.rmdir()
            raise OSError
        try:
            self._memory.mkdir()
        except OSError:
            self._memory = Path("/nonexistent")
        with contextlib.suppress(OSError):
            (self._memory / "memory.swappiness").write_text("0")

    def join(self) -> None:
        for group in (self._cpu, self._memory):
            with contextlib.suppress(FileNotFoundError):
                (group / "cgroup.procs").write_text("0")

    def follow(self, pid: int) -> None:
        """It joined by itself."""

    def limit(self, share: float, mib: int | None = None) -> None:
        most, period = quota(share)
        (self._cpu / "cpu.cfs_quota_us").write_text("-1")  # the two are set one after the other, and must fit
        (self._cpu / "cpu.cfs_period_us").write_text(str(period))
        (self._cpu / "cpu.cfs_quota_us").write_text(str(most))
        if self._memory.exists():
            (self._memory / "memory.limit_in_bytes").write_text(str(mib * MIB) if mib else "-1")

    def throttled(self) -> tuple[int, float]:
        stat = self._cpu / "cpu.stat"
        return _number(stat, "nr_throttled"), _number(stat, "throttled_time") / 1e9

    def killed(self) -> int:
        return _number(self._memory / "memory.oom_control", "oom_kill")

    def close(self) -> None:
        _remove(self._cpu)
        _remove(self._memory)


class _Turns:
    """Stopped and let go on in turn: the process itself only, as its children come and go."""

    how = "SIGSTOP and SIGCONT in turn, the daemon alone; memory is not limited"

    def __init__(self) -> None:
        self._share, self._pid, self._stopped = 1.0, 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Nothing to join."""

    def follow(self, pid: int) -> None:
        self._pid = pid

    def limit(self, share: float, mib: int | None = None) -> None:  # noqa: ARG002
        self._share = share

    def throttled(self) -> tuple[int, float]:
        return self._stopped, self._stopped * TURN_S * (1 - self._share)

    def killed(self) -> int:
        return -1

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _turn(self) -> None:
        while not self._over.is_set():
            share, pid = self._share, self._pid
            if share >= 1 or not pid:
                self._over.wait(TURN_S)
                continue
            try:
                os.kill(pid, signal.SIGSTOP)
                self._over.wait(TURN_S * (1 - share))
            except ProcessLookupError:
                self._pid = 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._stopped += 1
            self._over.wait(TURN_S * share)
