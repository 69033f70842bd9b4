"""What the code of commit 0d70abf wrote is read: a vault, an adapter, an export, configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from idiolect.config.schema import parse
from idiolect.learning import adapter_file, gate
from idiolect.listening.pipeline.space import offset_windows
from idiolect.people.review import Rights
from tests.support.learners import Household, invented, model
from tests.support.vaults import House

BEFORE = Path(__file__).parents[1] / "support" / "before"
TAUGHT = {"lights please": 1, "good night": 2}
OPENS_WITH = "correct horse battery"


@pytest.fixture
def home(tmp_path):
    for name in ("vault.db", "keystore.json"):
        shutil.copy(BEFORE / name, tmp_path / name)
        (tmp_path / name).chmod(0o600)  # git keeps no more of a mode than whether a file is a program
    house = House(tmp_path)
    with house.open() as vault:
        yield Household(vault, house.clock)


def understood(adapter, number):
    heard = model().hear(np.stack([offset_windows(invented(number, take)[0]) for take in (7, 8)]))
    return gate.spoken(model(), adapter, heard)


def test_a_vault_opens_with_all_that_was_kept(home):
    person = home.consents.find("Ann")
    assert set(person.purposes) == {"enrol", "adapt_corrections", "usage"}
    examples = [each for each, _ in home.learner.examples(person.profile)]
    assert sorted((each.phrase, each.source) for each in examples) == sorted(
        [*((phrase, "enrolment") for phrase in TAUGHT for _ in range(3)), ("on", "correction")]
    )
    assert {(each.length, each.clear, len(each.whole)) for each in examples} == {(0, 0, 0)}
    home.vault.audit_verify()


def test_an_adapter_is_believed_and_hears_what_was_taught(home):
    profile = home.consents.find("Ann").profile
    ((data, digest),) = home.learner.files()
    adapter = adapter_file.accept(data, digest)
    assert (adapter.profile, adapter.number) == (profile, 1)
    for phrase, number in TAUGHT.items():
        assert understood(adapter, number) == [phrase, phrase]
    figures = Rights(home.learner).report(home.consents.find("Ann"))["figures"]
    assert (figures["held_out"], figures["in_windows"], figures["error_after"]) == (6, 6, 0.0)
    assert all(home.learner.verify(profile, 1)["checks"].values())


def test_learning_goes_on_where_it_was(home):
    profile = home.consents.find("Ann").profile
    home.learner.add(profile, "enrolment", "tea time", [invented(3, take) for take in range(3)], "09")
    made = home.learner.round(profile, at_once=True)
    assert made.number == 2
    assert {taught.name for taught in made.outcome.adapter.taught} == {*TAUGHT, "tea time"}


@pytest.mark.parametrize("sealed", [False, True])
def test_an_export_is_brought_back(tmp_path, sealed):
    document = json.loads((BEFORE / ("sealed.json" if sealed else "export.json")).read_text())
    house = House(tmp_path)
    with house.create() as vault:
        home = Household(vault, house.clock)
        profile = home.agree("Ann", "enrol", "adapt_corrections")
        answer = Rights(home.learner).bring(home.consents.find("Ann"), document, OPENS_WITH if sealed else "")
        assert (answer["imported"], answer["left_out_without_consent"]) == (7, 0)
        ((data, digest),) = home.learner.files()
        assert understood(adapter_file.accept(data, digest), 1) == ["lights please"] * 2
        assert {each.phrase for each, _ in home.learner.examples(profile)} == {*TAUGHT, "on"}


@pytest.mark.parametrize("name", ["idiolect.yaml", "pi-speaker.yaml"])
def test_a_configuration_means_what_it_meant(name):
    text = (BEFORE / name).read_text()
    found = parse(text, name)
    assert (found.outdated, found.listening.mode) == ((), "wake")
