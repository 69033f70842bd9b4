"""Another encoder over the same vault: mapped, carried beside, neither; there and back, and what can be forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import WorkerFailed
from idiolect.learning import adapter_file, ledger, rollout
from idiolect.learning.admission import admit
from idiolect.learning.ledger import Example, Ledger
from idiolect.learning.maps import EmbeddingMap
from idiolect.learning.worker.process import Worker
from idiolect.listening.attempt import ALIKE
from idiolect.listening.recognizer import Recognizer
from idiolect.people import carryover, standing
from idiolect.people.consent import ADAPTER
from idiolect.people.learner import Learner
from idiolect.people.models import model_of, succession_of
from idiolect.people.review import Rights
from idiolect.people.versions import every, rollback
from idiolect.trust.bundle import bundle as bundles
from idiolect.values import Detection, Event
from tests.support import encoders
from tests.support import vault_crashes as crashes
from tests.support.bundles import builtin, unsigned
from tests.support.homes import Home, story
from tests.support.learners import Household, invented, span
from tests.support.vaults import DAY, House

OLD, NEW = encoders.old_id(), bundles.load(unsigned(encoders.files())).encoder_id
LIGHTS, NIGHT = "lights please", "good night"


@cache
def bundle(kind):
    """The shipped bundle ("old"), or one with the new encoder that brings a "map", "model", "both" or "neither"."""
    if kind == "old":
        return bundles.load(unsigned(builtin()))
    affine = encoders.exact() if kind in ("map", "both") else None
    return bundles.load(unsigned(encoders.successor(affine=affine, previous=kind in ("model", "both"))))


@cache
def model(kind):
    return model_of(Recognizer.from_bundle(bundle(kind)))


class Device(Household):
    """A vault under one bundle after the other."""

    def boot(self, kind):
        """A start of the daemon: its learner, with what is stale made anew."""
        loaded = bundle(kind)
        self.learner = Learner(
            self.consents, model(kind), loaded.encoder_id, Worker(), lambda: self.clock.wall, succession_of(loaded)
        )
        self.learner.refresh()
        return self.learner

    def teach(self, profile, phrase=LIGHTS, number=1, takes=3, *, turned=False):
        """Takes of a phrase as this encoder, or the new one, hears them."""
        spans = [invented(number, t) @ (encoders.rotation().T if turned else np.eye(96)) for t in range(takes)]
        self.learner.add(profile, "enrolment", phrase, spans, "01")
        return self.learner.round(profile, at_once=True)

    def used(self, profile):
        """Number and bytes of what is in use under the bundle that runs."""
        version = rollout.in_use(self.learner.versions(profile))
        return (version.number, self.learner.sealed(profile, version.number).data) if version else None

    def kinds(self):
        return [entry.kind for entry in self.vault.audit_entries(100)]

    def told(self):
        return " ".join(Rights(self.learner).explain(self.consents.find("Ann"))["text"])

    def review(self):
        return Rights(self.learner).review(self.consents.find("Ann"))["examples"]


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


@pytest.fixture
def device(house):
    with house.create() as vault:
        yield Device(vault, house.clock)


@pytest.fixture
def ann(device):
    """Somebody who taught two phrases under the old bundle."""
    device.boot("old")
    profile = device.agree("Ann", "enrol", "adapt_corrections")
    device.teach(profile)
    device.teach(profile, NIGHT, 2)
    return profile


def records(device, profile):
    return [(r.id, r.encoder, r.expires, r.payload) for r in device.vault.items(profile, "enrol", "example")]


def test_mapped_phrases_are_kept_proven_and_said_to_be_mapped(device, ann):
    before = records(device, ann)
    learner = device.boot("map")
    (adapter,) = device.in_use()
    assert [t.name for t in adapter.taught] == [NIGHT, LIGHTS]
    assert records(device, ann) == before  # what was recorded stays what it is
    version = rollout.in_use(learner.versions(ann))
    record = learner.sealed(ann, version.number).provenance
    assert (record.bundle, record.examples, record.mapped) == (bundle("map").digest, 6, {OLD: 6})
    assert learner.verify(ann, version.number)["ok"]
    assert "by the model's map: 6 of them" in device.told()
    assert f"2 phrases of Ann taught under an earlier encoder are kept: “{NIGHT}”, “{LIGHTS}”" in device.told()
    assert standing.counts(learner) == {ann: {"kept": 2}}
    assert all(e["counts"] and e["mapped"] and e["encoder"] == OLD for e in device.review())
    assert Rights(learner).report(device.consents.find("Ann"))["figures"]["mapped"] == 6
    entries = {e.kind: json.loads(e.body) for e in device.vault.audit_entries(100)}
    map_digest = bundle("map").maps[OLD].digest
    assert entries["encoder-changed"] == {
        "profile": ann, "encoder": OLD, "mapped": 6, "unmapped": 0, "map": map_digest
    }  # fmt: skip
    assert entries["adapter-made"]["mapped"] == 6
    device.vault.audit_verify()


def test_there_and_back_again_nothing_is_lost_and_nothing_grows(device, ann):
    old = device.used(ann)
    device.boot("map")
    new, sizes = device.used(ann), set()
    assert new != old
    for _ in range(3):
        device.boot("old")
        assert device.used(ann) == old
        assert device.learner.verify(ann, old[0])["ok"]
        device.boot("map")
        assert device.used(ann) == new
        assert device.learner.verify(ann, new[0])["ok"]
        sizes.add(device.vault.counts().records)
    assert len(sizes) == 1
    assert device.kinds().count("adapter-made") == 3  # of the first two phrases, and of both mapped


def test_what_is_taught_after_going_back_counts_when_coming_again(device, ann):
    device.boot("map")
    device.boot("old")
    device.teach(ann, "coffee time", 3)
    device.boot("map")
    (adapter,) = device.in_use()
    assert "coffee time" in [t.name for t in adapter.taught]
    device.boot("neither")
    device.boot("old")
    (adapter,) = device.in_use()
    assert "coffee time" in [t.name for t in adapter.taught]


def test_with_neither_the_base_model_works_and_everything_waits_for_going_back(device, ann):
    old = device.used(ann)
    learner = device.boot("neither")
    assert device.used(ann) is None
    assert carryover.adapters(learner) == []
    assert "teach the phrases again" in device.told()
    assert f"2 phrases of Ann could not be kept under the new encoder: teach again “{NIGHT}”" in device.told()
    assert standing.counts(learner) == {ann: {"again": 2}}
    assert [(e["counts"], "another encoder" in e["why"]) for e in device.review()] == [(False, True)] * 6
    assert not learner.due(ann)
    device.boot("old")
    assert device.used(ann) == old


def test_beside_the_carried_model_its_own_adapter_is_used_as_it_is(device, ann):
    number, data = device.used(ann)
    learner = device.boot("model")
    assert device.used(ann) is None
    (adapter,) = carryover.adapters(learner)
    assert adapter_file.encode(adapter) == data
    assert f"2 phrases of Ann still use the earlier model: teach them again: “{NIGHT}”, “{LIGHTS}”" in device.told()
    assert standing.counts(learner) == {ann: {"earlier": 2}}
    assert learner.verify(ann, number)["ok"]
    history = Rights(learner).history(device.consents.find("Ann"))["versions"]
    assert [(v["adapter"], v["set_aside"]) for v in history] == [(1, True), (2, True)]


def test_taught_anew_the_carried_model_no_longer_listens_for_it(device, ann):
    learner = device.boot("model")
    device.teach(ann, LIGHTS, turned=True)
    (adapter,) = carryover.adapters(learner)
    assert [t.name for t in adapter.taught] == [NIGHT]
    assert standing.counts(learner) == {ann: {"earlier": 1}}
    assert "1 phrase of Ann still uses the earlier model" in device.told()
    device.teach(ann, NIGHT, 2, turned=True)
    assert carryover.adapters(learner) == []
    assert standing.counts(learner) == {}
    rollback(learner, ann)  # back to the version that knows one of them
    assert [t.name for t in carryover.adapters(learner)[0].taught] == [NIGHT]


def test_what_the_map_does_not_bring_over_is_heard_with_the_carried_model(device, ann, monkeypatch):
    learner = device.boot("both")
    assert standing.counts(learner) == {ann: {"kept": 2}}
    assert carryover.adapters(learner) == []
    rollback(learner, ann)
    assert [t.name for t in carryover.adapters(learner)[0].taught] == [NIGHT, LIGHTS]


@pytest.mark.parametrize("kind", ["map", "model", "both", "neither"])
def test_forgotten_under_the_new_bundle_it_is_as_if_it_had_never_been(device, ann, kind):
    ben = device.agree("Ben", "enrol")
    device.boot("old")
    device.teach(ben)
    learner = device.boot(kind)
    assert Rights(learner).forget(device.consents.find("Ann"), {"phrase": NIGHT})["forgotten"] == 3
    left = {r.id for r in device.vault.items(ann, ADAPTER, "adapter")}
    for record in device.vault.items(ann, ADAPTER, "adapter"):
        assert NIGHT not in str(adapter_file.decode(learner.sealed(ann, int(record.id, 16)).data))
        assert learner.verify(ann, int(record.id, 16))["ok"]
    mine, his = (_everything(learner, who) for who in (ann, ben))
    assert mine == his
    assert len(left) == len(mine) == {"map": 1, "model": 1, "both": 1, "neither": 0}[kind]
    assert NIGHT not in str(device.review())
    device.boot("old")
    assert [t.name for t in device.in_use()[0].taught] == [LIGHTS]


def _everything(learner, profile):
    """What is in use, with either model, but for name and number: bytes."""
    own = rollout.in_use(learner.versions(profile))
    found = [adapter_file.decode(learner.sealed(profile, own.number).data)] if own else []
    found += [each for each in carryover.adapters(learner) if each.profile == profile]
    return [adapter_file.encode(replace(each, profile="aa", number=1)) for each in found]


def test_withdrawn_and_erased_nothing_is_left_on_any_shelf(device, ann):
    device.boot("both")
    device.consents.withdraw(device.consents.find("Ann"), "enrol")
    assert ADAPTER not in device.vault.purposes(ann)
    assert every(device.learner, ann) == []
    for kind in ("old", "model"):
        device.boot(kind)
        assert (device.used(ann), carryover.adapters(device.learner)) == (None, [])
    device.consents.erase(ann)
    assert device.vault.profiles() == []


def test_what_has_expired_takes_the_shelves_with_it(device, ann, monkeypatch):
    learner = device.boot("model")
    device.clock.pass_(300 * DAY)
    device.teach(ann, "coffee time", 3, turned=True)
    device.clock.pass_(100 * DAY)
    assert learner.expire(learner.day) == 6
    assert (every(learner, ann), carryover.adapters(learner)) == ([], [])
    assert [e["phrase"] for e in device.review()] == ["coffee time"] * 3
    device.boot("old")
    assert device.used(ann) is None


def test_a_crash_after_expiry_leaves_nothing_in_use_either(device, ann):
    learner = device.boot("model")
    device.clock.pass_(400 * DAY)
    device.vault.sweep(learner.day)  # and no more: the power went
    assert carryover.adapters(learner) == []
    device.boot("model")
    assert every(device.learner, ann) == []
    assert device.vault.items(ann, ADAPTER, "adapter") == []


def test_a_number_that_is_given_again_is_no_example_that_is_back(device, ann):
    learner = device.boot("model")
    with device.vault.change("swept", count=1, day=learner.day) as change:  # the newest went first
        change.delete(ann, "enrol", "example", "00000006")
    assert learner.add(ann, "enrolment", NIGHT, [invented(2, 9) @ encoders.rotation().T], "02") == [6]
    assert carryover.adapters(learner) == []
    device.boot("model")
    (adapter,) = carryover.adapters(device.learner)
    assert device.learner.verify(ann, adapter.number)["examples"] == 5


@story
async def test_the_earlier_encoder_is_there_while_somebody_needs_it(tmp_path, monkeypatch):
    def home(kind):
        made = Home(tmp_path, known=model(kind))
        made.personal._encoder, made.personal._succession = bundle(kind).encoder_id, succession_of(bundle(kind))
        return made

    async with home("old") as first:
        profile = await first.agree()
        await first.teach(profile)
    async with home("both") as second:
        assert second.personal.taught == (LIGHTS,)
        assert second.personal._carried is None
    async with home("model") as third:
        carried = third.personal._carried
        assert carried.phrases == third.personal.taught == (LIGHTS,)
        assert third.personal.status()["earlier_encoder"] == {profile: {"earlier": 1}}
        said = Detection("phrase", LIGHTS, 0.9, 0.5, 0.8, 0, 16_000, profile, carried.number(profile, LIGHTS))
        third.personal.address(profile)
        third.inference.recent.keep(Event("x-1", 1e12, said), np.zeros((18, 96), np.float32))
        third.personal.heard(Event("x-1", 1e12, said))
        assert third.personal._said == []  # it tells nothing of a version of this encoder
        await third.personal.changed(
            lambda learner: Rights(learner).forget(learner.consents.find("Ann"), {"phrase": LIGHTS})
        )
        assert third.personal._carried is None
        assert third.personal.taught == ()


def test_a_worker_that_fails_leaves_a_round_owed_to_the_next_start(device, ann, monkeypatch):
    monkeypatch.setattr(Worker, "run", _fails)
    device.boot("map")
    assert device.used(ann) is None
    assert device.learner.due(ann)
    monkeypatch.undo()
    device.boot("map")
    assert device.used(ann) is not None
    Rights(device.boot("model")).forget(device.consents.find("Ann"), {"phrase": NIGHT})
    (adapter,) = carryover.adapters(device.learner)
    assert [t.name for t in adapter.taught] == [LIGHTS]


def _fails(*_, **__):
    raise WorkerFailed("crash", "it is gone")


def test_forgetting_without_a_worker_is_made_up_for_under_the_carried_model_too(device, ann, monkeypatch):
    learner = device.boot("model")
    monkeypatch.setattr(Worker, "run", _fails)
    Rights(learner).forget(device.consents.find("Ann"), {"phrase": NIGHT})
    assert carryover.adapters(learner) == []
    assert learner.due(ann)
    monkeypatch.undo()
    assert learner.rebuild(ann)
    assert [t.name for t in carryover.adapters(learner)[0].taught] == [LIGHTS]
    assert not learner.due(ann)


def test_a_power_cut_in_the_turn_leaves_the_old_table_or_the_new(house, tmp_path, monkeypatch):
    with house.create() as vault:
        device = Device(vault, house.clock)
        device.boot("old")
        ann = device.agree("Ann", "enrol")
        device.teach(ann)
        data = device.used(ann)
    monkeypatch.setattr(Learner, "round", lambda *_, **__: None)
    bundle("map"), model("map")

    def scenario(each, keys):
        with each.open(keys) as vault:
            Device(vault, house.clock).boot("map")

    seen = []
    for crashed in crashes.every_crash(house, tmp_path / "crashes", scenario):
        with crashed.open() as vault:
            device = Device(vault, house.clock)
            vault.audit_verify()
            old = bool(device.learner.versions(ann))
            assert old is not bool(every(device.learner, ann))
            assert old is ("encoder-changed" not in device.kinds())
            device.boot("old")
            assert device.used(ann) == data
        seen.append(old)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {True, False}


def test_an_export_says_of_which_encoder_each_example_is_and_comes_back_so(device, ann):
    device.boot("both")
    device.teach(ann, "coffee time", 3, turned=True)
    document = Rights(device.learner).export(device.consents.find("Ann"))
    assert {row["encoder"] for row in document["examples"]} == {OLD, NEW}
    device.agree("Ben", "enrol")
    answer = Rights(device.learner).bring(device.consents.find("Ben"), document)
    assert answer["imported"] == 9
    ben = device.consents.find("Ben").profile
    assert [e.origin for e in device.learner.ledger(ben).examples].count(OLD) == 6
    assert [t.name for t in device.in_use()[1].taught] == ["coffee time", NIGHT, LIGHTS]


def test_takes_that_the_map_tears_apart_are_to_be_taught_again():
    known = model("map")
    rows = [span("yes")[0], span("no")[0]]
    taken = [Example(i, "x", "enrolment", "01", 1, "ab", row[None], origin=OLD) for i, row in enumerate(rows)]
    z = [known.space.features((e.spans @ encoders.rotation().T)[0, 1:17][None])[0] for e in taken]
    assert z[0] @ z[1] < ALIKE
    logits = np.zeros((2, len(known.classes)), np.float32)
    assert {v.check for v in admit(known, Ledger("aa", tuple(taken)), z, logits)} == {8}
    spoken = tuple(replace(e, origin="") for e in taken)
    assert {v.check for v in admit(known, Ledger("aa", spoken), z, logits)} == {0}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 65504.0), st.integers(1, 5))
def test_a_mapped_example_is_a_record_like_any_other(seed, scale, copies):
    rng = np.random.default_rng(seed)
    spans = (rng.uniform(-scale, scale, (copies, 18, 96))).astype(np.float16).astype(np.float32)
    example = Example(7, "x", "enrolment", "01", 20_000, "ab" * 32, spans)
    matrix, offset = rng.standard_normal((96, 96)).astype(np.float32), rng.standard_normal(96).astype(np.float32)
    mapping = EmbeddingMap(matrix, offset, "d" * 64)
    mapped = mapping.carried(example, OLD)
    assert np.isfinite(mapped.spans).all()
    again = ledger.decode(mapped.encode())
    np.testing.assert_array_equal(again.spans, mapped.spans)
    assert (again.origin, replace(again, spans=spans, origin="").encode()) == (OLD, example.encode())
    np.testing.assert_array_equal(mapping(spans[0]), mapped.spans[0])  # cut up in any way, the same
    turned = mapping(spans[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(turned, mapped.spans)
