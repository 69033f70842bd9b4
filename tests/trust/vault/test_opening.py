"""Opening, numbered: which check refuses what, and what an abandoned or discarded thing leaves behind."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3

import pytest

from idiolect.errors import KeystoreError, VaultError
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault import audit, keystore, schema
from idiolect.trust.vault import change as change_
from idiolect.trust.vault import opening as opening_
from idiolect.trust.vault import vault as vaults_
from idiolect.trust.vault.audit import AuditError
from idiolect.trust.vault.file import discard, draft_of, mapped_os
from idiolect.trust.vault.keystore import Slot
from idiolect.trust.vault.rotation import Ring
from idiolect.trust.vault.secret import Secret
from tests.support.vaults import ANN, House, add, furnished, put


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


def refused(house, check, state, **more):
    with pytest.raises(VaultError) as refusal:
        house.open(**more)
    assert f"refused ({check})" in str(refusal.value)
    assert refusal.value.state == state
    return refusal.value


def rotate(vault):
    with vault.change("forgot", rotate=True):
        pass


def test_6_another_devices_file(house, tmp_path):
    furnished(house).close()
    other = House(tmp_path / "other")
    other.create().close()
    shutil.copy(house.path, other.path)
    assert "another device" in str(refused(other, 6, "foreign"))


def test_6_an_old_file_and_an_old_keystore(house):
    furnished(house).close()
    old_file, old_keys = house.path.read_bytes(), house.keyfile.read_bytes()
    with house.open() as vault:
        rotate(vault)
    new_file, new_keys = house.path.read_bytes(), house.keyfile.read_bytes()
    house.path.write_bytes(old_file)
    told = refused(house, 6, "older")
    assert "from rotation 2, the keys are at 3: an old copy" in str(told)
    assert "stays gone" in told.fix
    house.path.write_bytes(new_file)
    house.keyfile.write_bytes(old_keys)
    told = refused(house, 6, "foreign")
    assert "from rotation 3, the keys are at 2: an old keystore" in str(told)
    assert told.fix == "put the keystore's newest copy back"
    house.keyfile.write_bytes(new_keys)
    house.open().close()


def test_7_8_9_10_each_table_is_covered(house):
    with furnished(house) as vault:
        put(vault, "e1", b"payload")
    kept = house.path.read_bytes()
    for check, statement in (
        (7, "UPDATE meta SET counter = counter + 1"),
        (7, "UPDATE meta SET owed = 1 - owed"),
        (7, "UPDATE meta SET credit = credit + 1"),
        (7, "UPDATE roots SET mac = zeroblob(32)"),
        (7, "DELETE FROM roots WHERE profile = (SELECT MAX(profile) FROM roots)"),
        (9, "DELETE FROM records WHERE id = 'e1'"),
        (9, "UPDATE records SET tag = zeroblob(16) WHERE id = 'e1'"),
        (9, "UPDATE records SET expires = expires + 1 WHERE id = 'e1'"),
        (10, "UPDATE records SET key_generation = key_generation + 1 WHERE id = 'e1'"),
        (10, "UPDATE wraps SET receipt = 'ff' WHERE purpose = 'enrol'"),
        (10, "UPDATE wraps SET generation = generation + 7 WHERE purpose = 'enrol'"),
    ):
        house.sql(statement)
        refused(house, check, "damaged")
        house.path.write_bytes(kept)
    house.open().close()


@pytest.mark.parametrize("column", ["counter", "generation", "pending", "credit", "high", "anchor_count", "count"])
def test_5_a_number_below_zero(house, column):
    furnished(house).close()
    house.sql(f"UPDATE meta SET {column} = -1")  # noqa: S608
    refused(house, 5, "damaged")


@pytest.mark.parametrize(
    ("where", "name", "table"),
    [
        (opening_, "MAX_WRAPS", "wraps"), (opening_, "MAX_RECORDS", "records"), (opening_, "MAX_WRAPS", "roots"),
        (audit, "MAX_ENTRIES", "audit"),
    ],
)  # fmt: skip
def test_5_more_rows_than_a_vault_may_have(house, monkeypatch, where, name, table):
    furnished(house).close()
    if table == "roots":  # there are more wraps than roots: one row too many of these
        house.sql("WITH RECURSIVE n(i) AS (VALUES (1) UNION SELECT i + 1 FROM n WHERE i < 9) "
                  "INSERT INTO roots SELECT printf('%02x', i), zeroblob(32) FROM n")  # fmt: skip
    ((count,),) = house.sql(f"SELECT COUNT(*) FROM {table}")  # noqa: S608
    monkeypatch.setattr(where, name, count)
    if table == "roots":
        refused(house, 7, "damaged")  # read, and seen through
    else:
        house.open().close()
    monkeypatch.setattr(where, name, count - 1)
    assert "more rows" in str(refused(house, 5, "damaged"))


def test_6_a_torn_slot_is_passed_over_for_the_other(house):
    furnished(house).close()
    for torn, ahead in ((0, 0), (1, 0), (0, 1), (0, 7)):  # of this rotation, or of one that the file never saw
        with house.open() as vault:
            generation = vault.counts().generation
        keystore, _ = FileKeystore.open(house.keyfile)
        keystore.write_slot(torn, Slot(generation + ahead, Secret.random()))
        house.clock.pass_(86_400)
        house.open().close()


def test_6_the_newer_of_two_slots_says_how_old_a_file_is(house):
    furnished(house).close()
    keystore, _ = FileKeystore.open(house.keyfile)
    for index, generation in ((0, 9), (1, 8)):
        keystore.write_slot(index, Slot(generation, Secret.random()))
    assert "the keys are at 9" in str(refused(house, 6, "older"))


def test_9_a_person_of_whom_everything_is_gone(house):
    furnished(house).close()
    house.sql(f"DELETE FROM records WHERE profile = '{ANN}'")  # noqa: S608
    house.sql(f"DELETE FROM wraps WHERE profile = '{ANN}'")  # noqa: S608
    assert "a profile is missing" in str(refused(house, 9, "damaged"))


@pytest.mark.parametrize("box", [None, 7, "text", b"", bytes(60)])
def test_13_a_payload_that_is_none(house, box):
    """A damaged page gives what the table's own rules forbid."""
    with furnished(house) as vault, sqlite3.connect(":memory:") as other:
        other.execute("CREATE TABLE records (profile, purpose, kind, id, box)")
        other.execute("INSERT INTO records VALUES (?, 'enrol', 'example', '00', ?)", (ANN, box))
        with pytest.raises(VaultError, match="13"):
            change_.read_record(other, vault._ledger, ANN, ("enrol", "example", "00"))
        other.execute("DELETE FROM records")
        with pytest.raises(VaultError, match="13"):
            change_.read_record(other, vault._ledger, ANN, ("enrol", "example", "00"))


def test_what_is_in_course_is_ended_without_paying_again(house):
    with house.create() as vault:
        for _ in range(4):
            rotate(vault)
        vault._ring._keystore.out_of_reach = {1}
        rotate(vault)
        assert vault.owed
    with house.open() as vault:
        assert not vault.owed
        assert vault._ledger.state.credit == 0
        assert (house.directory / "vault.db-wal").stat().st_size == 0  # or the old wraps would lie in it


def test_text_that_is_none_is_damage(house):
    furnished(house).close()
    house.sql("UPDATE audit SET kind = CAST(x'ff' AS TEXT) WHERE seq = 1")
    with pytest.raises(VaultError) as refusal:
        house.open()
    assert refusal.value.state == "damaged"


def test_11_a_log_without_its_end(house):
    furnished(house).close()
    last = house.sql("SELECT MAX(seq) FROM audit")[0][0]
    house.sql("DELETE FROM audit WHERE seq = ?", last)
    with pytest.raises(AuditError, match="cut") as refusal:
        house.open()
    assert (refusal.value.check, refusal.value.entry) == (5, last)


def test_a_file_that_is_exchanged_while_it_is_opened_is_not_taken(house, monkeypatch):
    """A sound older file of the same rotation: between the checks and the connection that stays."""
    furnished(house).close()
    older = house.path.read_bytes()
    with house.open() as vault:
        put(vault, "e1", b"payload")
    real = vaults_.remove

    def exchange(path):
        real(path)
        house.path.write_bytes(older)

    monkeypatch.setattr(vaults_, "remove", exchange)
    with pytest.raises(VaultError, match="changed while it was opened") as refusal:
        house.open()
    assert refusal.value.state == "failed"


def test_what_is_discarded_is_gone_with_its_draft_and_side_files(house):
    furnished(house).close()
    beside = [draft_of(house.path)]
    beside += [schema.side(path, suffix) for path in (house.path, beside[0]) for suffix in schema.SIDE_FILES]
    for path in beside:
        path.write_bytes(b"left")
    discard(house.path)
    assert not [path for path in (house.path, *beside) if path.exists()]
    discard(house.path)  # nothing is there, and that is well


def test_what_is_abandoned_is_never_written():
    class Nobody:
        def write_slot(self, _index, _slot):
            pytest.fail("written")

    ring = Ring(Secret(b"s" * 32), {1: Secret(b"k" * 32)}, Nobody(), {0, 1})
    ring.begin(2)
    fresh, key = ring._fresh, ring.keks[2]
    ring.abandon(2)
    assert len(fresh.secret) == len(key) == 0  # wiped
    assert list(ring.keks) == [1]
    ring.abandon(2)  # nothing is left of it, and that is well
    with pytest.raises(RuntimeError, match="no rotation"):
        ring.write()
    ring.wipe()
    assert ring.keks == {}


def test_a_ring_at_rest_has_nothing_to_write():
    with pytest.raises(RuntimeError, match="no rotation"):
        ring(Slots(), {0, 1}).write()


def test_a_bundle_below_the_minimum_is_a_refusal():
    error = keystore.too_old(1, 2)
    assert (error.state, error.fix) == ("refused", "install a newer bundle")


def test_10_a_key_of_a_rotation_that_is_not_in_course(house):
    furnished(house).close()
    house.sql("UPDATE wraps SET generation = generation + 7 WHERE purpose = 'enrol'")
    assert "no rotation that the file is in" in str(refused(house, 10, "damaged"))


def test_12_another_device_id(house):
    furnished(house).close()
    assert "another device id" in str(refused(house, 12, "foreign", device="ab"))


class Slots:
    """A keystore that fails at the writes it is told to."""

    def __init__(self, *failing):
        self.failing, self.written = failing, []

    def write_slot(self, index, slot):
        if len(self.written) in self.failing:
            self.failing = ()
            raise KeystoreError("the chip is busy", "wait", "failed")
        self.written.append((index, slot.generation))


def ring(keystore_, holding):
    return Ring(Secret(b"s" * 32), {1: Secret(b"k" * 32)}, keystore_, holding)


def test_slots_are_written_once_each_and_that_which_alone_holds_the_key_last():
    for holding, order in (({0, 1}, [0, 1]), ({0}, [1, 0]), ({1}, [0, 1])):
        slots = Slots()
        mine = ring(slots, holding)
        mine.begin(2)
        mine.write()
        mine.write()
        assert slots.written == [(index, 2) for index in order]
        mine.finish(2)
        assert list(mine.keks) == [2]
        mine.begin(3)
        mine.write()
        assert slots.written[2:] == [(0, 3), (1, 3)]  # both held it then


def test_what_was_written_is_not_written_again_after_a_failure():
    slots = Slots(1)
    mine = ring(slots, {0, 1})
    mine.begin(2)
    with pytest.raises(KeystoreError):
        mine.write()
    mine.write()
    assert slots.written == [(0, 2), (1, 2)]
    resumed = ring(Slots(), {1})
    resumed.resume(Slot(2, Secret(b"m" * 32)), {0})
    resumed.write()
    assert resumed._keystore.written == [(1, 2)]


def test_the_connection_keeps_nothing_elsewhere_on_the_disk(house):
    with furnished(house) as vault:
        asked = {name: vault._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in (
            "temp_store", "secure_delete", "journal_mode", "synchronous", "locking_mode", "trusted_schema",
            "cell_size_check", "max_page_count",
        )}  # fmt: skip
        with pytest.raises(sqlite3.OperationalError, match="too many attached"):
            vault._connection.execute("ATTACH ':memory:' AS other")
    assert (asked["temp_store"], asked["secure_delete"]) == (2, 1)  # in memory; overwritten with zeros
    assert (asked["journal_mode"], asked["synchronous"], asked["locking_mode"]) == ("wal", 2, "exclusive")
    assert (asked["trusted_schema"], asked["cell_size_check"], asked["max_page_count"]) == (0, 1, 65_536)  # 256 MiB


def test_days_and_payloads_at_their_limits(house):
    with furnished(house) as vault:
        put(vault, "e1", bytes(1 << 20), expires=10**6)
        assert len(vault.get(ANN, "enrol", "example", "e1")) == 1 << 20
        for payload, expires, encoder in (
            (bytes((1 << 20) + 1), 0, ""),
            (b"", 10**6 + 1, ""),
            (b"", -1, ""),
            (b"", 0, "x"),
        ):
            with pytest.raises(ValueError, match="within its cap"):
                put(vault, "e2", payload, expires=expires, encoder=encoder)


def test_a_vault_that_holds_as_many_records_as_it_may_takes_no_new_one(house, monkeypatch):
    with furnished(house) as vault:
        put(vault, "e1", b"first")
        monkeypatch.setattr(change_, "MAX_RECORDS", vault.counts().records)
        with pytest.raises(VaultError, match="as many records") as refusal:
            put(vault, "e2", b"one more")
        assert refusal.value.state == "full"
        put(vault, "e1", b"in its place")
        assert vault.get(ANN, "enrol", "example", "e1") == b"in its place"


def test_a_vault_that_holds_as_many_keys_as_it_may_takes_no_new_one(house, monkeypatch):
    """Each key is wrapped twice in a rotation, and two more are counted for each profile, the new one too."""
    with furnished(house) as vault:
        keys = {(p, q) for p, q in vault._connection.execute("SELECT DISTINCT profile, purpose FROM wraps") if p}
        most = 2 * (len(keys) + 2 * (len({p for p, _ in keys}) + 1))
        for limit, good in ((most, False), (most + 1, True)):
            monkeypatch.setattr(change_, "MAX_WRAPS", limit)
            if good:
                add(vault, "ee" * 8, "usage", "09")
            else:
                with pytest.raises(VaultError, match="as many"):
                    add(vault, "ee" * 8, "usage", "09")


def test_a_draft_that_a_power_cut_left_is_no_obstacle(house):
    draft_of(house.path).write_bytes(b"half made")
    house.create().close()
    assert not draft_of(house.path).exists()
    house.open().close()


@pytest.mark.parametrize(
    ("number", "state"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EROFS, "readonly"), (errno.EACCES, "failed")],
)
def test_what_the_system_says_is_told_by_its_kind(tmp_path, number, state):
    with pytest.raises(VaultError) as refusal, mapped_os(tmp_path / "vault.db"):
        raise OSError(number, "no")
    assert refusal.value.state == state
    assert refusal.value.fix


def test_a_log_that_is_cut_while_the_vault_is_open_does_not_verify(house):
    with furnished(house) as vault:
        head = vault.audit_verify()
        vault._connection.execute("DELETE FROM audit WHERE seq = (SELECT MAX(seq) FROM audit)")
        with pytest.raises(AuditError, match="cut") as refusal:
            vault.audit_verify()
        assert (refusal.value.check, refusal.value.entry) == (5, head.count)


def test_a_file_of_a_later_version_is_refused_before_it_is_touched(house):
    furnished(house).close()
    (version,) = house.sql("PRAGMA user_version")[0]
    house.sql(f"PRAGMA user_version = {version + 1}")
    before = house.files()
    with pytest.raises(VaultError) as refusal:
        house.open()
    assert refusal.value.state == "newer"
    assert house.files() == before
    house.sql(f"PRAGMA user_version = {version}")
    house.open().close()


def test_what_is_logged_has_its_fields(house):
    with furnished(house) as vault:
        vault.log("put", count=7)
        assert json.loads(vault.audit_entries(1)[0].body) == {"count": 7}
        assert vault.audit_entries(0) == []
