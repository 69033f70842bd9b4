"""Files and pipes in place of a microphone."""

from __future__ import annotations

import contextlib
import os
import time
import wave

import numpy as np
import pytest

from idiolect.errors import MicrophoneAbsent, MicrophoneFormat, SourceEnded
from idiolect.listening.audio.recording import FifoSource, FileSource
from idiolect.values import BLOCK, SAMPLE_RATE, Captured


def write_wav(path, frames: np.ndarray, rate: int, width: int = 2):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(frames.shape[1] if frames.ndim == 2 else 1)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(frames.astype("<i2" if width == 2 else np.uint8).tobytes())
    return path


def play(source: FileSource) -> list[Captured]:
    blocks = []
    with contextlib.closing(source), contextlib.suppress(SourceEnded):
        while True:
            blocks.append(source.read())
    return blocks


@pytest.mark.parametrize("kind", ["wav", "raw"])
def test_a_16_khz_mono_recording_is_played_unchanged(tmp_path, kind):
    frames = np.arange(5 * BLOCK + 700) - 3_000
    path = tmp_path / "speech"
    if kind == "wav":
        write_wav(path, frames, SAMPLE_RATE)
    else:
        path.write_bytes(frames.astype("<i2").tobytes())
    blocks = play(FileSource(path, speed=0))
    assert len(blocks) == 5  # the last 700 samples fill no block, and nothing is made up
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), frames[: 5 * BLOCK])


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_any_rate_and_stereo_come_out_at_full_length(tmp_path, rate):
    t = np.arange(2 * rate) / rate
    left = 20_000 * np.sin(2 * np.pi * 1_000 * t)
    path = write_wav(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), rate)
    source = FileSource(path, speed=0)
    assert (source.description.rate, source.description.channels) == (rate, 2)
    samples = np.concatenate([b.samples for b in play(source)])
    assert len(samples) == 2 * SAMPLE_RATE // BLOCK * BLOCK
    spectrum = np.abs(np.fft.rfft(samples[8_000:24_000].astype(float))) / 8_000
    assert np.argmax(spectrum) == 1_000
    assert spectrum[1_000] == pytest.approx(10_000, rel=0.01)


def test_one_channel_and_gain(tmp_path):
    frames = np.stack([np.full(BLOCK, 7), np.full(BLOCK, 100)], axis=1)
    path = write_wav(tmp_path / "a.wav", frames, SAMPLE_RATE)
    (block,) = play(FileSource(path, speed=0, channel=1, gain_db=20.0))
    assert np.all(block.samples == 1_000)


def test_it_ends_and_stays_ended(tmp_path):
    source = FileSource(write_wav(tmp_path / "a.wav", np.zeros(BLOCK), SAMPLE_RATE), speed=0)
    assert source.read() is not None
    for _ in range(3):
        with pytest.raises(SourceEnded):
            source.read()
    source.close()


@pytest.mark.pace
@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 0.4), (4.0, 0.1)])
def test_it_is_paced(tmp_path, speed, seconds):
    path = write_wav(tmp_path / "a.wav", np.zeros(5 * BLOCK), SAMPLE_RATE)
    source = FileSource(path, speed=speed)
    assert source.description.live
    started = time.monotonic()
    assert len(play(source)) == 5
    assert seconds <= time.monotonic() - started < seconds + 0.15


@pytest.mark.pace
def test_a_read_of_a_very_slow_recording_does_not_block_for_long(tmp_path):
    source = FileSource(write_wav(tmp_path / "a.wav", np.zeros(BLOCK), SAMPLE_RATE), speed=0.2)
    started = time.monotonic()
    assert source.read() is None
    assert time.monotonic() - started < 0.4
    assert source.read() is not None
    assert time.monotonic() - started >= 0.4


def test_a_recording_cut_short_is_played_as_far_as_it_goes(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.stack([np.arange(4 * BLOCK)] * 2, axis=1), SAMPLE_RATE)
    os.truncate(path, 44 + 2 * 4 * BLOCK + 3)  # two blocks and a part of a frame
    blocks = play(FileSource(path, speed=0))
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), np.arange(2 * BLOCK))


def test_a_raw_file_with_half_a_sample_at_its_end(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(2 * BLOCK + 1))
    assert len(play(FileSource(path, speed=0))) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF",
        b"RIFF\x10\x00\x00\x00WAVEfmt ",
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x03\x00\x01\x00\x80\x3e\x00\x00\x00\xfa\x00\x00\x04\x00\x20\x00",
    ],
    ids=["bare", "truncated", "not-wave", "float"],
)
def test_a_broken_or_foreign_wav_is_refused_with_a_fix(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(MicrophoneFormat, match="not a WAV file") as fault:
        FileSource(path)
    assert "16-bit" in fault.value.fix


def test_8_bit_slow_and_one_channelled_recordings_are_refused(tmp_path):
    with pytest.raises(MicrophoneFormat, match="8 bits"):
        FileSource(write_wav(tmp_path / "a.wav", np.zeros(BLOCK), SAMPLE_RATE, width=1))
    with pytest.raises(MicrophoneFormat, match="4000 Hz"):
        FileSource(write_wav(tmp_path / "b.wav", np.zeros(BLOCK), 4_000))
    with pytest.raises(MicrophoneFormat, match="1 channels"):
        FileSource(write_wav(tmp_path / "c.wav", np.zeros(BLOCK), SAMPLE_RATE), channel=1)


def test_a_missing_file_is_absent(tmp_path):
    with pytest.raises(MicrophoneAbsent, match=r"none\.wav"):
        FileSource(tmp_path / "none.wav")


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "mic.fifo"
    os.mkfifo(path)
    source = FifoSource(path)
    yield path, source
    source.close()
    source.close()


def read_all(source: FifoSource) -> list[Captured]:
    """Blocks until none comes for a while."""
    blocks, quiet = [], 0
    while quiet < 2:
        block = source.read()
        quiet = 0 if block else quiet + 1
        blocks += [block] if block else []
    return blocks


@pytest.mark.pace
def test_a_fifo_without_a_writer_is_waited_for(fifo):
    _, source = fifo
    started = time.monotonic()
    assert source.read() is None
    assert 0.2 < time.monotonic() - started < 0.4


def test_a_fifo_delivers_what_is_written_in_any_pieces(fifo):
    path, source = fifo
    data = np.arange(3 * BLOCK, dtype="<i2").tobytes()
    with path.open("wb", buffering=0) as writer:
        blocks = []
        for start in range(0, len(data), 1_111):  # an odd number of bytes
            writer.write(data[start : start + 1_111])
            blocks.append(source.read())
        blocks = [b for b in blocks if b] + read_all(source)
    assert np.array_equal(np.concatenate([b.samples for b in blocks]), np.arange(3 * BLOCK))
    assert not any(b.lost for b in blocks)


def test_a_fifo_opens_again_for_the_next_writer_and_marks_the_gap(fifo):
    path, source = fifo
    with path.open("wb") as writer:
        writer.write(np.full(BLOCK + 100, 5, "<i2").tobytes() + b"\x01")
    (first,) = read_all(source)
    with path.open("wb") as writer:
        writer.write(np.full(2 * BLOCK, 6, "<i2").tobytes())
    second, third = read_all(source)
    assert np.all(first.samples == 5)
    assert np.all(second.samples == 6)  # neither the unfinished block nor the half sample leaks into it
    assert second.lost >= 100  # they were held back, and time has passed
    assert third.lost == 0


def test_a_fifo_idles_without_spinning_after_its_writer_left(fifo):
    path, source = fifo
    path.open("wb").close()
    source.read()
    before = time.process_time()
    for _ in range(2):
        source.read()
    assert time.process_time() - before < 0.05


def test_a_plain_file_is_no_fifo_and_a_removed_one_is_absent(tmp_path, fifo):
    plain = tmp_path / "plain"
    plain.touch()
    with pytest.raises(MicrophoneFormat, match="not a FIFO") as fault:
        FifoSource(plain)
    assert "mkfifo" in fault.value.fix
    path, source = fifo
    with path.open("wb"):
        path.unlink()
    with pytest.raises(MicrophoneAbsent):
        source.read()
