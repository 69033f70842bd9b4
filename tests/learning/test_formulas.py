"""The numbers that learning promises, each against its formula or its limit, worked out here by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from idiolect.learning import adapter_file, prototypes, trainer
from idiolect.learning import ledger as ledgers
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.model import Heard
from idiolect.listening.pipeline.adapter import Shift
from idiolect.listening.pipeline.space import Space
from tests.support.learners import invented, model, span

SIZE = len(model().classes)
PLAIN = Space(
    np.zeros((1536, SIZE), np.float32), np.zeros(SIZE, np.float32), np.eye(SIZE, dtype=np.float32),
    np.eye(SIZE, dtype=np.float32),
)  # fmt: skip
"""Every phrase has an axis of its own, and so has every window of the cohort."""
CLASSES = model().classes
ON, OFF = CLASSES.index("on"), CLASSES.index("off")


def axis(*places, size=SIZE):
    """A vector with these components, given as (index, value)."""
    found = np.zeros(size, np.float32)
    for index, value in places:
        found[index] = value
    return found


def example(number=0, phrase="on", source="correction", session="s", day=100):
    return Example(number, phrase, source, session, day, "00" * 32, np.zeros((1, 18, 96), np.float32))


def test_what_is_fixed_in_the_design():
    assert (prototypes.KAPPA, prototypes.KAPPA_ALL, prototypes.TAU) == (2.0, 10.0, 1.0)
    assert ledgers.WEIGHTS == {"enrolment": 1.0, "correction": 0.5, "confirmation": 0.25}
    assert (ledgers.SESSION_CAP, ledgers.DAY_CAP, ledgers.HALF_LIFE_DAYS) == (3.0, 6.0, 14.0)
    assert (prototypes.LEAST, prototypes.MOST, prototypes.ACCEPTED) == (-0.3, 0.8, 0.01)
    assert (ledgers.MAX_EXAMPLES, ledgers.MAX_COPIES) == (2000, 8)
    assert [(s.gain, s.floor, s.prior) for s in trainer.LADDER] == [
        (60.0, 0.995, 0.5), (40.0, 0.995, 0.5), (80.0, 1.0, 0.5), (40.0, 1.0, 0.5), (20.0, 1.0, 0.5), (0.0, 1.0, 0.5),
        (0.0, 1.0, 0.2), (0.0, 1.0, 0.0),
    ]  # fmt: skip


def test_a_residual_beyond_tau_is_shortened_and_keeps_its_direction():
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], np.float32)
    assert np.allclose(prototypes.clip(rows), [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    assert np.allclose(prototypes.clip(rows, 2.0), [[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]])


def test_a_shift_is_the_weighted_mean_of_residuals_against_kappa():
    """m_c = sum a clip(z - mu) / (kappa + sum a), and kappa / (kappa + sum a of c) of what all phrases share."""
    z = np.stack([axis((ON, 1.0), (0, 0.4)), axis((ON, 1.0), (1, 30.0)), axis((OFF, 1.0), (0, 0.2)), axis((2, 9.0))])
    weights = np.array([1.0, 0.5, 1.0, 1.0])
    found = prototypes.shifts(PLAIN, CLASSES, z, ["on", "on", "off", "nothing that is known"], weights)
    shared = (1.0 * axis((0, 0.4)) + 0.5 * axis((1, 1.0)) + 1.0 * axis((0, 0.2))) / (10.0 + 2.5)
    on = (axis((0, 0.4)) + 0.5 * axis((1, 1.0))) / (2.0 + 1.5) + shared * 2.0 / (2.0 + 1.5)
    off = axis((0, 0.2)) / (2.0 + 1.0) + shared * 2.0 / (2.0 + 1.0)
    assert np.allclose(found["on"].vector, on, atol=1e-6)
    assert np.allclose(found["off"].vector, off, atol=1e-6)
    assert np.allclose(found["yes"].vector, shared, atol=1e-6)
    assert [found[name].evidence for name in ("on", "off", "yes")] == [1.5, 1.0, 0.0]
    assert found["on"].vector.dtype == np.float32


def test_what_weighs_nothing_moves_nothing():
    z = np.stack([axis((ON, 1.0), (0, 0.4))] * 2)
    assert prototypes.shifts(PLAIN, CLASSES, z[:1], ["on"], np.array([0.0])) == {}
    with_it, without = (
        prototypes.shifts(PLAIN, CLASSES, z[:n], ["on"] * n, np.array([1.0, 0.0])[:n])["on"] for n in (2, 1)
    )
    assert np.array_equal(with_it.vector, without.vector)
    assert with_it.evidence == without.evidence


def test_a_floor_is_the_quantile_of_what_others_would_gain_by_a_shift():
    shift = Shift(axis((0, 1.0)), 2.0)
    z = np.stack([axis((0, v / 10)) for v in range(11)] + [axis((0, 99.0))])
    labels = ["off"] * 11 + ["on"]  # the phrase's own windows are left out
    found = prototypes.floors(PLAIN, CLASSES, {"on": shift}, z, labels, 0.9)["on"]
    assert found.floor == pytest.approx(0.9 - 0.5)  # z.m - mu.m - m.m / 2
    assert found.evidence == 2.0
    assert np.array_equal(found.vector, shift.vector)
    assert prototypes.floors(PLAIN, CLASSES, {"on": shift}, z, labels, 0.2)["on"].floor == 0.0  # never a bonus
    assert prototypes.floors(PLAIN, CLASSES, {"on": shift}, z[-1:], labels[-1:], 0.9)["on"].floor == 0.0
    moved = Shift(axis((ON, 1.0)), 1.0)
    assert prototypes.floors(PLAIN, CLASSES, {"on": moved}, axis((ON, 2.0))[None], ["off"], 1.0)["on"].floor == (
        pytest.approx(2.0 - 1.0 - 0.5)
    )


def test_a_direction_turns_away_from_half_of_what_is_near():
    near = axis((0, 0.8), (1, 0.6))
    cohort = np.stack([near, *(axis((i, -1.0)) for i in range(2, 22)), *[axis((0, -1.0))] * 80])
    w = prototypes.directions(replace(PLAIN, cohort=cohort), axis((0, 1.0))[None])[0]
    nearest = cohort[:100]  # of 101, the one beyond the hundred nearest points the other way like the rest
    expected = axis((0, 1.0)) - 0.5 * nearest.mean(0)
    assert np.allclose(w, expected / np.linalg.norm(expected), atol=1e-6)
    assert np.linalg.norm(w) == pytest.approx(1.0, abs=1e-6)


def test_a_taught_phrases_threshold_by_its_three_rules():
    others = np.array([-0.1, 0.1] * 50)  # mean 0, deviation 0.1: low is 0.3
    assert prototypes.threshold(np.array([0.9]), others) == pytest.approx(0.35)  # alone: 0.05 more
    assert prototypes.threshold(np.array([0.7, 0.9]), others) == pytest.approx(0.3 + 0.3 * 0.5)
    assert prototypes.threshold(np.array([0.1, 0.2]), others) == pytest.approx(0.3)  # never below
    assert prototypes.threshold(np.array([0.7, 0.9]), others, np.zeros(0)) == pytest.approx(0.45)
    crowd = np.concatenate([np.zeros(99), [0.6, 0.6]])
    assert prototypes.threshold(np.array([0.7, 0.9]), others, crowd) == pytest.approx(0.6, abs=1e-5)
    assert prototypes.threshold(np.array([0.7, 0.9]), others, crowd) > 0.6
    assert prototypes.threshold(np.array([9.0, 9.0]), others) == pytest.approx(0.8)
    assert prototypes.threshold(np.array([-1.0, -1.0]), others * 0 - 0.9) == pytest.approx(-0.3)


def test_a_voice_is_the_mean_residual_of_three_examples_at_least():
    z = np.stack([axis((ON, 1.0), (0, 1.0)), axis((ON, 1.0), (1, 1.0)), axis((OFF, 1.0), (1, 1.0))])
    says = ["on", "on", "off"]
    found = prototypes.voice(PLAIN, CLASSES, z, says)
    assert np.allclose(found, axis((0, 1.0), (1, 2.0)) / math.sqrt(5.0), atol=1e-6)
    assert prototypes.voice(PLAIN, CLASSES, z[:2], says[:2]) is None
    assert prototypes.voice(PLAIN, CLASSES, z, ["on", "on", "taught"]) is None


def test_a_prior_is_the_log_of_smoothed_counts_against_an_even_share():
    found = prototypes.prior({"on": 8.0, "off": 1.0}, ("on", "off", "up"), 9.0)
    assert found == {"on": pytest.approx(math.log(10.0 / 5.0))}  # (8 + 2) against the mean of 10, 3, 2
    assert prototypes.prior({"on": 8.0, "off": 1.0}, ("on", "off", "up"), 0.5) == {"on": 0.5}
    assert prototypes.prior({"on": 8.0}, ("on", "off"), 0.0) == {}
    assert prototypes.prior({}, ("on", "off"), 0.5) == {}


def test_a_use_is_worth_half_after_fourteen_days_and_never_more_than_one():
    used = {("on", 100): 4, ("on", 86): 4, ("off", 72): 8, ("up", 130): 1}
    assert ledgers.decayed(used, 100) == {"on": pytest.approx(6.0), "off": pytest.approx(2.0), "up": pytest.approx(1.0)}


@pytest.mark.parametrize(("source", "each"), [("correction", 0.5), ("confirmation", 0.25)])
def test_a_session_counts_three_and_a_day_six(source, each):
    per_session = round(3.0 / each)
    one = [example(i, source=source) for i in range(per_session + 2)]
    assert list(ledgers.weights(one)) == [each] * per_session + [0.0, 0.0]
    many = [example(i, source=source, session=f"{i}") for i in range(2 * per_session + 2)]
    assert list(ledgers.weights(many)) == [each] * 2 * per_session + [0.0, 0.0]
    days = [example(i, source=source, session=f"{i}", day=i) for i in range(2 * per_session + 2)]
    assert list(ledgers.weights(days)) == [each] * len(days)


def test_what_is_left_of_a_cap_is_given_and_enrolment_has_none():
    mixed = [example(i) for i in range(5)] + [example(5, source="confirmation"), example(6)]
    assert list(ledgers.weights(mixed))[-2:] == [0.25, 0.25]
    enrolled = [example(i, source="enrolment") for i in range(20)]
    assert list(ledgers.weights([*enrolled, example(20)])) == [1.0] * 20 + [0.5]


def test_every_second_and_more_of_a_phrase_is_held_out_in_one_of_five_folds():
    phrases = ("on", "off", "on", "up", *["off"] * 6)
    rows = np.arange(len(phrases))
    nothing = model().hear(np.zeros((0, 3, 16, 96), np.float32))
    material = trainer.Material(phrases, np.ones(len(phrases)), nothing, np.zeros((0, 1)), rows, (None,) * len(phrases))
    folds = [list(map(int, fold)) for fold in trainer.folds_of(material)]
    assert folds == [[0, 1, 8], [2, 4, 9], [5], [6], [7]]  # row 3, the only "up", is in none


def test_a_taught_phrase_is_scored_by_its_other_examples():
    """w from all examples, own scores by directions without the example itself; the last rival leaves no class out."""
    rng = np.random.default_rng(5)

    def units(*shape):
        v = rng.standard_normal((*shape, SIZE)).astype(np.float32)
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    z, weights = units(3, 3), np.array([1.0, 0.5, 0.25])
    rivals = rng.uniform(0.0, 0.2, (3, 3, SIZE + 1)).astype(np.float32)
    others = prototypes.Others(units(40), rng.uniform(0, 0.2, (40, SIZE + 1)), rng.uniform(0, 0.2, (SIZE, SIZE + 1)))
    for count in (3, 1):
        heard = Heard(np.zeros((count, 3, SIZE), np.float32), z[:count], rivals[:count])
        a = weights[:count]
        made = prototypes.taught(PLAIN, "x", heard, a, others)
        means = z[:count].mean(1)
        w = prototypes.directions(PLAIN, np.average(means, axis=0, weights=a)[None].astype(np.float32))[0]
        own = []
        for i in range(count):
            rest = [j for j in range(count) if j != i] or [i]
            centre = np.average(means[rest], axis=0, weights=a[rest])[None].astype(np.float32)
            own.append((z[i] @ prototypes.directions(PLAIN, centre)[0] - 0.6 * rivals[i, :, -1]).max())
        low = PLAIN.cohort @ w - 0.6 * others.cohort[:, -1]
        whole = others.z @ w - 0.6 * others.rivals[:, -1]
        assert np.allclose(made.direction, w, atol=1e-5)
        assert made.threshold == pytest.approx(prototypes.threshold(np.array(own), low, whole), abs=1e-5)
        assert (made.name, made.evidence) == ("x", pytest.approx(a.sum()))
    heard = Heard(np.zeros((3, 3, SIZE), np.float32), z, rivals)
    base = prototypes.taught(PLAIN, "on", heard, weights, others, ON)
    w = prototypes.taught(PLAIN, "x", heard, weights, others).direction
    assert np.array_equal(base.direction, w)
    highest = float((others.z @ w - 0.6 * others.rivals[:, ON]).max())
    assert base.threshold >= highest + 0.06 - 1e-5  # above every window of the guard set, and clear of it


def test_nothing_heard_has_the_shapes_of_something():
    known = model()
    nothing = known.hear(np.zeros((0, 3, 16, 96), np.float32))
    assert (nothing.logits.shape, nothing.rivals.shape) == ((0, 3, SIZE), (0, 3, SIZE + 1))
    assert nothing.z.shape == (0, 3, known.space.size)
    assert nothing.logits.dtype == nothing.z.dtype == nothing.rivals.dtype == np.float32
    material, verdicts = trainer.prepare(known, Ledger("aa" * 8))
    assert (material.centres.shape, material.weights.shape, material.rows.shape) == ((0, known.space.size), (0,), (0,))
    assert (material.phrases, verdicts) == ((), ())
    assert set(known.phrases) == set(known.thresholds)
    assert len(known.phrases) < len(known.classes)  # what is no phrase is no class that one can say


def test_a_phrase_of_ones_own_is_scored_against_every_class():
    known = model()
    takes = tuple(replace(example(n, "sesame", "enrolment"), spans=invented(3, n)) for n in range(3))
    material, _ = trainer.prepare(known, Ledger("aa" * 8, takes))
    made = trainer.build(known, Ledger("aa" * 8, takes), material, trainer.When(1), trainer.LADDER[0]).taught[0]
    others = prototypes.Others(known.guard.z, known.guard.rivals, known.cohort_rivals)
    plain = prototypes.taught(known.space, "sesame", material.heard, material.weights, others, -1)
    assert (made.threshold, made.evidence) == (plain.threshold, 3.0)
    assert np.array_equal(made.direction, plain.direction)


@pytest.mark.parametrize("count", [3, 2, 1])
def test_takes_that_stand_out_raise_a_taught_phrases_threshold(count):
    """SHARE of the way from the others to them, each scored by the rest; for a base phrase OWN_SHARE once more."""
    rng = np.random.default_rng(7)
    middle = np.full(SIZE, SIZE**-0.5, np.float32)
    z = middle + 0.05 * rng.standard_normal((3, 3, SIZE)).astype(np.float32)
    z = (z / np.linalg.norm(z, axis=-1, keepdims=True))[:count]
    a = np.array([1.0, 0.5, 0.25])[:count]
    rivals = rng.uniform(0.0, 0.2, (count, 3, SIZE + 1)).astype(np.float32)
    nobody = np.zeros((1, SIZE + 1), np.float32)
    others = prototypes.Others(-middle[None], nobody, np.zeros((SIZE, SIZE + 1), np.float32))
    heard = Heard(np.zeros((count, 3, SIZE), np.float32), z, rivals)
    means = z.mean(1)
    rest = [[j for j in range(count) if j != i] or [i] for i in range(count)]
    centres = np.array([np.average(means[others_], axis=0, weights=a[others_]) for others_ in rest], np.float32)
    ways = prototypes.directions(PLAIN, centres)
    w = prototypes.directions(PLAIN, np.average(means, axis=0, weights=a)[None].astype(np.float32))[0]
    low = float((PLAIN.cohort @ w).mean() + 3.0 * (PLAIN.cohort @ w).std())
    for own_class in (-1, ON):
        own = [float((z[i] @ ways[i] - 0.6 * rivals[i, :, own_class]).max()) for i in range(count)]
        assert np.mean(own) > low + 0.3
        limit = low + (0.3 * (np.mean(own) - low) if count > 1 else 0.05)
        if own_class == ON:
            limit += 0.3 * (np.mean(own) - limit)
        made = prototypes.taught(PLAIN, "x", heard, a, others, own_class)
        assert made.threshold == pytest.approx(limit, abs=1e-5)


def test_a_voice_is_learnt_from_those_who_asked_for_it_alone():
    known = model()
    assert not Ledger("aa" * 8).voice  # unless they say so, nobody does
    takes = tuple(replace(example(n, p, "enrolment"), spans=span(p, n)) for n, p in enumerate(("on", "off", "yes")))
    for asked in (True, False):
        ledger = Ledger("aa" * 8, takes, voice=asked)
        material, _ = trainer.prepare(known, ledger)
        built = trainer.build(known, ledger, material, trainer.When(1), trainer.LADDER[0])
        assert (built.gain, bool(built.shifts)) == (60.0, True)
        found = built.voice
        expected = prototypes.voice(known.space, known.classes, material.centres, material.phrases)
        assert np.array_equal(found, expected) if asked else found is None


def test_thresholds_and_scores_are_of_one_precision():
    """Or a score that equals its threshold would be below it."""
    known = model()
    assert known.limits.dtype == known.guard.posteriors().dtype == np.float32


def test_what_is_held_out_has_left_no_trace_in_what_judges_it():
    """What a round remembers of one fold does not get into another."""
    known = model()
    takes = tuple(replace(example(n, "sesame", "enrolment"), spans=invented(3, n)) for n in range(4))
    ledger = Ledger("aa" * 8, takes)
    prepared = trainer.prepare(known, ledger)
    made = trainer.candidate(known, ledger, prepared, trainer.When(1), trainer.LADDER[0])
    assert len(made.folds) == 4
    for held, adapter in made.folds:
        rest = tuple(take for n, take in enumerate(takes) if n not in held)
        alone = replace(ledger, examples=rest)
        fresh = trainer.build(known, alone, trainer.prepare(known, alone)[0], trainer.When(1), trainer.LADDER[0])
        assert adapter_file.encode(adapter) == adapter_file.encode(fresh)
        assert adapter.taught[0].threshold != made.adapter.taught[0].threshold


def test_windows_are_heard_alike_in_whatever_precision_they_come():
    known = model()
    windows = known.guard_windows[:3]
    one, two = known.hear(windows), known.hear(windows.astype(np.float64))
    assert one.logits.dtype == two.logits.dtype == np.float32
    assert np.array_equal(one.logits, two.logits)


def test_what_is_said_often_gets_its_prior_by_the_day_of_the_round():
    known = model()
    ledger = Ledger("aa" * 8, (), {("on", 90): 30})
    nothing, _ = trainer.prepare(known, ledger)
    for day, step in ((90, 0), (104, 0), (90, 6), (90, 7)):
        made = trainer.build(known, ledger, nothing, trainer.When(day), trainer.LADDER[step])
        expected = prototypes.prior(ledgers.decayed(ledger.usage, day), known.phrases, trainer.LADDER[step].prior)
        assert made.prior == expected
        assert (list(expected) == ["on"]) is (step != 7)
