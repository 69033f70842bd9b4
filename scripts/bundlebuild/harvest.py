"""Clips to training data: read once, mix into streams, embed on all cores; the same bytes whatever the core count."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import augment, corpus
from .audio import Audio, read
from .augment import Settings, Utterance
from .features import Embedder, Labelled, label_steps, long_windows
from .words import BACKGROUND, CLASSES, UNKNOWN

PER_STREAM = 10
"""Utterances in one stream, about 15 s."""


@dataclass(slots=True)
class Material:
    """Decoded clips and what streams are mixed with. ``classes`` orders the labels of the head under construction."""

    items: list[Utterance]
    times: NDArray[np.float64]
    noises: list[Audio] = field(default_factory=list)
    babble: list[Audio] = field(default_factory=list)
    classes: tuple[str, ...] = CLASSES
    settings: Settings = field(default_factory=Settings)


def load(clip: corpus.Clip, classes: Sequence[str] = CLASSES) -> Utterance:
    """Decode one clip, find its speech and cut to 0.3 s around it (silence clips are kept whole)."""
    audio = read(clip.path)
    label = classes.index(clip.label if clip.label in classes else UNKNOWN)
    if clip.label == BACKGROUND:
        return Utterance(audio, 0, len(audio), label, False)
    start, end = corpus.speech_span(audio)
    first, last = max(0, start - 4_800), min(len(audio), end + 4_800)
    return Utterance(audio[first:last], start - first, end - first, label, clip.running)


def jobs(material: Material, rounds: int, seed: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Every stream to make: its seed and which items it holds. ``times`` says how often an item appears per round."""
    number = 0
    for turn in range(rounds):
        rng = np.random.default_rng([seed, turn])
        counts = np.floor(material.times + rng.random(len(material.times))).astype(np.int64)
        order = rng.permutation(np.repeat(np.arange(len(material.items)), counts))
        for start in range(0, len(order), PER_STREAM):
            yield number, order[start : start + PER_STREAM]
            number += 1


_shared: tuple[Material, Embedder, int]


def _work(job: tuple[int, NDArray[np.int64]]) -> Labelled:
    material, embed, seed = _shared
    number, members = job
    rng = np.random.default_rng([seed, 1, number])
    chosen = [material.items[int(i)] for i in members]
    samples, places = augment.stream(rng, chosen, material.noises, material.babble, material.settings)
    embeddings = embed(samples)
    classes = material.classes
    labels, weights = label_steps(len(embeddings), places, classes.index(BACKGROUND))
    stream = Labelled(embeddings.astype(np.float16), labels, weights)
    return Labelled.join([stream, *long_windows(embeddings, places)])


def _start(material: Material, model: bytes, seed: int) -> None:
    global _shared  # noqa: PLW0603 - one per worker process, set when it starts
    _shared = (material, Embedder(model), seed)


def harvest(
    material: Material, model: bytes, *, rounds: int, seed: int, processes: int, progress: bool = True
) -> Labelled:
    """Labelled embeddings of ``rounds`` passes over the material, streams in the order of ``jobs``."""
    todo = list(jobs(material, rounds, seed))
    parts: list[Labelled] = []
    context = multiprocessing.get_context("fork")  # shares the decoded audio instead of copying it
    with context.Pool(processes, _start, (material, model, seed)) as pool:
        for part in pool.imap(_work, todo, chunksize=4):
            parts.append(part)
            if progress and len(parts) % 50 == 0:
                print(f"\r  streams {len(parts)}/{len(todo)}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return Labelled.join(parts)
