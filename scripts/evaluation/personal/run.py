"""Everything about personalization in one run: who is judged with which model, all of it on all cores, and the report.

A person or phrase that the shipped bundle never heard is judged with it. For any other, a model is trained that did not
(``leftout``); people of Speech Commands are left out in GROUPS, as one training each would take hours.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bundlebuild.finish import DIGEST
from bundlebuild.words import BACKGROUND
from evaluation.arguments import PERSONAL
from evaluation.embed import Heard
from idiolect.learning.model import Model
from idiolect.listening.recognizer import Recognizer

from . import adapt, household, leftout, people, poison, taught
from .people import Clip

GROUPS = 8
LEAST_CLIPS = 12
PARTS = PERSONAL
OWN_VOICE = 3
"""Digits that are taught by the one who says them: each costs a training."""
FEWEST = 500
"""Clips from which on a model can be trained for those whom the shipped one heard."""


@dataclass(slots=True)
class Result:
    """Figures, why some are missing, and what the plots are drawn from."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    users: list[adapt.User] = field(default_factory=list)
    scores: dict[str, list[taught.Scores]] = field(default_factory=dict)
    owners: list[poison.Owner] = field(default_factory=list)


class Bench:
    """The clips, and a model for everybody."""

    def __init__(self, recognizer: Recognizer, heard: Sequence[Heard], known: set[bytes], cache: Path | None) -> None:
        self.recognizer, self.cache = recognizer, cache
        self.clips = people.clips(heard)
        self.sentences = people.sentences(heard)
        self._seen = {c.speaker for c in self.clips if c.heard.digest[:DIGEST] in known}
        self.users = {
            **adapt.users(self.clips, "digits", LEAST_CLIPS),
            **adapt.users(self.clips, "speech_commands", people.HEAVY),
        }
        self.phrases = [*self._folders("phrases", taught.SHOTS[0] + 1), *self._folders("speech_commands", 4)]
        self.phrases += self._folders("digits", 1)[:OWN_VOICE]
        self.fresh = leftout.shipped(recognizer)
        self.models: dict[str, Model] = {}
        self.reasons: dict[str, str] = {}

    def _folders(self, source: str, least: int) -> list[tuple[str, str]]:
        mine = [c for c in self.clips if c.heard.clip.source == source and not c.word.startswith("_")]
        words = sorted({c.word for c in mine})
        return [(source, w) for w in words if len({c.speaker for c in mine if c.word == w}) >= least]

    def prepare(self, parts: Iterable[str], processes: int) -> None:
        """Find or train the models that these parts need."""
        spoken = people.spoken(self.clips, self.sentences[0]) if self.clips else None
        tasks: dict[str, leftout.Task] = {}
        wanted = {key: self._left_out(key) for key in self._keys(parts)}
        for key, (name, kept, phrase) in wanted.items():
            if not name:
                self.models[key] = self.fresh
            elif spoken is None or kept.sum() < FEWEST or not (spoken.labels[kept] == BACKGROUND).any():
                self.reasons[key] = "the shipped model heard it, and there are too few recordings to train another"
            else:
                tasks.setdefault(name, leftout.Task(name, spoken, kept, self.cache, phrase))
        if not tasks:
            return
        say(f"training {len(tasks)} models that never heard what is tested on")
        trained = leftout.retrain(self.recognizer.bundle, list(tasks.values()), processes)
        self.models |= {key: trained[name] for key, (name, _, _) in wanted.items() if name in trained}

    def _keys(self, parts: Iterable[str]) -> list[str]:
        chosen = set(parts)
        keys = [f"user {name}" for name in self.users] if chosen - {"taught"} else []
        return keys + ([f"{source} {word}" for source, word in self.phrases] if "taught" in chosen else [])

    def _left_out(self, key: str) -> tuple[str, np.ndarray, str]:
        """What the training is called (nothing: the shipped model), the clips in it, and the phrase unknown to it."""
        kind, name = key.split(" ", 1)
        nothing = np.zeros(0, np.bool_)
        if kind == "user":
            if name not in self._seen:
                return "", nothing, ""
            group = self.group(name)
            return f"users {group}", np.array([c.speaker not in group for c in self.clips]), ""
        heard = any(c.word == name and c.speaker in self._seen for c in self.clips)
        if not heard and name not in self.recognizer.bundle.classes:
            return "", nothing, ""
        return f"phrase {name}", np.array([c.word != name for c in self.clips]), name

    def group(self, name: str) -> tuple[str, ...]:
        """Who is left out together: digits' speakers each alone, as there are so few."""
        source = self.users[name][0].heard.clip.source
        if source == "digits" or name not in self._seen:
            return (name,)
        everybody = [n for n, own in self.users.items() if own[0].heard.clip.source == source and n in self._seen]
        return tuple(everybody[everybody.index(name) % GROUPS :: GROUPS])

    def others(self, name: str) -> list[Clip]:
        """Clips of people whom the user's model did not hear either, if there are any, else of anybody else."""
        apart = set(self.group(name)) | (set(self.users) - self._seen)
        unheard = [c for c in self.clips if c.speaker in apart and c.speaker != name]
        chosen = unheard or [c for c in self.clips if c.speaker != name and c.label != BACKGROUND]
        rng = np.random.default_rng(list(name.encode()))
        return [chosen[i] for i in rng.permutation(len(chosen))[: adapt.FRESH]]

    @property
    def judged(self) -> list[str]:
        """Users for whom there is a model."""
        return [name for name in self.users if f"user {name}" in self.models]

    def homes(self) -> list[tuple[dict[str, list[Clip]], Model]]:
        """Households of up to four people of one model."""
        together: dict[int, list[str]] = {}
        for name, own in self.users.items():
            if own[0].heard.clip.source == "speech_commands" and f"user {name}" in self.models:
                together.setdefault(id(self.models[f"user {name}"]), []).append(name)
        found = []
        for names in together.values():
            for first in range(0, len(names) - 1, 4):
                some = names[first : first + 4]
                found.append(({n: self.users[n] for n in some}, self.models[f"user {some[0]}"]))
        return found


T = TypeVar("T")
R = TypeVar("R")
_bench: Bench


def _adapt(name: str) -> adapt.User:
    return adapt.measure(name, _bench.users[name], _bench.models[f"user {name}"], _bench.others(name))


def _taught(place: tuple[str, str]) -> taught.Scores:
    source, word = place
    return taught.phrase(word, source, _bench.clips, _bench.sentences[1], _bench.models[f"{source} {word}"])


def _poison(name: str) -> poison.Owner:
    return poison.measure(name, _bench.users[name], _bench.models[f"user {name}"], _bench.clips)


def _household(number: int) -> household.Home:
    members, model = _bench.homes()[number]
    left_out = {c.speaker for own in members.values() for c in own}
    other = [c for c in _bench.clips if c.speaker not in left_out and c.word in model.phrases]
    rng = np.random.default_rng(number)
    return household.measure(members, [other[i] for i in rng.permutation(len(other))[:200]], model)


def _each(work: Callable[[T], R], items: Sequence[T], processes: int, what: str) -> list[R]:
    """In forked processes, with a line on standard error."""
    since = time.monotonic()
    with multiprocessing.get_context("fork").Pool(max(1, min(processes, len(items) or 1))) as pool:
        found = list(pool.imap(work, items, chunksize=1))
    say(f"{what}: {len(items)} in {time.monotonic() - since:.0f} s")
    return found


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)


def run(bench: Bench, parts: Sequence[str], processes: int) -> Result:
    """Measure these parts."""
    global _bench
    bench.prepare(parts, processes)
    _bench, result = bench, Result()
    result.reasons |= bench.reasons
    steps = {"adapt": _adaptation, "taught": _teaching, "poison": _poisoning, "household": _households}
    for part in parts:
        steps[part](result, processes)
    return result


def _adaptation(result: Result, processes: int) -> None:
    result.users = _each(_adapt, _bench.judged, processes, "adaptation, users")
    for source in ("digits", "speech_commands"):
        _put(result, f"adapt.{source}", adapt.figures(source, [u for u in result.users if u.source == source]))
    _put(result, "guard", adapt.regressions(result.users))


def _teaching(result: Result, processes: int) -> None:
    todo = [(source, word) for source, word in _bench.phrases if f"{source} {word}" in _bench.models]
    measured = _each(_taught, todo, processes, "taught phrases")
    for kind, source in (("phrases", "phrases"), ("words", "speech_commands"), ("own_voice", "digits")):
        rows = [m for m, (s, _) in zip(measured, todo, strict=True) if s == source]
        result.scores[kind] = rows
        _put(result, f"taught.{kind}", taught.figures(kind, rows) if rows else {})
    _put(result, "taught", taught.totals([*result.scores["phrases"], *result.scores["words"]]))


def _poisoning(result: Result, processes: int) -> None:
    _, reported = poison.tuning(_bench.judged)
    result.owners = _each(_poison, reported, processes, "poisoning, owners")
    _put(result, "poison", poison.figures(result.owners) if result.owners else {})


def _households(result: Result, processes: int) -> None:
    homes = _each(_household, range(len(_bench.homes())), processes, "households")
    _put(result, "household", household.figures(homes) if homes else {})
    group = {n: o for n, o in _bench.users.items() if o[0].heard.clip.source == "speech_commands"}
    _put(result, "privacy", household.privacy(group, _bench.fresh))


def _put(result: Result, what: str, values: dict[str, Any]) -> None:
    if not values:
        result.reasons[what] = "no recordings of this kind"
    for key, value in values.items():
        result.values[key] = round(value, 5) if isinstance(value, float) else value
        if value is None:
            result.reasons[key] = "too few recordings of this kind"
