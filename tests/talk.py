"""Speaking into the simulated microphone when one wants to: the recording is written while it is played."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idiolect.client import Client

AHEAD_S = 0.5
"""How far ahead of the microphone one writes: its position is known to a tenth of a second."""
ROOM = 3.0


class Talker:
    """A raw S16 file in which the future of a microphone is written, ``speed`` times faster than life."""

    def __init__(self, path: Path, speed: float = 1.0, minutes: float = 10.0) -> None:
        noise = np.random.default_rng(0).standard_normal(round(minutes * 60 * 16_000)) * ROOM
        path.write_bytes(np.rint(noise).astype("<i2").tobytes())
        self._path, self._speed = path, speed
        self._origin: float | None = None

    def follow(self, client: Client) -> None:
        """Find out where the microphone is: the daemon knows when it heard the first block."""
        while (status := client.get("/v1/status"))["first_block_ms"] is None:
            time.sleep(0.02)
        self._origin = time.monotonic() - float(str(status["uptime_s"])) + float(str(status["first_block_ms"])) / 1000

    def say(self, samples: NDArray[np.int16], wait: bool = True) -> None:
        """Speak, half a second from now; returns when it is over, unless told otherwise."""
        assert self._origin is not None, "follow() a daemon first"
        now = (time.monotonic() - self._origin) * self._speed
        at = now + AHEAD_S * self._speed
        with self._path.open("r+b") as file:
            os.pwrite(file.fileno(), samples.astype("<i2").tobytes(), 2 * round(at * 16_000))
        if wait:
            time.sleep(max(0.0, (at + len(samples) / 16_000 - now) / self._speed + 0.3))
