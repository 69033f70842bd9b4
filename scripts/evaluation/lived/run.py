"""Measured as lived: who teaches what and says it how, on all cores, and what is left out."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from bundlebuild.audio import read
from bundlebuild.augment import level
from evaluation.ambient import music
from evaluation.conditions import kitchen_for_tests
from evaluation.embed import bar
from idiolect.learning.model import Model
from idiolect.listening.recognizer import Recognizer
from idiolect.people.models import model_of

from . import figures, homes
from .homes import Found, Scene
from .listening import Device, has_pause
from .people import Person, many_people, real_people
from .sound import CONDITIONS
from .talk import sentences, wake_words
from .voices import synthetic_people


@dataclass(frozen=True, slots=True)
class Size:
    """How much is played. ``people``: most of digits, commands, Arabic words, prompts; each phrase is said ``takes``
    times; every ``share``-th person is heard in each further condition."""

    people: tuple[int, int, int, int]
    voices: int
    takes: int
    share: int
    foreign: int
    thirty: int
    pairs: int = 5


SIZES = {
    "quick": Size((1, 1, 1, 1), 2, 1, 2, 4, 1, 3),
    "default": Size((4, 3, 4, 1), 8, 2, 2, 8, 4),
    "large": Size((8, 12, 24, 4), 12, 4, 1, 60, 24),
}
WAKES = 24
"""Wake words by other people that a bundle hears at once in a quiet room; of so many times two they are taken."""
PIECES = 2
"""Of music, that sound in turn."""
OTHERS = 8
"""How many others say each phrase that three people taught, a take."""
FURTHER = ("few", *CONDITIONS[1:])


@dataclass(frozen=True, slots=True)
class Task:
    """One household: of what kind, who lives there, and who comes."""

    kind: str
    person: Person
    other: Person | None = None
    conditions: tuple[str, ...] = ()
    count: int = 10
    guests: tuple[Person, ...] = ()


@dataclass(slots=True)
class Result:
    """Figures, and why some are missing or mean less."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


_scene: Scene
_todo: list[Task]


def _work(number: int) -> Found:
    task = _todo[number]
    if task.kind == "pairs":
        return homes.pairs(_scene, task.person, task.count)
    if task.kind == "voice_match" and task.other is not None:
        return homes.by_voice(_scene, task.person, task.other, task.count)
    if task.kind == "shared":
        return homes.shared(_scene, task.person, task.guests, task.count)
    if task.kind == "others":
        takes = OTHERS * _scene.takes
        return homes.everyday(_scene, task.person, 10, task.conditions, called="others", takes=takes)
    return homes.everyday(_scene, task.person, task.count, task.conditions, guest=task.other)


def tasks(people: Sequence[Person], size: Size) -> list[Task]:
    """All households, the longest first."""
    found = []
    for number, person in enumerate(people):
        kin = [other for other in people if type(other) is type(person) and other is not person]
        near = [other for other in kin if other.name.partition("-")[0] == person.name.partition("-")[0]] or kin
        guest = near[number % len(near)] if near else None
        further = FURTHER if size.share == 1 else tuple(
            c for i, c in enumerate(FURTHER) if (i + number) % size.share == 0 or c == "few"
        )  # fmt: skip
        found.append(Task("everyday", person, guest, further))
        found.append(Task("everyday", person, None, (), 2))
        if person.near(1):
            found.append(Task("pairs", person, count=size.pairs))
        if near and number % size.share == 0:
            found.append(Task("shared", person, guests=tuple(islice(cycle(near), number, number + min(3, len(near))))))
        if guest and person.base() and guest.base() and number % size.share == 0:
            found.append(Task("voice_match", person, guest))
    many = [person for person in people if len(person.everyday(30)) == 30]
    chosen = [many[i * len(many) // size.thirty] for i in range(size.thirty)] if len(many) >= size.thirty else many
    thirty = [Task("everyday", person, None, ("few",), 30) for person in chosen]
    return [*thirty, *sorted(found, key=lambda task: task.kind != "everyday" or task.count == 2)]


def _scene_of(recognizer: Recognizer, model: Model, data: Path, size: Size, reasons: dict[str, str]) -> Scene:
    noise, spoken = data / "noise" / "kitchen.flac", sentences(data)
    recorded = wake_words(data, recognizer.bundle.wake_words, 2 * WAKES)
    wakes = Device(recognizer, model).woken_by(recorded)[:WAKES]
    noises = {"10db": kitchen_for_tests(read(noise))} if noise.is_file() else {}
    if not noises:
        reasons["lived.10-10db"] = "no noise/kitchen.flac"
    pieces = [read(path) for path in music(data)[:PIECES]]
    if pieces:
        noises["music"] = np.concatenate([level(piece) for piece in pieces])
    else:
        reasons["lived.10-music"] = "no music/, and asterisk-moh-opsound-wav is not installed"
    if not spoken:
        reasons["lived.foreign_taken"] = "no coffee_orders/ with labels.json"
    return Scene(recognizer, model, wakes, spoken, noises, size.takes, size.foreign)


def run(recognizer: Recognizer, data: Path, size: Size, cache: Path | None, processes: int) -> Result:
    """Play everything."""
    global _scene, _todo  # noqa: PLW0603 - what every process shares, set before they are forked
    result, model = Result(), model_of(recognizer)
    if model is None:
        result.reasons["lived"] = "the bundle has no personal space: build it with build_bundle.py --space"
        return result
    real, absent = real_people(data, size.people)
    synthetic, mute = synthetic_people(cache)
    people = [*real, *synthetic[: size.voices]]
    _scene = _scene_of(recognizer, model, data, size, result.reasons)
    left_out = [*absent, *mute]
    if left_out:
        result.reasons["lived.people"] = "left out: " + "; ".join(left_out)
    if not has_pause():
        result.reasons["lived.10-block600"] = "listening.pause_ms is no setting here: measured without it"
    if not _scene.wakes:
        result.reasons["lived"] = "no wake word under phrases/ that this bundle hears: nobody can open a turn"
        return result
    _todo = tasks(people, size)
    others = many_people(data, recognizer.bundle.classes, size.takes + 1)
    _todo += [Task("others", person, conditions=("few",)) for person in others]
    if not others:
        result.reasons["lived.others-quiet"] = "no phrase under phrases/ that many say and the bundle does not know"
    found = figures.joined(_each(len(_todo), processes))
    result.values = {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.figures(found).items()}
    result.values["lived.people"], result.values["lived.people.real"] = len(people), len(real)
    return result


def _each(count: int, processes: int) -> list[Found]:
    since, found = time.monotonic(), []
    with multiprocessing.get_context("fork").Pool(max(1, min(processes, count))) as pool:
        for done, part in enumerate(pool.imap(_work, range(count), chunksize=1), 1):
            bar(done, count, since, "households")
            found.append(part)
    print(f"  households: {count} in {time.monotonic() - since:.0f} s", file=sys.stderr, flush=True)
    return found
