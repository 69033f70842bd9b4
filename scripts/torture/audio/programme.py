"""What sounds in the room for a day: people at all levels and rates, noise, music, broken sound, and long silences.

Everything is chosen by one seeded generator. Recordings are those of the project's data folder; where that is missing,
what Debian ships (``tests.support.speech``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from bundlebuild.audio import read, to_int16
from evaluation.ambient import music
from idiolect.values import SAMPLE_RATE
from tests.support import speech

Sound = NDArray[np.int16]
_LOUDEST = 32_767
_WORDS = ("computer", "jarvis", "alexa")
_FLOORS = (0.0, 3.0, 12.0)
"""S16 steps RMS of the room's own noise."""


@dataclass(frozen=True)
class Material:
    """Recordings at 16 kHz: phrases that the bundle knows, longer speech, and what is neither."""

    words: Sequence[Sound]
    sentences: Sequence[Sound]
    noises: Sequence[Sound]
    source: str

    @classmethod
    def found(cls, data: Path, chance: np.random.Generator, words: int = 240) -> Material:
        """From ``data`` if it is there, else from Debian's packages. OSError where there is neither."""
        if (data / "speech_commands").is_dir():
            return cls._recorded(data, chance, words)
        names = sorted(speech.SOUNDS.glob("*.wav"))
        if not names:
            raise FileNotFoundError(f"no recordings: neither {data.name} nor {speech.SOUNDS}")
        long = [path for path in names if path.stat().st_size > 30_000][:40]
        digits = [speech.digit(number) for number in range(10)]
        return cls(digits, [speech.recording(path) for path in long], _noises(data), "Debian's recordings")

    @classmethod
    def _recorded(cls, data: Path, chance: np.random.Generator, count: int) -> Material:
        folders = [data / "phrases" / name for name in _WORDS]
        folders += [each for each in sorted((data / "speech_commands").iterdir()) if not each.name.startswith("_")]
        folders += sorted((data / "digits").iterdir())
        words = [path for each in folders for path in _some(each, chance, -(-count // len(folders)))]
        orders = _some(data / "coffee_orders" / "clean", chance, max(4, count // 8))
        return cls(
            [to_int16(read(path)) for path in words],
            [to_int16(read(path)) for path in orders],
            _noises(data),
            "recordings of the data folder",
        )


def _some(folder: Path, chance: np.random.Generator, count: int) -> list[Path]:
    files = sorted(folder.glob("*.flac"))
    return [files[i] for i in chance.permutation(len(files))[:count]]


def _noises(data: Path) -> list[Sound]:
    """Kitchens and music, or chords where there is none."""
    kitchens = sorted((data / "noise").glob("*.flac"))
    found = [to_int16(read(path)) for path in kitchens]
    found += [speech.recording(path)[: 60 * SAMPLE_RATE] for path in music(data)[:3] if path.suffix == ".wav"]
    return found or [_chords()]


def _chords(seconds: int = 40) -> Sound:
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * 110.0 * 2 ** (step / 12) * time) for step in (0, 4, 7, 12, 16))
    beats = 0.5 + 0.5 * np.sin(2 * np.pi * 1.7 * time)
    return np.asarray(np.rint(2500 * tones * beats), np.int16)


class Room:
    """An endless stream of sound, int16 at 16 kHz."""

    def __init__(self, material: Material, chance: np.random.Generator, *, talkative: bool = False) -> None:
        """``talkative``: words without end, and nothing else."""
        self._m, self._chance = material, chance
        bank = chance.standard_normal(60 * SAMPLE_RATE)
        self._floors = [np.rint(bank * level).astype(np.int16) for level in _FLOORS]
        self._floor = self._floors[1]
        self._now: Sound = np.empty(0, np.int16)
        self._speech_at = -1  # sample of what is left at which somebody is in the middle of a word; -1 where nobody is
        kinds: list[tuple[float, Callable[[], Sound]]] = [
            (10.0, self._word),
            (1.0, self._skewed),
            (0.7, self._offset),
            (0.5, self._clipped),
            (2.0, self._sentence),
            (3.0, self._quiet),
            (0.5, self._zeros),
            (1.7, self._noise),
        ]
        kinds = kinds[:1] if talkative else kinds
        weights = np.array([weight for weight, _ in kinds])
        self._kinds, self._weights = [kind for _, kind in kinds], weights / weights.sum()
        self.utterances = 0

    def take(self, samples: int) -> Sound:
        """What is heard next."""
        parts, left = [], samples
        while left:
            if not len(self._now):
                self._next()
            part, self._now = self._now[:left], self._now[left:]
            self._speech_at -= len(part)
            parts.append(part)
            left -= len(part)
        return np.concatenate(parts) if parts else self._now[:0]

    def until_speech(self, most: int) -> int:
        """Samples from here until somebody is in the middle of a word, at most so many."""
        while self._speech_at < 0 and len(self._now) < most:
            before = self._now
            self._next()
            self._speech_at += len(before) if self._speech_at >= 0 else 0
            self._now = np.concatenate([before, self._now])
        return min(most, self._speech_at) if self._speech_at >= 0 else most

    def _next(self) -> None:
        kind = self._kinds[int(self._chance.choice(len(self._kinds), p=self._weights))]
        self._speech_at = -1
        self._now = kind()

    # -- kinds of sound ------------------------------------------------------------------------------------------

    def _any(self, sounds: Sequence[Sound]) -> Sound:
        return sounds[int(self._chance.integers(len(sounds)))]

    def _slice(self, sound: Sound, seconds: float) -> Sound:
        """So long a part of it, from anywhere, round and round."""
        start, size = int(self._chance.integers(len(sound))), round(seconds * SAMPLE_RATE)
        return np.take(sound, np.arange(start, start + size), mode="wrap")

    def _between(self, low: float, high: float) -> float:
        """Small numbers are as likely as large ones."""
        return float(np.exp(self._chance.uniform(np.log(low), np.log(high))))

    def _spoken(self, voice: NDArray[np.floating] | Sound, level: float | None = None) -> Sound:
        """At any level in the room's noise, and a pause behind it."""
        self.utterances += 1
        sound = voice.astype(np.float32)
        loud = float(np.sqrt(np.mean(sound**2))) or 1.0
        wanted = 32768 * 10 ** (self._chance.uniform(-42, -12) / 20) if level is None else level
        pause = self._between(0.2, 3.0)
        room = self._slice(self._floor, len(sound) / SAMPLE_RATE + pause).astype(np.float32)
        room[: len(sound)] += sound * (wanted / loud)
        self._speech_at = len(sound) // 2
        return _saturated(room)

    def _word(self) -> Sound:
        return self._spoken(self._any(self._m.words))

    def _sentence(self) -> Sound:
        return self._spoken(self._any(self._m.sentences))

    def _skewed(self) -> Sound:
        """As from a device whose crystal is up to 3 % off."""
        off = 1.0 + float(self._chance.uniform(-0.03, 0.03))
        voice = self._any(self._m.words).astype(np.float32)
        return self._spoken(soxr.resample(voice, SAMPLE_RATE, SAMPLE_RATE * off, quality="LQ"))

    def _offset(self) -> Sound:
        """With direct current in it."""
        sound = self._word().astype(np.float32) + float(self._chance.uniform(-12_000, 12_000))
        return _saturated(sound)

    def _clipped(self) -> Sound:
        """Speech or noise far beyond full scale."""
        if self._chance.random() < 0.5:
            return self._spoken(self._any(self._m.words), level=30_000.0)
        return _saturated(20.0 * self._slice(self._any(self._m.noises), self._between(2, 10)).astype(np.float32))

    def _quiet(self) -> Sound:
        self._floor = self._any(self._floors)
        return self._slice(self._floor, self._between(4, 90))

    def _zeros(self) -> Sound:
        return np.zeros(round(self._between(2, 40) * SAMPLE_RATE), np.int16)

    def _noise(self) -> Sound:
        sound = self._slice(self._any(self._m.noises), self._between(4, 40)).astype(np.float32)
        return _saturated(sound * self._between(0.05, 2.0))


def _saturated(sound: NDArray[np.float32]) -> Sound:
    return np.clip(np.rint(sound), -_LOUDEST - 1, _LOUDEST).astype(np.int16)
