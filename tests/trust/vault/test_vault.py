from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from idiolect.errors import KeystoreError, TrustError, VaultError
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault import schema
from idiolect.trust.vault.keystore import Released
from idiolect.trust.vault.vault import Counts, Vault, discard
from tests.support.vaults import ANN, BEN, House, add, contents, furnished, put


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "state")


def refused(house: House, state: str, **more) -> VaultError:
    """Opening fails with this state, and no byte changes."""
    before = house.files()
    with pytest.raises(VaultError) as refusal:
        house.open(**more)
    assert refusal.value.state == state, str(refusal.value)
    assert refusal.value.fix
    assert house.files() == before
    return refusal.value


# Reading and writing


def test_what_is_put_is_there_after_opening_again(house):
    with furnished(house) as vault:
        expected = contents(vault)
        assert expected[ANN, "enrol"]["01"] == b"ann says 1"
        assert expected[BEN, "enrol"]["01"] == b"ben says 1"
        assert vault.counts() == Counts(profiles=2, keys=3, records=7, audit_entries=10, generation=2)
    with house.open() as vault:
        assert contents(vault) == expected
        assert vault.purposes(ANN) == {"adapt_corrections": "02", "enrol": "01"}
        assert vault.profiles() == [ANN, BEN]
        assert vault.get(ANN, "enrol", "example", "01") == b"ann says 1"
        assert vault.get(ANN, "enrol", "other", "01") is None
        assert vault.get("ff", "enrol", "example", "01") is None
        assert vault.items(BEN, "adapt_corrections", "example") == []


def test_nothing_of_it_is_readable_in_the_files(house):
    with furnished(house):
        for data in house.files().values():
            assert b" says " not in data


def test_a_record_keeps_encoder_and_last_day(house):
    with house.create() as vault:
        add(vault)
        put(vault, "01", b"x", encoder="ab" * 32, expires=20_000)
    with house.open() as vault:
        (record,) = vault.items(ANN, "enrol", "example")
        assert (record.id, record.encoder, record.expires, record.payload) == ("01", "ab" * 32, 20_000, b"x")
        assert "b'x'" not in repr(record)


def test_put_replaces_and_delete_removes(house):
    with furnished(house) as vault:
        put(vault, "01", b"anew")
        with vault.change("forgot", count=1) as change:
            assert change.delete(ANN, "enrol", "example", "02")
            assert not change.delete(ANN, "enrol", "example", "77")
            assert vault.get(ANN, "enrol", "example", "02") is None  # a change sees what it did
    with house.open() as vault:
        assert contents(vault)[ANN, "enrol"] == {"00": b"ann says 0", "01": b"anew"}


def test_rekey_replaces_the_key_and_keeps_the_records(house):
    with furnished(house) as vault:
        before = contents(vault)
        old = vault._ledger.shelves[ANN].keys["enrol"].secret
        with vault.change("forgot", count=0) as change:
            assert change.rekey(ANN, "enrol") == 3
        assert len(old) == 0
        assert vault._ledger.shelves[ANN].keys["enrol"].receipt == "01"
    with house.open() as vault:
        assert contents(vault) == before


def test_rekey_counts_what_was_put_in_the_same_change(house):
    with house.create() as vault:
        with vault.change("put") as change:
            change.add_key(ANN, "enrol", "01")
            change.put(ANN, "enrol", "example", "01", b"one")
            change.rekey(ANN, "enrol")
            change.put(ANN, "enrol", "example", "02", b"two")
            change.rekey(ANN, "enrol")
        expected = {"01": b"one", "02": b"two"}
        assert contents(vault)[ANN, "enrol"] == expected
    with house.open() as vault:
        assert contents(vault)[ANN, "enrol"] == expected


def test_withdraw_and_erase(house):
    with furnished(house) as vault:
        with vault.change("key-withdrawn", profile=ANN, purpose="enrol") as change:
            change.note(count=change.withdraw(ANN, "enrol"))
        assert vault.audit_entries(1)[0].as_dict()["body"]["count"] == 3
        assert vault.purposes(ANN) == {"adapt_corrections": "02"}
        with vault.change("erased") as change:
            assert change.erase(ANN) == 1
            assert change.erase(ANN) == 0
        assert vault.profiles() == [BEN]
        add(vault, ANN, "enrol", "09")
    with house.open() as vault:
        assert vault.purposes(ANN) == {"enrol": "09"}
        assert vault.items(ANN, "enrol", "example") == []


def test_what_expired_is_swept(house):
    with furnished(house) as vault:
        for ident, day in (("a1", 100), ("a2", 101), ("a3", 0)):
            put(vault, ident, b"x", expires=day)
        assert vault.expired(100) == []
        assert vault.expired(101) == [(ANN, "enrol", "example", "a1")]
        assert vault.sweep(101) == 1
        assert vault.sweep(101) == 0
        assert set(contents(vault)[ANN, "enrol"]) == {"00", "01", "02", "a2", "a3"}
        assert vault.audit_entries(1)[0].kind == "swept"


def test_the_device_has_records_of_its_own(house):
    with house.create() as vault:
        with vault.change("put") as change:
            change.add_key("", "device", "")
            change.put("", "device", "settings", "0", b"{}")
        assert vault.profiles() == []
    with house.open() as vault:
        assert vault.get("", "device", "settings", "0") == b"{}"


def test_one_change_at_a_time(house):
    with house.create() as vault, vault.change("put"), pytest.raises(RuntimeError), vault.change("put"):
        pass


def test_a_closed_vault_has_no_keys(house):
    vault = furnished(house)
    keys = [key.secret for shelf in vault._ledger.shelves.values() for key in shelf.keys.values()]
    keys += [vault._vault_key, vault._ring.root, *vault._ring.keks.values()]
    vault.close()
    vault.close()
    assert [len(key) for key in keys] == [0] * 6
    with pytest.raises(VaultError):
        vault.get(ANN, "enrol", "example", "00")
    with pytest.raises(VaultError):
        vault.log("put")


def test_opening_takes_the_secrets_over(house):
    furnished(house).close()
    keystore, released = FileKeystore.open(house.keyfile)
    with Vault.open(house.path, released, keystore) as vault:
        assert [len(released.root), *(len(slot.secret) for slot in released.slots)] == [0, 0, 0]
        with vault.change("forgot", rotate=True):
            pass
        assert not vault.owed


# The file


def test_the_file_is_for_its_owner_alone_and_has_the_settings_asked_for(house):
    with furnished(house) as vault:
        modes = {path.name: path.stat().st_mode & 0o777 for path in house.directory.iterdir()}
        assert modes == {"vault.db": 0o600, "vault.db-wal": 0o600, "keystore.json": 0o600}
        settings = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "locking_mode": "exclusive"}
        settings |= {"trusted_schema": 0, "cell_size_check": 1}
        for name, value in settings.items():
            assert vault._connection.execute(f"PRAGMA {name}").fetchone() == (value,)


def test_a_vault_is_not_made_over_anything(house):
    house.path.write_bytes(b"something")
    with pytest.raises(VaultError, match="exists"):
        house.create()
    assert house.path.read_bytes() == b"something"
    house.path.unlink()
    house.path.symlink_to(house.directory / "elsewhere")
    with pytest.raises(VaultError, match="exists"):
        house.create()


def test_a_wal_left_behind_does_not_get_into_a_new_vault(house):
    with furnished(house):
        wal = (house.directory / "vault.db-wal").read_bytes()
    discard(house.path)
    (house.directory / "vault.db-wal").write_bytes(wal)
    with house.create() as vault:
        assert vault.counts() == Counts(0, 0, 0, 0, 3)


def test_discard_removes_everything_without_keys(house):
    furnished(house).close()
    house.keyfile.unlink()
    for suffix in ("-wal", "-shm", "-journal"):
        (house.directory / f"vault.db{suffix}").write_bytes(b"x")
    discard(house.path)
    discard(house.path)
    assert list(house.directory.iterdir()) == []


def test_a_vault_discarded_stays_unreadable_beside_a_new_one(house):
    furnished(house).close()
    old = house.path.read_bytes()
    discard(house.path)
    house.create().close()
    house.path.write_bytes(old)
    assert refused(house, "older")


def test_an_absent_vault(house):
    refused(house, "absent")


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"\0" * 8192, b"SQLite format 3\0" + bytes(4080)])
def test_what_is_no_vault_is_left_alone(house, content):
    house.path.write_bytes(content)
    refused(house, "damaged")


def test_another_programs_database_is_left_alone(house):
    connection = sqlite3.connect(house.path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    refused(house, "foreign")


def test_a_later_version_is_left_alone(house):
    furnished(house).close()
    house.sql("PRAGMA user_version = 2")
    refused(house, "newer")


def test_a_link_or_directory_is_refused(house):
    furnished(house).close()
    house.path.rename(house.directory / "real")
    house.path.symlink_to("real")
    with pytest.raises(VaultError) as refusal:
        house.open()
    assert refusal.value.state == "failed"
    house.path.unlink()
    house.path.mkdir()
    with pytest.raises(VaultError) as refusal:
        house.open()
    assert refusal.value.state == "damaged"


def test_a_planted_journal_is_not_played_back(house):
    furnished(house).close()
    (house.directory / "vault.db-journal").write_bytes(bytes(1024))
    refused(house, "damaged")


def test_every_truncation_is_refused(house):
    furnished(house).close()
    whole = house.path.read_bytes()
    for length in range(0, len(whole), 1499):
        house.path.write_bytes(whole[:length])
        refused(house, "damaged")
    house.path.write_bytes(whole + bytes(4096))
    refused(house, "damaged")


def survey(house: House) -> dict | None:
    """What an opened vault holds, None where it was refused in words."""
    try:
        with house.open() as vault:
            vault.audit_verify()
            return contents(vault)
    except TrustError as refusal:
        return None if refusal.fix else {}


def test_no_damaged_byte_gets_past_the_checks(house):
    """One byte in 37 inverted: refused, or where nothing reads it, harmless."""
    furnished(house).close()
    expected, whole, refusals = survey(house), house.path.read_bytes(), 0
    for at in range(0, len(whole), 37):
        house.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = survey(house)
        assert found in (None, expected), at
        refusals += found is None
    assert refusals > 50


def test_a_second_daemon_is_told(house):
    with furnished(house):
        refused_by_lock = pytest.raises(VaultError, match=r"another idiolectd uses vault\.db")
        with refused_by_lock as refusal:
            house.open()
        assert refusal.value.state == "failed"
    house.open().close()


def test_keys_of_another_device(house, tmp_path):
    furnished(house).close()
    other = House(tmp_path / "other")
    other.create().close()
    other.path.write_bytes(house.path.read_bytes())
    refused(other, "foreign")


def test_another_device_id(house):
    furnished(house).close()
    assert "(12)" in str(refused(house, "foreign", device="ab"))


def test_an_old_keystore_is_told(house):
    with furnished(house) as vault:
        old = house.keyfile.read_bytes()
        with vault.change("forgot", rotate=True):
            pass
    house.keyfile.write_bytes(old)
    assert "old keystore" in str(refused(house, "foreign"))


def test_no_slot_at_all(house):
    furnished(house).close()
    keystore, released = FileKeystore.open(house.keyfile)
    with pytest.raises(KeystoreError):
        Vault.open(house.path, Released(released.root, (None, None)), keystore)


# The disk


def killed_in_a_change(house: House) -> None:
    """A child that is killed in the middle of a change, after another was committed."""
    ready, write = os.pipe()
    if (child := os.fork()) == 0:
        with house.open() as vault:
            put(vault, "c0", b"committed")
            with vault.change("put") as change:
                change.put(ANN, "enrol", "example", "c1", b"not committed")
                os.write(write, b"!")
                time.sleep(60)
        os._exit(1)
    assert os.read(ready, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(write)


def test_a_wal_left_by_a_kill_is_recovered(house):
    furnished(house).close()
    killed_in_a_change(house)
    assert (house.directory / "vault.db-wal").stat().st_size > 0
    with house.open() as vault:
        assert vault.get(ANN, "enrol", "example", "c0") == b"committed"
        assert vault.get(ANN, "enrol", "example", "c1") is None
        assert (house.directory / "vault.db-wal").stat().st_size == 0
    assert not (house.directory / "vault.db-shm").exists()


def test_a_refusal_leaves_the_wal_of_a_kill_alone_too(house, tmp_path):
    furnished(house).close()
    killed_in_a_change(house)
    other = House(tmp_path / "other")
    mine = house.keyfile.read_bytes()
    house.keyfile.write_bytes(other.keyfile.read_bytes())
    refused(house, "foreign")
    house.keyfile.write_bytes(mine)
    with house.open() as vault:
        assert vault.get(ANN, "enrol", "example", "c0") == b"committed"


def test_a_torn_wal_loses_at_most_what_was_not_committed(house):
    furnished(house).close()
    killed_in_a_change(house)
    main, wal = house.path.read_bytes(), (house.directory / "vault.db-wal").read_bytes()
    for length in range(0, len(wal), 701):
        house.path.write_bytes(main)
        (house.directory / "vault.db-wal").write_bytes(wal[:length])
        with house.open() as vault:
            assert vault.get(ANN, "enrol", "example", "00") == b"ann says 0"
            assert vault.get(ANN, "enrol", "example", "c1") is None


def too_much(vault: Vault, rotate: bool) -> None:
    with vault.change("put", rotate) as change:
        for n in range(100):
            change.put(ANN, "enrol", "example", f"{n:02x}", bytes(6000))


def test_a_full_disk_changes_nothing_and_the_next_try_works(house):
    with furnished(house) as vault:
        expected, state = contents(vault), vault._ledger.state
        pages = vault._connection.execute("PRAGMA page_count").fetchone()[0]
        vault._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        for rotate in (False, True):
            with pytest.raises(VaultError) as refusal:
                too_much(vault, rotate)
            assert refusal.value.state == "full"
            assert contents(vault) == expected
            assert vault._ledger.state == state
            assert set(vault._ring.keks) == {state.generation}
        vault._connection.execute("PRAGMA max_page_count = 100000")
        put(vault, "77", bytes(6000))
        with vault.change("forgot", rotate=True):
            pass
        assert not vault.owed
    with house.open() as vault:
        assert vault.get(ANN, "enrol", "example", "77") == bytes(6000)


def test_a_failure_that_the_caller_swallows_undoes_the_change_all_the_same(house):
    with furnished(house) as vault:
        expected = contents(vault)
        vault._connection.execute("UPDATE records SET box = zeroblob(60) WHERE id = '02'")
        with pytest.raises(VaultError, match="13"), vault.change("forgot") as change, contextlib.suppress(VaultError):
            change.rekey(ANN, "enrol")
        assert vault.get(ANN, "enrol", "example", "01") == expected[ANN, "enrol"]["01"]
    with house.open() as vault:
        assert vault.get(ANN, "enrol", "example", "01") == expected[ANN, "enrol"]["01"]


def test_a_vault_stays_smaller_than_what_is_opened(house, monkeypatch):
    monkeypatch.setattr(schema, "FILE_CAP", 40 * 4096)
    with furnished(house) as vault:
        with pytest.raises(VaultError) as refusal:
            too_much(vault, False)
        assert refusal.value.state == "full"
    house.open().close()
    with house.path.open("ab") as file:
        file.truncate(41 * 4096)
    assert "larger" in str(refused(house, "damaged"))


def test_a_read_only_vault_says_so(house):
    with furnished(house) as vault:
        expected = contents(vault)
        vault._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(VaultError) as refusal:
            put(vault, "77", b"")
        assert refusal.value.state == "readonly"
        assert contents(vault) == expected


IOERR_FSYNC = sqlite3.SQLITE_IOERR_FSYNC


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (sqlite3.SQLITE_FULL, "full"),
        (sqlite3.SQLITE_READONLY, "readonly"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "readonly"),
        (sqlite3.SQLITE_CORRUPT, "damaged"),
        (sqlite3.SQLITE_NOTADB, "damaged"),
        (IOERR_FSYNC, "failed"),
        (sqlite3.SQLITE_BUSY, "failed"),
        (sqlite3.SQLITE_MISMATCH, "failed"),
        (sqlite3.SQLITE_CANTOPEN, "readonly"),
        (sqlite3.SQLITE_PERM, "readonly"),
        (sqlite3.SQLITE_IOERR, "failed"),
        (sqlite3.SQLITE_LOCKED, "failed"),
        (None, "failed"),
    ],
)
def test_sqlite_errors_have_states_and_no_text_of_theirs(code, state):
    error = sqlite3.OperationalError("near 'ann says'")
    if code is not None:
        error.sqlite_errorcode = code
    with pytest.raises(VaultError) as refusal, schema.mapped():
        raise error
    assert refusal.value.state == state
    assert "says" not in str(refusal.value)
    assert refusal.value.__suppress_context__
    transient = state in ("full", "readonly") or code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    assert (schema.RESET in refusal.value.fix) is not (transient or code in (sqlite3.SQLITE_IOERR, IOERR_FSYNC))


class CommitFails(sqlite3.Connection):
    """Whose next COMMIT reports an error: before it is done, or after."""

    when = ""

    def execute(self, *args):
        if args[0] == "COMMIT" and self.when:
            when, self.when = self.when, ""
            if when == "after":
                super().execute(*args)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return super().execute(*args)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_fails_is_before_or_else_the_vault_closes(house, monkeypatch, when):
    real = sqlite3.connect
    furnished(house).close()
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: real(*args, **more, factory=CommitFails))
    with house.open() as vault:
        expected = contents(vault)
        vault._connection.when = when
        with pytest.raises(VaultError) as refusal:
            put(vault, "77", b"perhaps")
        assert refusal.value.state == "failed"
        if when == "before":
            assert contents(vault) == expected
            put(vault, "78", b"works")
        else:
            with pytest.raises(VaultError):
                vault.get(ANN, "enrol", "example", "00")
            with pytest.raises(VaultError):
                vault.audit_entries(1)
    with house.open() as vault:
        assert vault.get(ANN, "enrol", "example", "77") == (None if when == "before" else b"perhaps")


def test_a_rotation_whose_first_step_fails_leaves_no_key_of_it(house, monkeypatch):
    real = sqlite3.connect
    furnished(house).close()
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: real(*args, **more, factory=CommitFails))
    with house.open() as vault:
        vault._connection.when = "before"
        with pytest.raises(VaultError), vault.change("forgot", rotate=True):
            pass
        assert set(vault._ring.keks) == {2}
        assert not vault.owed
        with vault.change("forgot", rotate=True):
            pass
        assert (vault.owed, vault.counts().generation) == (False, 3)
    house.open().close()


# Anything, in any order


class AnyOrder(RuleBasedStateMachine):
    """The vault against a dictionary."""

    profiles, purposes = st.sampled_from([ANN, BEN, ""]), st.sampled_from(["enrol", "usage"])
    idents, rotate = st.sampled_from(["00", "01", "02"]), st.booleans()

    def __init__(self):
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        from pathlib import Path

        self.house = House(Path(self.directory.name))
        self.vault = self.house.create()
        self.model = {}

    @rule(profile=profiles, purpose=purposes)
    def add(self, profile, purpose):
        if (profile, purpose) not in self.model:
            with self.vault.change("key-added") as change:
                change.add_key(profile, purpose, "01")
            self.model[profile, purpose] = {}

    @precondition(lambda self: self.model)
    @rule(data=st.data(), ident=idents, payload=st.binary(max_size=20), then=st.sampled_from(["", "rekey", "fail"]))
    def put(self, data, ident, payload, then):
        profile, purpose = data.draw(st.sampled_from(sorted(self.model)))
        try:
            with self.vault.change("put", rotate=then == "rekey") as change:
                change.put(profile, purpose, "example", ident, payload)
                if then == "rekey":
                    change.rekey(profile, purpose)
                elif then == "fail":
                    raise InterruptedError
        except InterruptedError:
            return
        self.model[profile, purpose][ident] = payload

    @precondition(lambda self: self.model)
    @rule(data=st.data(), ident=idents, rotate=rotate)
    def delete(self, data, ident, rotate):
        profile, purpose = data.draw(st.sampled_from(sorted(self.model)))
        with self.vault.change("forgot", rotate) as change:
            assert change.delete(profile, purpose, "example", ident) == (ident in self.model[profile, purpose])
        self.model[profile, purpose].pop(ident, None)

    @rule(profile=profiles, rotate=rotate)
    def erase(self, profile, rotate):
        with self.vault.change("erased", rotate) as change:
            change.erase(profile)
        self.model = {key: value for key, value in self.model.items() if key[0] != profile}

    @rule(hours=st.integers(0, 30))
    def wait(self, hours):
        self.house.clock.pass_(3600 * hours)
        self.vault.rotate_if_due()

    @rule()
    def restart(self):
        self.vault.close()
        self.vault = self.house.open()

    @invariant()
    def same(self):
        names = [(profile, purpose) for profile in ("", ANN, BEN) for purpose in self.vault.purposes(profile)]
        found = {key: {r.id: r.payload for r in self.vault.items(*key, "example")} for key in names}
        assert found == self.model

    def teardown(self):
        self.vault.close()
        self.house.open().close()
        self.directory.cleanup()


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_any_order_of_calls_is_what_a_dictionary_would_hold = AnyOrder.TestCase
