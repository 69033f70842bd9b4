"""Seals bytes in AES-256-GCM boxes, derives keys under a label, and encodes fields so that they can be read in one way.

A box is nonce (12 bytes) || ciphertext || tag (16 bytes). The nonce is random, so one key may seal 2^32 messages at
most (NIST SP 800-38D, section 8.3). A data key seals one profile's records for one purpose: thousands in the life of a
device, and it is replaced whenever something is forgotten. The key that wraps data keys is replaced at every rotation.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from idiolect.trust.vault.secret import Secret

KEY = 32
NONCE = 12
TAG = 16
OVERHEAD = NONCE + TAG
"""Bytes that a box has more than what lies in it."""


_HEADER = struct.Struct(">cI").pack
_NUMBER = _HEADER(b"n", 8)


class Unopened(Exception):
    """Raised when a box is not what was sealed under this key and for this place. Says nothing about what it holds."""


def fields(*parts: bytes | str | int) -> bytes:
    """Return one encoding for each sequence of fields: type, length as u32, bytes; numbers (to 2^64 - 1) as 8 bytes."""
    out: list[bytes] = []
    for part in parts:  # thousands of times when a vault is opened
        if isinstance(part, str):
            raw = part.encode()
            out += (_HEADER(b"s", len(raw)), raw)
        elif isinstance(part, bytes):
            out += (_HEADER(b"b", len(part)), part)
        else:
            out += (_NUMBER, part.to_bytes(8, "big"))
    return b"".join(out)


def seal(key: Secret, plaintext: bytes | bytearray | memoryview, aad: bytes) -> bytes:
    """Return a box of ``len(plaintext)`` + 28 bytes that opens with the same ``key`` (32 bytes) and ``aad`` only."""
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key.view).encrypt(nonce, plaintext, aad)


def open_(key: Secret, box: bytes, aad: bytes) -> bytes:
    """Return the plaintext of a box. Raises ``Unopened``."""
    try:
        return AESGCM(key.view).decrypt(box[:NONCE], box[NONCE:], aad)
    except (InvalidTag, ValueError):
        raise Unopened("the box does not open") from None


def open_key(key: Secret, box: bytes, aad: bytes) -> Secret:
    """Return the 32-byte key that lies in a box; it goes straight into memory that is wiped. Raises ``Unopened``."""
    if len(box) != KEY + OVERHEAD:
        raise Unopened("the box holds no key")
    opened = bytearray(KEY)
    try:
        AESGCM(key.view).decrypt_into(box[:NONCE], memoryview(box)[NONCE:], aad, opened)
    except InvalidTag:
        raise Unopened("the box does not open") from None
    return Secret(opened)


def derive(secrets: Secret | Sequence[Secret], label: bytes) -> Secret:
    """Return a key of 32 bytes from one or several secrets in a row: HKDF-SHA256 (RFC 5869), no salt, info = label.

    Each secret must have a fixed length for its label, or two splits of the same bytes would give the same key.
    """
    parts = [secrets] if isinstance(secrets, Secret) else secrets
    material = bytearray().join(part.view for part in parts)
    out = bytearray(KEY)
    try:
        HKDF(hashes.SHA256(), KEY, None, label).derive_into(material, out)
        return Secret(out)
    finally:
        material[:] = bytes(len(material))


def mac(key: Secret, message: bytes) -> bytes:
    """Return the HMAC-SHA256 of a message, 32 bytes."""
    return hmac.digest(key.view, message, sha256)


def same(a: bytes, b: bytes) -> bool:
    """Compare two byte strings in constant time."""
    return hmac.compare_digest(a, b)
