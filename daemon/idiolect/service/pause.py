"""Keeps the pause of listening: it releases the microphone, survives a restart, and ends by itself where it has an end.

The end is kept as ``host.clock.Stretch``: after a restart it may come late, never early by a clock that leapt. State
that cannot be read counts as a pause: the microphone stays closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idiolect.errors import NONSENSE
from idiolect.host import clock
from idiolect.host.clock import Moment, Stretch
from idiolect.host.files import TooLarge, read_capped, write_durably
from idiolect.listening.audio.capture import Capture

log = logging.getLogger(__name__)

PAUSE_FILE = "listening.json"
LOOK_S = 60.0
"""Between two looks at the clocks while paused."""


class Pausing:
    """The pause of listening, and its end. Belongs to the main loop."""

    def __init__(
        self, capture: Capture, state_dir: Path, changed: Callable[[], None], *,
        now: Callable[[], Moment] = clock.moment,
    ) -> None:  # fmt: skip
        """Start without a pause. ``changed`` is called after each pause and resumption, also by the clock."""
        self._capture = capture
        self._path = state_dir / PAUSE_FILE
        self._changed, self._now = changed, now
        self._timer: asyncio.TimerHandle | None = None
        self._stretch: Stretch | None = None
        self._unsaved = False
        self.active = False

    @property
    def until(self) -> float | None:
        """Return when the pause ends, in seconds since the epoch; None while paused without an end."""
        return self._stretch.ends(self._now()) if self._stretch else None

    def pause(self, seconds: float | None) -> None:
        """Release the microphone, for so many seconds or until resumed (None)."""
        now = self._now()
        self._set(True, None if seconds is None else Stretch(seconds, now, now))

    def resume(self) -> None:
        """Open the microphone again and listen."""
        self._set(False, None)

    def restore(self) -> None:
        """Go on with the pause that the last run left; a file that cannot be understood means: paused, to be safe."""
        now, stretch = self._now(), None
        try:
            state: Any = json.loads(read_capped(self._path, 1024))
            paused, until = bool(state["paused"]), state["until"]
            if until is not None:
                stretch = clock.read_pause(state.get("for"), float(until), now)
        except FileNotFoundError:
            return
        except OSError as error:
            what = error.strerror
            log.warning("%s cannot be read (%s): staying paused until `idiolect resume listening`", self._path, what)
            paused, stretch = True, None
        except (TooLarge, *NONSENSE):
            log.warning("%s is damaged: staying paused until `idiolect resume listening`", self._path)
            paused, stretch = True, None
        if paused and (stretch is None or stretch.left(now) > 0):
            self._apply(paused, stretch)

    def _set(self, paused: bool, stretch: Stretch | None) -> None:
        self._apply(paused, stretch)
        self._save()
        self._changed()

    def _save(self) -> None:
        state = {"paused": self.active, "until": self.until, "for": self._stretch and self._stretch.as_dict()}
        before, self._unsaved = self._unsaved, False
        try:
            write_durably(self._path, json.dumps(state).encode())
        except OSError as error:
            self._unsaved = True  # tried again at the next look
            if not before:
                what = error.strerror
                log.warning("%s cannot be written (%s): the pause will not survive a restart", PAUSE_FILE, what)

    def _apply(self, paused: bool, stretch: Stretch | None) -> None:
        self.active, self._stretch = paused, stretch
        if paused:
            self._capture.pause()
        else:
            self._capture.resume()
        self._wait()

    def _wait(self) -> None:
        """Set a timer for the pause's end, and for looks before: the device may sleep meanwhile, or learn the time."""
        if self._timer:
            self._timer.cancel()
        left = LOOK_S if self._stretch is None else min(LOOK_S, self._stretch.left(self._now()))
        self._timer = asyncio.get_running_loop().call_later(left, self._look) if self.active or self._unsaved else None

    def _look(self) -> None:
        if self._stretch is not None and self._stretch.left(self._now()) <= 0:
            self.resume()
            return
        if self._unsaved:
            self._save()
        self._wait()
