"""Daemon and worker: all that a task depends on arrives, and of an answer nothing is believed that can be looked at."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from idiolect.errors import LearningError
from idiolect.learning import adapter_file, messages, self_test, trainer
from idiolect.learning import ledger as ledgers
from idiolect.learning import round as rounds
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.messages import ANSWER_CAP, REQUEST_CAP, Request, packed, unpack
from idiolect.learning.trainer import When
from tests.support.learners import invented, model, span


def example(number, phrase, spans, source="enrolment", day=20_000):
    kept = Example(number, phrase, source, "s", day, "00" * 32, spans)
    return ledgers.decode(kept.encode())  # rounded as the vault has it


@cache
def request():
    taught = [example(n, "sesame", invented(3, n)) for n in range(3)]
    base = [example(3 + n, "on", span("on", n)) for n in range(2)]
    usage = {("on", 19_990): 4, ("off", 19_000): 1}
    return Request(model(), Ledger("aa" * 8, (*taught, *base), usage, voice=True), When(20_000, 7), last=3)


@cache
def answer():
    return messages.work(messages.read_request(unpack(messages.ask(request()), REQUEST_CAP)))


def test_a_request_arrives_with_all_that_a_task_depends_on():
    others = np.concatenate([span("off", n) for n in range(2)]).astype(np.float16).astype(np.float32)
    asked = replace(request(), others=others, owed=True, task="replay", step=4, active=answer()["data"])
    read = messages.read_request(unpack(messages.ask(asked), REQUEST_CAP))
    assert (read.ledger.digest(), read.ledger.voice) == (asked.ledger.digest(), True)
    assert (read.when, read.owed, read.task, read.step, read.last) == (When(20_000, 7), True, "replay", 4, 3)
    assert read.active == asked.active
    assert np.array_equal(read.others, others)
    ours, theirs = asked.model, read.model
    for name in ("digest", "classes", "wake_words", "thresholds", "guard_scale", "guard_labels", "guard_strata"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert np.array_equal(theirs.guard_stored, ours.guard_stored)
    heard, same = ours.hear(ours.guard_windows[:5]), theirs.hear(theirs.guard_windows[:5])
    assert np.array_equal(same.logits, heard.logits)
    assert np.array_equal(same.z, heard.z)
    assert np.array_equal(same.rivals, heard.rivals)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1}, {"task": "exec"}, {"step": 8}, {"step": -1}, {"day": None}, {"examples": [b"x"]}, {"usage": [["on"]]},
        {"others": {"dtype": "<f8", "shape": [1], "data": bytes(8)}}, {"model": {}}, {"active": None},
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(change):
    message = unpack(messages.ask(request()), REQUEST_CAP)
    with pytest.raises(LearningError):
        messages.read_request({**message, **change})


def test_what_is_not_asked_for_is_a_round_of_somebody_with_nothing_in_use():
    read = messages.read_request(unpack(messages.ask(Request(model(), request().ledger, When(1))), REQUEST_CAP))
    assert (read.active, read.others, read.owed, read.task, read.step, read.last) == (b"", None, False, "round", 0, 0)
    assert read.when == When(1, 0)


def test_the_last_step_of_the_ladder_can_be_asked_for():
    message = unpack(messages.ask(replace(request(), task="replay", step=7)), REQUEST_CAP)
    assert messages.read_request(message).step == 7


def test_a_round_is_the_round_and_its_answer_is_taken():
    direct = rounds.run(model(), request().ledger, request().when)
    outcome = messages.read_answer(unpack(packed(answer()), ANSWER_CAP), request())
    assert (outcome.data, outcome.digest) == (direct.data, hashlib.sha256(direct.data).hexdigest())
    assert outcome.verdict == direct.verdict
    assert outcome.admissions == direct.admissions
    assert outcome.verdict.passed, outcome.verdict


def test_a_round_knows_the_household_and_what_is_in_use():
    in_use = replace(request(), active=answer()["data"])
    assert messages.work(in_use)["check"] == 6  # nothing new
    assert messages.work(replace(in_use, owed=True))["check"] == 0
    before = messages.work(replace(request(), ledger=replace(request().ledger, examples=request().ledger.examples[3:])))
    assert messages.work(replace(request(), active=before["data"]))["check"] == 0  # a phrase more than that
    crowd = replace(request(), others=np.concatenate([e.spans for e in request().ledger.examples[:3]]))
    assert messages.work(crowd)["check"] == 5  # somebody else says just what was taught here
    assert messages.work(replace(crowd, active=answer()["data"]))["check"] == 5  # also where it is in use already


def test_a_replay_makes_the_same_file():
    step = int(answer()["numbers"]["step"])
    said = messages.work(replace(request(), task="replay", step=step))
    assert said == {"v": 3, "data": answer()["data"], "digest": answer()["digest"]}
    assert messages.read_replay(said) == answer()["data"]
    weak = messages.work(replace(request(), task="replay", step=5))
    assert adapter_file.decode(weak["data"]).gain == 0.0
    for change in ({"v": 1}, {"digest": "0" * 64}, {"data": b"x"}, {"error": "?"}, {"data": None}):
        with pytest.raises(LearningError):
            messages.read_replay({**said, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1}, {"digest": "0" * 64}, {"data": b""}, {"check": 8}, {"check": -1}, {"check": "no"}, {"numbers": {}},
        {"admissions": []}, {"admissions": [[0, 1.0]] * 4}, {"admissions": [[0, 1.0]] * 6},
        {"admissions": [[9, 0.0]] * 5}, {"admissions": [[0, 1.01]] * 5}, {"admissions": [[0, -0.01]] * 5},
        {"admissions": [[0, float("nan")]] * 5}, {"error": "gave up"},
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_refused(change):
    with pytest.raises(LearningError):
        messages.read_answer({**answer(), **change}, request())


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({"step": 8}, False), ({"step": -1}, False), ({"step": 7}, True), ({"own_wrong": -1}, False),
        ({"own_held_out": -1}, False), ({"own_wrong_before": -1}, False), ({"size": float("inf")}, False),
        ({"size": float("nan")}, False), ({"own_wrong": 0}, True),
    ],
)  # fmt: skip
def test_the_numbers_of_a_verdict_are_finite_and_counts(change, good):
    message = {**answer(), "numbers": {**answer()["numbers"], **change}}
    if good:
        assert messages.read_answer(message, request()).verdict.passed
    else:
        with pytest.raises(LearningError):
            messages.read_answer(message, request())


def test_sixty_four_numbers_are_taken_and_no_more():
    numbers = answer()["numbers"]
    for count, good in ((64, True), (65, False)):
        more = numbers | {f"x{n}": 0.0 for n in range(count - len(numbers))}
        message = {**answer(), "numbers": more}
        if good:
            assert len(messages.read_answer(message, request()).verdict.numbers) == 64
        else:
            with pytest.raises(LearningError):
                messages.read_answer(message, request())


def test_an_adapter_of_somebody_else_or_another_number_is_refused():
    for other in (replace(request(), when=When(20_000, 8)),
                  replace(request(), ledger=replace(request().ledger, profile="bb" * 8))):  # fmt: skip
        with pytest.raises(LearningError):
            messages.read_answer(answer(), other)


def test_an_adapter_beyond_its_bounds_is_refused_where_the_worker_says_that_it_passed():
    wild = adapter_file.decode(answer()["data"])
    data = adapter_file.encode(replace(wild, raises={"on": 9.0}))
    message = {**answer(), "data": data, "digest": hashlib.sha256(data).hexdigest()}
    with pytest.raises(LearningError):
        messages.read_answer(message, request())
    assert messages.read_answer({**message, "check": 1}, request()).verdict.check == 1


# -- self-test


def test_a_self_test_counts_slice_by_slice():
    asked = replace(request(), task="selftest", active=answer()["data"])
    slices = {s.name: s for s in messages.read_selftest(messages.work(asked))}
    assert list(slices.values()) == self_test.run(model(), asked.ledger, adapter_file.decode(asked.active), 3)
    totals = {name: part.total for name, part in slices.items() if name.startswith("own: ")}
    assert totals == {
        "own: after it was made": 1, "own: it was made from": 4, "own: taught phrases": 3,
        "own: the model's phrases": 2, "own: recorded on purpose": 5,
    }  # fmt: skip
    taught = slices["own: taught phrases"]
    assert (taught.wrong, taught.lost, taught.won) == (0, 0, 3)  # the base model knows no such phrase
    known = model()
    assert slices["others: all"].total == len(known.guard_labels)
    for kind, values in known.guard_strata.items():
        for value in set(values):
            assert slices[f"others: {kind} {value}"].total == values.count(value)
    assert self_test.run(known, Ledger("aa" * 8), adapter_file.decode(asked.active), 0)[0].name == "others: all"


@pytest.mark.parametrize(
    ("row", "good"),
    [
        (["a", 3, 2, 1, 2], True), (["a", 3, 2, 2, 2], False), (["a", 3, 4, 0, 0], False), (["a", 3, 3, 0, 0], True),
        (["a", 3, -1, 0, 0], False), (["a", 3, 0, -1, 0], False), (["a", 3, 0, 0, -1], False), (["a", 3, 0], False),
        (["a", 0, 0, 0, 0], True),
    ],
)  # fmt: skip
def test_counts_of_a_self_test_must_add_up(row, good):
    if good:
        assert messages.read_selftest({"v": 3, "slices": [row]}) == (self_test.Slice(*row),)
    else:
        with pytest.raises(LearningError):
            messages.read_selftest({"v": 3, "slices": [row]})


def test_slices_are_so_many_and_their_names_so_long():
    said = messages.read_selftest({"v": 3, "slices": [["x" * 65, 1, 0, 0, 0]] * 257})
    assert (len(said), said[0].name) == (256, "x" * 64)


# -- messages


def test_a_message_is_a_map_without_lists_that_claim_too_much():
    assert unpack(packed({"a": [1, b"x"]}), 100) == {"a": [1, b"x"]}
    too_long = (packed({"a": b"x" * 101}), packed({"a": "x" * 101}), b"\x81\xa1a\xdd\x00\x01\x00\x00")
    for raw in (b"\x93\x01\x02\x03", b"", b"\xc1", *too_long):
        with pytest.raises(LearningError):
            unpack(raw, 100)
    assert unpack(packed({"a": b"x" * 100}), 100)["a"] == b"x" * 100


def test_the_limits():
    assert (messages.VERSION, REQUEST_CAP, ANSWER_CAP) == (3, 64 << 20, 4 << 20)
    assert len(trainer.LADDER) == 8


@pytest.mark.parametrize("task", ["round", "replay", "selftest"])
def test_every_task_can_be_asked_for(task):
    asked = replace(request(), task=task, active=answer()["data"])
    assert messages.read_request(unpack(messages.ask(asked), REQUEST_CAP)).task == task
