"""Synthetic people: each a voice of an engine that is installed, who never says a phrase twice alike.

A take differs from the next in pace, pitch and level, and is said in a small room.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bundlebuild import voices
from bundlebuild.audio import RATE, Audio, read_wav_bytes
from bundlebuild.augment import level
from bundlebuild.voices import Speak

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
    folder: Path | None = None
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
        path = self.folder / self.name / f"{phrase.replace(' ', '_')}-{take}.flac" if self.folder else None
        if path and path.is_file():
            return np.asarray(soundfile.read(path, dtype="float32")[0], np.float32)
        rng = rng_of(self.name, phrase, take)
        clip = trimmed(self.speak(phrase, float(rng.uniform(0.88, 1.14)), float(rng.uniform(0.94, 1.06))))
        clip = louder(level(_small_room(clip)), rng)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}")
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


class Drawn(np.random.Generator):
    """What a neural engine draws for one person: always the same timbre, and the pace and pitch that are wanted."""

    def __init__(self, who: int, wanted: Sequence[float]) -> None:
        super().__init__(np.random.PCG64(who))
        self._wanted = list(wanted)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:  # noqa: ARG002
        """The next of what is wanted, instead."""
        return self._wanted.pop(0)


def neural(name: str, who: int, before: Sequence[float], pitch_at: float, *, slower: bool = False) -> Engine:
    """One person of a neural engine. ``before``: what it draws before pace and pitch; ``slower``: it draws a length."""

    def speak(text: str, pace: float, pitch: float) -> Audio:
        wanted = [*before, 1.0 / pace if slower else pace, pitch_at * (1.0 + (pitch - 1.0) / 2.0)]
        return _loaded(name)(text, Drawn(who, wanted))

    return speak


def _loaded(name: str) -> Speak:
    """An engine when it is wanted, as loading takes seconds.

    Piper's draws noise of its own from one utterance to the next: loaded anew it says the same every time.
    """
    return voices.engines([name])[name] if name == "piper" else _kept(name)


@cache
def _kept(name: str) -> Speak:
    return voices.engines([name])[name]


FLITE = (("slt", 175.0), ("rms", 105.0), ("awb", 128.0))
ESPEAK = (("f4", 60.0, ("en", "de", "es")), ("m3", 42.0, ("en",)), ("f2", 55.0, ("fr", "de")))
KOKORO = ((11, 1.0), (23, 0.92), (37, 0.86))
"""Seeds of timbres, and their pitch."""


def neural_people(folder: Path | None) -> list[Person]:
    """Those of ``./scripts/setup --voices``, where they are installed."""
    here, found = voices.available(), list[Person]()
    if "piper" in here:
        found.append(Voice("piper", neural("piper", 0, (), 1.0, slower=True), ("en",), folder))
    if "hibari" in here:
        found.append(Voice("hibari", neural("hibari", 1, (), 1.0), ("en",), folder))
    if "kokoro" in here:  # a second or two a phrase: the last ones
        found += [Voice(f"kokoro-{who}", neural("kokoro", who, (1.1, 1.1), at), ("en",), folder) for who, at in KOKORO]
    return found


def synthetic_people(folder: Path | None) -> tuple[list[Person], list[str]]:
    """Everybody whose engine is here, in turn of the engines, and which are not."""
    absent = [f"nobody of {name}, which is not installed" for name in ("flite", "espeak-ng") if not shutil.which(name)]
    groups: list[list[Person]] = [[], [], []]
    if shutil.which("flite"):
        groups[0] = [Voice(f"flite-{voice}", flite(voice, hertz), ("en",), folder) for voice, hertz in FLITE]
    if shutil.which("espeak-ng"):
        groups[1] = [Voice(f"espeak-{v}", espeak(v, pitch), languages, folder) for v, pitch, languages in ESPEAK]
        groups[2] = neural_people(folder)
    if not groups[2]:
        absent.append("nobody of the neural voices, which ./scripts/setup --voices brings")
    return [person for row in zip_longest(*groups) for person in row if person is not None], absent
