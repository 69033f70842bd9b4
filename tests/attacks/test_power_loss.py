"""The power goes, or our process is killed, at every TPM operation of whatever changes something.

Afterwards the device must start with keys, an intact audit log, and everything that a call had reported as done.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from idiolect.errors import KeystoreError
from idiolect.trust.device.policy_key import PolicyKeyReplacement
from idiolect.trust.device.provisioning import Provisioning, factory_reset, read_record
from tests.support import bundles
from tests.support.devices import TestDevice, forget, model_of, needs_tpm, policy_pem, recall, remember
from tests.support.faults import Scene

pytestmark = needs_tpm
either = pytest.mark.parametrize("kind", ["power", "process"])
KILL_NINE = Path(__file__).parents[2] / "scripts" / "torture" / "kill_nine.py"


@pytest.fixture
def device(tmp_path, tpm):
    return TestDevice(tmp_path, tpm)


@pytest.fixture
def scene(tmp_path, device, tpm):
    """A provisioned device with two records, just switched on."""
    device.provision()
    with device.boot(bundles.signed()) as custody:
        remember(custody.vault, "01")
        remember(custody.vault, "02", b"another voice")
    return Scene.of(device, tpm, tmp_path)


def opened(device, bundle, *, at_rest=True):
    """Start with keys: the audit log is whole, and at rest no rotation is owed or in course. The records' ids."""
    with device.boot(bundle) as custody:
        assert custody.view.released, custody.view
        assert custody.audit_verify()["count"]
        assert not at_rest or (custody.vault.owed, custody.vault.trouble) == (False, None)
        return set(recall(custody.vault))


@either
def test_in_provisioning(tmp_path, device, tpm, kind):
    scene, bundle = Scene.of(device, tpm, tmp_path), bundles.signed()
    states = set()

    def work(returned):
        device.provision()
        returned()

    for returned in scene.faults(kind, work):
        view = device.view(bundle)
        states.add(view.state)
        assert view.state == ("released" if returned else "unprovisioned"), view
        steps = [step for step in Provisioning(device.config, policy_key=policy_pem()).steps() if step.run()]
        assert (len(steps) == 1) == returned
        assert opened(device, bundle) == set()
    assert states == {"released", "unprovisioned"}


@either
def test_in_a_factory_reset(device, scene, kind):
    bundle, states = bundles.signed(), set()

    def work(returned):
        factory_reset(device.config)
        returned()

    for _ in scene.faults(kind, work):
        states.add(device.view(bundle).state)
        factory_reset(device.config)
        assert [p.name for p in device.state.iterdir()] == []
        device.provision()
        assert opened(device, bundle) == set()
    assert states == {"released", "older", "cleared", "unprovisioned"}


@either
def test_in_a_rotation(device, scene, kind):
    bundle, seen = bundles.signed(), set()

    def work(returned):
        with device.boot(bundle) as custody:
            if custody.view.released:
                forget(custody.vault, "01")
                returned()
                remember(custody.vault, "03")

    for returned in scene.faults(kind, work):
        kept = opened(device, bundle)
        seen.add((returned, frozenset(kept)))
        assert "02" in kept
        assert not (returned and "01" in kept)
    assert {(False, frozenset({"01", "02"})), (True, frozenset({"02", "03"}))} <= seen


@either
def test_in_the_measurement_of_a_first_boot_and_of_an_upgrade_within_it(device, scene, tpm, kind):
    a, b = bundles.signed(1), bundles.signed(2, after=(1,))

    def work(returned):
        with device.boot(b) as custody:
            if custody.view.released:
                returned()

    for prepare in (lambda: None, lambda: device.view(a)):
        for _ in scene.faults(kind, work, prepare):
            assert opened(device, b) == {"01", "02"}
        tpm.power_cycle()
        assert opened(device, a) == {"01", "02"}  # until b is marked good


@either
def test_in_marking_a_bundle_good(device, scene, tpm, kind):
    a, b = bundles.signed(1), bundles.signed(2, after=(1,))

    def work(returned):
        with device.boot(b) as custody:
            if custody.view.released:
                custody.mark_good()
                returned()

    seen = set()
    for returned in scene.faults(kind, work):
        assert opened(device, b) == {"01", "02"}
        tpm.power_cycle()
        view = device.view(a)
        seen.add((returned, view.released))
        assert view.released or "refused (4)" in view.detail
    assert (True, True) not in seen
    assert {(True, False), (False, True)} <= seen


@either
def test_in_the_replacement_of_the_policy_key(device, scene, tpm, kind):
    both = bundles.sign(bundles.builtin(), version=2, name="test", policy=("policy", "next"))
    only_next = bundles.sign(bundles.builtin(), version=3, name="test", policy=("next",))

    def work(returned):
        device.replace_policy_key(both)
        returned()

    sealed = set()
    for returned in scene.faults(kind, work):
        sealed.add(len(read_record(device.state).sealed))
        # A slot may be missing: the rotation that mends it waits until the replacement is finished.
        assert opened(device, both, at_rest=returned) == {"01", "02"}
        if not returned:
            device.replace_policy_key(both)
        tpm.power_cycle()
        assert opened(device, only_next) == {"01", "02"}
    assert sealed == {1, 2}


def test_a_third_policy_key_has_to_wait_until_the_replacement_by_a_second_is_finished(device, scene, tpm):
    """Both slots may be under the second already: to drop its copy of S would lose them."""
    three = bundles.sign(bundles.builtin(), version=2, name="test", policy=("policy", "next", "third"))
    scene.begin()
    job = PolicyKeyReplacement(device.config, read_record(device.state), model_of(three), policy_pem("next"))
    for step in job.steps():
        if step.title == "done":
            break  # here the power goes
        step.run()
    tpm.power_cycle()
    with pytest.raises(KeystoreError, match="another replacement of the policy key is under way"):
        device.replace_policy_key(three, "third")
    assert opened(device, three) == {"01", "02"}
    device.replace_policy_key(three, "next")
    device.replace_policy_key(three, "third")
    tpm.power_cycle()
    assert opened(device, three) == {"01", "02"}


def test_a_sample_of_the_torture_loses_nothing(tmp_path):
    """Forty kills at random instants; `scripts/torture/kill_nine.py` makes thousands."""
    report = tmp_path / "report.json"
    command = [sys.executable, str(KILL_NINE), "--points", "40", "--seconds", "20", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(report.read_text())
    assert (done.returncode, found["losses"]) == (0, []), found
    assert found["points"] >= 10
    assert found["points"] == sum(found["kills"].values()) == sum(found["phases"].values())
    assert found["rotations"] > 5
