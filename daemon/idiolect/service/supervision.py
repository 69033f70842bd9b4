"""Tells systemd when the daemon is ready, how it is, and that it lives.

READY is sent once control serves and the first attempt at the microphone has ended, well or badly: a speaker without a
microphone is up, and says what is wrong. STATUS is one sentence without names or phrases.

The watchdog is fed by work and never by a timer: by a block that went through recognition, or, where there is none to
be had, by a bounded step of the search for the microphone. Either way the message goes through the main loop, so a
daemon whose capture, recognition or control hangs sends none and is restarted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from idiolect.host.systemd import Notifier
from idiolect.listening.audio.capture import BlockQueue
from idiolect.trust.device.keys import View
from idiolect.values import MicrophoneHealth

_FEEDS = 5
"""Times that the watchdog is fed within the time that it allows."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The values that the status line shows. ``settings``: what is wrong with the configuration, "" for nothing."""

    microphone: MicrophoneHealth
    keys: View
    paused: bool
    bundle: str
    settings: str = ""


def describe(now: Condition) -> str:
    """Return the condition in one line: the worst first, and what to do about it."""
    health, parts = now.microphone, []
    if now.settings:
        parts.append(now.settings)
    if now.paused:
        parts.append("paused: idiolect resume listening")
    elif health.state == "running":
        parts.append(f"listening to {health.device}")
    else:
        fix = f": {health.fix}" if health.fix else ""
        parts.append(f"no sound ({health.state}): {health.reason or 'the microphone is being opened'}{fix}")
    if now.keys.released:
        parts.append("keys released" if now.keys.protected else "keys in a file")
    elif now.keys.state != "waiting":
        parts.append(f"base model only: {now.keys.detail}: {now.keys.fix}")
    return "; ".join([*parts, now.bundle])


def where(error: BaseException) -> str:
    """Return the place in our source that raised an error; its text may quote private data and is left out."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"


class Supervision:
    """Tells a ``Notifier``. ``processed`` and ``searching`` belong to the threads that work, all else to the loop."""

    def __init__(self, notifier: Notifier, queue: BlockQueue, look: Callable[[], Condition]) -> None:
        self._notifier = notifier
        self._queue = queue
        self._look = look
        self._every = notifier.watchdog_s / _FEEDS if notifier.watchdog_s else math.inf
        self._fed = -math.inf
        self._serving = self._ready = self._ending = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def serving(self) -> None:
        """Note that control serves from now on."""
        self._loop = asyncio.get_running_loop()
        self._serving = True
        self.changed()

    def changed(self) -> None:
        """Send the status line anew, after something in it may have changed; say READY at the first chance."""
        now = self._look()
        self._notifier.status(describe(now))
        if self._serving and not self._ready and now.microphone.state != "opening":
            self._ready = True
            self._notifier.ready()

    def stirred(self) -> None:
        """Call ``changed`` soon, from any thread."""
        self._soon(self.changed)

    def reloading(self) -> None:
        """Say that the configuration is read again; ``reloaded`` must follow."""
        self._notifier.reloading()

    def reloaded(self) -> None:
        """Say that the reload has ended, whether it was taken over or refused."""
        self.changed()
        if self._ready:
            self._notifier.ready()

    def stopping(self) -> None:
        """Say that the end has begun, and tell nothing more."""
        self._ending = True
        self._notifier.stopping()

    def processed(self) -> None:
        """Feed the watchdog: a block went through recognition."""
        now = time.monotonic()
        if now - self._fed >= self._every:
            self._fed = now
            self._soon(self._notifier.alive)

    def searching(self) -> None:
        """Feed the watchdog for a bounded step without a block, unless recognition leaves blocks lying in the queue."""
        if self._queue.empty:
            self.processed()

    def _soon(self, what: Callable[[], None]) -> None:
        if self._loop is not None and not self._ending:
            try:
                self._loop.call_soon_threadsafe(what)
            except RuntimeError:  # the loop has ended in this very moment
                self._ending = True
