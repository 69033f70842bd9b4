"""Learning's pure core: what its formulas promise, for any input and not for an example of one."""

import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import LearningError
from idiolect.learning import adapter_file, gate, prototypes, rollout, trainer
from idiolect.learning import ledger as ledgers
from idiolect.learning import round as rounds
from idiolect.learning.admission import SAME, SUSPECTS, admit
from idiolect.learning.ledger import DAY_CAP, SESSION_CAP, Example, Ledger
from idiolect.learning.rollout import Signal, State, Version
from idiolect.listening.pipeline.adapter import Adapter, Shift, Taught
from idiolect.listening.pipeline.head import Scorer
from idiolect.listening.pipeline.household import Household, softmax
from idiolect.values import GUEST
from tests.support.learners import invented, model, span

SEEDS = st.integers(0, 2**32 - 1)


def vectors(seed, count, size=8):
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32) * 3


# -- prototypes


@given(SEEDS, st.integers(1, 40))
def test_a_residual_is_never_longer_than_tau(seed, count):
    clipped = prototypes.clip(vectors(seed, count))
    assert (np.linalg.norm(clipped, axis=1) <= prototypes.TAU * 1.0001).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 30))
def test_nothing_moves_a_phrase_beyond_its_bounds(seed, count):
    """One example by 2 a tau / (kappa + sum a) at most, any number of them by tau (the module's formulas)."""
    known, rng = model(), np.random.default_rng(seed)
    size = known.space.size
    z = rng.standard_normal((count + 1, size)).astype(np.float32) * rng.uniform(0.1, 50)
    says = [known.phrases[i] for i in rng.integers(0, 3, count + 1)]
    a = rng.uniform(0.1, 1.0, count + 1)
    before = prototypes.shifts(known.space, known.classes, z[:-1], says[:-1], a[:-1])
    after = prototypes.shifts(known.space, known.classes, z, says, a)
    total = a.sum()
    for name, shift in after.items():
        assert np.linalg.norm(shift.vector) <= prototypes.TAU * 1.0001
        evidence = sum(w for w, said in zip(a[:-1], says[:-1], strict=True) if said == name)
        own = 2 * a[-1] / (prototypes.KAPPA + evidence + a[-1]) if says[-1] == name else 0.0
        shared = 2 * a[-1] / (prototypes.KAPPA_ALL + total)
        moved = shift.vector - (before[name].vector if before else 0.0)
        assert np.linalg.norm(moved) <= own + shared + 1e-4, (name, says[-1])


def test_no_examples_are_the_base_model():
    known = model()
    outcome = rounds.run(known, Ledger("aa" * 8), trainer.When(20_000))
    adapter = outcome.adapter
    assert not adapter.shifts
    assert not adapter.taught
    heard = known.guard.take(range(50))
    assert np.array_equal(trainer.adapted(known, adapter, heard), heard.posteriors())


def test_a_threshold_stands_above_others_and_below_the_phrase():
    rng = np.random.default_rng(1)
    others = rng.normal(0.0, 0.07, 1000)
    low = prototypes.threshold(np.array([0.3, 0.35]), others)
    assert low > np.quantile(others, 0.999)
    assert prototypes.threshold(np.array([0.7, 0.8]), others) > low
    assert prototypes.threshold(np.array([1.0]), others) == pytest.approx(low, abs=0.06)
    crowded = np.concatenate([np.zeros(90), np.full(10, 0.5)])
    assert prototypes.threshold(np.array([0.7, 0.8]), others, crowded) > 0.5


@given(st.dictionaries(st.sampled_from(["on", "off", "up"]), st.floats(0, 1e6), max_size=3))
def test_a_prior_helps_within_its_span_and_lowers_nothing(counts):
    found = prototypes.prior(counts, ("on", "off", "up", "down"), 0.5)
    assert all(0.0 < value <= 0.5 for value in found.values())


# -- the ledger


def example(number=0, phrase="on", *, source="enrolment", session="s", day=20_000, spans=None, heard=""):
    spans = span(phrase, number) if spans is None else spans
    return Example(number, phrase, source, session, day, "00" * 32, spans, heard)


@given(st.lists(st.tuples(st.sampled_from(["correction", "confirmation"]), st.integers(0, 3)), max_size=60))
def test_no_session_and_no_day_outweighs_its_cap(given_):
    zeros = np.zeros((1, 18, 96), np.float32)
    examples = [example(i, source=s, session=f"{d}", spans=zeros, day=d // 2) for i, (s, d) in enumerate(given_)]
    weights = ledgers.weights(examples)
    for session in range(4):
        assert sum(w for w, e in zip(weights, examples, strict=True) if e.session == f"{session}") <= SESSION_CAP
    for day in range(2):
        assert sum(w for w, e in zip(weights, examples, strict=True) if e.day == day) <= DAY_CAP


def test_records_come_back_and_damage_is_refused():
    made = example(7, phrase="läuft", heard="on", spans=span("on"))
    again = ledgers.decode(made.encode())
    assert again.encode() == made.encode()
    assert np.allclose(again.spans, made.spans, rtol=1e-3)
    for damaged in (b"", b"\xff\xff\xff\x7f", made.encode()[:-2], made.encode().replace(b"enrolment", b"hypnotism")):
        with pytest.raises(LearningError):
            ledgers.decode(damaged)


# -- admission


def verdicts(*examples, voice=False):
    known = model()
    ledger = Ledger("aa" * 8, tuple(replace(e, sequence=i) for i, e in enumerate(examples)), voice=voice)
    _, found = trainer.prepare(known, ledger)
    return [v.check for v in found]


def test_what_was_enrolled_counts_and_the_same_again_does_not():
    again = span("on", 1)
    assert verdicts(example(phrase="on", spans=again), example(phrase="on", spans=again)) == [0, 3]
    assert SAME > 0.99


def test_a_confirmation_needs_voice_match():
    assert verdicts(example(source="confirmation")) == [1]
    assert verdicts(example(source="confirmation"), voice=True) == [0]


def test_a_right_correction_counts_and_a_wrong_one_is_set_aside():
    right = example(phrase="on", source="correction", heard="off", spans=span("on", 3))
    wrong = example(phrase="off", source="correction", heard="on", spans=span("on", 4))
    assert verdicts(right)[0] == 0
    assert verdicts(wrong)[0] in (4, 6)


def test_after_two_of_a_kind_the_rest_is_suspicious_too():
    wrong = [
        example(phrase="off", source="correction", heard="on", spans=span("on", i), session=f"{i}")
        for i in range(SUSPECTS)
    ]
    right = example(phrase="off", source="correction", heard="on", spans=span("off", 2), session="z")
    assert verdicts(right)[-1] == 0
    assert verdicts(*wrong, right)[-1] == 7


def test_a_phrase_that_nobody_knows_is_not_learnt_by_correcting():
    assert verdicts(example(phrase="open sesame", source="correction", spans=invented(1)))[0] == 4
    taught = [example(phrase="open sesame", spans=invented(1, take)) for take in range(3)]
    more = example(phrase="open sesame", source="correction", spans=invented(1, 5))
    assert verdicts(*taught, more)[-1] == 0


def test_admission_is_decided_in_order_and_alone_from_the_ledger():
    known = model()
    examples = tuple(example(i, phrase=("on", "off")[i % 2]) for i in range(6))
    z = list(np.random.default_rng(0).standard_normal((6, known.space.size)).astype(np.float32))
    heard = np.zeros((6, len(known.classes)), np.float32)
    assert admit(known, Ledger("aa" * 8, examples), z, heard) == admit(known, Ledger("bb" * 8, examples), z, heard)
    assert admit(known, Ledger("aa" * 8), [], heard[:0]) == []


# -- the gate


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_exact(lost, won):
    p = gate.chance(lost, won)
    assert 0.0 < p <= 1.0
    assert p == pytest.approx(1.0 - sum(math.comb(lost + won, k) for k in range(lost)) / 2 ** (lost + won))


def test_many_changes_are_judged_too():
    """More than a float's exponent has room for, and in no time."""
    assert 0.5 < gate.chance(10_000, 10_000) < 0.51
    assert gate.chance(12_000, 8_000) < 1e-100


def test_an_adapter_that_harms_others_does_not_pass():
    """A shift towards another phrase with a gain beyond reason: refused by number, with what was measured."""
    known = model()
    mu = known.space.prototypes
    index = {name: known.classes.index(name) for name in ("on", "off")}
    towards = mu[index["on"]] - mu[index["off"]]
    bad = Adapter("aa" * 8, 1, {"off": Shift((towards / np.linalg.norm(towards)).astype(np.float32), 9.0)}, gain=300.0)
    ledger = Ledger("aa" * 8, tuple(example(i, phrase="on") for i in range(3)))
    made = trainer.candidate(known, ledger, trainer.prepare(known, ledger), trainer.When(1), trainer.LADDER[0])
    verdict = gate.judge(known, replace(made, adapter=bad), active=None, size=500)
    assert verdict.check in (2, 3)
    assert verdict.numbers["guard_lost"] + verdict.numbers["guard_accepts"] > 0
    assert gate.judge(known, replace(made, adapter=bad), active=None, size=10**6).check == 1
    nan = replace(bad, shifts={"off": Shift(np.full_like(towards, np.nan), 1.0)})
    assert gate.judge(known, replace(made, adapter=nan), active=None, size=500).check == 1


def test_a_round_says_the_same_twice_and_nothing_new_is_no_version():
    known = model()
    ledger = Ledger("aa" * 8, tuple(example(i, "sesame", spans=invented(3, i)) for i in range(3)))
    first, second = (rounds.run(known, ledger, trainer.When(20_000, 1)) for _ in range(2))
    assert first.verdict.passed, first.verdict
    assert first.data == second.data
    assert rounds.replay(known, ledger, trainer.When(20_000, 1), int(first.verdict.numbers["step"])) == first.data
    again = rounds.run(known, ledger, trainer.When(20_001, 2), rounds.Circumstances(active=first.adapter))
    assert again.verdict.check == 6


# -- files


def adapter(seed, taught=20, shifts=22, size=192):
    rng = np.random.default_rng(seed)

    def unit():
        v = rng.standard_normal(size)
        return (v / np.linalg.norm(v)).astype(np.float32)

    return Adapter(
        "ab" * 8, 3, {f"s{i}": Shift(unit(), 1.5, 0.1) for i in range(shifts)},
        tuple(Taught(f"phrase {i}", unit(), 0.4, 3.0) for i in range(taught)), {"s1": 0.5}, {"s2": 0.1}, 40.0, unit(),
    )  # fmt: skip


def test_twenty_phrases_fit_and_come_back():
    data = adapter_file.encode(adapter(1, taught=20, shifts=0))
    assert len(data) <= 16 << 10
    again = adapter_file.decode(adapter_file.encode(adapter(1)))
    assert adapter_file.encode(again) == adapter_file.encode(adapter(1))
    assert [t.name for t in again.taught] == [f"phrase {i}" for i in range(20)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4000), st.integers(0, 255), st.binary(max_size=40))
def test_damaged_adapters_are_refused_or_are_adapters(place, byte, tail):
    data = bytearray(adapter_file.encode(adapter(2, taught=2, shifts=2)))
    data[place % len(data)] = byte
    for damaged in (bytes(data), bytes(data[: place % len(data)]), bytes(data) + tail, tail):
        try:
            found = adapter_file.decode(damaged)
        except LearningError:
            continue
        assert all(np.isfinite(t.direction).all() for t in found.taught)


def test_a_header_that_nests_without_end_is_refused():
    deep = b"[" * 5000 + b"]" * 5000
    with pytest.raises(LearningError):
        adapter_file.decode(struct.pack("<I", len(deep)) + deep)
    with pytest.raises(LearningError):
        adapter_file.decode(struct.pack("<I", 2) + json.dumps({}).encode())


# -- rollout


@given(st.lists(st.tuples(st.sampled_from(["enter", "now", "agree", "differ", "correct", "back"]), st.integers(0, 9))))
def test_whatever_happens_one_version_at_most_is_in_use(steps):
    versions: list[Version] = []
    number = 0
    for what, which in steps:
        if what in ("enter", "now"):
            number += 1
            versions = rollout.enter(versions, number, at_once=what == "now")
        elif versions:
            one = versions[which % len(versions)]
            if what == "correct":
                changed = one.corrected()
            elif what == "back":
                changed = one.next(Signal.TAKEN_BACK)
            else:
                changed = one.heard(agreed=what == "agree", drifted=what == "differ")
            versions = rollout.update(versions, changed)
        assert sum(v.in_use for v in versions) <= 1
        assert sum(v.state is State.SHADOW for v in versions) <= 1
        assert len(versions) <= rollout.KEPT + 2
        assert [v.number for v in versions] == sorted({v.number for v in versions})


def test_a_rolled_back_version_never_comes_again():
    for signal in Signal:
        assert Version(1, State.ROLLED_BACK).next(signal).state is State.ROLLED_BACK


def test_a_canary_that_is_never_corrected_becomes_active():
    version = Version(1, State.CANARY)
    for _ in range(rollout.CANARY_USES):
        version = version.heard(agreed=True, drifted=False)
    assert version.state is State.ACTIVE


# -- in the stream


def test_a_guest_hears_the_base_model_bit_by_bit():
    known = model()
    people = Household(known.space, known.classes, [replace(adapter(1, size=known.space.size), profile="aa" * 8)])
    rng = np.random.default_rng(4)
    plain, homely = Scorer(known.head), Scorer(known.head)
    homely.household = people
    for _ in range(30):
        embedding = rng.standard_normal(96).astype(np.float32)
        a, b = plain.push(embedding), homely.push(embedding)
        assert np.array_equal(a, b[: len(a)])
        assert not b[len(a) :].any()


def test_out_of_a_turn_only_a_suspected_wake_word_is_looked_at_twice():
    known = model()
    wake = known.classes.index("computer")
    away = Shift(np.zeros(known.space.size, np.float32), 1.0)
    mine = Adapter(
        "aa" * 8, 1, {"computer": away}, (Taught("x", np.ones(known.space.size, np.float32), -5.0),), gain=1.0
    )
    scorer = Scorer(known.head)
    scorer.household, scorer.profile = Household(known.space, known.classes, [mine]), "aa" * 8
    scorer.suspects = [wake]
    window = known.guard_windows[list(known.guard_labels).index("computer")]
    other = known.guard_windows[list(known.guard_labels).index("seven" if "seven" in known.guard_labels else "no")]
    for said, suspected in ((window, True), (other, False)):
        scores = {}
        for attentive in (True, False):
            scorer.reset()
            scorer.attentive = attentive
            for embedding in said:
                scores[attentive] = scorer.push(embedding)
        assert scores[True][-1] > 0.5  # the taught row, which anything satisfies
        assert (scores[False][-1] > 0.5) == suspected


def test_softmax_of_a_guest_in_a_household_of_nobody():
    known = model()
    logits = np.random.default_rng(0).standard_normal(len(known.classes)).astype(np.float32)
    nobody = Household(known.space, known.classes, [])
    found = nobody.posteriors(GUEST, logits, np.zeros(0, np.float32))
    assert np.array_equal(found, softmax(logits.copy()))


def test_what_is_in_use_does_not_give_way_to_a_weaker_step_of_the_ladder():
    """With nothing new to learn, the strongest step that passes is what is in use: no further one is tried."""
    known = model()
    says = ("yes", "no", "left", "right", "stop", "go")
    ledger = Ledger("aa" * 8, tuple(example(i, says[i % 6], spans=span(says[i % 6], i, noise=0.9)) for i in range(24)))
    first = rounds.run(known, ledger, trainer.When(20_000, 1))
    assert first.verdict.passed, first.verdict
    assert first.adapter.shifts
    again = rounds.run(known, ledger, trainer.When(20_001, 2), rounds.Circumstances(active=first.adapter))
    assert again.verdict.check == 6, again.verdict
    assert again.verdict.numbers["step"] == first.verdict.numbers["step"]
