"""What the scheme does not stop, written down as a test: who is root after a good measurement has all that we have.

And where it ends: once the PCR was extended by anything, he has nothing more than the disk.
"""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing

import pytest

from idiolect.trust.bundle.approvals import POLICY_REF
from idiolect.trust.device import tpm_keystore as scheme
from idiolect.trust.device.provisioning import VAULT, Provisioning, factory_reset, read_record
from idiolect.trust.device.tpm import Tpm
from idiolect.trust.device.tpm_answers import TpmError
from idiolect.trust.device.tpm_values import Authorization, Sealed
from idiolect.trust.vault import envelope, roots
from idiolect.trust.vault.opening import Wrap
from idiolect.trust.vault.secret import Secret
from tests.support import bundles
from tests.support.devices import KIND, PROFILE, PURPOSE, TestDevice, needs_tpm, policy_pem, remember

pytestmark = needs_tpm
VOICE = b"what the vault keeps about somebody"


@pytest.fixture
def device(tmp_path, tpm):
    made = TestDevice(tmp_path, tpm)
    made.provision()
    with made.boot(bundles.signed()) as custody:
        assert custody.view.released, custody.view
        remember(custody.vault, "01", VOICE)
    return made


def taken(device, tpm):
    """S and M by the TPM alone, with what lies on the disk and in the bundle: none of our program's checks."""
    bundle, record = bundles.signed(), read_record(device.state)
    (sealed,), (approval,) = record.sealed, bundle.approvals
    how = Authorization(sealed.policy_key, approval, POLICY_REF)
    with Tpm(tpm.tcti) as chip:
        chip.trust_storage_key(scheme.STORAGE_KEY, None)
        root = Secret(chip.unseal(Sealed(sealed.public, sealed.private), how))
        auth = envelope.derive(root, scheme.WRITE_LABEL)
        content = chip.read(scheme.SLOTS[1], scheme.SLOT_BYTES, how, auth)
    (generation,) = struct.unpack_from(">Q", content)
    return root, generation, Secret(content[8:])


def read_by_hand(device, root, generation, m):
    """The record, straight from SQLite."""
    with closing(sqlite3.connect(f"file:{device.state / VAULT}?mode=ro&immutable=1", uri=True)) as connection:
        wraps = connection.execute(
            "SELECT profile, purpose, generation, receipt, key_generation, box FROM wraps WHERE profile = ?", (PROFILE,)
        )
        (wrap,) = (Wrap(*row) for row in wraps)
        encoder, key_generation, expires, box = connection.execute(
            "SELECT encoder, key_generation, expires, box FROM records WHERE profile = ?", (PROFILE,)
        ).fetchone()
    place = roots.record_aad(PROFILE, (PURPOSE, KIND, "01"), encoder, key_generation, expires)
    with roots.kek(root, m, generation) as kek, wrap.open(kek) as key:
        return envelope.open_(key, box, place)


def test_root_in_a_good_boot_has_the_keys_a_documented_limit(device, tpm):
    assert read_by_hand(device, *taken(device, tpm)) == VOICE


def test_root_after_any_further_extension_has_not(device, tpm):
    with Tpm(tpm.tcti) as chip:
        chip.extend_pcr(14, b"anything at all.................")
    with pytest.raises(TpmError, match="what this boot measured is not what the integrator approved") as refusal:
        taken(device, tpm)
    assert refusal.value.state == "refused"
    with pytest.raises(envelope.Unopened):  # nor does what he may have guessed open anything
        read_by_hand(device, Secret.random(), 2, Secret.random())
    tpm.power_cycle()
    assert device.opens(bundles.signed()) == {"01": VOICE}


def test_root_before_the_measurement_can_make_it_himself_a_documented_limit(device, tpm):
    """The PCR says what was measured, and whoever measures first may say it: here without our program."""
    tpm.power_cycle()
    with pytest.raises(TpmError, match="not what the integrator approved"):
        taken(device, tpm)
    with Tpm(tpm.tcti) as chip:
        chip.extend_pcr(14, bytes.fromhex(bundles.signed().digest))
    assert read_by_hand(device, *taken(device, tpm)) == VOICE


def test_who_provisions_anew_knows_the_new_secrets_a_documented_limit(device, tpm):
    """With an empty owner auth, root can reset and provision with secrets that he has kept, before anybody speaks.

    He learns nothing of what was stored. Who compares with the fleet's records sees another device and adapter key;
    the attestation key stays the same.
    """
    before = read_record(device.state)
    factory_reset(device.config)
    job = Provisioning(device.config, policy_key=policy_pem())
    known = bytes(job._root.view)
    for step in job.steps():
        step.run()
    assert device.opens(bundles.signed()) == {}
    with device.boot(bundles.signed()) as custody:
        remember(custody.vault, "01", VOICE)
    root, generation, m = taken(device, tpm)
    assert bytes(root.view) == known
    assert read_by_hand(device, root, generation, m) == VOICE
    now = read_record(device.state)
    assert now.ak == before.ak
    assert (now.device != before.device, now.adapter_key != before.adapter_key) == (True, True)
