"""Makes a key from a passphrase in a child process (``stretching``), which takes 32 MiB that the daemon never has.

One child runs at a time. The key and nothing else comes back from it.
"""

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
    """Return the key that scrypt makes of a passphrase; called like ``vault.passphrase.stretch``, which the child runs.

    Args:
        cost: scrypt's N.

    Raises:
        VaultError: the child gave no key, for want of memory or time.
    """
    request = json.dumps({"passphrase": passphrase, "salt": salt.hex(), "cost": cost}).encode()
    try:
        key = _child.run(request, KEY_BYTES)
    except LearningError as error:
        raise VaultError(f"the passphrase could not be tried: {error}", "try again", "failed") from None
    if len(key) != KEY_BYTES:
        raise VaultError("the passphrase could not be tried: memory is short", "try again later", "failed")
    return key


def asked(request: bytes) -> tuple[str, bytes, int]:
    """Return passphrase, salt and cost from a request, for the child.

    Raises:
        one of NONSENSE: the request cannot be understood.
    """
    fields = structure.load(request, parts=8, depth=1)
    return str(fields["passphrase"]), bytes.fromhex(fields["salt"]), int(fields["cost"])
