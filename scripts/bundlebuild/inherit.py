"""What a bundle learns with, taken along from a finished bundle: its personal space with the cohort, its guard set.

All of it is made of embeddings, so it holds for every bundle with the same encoder, whatever its head can tell apart:
only the rows of the prototypes follow the order of the head's classes. What the base bundle lacks is taken from the
bundle that is shipped, where that has the same encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from idiolect.listening.pipeline.space import NAMES, Space
from idiolect.listening.recognizer import bundle_directory, read_bundle
from idiolect.trust.bundle import bundle

from . import augment, guard, harvest, space
from .audio import RATE
from .corpus import Clip
from .features import Embedder
from .guard import Guard
from .head import Array

PROTOTYPE = "space_prototypes"
TAUGHT_BY = 60
"""Clips of a new phrase, at most, whose mean is its prototype."""
GUARDED_BY = 27
"""Windows of a new phrase in the guard set: one under every combination of its strata."""
NOISE_S = 20


@dataclass(frozen=True, slots=True)
class Parts:
    """What was found: the space's ``arrays``, its prototypes by class name, and the guard set. Empty: there is none."""

    arrays: Mapping[str, np.ndarray]
    prototypes: Mapping[str, np.ndarray]
    guard: bundle.Guard


def parts(base: bundle.Bundle) -> Parts:
    """What ``base`` has, and of what it lacks what the shipped bundle has for the same encoder."""
    shipped = read_bundle(bundle_directory("builtin"))
    donors = [base, *([shipped] if shipped.encoder_id == base.encoder_id else [])]
    spacious = next((each for each in donors if NAMES[0] in each.arrays), None)
    guarded = next((each for each in donors if each.guard.labels), base)
    if spacious is None:
        return Parts({}, {}, guarded.guard)
    arrays = {name: spacious.arrays[name] for name in NAMES}
    rows = zip(spacious.classes, spacious.arrays[PROTOTYPE], strict=True)
    return Parts(arrays, {name: row for name, row in rows if row.any()}, guarded.guard)


def space_arrays(
    found: Parts, classes: Sequence[str], more: Mapping[str, Array] | None = None
) -> dict[str, np.ndarray]:
    """The space for a head with these ``classes``; ``more`` are further prototypes. Empty where there is no space."""
    if not found.arrays:
        return {}
    known = {**found.prototypes, **(more or {})}
    nothing = np.zeros(found.arrays[PROTOTYPE].shape[1], np.float32)
    return {**found.arrays, PROTOTYPE: np.array([known.get(name, nothing) for name in classes], np.float32)}


def prototypes(found: Parts, clips: Sequence[Clip], encoder: bytes, processes: int) -> dict[str, Array]:
    """Where phrases lie in the space, by label: the mean of their clips. Empty where there is no space."""
    whole = Space.from_arrays(len(found.arrays[PROTOTYPE]), found.arrays) if found.arrays else None
    if whole is None:
        return {}
    chosen = [c for name in dict.fromkeys(c.label for c in clips) for c in _some([x for x in clips if x.label == name])]
    spoken = space.gather(chosen, encoder, processes)
    z = whole.features(spoken.windows((-1, 0, 1)))
    return {str(name): z[spoken.labels == name].mean((0, 1)) for name in np.unique(spoken.labels)}


def _some(clips: list[Clip]) -> list[Clip]:
    return clips[:: max(1, len(clips) // TAUGHT_BY)][:TAUGHT_BY]


def guard_files(found: Parts, clips: Sequence[Clip], encoder: bytes, seed: int) -> dict[str, bytes]:
    """The guard set with windows of new phrases: ``clips`` of them that the head was not trained on."""
    rng = np.random.default_rng([seed, 98])
    noise = augment.coloured(rng, NOISE_S * RATE)
    sets = []
    for name in dict.fromkeys(clip.label for clip in clips):
        items = [(harvest.load(clip, (name,)), name) for clip in clips if clip.label == name]
        sets.append(guard.make(rng, items, noise, Embedder(encoder), GUARDED_BY))
    return guard.files(_joined(found.guard, sets), scale=found.guard.scale if found.guard.labels else None)


def _joined(known: bundle.Guard, sets: Sequence[Guard]) -> Guard:
    everything = [Guard(known.windows(), list(known.labels), {k: list(v) for k, v in known.strata.items()}), *sets]
    kinds = list(dict.fromkeys(kind for each in everything for kind in each.strata))
    return Guard(
        np.concatenate([each.windows for each in everything]),
        [label for each in everything for label in each.labels],
        {
            kind: [v for each in everything for v in each.strata.get(kind, ["other"] * len(each.labels))]
            for kind in kinds
        },
    )
