"""The microphone: the one file that talks to ALSA.

A device may say yes and give something else: asked for 16 kHz mono, 48 kHz stereo hardware says yes and delivers 48 kHz
stereo. So the answer is always looked up, the period is chosen again for the rate that was given (one wake-up per 80 ms
at any rate), and ``AudioConverter`` turns the rest into blocks. Reads never block in ALSA: they poll with a time-out,
so that a device that is open and silent is noticed. Only whole periods are read: half of one would put off the next
wake-up, and with it the end of a block.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import select
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alsaaudio

from idiolect.errors import MicrophoneAbsent, MicrophoneBusy, MicrophoneError, MicrophoneFormat, MicrophoneStalled
from idiolect.listening.audio.capture import Source, SourceInfo
from idiolect.listening.audio.convert import MIN_RATE, AudioConverter, Channel
from idiolect.listening.audio.recording import FifoSource, FileSource
from idiolect.values import BLOCK, SAMPLE_RATE, Captured

PERIODS = 16
"""Periods of 80 ms in the device's buffer: the thread may sleep for a second and lose nothing."""
SPARE = 3
"""A nap lasts at most until one part in so many of the device's buffer is full; the rest is for what comes between."""
_LATE_S = 0.004
"""Naps last so much longer: where a device counts in lumps, the last samples of a period are seen a little late."""
_HASTY = 1.25
"""Times real time from which on a microphone is one that plays a recording faster."""
WAIT_S = 0.25
"""The longest that a read takes."""
STALL_S = 2.0
"""An open device that gives nothing for so long has stalled."""
_COMMON_RATE = 48_000
"""Hz. Asked for when a device answers 16 kHz with less: "nearest" may be 8 kHz on hardware that also has this."""


@dataclass(frozen=True, slots=True)
class Device:
    """A capture device by the name that ``open_source`` takes, and what it is in words."""

    name: str
    description: str


def open_source(device: str, *, channel: Channel, gain_db: float) -> Source:
    """Open "file:PATH[,speed=N]", "fifo:PATH" or an ALSA capture PCM by its name.

    ``channel`` is "mix" or the index of the channel to hear, ``gain_db`` the amplification (0 leaves samples alone).
    Raises ``MicrophoneAbsent``, ``MicrophoneBusy``, ``MicrophoneFormat`` or another ``MicrophoneError``, each with
    the next step in ``fix``.
    """
    scheme, _, rest = device.partition(":")
    if scheme == "fifo":
        return FifoSource(Path(rest), channel=channel, gain_db=gain_db)
    if scheme == "file":
        path, _, speed = rest.partition(",speed=")
        try:
            pace = float(speed or 1)
        except ValueError:
            pace = -1.0
        if not 0 <= pace < float("inf"):
            raise MicrophoneFormat(f"{device}: the speed must be a number from 0", "file:PATH,speed=1 is real time")
        return FileSource(Path(path), speed=pace, channel=channel, gain_db=gain_db)
    return AlsaMicrophone(device, channel=channel, gain_db=gain_db)


def list_devices() -> tuple[Device, ...]:
    """Return every capture PCM that ALSA knows now, as ``arecord -L`` lists them. Raises ``MicrophoneError``."""
    try:
        names = alsaaudio.pcms(alsaaudio.PCM_CAPTURE)
        indexes = alsaaudio.card_indexes()
        cards = {card: alsaaudio.card_name(i)[0] for card, i in zip(alsaaudio.cards(), indexes, strict=False)}
    except alsaaudio.ALSAAudioError as error:
        raise _as_fault("devices", error) from error
    return tuple(Device(name, _describe(name, cards)) for name in names if name != "null")


class AlsaMicrophone:
    """An ALSA capture PCM, as a ``Source``."""

    def __init__(self, device: str, *, channel: Channel = "mix", gain_db: float = 0.0) -> None:
        """Open the device and check what it gives; nothing stays open when that raises."""
        _silence_libasound()
        # A single channel must be looked for among several: asked for mono, ALSA's converters would mix them.
        self._pcm = _negotiate(device, 1 if channel == "mix" else max(2, channel + 1))
        self.overruns = 0
        try:
            self.description = _checked(device, self._pcm, channel)
            descriptors = self._pcm.polldescriptors()
        except alsaaudio.ALSAAudioError as error:
            self._pcm.close()
            raise _as_fault(device, error) from error
        except MicrophoneError:
            self._pcm.close()
            raise
        self._converter = AudioConverter(
            self.description.rate, self.description.channels, channel=channel, gain_db=gain_db
        )
        given = self._pcm.info()
        self._period: int = given["period_size"]  # frames
        self._spare: int = given["buffer_size"] // SPARE
        self._fds = [fd for fd, _ in descriptors]
        self._poll = select.poll()
        for fd, events in descriptors:
            self._poll.register(fd, events)
        self._ready: deque[Captured] = deque()
        self._started = False  # the first read after an open or an overrun starts the stream
        self._broken = False  # samples are missing before the next ones
        self._opened_at = self._heard_at = time.monotonic()  # when the last sample read was spoken
        self._frames = 0  # read since it was opened

    def read(self) -> Captured | None:
        """Return the next block, or None after ``WAIT_S``.

        Raises:
            MicrophoneStalled: there was no data for ``STALL_S``.
            MicrophoneError: ALSA reports a fault.
        """
        deadline = time.monotonic() + WAIT_S
        try:
            while not self._ready:
                held = self._pcm.avail()
                if self._started and 0 <= held < self._period:
                    if not self._data_within(deadline):
                        self._check_stall()
                        return None
                    held = self._pcm.avail()
                self._take(held)
                if self._broken and time.monotonic() > deadline:  # nothing but overruns
                    self._check_stall()
                    return None
        except alsaaudio.ALSAAudioError as error:
            if not self._ready:  # what was read before the fault goes first; the next read meets it again
                raise _as_fault(self.description.device, error) from error
        return self._ready.popleft()

    @property
    def ready(self) -> int:
        """Return how many blocks wait here, no longer in the device."""
        return len(self._ready)

    def ready_in(self, blocks: int) -> float:
        """Return the seconds until ``blocks``, or as many as are safe, are in the device; 0 for under two periods."""
        rate = self.description.rate
        frames = min(blocks * BLOCK * rate // SAMPLE_RATE, self._spare) // self._period * self._period
        if not self._started or frames < 2 * self._period:
            return 0.0
        due = self._heard_at + frames / (rate * self._pace()) + _LATE_S
        return max(0.0, due - time.monotonic())

    def close(self) -> None:
        """Release the device for others."""
        self._pcm.close()

    def _take(self, held: int) -> None:
        """Read the whole periods among the ``held`` frames; where these are fewer or a fault, read once and see."""
        now, per_second = time.monotonic(), self.description.rate * self._pace()
        while True:
            frames, data = self._pcm.read()
            self._started = frames >= 0
            if frames < 0:  # an overrun: ALSA threw its buffer away and waits to be started again
                self.overruns += 1
                self._broken = True
                return
            held -= frames
            if frames:
                self._heard(frames, data, now - max(0, held) / per_second)
            if not frames or held < self._period:
                return

    def _heard(self, frames: int, data: bytes, spoken_at: float) -> None:
        if self._broken:
            self._broken = False
            self._converter.gap(max(0.0, spoken_at - self._heard_at - frames / self.description.rate))
        self._heard_at = spoken_at
        self._frames += frames
        self._ready.extend(self._converter.feed(data))

    def _pace(self) -> float:
        """Return how much faster than life samples come: 1 from a device, more from a recording in its place."""
        pace = self._frames / (self.description.rate * max(time.monotonic() - self._opened_at, WAIT_S))
        return pace if pace > _HASTY else 1.0

    def _check_stall(self) -> None:
        if time.monotonic() - self._heard_at > STALL_S:
            raise MicrophoneStalled(
                f"{self.description.device}: open, but no sound for {STALL_S:g} s",
                "nothing to do if it comes back; else check the cable, or the driver's messages in dmesg",
            )

    def _data_within(self, deadline: float) -> bool:
        """Wait for data or a fault, both of which the next ``_pcm.read`` returns; False at the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            # Asking anew tells a plugin that somebody waits: PipeWire's descriptor stays ready until then.
            self._pcm.polldescriptors()
            events = dict(self._poll.poll(left * 1000))
            # A descriptor may be a plugin's timer: only ALSA knows what its being ready means.
            if events and self._pcm.polldescriptors_revents([(fd, events.get(fd, 0)) for fd in self._fds]):
                return True
        return False


def _negotiate(device: str, channels: int) -> Any:
    """Return an open PCM at 16 kHz if the device has it, else at a higher rate, else at what there is."""
    asked = SAMPLE_RATE
    for last in (False, False, True):
        pcm = _open(device, asked, channels)
        given = pcm.info()["rate"]
        if given == asked or last:
            break
        pcm.close()
        asked = _COMMON_RATE if given < SAMPLE_RATE == asked else given
    return pcm


def _open(device: str, rate: int, channels: int) -> Any:
    try:
        return alsaaudio.PCM(
            type=alsaaudio.PCM_CAPTURE,
            mode=alsaaudio.PCM_NONBLOCK,
            device=device,
            rate=rate,
            channels=channels,
            format=alsaaudio.PCM_FORMAT_S16_LE,
            periodsize=BLOCK * rate // SAMPLE_RATE,
            periods=PERIODS,
        )
    except alsaaudio.ALSAAudioError as error:
        raise _as_fault(device, error) from error


def _checked(device: str, pcm: Any, channel: Channel) -> SourceInfo:
    """Return what the device really gives; raise ``MicrophoneFormat`` when that cannot be used."""
    given = pcm.info()
    plug = "plughw:" + device[3:] if device.startswith("hw:") else f"plug:{device}"
    if given["format"] != alsaaudio.PCM_FORMAT_S16_LE:
        raise MicrophoneFormat(
            f"{device}: gives {given['format_name']} samples, S16_LE is needed", f"let ALSA convert: device: {plug}"
        )
    if given["rate"] < MIN_RATE:
        raise MicrophoneFormat(
            f"{device}: gives {given['rate']} Hz, speech needs {MIN_RATE} or more", "use another microphone"
        )
    if channel != "mix" and channel >= given["channels"]:
        raise MicrophoneFormat(
            f"{device}: gives {given['channels']} channels, none with index {channel}",
            "set channel to mix, or to an index that it has",
        )
    return SourceInfo(device, given["rate"], given["channels"])


_GROUP = "let the service's user read /dev/snd (SupplementaryGroups=audio), or write to the sound server's socket"
_SERVER = "start PipeWire, and let the service know and reach its socket (PIPEWIRE_RUNTIME_DIR)"
_FAULTS: dict[int, tuple[type[MicrophoneError], str, str]] = {
    errno.EBUSY: (MicrophoneBusy, "held by another program", "stop that program, or share through dsnoop"),
    errno.EAGAIN: (MicrophoneBusy, "held by another program", "stop that program, or share through dsnoop"),
    errno.ENOENT: (MicrophoneAbsent, "no such device", "plug it in, or choose one that `idiolect devices` lists"),
    errno.ENODEV: (MicrophoneAbsent, "no such device", "plug it in, or choose one that `idiolect devices` lists"),
    errno.ENXIO: (MicrophoneAbsent, "no such device", "plug it in, or choose one that `idiolect devices` lists"),
    errno.EHOSTDOWN: (MicrophoneAbsent, "the sound server does not answer", _SERVER),
    errno.ECONNREFUSED: (MicrophoneAbsent, "the sound server does not answer", _SERVER),
    errno.EINVAL: (MicrophoneFormat, "refuses these settings", "let ALSA convert: plughw:... in place of hw:..."),
    errno.EACCES: (MicrophoneError, "not permitted", _GROUP),
    errno.EPERM: (MicrophoneError, "not permitted", _GROUP),
}


def _as_fault(device: str, error: Exception) -> MicrophoneError:
    """Return the fault that an error of pyalsaaudio means.

    It gives the text of an errno and the device's name in brackets; the number is found by its text.
    """
    text = str(error).removesuffix(f" [{device}]")
    if text == os.strerror(errno.ENOENT) and _shut_out():
        return MicrophoneError(f"{device}: there are sound cards, and none that may be opened", _GROUP)
    for number, (kind, message, fix) in _FAULTS.items():
        if text == os.strerror(number):
            return kind(f"{device}: {message}", fix)
    return MicrophoneError(f"{device}: {text}", "it is opened again; if that does not help, see dmesg")


def _shut_out(folder: Path = Path("/dev/snd")) -> bool:
    """Return whether there are cards and all are closed to us: libasound says then that there are none."""
    controls = list(folder.glob("controlC*"))
    return bool(controls) and not any(os.access(each, os.R_OK | os.W_OK) for each in controls)


def _describe(name: str, cards: dict[str, str]) -> str:
    """Return words for a PCM name such as "plughw:CARD=Mic,DEV=0"."""
    kind, _, rest = name.partition(":")
    arguments = dict(part.partition("=")[::2] for part in rest.split(","))
    card = cards.get(arguments.get("CARD", ""), "")
    how = {
        "hw": "the hardware as it is",
        "plughw": "the hardware, converted by ALSA where needed",
        "dsnoop": "shared between programs",
        "default": "the system's choice",
        "sysdefault": "the card's default",
    }.get(kind, "")
    return ": ".join(part for part in (card, how) if part) or "defined in the ALSA configuration"


@functools.cache
def _silence_libasound() -> None:
    """Keep libasound from writing five lines to the journal at each attempt to open an absent device.

    The handler is printf-like. A C function that reads none of its arguments is a silent one, and unlike a Python
    callback needs no memory that is writable and executable, which the service is denied.
    """
    try:
        library = ctypes.CDLL(alsaaudio.__file__)  # finds the very libasound that pyalsaaudio is linked with
        library.snd_lib_error_set_handler(ctypes.cast(library.getpid, ctypes.c_void_p))
    except (OSError, AttributeError):
        pass  # noisy, nothing worse
