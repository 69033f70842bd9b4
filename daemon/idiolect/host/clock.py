"""Tells if the wall clock can be believed, and what it shows here: what must not happen too early asks here first."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.values import MAX_PAUSE_S

TIMESYNCD = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd.service(8) makes this file when it has set the clock from a server."""
TIME_ERROR = 5
"""The answer of adjtimex(2) for a clock that nothing keeps right."""


def synchronized(mark: Path = TIMESYNCD) -> bool:
    """Return True if something keeps the clock right: timesyncd by its mark, or chrony, ntpd or PTP by the kernel.

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
    """Return seconds since the boot, sleep included: a clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """Return an id that tells this boot from others."""
    try:
        return path.read_text().strip()[:64]
    except OSError:
        return f"{os.getpid()}-{time.monotonic_ns()}"  # then each start counts as one


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time by two clocks: the wall's, which may be set at any time, and the boot's, which ends with it.

    ``sure``: the wall clock was believed then.
    """

    wall: float
    boot: float
    boot_id: str
    sure: bool

    def as_dict(self) -> dict[str, object]:
        """Return the moment as a file keeps it."""
        return {"wall": self.wall, "boot": self.boot, "boot_id": self.boot_id, "sure": self.sure}


def moment() -> Moment:
    """Return the present moment by both clocks."""
    return Moment(time.time(), since_boot(), boot_id(), synchronized())


def read_moment(kept: Mapping[str, Any]) -> Moment:
    """Return a moment that a file has kept.

    Raises:
        ValueError, KeyError, TypeError: it is no moment.
    """
    wall, boot = float(kept["wall"]), float(kept["boot"])
    if not math.isfinite(wall) or not math.isfinite(boot):
        raise ValueError
    return Moment(wall, boot, str(kept["boot_id"]), kept["sure"] is True)


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many seconds from a moment on, such as a pause, over restarts and whatever the wall clock is set to.

    In the boot in which it began that boot's clock counts. In another one it is what the wall clock said at both ends,
    if it was believed at both. Else the wall clock's word counts if it lay within the stretch when that was ``found``
    again, and this boot's clock from then on: it may end late then, and never early by a clock that leapt.
    """

    seconds: float
    began: Moment
    found: Moment

    def left(self, now: Moment) -> float:
        """Return the seconds until it is over."""
        if now.boot_id == self.began.boot_id:
            passed = now.boot - self.began.boot
        elif now.sure and self.began.sure:
            passed = now.wall - self.began.wall
        else:
            before = self.found.wall - self.began.wall
            passed = now.boot - self.found.boot + (before if 0 <= before < self.seconds else 0)
        return min(self.seconds, max(0.0, self.seconds - passed))

    def ends(self, now: Moment) -> float:
        """Return when it is over by the wall clock as it is ``now``, in seconds since the epoch."""
        return now.wall + self.left(now)

    def as_dict(self) -> dict[str, object]:
        """Return the stretch as a file keeps it."""
        return {"seconds": self.seconds, "began": self.began.as_dict()}


def read_stretch(kept: Mapping[str, Any], now: Moment) -> Stretch:
    """Return a stretch that a file has kept, found ``now``. Raises as ``read_moment`` does."""
    seconds = float(kept["seconds"])
    if not 0 <= seconds < math.inf:
        raise ValueError
    return Stretch(seconds, read_moment(kept["began"]), now)


def read_pause(kept: Mapping[str, Any] | None, until: float, now: Moment) -> Stretch:
    """Return a pause that a file has kept.

    Args:
        kept: the stretch; None in files of earlier versions.
        until: when it ends by the wall clock (seconds since the epoch), all that earlier versions kept.

    Raises:
        ValueError, KeyError, TypeError: it is no pause.
    """
    if not math.isfinite(until):
        raise ValueError
    return read_stretch(kept, now) if kept else Stretch(min(MAX_PAUSE_S, max(0.0, until - now.wall)), now, now)


def minute_of_day(now: float | None = None) -> int:
    """Return the time on the wall clock (at ``now``, seconds since the epoch), in minutes since midnight.

    Daylight saving time is in it: in spring an hour does not occur, in autumn one does twice. The time zone is that of
    the system (TZ, else /etc/localtime), looked up anew as it may be changed while we run.
    """
    time.tzset()
    shown = time.localtime(now)
    return 60 * shown.tm_hour + shown.tm_min


def zone(localtime: Path = Path("/etc/localtime"), zones: Path = Path("/usr/share/zoneinfo")) -> tuple[str, str]:
    """Return the time zone in words, and the fault in it ("" for none): where its files are missing it is UTC."""
    wanted = os.environ.get("TZ", "").lstrip(":")
    time.tzset()
    name = time.tzname[time.localtime().tm_isdst > 0]
    if "/" in wanted:
        if not (zones / wanted).exists():  # an absolute path stays one
            return name, f"TZ names {wanted}, for which there are no files: local time is UTC (apt install tzdata)"
    elif not wanted and not localtime.exists():
        return name, f"{localtime} is missing: local time is UTC (timedatectl set-timezone ...)"
    return name, ""
