"""A trained head to bundle files: plain arrays in ``head.bin`` described by ``head.json``, phrases, manifest.

All JSON is canonical (sorted keys, no spaces), so that equal content is equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.trust.bundle.canonical import encode as canonical
from idiolect.trust.bundle.phrases import Phrase

from .head import Array
from .words import BACKGROUND, UNKNOWN

ALIGN = 16


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, list[dict[str, Any]]]:
    """Arrays one after the other, little-endian, each at a multiple of 16 bytes; and their description."""
    blob, index = bytearray(), []
    for name, array in arrays.items():
        blob += bytes(-len(blob) % ALIGN)
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        index.append({"name": name, "dtype": plain.dtype.name, "shape": list(plain.shape), "offset": len(blob)})
        blob += plain.tobytes()
    return bytes(blob), index


def head_files(
    arrays: Mapping[str, Array], classes: Sequence[str], kinds: Mapping[str, str], extra: Mapping[str, Any]
) -> dict[str, bytes]:
    """``head.bin`` and ``head.json``. Matrices are stored as float16 (int8 as it is), statistics, biases as float32."""
    stored = {
        n: a if a.dtype == np.int8 else a.astype(np.float16 if a.ndim > 1 else np.float32) for n, a in arrays.items()
    }
    blob, index = pack(stored)
    described = {
        "format": 1,
        "arrays": index,
        "classes": list(classes),
        "unknown": classes.index(UNKNOWN),
        "background": classes.index(BACKGROUND),
        "kinds": dict(kinds),
        **extra,
    }
    return {"head.bin": blob, "head.json": canonical(described)}


def phrase_file(phrases: Sequence[Phrase]) -> dict[str, bytes]:
    """``phrases.json``."""
    rows = [
        {**asdict(p), "threshold": round(p.threshold, 4), "turn_threshold": round(p.turn_threshold, 4)} for p in phrases
    ]
    return {"phrases.json": canonical(rows)}


def write(folder: Path, files: Mapping[str, bytes], *, name: str, version: int, provenance: Mapping[str, Any]) -> None:
    """Write the payload and its manifest; ``files`` must hold ``encoder.tflite``."""
    listed = {n: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for n, data in files.items()}
    manifest = {
        "name": name,
        "version": version,
        "encoder": listed["encoder.tflite"]["sha256"],
        "audio": {"rate": 16000, "channels": 1, "format": "S16_LE", "block": 1280},
        "files": listed,
        "provenance": dict(provenance),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    (folder / "manifest.json").write_bytes(canonical(manifest))
