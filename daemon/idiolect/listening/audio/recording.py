"""Plays recordings and pipes in place of a microphone, for development: ``file:PATH[,speed=N]`` and ``fifo:PATH``.

A file is 16-bit WAV (mono or more channels, 8 kHz or more) or raw S16_LE, mono, 16 kHz; it is played once. A FIFO
carries such raw samples; it is opened again when its writer goes away, and paced by its writer.
"""

from __future__ import annotations

import os
import select
import stat
import time
import wave
from collections import deque
from collections.abc import Callable
from pathlib import Path

from idiolect.errors import MicrophoneAbsent, MicrophoneError, MicrophoneFormat, SourceEnded
from idiolect.listening.audio.capture import SourceInfo
from idiolect.listening.audio.convert import MIN_RATE, AudioConverter, Channel
from idiolect.values import BLOCK, SAMPLE_RATE, Captured

WAIT_S = 0.25
"""The longest that a read takes."""


class FileSource:
    """A recording played once: ``speed`` 1 in real time, N times faster, or 0 as fast as it is read.

    Raises ``MicrophoneAbsent`` or ``MicrophoneFormat`` when it cannot be played. What does not fill a last block of
    1280 samples is not delivered: padding it would be audio that nobody recorded.
    """

    overruns = 0

    def __init__(self, path: Path, *, speed: float = 1.0, channel: Channel = "mix", gain_db: float = 0.0) -> None:
        self._path = path
        try:
            self._pull, self._close, rate, channels = _open_file(path, channel)
        except OSError as error:
            raise _unreadable(path, error) from error
        self.description = SourceInfo(f"file:{path}", rate, channels, live=speed > 0)
        self._converter = AudioConverter(rate, channels, channel=channel, gain_db=gain_db)
        self._chunk = BLOCK * rate // SAMPLE_RATE
        self._block_s = BLOCK / SAMPLE_RATE / speed if speed > 0 else 0.0
        self._due: float | None = None
        self._ready: deque[Captured] = deque()
        self._flushed = False

    def read(self) -> Captured | None:
        """Return the next block when it is due, None when that is more than ``WAIT_S`` away.

        Raises:
            SourceEnded: the recording was played to its end.
        """
        while not self._ready:
            self._ready.extend(self._convert())
        if self._due is None:
            self._due = time.monotonic() + self._block_s
        early = self._due - time.monotonic()
        if early > 0:
            time.sleep(min(early, WAIT_S))
        if early > WAIT_S:
            return None
        self._due += self._block_s
        return self._ready.popleft()

    def _convert(self) -> list[Captured]:
        try:
            data = self._pull(self._chunk)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if data:
            return self._converter.feed(data)
        if self._flushed:
            raise SourceEnded(f"file:{self._path}: the recording has ended", "restart to play it again")
        self._flushed = True
        return self._converter.flush()

    def close(self) -> None:
        """Close the recording's file."""
        self._close()


class FifoSource:
    """Raw S16_LE, 16 kHz, mono samples from a named pipe that its writers may open and close as they like.

    No writer, or a silent one, is no fault. Between two writers time passes: the next block is marked as after a gap.
    """

    overruns = 0

    def __init__(self, path: Path, *, channel: Channel = "mix", gain_db: float = 0.0) -> None:
        self._path = path
        _check_channel(path, channel, 1)
        self._fd = self._open()
        self.description = SourceInfo(f"fifo:{path}", SAMPLE_RATE, 1, live=False)
        self._converter = AudioConverter(SAMPLE_RATE, 1, gain_db=gain_db)
        self._ready: deque[Captured] = deque()
        self._odd = b""  # half a sample
        self._left_at: float | None = None  # when the last writer went

    def read(self) -> Captured | None:
        """Return the next block, or None when the writer has none for ``WAIT_S`` or has gone."""
        if not self._ready:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            if not poll.poll(WAIT_S * 1000):
                return None
            self._receive()
        return self._ready.popleft() if self._ready else None

    def _receive(self) -> None:
        data = os.read(self._fd, 2 * BLOCK)
        if not data:
            self._left_at = time.monotonic()
            fd, self._fd = self._fd, self._open()  # the new end first: a writer always finds a reader
            os.close(fd)
            return
        if self._left_at is not None:
            self._converter.gap(time.monotonic() - self._left_at)
            self._odd, self._left_at = b"", None
        data = self._odd + data
        whole = len(data) & ~1
        self._odd = data[whole:]
        self._ready.extend(self._converter.feed(data[:whole]))

    def _open(self) -> int:
        try:
            if not stat.S_ISFIFO(self._path.stat().st_mode):
                raise MicrophoneFormat(f"fifo:{self._path}: not a FIFO", f"mkfifo {self._path}, or use file:")
            return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def close(self) -> None:
        """Close the pipe, also when it is closed already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_Opened = tuple[Callable[[int], bytes], Callable[[], None], int, int]
"""Read that many frames (fewer, then none at the end); close; rate; channels."""


def _open_file(path: Path, channel: Channel) -> _Opened:
    file = path.open("rb")
    try:
        head = file.read(4)
        file.seek(0)
        if head != b"RIFF":
            _check_channel(path, channel, 1)
            return (lambda frames: _whole_frames(file.read(2 * frames), 2)), file.close, SAMPLE_RATE, 1
        opened = _open_wav(wave.Wave_read(file), file.close)
        _check_channel(path, channel, opened[3])
        return opened
    except (wave.Error, EOFError, RuntimeError) as error:  # the last: a chunk that goes on behind the one around it
        file.close()
        raise _unusable(path, f"not a WAV file that can be read ({error or 'it is cut short'})") from error
    except BaseException:
        file.close()
        raise


def _open_wav(reader: wave.Wave_read, close: Callable[[], None]) -> _Opened:
    rate, channels, width = reader.getframerate(), reader.getnchannels(), reader.getsampwidth()
    if width != 2:
        raise wave.Error(f"{8 * width} bits")
    if rate < MIN_RATE:
        raise wave.Error(f"{rate} Hz")
    return (lambda frames: _whole_frames(reader.readframes(frames), 2 * channels)), close, rate, channels


def _whole_frames(data: bytes, size: int) -> bytes:
    """Return data without the part of a frame at the end of a file that was cut short."""
    return data[: len(data) - len(data) % size]


def _check_channel(path: Path, channel: Channel, channels: int) -> None:
    if channel != "mix" and channel >= channels:
        raise MicrophoneFormat(f"{path}: has {channels} channels, none with index {channel}", "set channel to mix")


def _unusable(path: Path, reason: str) -> MicrophoneError:
    return MicrophoneFormat(f"file:{path}: {reason}", "convert it to 16-bit WAV of 8 kHz or more")


def _unreadable(path: Path, error: OSError) -> MicrophoneError:
    kind = MicrophoneAbsent if isinstance(error, FileNotFoundError) else MicrophoneError
    return kind(f"{path}: {error.strerror or 'cannot be read'}", "check the path and its permissions")
