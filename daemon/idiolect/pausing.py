"""The pause of listening: releases the microphone, survives a restart, ends by itself where it has an end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idiolect.host.capture import Capture
from idiolect.host.files import read_capped, write_durably

log = logging.getLogger(__name__)

PAUSE_FILE = "listening.json"


class Pausing:
    """Whether listening is paused, and until when. Belongs to the main loop."""

    def __init__(self, capture: Capture, state_dir: Path, changed: Callable[[], None]) -> None:
        """``changed`` is called after each pause and resumption, also by the clock."""
        self._capture = capture
        self._path = state_dir / PAUSE_FILE
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self.active = False
        self.until: float | None = None
        """Seconds since the epoch; None while paused without an end."""

    def pause(self, seconds: float | None) -> None:
        """Release the microphone, for so long or until resumed."""
        self._set(True, None if seconds is None else time.time() + seconds)

    def resume(self) -> None:
        """Listen again."""
        self._set(False, None)

    def restore(self) -> None:
        """As the last run left it; a file that cannot be understood means: paused, to be on the safe side."""
        try:
            state: Any = json.loads(read_capped(self._path, 1024))
            paused, until = bool(state["paused"]), state["until"]
            until = None if until is None else float(until)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("%s is damaged: staying paused until `idiolect resume listening`", self._path)
            paused, until = True, None
        if paused and (until is None or until > time.time()):
            self._apply(paused, until)

    def _set(self, paused: bool, until: float | None) -> None:
        self._apply(paused, until)
        state = json.dumps({"paused": paused, "until": until}).encode()
        try:
            write_durably(self._path, state)
        except OSError as error:
            log.warning("%s cannot be written (%s): the pause will not survive a restart", PAUSE_FILE, error.strerror)
        self._changed()

    def _apply(self, paused: bool, until: float | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self.active, self.until = paused, until
        if not paused:
            self._capture.resume()
            return
        self._capture.pause()
        if until is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, until - time.time()), self.resume)
