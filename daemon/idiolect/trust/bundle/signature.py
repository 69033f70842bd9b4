"""`model.sig`: an OpenSSF Model Signing (OMS v1) signature, as the PyPI package model-signing 1.x reads and writes it.

From the outside in:

1. a Sigstore bundle v0.3, JSON: ``mediaType``, ``verificationMaterial`` with the hint of the public key (sha256 of its
   PEM) and no transparency log, ``dsseEnvelope``;
2. the DSSE envelope: a payload, its type, one ECDSA P-256 SHA-256 signature over
   PAE = ``DSSEv1 SP len(type) SP type SP len(payload) SP payload`` (DSSE 1.0, protocol.md);
3. the payload, an in-toto Statement v1, JSON: one subject, whose sha256 is that of all file digests one after the
   other, and a predicate with ``serialization`` (how files were hashed) and ``resources`` (name, sha256 of each file,
   sorted by name).

``parse`` takes exactly this shape and no other: no certificate, log entry, second signature, other hash, shards,
symlinks, or predicate of older versions. ``ignore_paths`` is read past: it says what the signer left out, and what is
left out is not covered, whatever its name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.errors import BundleError
from idiolect.trust.bundle.canonical import NotCanonicalError, encode, strict
from idiolect.trust.bundle.public_keys import hint
from idiolect.trust.bundle.source import SIGNER, SIZE

FILE = "model.sig"
CAP = 64 << 10
MAX_RESOURCES = 64
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_SERIALIZATION = {"hash_type": "sha256", "method": "files", "allow_symlinks": False}
_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_DER = 72
"""Bytes of a DER signature by a P-256 key."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A `model.sig` that is well-formed and consistent; only ``verify`` tells if it is true."""

    hint: str
    """Names the key, hex."""
    payload: bytes
    signature: bytes
    """DER."""
    subject: str
    """The directory's name when it was signed."""
    resources: Mapping[str, str]
    """sha256 (hex) of every file that was signed."""

    def verify(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Return True if ``key`` made this signature."""
        try:
            key.verify(self.signature, _pae(self.payload), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def sign(key: ec.EllipticCurvePrivateKey, subject: str, digests: Mapping[str, str]) -> bytes:
    """Return a `model.sig` for files with these sha256 (hex).

    Args:
        subject: the directory's name, for people.
        digests: sha256 (hex) by file name.
    """
    payload = json.dumps(_statement(subject, digests), indent=2).encode()
    signature = key.sign(_pae(payload), ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": hint(key.public_key())}, "tlogEntries": []}
    return encode({"mediaType": _MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope})


def parse(raw: bytes) -> Signature:
    """Read `model.sig`. Raises ``BundleError``: check 1 for its size, 3 for everything else."""
    if len(raw) > CAP:
        raise BundleError(FILE, f"has {len(raw)} bytes, more than the {CAP} that it may have", SIZE)
    bundle = _object(_json(raw), "mediaType", "verificationMaterial", "dsseEnvelope")
    material = _object(bundle["verificationMaterial"], "publicKey", "tlogEntries")
    envelope = _object(bundle["dsseEnvelope"], "payload", "payloadType", "signatures")
    _equal(bundle["mediaType"], _MEDIA_TYPE, "is no Sigstore bundle v0.3")
    _equal(envelope["payloadType"], _PAYLOAD_TYPE, "does not hold an in-toto statement")
    _equal(material["tlogEntries"], [], "comes with a transparency log: sign it with a key alone")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        _refuse("must hold one signature")
    signature = _object(signatures[0], "sig", "keyid")
    _equal(signature["keyid"], "", "names its key in keyid, where only the hint is read")
    payload = _base64(envelope["payload"], CAP)
    subject, resources = _read_statement(payload)
    named = _digest(_object(material["publicKey"], "hint")["hint"])
    return Signature(named, payload, _base64(signature["sig"], _MAX_DER), subject, resources)


def root(digests: Mapping[str, str]) -> str:
    """Return the sha256 (hex) of all digests, in the order of the names: the statement is about this digest."""
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests))).hexdigest()


def _statement(subject: str, digests: Mapping[str, str]) -> dict[str, Any]:
    resources = [{"algorithm": "sha256", "digest": digests[name], "name": name} for name in sorted(digests)]
    return {
        "_type": _STATEMENT,
        "subject": [{"name": subject, "digest": {"sha256": root(digests)}}],
        "predicateType": _PREDICATE,
        "predicate": {"serialization": {**_SERIALIZATION, "ignore_paths": [FILE]}, "resources": resources},
    }


def _read_statement(payload: bytes) -> tuple[str, dict[str, str]]:
    statement = _object(_json(payload), "_type", "subject", "predicateType", "predicate")
    _equal(statement["_type"], _STATEMENT, "holds no in-toto Statement v1")
    _equal(statement["predicateType"], _PREDICATE, "holds no model signature v1.0")
    predicate = _object(statement["predicate"], "serialization", "resources")
    serialization = predicate["serialization"]
    if not isinstance(serialization, dict):
        _refuse("does not say how files were hashed")
    how = {key: value for key, value in serialization.items() if key != "ignore_paths"}
    _equal(encode(how), encode(_SERIALIZATION), "hashed files in another way than one sha256 each, without links")
    resources = _resources(predicate["resources"])
    subjects = statement["subject"]
    if not isinstance(subjects, list) or len(subjects) != 1:
        _refuse("must have one subject")
    subject = _object(subjects[0], "name", "digest")
    _equal(_object(subject["digest"], "sha256")["sha256"], root(resources), "has a subject that is not its resources")
    return _name(subject["name"]), resources


def _resources(entries: object) -> dict[str, str]:
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_RESOURCES:
        _refuse(f"must list 1 to {MAX_RESOURCES} files")
    found = []
    for entry in entries:
        resource = _object(entry, "algorithm", "digest", "name")
        _equal(resource["algorithm"], "sha256", "uses another digest than sha256")
        found.append((_name(resource["name"]), _digest(resource["digest"])))
    if not all(before[0] < after[0] for before, after in pairwise(found)):
        _refuse("lists files out of order, or one twice")
    return dict(found)


def _pae(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _json(raw: bytes) -> object:
    try:
        return strict(raw)
    except NotCanonicalError as error:
        _refuse(str(error))


def _object(value: object, *fields: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(fields):
        _refuse(f"must have the fields {', '.join(fields)} and no others")
    return value


def _equal(value: object, expected: object, otherwise: str) -> None:
    if type(value) is not type(expected) or value != expected:
        _refuse(otherwise)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 255:
        _refuse("holds a name that is none")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        _refuse("holds a digest that is not 64 lower-case hex digits")
    return value


def _base64(value: object, cap: int) -> bytes:
    try:
        decoded = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        decoded = b""
    if not 1 <= len(decoded) <= cap or base64.b64encode(decoded).decode() != value:
        _refuse(f"must hold base64 of 1 to {cap} bytes")
    return decoded


def _refuse(message: str) -> NoReturn:
    raise BundleError(FILE, f"{message}: sign the bundle again", SIGNER)
