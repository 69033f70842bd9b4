"""Records where an adapter comes from, in a form that can be signed: canonical JSON, checked again before use.

A record names the bundle, the ledger (by digest), every consent receipt behind it, the gate's numbers, and the digest
of the adapter's file. Whoever has the bundle, the ledger and the record can make the file again and compare.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from idiolect.errors import NONSENSE, LearningError
from idiolect.host import structure

DOMAIN = b"idiolect/adapter/v1"
"""Prefix of what is signed, so that the signature means nothing elsewhere."""
_CAP = 2 << 20


@dataclass(frozen=True, slots=True)
class Provenance:
    """The record of where one version comes from. ``profile`` is an opaque id; digests and receipts are hex."""

    profile: str
    number: int
    bundle: str
    ledger: str
    day: int
    step: int
    """Step of the trainer's ladder."""
    adapter: str
    """SHA-256 of the file."""
    examples: int
    last: int
    """Number of the newest example in the ledger at the time: later ones are left out of a replay."""
    receipts: tuple[str, ...]
    gate: Mapping[str, float] = field(default_factory=dict)
    version: int = 1
    mapped: Mapping[str, int] = field(default_factory=dict)
    """How many examples were mapped from which earlier encoder, by its id; not written where none were."""

    def encode(self) -> bytes:
        """Return the record as canonical JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__} | {"gate": dict(self.gate)}
        fields |= {"mapped": dict(self.mapped)}
        if not self.mapped:
            del fields["mapped"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def audited(self, state: str) -> dict[str, int | str]:
        """Return the fields of the audit entry of a version that enters the table in ``state``."""
        mapped: dict[str, int | str] = {"mapped": sum(self.mapped.values())} if self.mapped else {}
        return mapped | {
            "profile": self.profile, "adapter": self.number, "digest": self.adapter, "examples": self.examples,
            "state": state, "held_out": int(self.gate["own_held_out"]), "wrong": int(self.gate["own_wrong"]),
            "wrong_before": int(self.gate["own_wrong_before"]), "guard_lost": int(self.gate.get("guard_lost", 0)),
            "guard_won": int(self.gate.get("guard_won", 0)),
        }  # fmt: skip

    def signed_bytes(self) -> bytes:
        """Return the bytes that the device's adapter key signs."""
        return DOMAIN + hashlib.sha256(self.encode()).digest()


def parse(raw: bytes) -> Provenance:
    """Read canonical JSON. Raises ``LearningError`` when it is anything else."""
    try:
        fields: dict[str, Any] = structure.load(raw)
        fields["receipts"] = tuple(str(r) for r in fields["receipts"])
        found = Provenance(**fields)
        numbers = (found.number, found.day, found.step, found.examples, found.last, found.version)
        texts = (found.profile, found.bundle, found.ledger, found.adapter)
        if not all(isinstance(n, int) for n in numbers) or not all(isinstance(t, str) for t in texts):
            raise ValueError
        if found.version != 1 or found.encode() != raw:
            raise ValueError
    except NONSENSE:
        raise LearningError("an adapter's provenance is not what was signed", "`idiolect rollback`") from None
    return found


@dataclass(frozen=True, slots=True)
class Sealed:
    """An adapter as the vault keeps it: file, provenance, signature (DER)."""

    provenance: Provenance
    signature: bytes
    data: bytes

    def encode(self) -> bytes:
        """Return the three parts, each after its length."""
        parts = (self.provenance.encode(), self.signature, self.data)
        return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unseal(raw: bytes) -> Sealed:
    """Read what ``encode`` wrote and check that the file is the one that the provenance names.

    Raises:
        LearningError: it is not, or the bytes are damaged.
    """
    parts, at = [], 0
    try:
        for _ in range(3):
            (size,) = struct.unpack_from("<I", raw, at)
            if size > _CAP or at + 4 + size > len(raw):
                raise ValueError
            parts.append(raw[at + 4 : at + 4 + size])
            at += 4 + size
        if at != len(raw):
            raise ValueError
    except (struct.error, ValueError):
        raise LearningError("an adapter is not what was written", "`idiolect rollback`") from None
    sealed = Sealed(parse(parts[0]), parts[1], parts[2])
    if hashlib.sha256(sealed.data).hexdigest() != sealed.provenance.adapter:
        raise LearningError("an adapter is not the one that its provenance names", "`idiolect rollback`")
    return sealed
