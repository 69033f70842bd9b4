"""What voice_match still lacks: counted from what counts, and said wherever that consent is shown."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from idiolect.cli.output import learning_text, voice_text
from idiolect.people import voices
from idiolect.people.review import Rights
from tests.control.api.test_people import ME, house  # noqa: F401 - a fixture
from tests.support.learners import Household, invented, model, span
from tests.support.vaults import House

PURPOSES = ("enrol", "adapt_corrections", "voice_match")
SUCH = {"such_as": ["yes", "no", "up"]}


def state(examples, name):
    return {"examples": examples, "needed": 3, "state": name}


@pytest.fixture
def home(tmp_path):
    with House(tmp_path / "state").create() as vault:
        yield Household(vault)


def correct(home, profile, label, number, *, heard="", said=None):
    home.learner.add(profile, "correction", label, [span(said or label, number)], f"{number}", heard)


# -- counted


def test_what_is_lacking_is_counted_until_the_voice_is_in_use(home):
    profile = home.agree("Ann", *PURPOSES)
    other = home.agree("Ben", "enrol", "adapt_corrections")
    watched = voices.Voices(home.learner)
    assert watched.every() == {profile: state(0, "waiting")}
    for number, label in enumerate(("yes", "no", "left"), 1):
        correct(home, profile, label, number)
        correct(home, other, label, number)
        expected = state(number, "waiting" if number < 3 else "learning")
        assert watched.every() == {profile: expected}
    assert home.learner.due(profile)
    assert home.learner.round(profile, at_once=True).number
    assert watched.every() == {profile: state(3, "ready")}
    assert [adapter.voice is not None for adapter in home.in_use()] == [True]


def test_who_agrees_when_enough_is_known_need_say_no_more(home):
    """A voice that can be told is worth a version of its own, though no phrase is understood better with it."""
    profile = home.agree("Ann", "enrol")
    home.learner.add(profile, "enrolment", "lights please", [invented(1, take) for take in range(3)], "01")
    home.learner.add(profile, "enrolment", "yes", [span("yes", number) for number in range(3)], "02")
    home.learner.round(profile, at_once=True)
    assert not home.learner.due(profile)
    home.agree("Ann", "voice_match")
    watched = voices.Voices(home.learner)
    assert watched.of(profile) == state(3, "learning")
    assert home.learner.due(profile)
    home.learner.round(profile)
    assert watched.of(profile) == state(3, "learning"), "it is in the shadow"
    home.learner.round(profile, at_once=True)
    assert watched.of(profile) == state(3, "ready")
    assert not home.learner.due(profile)


def test_phrases_of_ones_own_and_examples_that_do_not_count_tell_no_voice(home):
    profile = home.agree("Ann", *PURPOSES)
    home.learner.add(profile, "enrolment", "lights please", [invented(1, take) for take in range(3)], "01")
    correct(home, profile, "off", 1, heard="on", said="on")  # it sounds like "on", and is set aside
    watched = voices.Voices(home.learner)
    assert watched.of(profile) == state(0, "waiting")
    home.learner.add(profile, "enrolment", "yes", [span("yes", 1), span("yes", 2)], "02")
    assert watched.of(profile) == state(2, "waiting")
    home.learner.round(profile, at_once=True)
    assert watched.of(profile) == state(2, "waiting"), "a version in use changes nothing where it has no voice"


def test_without_that_consent_nothing_is_said_and_after_withdrawing_nothing_more(home):
    profile = home.agree("Ann", *PURPOSES)
    home.learner.add(profile, "enrolment", "yes", [span("yes", number) for number in range(3)], "01")
    home.learner.round(profile, at_once=True)
    watched = voices.Voices(home.learner)
    assert watched.every() == {profile: state(3, "ready")}
    person = home.consents.find("Ann")
    assert Rights(home.learner).review(person)["voice"] == state(3, "ready") | SUCH
    home.consents.withdraw(person, "voice_match")
    assert watched.every() == {}
    assert "voice" not in Rights(home.learner).review(home.consents.find("Ann"))


def test_what_the_withdrawal_of_another_purpose_takes_away_is_lacking_again(home):
    profile = home.agree("Ann", *PURPOSES)
    for number, label in enumerate(("yes", "no", "left"), 1):
        correct(home, profile, label, number)
    home.learner.round(profile, at_once=True)
    watched = voices.Voices(home.learner)
    assert watched.of(profile) == state(3, "ready")
    home.consents.withdraw(home.consents.find("Ann"), "adapt_corrections")
    assert watched.of(profile) == state(0, "waiting")


def test_who_was_looked_at_is_looked_at_again_only_after_a_change(home, monkeypatch):
    profile = home.agree("Ann", *PURPOSES)
    correct(home, profile, "yes", 1)
    watched, looks = voices.Voices(home.learner), []
    counting = voices._counting
    monkeypatch.setattr(voices, "_counting", lambda *of: looks.append(of) or counting(*of))
    for _ in range(3):
        assert watched.every() == {profile: state(1, "waiting")}
    assert len(looks) == 1
    correct(home, profile, "no", 2)
    assert watched.every() == {profile: state(2, "waiting")}
    assert len(looks) == 2


def test_phrases_are_named_that_the_base_model_knows_and_anybody_may_teach():
    such = voices.shown(state(0, "waiting"), model())["voice"]["such_as"]
    assert such
    assert not set(such) & set(model().wake_words)
    assert set(such) <= set(model().phrases)


# -- said


@pytest.mark.parametrize(
    ("lack", "expected"),
    [
        (state(0, "waiting"), 'needs 3 more corrections or takes of phrases that the model itself knows such as "yes"'),
        (state(2, "waiting"), "needs 1 more correction or takes"),
        (state(3, "learning"), "once a version with it is in use: idiolect history 'Ann B.'"),
        (state(3, "ready"), "can tell this voice from others, though not always"),
    ],
)
def test_it_is_said_in_plain_words(lack, expected):
    text = voice_text(lack | SUCH, "Ann B.")
    assert expected in text
    assert ("idiolect enroll 'Ann B.' \"yes\"" in text) == (lack["state"] == "waiting")


def test_a_bundle_without_phrases_to_say_for_it_names_none():
    assert voice_text(state(0, "waiting") | {"such_as": []}, "Ann").endswith("that the model itself knows")


def test_status_says_how_many_voices_cannot_be_told_yet():
    said = {"state": "on", "profile": "guest", "adapters": {}, "taught": 0, "earlier_encoder": {}}
    assert "voice" not in learning_text(said)
    assert "voice" not in learning_text(said | {"voices": {"a" * 16: state(3, "ready")}})
    two = {"a" * 16: state(3, "ready"), "b" * 16: state(1, "waiting")}
    assert "1 voice of 2 cannot be told yet (idiolect consent show)" in learning_text(said | {"voices": two})


def test_the_api_and_the_command_line_say_it(house):  # noqa: F811 - the fixture
    def idiolect(*words, typed=""):
        command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(house.it.path), *words]
        done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    profile = house.agree("ann", "enrol", "adapt_corrections")
    (row,) = house.ok("GET", "/v1/consent")["people"]
    assert "voice" not in row
    assert "cannot tell" not in idiolect("consent", "show")
    said = idiolect("consent", "grant", "ann", "--purpose", "voice_match", typed="yes\n")
    assert "the device cannot tell this voice yet: needs 3 more corrections or takes" in said
    house.ok("POST", "/v1/profile", {"profile": "ann"})
    house.ok("POST", "/v1/correct", {"event": house.hears("yes", "no", profile), "phrase": "yes"})
    (row,) = house.ok("GET", "/v1/consent")["people"]
    assert row["voice"] == state(1, "waiting") | SUCH
    assert house.daemon.personal.status()["voices"] == {profile: state(1, "waiting")}
    assert house.ok("GET", "/v1/review?profile=ann")["voice"] == row["voice"]
    for shown in (idiolect("consent", "show"), idiolect("consent", "show", "ann"), idiolect("review", "ann")):
        assert 'needs 2 more corrections or takes of phrases that the model itself knows such as "yes", "no"' in shown
    assert json.loads(idiolect("consent", "show", "--json"))["people"][0]["voice"] == row["voice"]
    house.ok("POST", "/v1/consent/withdraw", {"profile": "ann", "purpose": "voice_match"})
    assert house.daemon.personal.status()["voices"] == {}
