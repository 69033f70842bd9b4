"""Household phrases: from consent to withdrawal, over a real vault, the API and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from idiolect.errors import RequestError
from idiolect.people import sharing
from idiolect.people.consent import HOUSEHOLD, SHARED
from idiolect.people.review import Rights
from idiolect.values import GUEST, Detection, Event
from tests.control.api.test_people import ME, house  # noqa: F401 - a fixture
from tests.support.learners import Household, invented, span
from tests.support.vaults import DAY, House

PHRASE, OTHER = "lights please", "good night"
PURPOSES = ("enrol", "adapt_corrections", "usage", HOUSEHOLD)


@pytest.fixture
def place(tmp_path):
    return House(tmp_path / "state")


@pytest.fixture
def home(place):
    with place.create() as vault:
        yield Household(vault, place.clock)


def teach(home, profile, phrase=PHRASE, number=1):
    home.learner.add(profile, "enrolment", phrase, [invented(number, t) for t in range(3)], "01")


def share(home, phrase=PHRASE, wanted=True, name="Ann"):
    return sharing.share(home.learner, home.consents.find(name), phrase, wanted)


# -- kept


def test_each_phrase_is_shared_and_taken_back_alone(home):
    profile = home.agree("Ann", *PURPOSES)
    teach(home, profile)
    teach(home, profile, OTHER, 2)
    assert share(home) == [PHRASE]
    assert share(home, "Good Night") == [OTHER, PHRASE]
    assert share(home, OTHER) == [OTHER, PHRASE]
    assert sharing.everybody(home.learner) == {profile: {PHRASE, OTHER}}
    assert share(home, PHRASE.upper(), wanted=False) == [OTHER]
    assert share(home, PHRASE, wanted=False) == [OTHER]
    assert share(home) == [OTHER, PHRASE]


def test_without_that_consent_nothing_is_shared(home):
    profile = home.agree("Ann", "enrol")
    teach(home, profile)
    with pytest.raises(RequestError, match="has not agreed to household_phrases"):
        share(home)
    assert share(home, wanted=False) == []
    assert sharing.everybody(home.learner) == {}


def test_only_what_somebody_taught_is_theirs_to_share(home):
    profile, other = home.agree("Ann", *PURPOSES), home.agree("Ben", *PURPOSES)
    teach(home, other)
    home.learner.add(profile, "correction", PHRASE, [invented(1, 5)], "02")  # not taught on purpose
    for phrase in (PHRASE, "never taught"):
        with pytest.raises(RequestError, match="none that this person taught") as refused:
            share(home, phrase)
        assert refused.value.status == 404
    home.learner.add(profile, "enrolment", "yes", [span("yes", number) for number in range(3)], "03")
    for phrase in ("yes", "computer"):
        with pytest.raises(RequestError, match="everybody may say anyway") as refused:
            share(home, phrase)
        assert refused.value.status == 422
    assert sharing.everybody(home.learner) == {}


def forgetting(what):
    return lambda home, person: Rights(home.learner).forget(person, what)


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (lambda home, person: home.consents.withdraw(person, HOUSEHOLD), set()),
        (lambda home, person: home.consents.withdraw(person, "enrol"), set()),
        (lambda home, person: home.consents.withdraw(person, "usage"), {PHRASE, OTHER}),
        (lambda home, person: home.consents.erase(person.profile), set()),
        (forgetting({"phrase": PHRASE}), {OTHER}),
        (forgetting({"example": 1}), {PHRASE, OTHER}),
        (forgetting({"all": True}), set()),
    ],
    ids=["withdrawn", "enrol withdrawn", "usage withdrawn", "erased", "forgotten", "one example", "all forgotten"],
)
def test_what_was_shared_ends_with_consent_and_phrase(home, end, left):
    profile = home.agree("Ann", *PURPOSES)
    teach(home, profile)
    teach(home, profile, OTHER, 2)
    home.learner.round(profile, at_once=True)
    share(home)
    share(home, OTHER)
    end(home, home.consents.find("Ann"))
    assert sharing.everybody(home.learner).get(profile, set()) == left
    assert len(home.vault.idents(profile, HOUSEHOLD, SHARED)) == len(left)


def test_withdrawing_it_costs_nothing_that_was_learnt(home):
    profile = home.agree("Ann", *PURPOSES)
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    share(home)
    before = home.in_use()
    assert home.consents.withdraw(home.consents.find("Ann"), HOUSEHOLD) == 1
    assert [adapter.number for adapter in home.in_use()] == [adapter.number for adapter in before] == [1]
    assert "expired" not in home.learner._stale(profile)


def test_it_expires_with_its_phrase_and_by_itself(home):
    profile = home.agree("Ann", *PURPOSES)
    teach(home, profile)
    home.clock.pass_(100 * DAY)
    teach(home, profile, OTHER, 2)
    share(home)
    share(home, OTHER)
    home.clock.pass_(270 * DAY)  # the first phrase is 370 days old, what was shared 270
    home.learner.expire(home.learner.day)
    assert sharing.everybody(home.learner) == {profile: {OTHER}}
    home.clock.pass_(100 * DAY)
    home.learner.expire(home.learner.day)
    assert sharing.everybody(home.learner) == {}


def test_it_is_shown_and_exported_and_the_log_has_no_phrase(home):
    profile = home.agree("Ann", *PURPOSES)
    teach(home, profile)
    share(home)
    share(home, wanted=False)
    share(home)
    rights, person = Rights(home.learner), home.consents.find("Ann")
    assert rights.review(person)["shared"] == [PHRASE]
    assert rights.export(person)["shared"] == [PHRASE]
    entries = [e for e in home.vault.audit_entries(40) if e.kind == "phrases-shared"]
    assert [entry.as_dict()["body"]["count"] for entry in entries] == [1, 0, 1]
    assert PHRASE not in str(entries)
    assert rights.bring(person, rights.export(person))["imported"] == 3  # what is shared is said anew on each device


def test_it_survives_a_restart_and_lies_readably_nowhere(place):
    with place.create() as vault:
        home = Household(vault, place.clock)
        profile = home.agree("Ann", *PURPOSES)
        teach(home, profile)
        share(home)
    assert all(PHRASE.encode() not in data for data in place.files().values())
    with place.open() as vault:
        assert sharing.everybody(Household(vault, place.clock).learner) == {profile: {PHRASE}}


# -- asked for


def test_from_sharing_to_withdrawal(house):  # noqa: F811 - the fixture
    profile = house.agree("ann", "enrol", HOUSEHOLD)
    house.teach()
    personal = house.daemon.personal
    assert personal.shared == ()
    body = {"profile": "ann", "phrase": PHRASE, "shared": True}
    assert house.ok("POST", "/v1/share", body) == {"profile": profile, "shared": [PHRASE]}
    assert personal.shared == personal._household.shared == (PHRASE,)
    assert personal._household.lent(GUEST, PHRASE)
    assert house.ok("GET", "/v1/consent")["household"] == [PHRASE]
    assert house.ok("GET", "/v1/review?profile=ann")["shared"] == [PHRASE]
    house.ok("POST", "/v1/share", body | {"shared": False})
    assert personal.shared == ()
    house.ok("POST", "/v1/share", body)
    answer = house.ok("POST", "/v1/consent/withdraw", {"profile": "ann", "purpose": HOUSEHOLD})
    assert (answer["deleted"], answer["adapter"], answer["state"]) == (1, 1, "canary")
    assert personal.shared == ()
    assert house.ok("GET", "/v1/consent")["household"] == []
    assert house.ask("POST", "/v1/share", body)[0] == 403


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"profile": "ann", "phrase": PHRASE}, 422, "shared"),
        ({"profile": "ann", "phrase": PHRASE, "shared": 1}, 422, "shared"),
        ({"profile": "ann", "phrase": "", "shared": True}, 422, "phrase"),
        ({"profile": "ann", "phrase": 7, "shared": True}, 422, "phrase"),
        ({"profile": "ann", "phrase": "yes", "shared": True}, 422, "phrase"),
        ({"profile": "ann", "phrase": "never taught", "shared": True}, 404, "phrase"),
        ({"profile": "zoe", "phrase": PHRASE, "shared": True}, 404, "profile"),
        ({"phrase": PHRASE, "shared": True}, 422, "profile"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(house, body, status, field):  # noqa: F811 - the fixture
    house.agree("ann", "enrol", HOUSEHOLD)
    got, answer = house.ask("POST", "/v1/share", body)
    assert (got, answer["error"]["field"]) == (status, field)


def test_nobody_shares_for_another(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol", HOUSEHOLD)
    house.teach()
    house.daemon.personal._consents._paired["ann"] = ("somebody-else",)
    for wanted in (True, False):
        assert house.ask("POST", "/v1/share", {"profile": "ann", "phrase": PHRASE, "shared": wanted})[0] == 403


def test_what_others_say_of_it_is_theirs_and_counts_for_nobody(house):  # noqa: F811 - the fixture
    house.agree("ann", "enrol", HOUSEHOLD)
    house.teach()
    house.daemon.personal._consents._paired["cleo"] = (ME,)
    cleo = house.agree("cleo", "enrol", "adapt_corrections", "adapt_confirmations", "usage")
    house.teach(2, "cleo", OTHER)
    house.ok("POST", "/v1/share", {"profile": "ann", "phrase": PHRASE, "shared": True})
    personal = house.daemon.personal

    def hears(ident, said):
        detection = Detection("phrase", said, 0.9, 0.3, 0.5, 0, 16_000, cleo)
        event = Event(ident, time.time(), detection)
        house.daemon.inference.recent.keep(event, invented(1, 7)[0])
        personal.heard(event)

    hears("e-1", PHRASE)
    assert (personal._counts, personal._said) == ({}, [])
    status, answer = house.ask("POST", "/v1/confirm", {"event": "e-1"})
    assert (status, answer["error"]["field"]) == (409, "event")
    status, answer = house.ask("POST", "/v1/correct", {"event": "e-1", "phrase": OTHER})
    assert status == 200, "refusing to confirm it does not use it up"
    (example,) = [e for e in house.ok("GET", "/v1/review?profile=cleo")["examples"] if e["source"] == "correction"]
    assert example["heard"] == "", "somebody else's phrase is not kept with this person"
    hears("e-2", OTHER)
    assert personal._counts == {cleo: {OTHER: 1}}


def test_the_command_line_shares(house):  # noqa: F811 - the fixture
    def idiolect(*words, code=0):
        command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(house.it.path), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    house.agree("ann", "enrol")
    house.teach()
    assert "idiolect consent grant NAME --purpose household_phrases" in idiolect("share", "ann", PHRASE, code=77)
    house.agree("ann", HOUSEHOLD)
    assert f'everybody may say of what ann taught: "{PHRASE}"' in idiolect("share", "ann", PHRASE)
    assert f'everybody may say, guests too: "{PHRASE}"' in idiolect("consent", "show")
    assert f"everybody may say '{PHRASE}'" in idiolect("review", "ann")
    assert "everybody may say of what ann taught: nothing" in idiolect("unshare", "ann", PHRASE)
    assert "everybody may say" not in idiolect("consent", "show") + idiolect("review", "ann")
    assert json.loads(idiolect("share", "ann", PHRASE, "--json"))["shared"] == [PHRASE]
