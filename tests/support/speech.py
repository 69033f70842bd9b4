"""Recorded human speech for tests: what Debian's packages ship, so that the tests need no data of ours."""

from __future__ import annotations

import io
import subprocess
import wave
from functools import cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
"""Debian's asterisk-core-sounds-en-wav: one woman, 8 kHz."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@cache
def recording(path: Path) -> NDArray[np.int16]:
    """A mono S16 WAV as int16 at 16 kHz."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
        rate = file.getframerate()
    samples = soxr.resample(samples, rate, 16_000)
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


def digit(number: int) -> NDArray[np.int16]:
    """One spoken digit."""
    return recording(SOUNDS / "digits" / f"{number}.wav")


@cache
def synthetic(word: str, voice: str = "en-us") -> NDArray[np.int16]:
    """A word as espeak-ng says it."""
    command = ["espeak-ng", "-v", voice, "-s", "140", "--stdout", word]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(said)) as file:
        samples = np.frombuffer(file.readframes(10_000_000), "<i2").astype(np.float32)  # a pipe's header knows no end
        rate = file.getframerate()
    return np.clip(np.rint(soxr.resample(samples, rate, 16_000)), -32768, 32767).astype(np.int16)


def sentences(count: int) -> NDArray[np.int16]:
    """Several prompts one after another, about two seconds each."""
    names = sorted(path for path in SOUNDS.glob("*.wav") if path.stat().st_size > 30_000)[:count]
    return np.concatenate([recording(name) for name in names])


def silence(seconds: float, level: float = 4.0, seed: int = 7) -> NDArray[np.int16]:
    """A quiet room: white noise of ``level`` S16 steps RMS."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * level
    return np.rint(noise).astype(np.int16)
