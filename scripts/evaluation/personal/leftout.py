"""Base models that never heard what is tested on: the shipped one where that is true of it, else one trained anew.

Left out means out of head, prototypes, whitening and guard set alike. A head that is trained here takes a quarter of
a minute: it has the shipped one's shape and recipe, but learns from clean clips alone and not from hours of mixed
streams, so that its own error is higher than the shipped head's. The report says which of the two a figure rests on.
"""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundlebuild import finish, space, train
from bundlebuild.features import IGNORE, Labelled
from bundlebuild.words import CLASSES, UNKNOWN
from idiolect.learning.model import Model
from idiolect.listening.pipeline.head import Head
from idiolect.listening.pipeline.space import Space
from idiolect.listening.recognizer import Recognizer
from idiolect.people.models import model_of
from idiolect.trust.bundle.bundle import Bundle
from idiolect.values import WINDOW

PASSES = 8.0


def shipped(recognizer: Recognizer) -> Model:
    """The bundle's own model. ``ValueError`` when it has no personal space."""
    found = model_of(recognizer)
    if found is None:
        raise ValueError("the bundle has no personal space: build it with build_bundle.py --space")
    return found


def model(bundle: Bundle, head: Head, personal: Space, phrase: str = "") -> Model:
    """A model with this bundle's thresholds and guard set, both without ``phrase``.

    A phrase that is no class of the bundle is among the guard set's unknown words, which then all go.
    """
    guard = bundle.guard
    gone = phrase if phrase in bundle.classes or not phrase else UNKNOWN
    kept = [i for i, label in enumerate(guard.labels) if label != gone]
    limits = {p.name: p.turn_threshold for p in bundle.phrases if p.name in head.classes and p.name != phrase}
    return Model(
        digest=bundle.digest, head=head, space=personal, wake_words=bundle.wake_words, thresholds=limits,
        guard_stored=guard.stored[kept], guard_scale=guard.scale, guard_labels=tuple(guard.labels[i] for i in kept),
        guard_strata={name: tuple(values[i] for i in kept) for name, values in guard.strata.items()},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """What to train on: clips of ``spoken`` under ``kept``, without ``phrase``, and where the result is cached."""

    name: str
    spoken: space.Spoken
    kept: NDArray[np.bool_]
    cache: Path | None
    phrase: str = ""


def classes_of(task: Task) -> tuple[str, ...]:
    """The shipped head's classes that the task's clips say."""
    said = set(task.spoken.labels[task.kept])
    return tuple(name for name in CLASSES if name in said)


def _labelled(spoken: space.Spoken, classes: Sequence[str]) -> Labelled:
    """Every span as a stream of its own, labelled at its last five steps."""
    count, steps = spoken.spans.shape[:2]
    labels = np.full((count, steps), IGNORE, np.int16)
    where = {name: i for i, name in enumerate(classes)}
    labels[:, WINDOW - 1 :] = np.array([where.get(name, where[UNKNOWN]) for name in spoken.labels])[:, None]
    flat = spoken.spans.reshape(count * steps, -1).astype(np.float16)
    return Labelled(flat, labels.reshape(-1), np.ones(count * steps, np.float32))


def _arrays(task: Task) -> dict[str, np.ndarray]:
    path = task.cache / f"{_key(task)}.npz" if task.cache else None
    if path and path.is_file():
        with np.load(path) as stored:
            return dict(stored)
    taken = task.spoken.take(task.kept)
    classes = classes_of(task)
    arrays: dict[str, np.ndarray] = dict(space.fit(taken, classes))
    data = _labelled(taken, classes)
    recipe = train.Recipe(passes=PASSES)
    arrays |= finish.arrays(train.fit(data, classes, recipe, progress=False), data, np.random.default_rng(0))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


def _key(task: Task) -> str:
    kept = hashlib.sha256(np.ascontiguousarray(task.spoken.spans[task.kept]).tobytes())
    kept.update(np.ascontiguousarray(task.spoken.running).tobytes())
    kept.update("/".join(task.spoken.labels[task.kept]).encode())
    kept.update(b"".join(inspect.getsource(module).encode() for module in (space, train, finish)))  # the recipe
    return f"leftout-{kept.hexdigest()[:32]}"


def retrain(bundle: Bundle, tasks: Sequence[Task], processes: int) -> Mapping[str, Model]:
    """Models by the tasks' names, trained side by side."""
    with multiprocessing.get_context("fork").Pool(max(1, min(processes, len(tasks)))) as pool:
        made = pool.map(_arrays, tasks, chunksize=1)
    found = {}
    for task, arrays in zip(tasks, made, strict=True):
        classes = classes_of(task)
        personal = Space.from_arrays(len(classes), arrays)
        if personal is None:
            raise ValueError(f"no space was made for {task.name}")
        found[task.name] = model(bundle, Head.from_arrays(classes, arrays), personal, task.phrase)
    return found
