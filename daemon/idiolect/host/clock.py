"""Whether the wall clock can be believed: what must not happen too early asks here first."""

from __future__ import annotations

import ctypes
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
