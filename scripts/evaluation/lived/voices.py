"""Synthetic people: each a voice of an engine that is installed, who never says a phrase twice alike.

A take differs from the next in pace, pitch and level, and is said in a small room.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from bundlebuild.audio import RATE, Audio, read_wav_bytes
from bundlebuild.augment import level

from . import phrases
from .people import Person, louder, rng_of, trimmed

Engine = Callable[[str, float, float], Audio]
"""Text, pace (1 is as usual) and pitch (likewise) to speech."""
ROOM_SAMPLES = 2_400


@dataclass(frozen=True)
class Voice:
    """A synthetic person. ``languages``: whose phrases she teaches, in turn."""

    name: str
    speak: Engine
    languages: tuple[str, ...]
    cache: Path | None = None
    real: bool = False

    def everyday(self, count: int) -> list[str]:
        """In turn of each language, then English ones."""
        own = [phrases.EVERYDAY[language] for language in self.languages]
        mixed = [each[i] for i in range(max(map(len, own))) for each in own if i < len(each)]
        return list(dict.fromkeys([*mixed, *phrases.EVERYDAY["en"]]))[:count]

    def near(self, count: int) -> list[tuple[str, str]]:
        """Likewise."""
        own = [phrases.NEAR[language] for language in self.languages]
        mixed = [each[i] for i in range(max(map(len, own))) for each in own if i < len(each)]
        return mixed[:count]

    def halves(self, pair: tuple[str, str]) -> tuple[str, ...]:
        """Common and own words."""
        return phrases.halves(pair)

    def base(self) -> list[str]:
        """A few English words."""
        return list(phrases.BASE) if "en" in self.languages else []

    def can(self, phrase: str) -> bool:
        """Whether it is in a language of hers."""
        return any(phrase in phrases.SPOKEN[language] for language in self.languages)

    def say(self, phrase: str, take: int) -> Audio:
        """Spoken anew, or what this take sounded like before."""
        path = self.cache / self.name / f"{phrase.replace(' ', '_')}-{take}.flac" if self.cache else None
        if path and path.is_file():
            return np.asarray(soundfile.read(path, dtype="float32")[0], np.float32)
        rng = rng_of(self.name, phrase, take)
        clip = trimmed(self.speak(phrase, float(rng.uniform(0.88, 1.14)), float(rng.uniform(0.94, 1.06))))
        clip = louder(level(_small_room(clip)), rng)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(".part")
            soundfile.write(scratch, clip, RATE, format="FLAC", subtype="PCM_16")
            scratch.replace(path)
            return np.asarray(soundfile.read(path, dtype="float32")[0], np.float32)  # the same samples next time
        return clip


def _small_room(clip: Audio) -> Audio:
    rng = np.random.default_rng(5)
    response = np.zeros(ROOM_SAMPLES, np.float32)
    response[80:] = rng.standard_normal(ROOM_SAMPLES - 80) * np.exp(-np.arange(ROOM_SAMPLES - 80) / 500.0) * 0.03
    response[0] = 1.0
    size = 1 << (len(clip) + ROOM_SAMPLES).bit_length()
    said = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(response, size), size)
    return np.asarray(said[: len(clip)], np.float32)


def flite(voice: str, hertz: float) -> Engine:
    """One of flite's."""

    def speak(text: str, pace: float, pitch: float) -> Audio:
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "out.wav"
            how = ["--setf", f"duration_stretch={1 / pace:.3f}", "--setf", f"int_f0_target_mean={hertz * pitch:.1f}"]
            subprocess.run(["flite", "-voice", voice, *how, "-t", text, "-o", str(wav)], check=True, timeout=60)
            return read_wav_bytes(wav.read_bytes())

    return speak


def espeak(variant: str, pitch_at: float, usual: float = 160.0) -> Engine:
    """One of espeak-ng's, which speaks the language of what it says."""

    def speak(text: str, pace: float, pitch: float) -> Audio:
        language = next((k for k, group in phrases.SPOKEN.items() if text in group), "en")
        voice = f"{'en-us' if language == 'en' else language}+{variant}"
        how = ["-s", str(round(usual * pace)), "-p", str(round(pitch_at * pitch))]
        command = ["espeak-ng", "-v", voice, *how, "--stdout", text]
        return read_wav_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    return speak


def synthetic_people(cache: Path | None) -> tuple[list[Person], list[str]]:
    """Everybody whose engine is here, and which are not."""
    found: list[Person] = []
    absent = []
    if shutil.which("flite"):
        for voice, hertz in (("slt", 175.0), ("rms", 105.0), ("awb", 128.0)):
            found.append(Voice(f"flite-{voice}", flite(voice, hertz), ("en",), cache))
    else:
        absent.append("nobody of flite, which is not installed")
    if shutil.which("espeak-ng"):
        for variant, pitch, languages in (
            ("f4", 60.0, ("en", "de", "es")),
            ("m3", 42.0, ("en",)),
            ("f2", 55.0, ("fr", "de")),
        ):
            found.append(Voice(f"espeak-{variant}", espeak(variant, pitch), languages, cache))
    else:
        absent.append("nobody of espeak-ng, which is not installed")
    return found, absent
