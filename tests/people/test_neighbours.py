"""Whose examples a new adapter is tried on: what others are heard with is protected, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from idiolect.learning.ledger import Manner
from idiolect.people.others import others
from idiolect.people.versions import retire, rollback
from tests.support.learners import Household, invented
from tests.support.vaults import House

LENGTH = 12
"""Blocks that a take of ``invented`` lasts, so that it is aligned with."""
NEAR = 10
"""From here on takes are somebody else's of the same sounds."""
MISTAKEN = 5


@pytest.fixture
def home(tmp_path):
    house = House(tmp_path / "state")
    with house.create() as vault:
        yield Household(vault, house.clock)


def teach(home, profile, phrase, number, takes=(0, 1, 2), *, length=0):
    spans = [invented(number, take) for take in takes]
    return home.learner.add(profile, "enrolment", phrase, spans, "01", said=[Manner(length)] * len(spans))


def learn(home, profile):
    """The check at which a round ended, 0 for none."""
    return home.learner.round(profile, at_once=True).outcome.verdict.check


@pytest.mark.parametrize("length", [0, LENGTH])
def test_unused_examples_stop_nobody_and_used_ones_are_protected(home, length):
    ann, cleo = home.agree("Ann"), home.agree("Cleo")
    teach(home, ann, "lights please", 1, length=length)
    assert learn(home, ann) == 0
    teach(home, cleo, "of Cleo", 1, (NEAR, NEAR + 1, NEAR + 2), length=length)
    assert learn(home, cleo) == MISTAKEN
    teach(home, ann, "lights please", 1, (4,), length=length)
    teach(home, ann, "good night", 2, length=length)
    assert learn(home, ann) == 0
    teach(home, cleo, "of Cleo alone", 3, length=length)
    assert learn(home, cleo) == MISTAKEN  # hers are as near to Ann's as before


def test_a_bad_take_among_used_ones_stops_nobody(home):
    ann, ben = home.agree("Ann"), home.agree("Ben")
    teach(home, ben, "of Ben", 2, (0, 1), length=LENGTH)
    teach(home, ben, "of Ben", 5, (0,), length=LENGTH)
    assert learn(home, ben) == 0
    teach(home, ann, "lights please", 5, (NEAR, NEAR + 1, NEAR + 2), length=LENGTH)
    before = others(home.learner, home.learner.ledger(ann))
    assert len(before) == 2
    np.testing.assert_array_equal(before[0], home.learner.ledger(ben).examples[1].spans[0])
    teach(home, ann, "as Ben says it", 2, (NEAR, NEAR + 1, NEAR + 2), length=LENGTH)
    assert learn(home, ann) == MISTAKEN


def test_what_came_after_the_version_in_use_does_not_count_yet(home):
    ann, ben = home.agree("Ann"), home.agree("Ben")
    teach(home, ben, "of Ben", 2)
    assert learn(home, ben) == 0
    teach(home, ben, "of Ben", 2, (3,))
    assert len(others(home.learner, home.learner.ledger(ann))) == 3
    assert learn(home, ben) == 0
    assert len(others(home.learner, home.learner.ledger(ann))) in {3, 4}


@pytest.mark.parametrize("gone", ["taken back", "disuse", "withdrawn"])
def test_who_is_heard_with_no_adapter_stops_nobody(home, gone):
    ann, ben = home.agree("Ann"), home.agree("Ben")
    teach(home, ben, "of Ben", 2)
    assert learn(home, ben) == 0
    teach(home, ann, "as Ben says it", 2, (NEAR, NEAR + 1, NEAR + 2))
    assert learn(home, ann) == MISTAKEN
    if gone == "taken back":
        rollback(home.learner, ben)
    elif gone == "disuse":
        retire(home.learner, ben, "disuse")
    else:
        home.consents.withdraw(home.consents.find("Ben"), "enrol", 0)
    assert others(home.learner, home.learner.ledger(ann)) is None
    assert learn(home, ann) == 0
