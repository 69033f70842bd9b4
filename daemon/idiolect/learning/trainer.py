"""The trainer: a bundle's model, a ledger and a day go in, one candidate adapter comes out. Equal inputs, equal bytes.

Admission first, over the whole ledger; then closed forms (``prototypes``): a row for every phrase that was taught, one
for every base phrase with examples enough, and shifts of all base phrases at each step of LADDER, strongest first,
until the guard set and the person's own held-out examples are no worse (``gate``). The weakest that is left is no shift
at all, so that a taught phrase never waits for anything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning import aligning, prototypes
from idiolect.learning.admission import Verdict, admit
from idiolect.learning.ledger import Example, Ledger, decayed
from idiolect.learning.lived import Utterance, utterance_of
from idiolect.learning.model import Heard, Model, joined
from idiolect.listening.pipeline.adapter import Adapter, Taught
from idiolect.listening.pipeline.household import PRIOR_SPAN, Household
from idiolect.listening.pipeline.space import offset_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Strength:
    """Says how strongly shifts speak beside the base head, and which share of others' words leaves them silent."""

    gain: float
    floor: float = 1.0
    prior: float = PRIOR_SPAN
    """Log-odds that usage moves a phrase at most."""


LADDER = (
    Strength(60.0, 0.995),
    Strength(40.0, 0.995),
    Strength(80.0),
    Strength(40.0),
    Strength(20.0),
    Strength(0.0),
    Strength(0.0, prior=0.2),
    Strength(0.0, prior=0.0),
)
"""Tried in this order; chosen on every second speaker, left out of the base model, and confirmed on the others."""
CHUNK = 64
"""Examples that are run through the base model together: their windows take 18 KiB each, what comes of them one."""
FOLDS = 5
RAISE_MOST = 3.0
"""Log-odds by which a person's own threshold is raised at most."""
RAISE_CLEARANCE = 0.2


@dataclass(frozen=True, slots=True)
class When:
    """The ``day`` (since the epoch) of a round and the ``number`` of the version that it makes."""

    day: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Material:
    """Admitted examples after the base model, one row each: logits (n, 3, C) and z (n, 3, D) as spoken."""

    phrases: tuple[str, ...]
    weights: NDArray[np.float64]
    heard: Heard
    centres: NDArray[np.float32]
    """(n, D): mean z over windows and copies."""
    rows: NDArray[np.intp]
    """The places that these rows had before ``take``."""
    takes: tuple[NDArray[np.float32] | None, ...]
    """The take of each example for aligning, (frames, 96); None where there is none."""
    utterances: tuple[Utterance | None, ...] = ()
    """Each as it can be heard again; None where it cannot."""
    known: dict[tuple[str, bytes, bool], Taught] = field(default_factory=dict)
    """Taught phrases by name, rows and whether they may be aligned: no strength changes them, so each is made once in a
    round."""

    def take(self, rows: NDArray[np.intp]) -> Material:
        """Return the material of the examples in these rows only."""
        phrases = tuple(self.phrases[i] for i in rows)
        weights, centres = self.weights[rows], self.centres[rows]
        takes = tuple(self.takes[i] for i in rows)
        utterances = tuple(self.utterances[i] for i in rows)
        return Material(
            phrases, weights, self.heard.take(rows), centres, self.rows[rows], takes, utterances, self.known
        )

    def in_windows(self) -> Material:
        """Return the material without takes to align, for judging held-out examples by their windows."""
        return replace(self, takes=(None,) * len(self.takes))

    @property
    def targets(self) -> frozenset[str]:
        """Return the phrases that are said in the examples."""
        return frozenset(self.phrases)


@dataclass(frozen=True, slots=True)
class Round:
    """A round's outcome before the gate: what was admitted, what came of it, and what is held out for judging it."""

    adapter: Adapter
    verdicts: tuple[Verdict, ...]
    material: Material
    folds: tuple[tuple[NDArray[np.intp], Adapter], ...]
    """Rows of ``material`` with an adapter that was made without them."""


Prepared = tuple[Material, tuple[Verdict, ...]]


def prepare(model: Model, ledger: Ledger) -> Prepared:
    """Run every example through the base model and admission."""
    examples = ledger.examples
    if not examples:
        empty = model.hear(np.zeros((0, 3, 16, 96), np.float32))
        return Material((), np.zeros(0), empty, empty.z[:, 0], np.zeros(0, np.intp), ()), ()
    heard = joined([
        model.hear(np.stack([offset_windows(e.spans[0]) for e in examples[i : i + CHUNK]]))
        for i in range(0, len(examples), CHUNK)
    ])  # fmt: skip
    centres = np.stack([_centre(model, e, heard.z[i]) for i, e in enumerate(examples)])
    verdicts = admit(model, ledger, list(centres), heard.logits.mean(1))
    kept = np.array([i for i, v in enumerate(verdicts) if v.admitted], np.intp)
    weights = np.array([verdicts[i].weight for i in kept])
    phrases = tuple(examples[i].phrase for i in kept)
    takes = tuple(aligning.take_of(model.standard, examples[i]) for i in kept)
    utterances = _newest(model, [examples[i] for i in kept])
    material = Material(phrases, weights, heard.take(kept), centres[kept], np.arange(len(kept)), takes, utterances)
    return material, tuple(verdicts)


def _newest(model: Model, examples: Sequence[Example]) -> tuple[Utterance | None, ...]:
    """Return the utterances of the newest examples of each phrase, as many as it is aligned with: each costs time."""
    counts: Counter[str] = Counter()
    found = []
    for example in reversed(examples):
        counts[example.phrase] += 1
        found.append(utterance_of(model, example) if counts[example.phrase] <= aligning.MOST else None)
    return tuple(reversed(found))


def _centre(model: Model, example: Example, z: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(example.spans) == 1:
        return np.asarray(z.mean(0), np.float32)
    copies = model.space.features(offset_windows(example.spans[1:]))
    return np.asarray(np.concatenate([z, copies.reshape(-1, model.space.size)]).mean(0), np.float32)


def build(model: Model, ledger: Ledger, material: Material, when: When, strength: Strength) -> Adapter:
    """Return the adapter that this material makes at this strength, by the closed forms of ``prototypes``."""
    classes = model.classes
    shifts = prototypes.shifts(model.space, classes, material.centres, material.phrases, material.weights)
    shifts = prototypes.floors(model.space, classes, shifts, model.guard.z, model.guard_labels, strength.floor)
    own_way = _own_way(model, material)
    taught = tuple(
        _teach(model, material, name)
        for name in sorted(material.targets)
        if name not in model.phrases or name in own_way
    )
    adapter = Adapter(
        profile=ledger.profile,
        number=when.number,
        shifts=shifts if strength.gain else {},
        taught=taught,
        prior=prototypes.prior(decayed(ledger.usage, when.day), model.phrases, strength.prior),
        gain=strength.gain if shifts else 0.0,
        voice=prototypes.voice(model.space, classes, material.centres, material.phrases) if ledger.voice else None,
        standard=model.standard if any(each.takes for each in taught) else None,
    )
    return replace(adapter, raises=raises(model, adapter))


def _own_way(model: Model, material: Material) -> set[str]:
    """Return the base phrases of which there is enough for a row of their own: an accent, or another language, is one.

    Wake words open the device for everybody and stay as they are.
    """
    found = set()
    for name in material.targets & set(model.phrases) - set(model.wake_words):
        weight = sum(w for w, phrase in zip(material.weights, material.phrases, strict=True) if phrase == name)
        if weight >= OWN_WAY:
            found.add(name)
    return found


OWN_WAY = 2.0
"""Weight of the examples from which on a base phrase gets a row."""


def _teach(model: Model, material: Material, name: str) -> Taught:
    mine = np.array([i for i, phrase in enumerate(material.phrases) if phrase == name], np.intp)
    takes = [take for i in mine if (take := material.takes[i]) is not None]
    key = name, material.rows[mine].tobytes(), bool(takes)
    if key not in material.known:
        rest = [label != name for label in model.guard_labels]
        others = prototypes.Others(model.guard.z[rest], model.guard.rivals[rest], model.cohort_rivals)
        weights = material.weights[mine]
        own_class = model.classes.index(name) if name in model.classes else -1
        row = prototypes.taught(model.space, name, material.heard.take(mine), weights, others, own_class)
        material.known[key] = aligning.aligned(row, takes) if own_class < 0 else row
    return material.known[key]


def raises(model: Model, adapter: Adapter) -> dict[str, float]:
    """Return by how much thresholds go up, never down, where speech of the guard set would now cross them.

    The gate refuses what is left; this keeps a person's own prototype from costing them false accepts.
    """
    if not adapter.shifts:
        return {}
    before = model.guard.posteriors()
    now = adapted(model, adapter, model.guard)
    found = {}
    for name in adapter.shifts:
        column = model.classes.index(name)
        limit = model.thresholds.get(name, 1.0)
        other = np.array([label != name for label in model.guard_labels])
        worse = other & (now[:, column] >= limit) & (before[:, column] < limit)
        if worse.any():
            top = float(np.clip(now[worse, column].max(), 1e-6, 1 - 1e-6))
            up = np.log(top / (1 - top)) - np.log(limit / (1 - limit)) + RAISE_CLEARANCE
            found[name] = float(np.clip(up, 0.0, RAISE_MOST))
    return found


def adapted(model: Model, adapter: Adapter, heard: Heard) -> NDArray[np.float32]:
    """Return posteriors (..., C + taught) as this person would get them."""
    household = Household(model.space, model.classes, [adapter])
    return household.posteriors(adapter.profile, heard.logits, household.rows(heard.z, heard.rivals))


def folds_of(material: Material) -> list[NDArray[np.intp]]:
    """Return rows to hold out in turn: of phrases with two examples or more, the i-th example in fold i mod FOLDS."""
    seen: dict[str, int] = {}
    count = {name: material.phrases.count(name) for name in material.targets}
    where: list[list[int]] = [[] for _ in range(FOLDS)]
    for row, name in enumerate(material.phrases):
        if count[name] > 1:
            where[seen.get(name, 0) % FOLDS].append(row)
            seen[name] = seen.get(name, 0) + 1
    return [np.array(rows, np.intp) for rows in where if rows]


def candidate(model: Model, ledger: Ledger, prepared: Prepared, when: When, strength: Strength) -> Round:
    """Train at one strength, and keep what is needed to judge the adapter on examples that it has not seen."""
    material, verdicts = prepared
    adapter = build(model, ledger, material, when, strength)
    folds = []
    again = np.array([each is not None for each in material.utterances], np.bool_)
    for held in folds_of(material):
        rest = material.take(np.setdiff1d(np.arange(len(material.phrases)), held))
        for rows, without in ((held[again[held]], rest), (held[~again[held]], rest.in_windows())):
            if len(rows):
                folds.append((rows, build(model, ledger, without, when, strength)))
    return Round(adapter, verdicts, material, tuple(folds))
