"""The bundle's contents: a verified bundle goes in; arrays, phrases and guard set come out, for pipeline and trainer.

A bundle is a directory that never changes once made:

| file | what it holds |
| --- | --- |
| `manifest.json` | name, version, and the digests of the files below (``bundle.manifest``) |
| `approvals.json` | which boots may have the keys (``bundle.approvals``) |
| `model.sig` | a signature over all other files (``bundle.signature``) |
| `encoder.tflite` | the streaming int8 encoder |
| `head.json`, `head.bin` | the base head's arrays: names, types, shapes and offsets, then the numbers |
| `phrases.json` | what can be said: name, text, kind (wake or phrase), two calibrated thresholds |
| `guard.json`, `guard.bin` | the guard set: int8 windows of other speakers |
| `trained_on.bin` | optional: truncated digests of the recordings it was trained on |
| `maps.json`, `maps.bin`, `previous-*` | for what was taught under earlier encoders (``bundle.predecessors``) |

The default bundle ships without `approvals.json` and `model.sig`: whoever makes a device signs it. ``bundle.verify``
says what is checked before anything here is parsed; ``load`` checks that the contents make sense: array bounds, class
names, thresholds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.errors import NONSENSE, BundleError
from idiolect.trust.bundle import predecessors
from idiolect.trust.bundle.approvals import Approval
from idiolect.trust.bundle.lacking import Lack, lacking
from idiolect.trust.bundle.manifest import PREVIOUS, Manifest
from idiolect.trust.bundle.phrases import Phrase, read_classes, read_json, read_phrases
from idiolect.trust.bundle.verify import Verified
from idiolect.values import EMBEDDING, WINDOW

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[0-9A-Za-z]{1,8}){0,4}")
_DTYPES = {"float16": "<f2", "float32": "<f4", "int8": "|i1"}


@dataclass(frozen=True, slots=True)
class Guard:
    """Windows of other people on which no adapter may be worse; float value = ``scale`` * stored."""

    stored: NDArray[np.int8]
    """(n, 16, 96)"""
    scale: float
    labels: tuple[str, ...]
    strata: Mapping[str, tuple[str, ...]]
    """The stratum of every window, by kind (noise, pace, channel)."""

    def windows(self) -> NDArray[np.float32]:
        """Return all windows as floats, (n, 16, 96)."""
        return self.stored.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle whose contents make sense."""

    name: str
    version: int
    digest: str
    """sha256 of the manifest, which is what a TPM measures."""
    encoder_id: str
    encoder: bytes
    classes: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    arrays: Mapping[str, NDArray[np.floating]]
    guard: Guard
    signer: str
    """Fingerprint of the bundle key, hex; "" when unsigned."""
    language: str
    """The language of its phrases, as a tag (RFC 5646)."""
    approvals: tuple[Approval, ...] = ()
    """The boots that may have the keys; none when unsigned."""
    maps: Mapping[str, predecessors.Affine] = field(default_factory=dict)
    """The maps that bring an earlier encoder's embeddings into this one's space, by that encoder's id."""
    previous: Bundle | None = None
    """The bundle before, as far as it is carried along: all but what it was trained on, and its own previous."""
    lacks: tuple[Lack, ...] = ()
    """Parts that a speaker could be expected to have, and this bundle does not bring."""

    @property
    def wake_words(self) -> tuple[str, ...]:
        """Return the names of the phrases that can open a turn."""
        return tuple(p.name for p in self.phrases if p.kind == "wake")

    @property
    def commands(self) -> tuple[str, ...]:
        """Return the names of all phrases that are no wake words."""
        return tuple(p.name for p in self.phrases if p.kind == "phrase")


def load(verified: Verified) -> Bundle:
    """Turn the files of a verified bundle into arrays and phrases.

    Raises:
        BundleError: with check 0; names the file whose contents make no sense.
    """
    own = _contents(verified.manifest, verified.files)
    return replace(own, signer=verified.signer, approvals=verified.approvals, previous=_previous(own, verified.files))


def _contents(manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    head = read_json("head.json", files["head.json"])
    classes = read_classes(head)
    return Bundle(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        encoder_id=manifest.encoder,
        encoder=files["encoder.tflite"],
        classes=classes,
        phrases=read_phrases(files["phrases.json"], classes),
        arrays=_arrays(head, files["head.bin"]),
        guard=_guard(files),
        signer="",
        maps=predecessors.maps(files, manifest.encoder),
        language=_language(head),
        lacks=lacking(files),
    )


def _previous(own: Bundle, files: Mapping[str, bytes]) -> Bundle | None:
    found = predecessors.previous(files, own.encoder_id)
    if found is None:
        return None
    try:
        return _contents(*found)
    except BundleError as error:
        raise BundleError(PREVIOUS + error.file, error.message) from None


def _language(head: Mapping[str, Any]) -> str:
    language = head.get("language", "en")
    if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        raise BundleError("head.json", 'language must be a language tag, such as "en" or "pt-BR"')
    return language


def _arrays(head: Mapping[str, Any], numbers: bytes) -> dict[str, NDArray[np.floating]]:
    arrays = {}
    try:
        for entry in head["arrays"]:
            name, shape = str(entry["name"]), tuple(int(n) for n in entry["shape"])
            dtype, offset, count = np.dtype(_DTYPES[entry["dtype"]]), int(entry["offset"]), math.prod(shape)
            if min(shape) < 1 or offset < 0 or offset + count * dtype.itemsize > len(numbers):
                raise ValueError
            arrays[name] = np.frombuffer(numbers, dtype, count, offset).reshape(shape)
    except NONSENSE:
        raise BundleError("head.json", "arrays do not fit head.bin") from None
    return arrays


def _guard(files: Mapping[str, bytes]) -> Guard:
    if "guard.json" not in files and "guard.bin" not in files:
        return Guard(np.zeros((0, WINDOW, EMBEDDING), np.int8), 1.0, (), {})
    described = read_json("guard.json", files.get("guard.json", b""))
    try:
        names = [str(name) for name in described["classes"]]
        shape, scale = tuple(int(n) for n in described["shape"]), float(described["scale"])
        labels = tuple(names[int(i)] for i in described["labels"])
        strata = {str(k): tuple(str(v["values"][int(i)]) for i in v["index"]) for k, v in described["strata"].items()}
        windows = np.frombuffer(files["guard.bin"], np.int8).reshape(shape)
        if shape[1:] != (WINDOW, EMBEDDING) or not 0.0 < scale < math.inf:
            raise ValueError
        if any(len(each) != shape[0] for each in (labels, *strata.values())):
            raise ValueError
    except NONSENSE:
        raise BundleError("guard.json", "does not fit guard.bin") from None
    return Guard(windows, scale, labels, strata)
