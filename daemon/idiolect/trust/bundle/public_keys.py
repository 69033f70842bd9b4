"""The public keys that a device trusts to sign bundles, read from `keys.d`.

`keys.d/*.pem` holds one P-256 public key each (SubjectPublicKeyInfo, PEM); `keys.d/revoked` holds one fingerprint a
line, ``#`` begins a comment. A fingerprint is the sha256 of the SubjectPublicKeyInfo in DER, hex. To rotate a key, add
the new one, sign bundles with it, then revoke the old one by its fingerprint: a revoked key stays revoked wherever its
file lies.

A file that is no such key is an error, not a key less: somebody meant to trust it, or to revoke.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.errors import BundleError, IdiolectError
from idiolect.trust.bundle.source import SIGNER, Source

MAX_FILES = 64
FILE_CAP = 8 << 10
"""Bytes of a PEM file."""
REVOKED = "revoked"
REVOKED_CAP = 64 << 10
_HEX = re.compile(r"[0-9a-f]{64}")
_TOO_MANY = f"there are more than {MAX_FILES}: remove old ones"
_MAKE = "openssl ec -in bundle.key -pubout"
# The label of a PEM block -> what to say of it.
_NOT_PUBLIC = (
    (b"PRIVATE KEY-----", f"holds a private key: remove it from the device and put the public one here ({_MAKE})"),
    (b"BEGIN CERTIFICATE", "holds a certificate: extract its key with 'openssl x509 -pubkey -noout'"),
    (b"BEGIN RSA PUBLIC", "is an RSA key: make a P-256 key with 'idiolect bundle keygen'"),
)


class KeyFileError(BundleError):
    """Raised when a key file cannot be used; the message names it and the next step."""

    def __init__(self, file: str, message: str) -> None:
        IdiolectError.__init__(self, f"key file {file}: {message}")
        self.file = file
        self.check = SIGNER


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A bundle key: the file it came from, its fingerprint, and the hint by which `model.sig` names it."""

    file: str
    fingerprint: str
    hint: str
    key: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The keys of a device, revoked ones among them: their signatures get a message of their own."""

    keys: tuple[TrustedKey, ...]
    revoked: frozenset[str]

    @classmethod
    def parse(cls, files: Mapping[str, bytes], revoked: bytes = b"") -> TrustedKeys:
        """Read the files of `keys.d` by name. Raises ``KeyFileError`` for the first that is wrong."""
        if len(files) > MAX_FILES:
            raise KeyFileError("*.pem", _TOO_MANY)
        found = {}
        for name in sorted(files):
            key = load_public(name, files[name])
            found[fingerprint(key)] = TrustedKey(name, fingerprint(key), hint(key), key)
        return cls(tuple(found.values()), _revoked(revoked))

    @classmethod
    def read(cls, source: Source, prefix: str = "") -> TrustedKeys:
        """Read `keys.d`: every `*.pem`, and `revoked` if it is there, each after ``prefix``. Raises ``BundleError``."""
        names = source.names()
        files = [name for name in names if name.startswith(prefix) and name.endswith(".pem")]
        list_of_revoked = prefix + REVOKED
        if len(files) > MAX_FILES:
            raise KeyFileError("*.pem", _TOO_MANY)
        revoked = source.read(list_of_revoked, REVOKED_CAP) if list_of_revoked in names else b""
        return cls.parse({name: source.read(name, FILE_CAP) for name in files}, revoked)

    @classmethod
    def of(cls, *keys: ec.EllipticCurvePublicKey) -> TrustedKeys:
        """Return a set of just these keys, none of them revoked."""
        return cls(tuple(TrustedKey("", fingerprint(k), hint(k), k) for k in keys), frozenset())

    def signer(self, wanted: str) -> TrustedKey | None:
        """Return the key that `model.sig` names by ``wanted``, revoked or not."""
        return next((each for each in self.keys if each.hint == wanted), None)


def load_public(name: str, pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 public key in ``pem``, the content of the file ``name``. Raises ``KeyFileError``."""
    if len(pem) > FILE_CAP:
        raise KeyFileError(name, f"has more than {FILE_CAP} bytes: a public key has some 180")
    for label, message in _NOT_PUBLIC:
        if label in pem:
            raise KeyFileError(name, message)
    if pem.count(b"-----BEGIN") != 1:
        raise KeyFileError(name, f"must hold one public key in PEM: copy it again, or make it with '{_MAKE}'")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(name, "is damaged, or no public key: copy it again from where the key was made") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(name, "is not a P-256 key: make one with 'idiolect bundle keygen'")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the sha256 (hex) of the key's SubjectPublicKeyInfo in DER: `revoked`, approvals and the log name it so."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def hint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the sha256 (hex) of the public key's PEM, by which model-signing names a key."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key as a file of `keys.d` holds it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _revoked(raw: bytes) -> frozenset[str]:
    if len(raw) > REVOKED_CAP:
        raise KeyFileError(REVOKED, f"has more than {REVOKED_CAP} bytes: remove comments, or keys no longer here")
    try:
        lines = [line.partition("#")[0].strip() for line in raw.decode().splitlines()]
    except UnicodeDecodeError:
        raise KeyFileError(REVOKED, "is not UTF-8: write one fingerprint a line") from None
    for number, line in enumerate(lines, 1):
        if line and not _HEX.fullmatch(line):
            message = f"line {number} is no fingerprint of 64 lower-case hex digits: see 'idiolect bundle list --json'"
            raise KeyFileError(REVOKED, message)
    return frozenset(filter(None, lines))
