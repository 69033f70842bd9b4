"""Reads what a bundle brings for phrases taught under an earlier encoder: maps of embeddings, and the bundle before.

Payload like any other: capped, signed and measured with the bundle, and digested before anything here reads it, so that
no slot of an earlier time has to be trusted. All of it is optional.

| file | what it holds |
| --- | --- |
| `maps.json` | canonical JSON {"encoders": [id, ...], "format": 1}: each `encoder.tflite` (sha256) that a map is from |
| `maps.bin` | for each of them, in order, float32 little-endian: a matrix (96, 96), then an offset (96,) |
| `previous-manifest.json` | the manifest of the bundle before, byte for byte: its digest is what old adapters name |
| `previous-*` | its files, byte for byte, but for `trained_on.bin` and its own `previous-*` |

An embedding x (96,) of the earlier encoder becomes x @ matrix + offset in the space of the bundle's own.
``BundleError`` names the file of the first check that fails:

1. `maps.json` and `maps.bin` are there together, `previous-*` complete, or none of them;
2. `maps.json` is canonical and names 1 to 4 encoders, none twice, and not the bundle's own;
3. `maps.bin` has as many numbers as that takes, and all are finite;
4. no map lengthens anything more than MAX_GAIN times, or shifts it by more than MAX_OFFSET;
5. `previous-manifest.json` is a manifest, of a bundle with another encoder;
6. every file carried has the size and the digest that this manifest gives: together they *are* that bundle.

That the contents of the bundle before make sense is checked like the bundle's own (``bundle.bundle``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idiolect.errors import BundleError
from idiolect.trust.bundle import manifest as manifest_
from idiolect.trust.bundle.canonical import NotCanonicalError, encode, parse
from idiolect.trust.bundle.manifest import CAPS, MAP_CAPS, PREVIOUS, Manifest
from idiolect.values import EMBEDDING

MAX_MAPS = 4
MAX_GAIN = 16.0
"""Spectral norm: embeddings of two encoders differ in scale, but not by orders of magnitude."""
MAX_OFFSET = 256.0
"""Largest element; embeddings lie within +-130 (int8 in steps of about 0.5)."""
NUMBERS = EMBEDDING * EMBEDDING + EMBEDDING
_ID = re.compile(r"[0-9a-f]{64}")
_INDEX, _DATA = MAP_CAPS


@dataclass(frozen=True, slots=True)
class Affine:
    """A map of embeddings, x @ matrix + offset, of checked numbers; float32."""

    matrix: NDArray[np.float32]
    """(96, 96)"""
    offset: NDArray[np.float32]
    """(96,)"""

    @property
    def digest(self) -> str:
        """Return the SHA-256, hex, over matrix and offset, by which the audit log names the map."""
        return hashlib.sha256(_packed(self)).hexdigest()


def _packed(affine: Affine) -> bytes:
    return np.concatenate([affine.matrix.ravel(), affine.offset]).astype("<f4").tobytes()


def map_files(maps: Mapping[str, Affine]) -> dict[str, bytes]:
    """Return `maps.json` and `maps.bin` for a bundle that is being made; nothing without maps."""
    index = encode({"encoders": list(maps), "format": 1})
    return {_INDEX: index, _DATA: b"".join(map(_packed, maps.values()))} if maps else {}


def maps(files: Mapping[str, bytes], own: str) -> dict[str, Affine]:
    """Return a bundle's maps by encoder id, checked.

    Args:
        own: the id of the bundle's own encoder (sha256, hex).

    Raises:
        BundleError: names the file of the first of the checks 1 to 4 that fails.
    """
    if not {_INDEX, _DATA} & set(files):
        return {}
    for name in (_INDEX, _DATA):
        if name not in files:  # 1
            raise BundleError(name, "is missing, and its other half is there: install the bundle again")
    encoders = _encoders(files[_INDEX], own)
    if len(files[_DATA]) != 4 * NUMBERS * len(encoders):  # 3
        raise BundleError(_DATA, f"must hold {NUMBERS} float32 for each of the {len(encoders)} encoders of {_INDEX}")
    rows = np.frombuffer(files[_DATA], "<f4").reshape(len(encoders), NUMBERS)
    if not np.isfinite(rows).all():  # 3
        raise BundleError(_DATA, "holds numbers that are not finite")
    return {encoder: _affine(row) for encoder, row in zip(encoders, rows, strict=True)}


def _encoders(raw: bytes, own: str) -> list[str]:
    """Return the ids of the encoders that `maps.json` names (check 2)."""
    try:
        described = parse(raw, MAP_CAPS[_INDEX])
    except NotCanonicalError as error:
        raise BundleError(_INDEX, str(error)) from None
    if not isinstance(described, dict) or set(described) != {"encoders", "format"} or described["format"] != 1:
        raise BundleError(_INDEX, 'must be {"encoders": [...], "format": 1}')
    encoders = described["encoders"]
    if not isinstance(encoders, list) or not 1 <= len(encoders) <= MAX_MAPS:
        raise BundleError(_INDEX, f"must name 1 to {MAX_MAPS} encoders")
    if not all(isinstance(each, str) and _ID.fullmatch(each) for each in encoders):
        raise BundleError(_INDEX, "names an encoder by something else than 64 lower-case hex digits")
    if len(set(encoders)) != len(encoders) or own in encoders:
        raise BundleError(_INDEX, "names an encoder twice, or the bundle's own: a map is from an earlier one")
    return encoders


def _affine(row: NDArray[np.float32]) -> Affine:
    """Return the map in a row of numbers, unless it lengthens or shifts too far (check 4)."""
    matrix, offset = row[: EMBEDDING * EMBEDDING].reshape(EMBEDDING, EMBEDDING), row[EMBEDDING * EMBEDDING :]
    if np.abs(matrix).max() > MAX_GAIN or np.linalg.norm(matrix, 2) > MAX_GAIN or np.abs(offset).max() > MAX_OFFSET:
        raise BundleError(_DATA, f"holds a map that lengthens more than {MAX_GAIN:g} times, or shifts too far")
    return Affine(matrix.astype(np.float32), offset.astype(np.float32))


def previous_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files, under their `previous-` names, that a successor of the bundle ``files`` carries of it."""
    return {PREVIOUS + name: files[name] for name in (manifest_.FILE, *CAPS, *MAP_CAPS) if name in files}


def previous(files: Mapping[str, bytes], own: str) -> tuple[Manifest, dict[str, bytes]] | None:
    """Return the manifest and files, by their own names, of the bundle before, checked; None where none is carried."""
    carried = {name.removeprefix(PREVIOUS): data for name, data in files.items() if name.startswith(PREVIOUS)}
    if not carried:
        return None
    for name in (manifest_.FILE, *CAPS):
        if name not in carried:  # 1
            raise BundleError(PREVIOUS + name, "is missing, and others of the bundle before are there: install again")
    try:
        before = manifest_.parse(carried[manifest_.FILE])
    except BundleError as error:  # 5
        raise BundleError(PREVIOUS + error.file, error.message) from None
    if before.encoder == own:  # 5
        raise BundleError(PREVIOUS + manifest_.FILE, "is of a bundle with the same encoder, which needs no successor")
    expected = set(before.files) & {*CAPS, *MAP_CAPS}
    for name in sorted(expected ^ (set(carried) - {manifest_.FILE})):  # 1
        raise BundleError(PREVIOUS + name, "is carried, or listed in the manifest before, and not both: install again")
    for name in sorted(expected):  # 6
        entry, data = before.files[name], carried[name]
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry.size, entry.sha256):
            raise BundleError(PREVIOUS + name, "is not what the manifest before says: install the bundle again")
    return before, carried
