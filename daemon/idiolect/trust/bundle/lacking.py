"""Finds what a usable bundle lacks that a speaker could be expected to have, such as a wake word or a guard set.

A bundle's files go in; ``Lack`` values come out, each with what follows from it and the next step. Only descriptions
are read: no array is built. Nothing that is found here makes a bundle unusable. Each is shown where somebody can still
act on it: when a bundle is built, signed, verified or packaged, and by `idiolect doctor` where it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from idiolect.errors import NONSENSE

SPACE = ("space_projection", "space_offset", "space_prototypes", "space_cohort")
"""The arrays of the personal space."""
YES = "yes"
"""The phrase that agrees aloud."""
_SIZES = {"float16": 2, "float32": 4, "int8": 1}
_SPACE = "build it again with ./scripts/build_bundle.py --phrase or, with recordings of people, --space --data DIR"
_GUARD = "build it again with ./scripts/build_bundle.py --phrase, from a base bundle that has one"


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is missing. ``part``: space, guard, prototypes, yes or wake; ``fix`` is the next step.

    ``detail`` says what follows from it.
    """

    part: str
    detail: str
    fix: str

    def __str__(self) -> str:
        return f"{self.detail}: {self.fix}"


def lacking(files: Mapping[str, bytes]) -> tuple[Lack, ...]:
    """Return what these files lack, the gravest first; nothing for files that make no sense, which others refuse."""
    try:
        head, phrases = json.loads(files["head.json"]), json.loads(files["phrases.json"])
        guard = json.loads(files["guard.json"]) if "guard.json" in files else {"labels": []}
        return tuple(_found(head, files["head.bin"], phrases, guard))
    except NONSENSE:
        return ()


def _found(head: Mapping[str, Any], numbers: bytes, phrases: list[Any], guard: Mapping[str, Any]) -> Iterator[Lack]:
    arrays = {entry["name"]: entry for entry in head["arrays"]}
    if SPACE[0] not in arrays:
        yield Lack("space", "it has no statistics to learn with (personal space), so nothing can be learnt", _SPACE)
    elif missing := [name for name in SPACE if name not in arrays]:
        yield Lack("space", f"its statistics to learn with lack {', '.join(missing)}, so no daemon takes it", _SPACE)
    if not guard["labels"]:
        about = "it has no guard set, so what is learnt is not tried on other people's speech before it is used"
        yield Lack("guard", about, _GUARD)
    names = {phrase["name"]: phrase["kind"] for phrase in phrases}
    if SPACE[2] in arrays:
        rows = _empty_rows(arrays[SPACE[2]], numbers)
        if bare := [name for name in names if head["classes"].index(name) in rows]:
            about = f"corrections to {', '.join(bare)} cannot be learnt from, as the statistics do not hold "
            yield Lack("prototypes", about + ("it" if len(bare) == 1 else "them"), _SPACE)
    if YES not in names:
        about = f'it has no phrase "{YES}", so nobody can agree aloud, only people who are paired with a Unix user'
        yield Lack("yes", about, f'add it (--phrase {YES} --kind phrase), or name users under "people" in the settings')
    if "wake" not in names.values():
        about = "it has no wake word, so phrases are heard at any time or not at all"
        yield Lack("wake", about, "add one (./scripts/build_bundle.py --phrase), or set listening.mode: always")


def _empty_rows(entry: Mapping[str, Any], numbers: bytes) -> set[int]:
    """Return the rows of a matrix that hold nothing but zeros."""
    rows, columns = entry["shape"]
    size, start = math.prod((columns, _SIZES[entry["dtype"]])), int(entry["offset"])
    return {row for row in range(rows) if not any(numbers[start + row * size : start + (row + 1) * size])}
