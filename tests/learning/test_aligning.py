"""Takes on their way: from an example to the adapter's file and back, and the limit that they give."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from idiolect.errors import LearningError
from idiolect.learning import adapter_file, aligning, gate, ledger, trainer
from idiolect.learning.ledger import Example, Ledger
from idiolect.listening.attempt import Reason
from idiolect.listening.pipeline.adapter import Adapter, Taught
from idiolect.listening.pipeline.alignment import Standard, costs, unit
from idiolect.listening.pipeline.household import Household
from idiolect.values import EMBEDDING
from tests.support.learners import invented, model

STANDARD = Standard.of(np.random.default_rng(1).standard_normal((40, EMBEDDING)))


def take(seed: int, count: int = 10) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, EMBEDDING)))


def near(frames: np.ndarray, seed: int) -> np.ndarray:
    return unit(frames + 0.04 * np.random.default_rng(seed).standard_normal(frames.shape))


def row(**changes: object) -> Taught:
    return replace(Taught("lights please", np.eye(8, dtype=np.float32)[0], 0.4, 3.0), **changes)


def adapter(*rows: Taught) -> Adapter:
    return Adapter("aa" * 8, 3, taught=rows, standard=STANDARD if any(r.takes for r in rows) else None)


def test_like_takes_give_a_strict_limit_and_unlike_ones_at_most_the_highest() -> None:
    like = aligning.aligned(row(), [near(take(1), n) for n in range(3)])
    unlike = aligning.aligned(row(), [take(n) for n in range(3)])
    assert aligning.LIMIT < like.cost < aligning.LIMIT + 0.1
    assert unlike.cost == aligning.HIGHEST
    assert gate.bounded(adapter(like, unlike), 100)


def test_one_take_is_not_enough_and_the_newest_are_kept() -> None:
    assert aligning.aligned(row(), [take(1)]).takes == ()
    many = [near(take(1), n) for n in range(6)]
    kept = aligning.aligned(row(), many).takes
    assert len(kept) == aligning.MOST
    assert all(np.array_equal(a, aligning.stored(b)) for a, b in zip(kept, many[-aligning.MOST :], strict=True))


@pytest.mark.parametrize(
    "change",
    [{"cost": aligning.HIGHEST + 0.01}, {"cost": -0.01}, {"takes": (aligning.stored(take(1)),) * 4},
     {"takes": (aligning.stored(take(1, 43)),)}, {"takes": (aligning.stored(take(1, 2)),)}],
)  # fmt: skip
def test_1_takes_beyond_bounds_are_refused(change: dict[str, object]) -> None:
    good = aligning.aligned(row(), [near(take(1), n) for n in range(3)])
    assert not gate.bounded(adapter(replace(good, **change)), 100)


def test_the_file_holds_takes_and_one_without_is_as_it_was() -> None:
    with_takes = aligning.aligned(row(), [near(take(1), n) for n in range(3)])
    plain = row(name="good night")
    again = adapter_file.decode(data := adapter_file.encode(adapter(with_takes, plain)))
    assert adapter_file.encode(again) == data
    assert [len(t.takes) for t in again.taught] == [3, 0]
    assert all(np.array_equal(a, b) for a, b in zip(again.taught[0].takes, with_takes.takes, strict=True))
    assert again.taught[0].cost == pytest.approx(with_takes.cost, abs=1e-6)
    assert again.standard is not None
    assert np.array_equal(again.standard.spread, STANDARD.spread)
    old = adapter_file.encode(adapter(plain))
    assert json.loads(old[4 : 4 + struct.unpack_from("<I", old)[0]])["v"] == 1
    assert adapter_file.decode(old).standard is None


def test_a_file_that_is_cut_or_changed_is_refused() -> None:
    data = adapter_file.encode(adapter(aligning.aligned(row(), [near(take(1), n) for n in range(3)])))
    for wrong in (
        data[:-1],
        data[:-96],
        data + b"x",
        data[:-96] + bytes(96),
        data[:4] + data[4:].replace(b"10", b"12"),
    ):
        with pytest.raises(LearningError):
            adapter_file.decode(wrong)


def test_an_example_keeps_its_length_and_one_of_old_has_none() -> None:
    example = Example(1, "x", "enrolment", "s", 1, "r", np.ones((1, 18, EMBEDDING), np.float32), length=9)
    assert ledger.decode(example.encode()).length == 9
    old = replace(example, length=0).encode()
    assert b"length" not in old
    assert ledger.decode(old).length == 0
    for wrong in (-1, ledger.MAX_LENGTH + 1):
        with pytest.raises(LearningError):
            ledger.decode(replace(example, length=wrong).encode())


@pytest.mark.parametrize(("length", "aligned"), [(0, False), (2, False), (9, True), (40, True)])
def test_a_round_aligns_what_it_knows_the_length_of(length: int, aligned: bool) -> None:
    spans = [invented(3, n) for n in range(3)]
    known = Ledger(
        "aa" * 8,
        tuple(Example(n, "lights please", "enrolment", "s", 1, "r", s[None] if s.ndim == 2 else s, length=length)
              for n, s in enumerate(spans)),
    )  # fmt: skip
    material, _ = trainer.prepare(model(), known)
    made = trainer.build(model(), known, material, trainer.When(1, 1), trainer.LADDER[-1])
    assert [bool(t.takes) for t in made.taught] == [aligned]
    household = Household(model().space, model().classes, [made])
    assert (household.aligned("aa" * 8) is not None) == aligned
    assert household.aligned("bb" * 8) is None


def test_a_take_of_something_else_is_refused_and_another_way_to_say_it_is_not() -> None:
    first, second = near(take(1), 10), near(take(1), 11)
    assert aligning.compared(second, [], []) is None
    assert aligning.compared(second, [first], []) is None
    assert aligning.compared(near(take(2), 12), [first], []) is Reason.UNLIKE
    turned = np.concatenate([first[5:], first[:5]])
    assert aligning.compared(turned, [first], []) is Reason.UNLIKE
    assert aligning.between(turned, first) > aligning.between(second, first) + 0.2


def test_phrases_that_differ_in_a_part_may_both_be_taught_and_the_same_twice_may_not() -> None:
    lights_on = [near(take(1, 12), n) for n in range(3)]
    off = take(1, 12)
    off[8:] = take(7, 4)
    lights_off = [near(off, n) for n in range(10, 13)]
    assert aligning.compared(lights_off[0], [], [lights_on]) is None
    assert aligning.compared(lights_off[1], lights_off[:1], [lights_on]) is None
    assert aligning.compared(lights_on[0], [], [lights_off]) is None
    assert (
        aligning.compared(lights_on[0], [], [lights_off, [near(take(1, 12), n) for n in (20, 21, 22)]]) is Reason.CLOSE
    )
    same = [take(1, 12)] + [near(take(1, 12), n) for n in (30, 31)]
    assert aligning.compared(take(1, 12), [], [same]) is Reason.CLOSE
    assert aligning.compared(lights_on[1], lights_off[:1], [lights_on[:1] + lights_on[2:]]) is Reason.CLOSE


def test_5_others_are_judged_by_alignment_where_there_are_takes() -> None:
    spans = np.stack([s if s.ndim == 2 else s[0] for s in (invented(3, n) for n in range(3))])
    known = Ledger(
        "aa" * 8,
        tuple(Example(n, "lights please", "enrolment", "s", 1, "r", s[None], length=12) for n, s in enumerate(spans)),
    )
    material, _ = trainer.prepare(model(), known)
    made = trainer.build(model(), known, material, trainer.When(1, 1), trainer.LADDER[-1])
    mine, theirs = invented(3, 8), invented(5, 1)
    examples = np.stack([s if s.ndim == 2 else s[0] for s in (mine, theirs)])
    heard = model().hear_examples(examples)
    costs_of = costs([made.taught[0].takes], model().standard.frames(examples))[:, 0]
    assert costs_of[0] < made.taught[0].cost < costs_of[1]
    assert gate._taken(model(), made, heard) == 1
    assert gate._taken(model(), made, model().hear_examples(examples[1:])) == 0
