"""The gate's numbers, the self-test's slices and the forms that adapters are kept in, each at its limit."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest

from idiolect.errors import LearningError
from idiolect.learning import adapter_file, gate, ledger, provenance, self_test, trainer
from idiolect.learning import maps as successions
from idiolect.learning import round as rounds
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.model import Heard
from idiolect.learning.provenance import Provenance, Sealed
from idiolect.learning.self_test import UNSEEN, Slice
from idiolect.listening.pipeline.adapter import Adapter, Shift, Taught
from idiolect.listening.pipeline.household import PRIOR_SPAN
from tests.support.learners import invented, model, span

UNIT = np.eye(8, dtype=np.float32)
OVER = np.float32(1.01) * UNIT[0]


def adapter(**changes):
    plain = Adapter(
        "aa" * 8, 3, {"on": Shift(UNIT[0], 1.0, 0.2)}, (Taught("x", UNIT[1], 0.4, 3.0),), {"on": 0.5}, {"off": 0.1},
        40.0, UNIT[2],
    )  # fmt: skip
    return replace(plain, **changes)


# -- check 1


def test_1_what_is_within_bounds_is_and_one_beyond_is_not():
    assert gate.bounded(adapter(), 16 << 10)
    assert not gate.bounded(adapter(), (16 << 10) + 1)
    assert adapter_file.cap(20) == 16 << 10 == adapter_file.cap(0)
    assert adapter_file.cap(21) == (16 << 10) + 480


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({"shifts": {"on": Shift(OVER, 1.0)}}, False),
        ({"shifts": {"on": Shift(np.full(8, np.nan, np.float32), 1.0)}}, False),
        ({"taught": (Taught("x", OVER, 0.4, 1.0),)}, False),
        ({"raises": {"on": 3.0}}, True),
        ({"raises": {"on": 3.01}}, False),
        ({"raises": {"on": -0.01}}, False),
        ({"raises": {"on": 0.0}}, True),
        ({"prior": {"on": PRIOR_SPAN}}, True),
        ({"prior": {"on": PRIOR_SPAN + 0.01}}, False),
        ({"prior": {"on": -0.01}}, False),
        ({"shifts": {"on": Shift(UNIT[0], 1.0), "off": Shift(OVER, 1.0)}}, False),
    ],
)
def test_1_every_number_has_bounds(change, good):
    assert gate.bounded(adapter(**change), 1) is good


def test_every_check_has_a_number_and_says_what_it_is_about():
    assert list(gate.CHECKS) == list(range(1, 8))
    assert (gate.NO_IMPROVEMENT, gate.NOT_REPRODUCIBLE) == (6, 7)
    for number, about in gate.CHECKS.items():
        assert gate.Verdict(number).reason == f"check {number} failed: {about}"
    assert gate.Verdict(0).reason == "all checks passed"


# -- answers


def test_the_highest_above_its_threshold_is_the_answer():
    scores = np.array([[0.6, 0.7, 0.1], [0.5, 0.49, 0.9], [0.49, 0.1, 0.1], [0.5, 0.1, 0.1]], np.float32)
    assert list(gate.answers(scores, np.array([0.5, 0.5, 1.0], np.float32))) == [1, 0, -1, 0]


def test_the_columns_are_the_models_classes_and_what_was_taught_besides():
    known = model()
    mine = adapter(taught=(Taught("on", UNIT[1], 0.4, 1.0), Taught("x", UNIT[1], 0.4, 1.0)))
    assert gate.names_of(known, mine) == (*known.classes, "x")
    limits = gate.limits(known, mine)
    assert len(limits) == len(known.classes) + 1
    assert np.array_equal(limits[:-1], known.limits)
    assert limits[-1] == np.float32(gate.TAUGHT_THRESHOLD)


# -- self-test


def test_worse_is_judged_on_unseen_examples_and_strata_and_on_no_other():
    def part(name, lost, won=0):
        return Slice(name, 100, lost, lost, won)

    assert self_test.worse([part(UNSEEN, 4)]) == ""
    assert self_test.worse([part(UNSEEN, 5)]) == UNSEEN  # once in 32
    assert self_test.worse([part("own: taught phrases", 50)]) == ""
    assert self_test.worse([part("others: all", 5)]) == "others: all"
    shared = [part("others: all", 0), part("others: pace slow", 5)]  # 1/32 against 0.05 / 2
    assert self_test.worse(shared) == ""
    assert self_test.worse([shared[0], part("others: pace slow", 6)]) == "others: pace slow"
    assert self_test.worse([part(UNSEEN, 5), *shared]) == UNSEEN
    assert self_test.worse([part(UNSEEN, 6, 1)]) == ""
    assert self_test.worse([part(UNSEEN, 7, 1)]) == UNSEEN


def test_a_slice_counts_wrong_lost_and_won():
    pairs = [(True, True), (True, False), (False, True), (False, True), (False, False)]
    assert self_test._counted(("a", pairs), ("none", [])) == [Slice("a", 5, 3, 2, 1)]


# -- an adapter's file


def test_an_adapter_comes_back_with_everything_in_its_place():
    again = adapter_file.decode(adapter_file.encode(adapter()))
    assert (again.profile, again.number, again.gain) == ("aa" * 8, 3, 40.0)
    assert (again.raises, again.prior) == ({"on": 0.5}, {"off": 0.1})
    assert np.array_equal(again.shifts["on"].vector, UNIT[0])
    assert again.shifts["on"].vector.dtype == again.taught[0].direction.dtype == again.voice.dtype == np.float32
    assert (again.shifts["on"].evidence, again.shifts["on"].floor) == (1.0, 0.2)
    assert np.array_equal(again.taught[0].direction, UNIT[1])
    assert (again.taught[0].name, again.taught[0].threshold, again.taught[0].evidence) == ("x", 0.4, 3.0)
    assert np.array_equal(again.voice, UNIT[2])
    assert adapter_file.decode(adapter_file.encode(adapter(voice=None))).voice is None
    bare = adapter_file.decode(adapter_file.encode(Adapter("aa" * 8, 1)))
    assert (bare.shifts, bare.taught, bare.voice) == ({}, (), None)
    assert header(adapter_file.encode(bare))[0]["size"] == 0


def test_a_header_has_one_spelling():
    data = adapter_file.encode(adapter())
    (size,) = struct.unpack_from("<I", data)
    text = json.dumps(header(data)[0], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert data[4 : 4 + size] == text.encode()


def test_numbers_of_a_header_have_six_digits():
    fine = 0.123456789
    mine = adapter(
        shifts={"on": Shift(UNIT[0], fine, fine)}, taught=(Taught("x", UNIT[1], fine, fine),), raises={"on": fine},
        prior={"on": fine},
    )  # fmt: skip
    fields = header(adapter_file.encode(mine))[0]
    six = 0.123457
    assert (fields["shifts"], fields["taught"]) == ([["on", six, six]], [["x", six, six]])
    assert (fields["raises"], fields["prior"]) == ({"on": six}, {"on": six})


def test_2_and_3_what_a_row_takes_from_others_is_counted():
    """A taught row at a threshold that so many windows of others pass: one in a hundred and one more may."""
    known = model()
    labels = known.guard_labels
    row = known.guard.z[labels.index("on")]
    made = trainer.candidate(
        known, Ledger("aa" * 8), trainer.prepare(known, Ledger("aa" * 8)), trainer.When(1), trainer.LADDER[0]
    )
    most = int(gate.ACCEPTED * len(labels) + 1)
    seen = {}
    for threshold in np.linspace(-1.0, 2.0, 301):
        mine = replace(made.adapter, taught=(Taught("x", row, float(threshold), 3.0),))
        numbers = gate.judge(known, replace(made, adapter=mine), active=None, size=1).numbers
        good = gate._guard_set(known, mine, {})[1]
        seen[numbers["guard_taught"]] = good and numbers["guard_accepts"] == 0
        if numbers["guard_taught"] == 0:
            break
    assert seen[0]
    assert all(good is (taken <= most) for taken, good in seen.items()), seen
    assert {taken <= most for taken in seen} == {True, False}


def test_2_what_is_lost_and_won_is_counted_window_by_window():
    """A shift that turns a phrase away from itself loses most of it, and lets others through that it had covered."""
    known = model()
    nothing = trainer.candidate(
        known, Ledger("aa" * 8), trainer.prepare(known, Ledger("aa" * 8)), trainer.When(1), trainer.LADDER[0]
    )
    seen = set()
    for name in ("yes", "computer", "jarvis"):
        row = known.space.prototypes[known.classes.index(name)]
        mine = Adapter("aa" * 8, 1, {name: Shift(-row / np.linalg.norm(row), 9.0)}, gain=60.0)
        numbers = gate.judge(known, replace(nothing, adapter=mine), active=None, size=1).numbers
        lost = won = 0
        for said, before, now in zip(*gate.on_others(known, mine), strict=True):
            lost += int(said >= 0 and before == said and now != said)
            won += int(said >= 0 and before != said and now == said)
        assert (numbers["guard_lost"], numbers["guard_won"]) == (lost, won)
        assert numbers["guard_chance"] == round(gate.chance(lost, won), 4)
        assert 0.0 <= numbers["guard_worst_stratum_chance"] <= 1.0
        harmful = gate.chance(lost, won) <= gate.SIGNIFICANT
        assert not harmful or gate.judge(known, replace(nothing, adapter=mine), active=None, size=1).check == 2
        seen |= {(bool(lost and won), harmful)}
    assert (True, True) in seen


def test_6_a_phrase_that_could_not_be_said_before_is_an_improvement():
    known = model()
    nothing = trainer.candidate(
        known, Ledger("aa" * 8), trainer.prepare(known, Ledger("aa" * 8)), trainer.When(1), trainer.LADDER[0]
    )
    silent = replace(nothing.adapter, taught=(Taught("x", np.eye(1, known.space.size, 0, np.float32)[0], 2.0, 3.0),))
    assert gate.judge(known, replace(nothing, adapter=silent), active=None, size=1).check == 0
    assert gate.judge(known, replace(nothing, adapter=silent), active=nothing.adapter, size=1).check == 0
    assert gate.judge(known, replace(nothing, adapter=silent), active=silent, size=1).check == 6
    assert gate.judge(known, replace(nothing, adapter=silent), active=silent, owed=True, size=1).check == 0


def test_what_must_go_goes_though_nothing_gets_better():
    known = model()
    forgotten = adapter(taught=(Taught("x", np.eye(1, known.space.size, 0, np.float32)[0], 2.0, 3.0),), shifts={})
    for owed, check in ((True, 0), (False, 6)):
        around = rounds.Circumstances(active=replace(forgotten, raises={}, prior={}, voice=None), owed=owed)
        assert rounds.run(known, Ledger("aa" * 8), trainer.When(1, 9), around).verdict.check == check


def test_5_who_teaches_nothing_or_has_nobody_beside_takes_nothing():
    known = model()
    nobody = known.hear(np.zeros((0, 3, 16, 96), np.float32))
    assert gate._taken(known, adapter(), None) == gate._taken(known, adapter(), nobody) == 0
    some = known.guard.take(range(2))
    assert gate._taken(known, adapter(taught=()), Heard(*(v[:, None] for v in (some.logits, some.z, some.rivals)))) == 0


def test_bytes_are_accepted_by_their_digest_only():
    data = adapter_file.encode(adapter())
    assert adapter_file.accept(data, hashlib.sha256(data).hexdigest()).number == 3
    with pytest.raises(LearningError, match="not the one"):
        adapter_file.accept(data, hashlib.sha256(data + b"x").hexdigest())


def header(data):
    (size,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + size]), data[4 + size :]


@pytest.mark.parametrize("change", [{"v": 2}, {"voice": False}, {"size": 9}, {"shifts": []}, {"prior": {"on": "x"}}])
def test_a_header_that_does_not_fit_its_vectors_is_refused(change):
    fields, rest = header(adapter_file.encode(adapter()))
    text = json.dumps({**fields, **change}).encode()
    with pytest.raises(LearningError, match="not what was written"):
        adapter_file.decode(struct.pack("<I", len(text)) + text + rest)


def test_an_adapter_above_two_mib_is_refused_unread():
    fields, rest = header(adapter_file.encode(Adapter("aa" * 8, 1)))
    for size, good in ((2 << 20, True), ((2 << 20) + 1, False)):
        text = json.dumps(fields).encode()
        text += b" " * (size - 4 - len(text) - len(rest))
        data = struct.pack("<I", len(text)) + text + rest
        assert len(data) == size
        if good:
            assert adapter_file.decode(data).number == 1
        else:
            with pytest.raises(LearningError):
                adapter_file.decode(data)


# -- provenance

GATE = {"own_held_out": 4, "own_wrong": 1, "own_wrong_before": 2, "guard_lost": 3, "guard_won": 5}
FROM = Provenance("aa" * 8, 3, "b" * 64, "c" * 64, 20_000, 2, hashlib.sha256(b"file").hexdigest(), 7, 9, ("r",), GATE)


def test_what_is_signed_is_the_label_and_the_digest_of_the_canonical_form():
    raw = FROM.encode()
    assert json.loads(raw) == {
        "profile": "aa" * 8, "number": 3, "bundle": "b" * 64, "ledger": "c" * 64, "day": 20_000, "step": 2,
        "adapter": FROM.adapter, "examples": 7, "last": 9, "receipts": ["r"], "gate": GATE, "version": 1,
    }  # fmt: skip
    assert raw == json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode()
    assert FROM.signed_bytes() == b"idiolect/adapter/v1" + hashlib.sha256(raw).digest()
    assert provenance.parse(raw) == FROM
    carried = replace(FROM, mapped={"e" * 64: 2, "f" * 64: 3})
    assert provenance.parse(carried.encode()) == carried


def test_what_the_audit_log_is_told():
    assert FROM.audited("canary") == {
        "profile": "aa" * 8, "adapter": 3, "digest": FROM.adapter, "examples": 7, "state": "canary", "held_out": 4,
        "wrong": 1, "wrong_before": 2, "guard_lost": 3, "guard_won": 5,
    }  # fmt: skip
    assert replace(FROM, mapped={"e": 2, "f": 3}).audited("shadow")["mapped"] == 5
    bare = replace(FROM, gate={name: value for name, value in GATE.items() if name.startswith("own")}).audited("shadow")
    assert (bare["guard_lost"], bare["guard_won"]) == (0, 0)  # a model without a guard set


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"number": "3"}, {"day": None}, {"step": 0.5}, {"examples": "7"}, {"last": []}, {"profile": 1},
        {"bundle": 1}, {"ledger": None}, {"adapter": 7}, {"receipts": 7}, {"more": 1},
    ],
)  # fmt: skip
def test_provenance_of_another_form_is_refused(change):
    raw = json.dumps({**json.loads(FROM.encode()), **change}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(LearningError, match="provenance"):
        provenance.parse(raw)


@pytest.mark.parametrize("name", json.loads(FROM.encode()))
def test_provenance_without_one_of_its_fields_is_refused(name):
    fields = {n: value for n, value in json.loads(FROM.encode()).items() if n != name}
    with pytest.raises(LearningError, match="provenance"):
        provenance.parse(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


def test_another_spelling_of_provenance_is_refused():
    with pytest.raises(LearningError, match="provenance"):
        provenance.parse(FROM.encode() + b" ")


def test_a_sealed_adapter_is_three_parts_and_nothing_else():
    raw = Sealed(FROM, b"sig", b"file").encode()
    assert provenance.unseal(raw) == Sealed(FROM, b"sig", b"file")
    for damaged in (raw + b"\0", raw[:-1], raw[:3], b"", struct.pack("<I", (256 << 10) + 1) + bytes((256 << 10) + 20)):
        with pytest.raises(LearningError, match="not what was written"):
            provenance.unseal(damaged)
    with pytest.raises(LearningError, match="not the one that its provenance names"):
        provenance.unseal(Sealed(FROM, b"sig", b"another").encode())


def test_a_part_of_a_sealed_adapter_has_two_mib_at_most():
    for size, good in ((2 << 20, True), ((2 << 20) + 1, False)):
        data = bytes(size)
        raw = Sealed(replace(FROM, adapter=hashlib.sha256(data).hexdigest()), b"sig", data).encode()
        if good:
            assert provenance.unseal(raw).data == data
        else:
            with pytest.raises(LearningError, match="not what was written"):
                provenance.unseal(raw)


# -- the ledger's records


def example(sequence=7, **changes):
    plain = Example(sequence, "on", "correction", "s", 20_000, "r1", np.full((2, 18, 96), 0.5, np.float32), "off", "")
    return replace(plain, **changes)


def test_a_record_holds_every_field():
    again = ledger.decode(example(origin="ee").encode())
    assert np.array_equal(again.spans, example().spans)
    fields = (again.sequence, again.phrase, again.source, again.session, again.day, again.receipt, again.heard)
    assert fields == (7, "on", "correction", "s", 20_000, "r1", "off")
    assert again.origin == "ee"
    assert (again.ident, again.purpose) == ("00000007", "adapt_corrections")
    assert example(source="enrolment").purpose == "enrol"
    assert example(source="confirmation").purpose == "adapt_confirmations"
    assert example().digest() == hashlib.sha256(example().encode()).digest()
    (size,) = struct.unpack_from("<I", example().encode())
    text = example().encode()[4 : 4 + size]
    one_spelling = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert text == one_spelling  # whatever order a later version writes it in, its digest stays


def test_what_people_say_is_in_no_repr():
    known = Ledger("aa" * 8, (example(phrase="sesame", heard="open"),), {("sesame", 5): 2})
    assert "sesame" not in repr(known)
    assert "open" not in repr(known)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"source": "hearsay"}, {"copies": 0}, {"copies": 1}, {"copies": 3}, {"copies": 9}, {"day": "x"},
        {"sequence": None}, {"sequence": float("inf")},
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_refused(change):
    fields, rest = header(example().encode())
    text = json.dumps({**fields, **change}).encode()
    with pytest.raises(LearningError, match="not what was written"):
        ledger.decode(struct.pack("<I", len(text)) + text + rest)


def test_eight_copies_are_read_and_nine_are_not_and_a_header_has_two_kib():
    assert len(ledger.decode(example(spans=np.zeros((8, 18, 96), np.float32)).encode()).spans) == 8
    with pytest.raises(LearningError):
        ledger.decode(example(spans=np.zeros((9, 18, 96), np.float32)).encode())
    fields, rest = header(example().encode())
    for size, good in ((2048, True), (2049, False)):
        text = json.dumps(fields).encode()
        text += b" " * (size - len(text))
        raw = struct.pack("<I", size) + text + rest
        if good:
            assert ledger.decode(raw).sequence == 7
        else:
            with pytest.raises(LearningError):
                ledger.decode(raw)


def test_embeddings_that_are_not_finite_are_refused():
    spans = np.zeros((1, 18, 96), np.float32)
    spans[0, 3, 5] = np.inf
    with pytest.raises(LearningError):
        ledger.decode(example(spans=spans).encode())


def test_a_ledgers_digest_is_over_everything_that_an_adapter_is_made_from():
    full = Ledger("aa" * 8, (example(1), example(2)), {("on", 5): 2}, voice=True)
    others = [
        replace(full, profile="bb" * 8), replace(full, voice=False), replace(full, usage={("on", 5): 3}),
        replace(full, usage={("on", 6): 2}), replace(full, usage={("off", 5): 2}), full.without([1]),
        replace(full, examples=full.examples[::-1]), replace(full, examples=(example(1), example(3))),
    ]  # fmt: skip
    assert len({each.digest() for each in (full, *others)}) == len(others) + 1
    materials = {each.material() for each in others[2:5]} | {full.material(), others[0].material()}
    assert len(materials) == 1  # neither use nor the name
    assert len({full.material(), *(each.material() for each in (others[1], *others[5:]))}) == 5
    assert full.without([2]) == replace(full, examples=(full.examples[0],))
    assert Ledger("", (example(1, receipt="b"), example(2, receipt="a"), example(3, receipt="b"))).receipts() == (
        "a", "b"
    )  # fmt: skip


# -- maps


def test_a_map_is_affine_in_double_precision_and_stays_within_half_precision():
    rng = np.random.default_rng(1)
    matrix, offset = rng.standard_normal((96, 96)).astype(np.float32), rng.standard_normal(96).astype(np.float32)
    mapped = successions.EmbeddingMap(matrix, offset, "d")
    x = rng.standard_normal((2, 18, 96)).astype(np.float32)
    exact = x.astype(np.float64) @ matrix.astype(np.float64) + offset
    assert np.array_equal(mapped(x), exact.astype(np.float16).astype(np.float32))
    assert np.array_equal(np.unique(np.abs(mapped(x * 1e6))), np.unique(np.abs(np.clip(
        (x * 1e6).astype(np.float64) @ matrix.astype(np.float64) + offset, -65504, 65504).astype(np.float16)
    ).astype(np.float32)))  # fmt: skip
    assert mapped(np.full(96, 1e9, np.float32)).max() == 65504.0
    assert mapped(np.full(96, 1e9, np.float32)).min() == -65504.0
    assert mapped(x).dtype == np.float32
    carried = mapped.carried(example(), "ee")
    assert carried.origin == "ee"
    assert np.array_equal(carried.spans, mapped(example().spans))


def test_a_bundle_without_a_successor_brings_nothing():
    assert (successions.NOTHING.maps, successions.NOTHING.earlier) == ({}, None)


# -- what a round may not do


def test_7_what_cannot_be_made_again_is_refused_by_number(monkeypatch):
    known = model()
    examples = tuple(replace(example(n), phrase="sesame", source="enrolment", spans=invented(3, n)) for n in range(3))
    made = rounds.run(known, Ledger("aa" * 8, examples), trainer.When(20_000, 1))
    assert made.verdict.passed
    monkeypatch.setattr(rounds, "_again", lambda *_: b"other bytes")
    verdict = rounds.run(known, Ledger("aa" * 8, examples), trainer.When(20_000, 1)).verdict
    assert verdict.check == 7
    assert verdict.numbers == {**made.verdict.numbers, "step": len(trainer.LADDER) - 1} | {
        name: value for name, value in verdict.numbers.items() if name != "step"
    }
    assert {"own_wrong", "guard_lost", "size", "step"} <= set(verdict.numbers)


def test_a_threshold_goes_up_by_what_others_would_cross_it_by_and_a_little():
    """A shift that lifts other people's words over a phrase's threshold: it rises to the highest of them and 0.2."""
    known = model()
    index = {name: known.classes.index(name) for name in ("on", "yes")}
    vector = known.space.prototypes[index["yes"]] / np.linalg.norm(known.space.prototypes[index["yes"]])
    seen = set()
    for gain in (1.0, 60.0, 70.0, 300.0):
        loud = Adapter("aa" * 8, 1, {"on": Shift(vector, 9.0)}, gain=gain)
        now = trainer.adapted(known, loud, known.guard)[:, index["on"]]
        before = known.guard.posteriors()[:, index["on"]]
        limit = known.thresholds["on"]
        others = np.array([label != "on" for label in known.guard_labels])
        crossed = now[others & (now >= limit) & (before < limit)]
        found = trainer.raises(known, loud)
        if not len(crossed):
            assert found == {}
            seen.add("none")
            continue
        top = float(np.clip(crossed.max(), 1e-6, 1 - 1e-6))
        up = math.log(top / (1 - top)) - math.log(limit / (1 - limit)) + 0.2
        assert found == {"on": pytest.approx(min(up, 3.0), abs=1e-5)}
        seen.add("some" if up < 3.0 else "most")
    assert seen == {"none", "some", "most"}
    assert trainer.raises(known, Adapter("aa" * 8, 1)) == {}


def test_copies_count_in_the_centre_of_an_example_and_not_in_what_is_heard():
    known = model()
    one, two = span("on", 0), span("on", 1)
    both = np.concatenate([one, two])
    alone = trainer.prepare(known, Ledger("aa" * 8, (example(0, source="enrolment", spans=one),)))[0]
    copied = trainer.prepare(known, Ledger("aa" * 8, (example(0, source="enrolment", spans=both),)))[0]
    other = trainer.prepare(known, Ledger("aa" * 8, (example(0, source="enrolment", spans=two),)))[0]
    assert np.array_equal(copied.heard.logits, alone.heard.logits)
    assert np.allclose(copied.centres, (alone.centres + other.centres) / 2, atol=1e-6)


def test_a_base_phrase_gets_a_row_of_its_own_from_weight_two_on_and_a_wake_word_never():
    known = model()

    def own_rows(phrase, count):
        ledger_ = Ledger("aa" * 8, tuple(example(n, phrase=phrase, source="enrolment", spans=span(phrase, n))
                                         for n in range(count)))  # fmt: skip
        material, _ = trainer.prepare(known, ledger_)
        return [t.name for t in trainer.build(known, ledger_, material, trainer.When(1), trainer.LADDER[0]).taught]

    assert own_rows("on", 1) == []
    assert own_rows("on", 2) == ["on"]
    assert own_rows(known.wake_words[0], 3) == []
