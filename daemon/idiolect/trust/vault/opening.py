"""Opens a vault: every row is read once, checked, and only then believed. Nothing here writes.

The checks, after those of ``schema.probe``:

5. the rows have their types and sizes, and there are no more than a vault may have;
6. M of one slot, the newer one if both do, opens the vault's own key; if neither does, the origin says whether the
   file is older than the keys, newer than they are, another device's, or damaged;
7. the top root: counters, rotation, ends of the audit log, and the roots of the profiles, as last written;
8. the keys opened belong to the rotation that the file is in;
9. every profile's root: no record or key is missing, added, older or in another place;
10. every key opens under its own name and receipt, and every record names a key that is there;
11. the audit log, from its anchor to its head;
12. the device id is the one that the caller knows.

A payload is checked when it is read (13): its tag is under the root, so nothing else can be put in its place.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from idiolect.errors import KeystoreError, VaultError
from idiolect.trust.vault import audit, envelope, roots
from idiolect.trust.vault.keystore import Released, Slot
from idiolect.trust.vault.roots import DataKey, Head, ProfileContents, RecordName, State, VaultContents
from idiolect.trust.vault.schema import MAX_RECORDS, MAX_WRAPS, RESET, mapped
from idiolect.trust.vault.secret import Secret


@dataclass(frozen=True, slots=True)
class Wrap:
    """A row of ``wraps``: a data key in a box, and the fields that the box is bound to."""

    profile: str
    purpose: str
    generation: int
    receipt: str
    key_generation: int
    box: bytes

    def open(self, kek: Secret) -> Secret:
        """Return the key in the box. Raises ``Unopened``."""
        place = roots.wrap_aad(self.profile, self.purpose, self.receipt, self.key_generation, self.generation)
        return envelope.open_key(kek, self.box, place)


@dataclass(frozen=True, slots=True)
class Contents:
    """All rows but the payloads, not yet believed."""

    state: State
    origin: bytes
    root: bytes
    wraps: tuple[Wrap, ...]
    records: dict[str, dict[RecordName, Head]]
    macs: dict[str, bytes]
    entries: tuple[audit.Entry, ...]


@dataclass(slots=True)
class Opened:
    """A vault whose every row was checked. ``keks`` by rotation; ``slot`` is the one that opened it."""

    ledger: VaultContents
    vault_key: Secret
    keks: dict[int, Secret]
    slot: Slot
    root: bytes
    """The top root that was checked."""

    def wipe(self) -> None:
        """Overwrite every key that was opened: the vault's own, those that wrap, and the data keys."""
        secrets = [self.vault_key, *self.keks.values()]
        secrets += [key.secret for shelf in self.ledger.shelves.values() for key in shelf.keys.values()]
        for secret in secrets:
            secret.wipe()


def refuse(check: int, message: str, state: str = "damaged", fix: str = RESET) -> NoReturn:
    """Raise the ``VaultError`` of a numbered check."""
    raise VaultError(f"vault refused ({check}): {message}", fix, state)


def open_vault(connection: sqlite3.Connection, released: Released, device: str = "") -> Opened:
    """Read and check everything.

    Args:
        device: the id that the vault has to be of, "" for any.

    Raises:
        VaultError: says which check failed.
    """
    with mapped("damaged"), _shaped():
        contents = _read(connection)
    with _shaped():
        opened = _unlock(contents, released)
    try:
        with _shaped():
            _check(contents, opened)
        if device and contents.state.device != device:  # 12
            refuse(12, "it is of another device id than this device has", "foreign")
    except BaseException:
        opened.wipe()
        raise
    return opened


@contextlib.contextmanager
def _shaped() -> Iterator[None]:
    """Refuse rows of wrong types or sizes (check 5).

    A damaged page gives NULL, negative numbers and text for bytes where SQLite's own rules forbid them.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError, OverflowError):
        refuse(5, "a row does not have the shape that it was written in")


def _read(connection: sqlite3.Connection) -> Contents:
    state, origin, root = _read_state(connection)
    wraps = tuple(Wrap(*row) for row in _rows(connection, _WRAPS, MAX_WRAPS))
    records: dict[str, dict[RecordName, Head]] = {}
    for profile, purpose, kind, ident, *rest in _rows(connection, _RECORDS, MAX_RECORDS):
        name = (purpose, kind, ident)
        records.setdefault(profile, {})[name] = roots.head(name, *rest)
    macs = dict(_rows(connection, "SELECT profile, mac FROM roots", MAX_WRAPS))
    entries = tuple(read_entries(connection, audit.MAX_ENTRIES + 1))
    if len(entries) > audit.MAX_ENTRIES:
        refuse(5, _TOO_MANY)
    return Contents(state, origin, root, wraps, records, macs, entries)


_TOO_MANY = "a table has more rows than a vault may have"
_WRAPS = "SELECT profile, purpose, generation, receipt, key_generation, box FROM wraps"
_RECORDS = "SELECT profile, purpose, kind, id, encoder, key_generation, expires, tag FROM records"
_META = """SELECT device, counter, generation, pending, owed, credit, high,
    anchor_count, anchor_head, count, head, origin, root FROM meta"""


def _rows(connection: sqlite3.Connection, query: str, cap: int) -> list[Any]:
    rows = connection.execute(f"{query} LIMIT {cap + 1}").fetchall()
    if len(rows) > cap:
        refuse(5, _TOO_MANY)
    return rows


def read_entries(connection: sqlite3.Connection, limit: int) -> list[audit.Entry]:
    """Return the last entries of the audit log, oldest first."""
    query = "SELECT seq, time, kind, body, hash FROM audit ORDER BY seq DESC LIMIT ?"
    return [audit.Entry(*row) for row in reversed(connection.execute(query, (max(0, limit),)).fetchall())]


def _mark(count: int, head: bytes) -> audit.Mark:
    return audit.Mark(count, bytes(head))


def _read_state(connection: sqlite3.Connection) -> tuple[State, bytes, bytes]:
    row = connection.execute(_META).fetchone()
    if row is None or not all(isinstance(n, int) and n >= 0 for n in (*row[1:8], row[9])):
        raise ValueError("meta")
    state = State(*row[:4], bool(row[4]), *row[5:7], _mark(*row[7:9]), _mark(*row[9:11]))  # type: ignore[call-arg]
    return state, bytes(row[11]), bytes(row[12])


def _unlock(contents: Contents, released: Released) -> Opened:
    """Open the vault's own key (check 6).

    The keys of every slot that opens it are kept, the first of them is in force.
    """
    if not any(released.slots):
        raise KeystoreError("both copies of the rotating key are unreadable", RESET, "damaged")
    own = {w.generation: w for w in contents.wraps if (w.profile, w.purpose) == ("", roots.VAULT_PURPOSE)}
    opened: Opened | None = None
    for slot in sorted(filter(None, released.slots), key=lambda slot: -slot.generation):  # of equals, NEXT first
        if slot.generation not in own or (opened and slot.generation in opened.keks):
            continue
        kek = roots.kek(released.root, slot.secret, slot.generation)
        try:
            vault_key = own[slot.generation].open(kek)
        except envelope.Unopened:
            kek.wipe()
            continue
        if opened is None:
            opened = Opened(VaultContents(contents.state, {}, {}), vault_key, {}, slot, contents.root)
        else:
            vault_key.wipe()
        opened.keks[slot.generation] = kek
    if opened is None:
        _explain(contents, released)
    return opened


def _explain(contents: Contents, released: Released) -> NoReturn:
    """Return the error that says why no key opens the file."""
    state = contents.state
    if not envelope.same(roots.origin(released.root, state), contents.origin):
        refuse(6, "it is another device's, or damaged, or the keystore was made anew", "foreign")
    file, keys = max(state.generation, state.pending), max(s.generation for s in released.slots if s)
    if file < keys:
        fix = "put the newest copy back; what was withdrawn or forgotten since then stays gone"
        refuse(6, f"it is from rotation {file}, the keys are at {keys}: an old copy was put back", "older", fix)
    if file > keys:
        fix = "put the keystore's newest copy back"
        refuse(6, f"it is from rotation {file}, the keys are at {keys}: an old keystore was put back", "foreign", fix)
    refuse(6, "its own key does not open")


def _check(contents: Contents, opened: Opened) -> None:
    """Make checks 7 to 11, and fill ``opened.ledger``."""
    state = contents.state
    with envelope.derive(opened.vault_key, roots.ROOTS_LABEL) as key:
        if not envelope.same(roots.top_root(key, state, contents.macs), contents.root):  # 7
            refuse(7, "its parts are not of one time: something was put back, removed or edited")
        if opened.slot.generation not in (state.generation, state.pending):  # 8
            refuse(8, "its keys are not of the rotation that it is in")
        shelves = _shelves(contents, opened)
        opened.ledger = VaultContents(state, shelves, dict(contents.macs))
        if set(shelves) != set(contents.macs):  # 9
            refuse(9, "a profile is missing, or one too many")
        for profile, shelf in shelves.items():
            if not envelope.same(roots.profile_root(key, profile, shelf), contents.macs[profile]):
                whose = f"profile {profile[:8]}" if profile else "the device itself"
                refuse(9, f"the records or keys of {whose} are not those last written: one is missing, older or moved")
    if audit.walk(state.anchor, contents.entries) != state.end:  # 11
        raise audit.AuditError(5, "does not end where the vault says: it was cut", state.end.count)


def _shelves(contents: Contents, opened: Opened) -> dict[str, ProfileContents]:
    """Open every key, and return keys and records by profile (check 10)."""
    shelves = {profile: ProfileContents(records=records) for profile, records in contents.records.items()}
    opened.ledger = VaultContents(contents.state, shelves, {})  # from here on ``wipe`` finds the keys
    for wrap in contents.wraps:
        if wrap.generation not in (contents.state.generation, contents.state.pending):
            refuse(10, "a key is of no rotation that the file is in")
        if wrap.generation != opened.slot.generation or (wrap.profile, wrap.purpose) == ("", roots.VAULT_PURPOSE):
            continue
        try:
            secret = wrap.open(opened.keks[wrap.generation])
        except envelope.Unopened:
            refuse(10, "a key does not open under its own name and receipt")
        shelf = shelves.setdefault(wrap.profile, ProfileContents())
        shelf.keys[wrap.purpose] = DataKey(wrap.purpose, wrap.receipt, wrap.key_generation, secret)
    for shelf in shelves.values():
        for (purpose, _, _), head in shelf.records.items():
            key = shelf.keys.get(purpose)
            if key is None or key.generation != head.key_generation:
                refuse(10, "a record names a key that is not there")
    return shelves
