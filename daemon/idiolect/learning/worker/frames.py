"""Frames carry a message over a pipe so that the receiver can tell if it got what was sent.

    length (4 bytes, little-endian) | SHA-256 of the body (32 bytes) | body

The length is checked against a cap before anything is read, the digest before anything is parsed. It is no signature:
it finds what was cut, mixed up or bit-flipped on the way, and nothing that a liar computed afresh.
"""

from __future__ import annotations

import hashlib
import struct

from idiolect.errors import LearningError

HEADER = 36
"""Bytes before the body."""
_FIX = "it is tried again later; if it goes on, report it"


def pack(body: bytes) -> bytes:
    """Return a body as it goes over the pipe."""
    return struct.pack("<I", len(body)) + hashlib.sha256(body).digest() + body


def size(header: bytes, cap: int) -> int:
    """Return how many bytes follow a header of HEADER bytes.

    Raises:
        LearningError: they are more than ``cap``, or the header was cut short.
    """
    if len(header) != HEADER:
        raise LearningError("a message was cut short", _FIX)
    (length,) = struct.unpack_from("<I", header)
    if length > cap:
        raise LearningError("a message is longer than allowed", _FIX)
    return int(length)


def body(header: bytes, received: bytes) -> bytes:
    """Return ``received``, once it is what the header announced. Raises ``LearningError`` otherwise."""
    if len(received) != size(header, len(received)) or hashlib.sha256(received).digest() != header[4:]:
        raise LearningError("a message is not what was sent", _FIX)
    return received
