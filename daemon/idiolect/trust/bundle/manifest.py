"""`manifest.json` lists the files of a bundle. A TPM measures its digest, and approvals are for this digest.

Bytes go in, a ``Manifest`` comes out. The files themselves are not looked at here.

Canonical JSON with exactly these fields:

| field | what it holds |
| --- | --- |
| `name` | 1 to 64 printable characters, for people |
| `version` | whole number from 1; a device's minimum version is compared with it |
| `encoder` | sha256 of `encoder.tflite`: embeddings of different encoders must not be mixed |
| `audio` | the only format there is, ``AUDIO`` |
| `files` | {name: {"sha256", "size"}} of all payload files: everything in ``CAPS``, and what may be there besides |
| `provenance` | how it was made: any values but floats, for people |

Floats are refused throughout: their spelling differs between languages, and with it would the digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idiolect.errors import BundleError
from idiolect.trust.bundle.canonical import encode, parse_object
from idiolect.trust.bundle.source import FORM

FILE = "manifest.json"
CAP = 64 << 10
CAPS: Mapping[str, int] = {
    "encoder.tflite": 4 << 20,
    "head.json": 64 << 10,
    "head.bin": 2 << 20,
    "phrases.json": 64 << 10,
    "guard.json": 256 << 10,
    "guard.bin": 4 << 20,
}
"""The payload of a bundle and the most bytes each file may have."""
OPTIONAL_CAPS: Mapping[str, int] = {"trained_on.bin": 1 << 20}
MAP_CAPS: Mapping[str, int] = {"maps.json": 4 << 10, "maps.bin": 256 << 10}
PREVIOUS = "previous-"
"""Prefix of the files of the bundle before, where one is carried along (``bundle.predecessors``)."""
PREVIOUS_CAPS: Mapping[str, int] = {PREVIOUS + name: cap for name, cap in {FILE: CAP, **CAPS, **MAP_CAPS}.items()}
PAYLOAD_CAPS: Mapping[str, int] = {**CAPS, **OPTIONAL_CAPS, **MAP_CAPS, **PREVIOUS_CAPS}
AUDIO: Mapping[str, object] = {"block": 1280, "channels": 1, "format": "S16_LE", "rate": 16000}
"""Samples in a block, channels, sample format, Hz."""
MAX_NAME = 64
_FIELDS = {"name", "version", "encoder", "audio", "files", "provenance"}
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    """One payload file: its digest (hex) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A well-formed manifest; whether the files are as it says is for ``bundle.verify`` to find out."""

    name: str
    version: int
    encoder: str
    files: Mapping[str, File]
    provenance: Mapping[str, Any]
    digest: str
    """sha256 of the file's bytes, hex: the measurement."""


def parse(raw: bytes) -> Manifest:
    """Read `manifest.json`. Raises ``BundleError``: check 1 for its size, 2 for its form."""
    fields = parse_object(FILE, raw, CAP)
    if set(fields) != _FIELDS:
        odd = ", ".join(ascii(name)[1:-1][:40] for name in sorted(set(fields) ^ _FIELDS)[:4])
        raise _refusal(f"has fields missing or unknown: {odd}")
    if encode(fields["audio"]) != encode(AUDIO):  # as text: to Python, True is 1
        raise _refusal("audio is not one channel of 16 kHz S16_LE in blocks of 1280 samples")
    if not isinstance(fields["provenance"], dict):
        raise _refusal("provenance must be an object")
    files = _files(fields["files"])
    if fields["encoder"] != files["encoder.tflite"].sha256:
        raise _refusal("encoder is not the digest of encoder.tflite")
    return Manifest(
        name=_name(fields["name"]),
        version=_version(fields["version"]),
        encoder=fields["encoder"],
        files=files,
        provenance=fields["provenance"],
        digest=hashlib.sha256(raw).hexdigest(),
    )


def with_label(raw: bytes, name: str | None, version: int | None) -> bytes:
    """Return the manifest ``raw`` with another name or version; ``None`` keeps the old one. Raises ``BundleError``."""
    fields = parse_object(FILE, raw, CAP)
    changed = {"name": name, "version": version}
    again = encode(fields | {key: value for key, value in changed.items() if value is not None})
    parse(again)
    return again


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise _refusal(f"name must be text of 1 to {MAX_NAME} printable characters")
    return value


def _version(value: object) -> int:
    if type(value) is not int or value < 1:
        raise _refusal("version must be a whole number from 1")
    return value


def _files(value: object) -> dict[str, File]:
    if not isinstance(value, dict) or not set(CAPS) <= set(value) <= set(PAYLOAD_CAPS):
        perhaps = ", ".join((*OPTIONAL_CAPS, *MAP_CAPS))
        message = f"files must list {', '.join(CAPS)}, perhaps {perhaps} and {PREVIOUS}* of these, and nothing else"
        raise _refusal(message)
    return {name: _file(name, entry) for name, entry in value.items()}


def _file(name: str, entry: object) -> File:
    if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
        raise _refusal(f"files: {name} must have sha256 and size")
    digest, size = entry["sha256"], entry["size"]
    if not isinstance(digest, str) or not _HEX.fullmatch(digest):
        raise _refusal(f"files: sha256 of {name} must be 64 lower-case hex digits")
    if type(size) is not int or not 0 <= size <= PAYLOAD_CAPS[name]:
        raise _refusal(f"files: size of {name} must be a whole number of at most {PAYLOAD_CAPS[name]}")
    return File(digest, size)


def _refusal(message: str) -> BundleError:
    return BundleError(FILE, message, FORM)
