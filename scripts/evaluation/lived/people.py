"""Who lives there: people of the recordings, whose phrases are pairs of words, and a woman whose prompts Debian ships.

Whatever somebody says comes out as a clip of speech with EDGE of fading room before and behind it, at one level. A
person's ``take`` n of a phrase is always the same clip; the first TAUGHT takes are those she teaches with, negative
ones what she says when one of these was refused. Where there are several recordings, none of those is in a later take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from bundlebuild.audio import RATE, Audio, read, resample
from bundlebuild.augment import level, stretch
from bundlebuild.corpus import speech_span
from bundlebuild.words import DIGITS

TAUGHT = 3
"""Takes that a phrase is taught with."""
EDGE = RATE * 30 // 1000
"""Samples of a clip before and behind its speech."""
LEAST_WORDS = 5
LEAST_CLIPS = 3
"""Words of a person, and recordings of each of these, from which on her words are made into phrases."""
MANY = 20
"""Recordings of a phrase by different people, from which on some of them can teach it to the others' box."""
PROMPTS = Path("/usr/share/asterisk/sounds")
"""Debian's asterisk-core-sounds packages: a folder a language, one recording a prompt."""
PROMPT_S = (0.7, 2.2)


class Person(Protocol):
    """Somebody who can teach phrases, and say them anew each time."""

    @property
    def name(self) -> str:
        """Where her recordings come from, and who she is there."""

    @property
    def real(self) -> bool:
        """Whether a human being was recorded."""

    def everyday(self, count: int) -> list[str]:
        """Up to ``count`` phrases, none near another as far as she has so many."""

    def near(self, count: int) -> list[tuple[str, str]]:
        """Up to ``count`` pairs of phrases that differ in one word."""

    def halves(self, pair: tuple[str, str]) -> tuple[str, ...]:
        """Parts of a pair that are no phrase of hers."""

    def base(self) -> list[str]:
        """Words of the bundle that she can say."""

    def can(self, phrase: str) -> bool:
        """Whether she can say this."""

    def say(self, phrase: str, take: int) -> Audio:
        """A clip."""


def rng_of(*what: object) -> np.random.Generator:
    """Randomness that depends on these names and numbers, and on nothing else."""
    seed = hashlib.sha256("\0".join(map(str, what)).encode()).digest()
    return np.random.default_rng(int.from_bytes(seed[:8], "little"))


def trimmed(audio: Audio) -> Audio:
    """The speech of a recording, at one level, with EDGE around it that fades out."""
    start, end = speech_span(audio)
    padded = np.pad(level(audio), EDGE)
    clip = padded[start : end + 2 * EDGE].copy()
    fade = np.linspace(0.0, 1.0, EDGE, dtype=np.float32)
    clip[:EDGE] *= fade
    clip[-EDGE:] *= fade[::-1]
    return clip


def _joined(first: Audio, second: Audio, gap: int) -> Audio:
    """Two clips of which the speech is ``gap`` samples apart, where their edges overlap."""
    space = 2 * EDGE - gap
    overlap = first[len(first) - space :] + second[:space] if space > 0 else np.zeros(-space, np.float32)
    return np.concatenate([first[: len(first) - max(0, space)], overlap, second[max(0, space) :]])


def varied(audio: Audio, rng: np.random.Generator, pace: float = 0.12, pitch: float = 0.04) -> Audio:
    """The same recording as said again: at another pace and pitch."""
    factor = float(rng.uniform(1.0 - pitch, 1.0 + pitch))
    slower = stretch(audio, float(rng.uniform(1.0 - pace, 1.0 + pace)) / factor)
    return resample(slower, RATE, RATE * factor)


def louder(audio: Audio, rng: np.random.Generator) -> Audio:
    """At the level of this take."""
    return audio * np.float32(10.0 ** (float(np.clip(rng.normal(0.0, 2.0), -5.0, 5.0)) / 20.0))


@dataclass(frozen=True)
class WordPerson:
    """A speaker whose single words are recorded, several times each: her phrases are pairs of them."""

    name: str
    words: dict[str, tuple[Path, ...]]
    english: bool = True
    """Whether a word's name is what the bundle calls it."""
    real: bool = True

    def _order(self) -> list[str]:
        words = sorted(self.words)
        return [words[i] for i in rng_of(self.name, "words").permutation(len(words))]

    def everyday(self, count: int) -> list[str]:
        """Each word comes once first and once second before any comes a second time."""
        words = self._order()
        shifts = range(1, len(words))
        every = [f"{word} {words[(i + shift) % len(words)]}" for shift in shifts for i, word in enumerate(words)]
        return every[:count]

    def near(self, count: int) -> list[tuple[str, str]]:
        """In turn the second and the first word differ."""
        words, found = self._order(), []
        for number in range(count):
            a, b, c = (words[(3 * number + i + number // len(words)) % len(words)] for i in range(3))
            found.append((f"{a} {b}", f"{a} {c}") if number % 2 == 0 else (f"{a} {b}", f"{c} {b}"))
        return list(dict.fromkeys(found))

    def halves(self, pair: tuple[str, str]) -> tuple[str, ...]:
        """The words."""
        return tuple(dict.fromkeys(word for phrase in pair for word in phrase.split()))

    def base(self) -> list[str]:
        """Words that the bundle may have."""
        return self._order() if self.english else []

    def can(self, phrase: str) -> bool:
        """Whether all of its words are recorded."""
        return all(word in self.words for word in phrase.split())

    def say(self, phrase: str, take: int) -> Audio:
        """Word after word, some 50 ms apart."""
        rng = rng_of(self.name, phrase, take)
        said = np.zeros(0, np.float32)
        for place, word in enumerate(phrase.split()):
            clip = self._word(word, phrase, take, place, rng)
            said = _joined(said, clip, int(rng.uniform(0.02, 0.08) * RATE)) if place else clip
        return louder(said, rng)

    def _word(self, word: str, phrase: str, take: int, place: int, rng: np.random.Generator) -> Audio:
        """A recording of it: some are for teaching, the rest for afterwards; what has to serve twice is varied."""
        clips = self.words[word]
        order = [clips[i] for i in rng_of(self.name, word, "clips").permutation(len(clips))]
        some = TAUGHT if len(clips) >= 2 * TAUGHT else len(clips) - len(clips) // 2
        mine, number = (order[:some], take) if take < TAUGHT else (order[some:], take - TAUGHT)
        number = number if take >= 0 else TAUGHT - take
        first = int(rng_of(self.name, phrase, word).integers(len(mine)))
        again = number >= len(mine)
        clip = trimmed(read(mine[(first + number + (place if again else 0)) % len(mine)]))
        return varied(clip, rng, 0.08, 0.02) if again else clip


@dataclass(frozen=True)
class Many(WordPerson):
    """Many people who all say the same few phrases: some of them teach, and the others say it."""

    def everyday(self, count: int) -> list[str]:
        """What they say."""
        return self._order()[:count]

    def near(self, count: int) -> list[tuple[str, str]]:  # noqa: ARG002 - nobody recorded any
        """None."""
        return []


@dataclass(frozen=True)
class PromptPerson:
    """A speaker of whom there is one recording a phrase: she says it at another pace and pitch each time."""

    name: str
    prompts: dict[str, Path]
    words: dict[str, Path] = field(default_factory=dict)
    real: bool = True

    def everyday(self, count: int) -> list[str]:
        """Prompts of which none begins or ends as another does."""
        found: list[str] = []
        for text in sorted(self.prompts, key=lambda t: rng_of(self.name, t).random()):
            own = text.split()
            if all(own[0] != other.split()[0] and own[-1] != other.split()[-1] for other in found):
                found.append(text)
        return found[:count]

    def near(self, count: int) -> list[tuple[str, str]]:  # noqa: ARG002 - nobody recorded any
        """None."""
        return []

    def halves(self, pair: tuple[str, str]) -> tuple[str, ...]:  # noqa: ARG002
        """None."""
        return ()

    def base(self) -> list[str]:
        """Digits."""
        return list(self.words)

    def can(self, phrase: str) -> bool:
        """Whether it was recorded."""
        return phrase in self.prompts or phrase in self.words

    def say(self, phrase: str, take: int) -> Audio:
        """The recording, varied."""
        rng = rng_of(self.name, phrase, take)
        source = self.prompts.get(phrase) or self.words[phrase]
        return louder(varied(trimmed(read(source)), rng), rng)


def digit_people(data: Path) -> list[Person]:
    """Speakers of digits/."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in _audio(data / "digits", "[0-9]"):
        _, _, rest = path.stem.partition("_")
        found.setdefault(rest.rpartition("_")[0], {}).setdefault(DIGITS[int(path.parent.name)], []).append(path)
    return _people("digits", found)


def command_people(data: Path) -> list[Person]:
    """Speakers of speech_commands/."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in _audio(data / "speech_commands", "[a-z]*"):
        found.setdefault(path.name.partition("_")[0], {}).setdefault(path.parent.name, []).append(path)
    return _people("commands", found)


def arabic_people(data: Path) -> list[Person]:
    """Speakers of arabic_words/, whose folders are named in English: "ar." stands before the name of the word."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in _audio(data / "arabic_words", "[a-z]*"):
        found.setdefault(path.name.partition("_")[0], {}).setdefault(f"ar.{path.parent.name}", []).append(path)
    return _people("arabic", found, english=False)


def many_people(data: Path, known: Collection[str], draws: int) -> list[Person]:
    """Who says phrases/ that the bundle does not know, so many times with other people who teach them."""
    found: dict[str, tuple[Path, ...]] = {}
    for path in _audio(data / "phrases", "[a-z]*"):
        if path.parent.name not in known:
            found[path.parent.name] = (*found.get(path.parent.name, ()), path)
    kept = {phrase: paths for phrase, paths in found.items() if len(paths) >= MANY}
    return [Many(f"phrases-{draw}", kept, english=False) for draw in range(draws)] if kept else []


def _audio(folder: Path, words: str) -> list[Path]:
    return sorted(p for p in folder.glob(f"{words}/*") if p.suffix in (".flac", ".wav", ".opus", ".ogg"))


def _people(source: str, found: dict[str, dict[str, list[Path]]], *, english: bool = True) -> list[Person]:
    """Those with words enough, who have most recordings first."""
    people: list[tuple[int, str, WordPerson]] = []
    for name, words in found.items():
        kept = {word: tuple(clips) for word, clips in sorted(words.items()) if len(clips) >= LEAST_CLIPS}
        if len(kept) >= LEAST_WORDS:
            person = WordPerson(f"{source}-{name}", kept, english)
            people.append((-sum(map(len, kept.values())), name, person))
    return [person for _, _, person in sorted(people, key=lambda row: row[:2])]


def prompt_people() -> list[Person]:
    """Whoever speaks Debian's prompts here, where they are WAV files."""
    people: list[Person] = []
    for voice in sorted(PROMPTS.glob("*_*_*")):
        prompts = {p.stem.replace("-", " "): p for p in sorted(voice.glob("*.wav")) if _prompt(p)}
        words = {DIGITS[n]: voice / "digits" / f"{n}.wav" for n in range(10)}
        here = {word: path for word, path in words.items() if path.is_file()}
        person = PromptPerson(f"prompts-{voice.name}", prompts, here)
        if len(person.everyday(10)) == 10:
            people.append(person)
    return people


def _prompt(path: Path) -> bool:
    """Whether it is a few words long, by its size: 8 kHz, two bytes a sample."""
    low, high = (16_000 * seconds for seconds in PROMPT_S)
    return path.stem.count("-") >= 1 and "tone" not in path.stem and low <= path.stat().st_size <= high


def real_people(data: Path, most: Sequence[int]) -> tuple[list[Person], list[str]]:
    """People of the recordings, at most so many of digits, commands, Arabic words and prompts, and what is missing."""
    places = {
        "digits": digit_people(data),
        "speech_commands": command_people(data),
        "arabic_words": arabic_people(data),
        "asterisk's prompts": prompt_people(),
    }
    absent = [f"nobody of {place}" for place, people in places.items() if not people]
    return [p for (people, count) in zip(places.values(), most, strict=True) for p in people[:count]], absent
