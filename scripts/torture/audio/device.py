"""The microphone: the tests' ALSA plugin, whose clock we tell, so that it may be as fast as the daemon can follow.

Its sound comes from a ring: a file in memory of which the part that is heard next is written before time moves on.
Who reads too late loses sound, as with hardware: the plugin overruns when it is told more than its buffer holds.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from idiolect.values import BLOCK, SAMPLE_RATE
from tests.support.alsa.wavmic import SampleFormat, WavMic

RING_S = 32
"""Seconds of sound in the ring: more than may ever be told at once."""
BUFFER = 16
"""Periods of 80 ms in the device's buffer (``idiolect.listening.audio.microphone.PERIODS``)."""
_SPOKEN, _STARTS, _BASE, _TAKEN = range(4)
"""Words of a told clock (``tests/support/alsa/pcm_wavmic.c``)."""


class Microphone:
    """One device by its ``name``, which may come back as one with another rate, channels or format."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._switches = folder / f"{name}.ctl"
        self._switches.mkdir(parents=True)
        (self._switches / "clock").write_bytes(bytes(8 * 4))
        os.mkfifo(self._switches / "wake")
        with (self._switches / "clock").open("r+b") as file:
            self._words = mmap.mmap(file.fileno(), 8 * 4)
        self._wake = os.open(self._switches / "wake", os.O_RDWR | os.O_NONBLOCK)
        self._ring: mmap.mmap | None = None
        self.become(SAMPLE_RATE, 1)

    def become(self, rate: int, channels: int, sample_format: SampleFormat = "S16_LE") -> None:
        """Be another device from the next time on that it is opened. Only while it is closed."""
        if self._ring is not None:
            self._ring.close()
        self.rate, self.channels, self.period = rate, channels, BLOCK * rate // SAMPLE_RATE
        self._frame = 2 * channels
        file = self._folder / f"{self.name}.ring"
        file.write_bytes(bytes(RING_S * rate * self._frame))
        with file.open("r+b") as opened:
            self._ring = mmap.mmap(opened.fileno(), 0)
        mic = WavMic(
            self._folder, file, name=self.name, rate=rate, channels=channels, sample_format=sample_format,
            eof="loop", clock="told",
        )  # fmt: skip
        self.config = mic.config
        self._resampler = soxr.ResampleStream(SAMPLE_RATE, rate, 1, dtype="float32", quality="LQ")
        self._unheard, self._from = b"", 0  # written and not read yet, from that frame on
        self._put(_SPOKEN, 0)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._wake)
        self._words.close()
        if self._ring is not None:
            self._ring.close()

    # -- its clock -----------------------------------------------------------------------------------------------

    def _get(self, word: int) -> int:
        return int(struct.unpack_from("<q", self._words, 8 * word)[0])

    def _put(self, word: int, value: int) -> None:
        struct.pack_into("<q", self._words, 8 * word, value)

    @property
    def starts(self) -> int:
        """How often it was started."""
        return self._get(_STARTS)

    @property
    def waiting(self) -> int:
        """Frames that were told and not read, since the last start."""
        return self._get(_SPOKEN) - self._get(_BASE) - self._get(_TAKEN)

    def tell(self, room: NDArray[np.int16], *, poke: bool = True) -> None:
        """Let the room sound: int16, mono, 16 kHz."""
        data = self._as_recorded(room)
        spoken = self._get(_SPOKEN)
        self._write(spoken * self._frame, data)
        self._unheard += data
        self._put(_SPOKEN, spoken + len(data) // self._frame)
        if poke:
            self.poke()

    def poke(self) -> None:
        """Have whoever polls look again."""
        with contextlib.suppress(BlockingIOError):  # full, as nobody has looked for very long: so it is readable
            os.write(self._wake, b".")

    def _as_recorded(self, room: NDArray[np.int16]) -> bytes:
        """In the device's rate, and for several channels with the voice weaker in each further one."""
        if self.rate != SAMPLE_RATE:
            sound = self._resampler.resample_chunk(room.astype(np.float32))
            room = np.clip(np.rint(sound), -32768, 32767).astype(np.int16)
        if self.channels > 1:
            room = np.stack([room >> number for number in range(self.channels)], axis=1)
        return room.astype("<i2").tobytes()

    def _write(self, place: int, data: bytes) -> None:
        assert self._ring is not None  # noqa: S101 - until it is closed
        size = len(self._ring)
        place %= size
        first = min(len(data), size - place)
        self._ring[place : place + first] = data[:first]
        self._ring[: len(data) - first] = data[first:]

    def heard(self) -> bytes:
        """What has been read since this was asked last. Exactly these bytes went to who reads."""
        upto = self._get(_BASE) + self._get(_TAKEN)
        size = (upto - self._from) * self._frame
        data, self._unheard, self._from = self._unheard[:size], self._unheard[size:], upto
        return data

    def started(self) -> None:
        """Forget what was told before the last start: nobody heard it."""
        base = self._get(_BASE)
        self._unheard, self._from = self._unheard[(base - self._from) * self._frame :], base

    # -- its faults ----------------------------------------------------------------------------------------------

    def switch(self, fault: str, on: bool = True) -> None:
        """xrun and suspend happen once; gone, busy, eio and short last while they are on."""
        path = self._switches / fault
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)
        self.poke()
