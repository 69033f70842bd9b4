"""Keys or vault out of reach: the base model serves on, nothing is written over, a sentence says what and what next.

And when the cause is gone, all is as before.
"""

from __future__ import annotations

import json
import random
import subprocess
from contextlib import closing
from itertools import repeat

import pytest

from idiolect.errors import TrustError, VaultError
from idiolect.trust.device.identity import RECORD
from idiolect.trust.device.keys import sentence
from idiolect.trust.device.provisioning import KEYFILE, VAULT
from tests.support import bundles
from tests.support.devices import TestDevice, contents, forget, needs_tpm, recall, remember

BOTH = {"01", "02"}


def furnished(made):
    """With two records."""
    if made.tpm:
        made.provision()
    with made.boot(bundles.signed()) as custody:
        remember(custody.vault, "01")
        remember(custody.vault, "02")
    return made


@pytest.fixture
def device(tmp_path, tpm):
    return furnished(TestDevice(tmp_path, tpm))


@pytest.fixture
def filed(tmp_path):
    """The same with its keys in a file."""
    return furnished(TestDevice(tmp_path, None))


def refused(made, state, telling):
    """A start that stores nothing, and says so in one sentence with a next step, on one line."""
    view = made.refused(bundles.signed(), state, telling)
    told = sentence(view)
    assert told.startswith(f"{state}: ")
    assert told.endswith(view.fix)
    assert not set("\n\t") & set(told)
    assert "Traceback" not in told
    with closing(made.custody(bundles.signed())) as custody:
        custody.open()
        with pytest.raises(VaultError, match="the vault is closed"):
            custody.vault.profiles()
    return view


# -- the TPM ----------------------------------------------------------------------------------------------------------


def test_a_tpm_that_is_away_is_waited_for(device, tpm):
    tpm.power_off()
    view = refused(device, "absent", "the TPM cannot be reached")
    assert view.passing
    custody = device.custody(bundles.signed())
    assert custody.open().state == "absent"
    tpm.power_on()
    assert custody.tend().released
    assert set(recall(custody.vault)) == BOTH
    custody.close()


def test_a_tpm_that_goes_away_under_an_open_vault_costs_no_event(device, tpm):
    """What was withdrawn is withdrawn; its rotation is owed, and done when the TPM is back."""
    with device.boot(bundles.signed()) as custody:
        tpm.power_off()
        forget(custody.vault, "01")
        assert set(recall(custody.vault)) == {"02"}
        assert (custody.vault.owed, custody.vault.trouble.state) == (True, "absent")
        remember(custody.vault, "03")
        custody.tend()
        assert custody.vault.owed
        with pytest.raises(TrustError) as refusal:
            custody.mark_good()
        assert refusal.value.state == "absent"
        tpm.power_on()
        custody.tend()
        assert (custody.vault.owed, custody.vault.trouble) == (False, None)
    assert set(device.opens(bundles.signed())) == {"02", "03"}


def test_a_socket_that_is_no_tpm(device, tpm, tmp_path):
    tpm.power_off()
    (tpm.folder / "tpm").unlink(missing_ok=True)
    (tpm.folder / "tpm").write_bytes(b"")
    refused(device, "absent", "the TPM cannot be reached")
    tpm.power_on()
    assert set(device.opens(bundles.signed())) == BOTH


# -- the record and the keystore's file -------------------------------------------------------------------------------


def edited(change):
    """device.json with its fields changed, in canonical form."""

    def damage(raw):
        fields = json.loads(raw)
        change(fields)
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    return damage


def no_pem(fields):
    fields["sealed"][0]["policy_key"] = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"


def no_ak(fields):
    fields["ak"] = "no key"


def other_storage_key(fields):
    fields["srk"] = "000b" + "00" * 32


def short_blob(fields):
    fields["sealed"][0]["private"] = "00" * 7


def no_blob(fields):
    fields["sealed"][0]["private"] = ""


def changed_blob(fields):
    private = fields["sealed"][0]["private"]
    fields["sealed"][0]["private"] = private[:-2] + f"{int(private[-2:], 16) ^ 1:02x}"


def nothing_sealed(fields):
    fields["sealed"] = []


DAMAGES = {
    "empty": (lambda _: b"", "damaged"),
    "cut": (lambda raw: raw[: len(raw) // 2], "damaged"),
    "noise": (lambda _: bytes(range(256)), "damaged"),
    "huge": (lambda raw: raw + b" " * (64 << 10), "damaged"),
    "policy key": (edited(no_pem), "damaged"),
    "attestation key": (edited(no_ak), "damaged"),
    "later schema": (edited(lambda fields: fields.update(schema=2)), "damaged"),
    "storage key": (edited(other_storage_key), "replaced"),
    "short blob": (edited(short_blob), "damaged"),
    "no blob": (edited(no_blob), "damaged"),
    "changed blob": (edited(changed_blob), "replaced"),
    "nothing sealed": (edited(nothing_sealed), "refused"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_record(device, name):
    damage, state = DAMAGES[name]
    record = device.state / RECORD
    good = record.read_bytes()
    record.write_bytes(damage(good))
    refused(device, state, "")
    record.write_bytes(good)
    assert set(device.opens(bundles.signed())) == BOTH


@needs_tpm
def test_a_lost_record_is_not_made_anew(device):
    record = device.state / RECORD
    good = record.read_bytes()
    record.unlink()
    refused(device, "unprovisioned", "this device is not provisioned: there are no keys yet")
    with pytest.raises(TrustError, match=r"device\.json is missing, but there is vault.db"):
        device.provision()
    record.write_bytes(good)
    assert set(device.opens(bundles.signed())) == BOTH


def test_a_lost_record_with_keys_in_a_file_is_not_made_anew_either(filed):
    record = filed.state / RECORD
    good = record.read_bytes()
    record.unlink()
    refused(filed, "refused", "device.json is missing, but there is vault.db, keystore.json")
    record.write_bytes(good)
    assert set(filed.opens(bundles.signed())) == BOTH


def test_a_lost_or_damaged_keystore_file(filed):
    keys = filed.state / KEYFILE
    good = keys.read_bytes()
    for damage, state in ((good[:-9], "damaged"), (b"{}", "damaged"), (good + b" " * 8192, "damaged")):
        keys.write_bytes(damage)
        refused(filed, state, "keystore.json")
    keys.unlink()
    refused(filed, "absent", "there is no keystore.json")
    keys.write_bytes(good)
    keys.chmod(0o644)
    refused(filed, "failed", "keystore.json may be read by others (mode 0644)")
    keys.chmod(0o600)
    assert set(filed.opens(bundles.signed())) == BOTH


def test_the_configuration_asks_for_another_keystore(filed, tpm):
    other = TestDevice(filed.state.parent, tpm)
    refused(other, "refused", "the configuration asks for keystore: tpm, the device has keystore: file")
    assert set(filed.opens(bundles.signed())) == BOTH


# -- the vault --------------------------------------------------------------------------------------------------------


VAULTS = {
    "empty": (lambda _: b"", "damaged", "vault.db is no vault"),
    "half": (lambda raw: raw[: len(raw) // 2], "damaged", "vault.db is cut short"),
    "longer": (lambda raw: raw + bytes(4096), "damaged", "vault.db is cut short or damaged"),
    "text": (lambda _: b"not a database" * 500, "damaged", "vault.db is no vault"),
    "zeros": (lambda raw: bytes(len(raw)), "damaged", "vault.db is no vault"),
    "future": (lambda raw: raw[:60] + (99).to_bytes(4, "big") + raw[64:], "newer", "a newer version (schema 99)"),
    "other program": (lambda raw: raw[:68] + b"Gimp" + raw[72:], "foreign", "belongs to another program"),
}


@pytest.mark.parametrize("kind", ["tpm", "file"])
@pytest.mark.parametrize("name", VAULTS)
def test_a_vault_that_is_none_is_left_as_it_is(request, kind, name):
    made = request.getfixturevalue("device" if kind == "tpm" else "filed")
    damage, state, telling = VAULTS[name]
    vault = made.state / VAULT
    good = vault.read_bytes()
    vault.write_bytes(damage(good))
    view = refused(made, state, telling)
    assert not view.passing  # it is not tried again by itself
    vault.write_bytes(good)
    assert set(made.opens(bundles.signed())) == BOTH


def test_a_lost_vault_is_not_made_anew(device):
    vault = device.state / VAULT
    good = vault.read_bytes()
    vault.unlink()
    refused(device, "absent", "there is no vault.db")
    vault.write_bytes(good)
    vault.chmod(0o600)
    assert set(device.opens(bundles.signed())) == BOTH


def test_one_bit_anywhere_in_the_vault_is_refused_or_lies_where_nothing_is(filed):
    """Never anything else than what was written, and never a byte of it changed."""
    vault, chance = filed.state / VAULT, random.Random(7)
    good = vault.read_bytes()
    found = []
    for _ in range(60):
        at = chance.randrange(len(good))
        vault.write_bytes(good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :])
        before = contents(filed.state)
        with filed.boot(bundles.signed()) as custody:
            found.append(custody.view.state)
            if custody.view.released:
                try:
                    assert recall(custody.vault) == {"01": b"a voice", "02": b"a voice"}
                except VaultError as error:  # a payload is checked when it is read
                    found[-1] = error.state
                continue
        assert custody.view.fix
        assert contents(filed.state) == before
    assert set(found) <= {"released", "damaged", "foreign", "newer"}
    assert found.count("damaged") > 3
    vault.write_bytes(good)
    for side in ("-wal", "-shm"):
        vault.with_name(VAULT + side).unlink(missing_ok=True)
    assert set(filed.opens(bundles.signed())) == BOTH


# -- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1 MiB: (mount point, remount)."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield mount, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(mount)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(folder):
    """Leave no byte."""
    with (folder / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        file.writelines(repeat(bytes(4096)))


@pytest.mark.parametrize("kind", ["tpm", "file"])
def test_a_full_disk_stores_nothing_and_loses_nothing(small_disk, request, kind):
    disk, _ = small_disk
    made = furnished(TestDevice(disk, request.getfixturevalue("tpm") if kind == "tpm" else None))
    bundle = bundles.signed()
    with made.boot(bundle) as custody:
        fill(disk)
        with pytest.raises(VaultError) as refusal:
            remember(custody.vault, "03", bytes(100_000))
        assert (refusal.value.state, "disk is full" in str(refusal.value)) == ("full", True)
        assert set(recall(custody.vault)) == BOTH
        (disk / "filler").unlink()
        remember(custody.vault, "03", bytes(100_000))
    fill(disk)
    custody = made.custody(bundle)
    view = custody.open()
    assert (view.state, view.passing, bool(view.fix)) == ("full", True, True), view
    with pytest.raises(VaultError, match="the vault is closed"):
        custody.vault.profiles()
    (disk / "filler").unlink()
    assert custody.tend().released
    assert set(recall(custody.vault)) == BOTH | {"03"}
    custody.close()


@pytest.mark.parametrize("kind", ["tpm", "file"])
def test_a_read_only_disk_stores_nothing_and_loses_nothing(small_disk, request, kind):
    disk, remount = small_disk
    made = furnished(TestDevice(disk, request.getfixturevalue("tpm") if kind == "tpm" else None))
    remount("ro")
    view = refused(made, "readonly", "cannot be")
    assert view.passing
    custody = made.custody(bundles.signed())
    assert custody.open().state == "readonly"
    remount("rw")
    assert custody.tend().released
    assert set(recall(custody.vault)) == BOTH
    custody.close()


def test_a_first_start_on_a_read_only_disk(small_disk):
    disk, remount = small_disk
    remount("ro")
    made = TestDevice(disk, None)
    view = made.view(bundles.signed())
    assert (view.released, view.passing, bool(view.fix)) == (False, True, True), view
    remount("rw")
    assert made.view(bundles.signed()).released


def test_a_read_only_disk_with_a_crash_behind_it(small_disk, tmp_path):
    """Changes lie in the WAL, which cannot be taken in: nothing is lost all the same."""
    disk, remount = small_disk
    made = furnished(TestDevice(disk, None))
    with made.boot(bundles.signed()) as custody:
        remember(custody.vault, "03")
        crashed = made.image(tmp_path / "crashed")
    made.restore(crashed)
    assert (made.state / f"{VAULT}-wal").stat().st_size
    remount("ro")
    refused(made, "readonly", "cannot be")
    remount("rw")
    assert set(made.opens(bundles.signed())) == BOTH | {"03"}
