"""Consent receipts: who may keep what, for what, for how long, and how that was agreed.

The fields are those of ISO/IEC TS 27560:2023, clause 6, by these names:

| here | there |
| --- | --- |
| schema, record | 6.2 header: schema version, record identifier |
| principal | 6.2.4 PII principal identifier: the profile's opaque id, never a name |
| controller | 6.4 party identification: the household that runs the device |
| notice, notice_version, language | 6.3.2 privacy notice, by its digest, with version and language |
| purpose, basis, categories | 6.3.3 purpose, lawful basis, PII categories |
| retention_days, storage, recipients | 6.3.9 retention period, 6.3.11 storage location, 6.3.13 recipients |
| withdrawal | 6.3.15 withdrawal method |
| state, time, how, agent | 6.5 event: state, time, how the person agreed, and the Unix user who did when paired |

A receipt is canonical JSON; its id is the SHA-256 of that, and the vault binds the data key of the purpose to it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from idiolect.errors import VaultError
from idiolect.host import structure
from idiolect.values import RETENTION

SCHEMA = "ISO/IEC TS 27560:2023 idiolect/1"
CONTROLLER = "the household that runs this device"
STORAGE = "on this device, encrypted"
WITHDRAWAL = "idiolect consent withdraw, at any time"
HOW = ("spoken", "paired")
_CAP = 8192


@dataclass(frozen=True, slots=True)
class Receipt:
    """One consent receipt, with the fields that the module's table explains.

    ``time`` is in seconds since the epoch; ``agent`` is a Unix uid, -1 when it was said aloud.
    """

    record: str
    principal: str
    purpose: str
    notice: str
    notice_version: int
    language: str
    state: str
    time: int
    how: str
    agent: int = -1
    retention_days: int = 0
    schema: str = SCHEMA
    controller: str = CONTROLLER
    basis: str = "consent"
    categories: str = ""
    storage: str = STORAGE
    recipients: tuple[str, ...] = ()
    withdrawal: str = WITHDRAWAL

    def encode(self) -> bytes:
        """Return the receipt as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @property
    def ident(self) -> str:
        """Return the receipt's id: the SHA-256 of its canonical form, hex."""
        return hashlib.sha256(self.encode()).hexdigest()


def parse(raw: bytes) -> Receipt:
    """Return the receipt that canonical JSON holds.

    Raises:
        VaultError: the bytes are no receipt; the message names the field that makes no sense.
    """
    fields = _fields(raw)
    for name, kind in Receipt.__annotations__.items():
        expected = {"int": int, "str": str}.get(kind, list)
        if name not in fields or type(fields[name]) is not expected:
            raise _refused(name)
    if fields["purpose"] not in RETENTION:
        raise _refused("purpose")
    if fields["how"] not in HOW or fields["state"] not in ("granted", "withdrawn"):
        raise _refused("state or how")
    found = Receipt(**{**fields, "recipients": tuple(fields["recipients"])}) if len(fields) == 18 else None
    if found is None or found.encode() != raw:
        raise _refused("form")
    return found


def _fields(raw: bytes) -> dict[str, Any]:
    try:
        fields = structure.load(raw) if len(raw) <= _CAP else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise _refused("form")
    return fields


def _refused(name: str) -> VaultError:
    return VaultError(f"a consent receipt is damaged: {name}", "withdraw the purpose and ask again", "damaged")
