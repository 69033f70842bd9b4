"""Makes a key from a passphrase with scrypt (RFC 7914), which costs memory so that guessing is dear."""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
COST = 1 << 15
"""scrypt's N, what RFC 7914 calls interactive: 32 MiB, a tenth of a second on a desktop."""
MOST = COST
"""A copy that asks for more is none of ours."""
_BLOCKS = 8
"""scrypt's r: a step of the cost takes 128 times that many bytes."""


def stretch(passphrase: str, salt: bytes, cost: int) -> bytes:
    """Return the key, made in this process; it takes as many KiB of memory as ``cost`` has steps.

    Raises:
        ValueError: scrypt does not take this cost.
        MemoryError: there is not so much memory.
    """
    memory = 128 * _BLOCKS * (cost + 2) + (1 << 20)
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=cost, r=_BLOCKS, p=1, maxmem=memory, dklen=KEY_BYTES)
