"""Consent, learning, forgetting and proofs over a real vault, with the real worker process."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from idiolect.errors import LearningError, RequestError
from idiolect.learning import adapter_file, ledger, rollout
from idiolect.learning.ledger import Manner
from idiolect.learning.provenance import unseal
from idiolect.people.consent import ADAPTER
from idiolect.people.feedback import Said, corrected
from idiolect.people.others import others
from idiolect.people.review import Rights
from idiolect.people.versions import rollback
from tests.support.learners import Household, invented, span
from tests.support.vaults import DAY, House


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


@pytest.fixture
def home(house):
    with house.create() as vault:
        yield Household(vault, house.clock)


def teach(home, profile, phrase="lights please", number=1, takes=3):
    return home.learner.add(profile, "enrolment", phrase, [invented(number, t) for t in range(takes)], "01")


def test_without_consent_nothing_is_kept(home):
    profile = home.agree("Ann", "usage")
    with pytest.raises(RequestError, match="has not agreed to enrol"):
        teach(home, profile)
    assert home.vault.items(profile, "enrol", "example") == []
    assert home.learner.round(profile).state == "base"


def test_a_taught_phrase_is_in_use_at_once_and_proven(home):
    profile = home.agree("Ann")
    teach(home, profile)
    made = home.learner.round(profile, at_once=True)
    assert made.outcome is not None
    assert made.outcome.verdict.passed, made.outcome.verdict
    assert (made.number, made.state) == (1, "canary")
    (adapter,) = home.in_use()
    assert [t.name for t in adapter.taught] == ["lights please"]
    proof = home.learner.verify(profile, 1)
    assert proof["ok"], proof
    assert proof["examples"] == 3


def test_forgetting_is_as_if_it_had_never_been(home):
    profile = home.agree("Ann")
    first = home.agree("Ben")
    for who in (profile, first):
        teach(home, who)
    teach(home, profile, "good night", 2)
    home.learner.round(profile, at_once=True)
    person = home.consents.find("ann")
    rights = Rights(home.learner)
    answer = rights.forget(person, {"phrase": "good night"})
    assert answer["forgotten"] == 3
    (version,) = home.learner.versions(profile)  # no other version is left
    kept = adapter_file.decode(home.learner.sealed(profile, version.number).data)
    home.learner.round(first, at_once=True)
    fresh = adapter_file.decode(home.learner.sealed(first, 1).data)
    same = adapter_file.encode(replace(fresh, profile=profile, number=kept.number))
    assert adapter_file.encode(kept) == same
    assert not any("good night" in repr(r.payload) for r in home.vault.items(profile, "enrol", "example"))
    assert home.learner.verify(profile, version.number)["ok"]


def test_withdrawing_takes_examples_and_every_version_with_it(home, house):
    profile = home.agree("Ann")
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    assert home.consents.withdraw(home.consents.find("Ann"), "enrol") == 3
    assert home.learner.versions(profile) == []
    assert home.in_use() == []
    assert ADAPTER not in home.vault.purposes(profile)
    assert home.consents.allowed(profile, "enrol") is None
    kinds = [entry.kind for entry in home.vault.audit_entries(50)]
    assert kinds.count("consent-withdrawn") == 1
    home.agree("Ann", "enrol")  # and can be agreed to again
    assert home.consents.allowed(profile, "enrol") is not None


def test_a_signature_by_another_key_is_not_loaded(home):
    profile = home.agree("Ann")
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    raw = home.vault.get(profile, ADAPTER, "adapter", "00000001")
    sealed = unseal(raw)
    forged = replace(sealed, provenance=replace(sealed.provenance, examples=4))
    with home.vault.change("put", False, profile=profile, purpose="adapter", count=1) as change:
        change.put(profile, ADAPTER, "adapter", "00000001", forged.encode(), "e" * 64)
    with pytest.raises(LearningError, match="not signed by this device"):
        home.learner.sealed(profile, 1)
    assert home.in_use() == []


def test_an_example_without_consent_does_not_pass_the_proof(home):
    profile = home.agree("Ann")
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    (record, *_) = home.vault.items(profile, "enrol", "example")
    smuggled = replace(ledger.decode(record.payload), receipt="ab" * 32)
    with home.vault.change("put", False, profile=profile, purpose="enrol", count=1) as change:
        change.put(profile, "enrol", "example", record.id, smuggled.encode(), "e" * 64, record.expires)
    proof = home.learner.verify(profile, 1)
    assert proof["checks"] == {
        "signed": True, "bundle": True, "ledger": False, "consent": False, "replayed": False,
    }  # fmt: skip


def test_nothing_is_lost_over_a_restart(house):
    with house.create() as vault:
        home = Household(vault, house.clock)
        profile = home.agree("Ann")
        teach(home, profile)
        home.learner.round(profile, at_once=True)
        before = home.learner.sealed(profile, 1).encode()
    with house.open() as vault:
        home = Household(vault, house.clock)
        assert home.learner.sealed(profile, 1).encode() == before
        assert [a.profile for a in home.in_use()] == [profile]
    assert not any(b"lights please" in data or b"Ann" in data for data in house.files().values())


def test_rollback_and_what_was_before_comes_back(home):
    profile = home.agree("Ann")
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    teach(home, profile, "good night", 2)
    home.learner.round(profile, at_once=True)
    assert [v.state.value for v in home.learner.versions(profile)] == ["superseded", "canary"]
    assert rollback(home.learner, profile) == "version 1"
    assert rollback(home.learner, profile) == "the base model"
    with pytest.raises(RequestError, match="base model already"):
        rollback(home.learner, profile)
    teach(home, profile, "turn around", 3)
    assert home.learner.round(profile, at_once=True).number == 3


def test_corrections_take_a_canary_back_by_themselves(home):
    profile = home.agree("Ann")
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    for expected in (False, True):
        said = Said(profile, "up", span("down")[0], "down")
        assert corrected(home.learner, said) is expected
    assert rollout.in_use(home.learner.versions(profile)) is None
    assert home.vault.audit_entries(1)[0].kind in ("rotated", "adapter-moved")


def test_export_comes_back_on_another_device_after_consent(home, tmp_path):
    profile = home.agree("Ann")
    teach(home, profile)
    home.learner.round(profile, at_once=True)
    person, rights = home.consents.find("Ann"), Rights(home.learner)
    plain = json.loads(json.dumps(rights.export(person)))
    sealed = json.loads(json.dumps(rights.export(person, "correct horse")))
    assert "lights please" not in json.dumps(sealed)
    other_house = House(tmp_path / "other")
    with other_house.create() as vault:
        other = Household(vault, other_house.clock)
        other.agree("Ann", "usage")
        theirs = Rights(other.learner)
        assert theirs.bring(other.consents.find("Ann"), plain)["left_out_without_consent"] == 3
        other.agree("Ann", "enrol")
        with pytest.raises(RequestError, match="passphrase"):
            theirs.bring(other.consents.find("Ann"), sealed, "wrong horse")
        answer = theirs.bring(other.consents.find("Ann"), sealed, "correct horse")
        assert (answer["imported"], answer["state"]) == (3, "canary")


def test_all_that_is_kept_of_an_utterance_is_taken_along(home, tmp_path):
    profile = home.agree("Ann")
    whole = np.random.default_rng(1).standard_normal((40, 96)).astype(np.float16).astype(np.float32)
    said = [Manner(36, 31, whole), Manner(9, 40), Manner()]
    home.learner.add(profile, "enrolment", "lights please", [invented(1, take) for take in range(3)], "01", said=said)
    plain = json.loads(json.dumps(Rights(home.learner).export(home.consents.find("Ann"))))
    assert ["utterance_float16" in row for row in plain["examples"]] == [True, False, False]
    other_house = House(tmp_path / "other")
    with other_house.create() as vault:
        other = Household(vault, other_house.clock)
        theirs, person = Rights(other.learner), other.agree("Ann", "enrol")
        theirs.bring(other.consents.find("Ann"), plain)
        brought = [example for example, _ in other.learner.examples(person)]
        assert [(each.length, each.clear, len(each.whole)) for each in brought] == [(36, 31, 40), (9, 40, 0), (0, 0, 0)]
        assert np.array_equal(brought[0].whole, whole)
        for bad in ({"clear": 121}, {"clear": -1}, {"utterance_float16": "AAAA"}, {"utterance_float16": None}):
            with pytest.raises(RequestError, match="holds an example that is none"):
                theirs.bring(other.consents.find("Ann"), {**plain, "examples": [{**plain["examples"][0], **bad}]})


def test_expired_examples_go_and_the_adapter_is_made_anew(home):
    profile = home.agree("Ann")
    teach(home, profile)
    home.clock.pass_(200 * DAY)
    teach(home, profile, "good night", 2)
    home.learner.round(profile, at_once=True)
    home.clock.pass_(200 * DAY)
    home.vault.sweep(home.learner.day)
    assert home.learner.refresh() == 1
    (adapter,) = home.in_use()
    assert [t.name for t in adapter.taught] == ["good night"]
    assert home.learner.refresh() == 0


def test_review_explain_and_report_say_it_in_words(home):
    profile = home.agree("Ann")
    teach(home, profile)
    again = home.learner.add(profile, "enrolment", "lights please", [invented(1, 0)], "02")
    home.learner.round(profile, at_once=True)
    person, rights = home.consents.find("ANN"), Rights(home.learner)
    seen = rights.review(person)
    assert [e["counts"] for e in seen["examples"]] == [True, True, True, False]
    assert seen["examples"][-1]["id"] == again[0]
    assert seen["examples"][-1]["why"] == "the same recording as before"
    text = "\n".join(rights.explain(person)["text"])
    assert "Version 1" in text
    assert "same recording" in text
    assert rights.report(person)["figures"]["held_out"] == 3


def test_own_way_of_saying_base_phrases_helps_and_harms_nobody(home):
    profile = home.agree("Ann")
    for label in ("yes", "no", "stop", "jarvis"):
        home.learner.add(profile, "enrolment", label, [span(label, n) for n in range(4)], "01")
    made = home.learner.round(profile)
    assert made.outcome is not None
    numbers = made.outcome.verdict.numbers
    if made.outcome.verdict.passed:
        assert numbers["own_wrong"] <= numbers["own_wrong_before"]
        assert numbers["guard_accepts"] == 0
    else:
        assert made.outcome.verdict.check in (4, 6)


def test_usage_becomes_a_prior_from_the_next_day(home):
    profile = home.agree("Ann")
    with home.vault.change("put", False, profile=profile, count=1) as change:
        home.learner.count_usage(change, profile, {"seven": 30, "one": 2})
    assert home.learner.ledger(profile).usage == {}
    home.clock.pass_(DAY)
    made = home.learner.round(profile, at_once=True)
    assert made.state == "canary"
    (adapter,) = home.in_use()
    assert 0.1 < adapter.prior["seven"] <= 0.5
    assert set(adapter.prior) == {"seven", "one"}


def test_nobody_agrees_for_another(home):
    consents = home.consents
    pending = consents.begin("Ann", ("enrol",))
    with pytest.raises(RequestError, match="an administrator neither"):
        consents.agree_paired(pending.token, "root", 0)
    assert home.vault.profiles() == []
    consents.begin("Ben", ("enrol",))
    assert consents.heard_yes() == []  # two questions are open: whose yes was it?
    home.clock.pass_(31)
    assert consents.heard_yes() == []
    assert home.vault.profiles() == []


def test_the_same_question_put_twice_is_agreed_to_once(home):
    consents = home.consents
    consents._paired["ann"] = ("ann",)
    first, second, third = (consents.begin("Ann", wish) for wish in (["enrol"], ["enrol"], ["enrol", "usage"]))
    assert [r.purpose for r in consents.agree_paired(first.token, "ann", 1)] == ["enrol"]
    assert consents.agree_paired(second.token, "ann", 1) == []
    assert [r.purpose for r in consents.agree_paired(third.token, "ann", 1)] == ["usage"]
    (ann,) = consents.people()
    assert set(ann.purposes) == {"enrol", "usage"}


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "line\nbreak", "hidden\u202eright", 7, None])
def test_names_that_cannot_be_shown_are_refused(home, name):
    with pytest.raises(RequestError) as caught:
        home.consents.begin(name, ("enrol",))
    assert caught.value.field == "name"


@pytest.mark.parametrize("name", ["Zoë", "李小龙", "محمد", "Ünïcødé 👩‍👧"[:10], "O'Brien", "<b>&\"'"])
def test_any_other_name_will_do(home, name):
    home.agree(name)
    assert home.consents.find(name.upper()).name == name


def test_a_worker_that_says_nonsense_changes_nothing(home):
    profile = home.agree("Ann")
    teach(home, profile)
    from idiolect.learning.worker.process import Worker

    for command in (["/bin/echo", "hello"], ["/bin/false"], ["/bin/cat"], ["/bin/sleep", "30"]):
        home.learner.backend = Worker(command, wall_s=0.5)
        with pytest.raises(LearningError):
            home.learner.round(profile, at_once=True)
        assert home.learner.versions(profile) == []
    home.learner.backend = Worker()
    assert home.learner.round(profile, at_once=True).number == 1


def test_spans_are_kept_as_they_were(home):
    profile = home.agree("Ann")
    spans = invented(3)
    home.learner.add(profile, "enrolment", "x", [spans], "01")
    (example,) = home.learner.ledger(profile).examples
    np.testing.assert_array_equal(example.spans, spans.astype(np.float16).astype(np.float32))


def test_a_candidate_is_tried_on_what_everybody_else_said_last(home, monkeypatch):
    """Once it was only on whoever came last by the number of the profile, where that one had said enough."""
    monkeypatch.setattr("idiolect.people.others.OTHERS_CAP", 6)
    ann, few, *many = (home.agree(name) for name in ("Ann", "Ben", "Eve", "Joe"))
    teach(home, ann)
    teach(home, few, "of few words", 2, takes=1)
    for number, profile in enumerate(many):
        teach(home, profile, f"many words {number}", 3 + number, takes=5)
        teach(home, profile, "lights please", 1, takes=2)  # the newest, but of a phrase that Ann has, too
    assert others(home.learner, home.learner.ledger(ann)) is None  # nobody is heard with anything yet
    for profile in (few, *many):
        assert home.learner.round(profile, at_once=True).state == "canary"
    expected = [(few, 1), *((profile, 2 + number) for number, profile in enumerate(sorted(many)))]
    newest = []
    for profile, count in expected:
        said = [e for e in reversed(home.learner.ledger(profile).examples) if e.phrase != "lights please"]
        newest += [example.spans[0] for example in said[:count]]
    np.testing.assert_array_equal(others(home.learner, home.learner.ledger(ann)), np.stack(newest))
    assert others(home.learner, home.learner.ledger(ann).without([1, 2, 3])) is not None
    kept = home.learner.ledger(ann).examples
    assert [e.digest() for e in home.learner.backwards(ann)] == [e.digest() for e in reversed(kept)]
    assert home.vault.idents(ann, "enrol", "example") == [e.ident for e in kept]


def test_what_is_due_reads_only_of_whom_something_has_changed(home):
    ann, ben = home.agree("Ann"), home.agree("Ben")
    teach(home, ann)
    teach(home, ben, "of Ben", 2)
    before = {profile: home.learner.outline(profile) for profile in (ann, ben)}
    teach(home, ben, "also of Ben", 3)
    assert home.learner.outline(ann) is before[ann]
    assert home.learner.outline(ben).material == home.learner.ledger(ben).material() != before[ben].material
    home.consents.withdraw(home.consents.find("Ben"), "enrol", 0)
    assert home.learner.outline(ben).examples is False
    home.clock.pass_(DAY)
    assert home.learner.outline(ann) is not before[ann]
