"""Looking at a vault's file: what is seen before anything is believed, and that looking changes nothing."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from idiolect.errors import VaultError
from idiolect.trust.vault import schema
from tests.support.vaults import House, contents, furnished


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "state")
    furnished(house).close()
    return house


def left_in_the_wal(house, *statements):
    """What a process does to the file that ends without closing it."""
    with contextlib.closing(sqlite3.connect(house.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        for statement in statements:
            connection.execute(statement)
        files = house.files()
    del files["vault.db-shm"]
    for name, data in files.items():
        (house.directory / name).write_bytes(data)
    assert files["vault.db-wal"]


def test_damage_that_no_row_shows_is_seen_where_a_crash_left_a_wal(house):
    """Two indexes on one page: every row reads well, and the next write would spoil both."""
    left_in_the_wal(
        house,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'roots') "
        "WHERE name = 'sqlite_autoindex_records_1'",
    )
    before = house.files()
    with pytest.raises(VaultError, match="damaged since the last crash") as refusal:
        house.open()
    assert refusal.value.state == "damaged"
    assert house.files() == before


def test_a_sound_wal_is_read(house):
    left_in_the_wal(house, "CREATE TABLE more (x)", "DROP TABLE more")
    with house.open() as vault:
        assert contents(vault)


def test_an_older_file_is_seen_as_the_newest_version_has_it_and_stays_as_it_is(house, monkeypatch):
    def add_a_column(connection):
        connection.execute("ALTER TABLE records ADD COLUMN later INTEGER NOT NULL DEFAULT 7")

    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_a_column])
    before = house.files()
    with schema.probe(house.path) as seen:
        assert seen.execute("SELECT DISTINCT later FROM records").fetchall() == [(7,)]
        assert seen.execute("PRAGMA user_version").fetchone() == (2,)
    assert house.files() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"s" + raw[1:], lambda raw: raw[:99], lambda raw: raw[:18] + b"\x01" + raw[19:],
        lambda raw: raw[:19] + b"\x01" + raw[20:], lambda _: b"",
    ],
)  # fmt: skip
def test_the_beginning_of_a_file_says_that_it_is_no_vault(house, spoil):
    """Each part of it alone; SQLite itself is not even asked."""
    house.path.write_bytes(spoil(house.path.read_bytes()))
    with pytest.raises(VaultError, match="is no vault") as refusal:
        schema.lock(house.path)
    assert refusal.value.state == "damaged"


@pytest.mark.parametrize("size", [512, 8192, 65536])
def test_pages_may_have_another_size(house, size):
    """SQLite may have been built so; the largest is written as 1, as two bytes hold no 65536."""
    with contextlib.closing(sqlite3.connect(house.path, isolation_level=None)) as connection:
        for statement in ("journal_mode = DELETE", f"page_size = {size}"):
            connection.execute(f"PRAGMA {statement}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode = WAL")
    assert house.path.stat().st_size % size == 0
    with house.open() as vault:
        assert contents(vault)
    with house.path.open("ab") as file:
        file.write(bytes(size))
    with pytest.raises(VaultError, match="cut short"):
        house.open()
