"""Keeps whether the box around the daemon plays something, and tells followers of events how the microphone is.

Goes in: the player's word that it plays, for a time, and the state of capture. Comes out: a flag for inference, and
events. Playback is a lease: a player that crashes must not leave the device hard of hearing, so it ends by itself
unless it is renewed, and no restart remembers it. While it holds, scores must be higher (``inference.PLAYBACK_MORE``)
and nothing is learnt of what is heard: ``Inference`` marks it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from idiolect.events import EventStream, StateChange
from idiolect.listening.inference import Inference


class Playback:
    """The lease, and the microphone's last state.

    ``microphone`` may be called by any one thread, all else belongs to the event loop.
    """

    def __init__(self, hub: EventStream, names: Callable[[], str], inference: Inference) -> None:
        self._hub, self._names, self._inference = hub, names, inference
        self._timer: asyncio.TimerHandle | None = None
        self._until: float | None = None
        self._microphone = ""

    def playback(self, seconds: float | None) -> dict[str, object]:
        """Say that the box plays something, for at most so many seconds from now, or not any more (None)."""
        if self._timer:
            self._timer.cancel()
        self._timer = self._until = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.playback, None)
            self._until = time.time() + seconds
        changed, self._inference.playing = self._inference.playing is not (seconds is not None), seconds is not None
        if changed:
            self._publish("playback", self.status())
        return self.status()

    def status(self) -> dict[str, object]:
        """Return whether the box plays something, and when that is forgotten (seconds since the epoch)."""
        return {"active": self._inference.playing, "until": self._until}

    def microphone(self, state: str) -> None:
        """Publish how capture is doing (``values.MicrophoneHealth``), where that has changed."""
        if state != self._microphone:
            self._microphone = state
            self._publish("microphone", {"state": state})

    def _publish(self, what: str, how: dict[str, object]) -> None:
        self._hub.publish(StateChange(self._names(), time.time(), {what: how}))
