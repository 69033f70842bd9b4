"""A person's copy, sealed with a passphrase: scrypt (RFC 7914) makes the key, AES-256-GCM seals.

The cost (N = 2^15, r = 8, p = 1: 32 MiB, a tenth of a second on a desktop) is what RFC 7914 calls
interactive; it is kept in the file, and a file that asks for more than ``MOST`` is refused before any work is done.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from idiolect.errors import NONSENSE, VaultError

SCHEMA = "idiolect/sealed/v1"
COST = 1 << 15
MOST = 1 << 17
SHORTEST = 8
CAP = 32 << 20


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(passphrase.encode())


def seal(plain: bytes, passphrase: str) -> dict[str, object]:
    """JSON-ready fields. ``VaultError`` for a passphrase of fewer than SHORTEST characters."""
    if len(passphrase) < SHORTEST:
        raise VaultError(f"the passphrase has fewer than {SHORTEST} characters", "choose a longer one", "failed")
    salt, nonce = os.urandom(16), os.urandom(12)
    box = AESGCM(_key(passphrase, salt, COST)).encrypt(nonce, plain, SCHEMA.encode())
    return {
        "schema": SCHEMA,
        "cost": COST,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
        "box": base64.b64encode(box).decode(),
    }


def open_(document: Mapping[str, Any], passphrase: str) -> bytes:
    """What was sealed. ``VaultError`` when passphrase or document is not the one."""
    try:
        cost = int(document["cost"])
        salt, nonce = bytes.fromhex(document["salt"]), bytes.fromhex(document["nonce"])
        box = base64.b64decode(document["box"], validate=True)
        if document["schema"] != SCHEMA or not 2 <= cost <= MOST or cost & (cost - 1) or len(nonce) != 12:
            raise ValueError
        if len(salt) != 16 or len(box) > CAP:
            raise ValueError
    except NONSENSE:
        raise VaultError("the sealed copy is damaged", "take another copy", "damaged") from None
    try:
        return AESGCM(_key(passphrase, salt, cost)).decrypt(nonce, box, SCHEMA.encode())
    except InvalidTag:
        raise VaultError(
            "the passphrase does not open this copy", "try again; nobody can recover it", "failed"
        ) from None
