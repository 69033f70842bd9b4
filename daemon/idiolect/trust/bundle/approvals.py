"""Approvals: the policy key says in advance which measurements of a boot may have the device's keys.

Bytes of `approvals.json` and keys go in, ``Approval`` values come out, and the other way round. No I/O, and no TPM.

`approvals.json`, canonical JSON: ``{"approvals": [{from, key, pcr, policy, signature, to}, ...], "schema": 1}``, sorted
by key, PCR and ``from``, none of these twice.

A boot of a bundle extends the PCR by ``m = sha256(manifest.json)``, which takes it from ``from`` to
``to = sha256(from || m)`` (TPM 2.0 Part 1, PCR extend). An approval is the policy key's signature that a TPM whose
PCR holds ``to`` may open what was bound to that key:

| field | what it holds |
| --- | --- |
| `from`, `to` | the PCR before and after, 32 bytes in hex |
| `pcr` | its number, 0 to 15: 16 and 23 can be reset by whoever is root, 17 to 22 belong to a dynamic launch |
| `policy` | PolicyPCR digest of ``to`` (Part 3, 23.7) |
| `signature` | ECDSA P-256 with SHA-256 over ``policy || POLICY_REF``, DER, base64: PolicyAuthorize (Part 3, 23.16) |
| `key` | sha256 of the policy key's SubjectPublicKeyInfo |

The secrets' own policy is ``policy_authorize(tpm_name(key), POLICY_REF)``: it names the key and never a measurement,
so a new bundle needs new approvals and no new sealing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.errors import BundleError
from idiolect.trust.bundle import canonical
from idiolect.trust.bundle.canonical import parse_object
from idiolect.trust.bundle.public_keys import fingerprint
from idiolect.trust.bundle.source import APPROVED, FORM

FILE = "approvals.json"
CAP = 192 << 10
MAX_APPROVALS = 256
POLICY_REF = b"idiolect/v1"
"""The policyRef: a signature made for another purpose of the same key opens nothing here."""
DEFAULT_PCR = 14
LAST_PCR = 15
SCHEMA = 1
_FIELDS = {"from", "key", "pcr", "policy", "signature", "to"}
_MAX_SIGNATURE = 72
"""Bytes of a DER signature by a P-256 key."""

# TPM 2.0 Part 2: command codes (6.5.2) and algorithms (6.3) as they go into policies and names.
_CC_POLICY_PCR, _CC_POLICY_AUTHORIZE = 0x0000017F, 0x0000016A
_ALG_SHA256, _ALG_NULL, _ALG_ECC, _CURVE_P256 = 0x000B, 0x0010, 0x0023, 0x0003
_EXTERNAL_KEY = 0x00040040
"""TPMA_OBJECT sign | userWithAuth: what the TPM is told about a policy key, and part of its Name."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One boot, or one upgrade within a boot, that may have the keys. All digests have 32 bytes."""

    key: str
    """Fingerprint of the policy key that signed, hex."""
    pcr: int
    from_: bytes
    to: bytes
    policy: bytes
    signature: bytes
    """DER."""


def extended(value: bytes, measurement: bytes) -> bytes:
    """Return the value that a SHA-256 PCR has after ``measurement`` was extended into ``value`` (32 bytes each)."""
    return _sha256(value + measurement)


def policy_pcr(pcr: int, value: bytes) -> bytes:
    """Return the digest of a fresh session after PolicyPCR over one SHA-256 PCR (0..15) that holds ``value``."""
    selection = struct.pack(">IHB", 1, _ALG_SHA256, 3) + (1 << pcr).to_bytes(3, "little")
    return _sha256(bytes(32) + struct.pack(">I", _CC_POLICY_PCR) + selection + _sha256(value))


def policy_authorize(name: bytes, reference: bytes = POLICY_REF) -> bytes:
    """Return the digest after PolicyAuthorize by the key of that TPM ``name``: secrets are bound to this digest."""
    return _sha256(_sha256(bytes(32) + struct.pack(">I", _CC_POLICY_AUTHORIZE) + name) + reference)


def tpm_name(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the Name (34 bytes) that a TPM gives to a P-256 key loaded as an external one that signs."""
    numbers = key.public_numbers()
    fixed = struct.pack(">HHIH", _ALG_ECC, _ALG_SHA256, _EXTERNAL_KEY, 0)
    parameters = struct.pack(">HHHH", _ALG_NULL, _ALG_NULL, _CURVE_P256, _ALG_NULL)  # no cipher, scheme, KDF
    point = b"".join(struct.pack(">H", 32) + each.to_bytes(32, "big") for each in (numbers.x, numbers.y))
    return struct.pack(">H", _ALG_SHA256) + _sha256(fixed + parameters + point)


def approve(key: ec.EllipticCurvePrivateKey, pcr: int, from_: bytes, measurement: bytes) -> Approval:
    """Approve that a boot extends ``measurement`` into a PCR (0..15) that holds ``from_``.

    Args:
        from_: the PCR's value before, 32 bytes.
        measurement: sha256 of the bundle's manifest, 32 bytes.

    Raises:
        ValueError: PCR or lengths are others than these.
    """
    if not 0 <= pcr <= LAST_PCR or len(from_) != 32 or len(measurement) != 32:
        raise ValueError("a PCR is 0 to 15, its value and a measurement have 32 bytes")
    to = extended(from_, measurement)
    policy = policy_pcr(pcr, to)
    signature = key.sign(policy + POLICY_REF, ec.ECDSA(hashes.SHA256()))
    return Approval(fingerprint(key.public_key()), pcr, from_, to, policy, signature)


def check(approval: Approval, key: ec.EllipticCurvePublicKey) -> bool:
    """Return True if ``key`` signed this approval, which the TPM will check again."""
    try:
        key.verify(approval.signature, approval.policy + POLICY_REF, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return approval.key == fingerprint(key)


def fit(approval: Approval, measurement: bytes) -> bool:
    """Return True if the approval is for ``measurement`` and its digests follow from each other."""
    to = extended(approval.from_, measurement)
    return approval.to == to and approval.policy == policy_pcr(approval.pcr, to)


def check_fit(approvals: Iterable[Approval], measurement: bytes) -> None:
    """Refuse (check 7) unless every approval is for this very manifest."""
    if not all(fit(each, measurement) for each in approvals):
        raise BundleError(FILE, "approves another manifest than this one: sign the bundle again", APPROVED)


def for_boot(
    approvals: Iterable[Approval], key: str, value_now: bytes, *, pcr: int | None = None
) -> tuple[Approval, bool] | None:
    """Return the approval that applies to this boot and whether the PCR is to be extended first, or None.

    Only approvals by the policy key with the fingerprint ``key`` count. A PCR that already holds some ``to`` means a
    restart within the same boot: nothing is extended then. None means that this boot may not have the keys.

    Args:
        key: SHA-256 of the policy key's SubjectPublicKeyInfo, hex.
        value_now: the PCR's value at this moment, 32 bytes.
        pcr: count only approvals for this PCR; None: for any.
    """
    ours = [each for each in approvals if each.key == key and pcr in (None, each.pcr)]
    for each in ours:
        if each.to == value_now:
            return each, False
    for each in ours:
        if each.from_ == value_now:
            return each, True
    return None


def encode(approvals: Iterable[Approval]) -> bytes:
    """Return `approvals.json` for these approvals.

    Raises:
        ValueError: there are too many, or two for the same boot.
    """
    entries = sorted(approvals, key=_order)
    if len(entries) > MAX_APPROVALS or len({_order(each) for each in entries}) != len(entries):
        raise ValueError(f"at most {MAX_APPROVALS} approvals, each for another boot")
    return canonical.encode({"approvals": [_entry(each) for each in entries], "schema": SCHEMA})


def parse(raw: bytes) -> tuple[Approval, ...]:
    """Read `approvals.json`; neither signatures nor the manifest are looked at.

    Raises:
        BundleError: with check 2, for whatever is wrong in it.
    """
    value = parse_object(FILE, raw, CAP)
    if set(value) != {"approvals", "schema"} or not _is_schema(value["schema"]):
        raise _refusal(f"must hold approvals and schema {SCHEMA}, and nothing else")
    entries = value["approvals"]
    if not isinstance(entries, list) or len(entries) > MAX_APPROVALS:
        raise _refusal(f"must list at most {MAX_APPROVALS} approvals")
    approvals = tuple(_approval(each) for each in entries)
    if not _ascending([_order(each) for each in approvals]):
        raise _refusal("is not sorted by key, pcr and from, or has an approval twice")
    return approvals


def _is_schema(value: object) -> bool:
    return type(value) is int and value == SCHEMA


def _approval(entry: object) -> Approval:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise _refusal(f"an approval has exactly the fields {', '.join(sorted(_FIELDS))}")
    pcr = entry["pcr"]
    if type(pcr) is not int or not 0 <= pcr <= LAST_PCR:
        raise _refusal(f"pcr must be 0 to {LAST_PCR}: others can be reset while the system runs")
    return Approval(
        key=_digest(entry, "key").hex(),
        pcr=pcr,
        from_=_digest(entry, "from"),
        to=_digest(entry, "to"),
        policy=_digest(entry, "policy"),
        signature=_signature(entry["signature"]),
    )


def _entry(approval: Approval) -> dict[str, Any]:
    return {
        "from": approval.from_.hex(),
        "key": approval.key,
        "pcr": approval.pcr,
        "policy": approval.policy.hex(),
        "signature": base64.b64encode(approval.signature).decode(),
        "to": approval.to.hex(),
    }


def _digest(entry: dict[str, Any], field: str) -> bytes:
    text = entry[field]
    if isinstance(text, str) and len(text) == 64:
        try:
            if (value := bytes.fromhex(text)).hex() == text:
                return value
        except ValueError:
            pass
    raise _refusal(f"{field} must be 32 bytes in lower-case hex")


def _signature(text: object) -> bytes:
    try:
        value = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        value = b""
    if not 8 <= len(value) <= _MAX_SIGNATURE or base64.b64encode(value).decode() != text:
        raise _refusal(f"signature must be base64 of at most {_MAX_SIGNATURE} bytes")
    return value


def _order(approval: Approval) -> tuple[str, int, bytes]:
    return approval.key, approval.pcr, approval.from_


def _ascending(order: Sequence[tuple[str, int, bytes]]) -> bool:
    return all(before < after for before, after in pairwise(order))


def _refusal(message: str) -> BundleError:
    return BundleError(FILE, f"{message}: sign the bundle again", FORM)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
