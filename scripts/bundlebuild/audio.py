"""Audio helpers of the builder: float32 samples in -1..1, mono, 16 kHz unless a rate is given."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Audio = NDArray[np.float32]


def resample(audio: Audio, source: float, target: float) -> Audio:
    """Band-limited resampling by the Fourier method with reflected ends; any positive rates."""
    if source == target or not len(audio):
        return audio
    edge = min(len(audio) - 1, 400)
    padded = np.pad(audio, edge, mode="reflect") if edge > 0 else audio
    size = max(1, round(len(padded) * target / source))
    spectrum = np.fft.rfft(padded)
    wanted = np.zeros(size // 2 + 1, spectrum.dtype)
    shared = min(len(spectrum), len(wanted))
    wanted[:shared] = spectrum[:shared]
    out = np.fft.irfft(wanted, size) * (size / len(padded))
    start = round(edge * target / source)
    return out[start : start + max(1, round(len(audio) * target / source))].astype(np.float32)


def read(source: Path | io.BytesIO) -> Audio:
    """A file's samples, down-mixed, at 16 kHz. Raises ``soundfile.LibsndfileError`` for what it cannot read."""
    import soundfile  # here, as the demo does without it

    audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
    return resample(audio.mean(1), rate, RATE)


def read_wav_bytes(data: bytes) -> Audio:
    """WAV bytes from a synthesizer's standard output (whose length fields may be wrong)."""
    start = data.find(b"data")
    if data[:4] == b"RIFF" and start > 0:  # espeak-ng cannot seek back to fill in the sizes
        rate = int.from_bytes(data[24:28], "little")
        samples = np.frombuffer(data[start + 8 :][: (len(data) - start - 8) // 2 * 2], "<i2")
        return resample(samples.astype(np.float32) / 32768.0, rate, RATE)
    return read(io.BytesIO(data))


def to_int16(audio: Audio) -> NDArray[np.int16]:
    """Clip and round to 16-bit steps, as a microphone would give them."""
    return np.asarray(np.clip(np.rint(audio * 32768.0), -32768, 32767), np.int16)


def digest(path: Path) -> bytes:
    """SHA-256 of a file's decoded 16-bit samples as recorded (no resampling): the same for WAV and FLAC, everywhere."""
    import soundfile

    samples, _ = soundfile.read(path, dtype="int16")
    return hashlib.sha256(samples.astype("<i2").tobytes()).digest()
