"""A room in which recordings are spoken: what the machine's microphone hears, written shortly before it is heard.

The microphone is the ALSA plugin of the tests (tests/support/alsa): in the container the daemon opens it, on a virtual
board it is what QEMU's sound card records from. Its clock tells where in the recording the microphone is.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tests.support.alsa.wavmic import SampleFormat, WavMic, build

from .base import Unavailable

RATE = 16_000
AHEAD_S = 0.4
"""How far ahead of the microphone one writes."""
LENGTH_S = 120
"""Then the room's recording begins anew."""
NOISE = 3.0
Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Spoken:
    """When something was said, by this machine's monotonic clock."""

    begin: float
    end: float


class Room(ABC):
    """Where the machine stands."""

    device = "default"
    """What the product's configuration calls the microphone."""

    @abstractmethod
    def say(self, samples: Samples, *, wait: bool = True) -> Spoken:
        """Speak S16 samples at 16 kHz; returns when they were said, unless told not to wait."""

    def hush(self) -> None:  # noqa: B027  # there is nothing to take back of what a loudspeaker said
        """Be quiet."""


class SilentRoom(Room):
    """A real device that nobody speaks to."""

    def __init__(self, device: str) -> None:
        self.device = device

    def say(self, samples: Samples, *, wait: bool = True) -> Spoken:
        raise Unavailable("nobody speaks to it: give --loudspeaker, an ALSA device of this machine that it can hear")


class Loudspeaker(Room):
    """A real device within hearing of this machine's loudspeaker."""

    def __init__(self, device: str, loudspeaker: str) -> None:
        self.device, self._loudspeaker = device, loudspeaker

    def say(self, samples: Samples, *, wait: bool = True) -> Spoken:
        begin = time.monotonic()
        command = ["aplay", "-q", "-D", self._loudspeaker, "-t", "raw", "-f", "S16_LE", "-r", str(RATE), "-c", "1"]
        with tempfile.TemporaryFile() as file:
            file.write(samples.astype("<i2").tobytes())
            file.seek(0)
            player = subprocess.Popen(command, stdin=file)
        if wait and player.wait():
            raise Unavailable(f"{self._loudspeaker} does not play")
        return Spoken(begin, begin + len(samples) / RATE)


class WavRoom(Room):
    """A simulated microphone in ``folder``, which the machine sees at ``inside``; ``config`` is its asound.conf."""

    def __init__(self, folder: Path, *, inside: str = "", name: str = "room") -> None:
        self._folder, self._inside = folder, inside
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # the daemon's user takes and releases the microphone in it
        self._audio = folder / f"{name}.s16"
        noise = np.random.default_rng(0).standard_normal(LENGTH_S * RATE) * NOISE
        self._noise = np.rint(noise).astype("<i2")
        self._said: list[tuple[int, int]] = []
        self._audio.write_bytes(self._noise.tobytes())
        self.mic = WavMic(folder, self._audio, name=name, eof="loop")
        self.mic.switches.chmod(0o777)
        self.device = name
        self.config = self.mic.config
        if inside:
            self._move(folder, inside)

    def _move(self, folder: Path, inside: str) -> None:
        """Its files as they are called in the machine; the plugin goes with them."""
        plugin = build()
        (folder / plugin.name).write_bytes(plugin.read_bytes())
        text = self.config.read_text().replace(str(plugin), f"{inside}/{plugin.name}")
        self.config.write_text(text.replace(str(folder.resolve()), inside))

    def say(self, samples: Samples, *, wait: bool = True) -> Spoken:
        started = self.mic.started_at
        if started is None:
            raise Unavailable("nobody listens to the simulated microphone")
        self.hush()
        at = round((time.monotonic() - started + AHEAD_S) * RATE)
        self._write(at, samples)
        self._said.append((at, len(samples)))
        begin = started + at / RATE
        spoken = Spoken(begin, begin + len(samples) / RATE)
        if wait:
            time.sleep(max(0.0, spoken.end + 0.3 - time.monotonic()))
            self.hush()
        return spoken

    def _write(self, at: int, samples: Samples) -> None:
        total = LENGTH_S * RATE
        positions = (at + np.arange(0, len(samples), RATE)) % total
        with self._audio.open("r+b") as file:
            for number, position in enumerate(positions):
                piece = samples[number * RATE : (number + 1) * RATE].astype("<i2")
                head = piece[: total - position]
                os.pwrite(file.fileno(), head.tobytes(), 2 * int(position))
                os.pwrite(file.fileno(), piece[len(head) :].tobytes(), 0)

    def hush(self) -> None:
        """Let it be quiet when the recording comes round again."""
        while self._said:
            at, count = self._said.pop()
            self._write(at, np.resize(self._noise, count))

    def hardware(self, samples: Samples, rate: int, channels: int, sample_format: SampleFormat) -> str:
        """Another microphone, which only gives this, and says ``samples`` (16 kHz) again and again; its name."""
        import soxr

        name = f"mic_{rate}_{channels}_{sample_format.lower()}"
        mono = np.rint(soxr.resample(samples.astype(np.float32), RATE, rate)).astype("<i2")
        audio = self._folder / f"{name}.s16"
        audio.write_bytes(np.repeat(mono[:, None], channels, axis=1).tobytes())
        mic = WavMic(
            self._folder, audio, name=name, rate=rate, channels=channels, sample_format=sample_format, eof="loop"
        )
        mic.switches.chmod(0o777)
        stanza = mic.config.read_text()
        stanza = stanza[stanza.index(f"pcm.{name} ") :].replace(str(self._folder.resolve()), self._inside)
        text = self.config.read_text()
        self.config.write_text(text if f"pcm.{name} " in text else text + stanza)
        return name

    def fault(self, name: Literal["gone", "busy", "stall", "xrun"], on: bool = True) -> None:
        """A fault of the microphone: unplugged, held by somebody else, stalled, or one overrun."""
        path = self.mic.switches / name
        if on:
            path.touch()
            path.chmod(0o666)
        else:
            path.unlink(missing_ok=True)
