"""Speaking into the simulated microphone when one wants to: the recording is written while it is played."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idiolect.client import Client
from tests.support.alsa.wavmic import HEARD

RATE = 16_000
AHEAD_S = 0.5
"""How far ahead of the microphone one writes."""
AFTER_S = 0.3
"""How far behind what was said the microphone is when saying it is over."""
ROOM = 3.0
PATIENCE_S = 120.0
"""A microphone that stands still this long has stopped for good."""


class Talker:
    """A raw S16 file in which the future of a microphone is written, ``speed`` times faster than life.

    Time is what the microphone has read, and not what a clock says: on a busy machine it reads late. The microphone
    is a ``WavMic`` of the usual name beside the file.
    """

    def __init__(self, path: Path, speed: float = 1.0, minutes: float = 10.0) -> None:
        noise = np.random.default_rng(0).standard_normal(round(minutes * 60 * RATE)) * ROOM
        path.write_bytes(np.rint(noise).astype("<i2").tobytes())
        self._path, self._speed = path, speed
        self._heard = path.parent / "wavmic.ctl" / HEARD
        self._end: int | None = None

    @property
    def heard(self) -> int:
        """Up to which sample the microphone was read."""
        return int.from_bytes(self._heard.read_bytes(), "little")

    def follow(self, client: Client) -> None:
        """Wait until the daemon has heard its first block."""
        while client.get("/v1/status")["first_block_ms"] is None:
            time.sleep(0.02)
        self._end = self.heard

    def say(self, samples: NDArray[np.int16], wait: bool = True) -> None:
        """Speak, half a second from now; returns when it is over, unless told otherwise."""
        assert self._end is not None, "follow() a daemon first"
        at = self.heard + round(AHEAD_S * self._speed * RATE)
        with self._path.open("r+b") as file:
            os.pwrite(file.fileno(), samples.astype("<i2").tobytes(), 2 * at)
        assert self.heard <= at, "the microphone went by while this was written: the machine is too busy to speak"
        self._end = at + len(samples)
        if wait:
            self.passed(AFTER_S)

    def passed(self, seconds: float) -> None:
        """Wait until the microphone has read what was said, and what it reads in so many seconds more."""
        assert self._end is not None, "follow() a daemon first"
        until, last, ends = self._end + round(seconds * self._speed * RATE), -1, 0.0
        while (now := self.heard) < until:
            if now != last:
                last, ends = now, time.monotonic() + PATIENCE_S
            assert time.monotonic() < ends, "the microphone stands still"
            time.sleep(0.01)
