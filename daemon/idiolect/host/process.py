"""What the kernel says about this process."""

from __future__ import annotations

import os
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
