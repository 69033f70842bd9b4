"""Rotations: old copies die, nothing else does, wherever the power is cut."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import VaultError
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault import schema
from idiolect.trust.vault.keystore import CURRENT, NEXT, Slot
from idiolect.trust.vault.rotation import COST, FULL_CREDIT, Meter
from idiolect.trust.vault.secret import Secret
from idiolect.trust.vault.vault import Vault
from tests.support.vault_crashes import every_crash
from tests.support.vaults import ANN, BEN, DAY, Clock, House, Keys, add, contents, furnished, put


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


@pytest.fixture
def base(house):
    furnished(house).close()
    return house


def slots(house: House) -> tuple:
    _, released = FileKeystore.open(house.keyfile)
    return tuple((slot.generation, bytes(slot.secret.view)) for slot in released.slots)


def generation_of(house: House) -> tuple:
    return house.sql("SELECT generation, pending, owed FROM meta")[0]


def generation_of_open(vault: Vault) -> tuple:
    return vault._connection.execute("SELECT generation, pending, owed FROM meta").fetchone()


def test_a_rotation_replaces_both_slots_and_all_wraps(house):
    with furnished(house) as vault:
        before, kept = slots(house), contents(vault)
        with vault.change("forgot", rotate=True, count=0):
            pass
        after = slots(house)
        assert after[NEXT] == after[CURRENT] not in before
        assert not vault.owed
        assert contents(vault) == kept
        assert vault.audit_entries(1)[0].kind == "rotated"
    assert {g for (g,) in house.sql("SELECT DISTINCT generation FROM wraps")} == {after[NEXT][0]}
    with house.open() as vault:
        assert contents(vault) == kept


def test_the_wal_keeps_nothing_after_a_security_event(house):
    with furnished(house) as vault:
        old = [bytes(box) for (box,) in vault._connection.execute("SELECT box FROM wraps")]
        assert any(box in file for box in old for file in house.files().values())
        with vault.change("erased", rotate=True) as change:
            change.erase(BEN)
        assert (house.directory / "vault.db-wal").stat().st_size == 0
        assert not any(box in file for box in old for file in house.files().values())


@pytest.mark.parametrize("slot", [NEXT, CURRENT])
def test_an_event_stands_when_the_keystore_fails_and_its_rotation_is_made_up_for(house, slot):
    with furnished(house) as vault:
        keys = vault._ring._keystore
        keys.out_of_reach = {slot}
        with vault.change("forgot", rotate=True, count=1) as change:
            change.delete(ANN, "enrol", "example", "00")
        assert vault.owed
        assert vault.trouble.state == "busy"
        add(vault, BEN, "usage", "04")  # a key made meanwhile must open under either M
        put(vault, "77", b"meanwhile", BEN, "usage")
        house.clock.pass_(COST)
        assert not vault.rotate_if_due()
        kept = contents(vault)
    with house.open() as vault:  # the next boot, where the keystore answers
        house.clock.pass_(COST)
        assert vault.rotate_if_due()
        assert vault.trouble is None
        assert contents(vault) == kept
        assert kept[BEN, "usage"] == {"77": b"meanwhile"}
    assert len(set(slots(house))) == 1


def test_a_second_event_during_a_rotation_owes_another(house, tmp_path):
    """What the first one's M' opens is also in a copy of the disk from in between."""
    with furnished(house) as vault:
        keys = vault._ring._keystore
        keys.out_of_reach = {CURRENT}
        with vault.change("forgot", rotate=True, count=1) as change:
            change.delete(ANN, "enrol", "example", "00")
        shutil.copytree(house.directory, tmp_path / "between")
        with vault.change("erased", rotate=True) as change:
            change.erase(BEN)
        keys.out_of_reach = set()
        house.clock.pass_(DAY)
        vault.rotate_if_due()
        vault.rotate_if_due()
        assert not vault.owed
    old = House(tmp_path / "between", house.clock)
    shutil.copy(house.keyfile, old.keyfile)
    with pytest.raises(VaultError) as refusal:
        old.open()
    assert refusal.value.state == "older"


def test_a_rotation_lost_with_its_key_stays_owed_until_it_can_begin_again(base, monkeypatch):
    """Power cut between steps 1 and 2, and then a disk that had no room when the vault was opened."""
    with base.open() as vault:
        vault._ring._keystore.out_of_reach = {NEXT}
        with vault.change("forgot", rotate=True, count=1) as change:
            change.delete(ANN, "enrol", "example", "00")
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "_settle", lambda *_: None)
        with base.open() as vault:
            add(vault, BEN, "usage", "04")
            assert generation_of_open(vault) == (2, 0, 1)
            expected = contents(vault)
    with base.open() as vault:
        assert not vault.owed
        assert contents(vault) == expected


@pytest.mark.parametrize("torn", [NEXT, CURRENT])
def test_one_lost_slot_is_mended(base, torn):
    def open_with_one_slot(house):
        keystore, released = FileKeystore.open(house.keyfile)
        halves = tuple(None if index == torn else slot for index, slot in enumerate(released.slots))
        return Vault.open(house.path, type(released)(released.root, halves), keystore, clock=lambda: house.clock.wall)

    with open_with_one_slot(base) as vault:
        kept = contents(vault)
        assert kept[ANN, "enrol"]
        assert not vault.owed
    assert len(set(slots(base))) == 1
    with base.open() as vault:
        assert contents(vault) == kept


# How often


def test_a_thousand_events_in_a_day_write_the_slots_24_times_at_most(house):
    with house.create() as vault:
        keys = vault._ring._keystore
        created = keys.writes
        for _ in range(1000):
            with vault.change("forgot", rotate=True, count=0):
                pass
            house.clock.pass_(DAY / 1000)
            vault.rotate_if_due()
        assert 20 <= keys.writes - created <= 24
        house.clock.pass_(COST)
        assert vault.rotate_if_due()


def test_restarts_do_not_refill(house):
    house.create().close()
    for _ in range(40):
        with house.open() as vault, vault.change("forgot", rotate=True, count=0):
            pass
    assert generation_of(house)[0] <= 2 + 6
    assert generation_of(house)[2] == 1


def test_a_failing_keystore_is_not_asked_without_end(house):
    """Neither now and then nor at every event."""
    with house.create() as vault:
        keys = vault._ring._keystore
        tries = []
        keys.before = lambda *_: tries.append(1)
        keys.out_of_reach = {NEXT}
        with vault.change("forgot", rotate=True, count=0):
            pass
        for _ in range(500):
            vault.rotate_if_due()
            with vault.change("forgot", rotate=True, count=0):
                pass
            house.clock.pass_(DAY / 500)
        assert 6 <= len(tries) <= 12


moves = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 3 * DAY)),
        st.tuples(st.just("wall"), st.integers(-10 * DAY, 10 * DAY)),
        st.tuples(st.just("spend"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(moves)
def test_credit_comes_from_time_that_passed_and_from_the_highest_wall_time_only(steps):
    from idiolect.trust.vault.audit import Mark
    from idiolect.trust.vault.roots import State

    clock = Clock()
    spent, passed, highest = 0, 0, clock.wall
    state = State("", 0, 1, 0, False, FULL_CREDIT, int(clock.wall), Mark(0, b""), Mark(0, b""))
    meter = Meter(lambda: clock.wall, lambda: clock.steady)
    for what, amount in steps:
        if what == "pass":
            clock.pass_(amount)
            passed += amount
        elif what == "wall":
            clock.wall += amount
        elif what == "restart":
            meter = Meter(lambda: clock.wall, lambda: clock.steady)
            state = meter.resume(state)
        elif meter.due(state):
            reckoned = meter.reckon(state)
            assert 0 <= reckoned.credit <= FULL_CREDIT
            state = type(state)(
                **{**{f: getattr(reckoned, f) for f in reckoned.__slots__}, "credit": reckoned.credit - COST}
            )
            meter.settle()
            spent += COST
        highest = max(highest, clock.wall)
        assert spent <= FULL_CREDIT + passed + (highest - 1_800_000_000)


def test_no_time_gives_no_credit_and_a_second_one():
    from idiolect.trust.vault.file import first_state

    clock = Clock()
    meter = Meter(lambda: clock.wall, lambda: clock.steady)
    state = first_state("ab", 1, int(clock.wall))
    assert meter.reckon(state) == meter.resume(state) == state
    clock.pass_(1)
    assert meter.reckon(state).credit == state.credit + 1
    clock.steady -= 5  # which no monotonic clock does
    assert meter.reckon(state).credit == state.credit


def test_a_clock_set_far_ahead_gives_one_full_credit(house):
    house.create().close()
    house.clock.wall += 3650 * DAY
    for _ in range(40):
        with house.open() as vault, vault.change("forgot", rotate=True, count=0):
            pass
    house.clock.wall -= 3650 * DAY
    for _ in range(10):
        house.clock.wall += 3600
        with house.open() as vault, vault.change("forgot", rotate=True, count=0):
            pass
    assert generation_of(house)[0] == 2 + 6


# Power cuts


def forget(house, keys):
    with house.open(keys) as vault, vault.change("forgot", rotate=True, count=1) as change:
        change.delete(ANN, "enrol", "example", "00")


def forget_and_rekey(house, keys):
    with house.open(keys) as vault, vault.change("forgot", rotate=True, count=1) as change:
        change.delete(ANN, "enrol", "example", "00")
        change.rekey(ANN, "enrol")


def erase(house, keys):
    with house.open(keys) as vault, vault.change("erased", rotate=True) as change:
        change.erase(ANN)


def write(house, keys):
    with house.open(keys) as vault, vault.change("put", count=1) as change:
        change.add_key(BEN, "usage", "09")
        change.put(BEN, "usage", "example", "00", b"anew")
        change.put(ANN, "enrol", "example", "00", b"anew")


@pytest.mark.parametrize("scenario", [forget, forget_and_rekey, erase, write])
def test_a_power_cut_at_any_step_leaves_the_vault_before_or_after(base, tmp_path, scenario):
    with base.open() as vault:
        before = contents(vault)
    whole = tmp_path / "whole"
    shutil.copytree(base.directory, whole)
    scenario(House(whole, base.clock), Keys)
    with House(whole, base.clock).open() as vault:
        after = contents(vault)
    assert before != after
    seen = set()
    for house in every_crash(base, tmp_path / "crashes", scenario):
        with house.open() as vault:
            now = contents(vault)
            assert now in (before, after)
            seen.add(now == after)
            assert not vault.owed, "a credit was there, so the rotation was made up for"
            vault.audit_verify()
            put(vault, "99", b"goes on", BEN)
        assert len(set(slots(house))) == 1
        assert generation_of(house)[1:] == (0, 0)
        old = shutil.copytree(base.directory, house.directory / "old")
        shutil.copy(house.keyfile, old / "keystore.json")
        if scenario is not write and now == after:
            with pytest.raises(VaultError) as refusal:
                House(old, base.clock).open()
            assert refusal.value.state == "older"
    assert seen == {True, False}


def test_a_power_cut_while_recovering_from_one(base, tmp_path):
    """Opening ends an interrupted rotation; it may be interrupted itself."""
    with base.open() as vault:
        keys = vault._ring._keystore
        keys.out_of_reach = {CURRENT}
        with vault.change("forgot", rotate=True, count=1) as change:
            change.delete(ANN, "enrol", "example", "00")
        expected = contents(vault)

    def only_open(house, keys):
        house.open(keys).close()

    for house in every_crash(base, tmp_path / "crashes", only_open):
        with house.open() as vault:
            assert contents(vault) == expected
            assert not vault.owed
        assert len(set(slots(house))) == 1


@pytest.mark.parametrize("torn", [NEXT, CURRENT])
def test_a_power_cut_while_mending_a_torn_slot_does_not_hit_the_last_copy(base, tmp_path, torn):
    with base.open() as vault:
        expected = contents(vault)
    keystore, _ = FileKeystore.open(base.keyfile)
    keystore.write_slot(torn, Slot(2, Secret.random()))

    def only_open(house, keys):
        house.open(keys).close()

    for house in every_crash(base, tmp_path / "crashes", only_open):
        with house.open() as vault:
            assert contents(vault) == expected
            assert not vault.owed
        assert len(set(slots(house))) == 1


def test_a_power_cut_while_making_a_vault_leaves_a_whole_one_or_none(house, tmp_path):
    def create(house, keys):
        keystore, released = FileKeystore.open(house.keyfile)
        Vault.create(house.path, released, keys(keystore)).close()

    for crashed in every_crash(house, tmp_path / "crashes", create):
        vault = crashed.open() if crashed.path.exists() else crashed.create()
        with vault:
            add(vault)
            put(vault, "01", b"works")
        with crashed.open() as vault:
            assert vault.get(ANN, "enrol", "example", "01") == b"works"
        assert len(set(slots(crashed))) == 1
        assert sorted(path.name for path in crashed.directory.iterdir()) == ["keystore.json", "vault.db"]


def add_index(connection):
    connection.execute("CREATE INDEX by_day ON records (expires)")


def test_a_power_cut_while_migrating(base, tmp_path, monkeypatch):
    with base.open() as vault:
        expected = contents(vault)

    def patch():
        schema.MIGRATIONS += [add_index]

    def only_open(house, keys):
        house.open(keys).close()

    def opened_anew(house):
        with house.open() as vault:
            assert contents(vault) == expected
            add(vault, BEN, "usage", "05")

    original = list(schema.MIGRATIONS)
    versions = set()
    for house in every_crash(base, tmp_path / "crashes", only_open, patch):
        versions.add(house.sql("PRAGMA user_version")[0][0])
        monkeypatch.setattr(schema, "MIGRATIONS", [*original, add_index])
        opened_anew(house)
        assert house.sql("PRAGMA user_version") == [(2,)]
        monkeypatch.setattr(schema, "MIGRATIONS", original)
        with pytest.raises(VaultError) as refusal:
            house.open()
        assert refusal.value.state == "newer"
    assert versions == {1, 2}
