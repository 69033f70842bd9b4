"""What the kernel says about this process, and what it is told to keep others from."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from pathlib import Path

_STAT_START_TIME = 22
"""Field of /proc/self/stat, from 1, that holds the start in clock ticks since boot (proc(5))."""


def age_ms() -> float:
    """Milliseconds since this process was started, to a hundredth of a second."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # the name may hold spaces
    started = int(fields[_STAT_START_TIME - 3]) / os.sysconf("SC_CLK_TCK")
    return (time.clock_gettime(time.CLOCK_BOOTTIME) - started) * 1000.0


def rss_mib() -> float:
    """Resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


_PR_SET_DUMPABLE, _PR_GET_DUMPABLE = 4, 3
"""prctl(2)."""


def harden() -> None:
    """No core dumps and no tracing by others of the same user: memory holds audio and keys.

    Root may still read it: a process cannot hide from root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def dumpable() -> bool:
    """Whether the kernel would dump this process's memory."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))
