"""Teaching and correcting over the control API, where people get into each other's way or change their minds.

What the microphone would have brought is handed to whoever waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from idiolect.cli import review
from idiolect.errors import RequestError
from idiolect.learning.ledger import Manner
from idiolect.listening.attempt import GAP, Reason, Taken
from idiolect.listening.recognizer import bundle_directory, listening, read_bundle
from idiolect.people import enrolment
from idiolect.values import BLOCK, Captured, Detection, Event
from tests.control.api.test_people import ME, house  # noqa: F401 - a fixture
from tests.support.learners import invented

LENGTH = 12
OTHER = "somebody-else"
BEGINNING = {"profile": "ann", "phrase": "good night", "samples": 3}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(enrolment, "PAUSE_S", 0.01)


def taken(number, take=0):
    """An utterance of a phrase that no bundle knows, spoken anew each time."""
    samples = np.random.default_rng([number, take]).standard_normal(16_000) * 1000
    return Taken(invented(number, take)[0], samples.astype(np.int16), -20.0, LENGTH)


def until(condition):
    ends = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < ends
        time.sleep(0.005)
    return found


def speak(house, outcome):  # noqa: F811 - the fixture
    """Say something when it listens; where the lesson stands when it listens again, or has ended."""
    inference = house.daemon.inference
    until(lambda: inference._wanted)
    done, inference._wanted = inference._wanted, None
    attempts = house.ok("GET", "/v1/enrol")["attempts"]
    done(outcome)
    return until(lambda: _judged(house.ok("GET", "/v1/enrol"), attempts))


def _judged(state, attempts):
    again = state["attempts"] > attempts and state["state"] == "listening"
    return state if again or state["state"] in ("done", "failed", "cancelled") else None


def taught(house, name, phrase, number, *, user=ME):  # noqa: F811 - the fixture
    """As ``Enrolment`` does when it has its samples."""
    people = house.daemon.people
    profile = house.on_loop(people.may_teach(name, phrase, user))
    spans = [invented(number, take) for take in (7, 8, 9)]
    return house.on_loop(people.taught(profile, phrase, spans, [Manner(LENGTH)] * len(spans)))


def bob_agrees(house, *purposes):  # noqa: F811 - the fixture
    """bob is another user of the machine, and agrees as such."""
    asked = house.ok("POST", "/v1/consent", {"name": "bob", "purposes": list(purposes)})
    house.on_loop(house.daemon.people.agree(asked["token"], OTHER, 1234))
    return asked["profile"]


# -- somebody else's


def test_nobody_else_changes_what_somebody_teaches_or_hears_its_phrases(house):  # noqa: F811 - the fixture
    bob_agrees(house, "enrol")
    taught(house, "bob", "gate code", 1, user=OTHER)
    begun = house.on_loop(house.daemon.teaching.start("bob", "front door", 3, "", OTHER))
    seen = speak(house, taken(1))
    assert (seen["id"], seen["takes"], seen["keepable"]) == (begun["id"], [1], False)
    assert [each["phrase"] for each in seen["advice"]] == [""]
    assert "gate code" not in str(seen)
    for path, body in (("take-back", {"take": 1}), ("keep", {}), ("take-back", {"take": 1, "id": begun["id"]})):
        status, answer = house.ask("POST", f"/v1/enrol/{path}", body)
        assert (status, answer["error"]["field"]) == (403, "profile")
    assert house.ask("POST", "/v1/enrol", BEGINNING | {"profile": "bob"})[0] == 409
    assert house.ok("GET", "/v1/enrol")["takes"] == [1]
    mine = house.on_loop(house.daemon.teaching.take_back(1, "", OTHER, ""))
    assert mine["takes"] == []
    house.ok("DELETE", "/v1/enrol")  # the one microphone is everybody's
    assert house.ask("POST", "/v1/enrol", BEGINNING | {"profile": "bob"})[0] == 403


def test_a_near_phrase_is_named_to_who_taught_it_and_when_it_is_everybodys(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")
    bob_agrees(house, "enrol", "household_phrases")
    taught(house, "ann", "lights please", 1)
    taught(house, "bob", "gate code", 3, user=OTHER)

    def advised(number):
        house.ok("POST", "/v1/enrol", BEGINNING)
        advice = speak(house, taken(number))["advice"]
        others = house.on_loop(_asks(house, OTHER))["advice"]
        house.ok("DELETE", "/v1/enrol")
        assert {each["phrase"] for each in others} <= {""}, "who did not begin it sees no names"
        assert len(others) == len(advice)
        return [each["text"] for each in advice if each["kind"] == "near" and not each["base"]]

    somebody = "this phrase sounds like a phrase that somebody here has taught"
    assert advised(1) == ['this phrase sounds like "lights please"']
    assert advised(3) == [somebody]
    house.on_loop(house.daemon.people.share("bob", "gate code", True, OTHER))
    assert advised(3) == ['this phrase sounds like "gate code"']
    house.on_loop(house.daemon.people.share("bob", "gate code", False, OTHER))
    assert advised(3) == [somebody]


async def _asks(house, user):  # noqa: F811 - the fixture
    return house.daemon.teaching.state(user, "")


def test_a_first_take_that_is_too_close_is_told_to_what(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")
    taught(house, "ann", "lights please", 1)
    house.ok("POST", "/v1/enrol", BEGINNING)
    middle = np.mean([invented(1, take)[0] for take in (7, 8, 9)], axis=0)  # nearer to each than these to each other
    refused = speak(house, Taken(middle, np.zeros(100, np.int16), -20.0, LENGTH))
    assert (refused["reason"], refused["takes"]) == (Reason.CLOSE.value, [])
    assert [each["phrase"] for each in refused["advice"] if each["kind"] == "near"] == ["lights please"]
    house.ok("DELETE", "/v1/enrol")


# -- minds that are changed


def test_of_two_who_begin_at_once_one_teaches(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")

    async def both():
        begin = [house.daemon.teaching.start("ann", word, 3, "", ME) for word in ("good night", "good morning")]
        return await asyncio.gather(*begin, return_exceptions=True)

    found = house.on_loop(both())
    assert [isinstance(each, dict) for each in found] == [True, False]
    assert (found[1].status, found[1].field) == (409, "enrol")
    house.ok("DELETE", "/v1/enrol")


def test_what_is_learnt_from_already_is_not_called_cancelled(house, monkeypatch):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")
    people, may_go_on = house.daemon.people, threading.Event()
    really = people.taught

    async def slowly(*given):
        await asyncio.to_thread(may_go_on.wait, 30)
        return await really(*given)

    monkeypatch.setattr(people, "taught", slowly)
    house.ok("POST", "/v1/enrol", BEGINNING | {"samples": 1})
    inference = house.daemon.inference
    until(lambda: inference._wanted)(taken(1))
    until(lambda: house.ok("GET", "/v1/enrol")["state"] == "training")
    status, answer = house.ask("DELETE", "/v1/enrol")
    assert (status, answer["error"]["field"]) == (409, "take")
    assert "idiolect forget" in answer["error"]["message"]
    may_go_on.set()
    until(lambda: house.ok("GET", "/v1/enrol")["state"] == "done")
    assert len(house.ok("GET", "/v1/review?profile=ann")["examples"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/v1/consent/withdraw", {"profile": "ann", "purpose": "enrol"}, "has not agreed to enrol"),
        ("/v1/erase", {"profile": "ann"}, "there is nobody with this id"),
    ],
)
def test_who_withdraws_meanwhile_is_asked_for_no_more_takes(house, path, body, why):  # noqa: F811 - the fixture
    house.agree("ann", "enrol", "usage")
    house.ok("POST", "/v1/enrol", BEGINNING)
    speak(house, taken(1))
    house.ok("POST", path, body)
    state = speak(house, taken(1, 1))
    assert (state["state"], state["attempts"], state["result"]) == ("failed", 2, {})
    assert why in state["reason"]


def test_where_nobody_speaks_it_is_given_up_soon(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")
    house.ok("POST", "/v1/enrol", BEGINNING | {"samples": 10})
    said = [Reason.SILENCE, Reason.SILENCE, Reason.SILENCE, Reason.QUIET, *[Reason.SILENCE] * 4]
    states = [speak(house, outcome) for outcome in said]
    assert [each["state"] for each in states] == ["listening"] * 7 + ["failed"]
    assert states[-1]["reason"] == f"given up after 8 attempts: {Reason.SILENCE}"


@pytest.mark.parametrize("phrase", ["_unknown_", "_Background_", "computer"])
def test_what_means_something_else_is_no_phrase(house, phrase):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")
    status, answer = house.ask("POST", "/v1/enrol", BEGINNING | {"phrase": phrase})
    assert (status, answer["error"]["field"]) == (422, "phrase")


@pytest.mark.parametrize(
    ("check", "why", "well"),
    [(5, "somebody in the household would be mistaken for you", False), (6, "it would be no improvement", True)],
)
def test_the_command_line_says_why_takes_are_kept_and_not_used(check, why, well):
    gate = {"passed": False, "check": check, "reason": "in the gate's words", "numbers": {}}
    state = {"state": "done", "reason": f"check {check} failed: ...", "result": {"adapter": 0, "gate": gate}}
    told = review._not_learnt(argparse.Namespace(name="ann", phrase="lights please"), state)
    assert told[0] == f"kept, but not used: {why}"
    assert ("all is well" in told[1]) == well
    assert 'idiolect forget ann --phrase "lights please"' in told[1]


@pytest.mark.parametrize("pause", [2, 12])
def test_who_speaks_with_breaks_may_teach_so(house, pause):  # noqa: F811 - the fixture
    inference = house.daemon.inference
    wishes = replace(listening(read_bundle(bundle_directory("builtin"))), pause=pause)
    inference.listen_for(wishes, None, "guest")
    inference.attempt(lambda _: None)
    inference._process(Captured(np.zeros(BLOCK, np.int16)))
    assert inference._attempt._gap == max(pause, GAP)


# -- what is refused uses nothing up


def test_a_correction_that_is_refused_may_be_made_again(house):  # noqa: F811 - the fixture
    profile = house.agree("ann", "enrol")
    event, other = house.hears("right", "left", profile), house.hears("on", "on", profile, 1)
    assert house.ask("POST", "/v1/correct", {"event": event, "phrase": "rigth"})[0] == 422
    assert house.ask("POST", "/v1/correct", {"event": event, "phrase": "right"})[0] == 403
    assert house.ask("POST", "/v1/confirm", {"event": other})[0] == 403
    house.agree("ann", "adapt_corrections", "adapt_confirmations")
    assert house.ok("POST", "/v1/correct", {"event": event, "phrase": "right"})["example"] == 1
    assert house.ok("POST", "/v1/confirm", {"event": other})["example"] == 2
    for path in ("/v1/correct", "/v1/confirm"):
        for used in (event, other):
            body = {"event": used} | ({"phrase": "right"} if path == "/v1/correct" else {})
            assert house.ask("POST", path, body)[0] == 404


def test_somebody_elses_event_stays_theirs_to_correct(house):  # noqa: F811 - the fixture
    profile = bob_agrees(house, "adapt_corrections")
    event = house.hears("right", "left", profile)
    assert house.ask("POST", "/v1/correct", {"event": event, "phrase": "right"})[0] == 403
    assert house.ask("POST", "/v1/confirm", {"event": event})[0] == 403
    assert house.on_loop(house.daemon.people.correct(event, "right", OTHER))["example"] == 1


@pytest.mark.parametrize("uncounted", [False, True])
def test_only_a_correction_that_is_kept_takes_back_what_was_counted(house, uncounted):  # noqa: F811 - the fixture
    profile = house.agree("ann", "adapt_corrections", "usage")
    event = house.hears("right", "left", profile)
    personal = house.daemon.personal
    personal._counts = {profile: {"left": 1}}
    house.ask("POST", "/v1/correct", {"event": event, "phrase": "right" if uncounted else "rigth"})
    assert personal._counts == {profile: {"left": 1 - uncounted}}


def test_what_forgets_nothing_leaves_what_was_heard(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol", "usage")
    recent, hub = house.daemon.inference.recent, house.daemon.hub

    def heard():
        event = house.hears("right", "left", "guest")
        hub.publish(Event(event, time.time(), Detection("phrase", "left", 0.9, 0.3, 0.5, 0, 1)))
        return event

    event = heard()
    for path, body in (
        ("/v1/forget", {"profile": "zoe", "all": True}),
        ("/v1/forget", {"profile": "ann", "phrase": "never taught"}),
        ("/v1/erase", {"profile": "zoe"}),
        ("/v1/consent/withdraw", {"profile": "zoe", "purpose": "enrol"}),
    ):
        assert house.ask("POST", path, body)[0] == 404
        assert recent.look(event)
        assert hub.recent()
    for path, more in (("/v1/consent/withdraw", {"purpose": "enrol"}), ("/v1/erase", {})):
        event = heard()
        house.ok("POST", path, {"profile": "ann", **more})
        assert not recent.look(event)
        assert "left" not in str(hub.recent())


def test_what_is_forgotten_is_gone_for_a_caller_who_hung_up(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol")
    taught(house, "ann", "lights please", 1)
    event = house.hears("right", "left", "guest")
    personal, really = house.daemon.personal, house.daemon.personal.reload

    async def slowly():
        await asyncio.sleep(0.3)
        await really()

    async def hangs_up():
        personal.reload = slowly
        asking = asyncio.create_task(house.daemon.people.forget("ann", {"all": True}, ME))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.5)

    house.on_loop(hangs_up())
    assert house.daemon.inference.recent.look(event) is None
    with pytest.raises(RequestError, match="not in memory"):
        house.on_loop(house.daemon.people.correct(event, "right", ME))
