"""Reads a bundle's `phrases.json`, the phrases that can be said to it, without numpy: the command line reads it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idiolect.errors import NONSENSE, BundleError
from idiolect.host import structure
from idiolect.trust.bundle.verify import Verified

PARTS = 1 << 17
"""Brackets and commas in one JSON file of a bundle."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Something that can be said: ``name`` identifies it, ``text`` is its canonical spelling."""

    name: str
    text: str
    kind: str
    threshold: float
    """Score, 0..1, from which it counts in a room where anybody may be talking to anybody."""
    turn_threshold: float
    """Score, 0..1, from which it counts in a turn, when somebody is known to speak to the device; never higher."""


def offered(verified: Verified) -> tuple[Phrase, ...]:
    """Return the phrases of a verified bundle.

    Raises:
        BundleError: with check 0; names the file whose contents make no sense.
    """
    head = read_json("head.json", verified.files["head.json"])
    return read_phrases(verified.files["phrases.json"], read_classes(head))


def read_json(name: str, raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a file of the bundle. Raises ``BundleError``, naming the file, for anything else."""
    try:
        value = structure.load(raw, parts=PARTS)
    except structure.StructureError as error:
        raise BundleError(name, str(error)) from None
    except (ValueError, RecursionError):
        raise BundleError(name, "is not JSON, or is cut short: install the bundle again") from None
    if not isinstance(value, dict):
        raise BundleError(name, "must be a JSON object")
    return value


def read_classes(head: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the head's classes, in order. Raises ``BundleError`` where they are none."""
    classes = head.get("classes")
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or not 2 <= len(classes) <= 512:
        raise BundleError("head.json", "classes must be a list of 2 to 512 names")
    if len(set(classes)) != len(classes):
        raise BundleError("head.json", "classes holds a name twice")
    return tuple(classes)


def read_phrases(raw: bytes, classes: tuple[str, ...]) -> tuple[Phrase, ...]:
    """Return the phrases in `phrases.json`.

    Args:
        classes: those of the bundle's head; every phrase has to be one of them.

    Raises:
        BundleError: the file makes no sense, or does not fit the head.
    """
    try:
        phrases = tuple(
            Phrase(
                name=str(p["name"]),
                text=str(p["text"]),
                kind=str(p["kind"]),
                threshold=float(p["threshold"]),
                turn_threshold=float(p.get("turn_threshold", p["threshold"])),
            )
            for p in structure.load(raw, parts=PARTS)
        )
    except structure.StructureError as error:
        raise BundleError("phrases.json", str(error)) from None
    except NONSENSE:
        what = "must be a list of {name, text, kind, threshold} and perhaps turn_threshold"
        raise BundleError("phrases.json", what) from None
    for phrase in phrases:
        if phrase.name not in classes or phrase.kind not in ("wake", "phrase"):
            raise BundleError("phrases.json", "holds a phrase that is no class of the head, or of no known kind")
        if not 0.0 < phrase.turn_threshold <= phrase.threshold < 1.0:
            raise BundleError("phrases.json", "holds thresholds that are not 0 < turn_threshold <= threshold < 1")
    return phrases
