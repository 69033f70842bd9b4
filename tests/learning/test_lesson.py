"""Teaching a phrase, take by take: numbers, taking back, keeping on request, advice and whose names it tells."""

from __future__ import annotations

import numpy as np
import pytest

from idiolect.learning import aligning
from idiolect.learning.advice import Advice, Neighbour, advise
from idiolect.learning.lesson import COSTS, Lesson
from idiolect.listening.attempt import Reason, Taken
from idiolect.people.enrolment import State
from tests.support.learners import invented, model, span

LENGTH = 12


def said(number: int, take: int = 0, length: int = LENGTH) -> Taken:
    """A take of a phrase that no bundle knows."""
    return _taken(invented(number, take)[0], 100 * number + take, length)


def _taken(heard: np.ndarray, seed: int, length: int) -> Taken:
    samples = np.random.default_rng(seed).integers(-3000, 3000, 4000).astype(np.int16)
    return Taken(heard, samples, -20.0, length)


def frames(taken: Taken) -> np.ndarray:
    found = aligning.frames_of(model().standard, taken.span, taken.length)
    assert found is not None
    return found


def lesson(*others: list[np.ndarray]) -> Lesson:
    return Lesson(model().standard, others)


def numbers(of: Lesson) -> list[int]:
    return [take.number for take in of.takes]


def test_a_take_is_taken_back_by_its_number_which_no_other_gets() -> None:
    it = lesson()
    assert [it.hear(said(1, take), take + 1) for take in range(3)] == [None] * 3
    assert it.take_back(2)
    assert not it.take_back(2)
    assert not it.take_back(9)
    assert numbers(it) == [1, 3]
    assert it.hear(said(1, 5), 4) is None
    assert numbers(it) == [1, 3, 4]


def test_a_take_that_was_taken_back_may_be_played_again() -> None:
    it = lesson()
    assert it.hear(said(1), 1) is None
    assert it.hear(said(1), 2) is Reason.SAME
    assert it.take_back(1)
    assert it.hear(said(1), 3) is None


def test_who_says_so_is_believed_and_later_takes_of_either_kind_count() -> None:
    it = lesson()
    assert it.hear(said(1), 1) is None
    assert it.hear(said(2), 2) is Reason.UNLIKE
    assert it.keepable
    assert it.keep() == COSTS[Reason.UNLIKE]
    assert not it.keepable
    assert it.keep() == ""
    assert it.hear(said(1, 1), 3) is None
    assert it.hear(said(2, 1), 4) is None
    assert numbers(it) == [1, 2, 3, 4]


def test_what_was_kept_on_request_is_not_begun_anew_and_the_takes_before_it_come_back() -> None:
    it = lesson()
    assert it.hear(said(1), 1) is None
    assert [it.hear(said(2, take), 2 + take) for take in range(2)] == [Reason.UNLIKE] * 2
    assert numbers(it) == []
    it.keep()
    assert numbers(it) == [1, 3]
    assert [it.hear(said(3, take), 4 + take) for take in range(2)] == [Reason.UNLIKE] * 2
    assert numbers(it) == [1, 3]


def test_a_phrase_that_is_taught_already_may_be_kept_and_then_its_next_takes_count() -> None:
    it = lesson([frames(said(1, take)) for take in (7, 8, 9)])
    middle = np.mean([said(1, take).span for take in (7, 8, 9)], axis=0)  # nearer to each than these are to each other
    assert it.hear(_taken(middle, 1, LENGTH), 1) is Reason.CLOSE
    assert it.keep() == COSTS[Reason.CLOSE]
    assert it.hear(said(1, 3), 9) is None


@pytest.mark.parametrize("why", [r for r in Reason if r not in COSTS])
def test_what_was_not_heard_well_is_never_kept(why: Reason) -> None:
    it = lesson()
    assert it.hear(said(2), 1) is None
    assert it.hear(said(1), 2) is Reason.UNLIKE
    assert it.hear(why, 3) is why
    assert not it.keepable
    assert it.keep() == ""
    assert numbers(it) == [1]


def taught(*takes: Taken) -> Lesson:
    it = lesson()
    for number, take in enumerate(takes):
        assert it.hear(take, number) is None
    return it


def test_advice_on_a_short_phrase_and_none_on_a_long_one() -> None:
    assert Advice("short") in advise(model(), taught(said(1, 0, 6)).takes, [], ())
    assert advise(model(), taught(said(1)).takes, [], ()) == []
    assert advise(model(), [], [], ()) == []


def test_advice_on_a_base_phrase_only_while_it_is_listened_for() -> None:
    heard = _taken(span("stop")[0], 1, LENGTH)
    found = advise(model(), taught(heard).takes, [], {"stop"})
    assert [(each.phrase, each.base) for each in found] == [("stop", True)]
    assert advise(model(), taught(heard).takes, [], {"one"}) == []


def test_nobody_is_told_to_do_without_a_wake_word() -> None:
    heard = _taken(span("computer")[0], 1, LENGTH)
    (found,) = advise(model(), taught(heard).takes, [], {"computer"})
    assert found.wake
    for named, other in ((True, '"computer"'), (False, "a phrase that the device knows by itself")):
        told = found.told(named)
        assert told["do"] == f"choose other words: {other} wakes the device, wherever it is said"
    stop = advise(model(), taught(_taken(span("stop")[0], 1, LENGTH)).takes, [], {"stop"})[0]
    assert 'take "stop" out of listening.phrases and listening.always_on' in str(stop.told(named=True)["do"])


def test_a_base_phrase_with_more_behind_it_is_its_beginning() -> None:
    early = span("stop")[0]
    more = np.concatenate([early, invented(1)[0][-8:]])
    whole = Taken(more[-18:], np.zeros(100, np.int16), -20.0, 16, more)
    begun = advise(model(), taught(whole).takes, [], {"stop"})
    assert [each.kind for each in begun] == ["begins_like"]


def test_advice_names_a_near_phrase_only_where_it_may_be_seen() -> None:
    near = [frames(said(1, take)) for take in (7, 8, 9)]
    far = [frames(said(2, take)) for take in (7, 8, 9)]
    takes = taught(said(1)).takes
    assert advise(model(), takes, [Neighbour("far", far)], ()) == []
    (known,) = advise(model(), takes, [Neighbour("lights off", near)], ())
    (hidden,) = advise(model(), takes, [Neighbour("", near)], ())
    assert "lights off" in known.told(named=True)["text"]
    assert "lights off" not in repr(known) + str(known.told(named=False))
    assert (known.told(named=True)["base"], known.told(named=False)["phrase"]) == (False, "")
    assert "somebody here has taught" in hidden.told(named=True)["text"]


def test_where_a_lesson_stands_names_phrases_only_to_who_began_it() -> None:
    state = State("id", "aa" * 8, 3, "open sesame", user="ann", advice=[Advice("near", "lights off")])
    assert [state.of(*who) for who in (("ann", ""), ("bob", ""), ("ann", "bb" * 8), ("", "aa" * 8))] == [
        True, False, False, True,
    ]  # fmt: skip
    for phrase in ("lights off", "open sesame"):
        assert phrase not in repr(state) + str(state.public())
    assert "lights off" in str(state.public(named=True))
