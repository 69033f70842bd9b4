"""One transaction on the vault: the changes that may be made in it, and how they end up under the roots."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from idiolect.errors import VaultError
from idiolect.trust.vault import audit, envelope, roots
from idiolect.trust.vault.opening import refuse
from idiolect.trust.vault.roots import DataKey, ProfileContents, RecordName, State, VaultContents
from idiolect.trust.vault.rotation import COST, Meter
from idiolect.trust.vault.schema import MAX_RECORDS, MAX_WRAPS, PAYLOAD_CAP, mapped
from idiolect.trust.vault.secret import Secret

MAX_DAY = 10**6
_DELETE = "DELETE FROM records WHERE profile = ? AND purpose = ? AND kind = ? AND id = ?"
_SELECT = "SELECT box FROM records WHERE profile = ? AND purpose = ? AND kind = ? AND id = ?"
_META = "INSERT OR REPLACE INTO meta VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_HEX = re.compile("[0-9a-f]{0,64}")
_WORD = re.compile("[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Record:
    """A record read. ``payload`` stays out of its repr."""

    id: str
    encoder: str
    expires: int
    payload: bytes = field(repr=False)


def record_name(purpose: str, kind: str, ident: str) -> RecordName:
    """Return the name of a record. Raises ``ValueError`` unless words and an id in hexadecimal of up to 64 digits."""
    if not _WORD.fullmatch(purpose) or not _WORD.fullmatch(kind) or not ident or not _HEX.fullmatch(ident):
        raise ValueError("purpose and kind must be short words, an id hexadecimal of up to 64 digits")
    return purpose, kind, ident


class Change:
    """A transaction in course, from ``Vault.change``. Nothing of it is true before the ``with`` block has ended well.

    Profiles, receipts and ids are hexadecimal, up to 64 digits; "" is the device's own profile. Wrong arguments are
    ``ValueError``, failures of the disk ``VaultError``: either undoes the whole transaction.
    """

    def __init__(self, connection: sqlite3.Connection, ledger: VaultContents, keks: dict[int, Secret]) -> None:
        self._connection = connection
        self._keks = keks
        self._touched: set[str] = set()
        self._made: list[DataKey] = []
        self.ledger = VaultContents(ledger.state, dict(ledger.shelves), dict(ledger.macs))
        self.notes: dict[str, int | str] = {}
        self.number = ledger.state.counter + 1
        self._failure: VaultError | None = None
        self.begun = 0
        """The rotation that begins in this transaction, if one does."""

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement; a failure spoils the whole transaction, also where the caller catches it."""
        try:
            with mapped():
                return self._connection.execute(statement, values)
        except VaultError as error:
            self._failure = error
            raise

    def note(self, **fields: int | str) -> None:
        """Add fields to the audit entry, once they are known; ``audit.KINDS`` lists them."""
        self.notes.update(fields)

    def add_key(self, profile: str, purpose: str, receipt: str) -> None:
        """Make the data key of a profile and purpose, bound to a receipt.

        Raises:
            ValueError: there is one already, or an argument is malformed.
            VaultError: the vault has as many keys as it may have.
        """
        if not _HEX.fullmatch(profile) or not _HEX.fullmatch(receipt) or not _WORD.fullmatch(purpose):
            raise ValueError("profile and receipt must be hexadecimal, a purpose a short word")
        shelf = self._shelf(profile)
        if purpose in shelf.keys or purpose == roots.VAULT_PURPOSE:
            raise ValueError("there is a key for this purpose already")
        if 2 * sum(len(s.keys) + 2 for s in self.ledger.shelves.values()) >= MAX_WRAPS:
            raise VaultError("the vault has as many keys as it may have", "erase profiles that are not used", "full")
        self._install(profile, DataKey(purpose, receipt, self.number, Secret.random()))

    def put(  # noqa: PLR0917  # the name of a record has four parts
        self, profile: str, purpose: str, kind: str, ident: str, payload: bytes, encoder: str = "", expires: int = 0
    ) -> None:
        """Write a record, in place of one of the same name.

        Args:
            payload: at most 1 MiB.
            encoder: id of the encoder that it is bound to, hex; "" for none.
            expires: the last day (since the epoch) on which it is kept, 0 for ever.

        Raises:
            KeyError: there is no key for the purpose.
            ValueError: an argument is malformed.
            VaultError: the vault has as many records as it may have.
        """
        name = record_name(purpose, kind, ident)
        if not _HEX.fullmatch(encoder) or not 0 <= expires <= MAX_DAY or len(payload) > PAYLOAD_CAP:
            raise ValueError("encoder must be hexadecimal, expires a day, and the payload within its cap")
        if name not in self.shelf(profile).records and self._count() >= MAX_RECORDS:
            raise VaultError("the vault has as many records as it may have", "let old ones expire", "full")
        self._write(profile, name, Record(ident, encoder, expires, payload), self._shelf(profile).keys[purpose])

    def delete(self, profile: str, purpose: str, kind: str, ident: str) -> bool:
        """Remove a record; return True if it was there. Follow with ``rekey`` where old copies of the disk matter."""
        name = record_name(purpose, kind, ident)
        found = self._shelf(profile).records.pop(name, None) is not None
        self._run(_DELETE, (profile, *name))
        return found

    def rekey(self, profile: str, purpose: str) -> int:
        """Seal what remains under a fresh data key, drop the old one, and return the number of records.

        After it (and once the rotation is done) a record deleted before lies in no old copy of the disk readably, not
        even for who gets today's keys. Raises ``KeyError`` without a key.
        """
        old = self._shelf(profile).keys[purpose]
        names = [name for name in self.shelf(profile).records if name[0] == purpose]
        fresh = DataKey(purpose, old.receipt, self.number, Secret.random())
        for name in names:
            record = self.read(profile, name)
            self._write(profile, name, record, fresh)
        self._drop_wraps(profile, purpose)
        self._install(profile, fresh)
        return len(names)

    def withdraw(self, profile: str, purpose: str) -> int:
        """Remove the key of a purpose and every record under it, and return the number of records."""
        shelf = self._shelf(profile)
        shelf.keys.pop(purpose, None)
        names = [name for name in shelf.records if name[0] == purpose]
        for name in names:
            del shelf.records[name]
        self._run("DELETE FROM records WHERE profile = ? AND purpose = ?", (profile, purpose))
        self._drop_wraps(profile, purpose)
        return len(names)

    def erase(self, profile: str) -> int:
        """Remove everything of a profile, and return the number of records."""
        return sum(self.withdraw(profile, purpose) for purpose in list(self.shelf(profile).keys))

    def read(self, profile: str, name: RecordName) -> Record:
        """Return a record as it is within this transaction. Raises ``KeyError`` when there is none."""
        try:
            return read_record(self._connection, self.ledger, profile, name)
        except VaultError as error:
            self._failure = error
            raise

    def _count(self) -> int:
        return sum(len(shelf.records) for shelf in self.ledger.shelves.values())

    def shelf(self, profile: str) -> ProfileContents:
        """Return a profile's keys and records for reading; whoever changes something takes ``_shelf``."""
        return self.ledger.shelves.get(profile) or ProfileContents()

    def _shelf(self, profile: str) -> ProfileContents:
        """Return a profile's keys and records for changing: a copy, so that a failure leaves the old ones whole."""
        if profile not in self._touched:
            self._touched.add(profile)
            self.ledger.shelves[profile] = self.shelf(profile).copy()
        return self.ledger.shelves[profile]

    def _install(self, profile: str, key: DataKey) -> None:
        """Write a key's wraps for every rotation that is open."""
        self._made.append(key)
        self._shelf(profile).keys[key.purpose] = key
        for generation in self._keks:
            self._wrap(profile, key, generation)

    def _wrap(self, profile: str, key: DataKey, generation: int) -> None:
        place = roots.wrap_aad(profile, key.purpose, key.receipt, key.generation, generation)
        box = envelope.seal(self._keks[generation], key.secret.view, place)
        row = (profile, key.purpose, generation, key.receipt, key.generation, box)
        self._run("INSERT INTO wraps VALUES (?, ?, ?, ?, ?, ?)", row)

    def _drop_wraps(self, profile: str, purpose: str) -> None:
        self._run("DELETE FROM wraps WHERE profile = ? AND purpose = ?", (profile, purpose))

    def _write(self, profile: str, name: RecordName, record: Record, key: DataKey) -> None:
        place = roots.record_aad(profile, name, record.encoder, key.generation, record.expires)
        box = envelope.seal(key.secret, record.payload, place)
        tag = box[-envelope.TAG :]
        row = (profile, *name, record.encoder, key.generation, record.expires, tag, box)
        self._run("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._shelf(profile).records[name] = roots.head(name, record.encoder, key.generation, record.expires, tag)

    def log(self, kind: str, fields: Mapping[str, int | str], time: int) -> None:
        """Append an entry to the audit log, and drop its oldest segment when there are too many."""
        entry = audit.append(self.ledger.state.end, max(0, time), kind, fields)
        row = (entry.seq, entry.time, entry.kind, entry.body, entry.hash)
        self._run("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", row)
        self._set(end=audit.Mark(entry.seq, entry.hash))
        if kind != "pruned":
            self.prune(audit.MAX_SEGMENTS, time)

    def prune(self, keep: int, time: int) -> int:
        """Drop whole old segments of the audit log but the newest ``keep``, and return how many entries went."""
        anchor = self.ledger.state.anchor
        last = audit.last_to_drop(anchor, self.ledger.state.end, keep)
        if last <= anchor.count:
            return 0
        (head,) = self._run("SELECT hash FROM audit WHERE seq = ?", (last,)).fetchone()
        self._run("DELETE FROM audit WHERE seq <= ?", (last,))
        self._set(anchor=audit.Mark(last, head))
        self.log("pruned", {"count": last - anchor.count}, time)
        return last - anchor.count

    def owe(self) -> None:
        """Note that a rotation must begin after this."""
        self._set(owed=True)

    def prepare(self, vault_key: Secret) -> None:
        """Write wraps under the new key, which is in the ring already, beside the old ones (step 1 of a rotation)."""
        state = self.ledger.state
        pending = state.generation + 1
        self._wrap("", _vault_key(vault_key), pending)
        for profile, shelf in self.ledger.shelves.items():
            for key in shelf.keys.values():
                self._wrap(profile, key, pending)
        self._set(pending=pending, owed=False, credit=state.credit - COST)

    def spend(self) -> None:
        """Pay for another try of a rotation in course."""
        self._set(credit=self.ledger.state.credit - COST)

    def begin(self, vault_key: Secret, state: State) -> None:
        """Write the first rows of a new vault, whose one key is in the ring already."""
        self.ledger.state = state
        self._wrap("", _vault_key(vault_key), state.generation)

    def drop_pending(self) -> None:
        """Undo step 1, whose M' is lost."""
        self._run("DELETE FROM wraps WHERE generation = ?", (self.ledger.state.pending,))
        self._set(pending=0, owed=True)

    def finish(self) -> None:
        """Take the new key in force, and delete the wraps of the old one (step 4 of a rotation)."""
        state = self.ledger.state
        self._run("DELETE FROM wraps WHERE generation <> ?", (state.pending,))
        self._set(generation=state.pending, pending=0)

    def reckon(self, meter: Meter) -> None:
        """Bring the credit for rotations up to now."""
        self.ledger.state = meter.reckon(self.ledger.state)

    def seal(self, root: Secret, vault_key: Secret) -> None:
        """Compute new roots over everything that this transaction touched: the last step before the commit.

        Raises an earlier failure of the transaction again, also where the caller had caught it.
        """
        if self._failure:
            raise self._failure
        self._set(counter=self.number)
        ledger = self.ledger
        with envelope.derive(vault_key, roots.ROOTS_LABEL) as key:
            for profile in self._touched:
                self._seal_profile(key, profile)
            top = roots.top_root(key, ledger.state, ledger.macs)
        write_state(self._connection, ledger.state, roots.origin(root, ledger.state), top)

    def _seal_profile(self, key: Secret, profile: str) -> None:
        shelf = self.ledger.shelves[profile]
        if not shelf.keys:
            del self.ledger.shelves[profile]
            self.ledger.macs.pop(profile, None)
            self._run("DELETE FROM roots WHERE profile = ?", (profile,))
            return
        mac = roots.profile_root(key, profile, shelf)
        self.ledger.macs[profile] = mac
        self._run("INSERT OR REPLACE INTO roots VALUES (?, ?)", (profile, mac))

    def _set(self, **fields: Any) -> None:
        self.ledger.state = replace(self.ledger.state, **fields)

    def wipe_unused(self, before: VaultContents, after: VaultContents) -> None:
        """Forget the data keys that this transaction made or found and that ``after`` does not hold any more."""
        kept = {
            id(key) for profile in self._touched for key in after.shelves.get(profile, ProfileContents()).keys.values()
        }
        found = [
            key for profile in self._touched for key in before.shelves.get(profile, ProfileContents()).keys.values()
        ]
        for key in [*found, *self._made]:
            if id(key) not in kept:
                key.secret.wipe()


def _vault_key(secret: Secret) -> DataKey:
    return DataKey(roots.VAULT_PURPOSE, "", 0, secret)


def read_record(connection: sqlite3.Connection, ledger: VaultContents, profile: str, name: RecordName) -> Record:
    """Read and open a record that ``ledger`` knows. Raises ``KeyError`` when it does not know it."""
    shelf = ledger.shelves[profile]
    head = shelf.records[name]
    row = connection.execute(_SELECT, (profile, *name)).fetchone()
    place = roots.record_aad(profile, name, head.encoder, head.key_generation, head.expires)
    try:
        if row is None or row[0][-envelope.TAG :] != head.tag:
            raise envelope.Unopened("not under the root")
        payload = envelope.open_(shelf.keys[name[0]].secret, row[0], place)
    except (envelope.Unopened, TypeError):
        refuse(13, "a record is not what was written")
    return Record(name[2], head.encoder, head.expires, payload)


def write_state(connection: sqlite3.Connection, state: State, origin: bytes, root: bytes) -> None:
    """Replace the one row of ``meta``."""
    numbers = (state.device, state.counter, state.generation, state.pending, int(state.owed), state.credit, state.high)
    ends = (state.anchor.count, state.anchor.head, state.end.count, state.end.head)
    row = (1, *numbers, *ends, origin, root)
    connection.execute(_META, row)
