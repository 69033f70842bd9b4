"""The gate decides if a candidate adapter may be used: it has to pass numbered checks.

A candidate goes in with the material to judge it; a ``Verdict`` comes out, with all numbers. Nothing is kept here.

1. bounds: every number finite, every shift within TAU, every threshold raised and none lowered, prior within its span,
   takes and their limits such as ``aligning`` makes, and the whole at most ``adapter_file.cap`` bytes;
2. guard set: base phrases in other people's speech are found as before, at the person's thresholds: of the windows
   whose answer changed not so many were lost that chance would do it less than once in 1 / SIGNIFICANT (exact
   sign test, McNemar 1947), in all and in every stratum;
3. false accepts: no shifted phrase is heard in guard windows of anything else where base heard none, and a taught one
   in at most ``prototypes.ACCEPTED`` of them: its threshold is that of a constant false alarm rate;
4. own phrases: of held-out examples, each heard in a turn of its own with all that counts in the household (``lived``;
   by its windows where too little of it is kept), no more are wrong than with the base model, in all; of no phrase
   SWING more;
5. household: with this adapter nobody else's examples are taken for a phrase taught here, by alignment where the phrase
   is heard by that;
6. benefit: fewer held-out examples are wrong than before (where nothing can be held out: fewer of all), or a phrase
   can be said that could not be before, or a voice be told that could not (consent ``voice_match``), or something must
   go (forget, withdrawal, expiry); and it is not what is in use already (``round``);
7. reproducible: made twice, the same bytes.

All numbers go into the verdict, passed or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning import aligning
from idiolect.learning.adapter_file import cap
from idiolect.learning.lived import Lived, Wish
from idiolect.learning.model import Heard, Model
from idiolect.learning.prototypes import ACCEPTED, TAU
from idiolect.learning.trainer import RAISE_MOST, Material, Round, adapted
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.alignment import costs
from idiolect.listening.pipeline.household import PRIOR_SPAN, TAUGHT_THRESHOLD

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNIFICANT = 0.05
BENEFIT = 1
SWING = 1
"""Examples of one phrase that may be wrong more often than before: fewer than this, so none."""

NO_IMPROVEMENT, NOT_REPRODUCIBLE = 6, 7
CHECKS = {
    1: "within its bounds",
    2: "other people's phrases are found as before",
    3: "nothing is heard that was not said",
    4: "no phrase of the person's own is worse",
    5: "nobody else in the household is mistaken",
    NO_IMPROVEMENT: "it is an improvement",
    NOT_REPRODUCIBLE: "it can be made again, byte for byte",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's verdict: ``check`` is the first that failed, 0 for none.

    ``numbers`` holds all that was measured, for log and explanation.
    """

    check: int
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Return True if the adapter may be used."""
        return self.check == 0

    @property
    def reason(self) -> str:
        """Return the verdict in plain words."""
        return "all checks passed" if self.passed else f"check {self.check} failed: {CHECKS[self.check]}"


def limits(model: Model, adapter: Adapter) -> NDArray[np.float32]:
    """Return the thresholds, (C + taught,): what a person's own are raised by is in the posteriors already."""
    extra = len(names_of(model, adapter)) - len(model.classes)
    return np.concatenate([model.limits, np.full(extra, TAUGHT_THRESHOLD, np.float32)])


def answers(scores: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the phrase heard in each window, (n, K) -> (n,): the highest of those over their thresholds, else -1."""
    over = np.where(scores >= thresholds, scores, -1.0)
    best = over.argmax(-1)
    return np.where(over.max(-1) < 0.0, -1, best)


def names_of(model: Model, adapter: Adapter) -> tuple[str, ...]:
    """Return the names of the phrases that the columns of ``adapted`` stand for."""
    return (*model.classes, *dict.fromkeys(t.name for t in adapter.taught if t.name not in model.classes))


def understood(model: Model, adapter: Adapter | None, heard: Heard) -> list[tuple[str, float]]:
    """Return the phrase understood in each utterance, "" for none, and the score of the best one.

    Scores are means over the windows (n, 3, ...), so that a base phrase has to be steady; for a taught phrase the
    highest counts.
    """
    if adapter is None:
        scores, names, bounds = heard.posteriors(), model.classes, model.limits
    else:
        scores, names, bounds = adapted(model, adapter, heard), names_of(model, adapter), limits(model, adapter)
    mean = scores.mean(1)
    mean[:, len(model.classes) :] = scores[..., len(model.classes) :].max(1)
    best = np.where(bounds < 1.0, mean, 0.0).max(-1)
    return [(names[i] if i >= 0 else "", float(p)) for i, p in zip(answers(mean, bounds), best, strict=True)]


def spoken(model: Model, adapter: Adapter | None, heard: Heard) -> list[str]:
    """Return only the phrase that is understood in each utterance, "" for none."""
    return [name for name, _ in understood(model, adapter, heard)]


def judge(
    model: Model,
    made: Round,
    *,
    active: Adapter | None,
    wish: Wish | None = None,
    others: Heard | None = None,
    owed: bool = False,
    size: int,
) -> Verdict:
    """Run checks 1 to 6 (``round`` does the last, and knows when nothing is new).

    Args:
        active: the adapter in use, None for the base model alone.
        wish: the phrases that count in the household; None: all that the bundle has.
        others: the household's other examples, (n, 3, ...).
        owed: something must go (forget, withdrawal, expiry).
        size: of the adapter's file, in bytes.
    """
    adapter = made.adapter
    numbers: dict[str, float] = {"size": size}
    within, guarded = bounded(adapter, size), _guard_set(model, adapter, numbers)
    taken = _taken(model, adapter, others)
    numbers["others_taken"] = taken
    if not (within and all(guarded) and not taken):  # refused anyway: its windows are enough, and cost little
        made = replace(made, material=replace(made.material, utterances=(None,) * len(made.material.phrases)))
    own = _own(model, made, wish, numbers)
    new = _own_phrases(model, adapter) - (_own_phrases(model, active) if active else set())
    better = numbers["own_wrong"] + BENEFIT <= numbers["own_wrong_before"] or bool(new) or owed
    better = better or adapter.prior != (active.prior if active else {})
    better = better or (adapter.voice is not None and (active is None or active.voice is None))
    tests = {
        1: within,
        2: guarded[0],
        3: guarded[1],
        4: own,
        5: taken == 0,
        NO_IMPROVEMENT: better,
    }
    return Verdict(next((n for n, passed in tests.items() if not passed), 0), numbers)


def _own_phrases(model: Model, adapter: Adapter) -> set[str]:
    """Return the taught phrases that the base model cannot understand at all."""
    return {t.name for t in adapter.taught} - set(model.phrases)


def bounded(adapter: Adapter, size: int) -> bool:
    """Return True if every number of the adapter is within its bounds, and its file of ``size`` bytes too (check 1)."""
    vectors = [*(s.vector for s in adapter.shifts.values()), *(t.direction for t in adapter.taught)]
    return (
        size <= cap(len(vectors), sum(len(take) for t in adapter.taught for take in t.takes))
        and all(map(aligning.within, adapter.taught))
        and all(np.isfinite(v).all() and np.linalg.norm(v) <= TAU * 1.001 for v in vectors)
        and all(0.0 <= up <= RAISE_MOST for up in adapter.raises.values())
        and all(0.0 <= v <= PRIOR_SPAN for v in adapter.prior.values())
    )


def on_others(
    model: Model, adapter: Adapter
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:  # fmt: skip
    """Return phrases in the guard set: said, understood before, and understood now.

    Each is (n,), of indices into ``names_of``, -1 for no phrase.
    """
    names = names_of(model, adapter)
    said = np.array([names.index(label) if label in model.phrases else -1 for label in model.guard_labels])
    before = answers(model.guard.posteriors(), model.limits)
    return said, before, answers(adapted(model, adapter, model.guard), limits(model, adapter))


def _guard_set(model: Model, adapter: Adapter, numbers: dict[str, float]) -> tuple[bool, bool]:
    """Compare both models on other people's speech; return whether checks 2 and 3 pass, and add to ``numbers``."""
    if not model.guard_labels:
        return True, True
    names = names_of(model, adapter)
    said, before, now = on_others(model, adapter)
    lost = (said >= 0) & (before == said) & (now != said)
    won = (said >= 0) & (before != said) & (now == said)
    accepted_before = (before >= 0) & (before != said)
    accepted = (now >= 0) & (now != said) & ~accepted_before
    taught = {names.index(name) for name in _own_phrases(model, adapter)}
    by_phrase = [int((accepted & (now == column)).sum()) for column in sorted(taught)]
    base_only = int(accepted.sum()) - sum(by_phrase)
    numbers |= {"guard_lost": int(lost.sum()), "guard_won": int(won.sum()), "guard_accepts": base_only}
    numbers["guard_taught"] = max(by_phrase, default=0)
    worst = 1.0
    for values in model.guard_strata.values():
        for value in sorted(set(values)):
            here = np.array([v == value for v in values])
            worst = min(worst, chance(int(lost[here].sum()), int(won[here].sum())))
    overall = chance(int(lost.sum()), int(won.sum()))
    numbers |= {"guard_chance": round(overall, 4), "guard_worst_stratum_chance": round(worst, 4)}
    few = numbers["guard_taught"] <= ACCEPTED * len(said) + 1
    return min(overall, worst) > SIGNIFICANT, base_only == 0 and few


def chance(lost: int, won: int) -> float:
    """Return the probability that of lost + won changes, each as likely a loss as a win, so many or more are losses."""
    total = lost + won
    ways = losses = 1  # ways in which all of them are losses; then one fewer, and so on
    for n in range(total, lost, -1):
        ways = ways * n // (total - n + 1)
        losses += ways
    return losses / (1 << total)


def heard_again(
    model: Model, wish: Wish | None, adapter: Adapter | None, material: Material, rows: NDArray[np.intp]
) -> list[str]:
    """Return the phrase understood in some examples, "" for none: in a turn of each's own, or else by its windows.

    Args:
        model: The base.
        wish: The phrases that count in the household; None: all that the bundle has.
        adapter: The person's; None for the base model alone.
        material: All examples.
        rows: The places in ``material`` of those to hear.
    """
    again = {row: said for row in rows.tolist() if (said := material.utterances[row]) is not None}
    rest = [row for row in rows.tolist() if row not in again]
    names = dict(zip(rest, spoken(model, adapter, material.heard.take(rest)), strict=True)) if rest else {}
    if again:
        lived = Lived(model, wish or Wish.of(model), adapter)
        names |= {row: lived.understands(said) for row, said in again.items()}
    return [names[row] for row in rows.tolist()]


def _own(model: Model, made: Round, wish: Wish | None, numbers: dict[str, float]) -> bool:
    """Make check 4, and take the numbers of 6.

    The held-out examples of phrases that the base model has are counted besides: of all others it understands none.
    """
    material, known = made.material, set(model.phrases)
    counts: dict[str, list[int]] = {}  # by phrase: wrong now, wrong before
    everything = np.arange(len(material.phrases))
    folds = made.folds or (((everything, made.adapter),) if len(everything) else ())
    for held, adapter in folds:
        now = heard_again(model, wish, adapter, material, held)
        may = held[[material.phrases[row] in known for row in held]]
        before = dict(zip(may.tolist(), heard_again(model, wish, None, material, may), strict=True))
        for row, heard in zip(held.tolist(), now, strict=True):
            name = material.phrases[row]
            count = counts.setdefault(name, [0, 0])
            count[0] += heard != name
            count[1] += before.get(row) != name
    of_base = [count for name, count in counts.items() if name in known]
    out = [row for held, _ in made.folds for row in held.tolist()]
    numbers |= {
        "own_wrong": sum(now for now, _ in counts.values()),
        "own_wrong_before": sum(before for _, before in counts.values()),
        "own_held_out": len(out),
        "own_in_windows": sum(material.utterances[row] is None for row in out),
        "own_known": sum(material.phrases[row] in known for row in out),
        "own_known_wrong": sum(now for now, _ in of_base),
        "own_known_wrong_before": sum(before for _, before in of_base),
    }
    steady = all(now - before < SWING for now, before in counts.values())
    return steady and numbers["own_wrong"] <= numbers["own_wrong_before"]


CLEARLY = 0.09
"""Cost by which somebody else's phrase must be within the limit to count as mistaken: a limit leaves room for days and
pauses, and somebody else's phrase comes seldom in one's own turn."""


def _taken(model: Model, adapter: Adapter, others: Heard | None) -> int:
    if others is None or not adapter.taught or not len(others.z):
        return 0
    aligned = [t for t in adapter.taught if t.takes] if others.spans is not None else []
    in_windows = {t.name for t in adapter.taught} - {t.name for t in aligned}
    taken = np.array([name in in_windows for name in spoken(model, adapter, others)])
    if aligned and others.spans is not None:
        found = costs([t.takes for t in aligned], model.standard.frames(others.spans))
        taken |= (found <= [t.cost - CLEARLY for t in aligned]).any(1)
    return int(taken.sum())
