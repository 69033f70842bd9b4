"""What is held in an utterance, when it is settled on, and what is asked back: on scores written by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from idiolect.listening.pipeline import weighing
from idiolect.listening.pipeline.decoder import Decoder, Listening, State

CLASSES = ("computer", "stop", "one", "lights please", "lights off", "_background_")
COMPUTER, STOP, ONE, PLEASE, OFF, BACKGROUND = range(6)


@dataclass
class Along:
    columns: np.ndarray
    odds: np.ndarray
    favour: np.ndarray
    beginning: float = -30.0
    goes_on: bool = False
    lengths: np.ndarray = field(default_factory=lambda: np.array([12.0, 12.0]))
    clear: bool = True
    whole: np.ndarray = field(default_factory=lambda: np.array([OFF]))
    inside: float = -30.0
    likeness: np.ndarray | None = None
    uneven: float = 0.0

    def __post_init__(self):
        self.likeness = self.odds if self.likeness is None else np.array(self.likeness, np.float32)

    def unevenness(self, column):
        assert column in self.columns
        return self.uneven


class Turn:
    """A turn after "computer", into which one puts what is heard block by block; events as "kind phrase"."""

    def __init__(self, **changes):
        def mask(*names):
            return np.array([c in names for c in CLASSES])

        fields = {
            "classes": CLASSES, "wake": mask("computer"), "phrases": mask("stop", "one", "lights please", "lights off"),
            "always_on": mask("stop"), "thresholds": np.full(6, 0.6, np.float32),
            "turn_thresholds": np.full(6, 0.5, np.float32), "timeout": 60, "refractory": 10,
        }  # fmt: skip
        self.decoder, self.position, self.events, self.detections = (
            Decoder(Listening(**{**fields, **changes})),
            0,
            [],
            [],
        )
        for _ in range(3):
            self.step({COMPUTER: 0.97})
        self.quiet(10)
        assert self.events == ["wake computer"]
        assert self.decoder.state is State.TURN

    def step(self, scores=(), odds=(-30.0, -30.0), *, active=True, beginning=-30.0, goes_on=False, **more):
        posteriors = np.full(6, 0.01, np.float32)
        for index, score in dict(scores).items():
            posteriors[index] = score
        along = Along(
            np.array([PLEASE, OFF]), np.array(odds, np.float32), np.array([8.0, 8.0]), beginning, goes_on, **more
        )
        posteriors[along.columns] = 1 / (1 + np.exp(-np.clip(along.odds, -30, 30)))
        self.position += 1280
        found = self.decoder.push(posteriors, active=active, position=self.position, whole=along)
        if found:
            self.detections.append(found)
            self.events.append(f"{found.kind} {found.phrase or found.reason}".strip())
        return self

    def say(self, blocks, **what):
        for _ in range(blocks):
            self.step(**what)
        return self

    def quiet(self, blocks):
        return self.say(blocks, active=False)


@pytest.fixture
def turn():
    return Turn()


def test_a_base_word_in_the_beginning_of_a_taught_phrase_does_not_end_the_turn(turn):
    turn.say(3, scores={ONE: 0.98}, inside=3.0).say(4, inside=3.0).say(2, odds=(5.0, -30.0)).say(1).quiet(5)
    assert turn.events[1:] == ["phrase lights please"]
    assert turn.decoder.state is State.IDLE


def test_a_base_word_alone_is_told_after_a_short_pause(turn):
    turn.say(3, scores={ONE: 0.98}).quiet(weighing.PAUSE - 1)
    assert len(turn.events) == 1
    turn.quiet(1)
    assert turn.events[1:] == ["phrase one"]


def test_where_it_may_go_on_the_pause_is_longer(turn):
    turn.say(3, scores={ONE: 0.98}, inside=3.0).quiet(weighing.LONGER_PAUSE - 1)
    assert len(turn.events) == 1
    turn.quiet(1)
    assert turn.events[1:] == ["phrase one"]


def test_a_word_of_the_bundles_inside_of_something_else_is_none(turn):
    turn.say(3, scores={ONE: 0.98}, goes_on=True).say(weighing.FOLLOWED + 2, goes_on=True).quiet(8)
    assert turn.events[1:] == ["rejected"]
    turn.say(3, scores={ONE: 0.98}, goes_on=True).quiet(3)
    assert turn.events[2:] == ["phrase one"]


def test_a_sentence_in_which_something_sounds_like_a_taught_phrase_is_none(turn):
    turn.say(30).say(2, odds=(5.0, -30.0)).quiet(8)
    assert turn.events[1:] == ["rejected"]
    turn.say(10).say(2, odds=(5.0, -30.0)).quiet(8)
    assert turn.events[2:] == ["phrase lights please"]


def test_in_noise_without_pauses_it_is_told_when_nothing_better_comes(turn):
    turn.say(2, odds=(5.0, -30.0)).say(weighing.BEATEN)
    assert turn.events[1:] == ["phrase lights please"]


def test_a_better_one_takes_the_place_of_what_is_held(turn):
    turn.say(2, odds=(1.0, -30.0)).say(1).say(2, odds=(-30.0, 4.0)).quiet(5)
    assert turn.events[1:] == ["phrase lights off"]


def test_two_that_are_as_near_are_asked_back_and_the_turn_stays_open(turn):
    turn.say(2, odds=(5.0, 4.5)).quiet(5)
    assert turn.events[1:] == ["rejected ambiguous"]
    assert set(turn.detections[-1].between) == {"lights please", "lights off"}
    assert turn.detections[-1].phrase == ""
    assert turn.decoder.state is State.TURN
    turn.quiet(10).say(2, odds=(-30.0, 6.0)).quiet(5)
    assert turn.events[2:] == ["phrase lights off"]


def test_a_word_of_the_bundles_where_a_taught_phrase_nearly_counted_is_asked_back(turn):
    turn.say(3, scores={ONE: 0.98}, odds=(0.5 - weighing.NEARLY, -30.0)).quiet(5)
    assert turn.events[1:] == ["rejected ambiguous"]
    assert turn.detections[-1].between == ("one", "lights please")
    turn.quiet(10).say(3, scores={ONE: 0.98}, odds=(-0.5 - weighing.NEARLY, -30.0)).quiet(5)
    assert turn.events[2:] == ["phrase one"]


def test_one_that_is_clearly_nearer_is_not(turn):
    turn.say(2, odds=(5.0, 5.0 - weighing.AMBIGUOUS - 0.1)).quiet(5)
    assert turn.events[1:] == ["phrase lights please"]


def test_wake_words_and_what_needs_no_turn_stay_at_once(turn):
    turn.say(3, odds=(5.0, -30.0), scores={STOP: 0.99})
    assert turn.events[1:] == ["phrase stop"]


def test_what_needs_no_turn_waits_while_it_may_be_a_part_of_a_taught_phrase(turn):
    turn.say(3, scores={STOP: 0.99}, inside=2.0).say(4, inside=2.0).say(2, odds=(5.0, -30.0), inside=5.0).quiet(5)
    assert turn.events[1:] == ["phrase lights please"]


def test_and_is_told_as_soon_as_it_cannot_be_one(turn):
    turn.say(3, scores={STOP: 0.99}, inside=2.0)
    assert len(turn.events) == 1
    turn.say(1, goes_on=True)
    assert turn.events[1:] == ["phrase stop"]


def test_or_after_a_short_pause(turn):
    turn.say(3, scores={STOP: 0.99}, inside=2.0)
    turn.say(weighing.INNER_PAUSE, active=False, inside=2.0)
    assert turn.events[1:] == ["phrase stop"]


def test_it_is_told_beside_a_phrase_that_is_held(turn):
    turn.say(2, odds=(5.0, -30.0)).say(3, scores={STOP: 0.99})
    assert turn.events[1:] == ["phrase stop"]


def test_of_two_phrases_the_likelier_one_counts_whatever_their_limits_are(turn):
    turn.say(2, odds=(9.0, 5.0), likeness=(1.0, 4.0)).quiet(5)
    assert turn.events[1:] == ["phrase lights off"]


def test_one_step_at_its_limit_is_enough_for_a_phrase_that_was_aligned(turn):
    turn.say(1, odds=(0.5, -30.0)).quiet(5)
    assert turn.events[1:] == ["phrase lights please"]


@pytest.mark.parametrize(("uneven", "clear", "told"), [
    (weighing.UNEVEN - 0.01, True, True), (weighing.UNEVEN + 0.01, True, False),
    (weighing.UNEVEN + 0.01, False, True), (weighing.UNEVEN_IN_NOISE + 0.01, False, False),
])  # fmt: skip
def test_a_phrase_of_which_a_part_was_something_else_is_none(turn, uneven, clear, told):
    turn.say(8, clear=clear).say(2, odds=(5.0, -30.0), clear=clear, uneven=uneven)
    turn.say(8, active=False, clear=clear, uneven=uneven)
    assert turn.events[1:] == (["phrase lights please"] if told else ["rejected"])
    assert turn.detections[-1].reason == ""


def test_in_noise_a_word_of_the_bundles_waits_longer_than_a_taught_phrase(turn):
    turn.say(3, scores={ONE: 0.98}, clear=False).say(weighing.BEATEN, clear=False)
    assert len(turn.events) == 1
    turn.say(weighing.WORD_BEATEN - weighing.BEATEN, clear=False)
    assert turn.events[1:] == ["phrase one"]


def test_the_end_of_a_turn_tells_what_is_held():
    turn = Turn(timeout=16, pause=25)
    turn.say(2, odds=(5.0, -30.0)).quiet(20)
    assert turn.events[1:] == ["phrase lights please"]


def test_at_the_end_of_a_turn_a_dip_in_speech_that_goes_on_tells_nothing():
    turn = Turn(timeout=16, pause=25)
    turn.say(17).say(3, scores={ONE: 0.98}, inside=3.0).quiet(1)
    assert turn.events[1:] == []
    turn.say(20, goes_on=True).quiet(8)
    assert "phrase one" not in turn.events


def test_people_who_speak_with_breaks_have_a_longer_pause():
    turn = Turn(pause=12)
    turn.say(3, scores={ONE: 0.98}).quiet(9).say(2, odds=(6.0, -30.0)).quiet(12)
    assert turn.events[1:] == ["phrase lights please"]


def test_what_was_nothing_is_rejected_and_another_try_counts(turn):
    turn.say(6).quiet(8)
    assert turn.events[1:] == ["rejected"]
    turn.say(2, odds=(5.0, -30.0)).quiet(5)
    assert turn.events[2:] == ["phrase lights please"]


@pytest.mark.parametrize(("odds", "events"), [((4.0, -30.0), ["phrase lights please"]), ((-30.0, 4.0), [])])
def test_somebody_elses_phrase_is_none_where_speech_goes_on_behind_it(turn, odds, events):
    turn.say(8).say(2, odds=odds).say(weighing.FOLLOWED + 1, goes_on=True).quiet(weighing.PAUSE)
    assert turn.events[1:] == events


def test_somebody_elses_phrase_is_one_where_nothing_is_said_behind_it(turn):
    turn.say(8).say(2, odds=(-30.0, 4.0)).say(weighing.FOLLOWED - 2, goes_on=True).quiet(weighing.PAUSE)
    assert turn.events[1:] == ["phrase lights off"]
