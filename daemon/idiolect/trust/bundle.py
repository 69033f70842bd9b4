"""The bundle: bytes in, checked contents or a refusal out.

A bundle is a directory that never changes once made:

| file | what it holds |
| --- | --- |
| `manifest.json` | canonical JSON: name, version, encoder (sha256), audio, files {name: {sha256, size}}, provenance |
| `encoder.tflite` | the streaming int8 encoder |
| `head.json`, `head.bin` | the base head's arrays: names, types, shapes and offsets, then the numbers |
| `phrases.json` | what can be said: name, text, kind (wake or phrase), two calibrated thresholds |
| `guard.json`, `guard.bin` | the guard set: int8 windows of other speakers |

``load`` checks, in this order:

1. the manifest exists, has at most 64 KiB, and is canonical JSON with the fields above and no others;
2. it lists every file above, nothing larger than its cap, and no name with a path in it;
3. every file has the size and the digest that the manifest gives. What is returned are *the bytes that were
   digested*: no path is ever read twice;
4. the contents make sense: array bounds, class names, thresholds.

Signatures, minimum versions and slots are not checked here yet: an unsigned bundle is for development only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.errors import BundleError

MANIFEST = "manifest.json"
MANIFEST_CAP = 64 * 1024
CAPS: Mapping[str, int] = {
    "encoder.tflite": 4 << 20,
    "head.json": 64 << 10,
    "head.bin": 2 << 20,
    "phrases.json": 64 << 10,
    "guard.json": 256 << 10,
    "guard.bin": 4 << 20,
}
"""The files of a bundle and the most bytes each may have."""
OPTIONAL_CAPS: Mapping[str, int] = {"trained_on.bin": 1 << 20}
_FIELDS = {"name", "version", "encoder", "audio", "files", "provenance"}
_DTYPES = {"float16": "<f2", "float32": "<f4"}

Read = Callable[[str, int], bytes]
"""Gives all bytes of a named file of at most so many bytes; raises ``BundleError`` when it cannot."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Something that can be said: ``name`` identifies it, ``text`` is its canonical spelling."""

    name: str
    text: str
    kind: str
    threshold: float
    """Score, 0..1, from which it counts in a room where anybody may be talking to anybody."""
    turn_threshold: float
    """The same in a turn, when somebody is known to speak to the device; never higher."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose bytes match its manifest."""

    name: str
    version: int
    digest: str
    """sha256 of the manifest, which is what a TPM measures."""
    encoder_id: str
    encoder: bytes
    classes: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    arrays: Mapping[str, NDArray[np.floating]]

    @property
    def wake_words(self) -> tuple[str, ...]:
        """Names of the phrases that can open a turn."""
        return tuple(p.name for p in self.phrases if p.kind == "wake")

    @property
    def commands(self) -> tuple[str, ...]:
        """Names of all other phrases."""
        return tuple(p.name for p in self.phrases if p.kind == "phrase")


def load(read: Read) -> Bundle:
    """Check a bundle (see above) and return it; ``BundleError`` names the file at fault."""
    raw = read(MANIFEST, MANIFEST_CAP)
    manifest = _manifest(raw)
    files = {name: _checked(name, read(name, cap), manifest["files"][name]) for name, cap in CAPS.items()}
    head = _json("head.json", files["head.json"])
    classes = _classes(head)
    encoder_id = hashlib.sha256(files["encoder.tflite"]).hexdigest()
    if manifest["encoder"] != encoder_id:
        raise BundleError(MANIFEST, "encoder is not the digest of encoder.tflite")
    return Bundle(
        name=manifest["name"],
        version=manifest["version"],
        digest=hashlib.sha256(raw).hexdigest(),
        encoder_id=encoder_id,
        encoder=files["encoder.tflite"],
        classes=classes,
        phrases=_phrases(files["phrases.json"], classes),
        arrays=_arrays(head, files["head.bin"]),
    )


def canonical(value: object) -> bytes:
    """The one way to write a value as JSON here: sorted keys, no spaces, UTF-8, no floats that are not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _json(name: str, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise BundleError(name, "is not JSON, or is cut short: install the bundle again") from None
    if not isinstance(value, dict):
        raise BundleError(name, "must be a JSON object")
    return value


def _manifest(raw: bytes) -> dict[str, Any]:
    manifest = _json(MANIFEST, raw)
    if set(manifest) != _FIELDS:
        odd = ", ".join(sorted(set(manifest) ^ _FIELDS))
        raise BundleError(MANIFEST, f"fields missing or unknown: {odd[:200]}")
    if canonical(manifest) != raw:
        raise BundleError(MANIFEST, "is not canonical JSON")
    version, files = manifest["version"], manifest["files"]
    if not isinstance(manifest["name"], str) or type(version) is not int or version < 1:
        raise BundleError(MANIFEST, "name must be text and version a whole number from 1")
    if not isinstance(files, dict) or not set(CAPS) <= set(files) <= set(CAPS) | set(OPTIONAL_CAPS):
        raise BundleError(MANIFEST, f"files must list {', '.join(CAPS)}")
    return manifest


def _checked(name: str, raw: bytes, entry: object) -> bytes:
    if not isinstance(entry, dict) or entry.get("size") != len(raw):
        raise BundleError(name, f"has {len(raw)} bytes, the manifest says otherwise: install the bundle again")
    if entry.get("sha256") != hashlib.sha256(raw).hexdigest():
        raise BundleError(name, "is not what the manifest says (sha256 differs): install the bundle again")
    return raw


def _classes(head: Mapping[str, Any]) -> tuple[str, ...]:
    classes = head.get("classes")
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or not 2 <= len(classes) <= 512:
        raise BundleError("head.json", "classes must be a list of 2 to 512 names")
    if len(set(classes)) != len(classes):
        raise BundleError("head.json", "classes holds a name twice")
    return tuple(classes)


def _arrays(head: Mapping[str, Any], numbers: bytes) -> dict[str, NDArray[np.floating]]:
    arrays = {}
    try:
        for entry in head["arrays"]:
            name, shape = str(entry["name"]), tuple(int(n) for n in entry["shape"])
            dtype, offset, count = np.dtype(_DTYPES[entry["dtype"]]), int(entry["offset"]), math.prod(shape)
            if min(shape) < 1 or offset < 0 or offset + count * dtype.itemsize > len(numbers):
                raise ValueError
            arrays[name] = np.frombuffer(numbers, dtype, count, offset).reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BundleError("head.json", "arrays do not fit head.bin") from None
    return arrays


def _phrases(raw: bytes, classes: tuple[str, ...]) -> tuple[Phrase, ...]:
    try:
        phrases = tuple(
            Phrase(
                name=str(p["name"]),
                text=str(p["text"]),
                kind=str(p["kind"]),
                threshold=float(p["threshold"]),
                turn_threshold=float(p.get("turn_threshold", p["threshold"])),
            )
            for p in json.loads(raw)
        )
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        what = "must be a list of {name, text, kind, threshold} and perhaps turn_threshold"
        raise BundleError("phrases.json", what) from None
    for phrase in phrases:
        if phrase.name not in classes or phrase.kind not in ("wake", "phrase"):
            raise BundleError("phrases.json", "holds a phrase that is no class of the head, or of no known kind")
        if not 0.0 < phrase.turn_threshold <= phrase.threshold < 1.0:
            raise BundleError("phrases.json", "holds thresholds that are not 0 < turn_threshold <= threshold < 1")
    return phrases
