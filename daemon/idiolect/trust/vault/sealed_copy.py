"""A person's copy, sealed with a passphrase: scrypt makes the key (``vault.passphrase``), AES-256-GCM seals.

The cost of the key is kept in the file, and a file that asks for more than ``MOST`` is refused before any work is done.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from idiolect.errors import NONSENSE, VaultError
from idiolect.host.structure import Text
from idiolect.trust.vault import passphrase as passphrases
from idiolect.trust.vault.passphrase import COST, MOST

SCHEMA = "idiolect/sealed/v1"
SHORTEST = 8
CAP = 32 << 20
Stretch = Callable[[str, bytes, int], bytes]
"""A function that makes a key of passphrase, salt and cost, in this process or in another."""


def seal(plain: bytes, passphrase: str, stretch: Stretch = passphrases.stretch) -> dict[str, object]:
    """Return ``plain`` sealed, as fields ready for JSON.

    Raises:
        VaultError: the passphrase has fewer than SHORTEST characters.
    """
    if len(passphrase) < SHORTEST:
        raise VaultError(f"the passphrase has fewer than {SHORTEST} characters", "choose a longer one", "failed")
    salt, nonce = os.urandom(16), os.urandom(12)
    box = AESGCM(stretch(passphrase, salt, COST)).encrypt(nonce, plain, SCHEMA.encode())
    return {
        "schema": SCHEMA,
        "cost": COST,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
        "box": base64.b64encode(box).decode(),
    }


def open_(document: Mapping[str, Any], passphrase: str, stretch: Stretch = passphrases.stretch) -> bytes:
    """Return the bytes that were sealed.

    A box may still lie in the bytes it came in (``structure.Text``): it is decoded from there, and these bytes are
    given back.

    Raises:
        VaultError: passphrase or document is not the right one.
    """
    try:
        cost = int(document["cost"])
        salt, nonce = bytes.fromhex(document["salt"]), bytes.fromhex(document["nonce"])
        box = _box(document["box"])
        if document["schema"] != SCHEMA or not 2 <= cost <= MOST or cost & (cost - 1) or len(nonce) != 12:
            raise ValueError
        if len(salt) != 16 or len(box) > CAP:
            raise ValueError
    except NONSENSE:
        raise VaultError("the sealed copy is damaged", "take another copy", "damaged") from None
    try:
        return AESGCM(stretch(passphrase, salt, cost)).decrypt(nonce, box, SCHEMA.encode())
    except InvalidTag:
        raise VaultError(
            "the passphrase does not open this copy", "try again; nobody can recover it", "failed"
        ) from None


def _box(given: Any) -> bytes:
    if not isinstance(given, Text):
        return base64.b64decode(given, validate=True)
    box = given.base64()
    given.release()
    return box
