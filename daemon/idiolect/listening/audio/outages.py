"""Writes to the journal when the microphone goes, why, and when it is back.

Its going and its coming back are one line each, however often the device is tried meanwhile. A device that comes and
goes all the time is reported a few times, then once every two minutes, with how often it went; how things are in the
end is always written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from idiolect.values import DEAF, MicrophoneHealth

log = logging.getLogger(__name__)

BURST, EVERY_S = 6, 120.0
"""Lines at once, and how long it takes until one more may be written."""


class Outages:
    """The outages since the start, and which of them the journal has. Belongs to the event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Start with all well. ``now`` is in seconds, of a clock that nobody sets."""
        self._now = now
        self._lines, self._filled = float(BURST), now()
        self._health = MicrophoneHealth()
        self._since: float | None = None  # when it went
        self._back_after = 0.0
        self._said = ""  # the state that the journal knows, "" where it hears
        self._unsaid = 0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, health: MicrophoneHealth) -> None:
        """Take in a new state of the microphone, and write it down when a line may be written."""
        was, self._health = self._health.state, health
        if health.state in DEAF:
            if self._since is None:
                self._since = self._now()
        elif health.state == "running" and self._since is not None:
            self._back_after, self._since = self._now() - self._since, None
        elif health.state == "paused":  # closed on purpose: whether it is back, nobody knows
            self._since, self._said = None, ""
        else:
            return
        self._unsaid += was == "running"
        self._tell()

    def close(self) -> None:
        """Write nothing more that still waits."""
        if self._timer:
            self._timer.cancel()

    def _tell(self) -> None:
        """Write how it is, where that differs from what was written last, as soon as a line may be written."""
        self.close()
        state = self._health.state if self._since is not None else ""
        if state == self._said:
            return
        wait = self._wait()
        if wait > 0:
            self._timer = asyncio.get_running_loop().call_later(wait, self._tell)
            return
        often = f"; it went {self._unsaid} times since this was said last" if self._unsaid > 1 else ""
        self._said, self._unsaid = state, 0
        health = self._health
        if state:
            log.warning("no sound from the microphone (%s): %s; %s%s", state, health.reason, health.fix, often)
        else:
            log.info("the microphone is back after %s%s", _spoken(self._back_after), often)

    def _wait(self) -> float:
        """Take leave for a line: return 0, or the seconds until there is one."""
        now = self._now()
        self._lines = min(float(BURST), self._lines + (now - self._filled) / EVERY_S)
        self._filled = now
        if self._lines < 1:
            return (1 - self._lines) * EVERY_S
        self._lines -= 1
        return 0.0


def _spoken(seconds: float) -> str:
    """Return seconds in words: "0.4 s", "12 s", "3 min", "5 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
