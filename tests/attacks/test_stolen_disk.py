"""A disk that is not where it was: before another TPM, before a cleared one, or an older copy of itself.

What is refused is refused with not a byte written; with the right disk before the right TPM all is as before.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from idiolect.trust.device.identity import RECORD
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.device.provisioning import KEYFILE, VAULT, read_record
from idiolect.trust.device.tpm_keystore import TpmKeystore
from idiolect.trust.vault import roots
from idiolect.trust.vault.envelope import Unopened
from idiolect.trust.vault.opening import Wrap
from tests.support import bundles
from tests.support.devices import TestDevice, contents, erase, forget, needs_tpm, remember, withdraw
from tests.support.swtpm import Swtpm

pytestmark = needs_tpm
WRAPS = "SELECT profile, purpose, generation, receipt, key_generation, box FROM wraps"
EVENTS = [withdraw, lambda vault: forget(vault, "01"), erase]


@pytest.fixture
def other_tpm():
    with Swtpm() as chip:
        yield chip


def made(folder, tpm):
    """A provisioned device with two records."""
    device = TestDevice(folder, tpm)
    if tpm:
        device.provision()
    with device.boot(bundles.signed()) as custody:
        remember(custody.vault, "01")
        remember(custody.vault, "02", b"another voice")
    return device


@pytest.fixture
def device(tmp_path, tpm):
    return made(tmp_path / "device", tpm)


def released(device, bundle):
    """The secrets themselves, as whoever may have them in a good boot gets them."""
    if device.tpm is None:
        return FileKeystore.open(device.state / KEYFILE)[1]
    approvals = bundle.approvals
    record = read_record(device.state)
    return TpmKeystore.open(device.tpm.tcti, record, bytes.fromhex(bundle.digest), approvals, 1)[1]


def opened_wraps(path, secrets):
    """How many wrapped keys of a vault's file the keys of these secrets open, and of how many."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        wraps = [Wrap(*row) for row in connection.execute(WRAPS)]
    opened = 0
    for wrap in wraps:
        for slot in secrets.slots:
            for generation in {wrap.generation, slot.generation}:
                try:
                    wrap.open(roots.kek(secrets.root, slot.secret, generation)).wipe()
                    opened += 1
                except Unopened:
                    pass
    return opened, len(wraps)


def test_before_another_equally_provisioned_tpm(tmp_path, device, other_tpm):
    other = made(tmp_path / "other", other_tpm)
    own = other.image(tmp_path / "own")
    other.restore(device.image(tmp_path / "stolen"))
    other.refused(bundles.signed(), "replaced", "storage root key is not the one")
    other.restore(own)
    assert set(other.opens(bundles.signed())) == {"01", "02"}
    assert set(device.opens(bundles.signed())) == {"01", "02"}


def test_before_a_tpm_that_was_never_provisioned(tmp_path, device, other_tpm):
    other = TestDevice(tmp_path / "other", other_tpm)
    device.image(other.state)
    view = other.refused(bundles.signed(), "replaced", "the TPM is another one, or this disk comes from another device")
    assert "factory-reset" in view.fix
    assert set(device.opens(bundles.signed())) == {"01", "02"}


def test_before_its_own_tpm_after_it_was_cleared(tmp_path, device, tpm):
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    before, disk = tpm.save(tmp_path / "chip"), device.image(tmp_path / "disk")
    with ESAPI(tpm.tcti) as esys:
        esys.clear(ESYS_TR.LOCKOUT)
    for _ in range(2):
        device.refused(bundles.signed(), "cleared", "the TPM was cleared: the keys to what was stored are gone")
        tpm.power_cycle()
    assert contents(device.state) == contents(disk)
    tpm.restore(before)
    assert set(device.opens(bundles.signed())) == {"01", "02"}


def test_an_old_copy_from_since_the_last_rotation_opens_which_is_the_documented_limit(tmp_path, device, tpm):
    image = device.image(tmp_path / "image")
    with device.boot(bundles.signed()) as custody:
        remember(custody.vault, "03")
    device.restore(image)
    assert set(device.opens(bundles.signed())) == {"01", "02"}
    tpm.power_cycle()
    assert set(device.opens(bundles.signed())) == {"01", "02"}


@pytest.mark.parametrize("event", EVENTS, ids=["withdraw", "forget", "erase"])
@pytest.mark.parametrize("kind", ["tpm", "file"])
def test_an_old_copy_from_before_a_rotation_is_refused_and_unreadable(tmp_path, kind, event, tpm):
    device = made(tmp_path / "device", tpm if kind == "tpm" else None)
    bundle = bundles.signed()
    image = device.image(tmp_path / "image")
    assert opened_wraps(image / VAULT, released(device, bundle))[0] > 0  # until then it is readable
    with device.boot(bundle) as custody:
        event(custody.vault)
        assert not custody.vault.owed
    now = device.image(tmp_path / "now")
    shutil.copy(image / VAULT, device.state / VAULT)
    view = device.refused(bundle, "older", "it is from rotation 2, the keys are at 3: an old copy was put back")
    assert "newest copy" in view.fix
    secrets = released(device, bundle)
    assert opened_wraps(image / VAULT, secrets) == (0, 3)
    opened, wraps = opened_wraps(now / VAULT, secrets)
    assert opened >= wraps > 0  # the same check opens what is there now
    device.restore(now)
    assert "01" not in device.opens(bundle)


def test_a_whole_old_disk_is_refused_after_a_rotation_too(tmp_path, device, tpm):
    image = device.image(tmp_path / "image")
    with device.boot(bundles.signed()) as custody:
        withdraw(custody.vault)
    now = device.image(tmp_path / "now")
    device.restore(image)
    device.refused(bundles.signed(), "older", "an old copy was put back")
    tpm.power_cycle()
    device.refused(bundles.signed(), "older", "an old copy was put back")
    device.restore(now)
    assert device.opens(bundles.signed()) == {}


def test_a_whole_old_disk_from_before_the_policy_key_was_replaced(tmp_path, device, tpm):
    """Even for who holds the old policy key: S is released by the old copy, M no more."""
    both = bundles.sign(bundles.builtin(), version=2, name="test", policy=("policy", "next"))
    image = device.image(tmp_path / "image")
    tpm.power_cycle()
    device.replace_policy_key(both)
    now = device.image(tmp_path / "now")
    device.restore(image)
    tpm.power_cycle()
    for bundle in (both, bundles.signed(1)):
        device.refused(bundle, "older", "neither NV slot is as this disk remembers it")
        tpm.power_cycle()
    device.restore(now)
    assert set(device.opens(both)) == {"01", "02"}


def test_anothers_record_before_this_tpm(tmp_path, device, other_tpm):
    other = made(tmp_path / "other", other_tpm)
    own = (device.state / RECORD).read_bytes()
    (device.state / RECORD).write_bytes((other.state / RECORD).read_bytes())
    device.refused(bundles.signed(), "replaced", "storage root key is not the one")
    (device.state / RECORD).write_bytes(own)
    assert set(device.opens(bundles.signed())) == {"01", "02"}


@pytest.mark.parametrize("kind", ["tpm", "file"])
def test_anothers_vault_under_these_keys(tmp_path, kind, tpm, other_tpm):
    device = made(tmp_path / "device", tpm if kind == "tpm" else None)
    other = made(tmp_path / "other", other_tpm if kind == "tpm" else None)
    own = (device.state / VAULT).read_bytes()
    (device.state / VAULT).write_bytes((other.state / VAULT).read_bytes())
    device.refused(bundles.signed(), "foreign", "vault refused (6): it is another device's")
    (device.state / VAULT).write_bytes(own)
    assert set(device.opens(bundles.signed())) == {"01", "02"}


def test_with_keys_in_a_file_the_whole_old_disk_opens_which_is_why_it_is_for_development(tmp_path):
    device = made(tmp_path / "device", None)
    image = device.image(tmp_path / "image")
    with device.boot(bundles.signed()) as custody:
        withdraw(custody.vault)
    device.restore(image)
    assert set(device.opens(bundles.signed())) == {"01", "02"}


def test_anothers_keystore_file(tmp_path):
    device, other = made(tmp_path / "device", None), made(tmp_path / "other", None)
    own = (device.state / KEYFILE).read_bytes()
    (device.state / KEYFILE).write_bytes((other.state / KEYFILE).read_bytes())
    device.refused(bundles.signed(), "foreign", "the keystore was made anew")
    (device.state / KEYFILE).write_bytes(own)
    assert set(device.opens(bundles.signed())) == {"01", "02"}
