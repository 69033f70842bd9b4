"""A key from a passphrase, made by a child (``stretching``): one at a time, and none of its memory here."""

from __future__ import annotations

import json
import sys

from idiolect.errors import LearningError, VaultError
from idiolect.host import structure
from idiolect.learning.worker.process import Worker
from idiolect.trust.vault.passphrase import KEY_BYTES

REQUEST_CAP = 16 << 10
WALL_S = 30.0
_child = Worker([sys.executable, "-m", "idiolect.people.stretching"], WALL_S)


def stretch(passphrase: str, salt: bytes, cost: int) -> bytes:
    """As ``vault.passphrase.stretch``. ``VaultError`` where the child gives no key."""
    request = json.dumps({"passphrase": passphrase, "salt": salt.hex(), "cost": cost}).encode()
    try:
        key = _child.run(request, KEY_BYTES)
    except LearningError as error:
        raise VaultError(f"the passphrase could not be tried: {error}", "try again", "failed") from None
    if len(key) != KEY_BYTES:
        raise VaultError("the passphrase could not be tried: memory is short", "try again later", "failed")
    return key


def asked(request: bytes) -> tuple[str, bytes, int]:
    """Passphrase, salt and cost, as the child reads them. Raises one of NONSENSE."""
    fields = structure.load(request, parts=8, depth=1)
    return str(fields["passphrase"]), bytes.fromhex(fields["salt"]), int(fields["cost"])
