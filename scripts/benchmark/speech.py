"""What the listeners are fed: continuous human speech, near-silence, and single spoken digits.

Continuous means that no pause outlasts 0.1 s, so that a gate which saves work in pauses stays open all the
time and every library does its full work. Everything returned is mono int16 at 16 kHz, shape (samples,).
"""

from __future__ import annotations

import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

RATE = 16_000
BLOCK = 1_280
PAUSE = RATE // 10
"""Samples of a pause that are kept in continuous speech."""
PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
"""Where Debian's asterisk-core-sounds-en-wav puts recordings of a person speaking."""

Samples = NDArray[np.int16]


class NoSpeechError(Exception):
    """Nothing on this machine can be fed to the listeners; the message names the package to install."""


def read_wav(path: Path) -> Samples:
    """The first channel of a 16-bit WAV, resampled to 16 kHz. Raises ``NoSpeechError`` where it is none."""
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2:
                raise NoSpeechError(f"{path.name}: {8 * file.getsampwidth()}-bit samples, 16-bit wanted")
            rate = file.getframerate()
            raw = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
            samples = raw[:: file.getnchannels()]
    except (OSError, EOFError, wave.Error) as error:
        raise NoSpeechError(f"{path.name} cannot be read as a WAV file: {error}") from None
    if rate == RATE:
        return samples.astype(np.int16)
    return np.asarray(soxr.resample(samples, rate, RATE), dtype=np.int16)


def write_wav(path: Path, samples: Samples) -> None:
    """Mono, 16 kHz, 16-bit."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def loud(samples: Samples, below_peak_db: float = 35.0) -> NDArray[np.bool_]:
    """For each 10 ms whether it is speech: its level is within ``below_peak_db`` of the loudest 10 ms."""
    hops = samples[: len(samples) // 160 * 160].astype(np.float64).reshape(-1, 160)
    energy = (hops**2).mean(axis=1)
    if not len(energy) or energy.max() == 0:
        return np.zeros(len(energy), dtype=bool)
    return np.asarray(energy > energy.max() * 10 ** (-below_peak_db / 10))


def without_pauses(samples: Samples) -> Samples:
    """The same speech with every pause, at the ends too, cut down to ``PAUSE``."""
    keep, quiet = [], 0
    for index, speech in enumerate(loud(samples)):
        quiet = 0 if speech else quiet + 160
        if quiet <= PAUSE:
            keep.append(samples[index * 160 : (index + 1) * 160])
    return np.concatenate(keep) if keep else samples[:0]


def continuous_speech(seconds: float, recording: Path | None = None) -> tuple[Samples, str]:
    """``seconds`` of speech without pauses, and where it comes from.

    From ``recording`` if given, else from Debian's telephone prompts, else synthesised by espeak-ng.
    """
    if recording is not None:
        speech, origin = without_pauses(read_wav(recording)), "the given recording"
    elif PROMPTS.is_dir():
        speech, origin = _prompts(seconds), "asterisk-core-sounds-en-wav (one woman, 8 kHz)"
    else:
        speech, origin = without_pauses(synthesised("The quick brown fox jumps over the lazy dog. " * 60)), "espeak-ng"
    if not speech.any():
        raise NoSpeechError("no speech in the recording: nothing in it is louder than its own background")
    wanted = int(seconds * RATE) // BLOCK * BLOCK
    return np.resize(speech, wanted), origin  # repeats the speech where it is too short


def _prompts(seconds: float) -> Samples:
    parts: list[Samples] = []
    total = 0
    for path in sorted(PROMPTS.glob("*.wav")):
        parts.append(without_pauses(read_wav(path)))
        total += len(parts[-1])
        if total >= seconds * RATE:
            break
    return np.concatenate(parts)


def synthesised(text: str) -> Samples:
    """``text`` spoken by espeak-ng."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        try:
            subprocess.run(["espeak-ng", "-w", str(path), text], check=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise NoSpeechError("no speech to feed: apt install asterisk-core-sounds-en-wav, or give --audio") from None
        return read_wav(path)


def hiss(seconds: float, dbfs: float, seed: int = 0) -> Samples:
    """White noise at ``dbfs`` (dB below a full-scale square wave): a quiet room."""
    level = 32768 * 10 ** (dbfs / 20)
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE) // BLOCK * BLOCK) * level
    return np.clip(np.rint(noise), -32768, 32767).astype(np.int16)
