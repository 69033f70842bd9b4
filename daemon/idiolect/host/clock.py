"""Whether the wall clock can be believed, and what it shows here: what must not happen too early asks here first."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

TIMESYNCD = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd.service(8) makes this file when it has set the clock from a server."""
TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nothing keeps right."""


def synchronized(mark: Path = TIMESYNCD) -> bool:
    """Whether something keeps the clock right: timesyncd's mark, or what the kernel was told (chrony, ntpd, PTP).

    False where neither can be asked: under a unit's ``ProtectClock=`` adjtimex is refused, even for reading.
    """
    if mark.exists():
        return True
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    nothing_to_set = ctypes.create_string_buffer(512)  # struct timex with modes = 0, and room to spare
    state = int(adjtimex(nothing_to_set))
    return 0 <= state < TIME_ERROR


def since_boot() -> float:
    """Seconds since the boot, sleep included: a clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def minute_of_day(now: float | None = None) -> int:
    """What a clock on the wall shows (at ``now``, seconds since the epoch), in minutes since midnight.

    Daylight saving time is in it: in spring an hour does not occur, in autumn one does twice. The time zone is that of
    the system (TZ, else /etc/localtime), looked up anew as it may be changed while we run.
    """
    time.tzset()
    shown = time.localtime(now)
    return 60 * shown.tm_hour + shown.tm_min


def zone(localtime: Path = Path("/etc/localtime"), zones: Path = Path("/usr/share/zoneinfo")) -> tuple[str, str]:
    """The time zone in words, and what is wrong with it ("" for nothing): where its files are missing it is UTC."""
    wanted = os.environ.get("TZ", "").lstrip(":")
    time.tzset()
    name = time.tzname[time.localtime().tm_isdst > 0]
    if "/" in wanted:
        if not (zones / wanted).exists():  # an absolute path stays one
            return name, f"TZ names {wanted}, for which there are no files: local time is UTC (apt install tzdata)"
    elif not wanted and not localtime.exists():
        return name, f"{localtime} is missing: local time is UTC (timedatectl set-timezone ...)"
    return name, ""
