"""How much five utterances help: error before and after adaptation, per user, on that user's other utterances.

Users are the speakers of the digits and those with HEAVY clips in Speech Commands. Each is tested with a model that
never heard them (``leftout``), by the rules of the base figures, on everything that was not among the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bundlebuild.words import BACKGROUND, UNKNOWN
from idiolect.learning import gate, trainer
from idiolect.learning.model import Model
from idiolect.listening.pipeline.adapter import Adapter

from .people import Clip, Stream, enrolled, learn, utterances, words_of

SHOTS = (1, 3, 5, 10)
DRAWS = 6
HARM = 0.01
FRESH = 400
CONDITIONS = ("clean", "snr20", "snr10", "snr5", "slow", "fast", "room")


@dataclass(slots=True)
class Changes:
    """What adapters change in other people's speech: windows lost and won, and adapters that lose beyond chance."""

    adapters: int = 0
    regressions: int = 0
    lost: int = 0
    won: int = 0
    accepts: int = 0

    def add(self, lost: int, won: int) -> None:
        """One adapter's."""
        self.adapters, self.lost, self.won = self.adapters + 1, self.lost + lost, self.won + won
        self.regressions += gate.chance(lost, won) <= gate.SIGNIFICANT


@dataclass(slots=True)
class User:
    """One person's figures: (shots, condition) -> error rates of base and adapted model, one per draw."""

    name: str
    source: str
    errors: dict[tuple[int, str], list[tuple[float, float]]] = field(default_factory=dict)
    confusions: list[tuple[int, str, str, str]] = field(default_factory=list)
    """(shots, said, base heard, adapted heard), clean."""
    refused: int = 0
    guarded: Changes = field(default_factory=Changes)
    fresh: Changes = field(default_factory=Changes)

    def mean(self, shots: int, condition: str = "clean") -> tuple[float, float]:
        """Base and adapted error over the draws."""
        pairs = self.errors.get((shots, condition), [])
        return (float(np.mean([b for b, _ in pairs])), float(np.mean([a for _, a in pairs]))) if pairs else (0.0, 0.0)

    def harmed(self, shots: Sequence[int] = (5,)) -> bool:
        """Worse by more than HARM with so many examples, in the mean over the draws."""
        return any(after - before > HARM for before, after in (self.mean(k) for k in shots))


def users(clips: Sequence[Clip], source: str, least: int) -> dict[str, list[Clip]]:
    """Who has at least so many clips."""
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.heard.clip.source == source and clip.label != BACKGROUND:
            found.setdefault(clip.speaker, []).append(clip)
    return {name: own for name, own in sorted(found.items()) if len(own) >= least}


def choose(own: Sequence[Clip], words: Sequence[str], shots: int, rng: np.random.Generator) -> list[int]:
    """Up to ``shots`` clips of every word of every word, in random order; one of each at least stays for testing."""
    taken: list[int] = []
    for word in words:
        mine = [i for i, clip in enumerate(own) if clip.label == word]
        taken += [int(i) for i in rng.permutation(mine)[: min(shots, len(mine) - 1)]] if mine else []
    return [taken[i] for i in rng.permutation(len(taken))]


def measure(name: str, own: Sequence[Clip], model: Model, others: Sequence[Clip]) -> User:
    """All draws of one user; ``others`` are other people's clips."""
    fresh = Fresh(model, others)
    source = own[0].heard.clip.source
    user, words = User(name, source), words_of(source)
    streams = {
        c: [Stream(model, clip.heard.embeddings[c]) for clip in own]
        for c in CONDITIONS
        if all(c in clip.heard.embeddings for clip in own)
    }
    said = [clip.label if clip.label in words else UNKNOWN for clip in own]
    base = {c: [s.decide(None, words) for s in each] for c, each in streams.items()}
    for shots in SHOTS:
        for draw in range(DRAWS):
            rng = np.random.default_rng([shots, draw, *name.encode()])
            chosen = choose(own, words, shots, rng)
            if not chosen:
                continue
            adapter, outcome = learn(model, enrolled([own[i] for i in chosen]))
            user.refused += adapter is None
            if adapter is not None:
                numbers = outcome.verdict.numbers
                user.guarded.add(int(numbers["guard_lost"]), int(numbers["guard_won"]))
                fresh.count(user.fresh, adapter)
            rest = [i for i in range(len(own)) if i not in set(chosen)]
            conditions = tuple(streams) if shots == 5 and draw == 0 else ("clean",)
            for c in conditions:
                _score(user, (shots, c), rest, said, base[c], [streams[c][i] for i in rest], adapter, words)
    return user


class Fresh:
    """Other people's clips of what the model knows, one window each, that no gate saw."""

    def __init__(self, model: Model, clips: Sequence[Clip]) -> None:
        self.model = model
        self.heard = model.hear(utterances(clips))
        self.said = np.array([model.classes.index(c.word) if c.word in model.phrases else -1 for c in clips])
        self.before = self._answers(self.heard.posteriors())

    def _answers(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        return gate.answers(scores[:, 1, : len(self.model.classes)], self.model.limits)

    def count(self, into: Changes, adapter: Adapter) -> None:
        """Take in what an adapter changes."""
        now = self._answers(trainer.adapted(self.model, adapter, self.heard))
        known = self.said >= 0
        lost = int((known & (self.before == self.said) & (now != self.said)).sum())
        won = int((known & (self.before != self.said) & (now == self.said)).sum())
        into.add(lost, won)
        into.accepts += int(((now >= 0) & (now != self.said) & (self.before < 0)).sum())


def _score(  # noqa: PLR0917 - one row of a table
    user: User,
    place: tuple[int, str],
    rest: Sequence[int],
    said: Sequence[str],
    base: Sequence[str],
    streams: Sequence[Stream],
    adapter: Adapter | None,
    words: Sequence[str],
) -> None:
    now = [s.decide(adapter, words) if adapter else base[i] for i, s in zip(rest, streams, strict=True)]
    before = float(np.mean([base[i] != said[i] for i in rest]))
    after = float(np.mean([a != said[i] for i, a in zip(rest, now, strict=True)]))
    user.errors.setdefault(place, []).append((before, after))
    if place[1] == "clean":
        user.confusions += [(place[0], said[i], base[i], a) for i, a in zip(rest, now, strict=True)]


def figures(name: str, measured: Sequence[User]) -> dict[str, float | str | None]:
    """The set's figures under ``adapt.<name>``: means over users."""
    key = f"adapt.{name}"
    if not measured:
        return {}
    found: dict[str, float | str | None] = {f"{key}.users": len(measured)}
    found[f"{key}.error_base"] = float(np.mean([u.mean(5)[0] for u in measured]))
    for shots in SHOTS:
        base, after = (float(np.mean([u.mean(shots)[side] for u in measured])) for side in (0, 1))
        found[f"{key}.error_k{shots}"] = after
        found[f"{key}.error_base_k{shots}"] = base
    at5, base5 = float(found[f"{key}.error_k5"] or 0), float(found[f"{key}.error_base_k5"] or 0)
    found[f"{key}.reduction_k5"] = 1.0 - at5 / base5 if base5 else None
    found[f"{key}.harmed_users_after_gate"] = float(np.mean([u.harmed() for u in measured]))
    found[f"{key}.harmed_users_at_any_k"] = float(np.mean([u.harmed(SHOTS) for u in measured]))
    found[f"{key}.rounds_refused"] = float(np.mean([u.refused / (len(SHOTS) * DRAWS) for u in measured]))
    worst = sorted(measured, key=lambda u: u.mean(5)[1], reverse=True)[: max(1, len(measured) // 10)]
    found[f"{key}.worst_decile"] = ", ".join(u.name for u in worst)
    found[f"{key}.worst_decile.error_base"] = float(np.mean([u.mean(5)[0] for u in worst]))
    found[f"{key}.worst_decile.error_k5"] = float(np.mean([u.mean(5)[1] for u in worst]))
    for condition in CONDITIONS[1:]:
        rows = [u.mean(5, condition) for u in measured if (5, condition) in u.errors]
        if rows:
            found[f"{key}.{condition}.error_base"] = float(np.mean([b for b, _ in rows]))
            found[f"{key}.{condition}.error_k5"] = float(np.mean([a for _, a in rows]))
    return found


def regressions(measured: Sequence[User]) -> dict[str, float | str | None]:
    """Adapters that passed the gate and find fewer of other people's phrases than the base model, beyond chance.

    ``gate.regressions`` counts on the shipped guard set, which the gate saw; ``guard.fresh.*`` on FRESH other clips,
    which it did not: there one in twenty would be beyond chance by chance, and what tells is lost against won.
    """
    if not measured:
        return {}
    found: dict[str, float | str | None] = {"guard.adapters": sum(u.guarded.adapters for u in measured)}
    for key in ("regressions", "lost", "won"):
        found[f"guard.{key}"] = sum(getattr(u.guarded, key) for u in measured)
    for key in ("regressions", "lost", "won", "accepts"):
        found[f"guard.fresh.{key}"] = sum(getattr(u.fresh, key) for u in measured)
    return found
