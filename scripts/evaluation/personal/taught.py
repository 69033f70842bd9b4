"""How well a taught phrase is found: each phrase in turn is unknown to the base and taught from a few clips.

Teacher and speaker differ ("cross-speaker"): nobody among the examples is tested. At one false accept in a hundred,
what is counted is the highest score of the taught row over all windows of a clip, against the same of every other clip
from the same recordings. At the shipped thresholds it is events, also in sentences that the model never heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bundlebuild.words import BACKGROUND
from evaluation.embed import Heard
from idiolect.learning import trainer
from idiolect.learning.ledger import Ledger
from idiolect.learning.model import Model
from idiolect.listening.pipeline.adapter import Taught
from idiolect.listening.pipeline.decoder import SMOOTHING
from idiolect.listening.pipeline.household import SLOPE, TAUGHT_OPEN, TAUGHT_THRESHOLD
from idiolect.listening.pipeline.space import RIVAL

from .people import Clip, Stream, example, mean, utterances

SHOTS = (3, 5, 10)
DRAWS = 10
FALSE_ACCEPTS = 0.01
SEPARATE_STEPS = 8
LEAST_TESTED = 5


LIMITS = {"": TAUGHT_OPEN, "in_turn.": TAUGHT_THRESHOLD}
"""The shipped thresholds: at any time, and in the turn after a wake word."""
STREAMED = 3
"""Shots and draws with which events are counted."""


@dataclass(slots=True)
class Counts:
    """Events at one threshold: missed share by draw, and accepts in words and in sentences."""

    missed: list[float] = field(default_factory=list)
    accepts: int = 0
    in_sentences: int = 0


@dataclass(slots=True)
class Scores:
    """One phrase's draws: scores of its own clips and of the others', events, and the hours they were counted in."""

    name: str
    own: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    other: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    events: dict[str, Counts] = field(default_factory=lambda: {limit: Counts() for limit in LIMITS})
    hours: float = 0.0
    sentence_hours: float = 0.0

    def found(self, shots: int) -> float | None:
        """Share of its clips found at the threshold that one in a hundred others crosses."""
        if not self.own.get(shots):
            return None
        rates = [
            float(np.mean(o > np.quantile(n, 1.0 - FALSE_ACCEPTS)))
            for o, n in zip(self.own[shots], self.other[shots], strict=True)
        ]
        return float(np.mean(rates))


class Bench:
    """z of every window of every clip and sentence, computed once per model."""

    def __init__(self, model: Model, clips: Sequence[Clip], sentences: Sequence[Heard] = ()) -> None:
        self.model = model
        self.clips = clips
        self.spans = model.space.features(utterances(clips))  # (n, 3, D)
        background = model.classes.index(BACKGROUND)
        heard = [*(c.heard for c in clips), *sentences]
        scored = [Stream(model, h.embeddings["clean"]).scored for h in heard]
        self.windows = [each.z for each in scored]
        self.rivals = [RIVAL * each.rivals[:, -1] for each in scored]
        self.speech = [1.0 - each.posteriors()[:, background] for each in scored]
        self.sentences = range(len(clips), len(heard))
        self.sentence_hours = sum(h.seconds for h in sentences) / 3600.0

    def teach(self, chosen: Sequence[int], phrase: str) -> Taught:
        """What the device makes of these clips as enrolments."""
        ledger = Ledger(
            "aa" * 8, tuple(replace(example(self.clips[i], n), phrase=phrase) for n, i in enumerate(chosen))
        )
        material, _ = trainer.prepare(self.model, ledger)
        adapter = trainer.build(self.model, ledger, material, trainer.When(0), trainer.LADDER[-1])
        return next(t for t in adapter.taught if t.name == phrase)

    def best(self, taught: Taught, rows: Sequence[int]) -> NDArray[np.float32]:
        """The highest score of each clip."""
        return np.array([(self.windows[i] @ taught.direction - self.rivals[i]).max() for i in rows], np.float32)

    def events(self, taught: Taught, row: int, limit: float) -> int:
        """How often the device would report the phrase in a clip: smoothed, and once per utterance."""
        odds = SLOPE * (self.windows[row] @ taught.direction - self.rivals[row] - taught.threshold)
        score = self.speech[row] / (1.0 + np.exp(-np.clip(odds, -30, 30)))
        smooth = np.convolve(score, np.ones(SMOOTHING) / SMOOTHING, "valid")
        over = np.flatnonzero(smooth >= limit)
        return len(np.split(over, np.flatnonzero(np.diff(over) > SEPARATE_STEPS) + 1)) if len(over) else 0


def measure(bench: Bench, name: str, own: Sequence[int], others: Sequence[int], draws: int = DRAWS) -> Scores:
    """All draws of one phrase; ``own`` and ``others`` are rows of the bench."""
    result = Scores(name)
    speakers = np.array([bench.clips[i].speaker for i in own])
    rng = np.random.default_rng(list(name.encode()))
    for shots in SHOTS:
        for draw in range(draws):
            teachers = rng.permutation(np.unique(speakers))[:shots]
            if len(teachers) < shots:
                continue
            chosen = [int(rng.choice(np.asarray(own)[speakers == who])) for who in teachers]
            taught = bench.teach(chosen, name)
            tested = [i for i, who in zip(own, speakers, strict=True) if who not in teachers]
            rest = [i for i in others if bench.clips[i].speaker not in teachers]
            if not tested or not rest:
                continue
            result.own.setdefault(shots, []).append(bench.best(taught, tested))
            result.other.setdefault(shots, []).append(bench.best(taught, rest))
            if shots == STREAMED and draw < STREAMED:
                _stream(bench, result, taught, tested, rest)
    return result


def own_voice(bench: Bench, name: str, own: Sequence[int], others: Sequence[int]) -> Scores:
    """The same where teacher and speaker are one person: each speaker in turn, on her other takes."""
    result = Scores(name)
    speakers = np.array([bench.clips[i].speaker for i in own])
    rng = np.random.default_rng(list(name.encode()))
    for shots in SHOTS:
        for who in np.unique(speakers):
            mine = rng.permutation(np.asarray(own)[speakers == who])
            if len(mine) < shots + LEAST_TESTED:
                continue
            taught = bench.teach([int(i) for i in mine[:shots]], name)
            result.own.setdefault(shots, []).append(bench.best(taught, [int(i) for i in mine[shots:]]))
            result.other.setdefault(shots, []).append(bench.best(taught, others))
    return result


def _stream(bench: Bench, result: Scores, taught: Taught, tested: Sequence[int], rest: Sequence[int]) -> None:
    result.hours += sum(bench.clips[i].heard.seconds for i in rest) / 3600.0
    result.sentence_hours += bench.sentence_hours
    for name, limit in LIMITS.items():
        counts = result.events[name]
        counts.missed.append(float(np.mean([bench.events(taught, i, limit) == 0 for i in tested])))
        counts.accepts += sum(bench.events(taught, i, limit) for i in rest)
        counts.in_sentences += sum(bench.events(taught, i, limit) for i in bench.sentences)


def figures(kind: str, scores: Sequence[Scores]) -> dict[str, float | None]:
    """``taught.<kind>.*``: the mean over phrases, and each phrase's own."""
    found: dict[str, float | None] = {}
    for shots in SHOTS:
        rates = {s.name: s.found(shots) for s in scores}
        known = [r for r in rates.values() if r is not None]
        found[f"taught.{kind}.tpr_at_1pct_far_k{shots}"] = mean(known)
        found |= {f"taught.{kind}.{name}.tpr_at_1pct_far_k{shots}": rate for name, rate in rates.items()}
    for limit in LIMITS if any(s.hours for s in scores) else ():
        found |= _streamed(f"taught.{kind}.{limit}", limit, scores)
    return found


def _streamed(key: str, limit: str, scores: Sequence[Scores], *, each: bool = True) -> dict[str, float | None]:
    counts = [s.events[limit] for s in scores]
    missed = [m for c in counts for m in c.missed]
    hours, sentence_hours = sum(s.hours for s in scores), sum(s.sentence_hours for s in scores)
    found = {
        f"{key}miss_rate": mean(missed),
        f"{key}false_accepts_per_hour": sum(c.accepts for c in counts) / hours if hours else None,
        f"{key}false_accepts_per_hour_of_sentences": (
            sum(c.in_sentences for c in counts) / sentence_hours if sentence_hours else None
        ),
    }
    if each and not limit:
        found |= {f"{key}{s.name}.miss_rate": float(np.mean(s.events[limit].missed)) for s in scores if s.hours}
    return found


def phrase(name: str, source: str, clips: Sequence[Clip], sentences: Sequence[Heard], model: Model) -> Scores:
    """One folder, against the others of the same recordings; ``model`` never heard it."""
    mine = [c for c in clips if c.heard.clip.source == source]
    bench = Bench(model, mine, sentences)
    rows = [i for i, c in enumerate(mine) if c.word == name]
    others = [i for i, c in enumerate(mine) if c.word != name]
    if source == "digits":
        return own_voice(bench, name, rows, others)
    return measure(bench, name, rows, others, DRAWS if source == "phrases" else DRAWS // 2)


def totals(scores: Sequence[Scores]) -> dict[str, float | None]:
    """``taught.miss_rate`` and ``taught.false_accepts_per_hour``: at any time, over all phrases and words."""
    return {**_streamed("taught.", "", scores, each=False), **_streamed("taught.in_turn.", "in_turn.", scores)}
