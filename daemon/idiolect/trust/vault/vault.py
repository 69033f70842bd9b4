"""The vault keeps data about people, encrypted per profile and purpose, in one SQLite file.

Every change is one transaction together with its audit entry and the new roots (``roots``); a security event also
rotates the key over all keys (``rotation``). A file is checked as a whole when it is opened (``schema.probe``,
``opening``) and is not touched when it is refused. One thread uses a vault.

What it does not see: the whole file put back from a copy that was taken since the last rotation.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from idiolect.errors import KeystoreError, TrustError, VaultError
from idiolect.trust.vault import audit, schema
from idiolect.trust.vault.change import Change, Record, read_record, record_name
from idiolect.trust.vault.file import discard, draft_of, first_state, mapped_os, place, remove
from idiolect.trust.vault.keystore import CURRENT, NEXT, Keystore, Released, Slot
from idiolect.trust.vault.opening import Opened, open_vault, read_entries
from idiolect.trust.vault.roots import VaultContents
from idiolect.trust.vault.rotation import COST, Meter, Ring
from idiolect.trust.vault.schema import mapped
from idiolect.trust.vault.secret import Secret

__all__ = ["Change", "Counts", "Record", "Vault", "discard"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Holds numbers for ``status``; ``generation`` counts rotations, ``profiles`` leaves the device's own out."""

    profiles: int
    keys: int
    records: int
    audit_entries: int
    generation: int


class Vault:
    """An open vault. Errors are ``VaultError``, and ``ValueError`` or ``KeyError`` for wrong calls."""

    def __init__(self, connection: sqlite3.Connection, lock: int, opened: Opened, ring: Ring, meter: Meter) -> None:
        """Take over what ``create`` or ``open`` has opened and checked; call these instead."""
        self._connection = connection
        self._lock = lock
        self._ledger = opened.ledger
        self._vault_key = opened.vault_key
        self._ring = ring
        self._meter = meter
        self._change: Change | None = None
        self._broken = False
        self.trouble: TrustError | None = None
        """Why the last rotation did not come to its end, until one does."""

    @classmethod
    def create(
        cls,
        path: Path,
        released: Released,
        keystore: Keystore,
        device: str = "",
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Vault:
        """Make a vault where there is none, and open it.

        M is replaced first, so that no vault which was here before opens again. ``device`` is an opaque id in
        hexadecimal, by default a random one. On success ``released`` was wiped.
        The file gets its name when all is in it: after a crash there is a whole vault or none.
        """
        if os.path.lexists(path):
            raise VaultError(f"{path.name} exists and is not written over", "open it, or reset the device", "failed")
        if not any(released.slots):
            raise KeystoreError("both copies of the rotating key are unreadable", "provision anew", "damaged")
        if not re.fullmatch("[0-9a-f]{0,64}", device):
            raise ValueError("a device id is hexadecimal, up to 64 digits")
        fresh = Slot(1 + max(slot.generation for slot in released.slots if slot), Secret.random())
        with fresh.secret:
            with mapped(), mapped_os(path):
                state = first_state(device or os.urandom(16).hex(), fresh.generation, int(clock()))
                place(path, released.root, fresh, keystore, state)
            with Secret(released.root.view) as root:  # a copy, as ``open`` leaves it alone where it fails
                renewed = Released(root, (fresh, fresh))
                vault = cls.open(path, renewed, keystore, device, clock=clock, monotonic=monotonic)
        released.wipe()
        return vault

    @classmethod
    def open(
        cls,
        path: Path,
        released: Released,
        keystore: Keystore,
        device: str = "",
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Vault:
        """Check a vault as a whole and open it; a rotation that was interrupted is brought to its end.

        ``device`` is the id that the vault must be of, "" for any. On success ``released`` was wiped. On an error,
        which may be an ``audit.AuditError`` too, both it and the file are as before.
        """
        lock = schema.lock(path)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, lock)
            with mapped("damaged"), schema.probe(path) as probe:
                opened = open_vault(probe, released, device)
            undo.callback(opened.wipe)
            held = {i for i, slot in enumerate(released.slots) if slot and _equal(slot, opened.slot)}
            ring = Ring(Secret(released.root.view), opened.keks, keystore, held)
            undo.callback(ring.wipe)
            vault = cls._connected(path, lock, opened, ring, Meter(clock, monotonic))
            undo.pop_all()
        vault._settle(opened.slot, held)
        released.wipe()
        return vault

    @classmethod
    def _connected(cls, path: Path, lock: int, opened: Opened, ring: Ring, meter: Meter) -> Vault:
        """Do the second half of ``open``: from here on the file may be written."""
        with mapped(), mapped_os(path):
            remove(draft_of(path))
            unclean = schema.has_wal(path)
            connection = schema.connect(path)
            try:
                if connection.execute("SELECT root FROM meta").fetchone() != (opened.root,):
                    raise VaultError(f"{path.name} changed while it was opened", "restart idiolectd", "failed")
                schema.migrate(connection)
                if unclean:
                    schema.flush(connection)
            except BaseException:
                connection.close()
                raise
        opened.ledger.state = meter.resume(opened.ledger.state)
        return cls(connection, lock, opened, ring, meter)

    def close(self) -> None:
        """Close the file and forget every key. Harmless when done twice."""
        if self._lock < 0:
            return
        with contextlib.suppress(sqlite3.Error):  # what was committed is safe in the WAL all the same
            self._connection.close()
        os.close(self._lock)
        self._lock = -1
        self._ring.wipe()
        self._vault_key.wipe()
        for shelf in self._ledger.shelves.values():
            for key in shelf.keys.values():
                key.secret.wipe()

    def __enter__(self) -> Vault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    @property
    def device(self) -> str:
        """Return the opaque id in which the audit chain begins."""
        return self._ledger.state.device

    @property
    def owed(self) -> bool:
        """Return True if a security event waits for its rotation, or for the end of it."""
        return self._ledger.state.owed or self._ledger.state.pending > 0

    def get(self, profile: str, purpose: str, kind: str, ident: str) -> bytes | None:
        """Return the payload of a record, or None."""
        record = self.record(profile, purpose, kind, ident)
        return None if record is None else record.payload

    def record(self, profile: str, purpose: str, kind: str, ident: str) -> Record | None:
        """Return a record with its payload, or None where there is none of that name."""
        name = record_name(purpose, kind, ident)
        ledger = self._now()
        if profile not in ledger.shelves or name not in ledger.shelves[profile].records:
            return None
        with mapped():
            return read_record(self._connection, ledger, profile, name)

    def idents(self, profile: str, purpose: str, kind: str) -> list[str]:
        """Return the ids of all records of a kind, in order; no payload is read for it."""
        shelf = self._now().shelves.get(profile)
        return sorted(name[2] for name in shelf.records if name[:2] == (purpose, kind)) if shelf else []

    def encoders(self, profile: str, kind: str) -> set[str]:
        """Return the encoders that a profile's records of a kind are of; no payload is read for it."""
        shelf = self._now().shelves.get(profile)
        return {head.encoder for name, head in shelf.records.items() if name[1] == kind} if shelf else set()

    def root(self, profile: str) -> bytes:
        """Return the root over all of a profile: another one whenever anything of it is another."""
        return self._now().macs.get(profile, b"")

    def items(self, profile: str, purpose: str, kind: str) -> list[Record]:
        """Return all records of a kind, by id."""
        ledger, names = self._now(), [(purpose, kind, ident) for ident in self.idents(profile, purpose, kind)]
        with mapped():
            return [read_record(self._connection, ledger, profile, name) for name in names]

    def profiles(self) -> list[str]:
        """Return the profiles that have a key for something, the device's own left out."""
        return sorted(filter(None, self._now().shelves))

    def purposes(self, profile: str) -> dict[str, str]:
        """Return the purposes for which a profile has keys, each with the receipt that its key is bound to."""
        shelf = self._now().shelves.get(profile)
        return {purpose: key.receipt for purpose, key in sorted(shelf.keys.items())} if shelf else {}

    def expired(self, day: int, since: int = 1) -> list[tuple[str, str, str, str]]:
        """Return (profile, purpose, kind, id) of the records whose last day is before ``day`` and not before ``since``.

        Days are counted from the epoch.
        """
        lasting = range(since, day)
        return sorted(
            (profile, *name)
            for profile, shelf in self._now().shelves.items()
            for name, head in shelf.records.items()
            if head.expires in lasting
        )

    def counts(self) -> Counts:
        """Return how many profiles, keys, records and audit entries there are, and the number of the rotation."""
        ledger = self._now()
        shelves = ledger.shelves.values()
        kept = ledger.state.end.count - ledger.state.anchor.count
        keys, records = sum(len(s.keys) for s in shelves), sum(len(s.records) for s in shelves)
        return Counts(sum(map(bool, ledger.shelves)), keys, records, kept, ledger.state.generation)

    def audit_head(self) -> audit.Mark:
        """Return where the audit log ends: a quote has to cover this."""
        return self._now().state.end

    def audit_export(self, nonce: bytes = b"") -> dict[str, Any]:
        """Return the audit log for others (``audit.export``)."""
        state = self._now().state
        self.audit_verify()
        return audit.export(state.device, state.anchor, self.audit_entries(audit.MAX_ENTRIES), nonce)

    def audit_entries(self, limit: int) -> list[audit.Entry]:
        """Return the newest entries of the audit log, oldest first."""
        self._now()
        with mapped():
            return read_entries(self._connection, limit)

    def audit_verify(self) -> audit.Mark:
        """Walk the whole log again, from the file, to its end; ``audit.AuditError`` names the entry at fault."""
        state = self._now().state
        end = audit.walk(state.anchor, self.audit_entries(audit.MAX_ENTRIES))
        if end != state.end:
            raise audit.AuditError(5, "does not end where the vault says: it was cut", state.end.count)
        return end

    def _now(self) -> VaultContents:
        """Return the contents that hold now: within a change, those with what it has done so far."""
        if self._lock < 0 or self._broken:
            raise VaultError("the vault is closed, or its last write failed half way", "restart idiolectd", "failed")
        return self._ledger if self._change is None else self._change.ledger

    # Changing

    @contextlib.contextmanager
    def change(self, kind: str, rotate: bool = False, **fields: int | str) -> Iterator[Change]:
        """Begin one transaction, with an audit entry of ``kind`` and ``fields`` (``audit.KINDS``).

        ``rotate`` marks a security event. Its rotation begins in the same transaction and is done before this returns,
        or stays ``owed`` (no credit, keystore out of reach: see ``trouble``); the event itself is committed all the
        same. Any error within the block, or of the disk, leaves everything as it was.
        """
        with self._transaction() as change:
            yield change
            change.log(kind, {**fields, **change.notes}, self._meter.wall())
            if rotate:
                change.owe()
                self._begin_rotation(change)
        if change.begun:
            self._advance()
        elif rotate:
            self.rotate_if_due()  # an earlier one that is stuck gets its next try, for which it pays
        if rotate:
            self._flush()

    def log(self, kind: str, **fields: int | str) -> None:
        """Write one entry into the audit log, in a transaction of its own."""
        with self.change(kind, False, **fields):
            pass

    def sweep(self, day: int) -> int:
        """Delete what has expired (``expired``), rekey what it lay among, and return how many records went."""
        gone = self.expired(day)
        if gone:
            with self.change("swept", count=len(gone), day=day) as change:
                for record in gone:
                    change.delete(*record)
                for profile, purpose in sorted({record[:2] for record in gone}):
                    change.rekey(profile, purpose)
            self._flush()
        return len(gone)

    def prune(self, keep_segments: int = audit.MAX_SEGMENTS) -> int:
        """Drop all old segments of the audit log but the newest ``keep_segments``; return how many entries went."""
        with self._transaction() as change:
            return change.prune(keep_segments, self._meter.wall())

    def rotate_if_due(self) -> bool:
        """Do the rotation that is owed, if there is credit; return True if none is owed now. Call it now and then."""
        state = self._now().state
        if self.owed and self._meter.due(state):
            with self._transaction() as change:
                if state.pending in self._ring.keks:
                    change.spend()
                else:
                    self._begin_rotation(change)
            self._advance()
            self._flush()
        return not self.owed

    def _begin_rotation(self, change: Change) -> None:
        """Make step 1, in the transaction of the event, unless one is in course or there is no credit."""
        state = change.ledger.state
        if state.pending == 0 and state.owed and state.credit >= COST:
            change.begun = state.generation + 1
            self._ring.begin(change.begun)
            change.prepare(self._vault_key)

    def _advance(self) -> None:
        """Make steps 2 to 4. What fails is kept in ``trouble`` and tried again by ``rotate_if_due``."""
        pending = self._ledger.state.pending
        if not pending:
            return
        try:
            self._ring.write()
            with self._transaction() as change:
                change.finish()
                change.log("rotated", {"generation": pending}, self._meter.wall())
            self._ring.finish(pending)
            self.trouble = None
        except TrustError as error:
            self.trouble = error

    def _settle(self, slot: Slot, held: set[int]) -> None:
        """End, after opening, the rotation that was in course, or begin again the one that is owed.

        A slot that does not hold what opened the vault is mended by a rotation too: it may be torn.
        """
        state = self._ledger.state
        try:
            if slot.generation == state.pending:
                self._ring.resume(slot, held)
                self._advance()
                self._flush()
            elif state.pending or held != {NEXT, CURRENT}:
                with self._transaction() as change:
                    change.owe()
            if self.trouble is None:
                self.rotate_if_due()
        except TrustError as error:
            self.trouble = error

    def _flush(self) -> None:
        """Leave nothing deleted in the WAL. Where that fails, the next one does it."""
        with contextlib.suppress(sqlite3.Error):
            schema.flush(self._connection)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Change]:
        """Run a block between BEGIN and COMMIT; memory follows the file only after the commit."""
        before = self._now()
        if self._change is not None:
            raise RuntimeError("a change is in course already")
        change = Change(self._connection, before, self._ring.keks)
        self._change = change
        try:
            with mapped():
                self._connection.execute("BEGIN IMMEDIATE")
                change.reckon(self._meter)
                if before.state.pending and before.state.pending not in self._ring.keks:
                    change.drop_pending()  # or a key made now would be missing under it
                yield change
                change.seal(self._ring.root, self._vault_key)
                self._connection.execute("COMMIT")
        except BaseException:
            self._undo(change, before)
            raise
        self._change = None
        self._ledger = change.ledger
        self._meter.settle()
        change.wipe_unused(before, change.ledger)

    def _undo(self, change: Change, before: VaultContents) -> None:
        """Put everything back after a failure, or mark the vault broken if the file cannot be put back."""
        self._change = None
        change.wipe_unused(change.ledger, before)
        if change.begun:
            self._ring.abandon(change.begun)
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            (counter,) = self._connection.execute("SELECT counter FROM meta").fetchone()
            self._broken = counter != before.state.counter
        except (sqlite3.Error, TypeError):
            self._broken = True


def _equal(a: Slot, b: Slot) -> bool:
    return a.generation == b.generation and a.secret == b.secret
