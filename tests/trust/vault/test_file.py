"""The vault's file as a whole: where it is made, what it leaves, and what is durable when."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from idiolect.errors import KeystoreError, VaultError
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault import file
from idiolect.trust.vault.file import discard, draft_of, first_state
from idiolect.trust.vault.keystore import Released, Slot
from idiolect.trust.vault.rotation import COST, FULL_CREDIT
from idiolect.trust.vault.secret import Secret
from idiolect.trust.vault.vault import Vault
from tests.support.vaults import House, Keys, furnished


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


@pytest.fixture
def synced(monkeypatch):
    """What each directory held when it was made durable. kill -9 does not show this; a power failure would."""
    found = []
    real = os.fsync

    def noted(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            directory = Path(f"/proc/self/fd/{descriptor}").readlink()
            found.append((directory, sorted(each.name for each in directory.iterdir())))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_a_vault_has_its_name_for_good_when_it_is_made(house, synced):
    keystore, released = FileKeystore.open(house.keyfile)
    path = house.directory / "a" / "b" / "vault.db"
    state = first_state("ab", 2, 0)
    with released.root as root, Secret.random() as m:
        file.place(path, root, Slot(2, m), Keys(keystore), state)
    assert synced[-1] == (path.parent, ["vault.db"])  # no draft either
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_nlink == 1


def test_a_new_vault_goes_by_the_clocks_that_it_was_made_with(house):
    with house.create() as vault:
        assert (vault._ledger.state.counter, vault._ledger.state.high) == (1, house.clock.wall)
        house.clock.wall += 5
        house.clock.steady += 100
        vault.log("put", count=1)
        assert vault.audit_entries(1)[0].time == house.clock.wall
        assert vault._ledger.state.high == house.clock.wall
        assert vault._ledger.state.credit == FULL_CREDIT - COST + 100


def test_what_is_discarded_is_gone_for_good(house, synced):
    furnished(house).close()
    del synced[:]
    open_ = set(Path("/proc/self/fd").iterdir())
    discard(house.path)
    assert set(Path("/proc/self/fd").iterdir()) == open_
    assert synced == [(house.directory, ["keystore.json"])]


def test_a_draft_is_removed_first_and_the_vault_is_not_made_over_a_faster_one(house):
    """Somebody else's vault takes the name while ours is made: it stays, and ours is refused."""
    keystore, released = FileKeystore.open(house.keyfile)
    keys = Keys(keystore, lambda *_: house.path.write_bytes(b"faster"))
    with pytest.raises(VaultError) as refusal:
        Vault.create(house.path, released, keys)
    assert refusal.value.state == "failed"
    assert house.path.read_bytes() == b"faster"
    assert draft_of(house.path).exists()
    discard(house.path)
    assert not draft_of(house.path).exists()


def test_a_vault_that_is_there_keeps_its_keys_when_another_is_asked_for(house):
    """M is replaced first: a refusal that came later would have cost the old vault."""
    furnished(house).close()
    keystore, released = FileKeystore.open(house.keyfile)
    keys = Keys(keystore)
    with pytest.raises(VaultError, match="is not written over") as refusal:
        Vault.create(house.path, released, keys)
    assert (refusal.value.state, keys.writes, len(released.root)) == ("failed", 0, 32)
    house.open().close()


def test_where_there_is_nothing_there_is_nothing_to_discard(tmp_path):
    discard(tmp_path / "none" / "vault.db")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_discarded_is_told_by_its_name(house):
    house.path.mkdir()
    with pytest.raises(VaultError, match=r"vault\.db cannot be used") as refusal:
        discard(house.path)
    assert refusal.value.state == "failed"


def test_without_any_rotating_key_nothing_is_made(house):
    keystore, released = FileKeystore.open(house.keyfile)
    keys = Keys(keystore)
    with pytest.raises(KeystoreError, match="both copies") as refusal:
        Vault.create(house.path, Released(released.root, (None, None)), keys)
    assert refusal.value.state == "damaged"
    assert (house.files(), keys.writes) == ({}, 0)
    for slots in ((None, released.slots[1]), (released.slots[0], None)):  # one is enough
        Vault.create(house.path, Released(Secret(released.root.view), slots), keys).close()
        discard(house.path)


@pytest.mark.parametrize("device", ["Kitchen", "AB", "a" * 65, "ab\n"])
def test_a_device_id_is_hexadecimal_or_nothing_is_made(house, device):
    keystore, released = FileKeystore.open(house.keyfile)
    keys = Keys(keystore)
    with pytest.raises(ValueError, match="hexadecimal"):
        Vault.create(house.path, released, keys, device)
    assert (house.files(), keys.writes) == ({}, 0)
    with Vault.create(house.path, released, keys, "a" * 64) as vault:
        assert vault.device == "a" * 64
