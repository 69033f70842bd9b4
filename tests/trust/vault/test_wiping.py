"""No key outlives its use: whatever is made while a vault is used, refused or fails is wiped at the end."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from idiolect.errors import TrustError, VaultError
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault import vault as vaults_
from idiolect.trust.vault.keystore import Released, Slot
from idiolect.trust.vault.rotation import Ring
from idiolect.trust.vault.secret import Secret
from idiolect.trust.vault.vault import Vault
from tests.support.vaults import ANN, BEN, DAY, House, Keys, add, furnished, put


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "state")
    furnished(house).close()
    return house


@pytest.fixture
def made(monkeypatch):
    """Every secret that is made."""
    found = []
    real = Secret.__init__

    def noted(self, value):
        found.append(self)
        real(self, value)

    monkeypatch.setattr(Secret, "__init__", noted)
    return found


def left(made, *known):
    """How many are not wiped."""
    return sum(len(secret) > 0 for secret in made if not any(secret is one for one in known))


def test_the_count_itself_sees_one_that_is_forgotten(made):
    first, _ = Secret(b"a"), Secret(b"b")
    first.wipe()
    assert left(made) == 1


def opened(house, keystore, released):
    """As by ``House.open``, but with the keystore in hand, which has secrets of its own."""
    times = {"clock": lambda: house.clock.wall, "monotonic": lambda: house.clock.steady}
    return Vault.open(house.path, released, Keys(keystore), **times)


def use(vault, _):
    add(vault, BEN, "usage", "04")
    put(vault, "77", b"x", BEN, "usage")
    with vault.change("forgot", rotate=True) as change:
        change.delete(ANN, "enrol", "example", "00")
        change.rekey(ANN, "enrol")
        change.rekey(ANN, "enrol")  # the key of a moment ago is in no ledger
    with vault.change("erased", rotate=True) as change:
        change.erase(BEN)


def fail(vault, _):
    with contextlib.suppress(KeyError), vault.change("put", rotate=True) as change:
        change.add_key(BEN, "usage", "04")
        change.rekey(ANN, "enrol")
        change.rekey(ANN, "usage")


def get_stuck(vault, house):
    vault._ring._keystore.out_of_reach = {1}
    use(vault, house)
    assert vault.owed


def get_stuck_and_go_on(vault, house):
    get_stuck(vault, house)
    vault._ring._keystore.out_of_reach = set()
    house.clock.pass_(DAY)
    vault.rotate_if_due()
    assert vault.rotate_if_due()  # the second event owes another


@pytest.mark.parametrize("what", [use, fail, get_stuck, get_stuck_and_go_on, lambda *_: None])
def test_a_vault_that_was_used(house, made, what):
    keystore, released = FileKeystore.open(house.keyfile)
    vault = opened(house, keystore, released)
    what(vault, house)
    vault.close()
    keystore.wipe()
    assert len(made) > 5
    assert left(made) == 0


@pytest.mark.parametrize("what", [use, fail])
def test_while_it_is_open_only_what_it_needs_is_kept(house, made, what):
    """S, the key of the rotation, the vault's own, and one for each purpose."""
    keystore, released = FileKeystore.open(house.keyfile)
    known = list(made)  # the keystore's own
    with opened(house, keystore, released) as vault:
        what(vault, house)
        assert left(made, *known) == 3 + vault.counts().keys


def test_a_rotation_that_was_interrupted(house, made):
    with house.open() as vault:
        vault._ring._keystore.out_of_reach = {1}
        use(vault, house)
    house.clock.pass_(DAY)
    del made[:]
    keystore, released = FileKeystore.open(house.keyfile)
    with opened(house, keystore, released) as vault:
        assert not vault.owed
    keystore.wipe()
    assert left(made) == 0


def test_a_ring_that_is_put_away_in_the_middle_of_a_rotation(made):
    ring = Ring(Secret(b"s" * 32), {1: Secret(b"k" * 32)}, None, {0, 1})
    ring.begin(2)
    assert left(made) == 4
    ring.wipe()
    assert left(made) == 0


def foreign(house, tmp_path):
    other = House(tmp_path / "other")
    other.create().close()
    shutil.copy(other.path, house.path)


def sql(statement):
    return lambda house, _: house.sql(statement)


REFUSED = {
    "another device's": foreign,
    "7": sql("UPDATE meta SET counter = counter + 1"),
    "9": sql("DELETE FROM records WHERE id = '02'"),
    "10": sql("UPDATE wraps SET receipt = 'ff' WHERE profile > 'aaff'"),  # the last: others are open by then
    "11": sql("DELETE FROM audit WHERE seq = 1"),
    "its own key": sql("UPDATE wraps SET box = zeroblob(60) WHERE purpose = 'vault'"),
    "12": lambda *_: None,
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_vault_that_is_refused(house, made, tmp_path, why):
    """All but what the caller had, which stays the caller's."""
    REFUSED[why](house, tmp_path)
    keystore, released = FileKeystore.open(house.keyfile)
    known = list(made)
    with pytest.raises(TrustError):
        Vault.open(house.path, released, Keys(keystore), "ab" if why == "12" else "")
    assert len(made) > len(known)
    assert left(made, *known) == 0
    assert len(released.root) == 32


def test_a_vault_that_is_exchanged_while_it_is_opened(house, made, monkeypatch):
    older = house.path.read_bytes()
    with house.open() as vault:
        put(vault, "e1", b"payload")
    monkeypatch.setattr(vaults_, "remove", lambda _: house.path.write_bytes(older))
    keystore, released = FileKeystore.open(house.keyfile)
    del made[:]
    with pytest.raises(VaultError, match="changed while"):
        opened(house, keystore, released)
    assert made
    assert left(made) == 0


def test_a_vault_that_is_made(tmp_path, made):
    house = House(tmp_path / "new")
    keystore, released = FileKeystore.open(house.keyfile)
    Vault.create(house.path, released, Keys(keystore)).close()
    keystore.wipe()
    assert left(made) == 0


@pytest.mark.parametrize("when", ["its key is stored", "it is opened"])
def test_a_vault_that_cannot_be_made(tmp_path, made, monkeypatch, when):
    house = House(tmp_path / "new")
    keystore, released = FileKeystore.open(house.keyfile)
    keys = Keys(keystore)
    if when == "its key is stored":
        keys.out_of_reach = {1}
    else:
        real = vaults_.place
        monkeypatch.setattr(vaults_, "place", lambda path, *rest: real(path, *rest) or path.write_bytes(b"spoilt"))
    known = list(made)
    with pytest.raises(TrustError):
        Vault.create(house.path, released, keys)
    assert len(made) > len(known)
    assert left(made, *known) == 0
    assert len(released.root) == 32


def test_what_a_keystore_gave_is_wiped_as_a_whole():
    released = Released(Secret(b"s"), (None, Slot(1, Secret(b"m"))))
    released.wipe()
    assert (len(released.root), len(released.slots[1].secret)) == (0, 0)
