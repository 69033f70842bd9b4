"""Provisioning, measured start, slots of the minimum version, proofs: on a real TPM 2.0 in software."""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import closing
from dataclasses import replace

import pytest

from idiolect.errors import KeystoreError, RequestError
from idiolect.trust.device.attestation import AttestationError
from idiolect.trust.device.documents import verify_attestation, verify_audit
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.policy_key import PolicyKeyReplacement
from idiolect.trust.device.provisioning import KEYFILE, Provisioning, factory_reset, fleet_record, read_record
from idiolect.trust.device.tpm import Tpm
from idiolect.trust.device.tpm_keystore import MINIMUM, SLOTS
from tests.support import bundles
from tests.support.devices import TestDevice, contents, model_of, needs_tpm, policy_pem, remember

pytestmark = needs_tpm
NONCE = bytes(range(32))


@pytest.fixture
def device(tmp_path, tpm):
    made = TestDevice(tmp_path, tpm)
    made.provision()
    return made


def test_a_signed_bundle_gets_the_keys_at_every_start_of_a_boot_and_after_the_next(device, tpm):
    bundle = bundles.signed()
    for _ in range(3):
        view = device.view(bundle)
        assert view.released, view
        assert view.protected
        assert view.detail == "released (PCR 14 matches bundle test v1)"
    tpm.power_cycle()
    assert device.view(bundle).released


def test_another_model_gets_no_keys_and_the_next_boot_gives_them_to_the_right_one(device, tpm):
    other = bundles.sign(bundles.builtin(), version=7, policy=("stranger",))
    view = device.view(other)
    assert (view.state, view.released) == ("refused", False)
    assert "no approval of this bundle fits this boot" in view.detail
    assert device.view(bundles.signed()).released  # nothing was extended: the boot is still good


def test_a_to_b_in_one_boot_without_sealing_anew_and_not_back(device, tpm):
    a, b = bundles.signed(1), bundles.signed(2, after=(1,))
    sealed = read_record(device.state).sealed
    assert device.view(a).released
    assert device.view(b).detail == "released (PCR 14 matches bundle test v2)"
    assert device.view(b).released
    view = device.view(a)
    assert (view.state, view.fix[:6]) == ("refused", "reboot")
    assert read_record(device.state).sealed == sealed
    tpm.power_cycle()
    assert device.view(a).released  # until b is marked good


def test_marked_good_no_older_bundle_gets_keys_again_in_any_boot(device, tpm):
    a, b = bundles.signed(1), bundles.signed(2, after=(1,))
    with device.boot(b) as custody:
        assert custody.mark_good() == {"minimum": 2}
        assert custody.mark_good() == {"minimum": 2}
    tpm.power_cycle()
    view = device.view(a)
    assert view.detail == "refused (4): the bundle has version 1, this device asks for 2 or later"
    assert device.view(b).released  # a was refused before it was measured


def test_a_fall_back_never_extends_and_never_gets_keys(device, tpm):
    bundle = bundles.signed()
    view = device.view(bundle, fallback="the current bundle: bundle file x: refused (6)")
    assert view.state == "fallback"
    assert "reboot to release keys" in view.fix
    with Tpm(tpm.tcti) as chip:
        assert chip.read_pcr(14) == bytes(32)
    with device.boot(bundle, fallback="because") as custody, pytest.raises(RequestError):
        custody.mark_good()


def test_provisioning_twice_changes_nothing(device):
    before = {p.name: p.read_bytes() for p in device.state.iterdir()}
    job = device.provision()
    assert [step.title for step in job.steps()] == ["check"]
    assert {p.name: p.read_bytes() for p in device.state.iterdir()} == before
    assert device.view(bundles.signed()).released


def test_provisioning_explains_itself_and_pins_what_the_fleet_needs(tmp_path, tpm):
    made = TestDevice(tmp_path, tpm)
    job = Provisioning(made.config, policy_key=policy_pem())
    said = [(step.title, step.why, step.run()) for step in job.steps()]
    assert [title for title, _, _ in said] == [
        *("record", "tpm", "storage key", "attestation key", "seal", "nv", "vault", "done")
    ]
    assert all(len(why) > 30 and done for _, why, done in said)
    record = fleet_record(job.device)
    assert json.dumps(record).count("BEGIN PUBLIC KEY") == 2
    assert len(record["policy_keys"]) == 1
    for path in made.state.iterdir():
        public = path.name == "device.json"
        assert stat.S_IMODE(path.stat().st_mode) == (0o644 if public else 0o600), path


def test_hierarchies_are_left_as_found(device, tpm):
    with Tpm(tpm.tcti) as chip:
        found = chip.properties()
    assert (found.owner_auth, found.endorsement_auth, found.in_lockout) == (False, False, False)


def test_a_hierarchy_with_an_auth_value_asks_for_it_and_does_not_keep_it(tmp_path, tpm):
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    with ESAPI(tpm.tcti) as esys:
        esys.hierarchy_change_auth(ESYS_TR.OWNER, b"owner-password")
        esys.hierarchy_change_auth(ESYS_TR.ENDORSEMENT, b"endorsement-password")
    made = TestDevice(tmp_path, tpm)
    with pytest.raises(KeystoreError, match="owner hierarchy has an auth value") as refusal:
        made.provision()
    assert "--owner-auth-file" in refusal.value.fix
    made.provision(owner=b"owner-password", endorsement=b"endorsement-password")
    assert made.view(bundles.signed()).released  # which asks for neither
    assert not any(b"password" in p.read_bytes() for p in made.state.iterdir())


def test_without_a_policy_key_or_with_traces_of_a_lost_record_it_refuses(tmp_path, tpm, device):
    fresh = TestDevice(tmp_path / "fresh", tpm)
    with pytest.raises(KeystoreError, match=f"NV index 0x{SLOTS[0]:08x}"):
        fresh.provision()
    with pytest.raises(KeystoreError, match="another policy key"):
        device.provision(policy="other")
    factory_reset(fresh.config)
    with pytest.raises(KeystoreError, match="who approves models"):
        list(Provisioning(fresh.config).steps())


def test_factory_reset_needs_no_keys_and_leaves_the_chip_and_the_disk_as_before(device, tpm):
    device.view(bundles.signed(policy="policy"))
    (device.state / "vault.db").write_bytes(b"not a vault any more")
    removed = factory_reset(device.config)
    assert len(removed) == 7
    assert list(device.state.iterdir()) == []
    with Tpm(tpm.tcti) as chip:
        assert not any(chip.exists(index) for index in (*SLOTS, MINIMUM))
    assert factory_reset(device.config) == []
    device.provision()
    tpm.power_cycle()
    assert device.view(bundles.signed()).released


def test_the_policy_key_is_replaced_without_losing_the_vault(device, tpm):
    both = bundles.sign(bundles.builtin(), version=2, name="test", policy=("policy", "next"))
    only_next = bundles.sign(bundles.builtin(), version=3, name="test", policy=("next",))
    with device.boot(both) as custody:
        before = custody.audit_verify()["count"]
    replacement = PolicyKeyReplacement(device.config, read_record(device.state), model_of(both), policy_pem("next"))
    for step in replacement.steps():
        assert step.run()
    tpm.power_cycle()
    with device.boot(only_next) as custody:
        assert custody.view.released, custody.view
        assert custody.audit_verify()["count"] > before  # the same log goes on
    tpm.power_cycle()
    view = device.view(bundles.signed(1))
    assert (view.state, "no approval" in view.detail) == ("refused", True)


def test_a_policy_key_is_not_replaced_where_the_next_start_would_be_without_keys(device):
    bundle = bundles.signed(1)
    replacement = PolicyKeyReplacement(device.config, read_record(device.state), model_of(bundle), policy_pem("next"))
    with pytest.raises(KeystoreError, match="no approval by the new policy key"):
        next(iter(replacement.steps())).run()
    assert device.view(bundle).released


def test_an_attestation_convinces_somebody_with_nothing_but_the_pinned_key(device, tpm):
    bundle, ak = bundles.signed(), read_record(device.state).ak
    with device.boot(bundle) as custody:
        document = json.dumps(custody.attest(NONCE)).encode()
    found = verify_attestation(document, ak, NONCE)
    assert found["bundle"] == {"name": "test", "version": 1, "digest": bundle.digest}
    with pytest.raises(AttestationError, match=r"refused \(4\)"):
        verify_attestation(document, ak, NONCE[::-1])
    claims = json.loads(document)
    claims["bundle"]["digest"] = bundles.signed(2, after=(1,)).digest
    with pytest.raises(AttestationError, match=r"refused \(4\)"):
        verify_attestation(json.dumps(claims).encode(), ak, NONCE)


def test_an_upgrade_within_the_boot_is_vouched_for_by_its_approvals_only(device):
    a, b = bundles.signed(1), bundles.signed(2, after=(1,))
    ak = read_record(device.state).ak
    device.view(a)
    with device.boot(b) as custody:
        document = json.dumps(custody.attest(NONCE)).encode()
    with pytest.raises(AttestationError, match=r"refused \(6\)"):
        verify_attestation(document, ak, NONCE)
    assert verify_attestation(document, ak, NONCE, [each.to for each in b.approvals])["pcr"] == 14


def test_without_keys_the_tpm_still_tells_what_was_measured(device, tpm):
    with Tpm(tpm.tcti) as chip:
        chip.extend_pcr(14, b"evil" * 8)
    ak = read_record(device.state).ak
    with device.boot(bundles.signed()) as custody:
        assert not custody.view.released
        document = json.dumps(custody.attest(NONCE)).encode()
    with pytest.raises(AttestationError, match=r"refused \(6\)"):
        verify_attestation(document, ak, NONCE)


def test_an_audit_export_is_quoted_by_the_tpm(device):
    ak = read_record(device.state).ak
    with device.boot(bundles.signed()) as custody:
        export = json.dumps(custody.audit_export(NONCE)).encode()
        kinds = [entry["kind"] for entry in custody.audit(50)["entries"]]
    assert kinds == ["provisioned", "keys-released"]
    summary = verify_audit(export, ak, NONCE)
    assert (summary["count"], summary["quoted"]) == (2, True)


def test_a_tpm_takes_over_from_file_keys_that_nobody_used_and_from_no_others(tmp_path, tpm):
    """A package's first start is with keystore: file; then somebody asks for the TPM."""
    board, first = TestDevice(tmp_path, tpm), bundles.signed()
    by_file = replace(board.config, keystore="file")
    with closing(DeviceKeys(by_file, model_of(first))) as custody:
        assert custody.open().released
    before = contents(board.state)
    with pytest.raises(KeystoreError, match="who approves models"):  # nothing is removed before the rest is known
        [step.run() for step in Provisioning(board.config).steps()]
    assert contents(board.state) == before
    job = Provisioning(board.config, policy_key=policy_pem())
    titles = [(step.title, step.run())[0] for step in job.steps()]
    assert titles[:2] == ["file keys", "record"]
    assert board.view(first).released
    assert not (board.state / KEYFILE).exists()


def test_file_keys_with_somebodys_data_are_not_removed(tmp_path, tpm):
    board, first = TestDevice(tmp_path, tpm), bundles.signed()
    with closing(DeviceKeys(replace(board.config, keystore="file"), model_of(first))) as custody:
        custody.open()
        remember(custody.vault, "1")
    before = contents(board.state)
    with pytest.raises(KeystoreError, match="provisioned with keystore: file"):
        [step.run() for step in Provisioning(board.config, policy_key=policy_pem()).steps()]
    assert contents(board.state) == before


def test_a_file_keystore_provisions_itself_and_says_that_it_protects_nothing(tmp_path):
    made = TestDevice(tmp_path, None)
    bundle = bundles.unsigned(bundles.builtin())
    for _ in range(2):
        view = made.view(bundle)
        assert view.released
        assert not view.protected
        assert "not hardware protected" in view.detail
    with made.boot(bundle) as custody:
        assert custody.audit_export(NONCE)["quote"] is None
        with pytest.raises(RequestError, match="no TPM"):
            custody.attest(NONCE)


def test_listening_does_not_wait_and_keys_come_later(device, tpm):
    """What the service does at its timer: a TPM that was away gives the keys when it is back."""
    tpm.power_off()
    custody = device.custody(bundles.signed())
    assert custody.open().state == "absent"
    assert custody.view.passing
    tpm.power_on()
    assert custody.tend().released
    custody.close()


@pytest.mark.pace
def test_keys_are_there_soon_after_measuring(device, tpm):
    """100 ms is the promise for swtpm on an idle machine; the bench reports the number, this catches a blunder."""
    tpm.power_cycle()
    custody = device.custody(bundles.signed())
    begin = time.perf_counter()
    assert custody.open().released
    assert time.perf_counter() - begin < 1.0
    custody.close()


def test_a_bug_on_the_way_to_the_keys_makes_nobody_deaf(device, monkeypatch):
    """The daemon goes on with the base model; the type of the error is told, its text may quote what it choked on."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    custody = device.custody(bundles.signed())
    monkeypatch.setattr(custody, "_release", broken)
    view = custody.open()
    assert (view.state, "ZeroDivisionError" in view.detail, "secret" in view.detail) == ("failed", True, False)
    monkeypatch.undo()
    assert custody.open().released
    custody.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can provision for somebody else")
@pytest.mark.parametrize("kind", ["tpm", "file"])
def test_what_root_provisions_belongs_to_the_daemons_user(tmp_path, tpm, kind):
    made = TestDevice(tmp_path, tpm if kind == "tpm" else None)
    made.state.mkdir()
    os.chown(made.state, 65534, 65534)
    made.provision()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made.state.iterdir()} == {(65534, 65534)}
    assert made.view(bundles.signed()).released
