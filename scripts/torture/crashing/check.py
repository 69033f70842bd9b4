"""The invariants, looked for in an open vault and in the files of a dead one.

1. The audit log verifies, and still holds the entry with which the last operation that returned ended.
2. Every version of an adapter that is kept has this device's signature and comes out again, byte by byte, when the
   trainer makes it from what the story says the person taught; `learner.verify` is asked besides, as an operation.
3. Everybody has what they were told they have: of an operation in course all of a step or nothing of it; and nothing
   is back that was forgotten, withdrawn or erased. The records are compared by their bytes.
4. No name, no phrase and no part of an example is in any file or in the name of one, whatever died when.
5. No file is left over once the next start has opened the vault; no key, record or root belongs to nobody; no worker
   outlives its daemon (``crash.Board`` watches for that).
6. Nothing is kept for a purpose that is not granted, by the receipt that is in the vault.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.errors import IdiolectError
from idiolect.learning import ledger
from idiolect.learning import round as rounds
from idiolect.learning.ledger import PURPOSES
from idiolect.learning.maps import NOTHING, Succession
from idiolect.learning.model import Model
from idiolect.learning.provenance import Sealed, unseal
from idiolect.learning.trainer import When
from idiolect.people.consent import ADAPTER, CONSENT
from idiolect.people.receipt import Receipt, parse
from idiolect.people.records import USAGE_DAYS
from idiolect.trust.device.identity import RECORD
from idiolect.trust.device.provisioning import ADAPTER_KEY, KEYFILE, VAULT
from idiolect.trust.vault import audit
from idiolect.trust.vault.vault import Vault
from idiolect.values import RETENTION
from torture.crashing.story import Finding, Found, Person, State

KINDS = {
    CONSENT: {"name", "receipt", "counter", "round", "retired"},
    ADAPTER: {"adapter", "state", "shelf", "health", "selftest"},
    "usage": {"count"},
    **{purpose: {"example"} for purpose in PURPOSES.values()},
}
"""What may be kept for which purpose."""
OWN = {"checkpoint", ADAPTER_KEY[1], "browser", "certificate"}
"""Kinds of the device's own records."""
FILES = {VAULT, f"{VAULT}-wal", KEYFILE, RECORD, "personal.json", "last-good.json"}
"""What may lie in the state directory of a device that runs."""


@dataclass(frozen=True)
class Boot:
    """A bundle that may run: its model, and what it brings for earlier encoders."""

    digest: str
    version: int
    encoder: str
    model: Model
    turned: bool = False
    succession: Succession = NOTHING


@dataclass
class Look:
    """What was found in a vault, and what is wrong with it."""

    people: Finding = field(default_factory=dict)
    sealed: dict[str, list[Sealed]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    proven: set[tuple[object, ...]] = field(default_factory=set)
    count: int = 0
    head: str = ""


def look(vault: Vault, count: int = 0, head: str = "") -> Look:
    """Read everything; invariants 1, 5 and 6. ``count`` and ``head``: the entry that must be there."""
    seen = Look()
    try:
        mark = vault.audit_verify()
    except IdiolectError as error:
        seen.wrong.append(f"the audit log does not verify: {error}")
        return seen
    seen.count, seen.head = mark.count, mark.head.hex()
    entries = {entry.seq: entry for entry in vault.audit_entries(audit.MAX_ENTRIES)}
    if mark.count < count or (count in entries and entries[count].hash.hex() != head):
        seen.wrong.append(f"the audit log has {mark.count} entries and not the one numbered {count} that was written")
    _device(vault, seen)
    for profile in vault.profiles():
        try:
            seen.people[profile] = _person(vault, profile, seen)
        except (IdiolectError, ValueError, KeyError, TypeError) as error:
            seen.wrong.append(f"{profile[:6]} cannot be read: {type(error).__name__}: {error}")
    return seen


def _records(vault: Vault, profile: str) -> list[tuple[str, str, str]]:
    shelf = vault._ledger.shelves.get(profile)
    return sorted(shelf.records) if shelf else []


def _device(vault: Vault, seen: Look) -> None:
    strange = {kind for _, kind, _ in _records(vault, "")} - OWN
    if strange:
        seen.wrong.append(f"the device has records that nobody knows: {sorted(strange)}")


def _person(vault: Vault, profile: str, seen: Look) -> Found:
    keys, records = vault.purposes(profile), _records(vault, profile)
    known = [parse(r.payload) for r in vault.items(profile, CONSENT, "receipt")]
    granted = _granted(known, keys)
    name = vault.get(profile, CONSENT, "name", "00")
    wrong = [f"a record {purpose}/{kind}" for purpose, kind, _ in records if kind not in KINDS.get(purpose, set())]
    wrong += [f"a key for {purpose} that no receipt covers" for purpose in keys if purpose not in granted | _OWN_KEYS]
    wrong += [f"a record for {p} that no receipt covers" for p, _, _ in records if p not in granted | _OWN_KEYS]
    wrong += [] if name else ["a profile without a name"]
    examples: list[tuple[int, str, str, str]] = []
    usage: dict[tuple[str, int], int] = {}
    for purpose in sorted(PURPOSES.values()):
        for record in vault.items(profile, purpose, "example"):
            example = ledger.decode(record.payload)
            examples.append((example.sequence, example.digest().hex(), record.encoder, purpose))
            if granted.get(purpose) != example.receipt or example.purpose != purpose:
                wrong.append(f"example {example.sequence} is kept under another receipt than its purpose has")
    for record in vault.items(profile, "usage", "count"):
        usage |= {(phrase, int(record.id, 16)): int(n) for phrase, n in json.loads(record.payload).items()}
    table = _versions(vault, profile, granted, seen, wrong)
    counter = int(vault.get(profile, CONSENT, "counter", "00") or 0)
    seen.wrong += [f"{profile[:6]} has {what}" for what in wrong]
    return Found((name or b"").decode(), granted, tuple(sorted(examples)), usage, table, counter)


_OWN_KEYS: dict[str, str] = {CONSENT: "", ADAPTER: ""}
"""Purposes of the vault's own, which need no receipt."""


def _granted(known: Sequence[Receipt], keys: Mapping[str, str]) -> dict[str, str]:
    """Purposes that are agreed to: the key names a receipt that says so."""
    agreed = {(r.purpose, r.ident) for r in known if r.state == "granted"}
    return {p: ident for p, ident in keys.items() if p in RETENTION and (p, ident) in agreed}


def _versions(
    vault: Vault, profile: str, granted: Mapping[str, str], seen: Look, wrong: list[str]
) -> tuple[tuple[int, str], ...]:
    """The table, every version of it and of those set aside signed and with consent, and no version besides."""
    raw = vault.get(profile, ADAPTER, "state", "00")
    rows = json.loads(raw) if raw else []
    listed = {row["number"] for row in rows}
    for shelf in vault.items(profile, ADAPTER, "shelf"):
        listed |= {row["number"] for row in json.loads(shelf.payload)["versions"]}
    kept = {int(record.id, 16): unseal(record.payload) for record in vault.items(profile, ADAPTER, "adapter")}
    if set(kept) != listed:
        wrong.append(f"versions {sorted(kept)} of an adapter, and tables that list {sorted(listed)}")
    if sum(row["state"] in ("canary", "active") for row in rows) > 1:
        wrong.append("two versions in use")
    key = serialization.load_der_private_key(vault.get("", *ADAPTER_KEY) or b"", None).public_key() if kept else None
    for number, sealed in sorted(kept.items()):
        record = sealed.provenance
        try:
            key.verify(sealed.signature, record.signed_bytes(), ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr,call-arg,arg-type]
        except InvalidSignature:
            wrong.append(f"version {number} with a signature that is not the device's")
        if (record.profile, record.number) != (profile, number):
            wrong.append(f"version {number} under another's name")
        if not set(record.receipts) <= set(granted.values()):
            wrong.append(f"version {number} made from what no receipt covers")
        seen.sealed.setdefault(profile, []).append(sealed)
    return tuple((int(row["number"]), str(row["state"])) for row in rows)


# -- adapters ------------------------------------------------------------------------------------------------------


def prove(seen: Look, state: State, boots: Iterable[Boot], proven: set[tuple[object, ...]]) -> list[str]:
    """Invariant 2: make every version anew that is not in ``proven``; what does not come out as it is kept."""
    wrong, known = [], {boot.digest: boot for boot in boots}
    for profile, kept in seen.sealed.items():
        for sealed in kept:
            record = sealed.provenance
            boot = known.get(record.bundle)
            if boot is None or profile not in state:
                wrong.append(f"version {record.number} of {profile[:6]} is of a bundle or a person that nobody knows")
                continue
            told = _ledger(profile, state[profile], boot, record.day, record.last)
            if told.digest() != record.ledger:
                wrong.append(f"version {record.number} of {profile[:6]} was not made from what they taught")
                continue
            name = (profile, record.number, record.adapter, record.ledger)
            when = When(record.day, record.number)
            if name not in proven and rounds.replay(boot.model, told, when, record.step) != sealed.data:
                wrong.append(f"version {record.number} of {profile[:6]} does not come out again")
            seen.proven.add(name)
    return wrong


def _ledger(profile: str, person: Person, boot: Boot, day: int, last: int) -> ledger.Ledger:
    """What the story says that an adapter was made from."""
    examples, maps = [], boot.succession.maps
    for each in person.examples:
        if each.sequence > last or (each.encoder != boot.encoder and each.encoder not in maps):
            continue
        made = each.made()
        examples.append(made if each.encoder == boot.encoder else maps[each.encoder].carried(made, each.encoder))
    usage = {key: count for key, count in person.usage.items() if day - USAGE_DAYS <= key[1] < day}
    return ledger.Ledger(profile, tuple(examples), usage)


# -- files ---------------------------------------------------------------------------------------------------------


def leftovers(folder: Path, more: Iterable[str] = ()) -> list[str]:
    """Invariant 5, while the vault is open: what does not belong into the state directory."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return [f"{name} is left over in the state directory" for name in sorted(found - FILES - set(more))]


def plaintext(folder: Path, marks: Sequence[bytes]) -> list[str]:
    """Invariant 4: every file, whoever made it."""
    found = []
    for path in sorted(folder.rglob("*")):
        if any(mark in bytes(path.name.encode()) for mark in marks[:1]):
            found.append("a file is called after somebody or something they said")
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path.name} holds plaintext (mark {i})" for i, mark in enumerate(marks) if mark in data]
    return found


_ROWS = {
    "records without a key": "SELECT count(*) FROM records WHERE (profile, purpose) NOT IN "
    "(SELECT profile, purpose FROM wraps)",
    "keys of people without a name and receipts": "SELECT count(*) FROM wraps WHERE profile <> '' AND profile NOT IN "
    "(SELECT profile FROM records WHERE purpose = 'consent' AND kind = 'name')",
    "keys without a root": "SELECT count(*) FROM wraps WHERE purpose <> 'vault' AND profile NOT IN "
    "(SELECT profile FROM roots)",
    "roots without a key": "SELECT count(*) FROM roots WHERE profile NOT IN (SELECT profile FROM wraps)",
    "keys of a rotation that is neither in force nor in course": "SELECT count(*) FROM wraps WHERE generation NOT IN "
    "(SELECT generation FROM meta UNION SELECT pending FROM meta)",
}


def orphans(folder: Path, erased: Iterable[str]) -> list[str]:
    """Invariant 5, in the file of a dead process: rows that belong to nobody. It is a copy that is looked at."""
    source = folder / VAULT
    if not source.exists():
        return []
    with tempfile.TemporaryDirectory() as name:
        for path in (source, source.with_name(f"{VAULT}-wal")):
            if path.exists():
                shutil.copy(path, Path(name) / path.name)
        with contextlib.closing(sqlite3.connect(Path(name) / VAULT)) as connection:
            counts = {what: connection.execute(query).fetchone()[0] for what, query in _ROWS.items()}
            there = {
                row[0] for table in ("records", "wraps", "roots") for row in connection.execute(_PROFILES[table])
            }  # fmt: skip
    found = [f"the vault has {count} {what}" for what, count in counts.items() if count]
    return found + (["the vault has rows of somebody who was erased"] if there & set(erased) else [])


_PROFILES = {table: f"SELECT DISTINCT profile FROM {table}" for table in ("records", "wraps", "roots")}  # noqa: S608
