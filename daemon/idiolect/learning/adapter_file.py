"""Writes an adapter as bytes, and reads it: a JSON header of names and numbers, then float16 vectors, then takes.

The vectors come in the header's order.

Takes, where there are any (version 2), are the mean and spread by which embeddings are standardised, float16, and the
frames of each take, int8.

The bytes of a given adapter are always the same: keys sorted, floats as their shortest text that reads back equal.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idiolect.errors import NONSENSE, LearningError
from idiolect.host import structure
from idiolect.listening.pipeline.adapter import Adapter, Shift, Taught
from idiolect.listening.pipeline.alignment import SHORTEST, Standard
from idiolect.values import EMBEDDING, encodable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_CAP = 16 << 10
"""Bytes of an adapter with 20 phrases; it grows by about 400 for each further one, see ``cap``."""
PER_PHRASE = 480
PER_FRAME = EMBEDDING + 8
"""Bytes of a take's frame, and its share of the header."""
HARD_CAP = 2 << 20


def cap(phrases: int, frames: int = 0) -> int:
    """Return how many bytes an adapter with so many rows, and frames of takes, may have."""
    return SIZE_CAP + PER_PHRASE * max(0, phrases - 20) + PER_FRAME * frames


def encode(adapter: Adapter) -> bytes:
    """Return the adapter as bytes, the same for the same adapter every time."""
    shifts = sorted(adapter.shifts.items())
    vectors = [s.vector for _, s in shifts] + [t.direction for t in adapter.taught]
    vectors += [adapter.voice] if adapter.voice is not None else []
    takes = [take for t in adapter.taught for take in t.takes]
    header: dict[str, Any] = {
        "v": 2 if takes else 1,
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
    if takes and adapter.standard is not None:
        header["takes"] = [[[len(take) for take in t.takes], round(t.cost, 6)] for t in adapter.taught]
        vectors_of = [adapter.standard.mean, adapter.standard.spread]
        frames = np.array(vectors_of, "<f2").tobytes() + b"".join(take.astype(np.int8).tobytes() for take in takes)
    else:
        frames = b""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    numbers = np.array(vectors, "<f2").tobytes()
    return struct.pack("<I", len(text)) + text + numbers + frames


def accept(data: bytes, digest: str) -> Adapter:
    """Read bytes that somebody else hands over.

    Args:
        digest: the digest (SHA-256, hex) that they came with.

    Raises:
        LearningError: they have another digest, or are no adapter.
    """
    if hashlib.sha256(data).hexdigest() != digest:
        raise LearningError("an adapter is not the one that was to be used", "restart idiolectd")
    return decode(data)


def decode(data: bytes) -> Adapter:
    """Read an adapter's bytes. Raises ``LearningError`` when they are none."""
    try:
        if len(data) > HARD_CAP:
            raise ValueError
        (size,) = struct.unpack_from("<I", data)
        header: dict[str, Any] = structure.load(data[4 : 4 + size])
        if header["v"] != (2 if "takes" in header else 1) or not encodable(header):
            raise ValueError
        names = len(header["shifts"]) + len(header["taught"]) + bool(header["voice"])
        width = header["size"] if names else 0
        rest = data[4 + size + 2 * names * width :]
        vectors = np.frombuffer(data, "<f2", names * width, 4 + size).reshape(names, width)
        rows: list[NDArray[np.float32]] = list(vectors.astype(np.float32))
        if not np.isfinite(vectors).all():
            raise ValueError
        shifts = {str(n): Shift(rows.pop(0), float(e), float(f)) for n, e, f in header["shifts"]}
        taught = tuple(Taught(str(n), rows.pop(0), float(t), float(e)) for n, t, e in header["taught"])
        standard, taught = _with_takes(taught, header.get("takes"), rest)
        return Adapter(
            profile=str(header["profile"]),
            number=int(header["number"]),
            shifts=shifts,
            taught=taught,
            raises={str(n): float(v) for n, v in header["raises"].items()},
            prior={str(n): float(v) for n, v in header["prior"].items()},
            gain=float(header["gain"]),
            voice=rows.pop(0) if header["voice"] else None,
            standard=standard,
        )
    except NONSENSE:
        raise LearningError(
            "an adapter is not what was written", "`idiolect rollback`, or forget and teach again"
        ) from None


def _with_takes(
    taught: tuple[Taught, ...], described: list[Any] | None, rest: bytes
) -> tuple[Standard | None, tuple[Taught, ...]]:
    """Return the phrases with the takes that lie in ``rest``.

    Raises ``ValueError`` where these are not the ones described.
    """
    if described is None:
        if rest:
            raise ValueError
        return None, taught
    numbers = np.frombuffer(rest, "<f2", 2 * EMBEDDING).astype(np.float32).reshape(2, EMBEDDING)
    lengths = [int(length) for each, _ in described for length in each]
    frames = np.frombuffer(rest, np.int8, offset=4 * EMBEDDING).reshape(sum(lengths), EMBEDDING)
    if min(lengths) < SHORTEST or not (np.isfinite(numbers).all() and (numbers[1] > 0).all() and frames.any(1).all()):
        raise ValueError
    takes = iter(np.split(frames, np.cumsum(lengths)[:-1]))
    with_them = [
        replace(row, takes=tuple(next(takes) for _ in each), cost=float(cost))
        for row, (each, cost) in zip(taught, described, strict=True)
    ]
    return Standard(numbers[0], numbers[1]), tuple(with_them)
