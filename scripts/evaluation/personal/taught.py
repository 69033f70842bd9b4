"""How well a taught phrase is found: each phrase in turn is unknown to the base and taught from a few clips.

Teacher and speaker differ ("cross-speaker"): nobody among the examples is tested. What is counted is the highest score
of the taught row over all windows of a clip, against the same of every other clip from the same recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bundlebuild.words import BACKGROUND, COMMANDS
from idiolect.learning import trainer
from idiolect.learning.ledger import Ledger
from idiolect.learning.model import Model
from idiolect.pipeline.chain import UNSETTLED
from idiolect.pipeline.decoder import SMOOTHING
from idiolect.pipeline.personal import SLOPE, TAUGHT_THRESHOLD, Taught
from idiolect.pipeline.space import offset_windows
from idiolect.values import WINDOW

from .people import Clip, example

SHOTS = (3, 5, 10)
DRAWS = 10
FALSE_ACCEPTS = 0.01
SEPARATE_STEPS = 8


@dataclass(slots=True)
class Scores:
    """One phrase's draws: scores of its own clips and of the others', the threshold shipped, and streaming counts."""

    name: str
    own: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    other: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)
    missed: list[float] = field(default_factory=list)
    accepts: int = 0
    hours: float = 0.0

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
    """z of every window of every clip, computed once per space."""

    def __init__(self, model: Model, clips: Sequence[Clip]) -> None:
        self.model = model
        self.clips = clips
        self.spans = model.space.features(offset_windows(np.stack([c.span[1:-1] for c in clips])))  # (n, 3, D)
        self.windows = [self._z(c.heard.embeddings["clean"]) for c in clips]
        background = model.classes.index(BACKGROUND)
        self.speech = [1.0 - self._posteriors(c.heard.embeddings["clean"])[:, background] for c in clips]

    @staticmethod
    def _views(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        views = np.lib.stride_tricks.sliding_window_view(embeddings, WINDOW, axis=0)[UNSETTLED - WINDOW + 1 :]
        return np.ascontiguousarray(views.transpose(0, 2, 1), np.float32)

    def _z(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.model.space.features(self._views(embeddings))

    def _posteriors(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.model.head.posteriors(self._views(embeddings))

    def teach(self, chosen: Sequence[int], phrase: str = "taught") -> Taught:
        """What the device makes of these clips as enrolments."""
        ledger = Ledger(
            "aa" * 8, tuple(replace(example(self.clips[i], n), phrase=phrase) for n, i in enumerate(chosen))
        )
        material, _ = trainer.prepare(self.model, ledger)
        adapter = trainer.build(self.model, ledger, material, trainer.When(0), trainer.LADDER[-1])
        return next(t for t in adapter.taught if t.name == phrase)

    def best(self, taught: Taught, rows: Sequence[int]) -> NDArray[np.float32]:
        """The highest score of each clip."""
        return np.array([(self.windows[i] @ taught.direction).max() for i in rows], np.float32)

    def events(self, taught: Taught, row: int) -> int:
        """How often the device would report the phrase in a clip: smoothed, and once per utterance."""
        odds = SLOPE * (self.windows[row] @ taught.direction - taught.threshold)
        score = self.speech[row] / (1.0 + np.exp(-np.clip(odds, -30, 30)))
        smooth = np.convolve(score, np.ones(SMOOTHING) / SMOOTHING, "valid")
        over = np.flatnonzero(smooth >= TAUGHT_THRESHOLD)
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
            taught = bench.teach(chosen)
            tested = [i for i, who in zip(own, speakers, strict=True) if who not in teachers]
            rest = [i for i in others if bench.clips[i].speaker not in teachers]
            if not tested or not rest:
                continue
            result.own.setdefault(shots, []).append(bench.best(taught, tested))
            result.other.setdefault(shots, []).append(bench.best(taught, rest))
            if shots == 3 and draw < 3:
                result.missed.append(float(np.mean([bench.events(taught, i) == 0 for i in tested])))
                result.accepts += sum(bench.events(taught, i) for i in rest)
                result.hours += sum(bench.clips[i].heard.seconds for i in rest) / 3600.0
    return result


def figures(kind: str, scores: Sequence[Scores]) -> dict[str, float | None]:
    """``taught.<kind>.*``: the mean over phrases, and each phrase's own."""
    found: dict[str, float | None] = {}
    for shots in SHOTS:
        rates = {s.name: s.found(shots) for s in scores}
        known = [r for r in rates.values() if r is not None]
        found[f"taught.{kind}.tpr_at_1pct_far_k{shots}"] = float(np.mean(known)) if known else None
        found |= {f"taught.{kind}.{name}.tpr_at_1pct_far_k{shots}": rate for name, rate in rates.items()}
    missed = [m for s in scores for m in s.missed]
    hours = sum(s.hours for s in scores)
    found[f"taught.{kind}.miss_rate"] = float(np.mean(missed)) if missed else None
    found[f"taught.{kind}.false_accepts_per_hour"] = sum(s.accepts for s in scores) / hours if hours else None
    found |= {f"taught.{kind}.{s.name}.miss_rate": float(np.mean(s.missed)) for s in scores if s.missed}
    return found


def phrases(clips: Sequence[Clip], models: Mapping[str, Model]) -> list[Scores]:
    """Each folder of phrases/, against the other folders."""
    mine = [c for c in clips if c.heard.clip.source == "phrases"]
    scores = []
    for name in sorted({c.word for c in mine}):
        bench = Bench(models[name], mine)
        rows = [i for i, c in enumerate(mine) if c.word == name]
        scores.append(measure(bench, name, rows, [i for i in range(len(mine)) if i not in set(rows)]))
    return scores


def words(clips: Sequence[Clip], models: Mapping[str, Model]) -> list[Scores]:
    """Each word of Speech Commands, against the others and the unknown ones."""
    mine = [c for c in clips if c.heard.clip.source == "speech_commands"]
    scores = []
    for name in (w for w in COMMANDS if any(c.word == w for c in mine)):
        bench = Bench(models[name], mine)
        rows = [i for i, c in enumerate(mine) if c.word == name]
        scores.append(measure(bench, name, rows, [i for i in range(len(mine)) if i not in set(rows)], 5))
    return scores
