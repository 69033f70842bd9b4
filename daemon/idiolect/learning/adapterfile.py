"""An adapter as bytes: a JSON header of names and numbers, then float16 vectors in the header's order.

The bytes of a given adapter are always the same: keys sorted, floats as their shortest text that reads back equal.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from idiolect import structure
from idiolect.errors import NONSENSE, LearningError
from idiolect.pipeline.personal import Adapter, Shift, Taught
from idiolect.values import encodable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_CAP = 16 << 10
"""Bytes of an adapter with 20 phrases; it grows by about 400 for each further one, see ``cap``."""
PER_PHRASE = 480
HARD_CAP = 256 << 10


def cap(phrases: int) -> int:
    """Bytes that an adapter with so many rows may have."""
    return SIZE_CAP + PER_PHRASE * max(0, phrases - 20)


def encode(adapter: Adapter) -> bytes:
    """The bytes."""
    shifts = sorted(adapter.shifts.items())
    vectors = [s.vector for _, s in shifts] + [t.direction for t in adapter.taught]
    vectors += [adapter.voice] if adapter.voice is not None else []
    header = {
        "v": 1,
        "profile": adapter.profile,
        "number": adapter.number,
        "gain": adapter.gain,
        "shifts": [[name, round(s.evidence, 6), round(s.floor, 6)] for name, s in shifts],
        "taught": [[t.name, round(t.threshold, 6), round(t.evidence, 6)] for t in adapter.taught],
        "raises": {name: round(v, 6) for name, v in adapter.raises.items()},
        "prior": {name: round(v, 6) for name, v in adapter.prior.items()},
        "voice": adapter.voice is not None,
        "size": vectors[0].size if vectors else 0,
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    numbers = np.array(vectors, "<f2").tobytes()
    return struct.pack("<I", len(text)) + text + numbers


def accept(data: bytes, digest: str) -> Adapter:
    """Read bytes that somebody else hands over, if they have the digest (SHA-256, hex) that they came with."""
    if hashlib.sha256(data).hexdigest() != digest:
        raise LearningError("an adapter is not the one that was to be used", "restart idiolectd")
    return decode(data)


def decode(data: bytes) -> Adapter:
    """Read the bytes; ``LearningError`` when they are none."""
    try:
        if len(data) > HARD_CAP:
            raise ValueError
        (size,) = struct.unpack_from("<I", data)
        header: dict[str, Any] = structure.load(data[4 : 4 + size])
        if header["v"] != 1 or not encodable(header):
            raise ValueError
        names = len(header["shifts"]) + len(header["taught"]) + bool(header["voice"])
        vectors = np.frombuffer(data, "<f2", offset=4 + size).reshape(names, header["size"] if names else 0)
        rows: list[NDArray[np.float32]] = list(vectors.astype(np.float32))
        if not np.isfinite(vectors).all():
            raise ValueError
        shifts = {str(n): Shift(rows.pop(0), float(e), float(f)) for n, e, f in header["shifts"]}
        taught = tuple(Taught(str(n), rows.pop(0), float(t), float(e)) for n, t, e in header["taught"])
        return Adapter(
            profile=str(header["profile"]),
            number=int(header["number"]),
            shifts=shifts,
            taught=taught,
            raises={str(n): float(v) for n, v in header["raises"].items()},
            prior={str(n): float(v) for n, v in header["prior"].items()},
            gain=float(header["gain"]),
            voice=rows.pop(0) if header["voice"] else None,
        )
    except NONSENSE:
        raise LearningError(
            "an adapter is not what was written", "`idiolect rollback`, or forget and teach again"
        ) from None
