"""Names and ids: one rule for every way in, one person for every spelling, and no name that is taken for an id."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.cli.output import plain
from idiolect.config.kinds import escaped
from idiolect.config.schema import as_dict, load, parse
from idiolect.errors import ConfigError, RequestError
from idiolect.people.consent import CONSENT, Consents, Pending
from idiolect.service import doctor
from idiolect.values import name_key, person_name
from tests.control.api.test_people import ME, house  # noqa: F401  # a fixture
from tests.support.learners import Household
from tests.support.pages import PageHome
from tests.support.vaults import House
from tests.support.whole import whole

GOOD = (
    "ann", "O'Brien", "O\u2019Brien", "St. John", "Zo\u00eb", "Zoe\u0308",
    "\u0645\u062d\u0645\u062f\u200c\u0631\u0636\u0627",
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3", "\U0001f98a", "\u2764\ufe0f", "\U0001f469\u200d\U0001f680",
    "\u845b\U000e0100", "J. R. R.", "'t Hooft",
    "Ann (7)", "a/b\\c.d", "x" * 64, "no", "1", "deadbeef", "\u5c71\u7530 \u592a\u90ce",
)  # fmt: skip
BAD = (
    "", " ", ".", "-", "-ann", "'", "\u200d", "\u3164", "\u2800", "\u034f", "\ufe0f", "ann\u3164",
    "an\u200bn", "an\u202en", "a\nb", "a\x00b",
    "x" * 65, "guest", "Guest", "GUEST ", "g\u200cuest", "\uff47\uff55\uff45\uff53\uff54", "nobody", "Nobody",
    "other", "everybody",
    "0123456789abcdef", "0123456789ABCDEF", "0" * 32, "\uff10123456789abcde\uff46", "01234567\u200d89abcdef",
    "\u00ad", "a\ue000",
)  # fmt: skip
TWINS = (
    ("ann", "Ann"), ("ann", "\uff41\uff4e\uff4e"), ("ann", "an\u200dn"), ("ann", "an\u200cn\u200d"),
    ("Zo\u00eb", "zoe\u0308"),
    ("stra\u00dfe", "STRASSE"), ("O'Brien", "o\u2019brien"), ("O'Neil", "o\u00b4neil"),
    ("Anne-Marie", "anne\u2011marie"),
    ("a  b", "A\u00a0B"), ("\ufb01n", "fin"),
    ("\u2764", "\u2764\ufe0f"),
)  # fmt: skip


def taken(work) -> bool:
    try:
        work()
    except (RequestError, ConfigError):
        return False
    return True


def in_yaml(*names: str) -> str:
    return json.dumps({"people": {name: {"users": ["u"]} for name in names}}, ensure_ascii=False)


@pytest.fixture
def household(tmp_path):
    place = House(tmp_path / "state")
    with place.create() as vault:
        yield Household(vault, place.clock)


@pytest.mark.parametrize("name", [*GOOD, *BAD], ids=ascii)
def test_consent_and_configuration_take_and_refuse_the_same(name, household):
    right = name in GOOD
    assert taken(lambda: household.consents.begin(name, ["enrol"])) is right
    assert taken(lambda: parse(in_yaml(name), "f")) is right


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_who_is_in_the_configuration_is_protected_by_it(name, household):
    config = parse(in_yaml(name), "f")
    consents = Consents(household.vault, {each: person.users for each, person in config.people.items()})
    assert consents.users_of(name) == ("u",)
    pending = consents.begin(name, ["enrol"])
    assert consents.heard_yes() == [], "only the user who is named in the configuration agrees"
    with pytest.raises(RequestError, match="nobody can agree for another"):
        consents.agree_paired(pending.token, "v", 1)
    assert consents.agree_paired(pending.token, "u", 0)
    assert parse(json.dumps(as_dict(config), ensure_ascii=False), "g") == config


@pytest.mark.parametrize(("one", "two"), TWINS, ids=ascii)
def test_two_spellings_are_one_person(one, two, household, tmp_path):
    profile = household.agree(one, "enrol")
    assert household.consents.begin(two, ["usage"]).profile == profile
    assert household.consents.find(two).profile == profile
    with pytest.raises(ConfigError, match="given twice"):
        parse(in_yaml(one, two), "f")
    for file, name, text in (("a", one, '{"users": ["u"]}'), ("b", two, '{"sensitivity": 0.75}')):
        (tmp_path / file).write_text(f'{{"people": {{{json.dumps(name, ensure_ascii=False)}: {text}}}}}')
    people = load([tmp_path / "a", tmp_path / "b"]).people
    assert [(person.users, person.sensitivity) for person in people.values()] == [(("u",), 0.75)]


def test_a_later_file_counts_in_whichever_spelling(tmp_path):
    for file, name, user in (("a", "Ann", "x"), ("b", "ann", "y"), ("c", "ANN", "z")):
        (tmp_path / file).write_text(in_yaml(name).replace('"u"', f'"{user}"'))
    config = load([tmp_path / file for file in "abc"])
    assert {name: person.users for name, person in config.people.items()} == {"Ann": ("z",)}
    assert config.places["people.Ann.users"].source == str(tmp_path / "c")


@given(st.text(max_size=70))
def test_what_is_taken_stays_as_it_is_and_is_its_own_twin(text):
    try:
        kept = person_name(text)
    except ValueError:
        return
    assert person_name(kept) == kept
    assert unicodedata.normalize("NFC", kept) == kept
    key = name_key(kept)
    assert key
    assert key == name_key(text) == name_key(key) == name_key(kept.swapcase().swapcase())


# -- names from before, and whoever would be another ---------------------------------------------------------------


def introduce(consents: Consents, name: str, profile: str) -> None:
    """Put somebody into the vault under a name that nobody could have any more, as an older version did."""
    pending = Pending("00", profile, name, ("enrol", "adapt_corrections"), "en", "notice", 0.0)
    with consents.vault.change("consent-granted", False, profile=profile) as change:
        consents._introduce(change, pending)
        for purpose in pending.purposes:
            receipt = consents._receipt(pending, purpose, "spoken", -1)
            change.put(profile, CONSENT, "receipt", receipt.ident, receipt.encode())
            change.add_key(profile, purpose, receipt.ident)


@pytest.mark.parametrize("name", ["guest", "Guest", "\u3164", "-x", "bb" * 8])
def test_a_name_from_before_goes_on_working_by_its_id(name, household):
    introduce(household.consents, name, "cc" * 8)
    known = household.consents
    assert known.find("cc" * 8).name == name
    assert known.begin("cc" * 8, ["usage"]).profile == "cc" * 8
    assert not taken(lambda: known.find("bb" * 8)), "no id is ever looked up among names"
    assert not taken(lambda: known.find("guest"))


def test_twins_from_before_are_told_apart(household):
    introduce(household.consents, "ann", "aa" * 8)
    introduce(household.consents, "an\u200dn", "bb" * 8)
    known = household.consents
    assert known.find("ann").profile == "aa" * 8
    assert known.find("an\u200dn").profile == "bb" * 8
    with pytest.raises(RequestError) as refused:
        known.find("ANN")
    assert refused.value.status == 409


def test_nobody_becomes_another_by_taking_an_id_for_a_name(house):  # noqa: F811
    """An older vault holds somebody whose name is ann's id; what is ann's stays ann's, at every door."""
    consents = house.daemon.personal._learner.consents
    ann = house.agree("ann")
    consents._paired["ann"] = ("somebody-else",)
    status, answer = house.ask("POST", "/v1/consent", {"name": ann, "purposes": ["enrol", "usage"]})
    assert (status, answer.get("profile")) in ((422, None), (200, ann)), "an id is that person's, or nobody's"
    status, _ = house.ask("POST", "/v1/consent", {"name": ann.upper(), "purposes": ["enrol"]})
    assert status == 422
    house.on_loop(house.daemon.personal.changed(lambda learner: introduce(learner.consents, ann, "00" * 8)))
    event = house.hears("right", "left", ann)
    assert house.ask("POST", "/v1/correct", {"event": event, "phrase": "right"})[0] == 403
    assert house.ask("POST", "/v1/confirm", {"event": house.hears("on", "on", ann, 1)})[0] == 403
    assert house.ask("GET", f"/v1/review?profile={ann}")[0] == 403
    assert house.ok("GET", f"/v1/review?profile={'00' * 8}")["examples"] == []
    assert house.daemon.personal.refused_names == ("00" * 8,)


def test_doctor_tells_of_names_from_before_without_showing_them():
    (check,) = doctor.names(["00" * 8])
    assert (check.level, "00" * 8 in check.detail, bool(check.fix)) == ("warn", True, True)
    assert list(doctor.names([])) == []


@pytest.mark.parametrize("word", ["guest", "Guest", "nobody"])
def test_the_words_for_nobody_address_nobody(house, word):  # noqa: F811
    house.agree("ann")
    assert house.ok("POST", "/v1/profile", {"profile": "ann"})["active"] != "guest"
    assert house.ok("POST", "/v1/profile", {"profile": word}) == {"active": "guest"}


def test_a_taught_phrase_belongs_to_who_began_to_teach(house):  # noqa: F811
    """Who is erased meanwhile, and whoever agrees under that name, is not given it."""
    house.agree("ann")
    first = house.on_loop(house.daemon.people.may_teach("ann", "lights please", ME))
    house.ok("POST", "/v1/erase", {"profile": "ann"})
    second = house.agree("ann")
    assert first != second
    with pytest.raises(RequestError) as refused:
        house.on_loop(house.daemon.people.taught(first, "lights please", []))
    assert refused.value.status == 404
    assert house.ok("GET", "/v1/review?profile=ann")["examples"] == []


@dataclass
class Case:
    """A name of somebody whose browser is paired, and how the browser may spell it."""

    name: str
    spelled: str


@pytest.mark.parametrize(
    "case", [Case("ann", "\uff21nn"), Case("O'Brien", "o\u2019brien"), Case("St. John", "ST. JOHN")], ids=repr
)
def test_a_browser_is_confined_to_its_person_in_any_spelling(tmp_path, case):
    with PageHome(tmp_path, people=(f'"{case.name}"', "ben")) as home:
        profile, ben = home.agree(name=case.name), home.agree(name="ben")
        browser = home.browser()
        browser.enter(case.spelled)
        assert browser.ok("GET", "/v1/session")["profile"] == profile
        for mine in (case.name, case.spelled, profile):
            assert browser.ok("GET", f"/v1/review?profile={_quoted(mine)}")["examples"] == []
        for other in ("ben", ben, "guest", "nobody", "Guest"):
            assert browser.ask("GET", f"/v1/review?profile={_quoted(other)}")[0] == 403
        assert browser.ok("POST", "/v1/profile", {"profile": "guest"}) == {"active": "guest"}
        assert home.client.post("/v1/pair/forget", {"profile": case.spelled}) == {"forgotten": 1}
        browser.enter(case.name)
        assert home.client.post("/v1/pair/forget", {"id": profile}) == {"forgotten": 1}, "the command line sends it so"


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text)


@pytest.mark.parametrize(
    "name",
    ["O\u2019Brien", "St. John", "\U0001f98a", "Zo\u00eb", "\u0645\u062d\u0645\u062f\u200c\u0631\u0636\u0627"],
    ids=ascii,
)
def test_a_name_works_from_the_command_line_too(tmp_path, name):
    with whole(tmp_path, people={name: {"users": [ME]}}) as home:

        def idiolect(*words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "idiolect.cli.main", "--socket", home.socket, *words]
            return subprocess.run(
                command, input=typed, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONUTF8": "1"}
            )

        assert idiolect("consent", "grant", name, "--purpose", "enrol", typed="yes\n").returncode == 0
        assert name in idiolect("consent", "show", name).stdout
        assert idiolect("profile", name).returncode == 0
        assert idiolect("review", name).returncode == 0
        assert f"people.{plain(escaped(name))}.users" in idiolect("config", "show", "--origin").stdout
        refused = idiolect("consent", "grant", "nobody", "--purpose", "enrol")
        assert refused.returncode != 0
        assert "name: is a word" in refused.stderr


def test_who_is_not_known_is_told_how_to_begin(tmp_path):
    with (
        House(tmp_path / "house").create() as vault,
        pytest.raises(RequestError, match="`idiolect consent grant NAME` asks somebody new"),
    ):
        Household(vault).consents.find("Ann")
