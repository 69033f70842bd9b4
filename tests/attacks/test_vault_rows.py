"""Who can write the disk meddles with the rows of the vault: each way is refused, by the check that is there for it."""

# ruff: noqa: S608  # the SQL is the attacker's

from __future__ import annotations

import shutil

import pytest

from idiolect.errors import VaultError
from tests.support.vaults import ANN, BEN, House, add, contents, furnished, put


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "state")
    furnished(house).close()
    return house


def refused(house: House, check: int, state: str = "damaged") -> None:
    before = house.files()
    with pytest.raises(VaultError) as refusal:
        house.open()
    assert f"refused ({check})" in str(refusal.value)
    assert refusal.value.state == state
    assert house.files() == before


def copy_of(house: House, name: str) -> House:
    shutil.copytree(house.directory, house.directory.parent / name)
    return House(house.directory.parent / name, house.clock)


def transplant(source: House, target: House, table: str, where: str = "1", *values: object) -> None:
    """Put rows of an old copy in place of today's."""
    rows = source.sql(f"SELECT * FROM {table} WHERE {where}", *values)
    target.sql(f"DELETE FROM {table} WHERE {where}", *values)
    for row in rows:
        target.sql(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("UPDATE records SET profile = 'cc' WHERE profile = '%(ann)s' AND purpose = 'adapt_corrections'", 10),
        ("UPDATE records SET id = '77' WHERE profile = '%(ann)s' AND id = '01'", 9),
        ("UPDATE records SET kind = 'other' WHERE profile = '%(ann)s' AND id = '01'", 9),
        ("UPDATE records SET purpose = 'adapt_corrections' WHERE profile = '%(ann)s' AND id = '01'", 10),
        ("UPDATE records SET encoder = 'ff' WHERE id = '01'", 9),
        ("UPDATE records SET expires = 99999 WHERE id = '01'", 9),
        ("UPDATE records SET key_generation = key_generation + 1 WHERE id = '01'", 10),
        ("UPDATE records SET tag = zeroblob(16) WHERE id = '01'", 9),
        ("DELETE FROM records WHERE profile = '%(ann)s' AND id = '01'", 9),
        ("DELETE FROM records WHERE profile = '%(ben)s'", 9),
        ("UPDATE wraps SET receipt = '09' WHERE profile = '%(ben)s'", 10),
        ("UPDATE wraps SET key_generation = 1 WHERE profile = '%(ben)s'", 10),
        ("UPDATE wraps SET purpose = 'usage' WHERE profile = '%(ann)s' AND purpose = 'adapt_corrections'", 10),
        ("UPDATE wraps SET generation = 7 WHERE profile = '%(ben)s'", 10),
        ("UPDATE wraps SET box = zeroblob(60) WHERE profile = '%(ben)s'", 10),
        ("UPDATE wraps SET box = zeroblob(60) WHERE purpose = 'vault'", 6),
        ("DELETE FROM wraps WHERE profile = '%(ben)s'", 10),
        ("DELETE FROM wraps WHERE purpose = 'vault'", 6),
        ("UPDATE roots SET mac = zeroblob(32) WHERE profile = '%(ben)s'", 7),
        ("DELETE FROM roots WHERE profile = '%(ben)s'", 7),
        ("DELETE FROM roots", 7),
        ("INSERT INTO roots VALUES ('cc', zeroblob(32))", 7),
        ("UPDATE meta SET counter = counter + 1", 7),
        ("UPDATE meta SET owed = 1", 7),
        ("UPDATE meta SET credit = 86400", 7),
        ("UPDATE meta SET high = 0", 7),
        ("UPDATE meta SET pending = 3", 7),
        ("UPDATE meta SET count = count - 1", 7),
        ("UPDATE meta SET root = zeroblob(32)", 7),
        ("DELETE FROM meta", 5),
        ("UPDATE meta SET counter = -1", 5),
        ("INSERT INTO records SELECT 'cc', purpose, kind, id, encoder, key_generation, expires, tag, box FROM records "
         "WHERE profile = '%(ann)s' AND purpose = 'enrol'", 10),
    ],
)  # fmt: skip
def test_an_edited_row_is_refused(house, change, check):
    assert house.sql(change % {"ann": ANN, "ben": BEN} + " RETURNING 1")
    refused(house, check)


def test_a_profile_whose_every_trace_is_removed_is_missed(house):
    for table in ("records", "wraps", "roots"):
        house.sql(f"DELETE FROM {table} WHERE profile = ?", BEN)
    refused(house, 7)


def test_a_whole_profile_cannot_be_renamed(house):
    for table in ("records", "wraps", "roots"):
        house.sql(f"UPDATE {table} SET profile = 'cc' WHERE profile = ?", BEN)
    refused(house, 7)


def test_two_profiles_cannot_be_exchanged(house):
    for table in ("records", "wraps", "roots"):
        for old, new in ((BEN, "cc"), (ANN, BEN), ("cc", ANN)):
            house.sql(f"UPDATE {table} SET profile = ? WHERE profile = ?", new, old)
    refused(house, 7)


def test_a_removed_record_that_is_put_back_is_refused(house):
    old = copy_of(house, "old")
    with house.open() as vault, vault.change("put", count=1) as change:
        change.delete(ANN, "enrol", "example", "01")
    transplant(old, house, "records", "profile = ? AND id = '01'", ANN)
    refused(house, 9)


def test_an_older_version_of_a_record_is_refused(house):
    old = copy_of(house, "old")
    with house.open() as vault:
        put(vault, "01", b"anew")
    transplant(old, house, "records", "profile = ? AND id = '01'", ANN)
    refused(house, 9)


def test_the_box_of_another_record_is_refused_when_it_is_read(house):
    """Opening reads no payload; the tag beside it and the place that it is bound to do the rest."""
    boxes = dict(house.sql("SELECT id, box FROM records WHERE profile = ? AND purpose = 'enrol'", ANN))
    house.sql("UPDATE records SET box = ? WHERE profile = ? AND purpose = 'enrol' AND id = '01'", boxes["02"], ANN)
    with house.open() as vault:
        assert vault.get(ANN, "enrol", "example", "00") == b"ann says 0"
        with pytest.raises(VaultError) as refusal:
            vault.get(ANN, "enrol", "example", "01")
        assert refusal.value.state == "damaged"
        assert "ann says" not in str(refusal.value)


def test_yesterdays_box_beside_todays_tag_is_refused_when_it_is_read(house):
    """It opens under today's key and name: only the tag under the root tells it from today's."""
    where = "profile = ? AND purpose = 'enrol' AND id = '01'"
    ((old,),) = house.sql(f"SELECT box FROM records WHERE {where}", ANN)
    with house.open() as vault:
        put(vault, "01", b"anew")
    house.sql(f"UPDATE records SET box = ? WHERE {where}", old, ANN)
    with house.open() as vault, pytest.raises(VaultError, match="13"):
        vault.get(ANN, "enrol", "example", "01")


def test_a_box_whose_end_alone_is_right_is_refused_when_it_is_read(house):
    house.sql(
        "UPDATE records SET box = CAST(zeroblob(10) || substr(box, -16) AS BLOB) WHERE profile = ? AND id = '01'", ANN
    )
    with house.open() as vault, pytest.raises(VaultError, match="13"):
        vault.get(ANN, "enrol", "example", "01")


def test_a_profile_restored_with_its_root_is_refused(house):
    old = copy_of(house, "old")
    with house.open() as vault:
        put(vault, "01", b"anew")
    for table in ("records", "wraps", "roots"):
        transplant(old, house, table, "profile = ?", ANN)
    refused(house, 7)


def test_a_withdrawn_consent_cannot_be_put_back(house):
    old = copy_of(house, "old")
    with house.open() as vault, vault.change("key-withdrawn", rotate=True) as change:
        change.withdraw(ANN, "adapt_corrections")
    for table in ("records", "wraps"):
        transplant(old, house, table, "profile = ? AND purpose = 'adapt_corrections'", ANN)
    transplant(old, house, "roots", "profile = ?", ANN)
    refused(house, 7)


def test_todays_wraps_do_not_open_yesterdays_rows(house):
    """An old copy with the wraps of today's rotation, so that the keys open: its rows are still yesterday's."""
    old = copy_of(house, "old")
    with house.open() as vault, vault.change("forgot", rotate=True, count=1) as change:
        change.delete(ANN, "enrol", "example", "01")
    transplant(house, old, "wraps")
    old.keyfile.write_bytes(house.keyfile.read_bytes())
    refused(old, 8)
    transplant(house, old, "meta")
    refused(old, 7)
    transplant(house, old, "roots")
    refused(old, 9)


def test_after_a_rekey_todays_keys_do_not_open_a_forgotten_record(house):
    """Not even with the wraps of today put into the old copy and all checks left out."""
    old = copy_of(house, "old")
    ((box,),) = old.sql("SELECT box FROM records WHERE profile = ? AND purpose = 'enrol' AND id = '01'", ANN)
    from idiolect.trust.vault import envelope, roots

    with house.open() as vault:
        before = vault._ledger.shelves[ANN].keys["enrol"].generation
        place = roots.record_aad(ANN, ("enrol", "example", "01"), "", before, 0)
        assert envelope.open_(vault._ledger.shelves[ANN].keys["enrol"].secret, box, place) == b"ann says 1"
        with vault.change("forgot", rotate=True, count=1) as change:
            change.delete(ANN, "enrol", "example", "01")
            change.rekey(ANN, "enrol")
        with pytest.raises(envelope.Unopened):
            envelope.open_(vault._ledger.shelves[ANN].keys["enrol"].secret, box, place)


def test_a_trigger_or_view_in_the_file_is_refused(house):
    house.sql("CREATE TRIGGER t AFTER INSERT ON audit BEGIN DELETE FROM records; END")
    with pytest.raises(VaultError, match="tables"):
        house.open()


@pytest.mark.parametrize("table", ["records", "wraps", "audit"])
def test_more_rows_than_a_vault_may_have_are_refused(house, table):
    names = {"records": "'cc', 'x', 'x', n, '', 0, 0, zeroblob(16), zeroblob(16)", "wraps": "'cc', n, 2, '', 1, x''"}
    row = names.get(table, "n + 100, 0, 'put', '{}', zeroblob(32)")
    count = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 25000)"
    house.sql(f"INSERT INTO {table} {count} SELECT {row} FROM c")
    with pytest.raises(VaultError, match=r"refused \(5\)"):
        house.open()


def test_meddling_that_changes_nothing_is_no_fault(house):
    with house.open() as vault:
        expected = contents(vault)
        add(vault, BEN, "usage", "04")
    house.sql("VACUUM")
    with house.open() as vault:
        assert contents(vault) == {**expected, (BEN, "usage"): {}}
