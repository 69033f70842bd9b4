"""Targets for what lies on a device's disk, or comes from it: vault, record, audit export, quotes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from idiolect.errors import IdiolectError, TrustError
from idiolect.trust.device import attestation, documents, identity
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.device.provisioning import Provisioning
from idiolect.trust.vault import audit
from idiolect.trust.vault.opening import open_vault
from idiolect.trust.vault.vault import Vault
from tests.fuzz.machine import folder
from tests.support.bundles import key
from tests.support.vaults import ANN, House

COLUMNS = (
    *(("meta", name) for name in ("device", "counter", "generation", "pending", "owed", "credit", "origin", "root")),
    *(("meta", name) for name in ("anchor_count", "anchor_head", "count", "head")),
    *(("wraps", name) for name in ("profile", "purpose", "generation", "receipt", "key_generation", "box")),
    *(("records", name) for name in ("profile", "purpose", "kind", "id", "encoder", "key_generation", "expires")),
    *(("records", name) for name in ("tag", "box")),
    *(("roots", name) for name in ("profile", "mac")),
    *(("audit", name) for name in ("seq", "time", "kind", "body", "hash")),
)


@cache
def _stored() -> tuple[bytes, Path, bytes]:
    """A vault's file, the keystore that opens it, and an export of its audit log."""
    house = House(folder() / "house")
    keystore, released = FileKeystore.open(house.keyfile)
    with Vault.create(house.path, released, keystore, "ab" * 16) as vault:
        with vault.change("key-added", profile=ANN, purpose="enrol", receipt="01") as change:
            change.add_key(ANN, "enrol", "01")
            change.put(ANN, "enrol", "example", "0a", b"a window")
        export = json.dumps(vault.audit_export(b"n" * 16)).encode()
    image = bytearray(house.path.read_bytes())
    image[18:20] = b"\1\1"  # no WAL in memory; the rest of the file is as it is
    return bytes(image), house.keyfile, export


def vault_file(data: bytes) -> None:
    """The first two bytes say where in the file the rest is written: nothing else may open as if it were right."""
    good, keyfile, _ = _stored()
    at = int.from_bytes(data[:2], "big") * 16 % len(good)
    changed = good[:at] + data[2:] + good[at + len(data[2:]) :]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        try:
            connection.deserialize(changed)
        except sqlite3.Error:
            return
        _open(connection, keyfile)


def vault_row(data: bytes) -> None:
    """The first byte names a column, the rest is what every row of its table gets there."""
    good, keyfile, _ = _stored()
    table, column = COLUMNS[(data[0] if data else 0) % len(COLUMNS)]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(good)
        (kind,) = [row[2] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] == column]
        value: object = data[1:]
        if kind == "INTEGER":
            value = int.from_bytes(data[1:8], "big", signed=True)
        elif kind == "TEXT":
            value = data[1:].decode("utf-8", "replace")
        try:
            connection.execute(f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608 - names of ours
        except sqlite3.Error:
            return  # SQLite itself keeps such a row out
        _open(connection, keyfile)


def _open(connection: sqlite3.Connection, keyfile: Path) -> None:
    _, released = FileKeystore.open(keyfile)
    try:
        opened = open_vault(connection, released)
    except TrustError:
        return
    finally:
        released.wipe()
    try:
        ledger = opened.ledger
        if (ledger.state.device, ledger.state.end.count) != ("ab" * 16, 1) or set(ledger.shelves) != {"", ANN} - {""}:
            raise AssertionError("another vault was opened")
        if list(ledger.shelves[ANN].records) != [("enrol", "example", "0a")]:
            raise AssertionError("other records were believed")
    finally:
        opened.wipe()


def audit_export(data: bytes) -> None:
    """What verifies has the head that was exported, or is another whole chain of its own."""
    summary = audit.verify_export(data)
    if summary.end.count < summary.anchor.count:
        raise AssertionError("a chain that ends before it begins")


def device_record(data: bytes) -> None:
    """One spelling for one record."""
    if identity.parse(data).encode() != data:
        raise AssertionError("two spellings of one record")


def document(data: bytes) -> None:
    """Nothing that is made up is signed by the pinned key."""
    ak = _ak()
    try:
        documents.is_audit(data)
        documents.verify_attestation(data, ak, bytes(16))
    except IdiolectError:
        return
    raise AssertionError("a forgery")


def quote(data: bytes) -> None:
    """Any bytes are a quote or not."""
    try:
        attestation.parse_quote(data)
    except (ValueError, attestation.struct.error):
        return


def _ak() -> bytes:
    from idiolect.trust.bundle.public_keys import public_pem

    return public_pem(key("attestation").public_key())


def good_vault_row() -> bytes:
    """Sets the profile of every record to what it is."""
    return bytes([COLUMNS.index(("records", "profile"))]) + ANN.encode()


def good_export() -> bytes:
    """An export as a device makes it."""
    return _stored()[2]


@cache
def good_record() -> bytes:
    """A record as provisioning writes it."""
    from dataclasses import replace

    from idiolect.config.schema import Config

    state = folder() / "provisioned"
    state.mkdir()
    for step in Provisioning(replace(Config(), state_dir=state)).steps():
        step.run()
    return (state / identity.RECORD).read_bytes()
