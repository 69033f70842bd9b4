"""Reads what the kernel says about this process, and tells it to keep others out of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_STAT_START_TIME = 22
"""Field of /proc/self/stat, from 1, that holds the start in clock ticks since boot (proc(5))."""


def age_ms() -> float:
    """Return milliseconds since this process was started, to a hundredth of a second."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # the name may hold spaces
    started = int(fields[_STAT_START_TIME - 3]) / os.sysconf("SC_CLK_TCK")
    return (time.clock_gettime(time.CLOCK_BOOTTIME) - started) * 1000.0


def rss_mib() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s() -> tuple[float, float]:
    """Return the CPU time in seconds: this process's, and that of its children that have ended."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime


def open_files() -> int:
    """Return how many files and sockets are open, but for the one that is needed to see them."""
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208  # a directory of links that lead nowhere


def started() -> float:
    """Return when this process was started, in seconds since the epoch, by the clock as it is set now."""
    return round(time.time() - age_ms() / 1000.0, 2)


_PR_SET_DUMPABLE, _PR_GET_DUMPABLE = 4, 3
"""prctl(2)."""


def harden() -> None:
    """Forbid core dumps and tracing by others of the same user: memory holds audio and keys.

    Root may still read it: a process cannot hide from root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20
"""mallopt(3): blocks of so many bytes are mapped one by one."""
_M_PERTURB, _FREED = -6, 0xFF
"""mallopt(3): what is given back is overwritten with this byte, what is handed out with its complement, zeros."""


def return_freed() -> None:
    """Give large blocks back to the kernel as soon as they are free.

    Left alone, glibc keeps what was once freed of up to 32 MiB, as long as anything smaller lies behind it: a daemon to
    which somebody once sent a large copy would stay that much larger. A libc without it does without.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def wipe_freed() -> None:
    """Leave nothing in memory that was given back: else the sound of a minute ago lies there until it is used again.

    Blocks of up to a kilobyte are excepted, and a libc without it (musl) does without.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_PERTURB, _FREED)


def dumpable() -> bool:
    """Return True if the kernel would dump this process's memory."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Confinement:
    """The limits that our unit puts on this process, as the kernel has them (proc(5), /proc/self/status)."""

    no_new_privs: bool
    seccomp: bool
    capabilities: int
    """The effective set; 0 is none."""
    interfaces: tuple[str, ...]
    """Network interfaces that it could use, the loopback left out."""

    @property
    def complete(self) -> bool:
        """Return True if all of them hold."""
        return self.no_new_privs and self.seccomp and not self.capabilities and not self.interfaces


def confinement() -> Confinement:
    """Read how this process is confined."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    devices = [line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]]
    return Confinement(
        no_new_privs=fields.get("NoNewPrivs", "0").strip() == "1",
        seccomp=fields.get("Seccomp", "0").strip() == "2",
        capabilities=int(fields.get("CapEff", "0").strip(), 16),
        interfaces=tuple(name for name in devices if name != "lo"),
    )
