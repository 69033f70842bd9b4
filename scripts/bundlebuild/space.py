"""The statistics of the personal space (``idiolect.listening.pipeline.space``), in closed form from labelled clips.

    Every clip gives the windows of five steps around the end of its speech; the middle three count here. Windows are
    standardised, reduced to DIMENSIONS principal components and whitened by the pooled covariance within words
    (linear discriminant analysis, Fisher 1936), which is shrunk towards its own scale (Ledoit and Wolf 2004).

A taught phrase is set apart from a cohort of windows as a device meets them: they cut through words, and RUNNING of
them through sentences. Beside windows of whole words alone every sentence looks like the phrase.

"Left out" is meant literally: clips that are not given to ``fit`` are in none of the statistics.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.values import BLOCK, EMBEDDING, WINDOW

from .audio import digest, read, to_int16
from .corpus import Clip, speech_span
from .features import Embedder
from .guard import AFTER_END
from .words import BACKGROUND, UNKNOWN

DIMENSIONS = 192
SHRINK = 0.3
COHORT = 1000
"""Windows of other people that a taught phrase is set apart from."""
RUNNING = 0.3
PASSING = 2
"""Windows that are taken of a word while it is said, at random; three times as many of a sentence."""
STEPS = (-2, -1, 0, 1, 2)
"""Steps around the one at which an utterance's event is due."""
LEAD, TAIL = 26 * BLOCK, 13 * BLOCK
ROOM = 2.5 / 32_768.0

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spoken:
    """Clips as embeddings: ``spans`` float32 (n, 20, 96), which hold the windows of all ``STEPS``."""

    spans: Array
    passing: Array
    """(n, PASSING, 16, 96): while it is said."""
    words: NDArray[np.str_]
    """What was said: the folder's name."""
    labels: NDArray[np.str_]
    """The class of the head."""
    speakers: NDArray[np.str_]
    running: Array
    """(m, 16, 96): windows of sentences."""

    def windows(self, steps: Sequence[int] = STEPS) -> Array:
        """(n, steps, 16, 96)."""
        return np.stack([self.spans[:, s - STEPS[0] : s - STEPS[0] + WINDOW] for s in steps], axis=1)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Spoken:
        """Some of the clips."""
        return Spoken(
            self.spans[chosen], self.passing[chosen], self.words[chosen], self.labels[chosen], self.speakers[chosen],
            self.running,
        )  # fmt: skip


_embedder: Embedder


def _start(model: bytes) -> None:
    global _embedder  # noqa: PLW0603 - one per worker process
    _embedder = Embedder(model)


def span_of(embeddings: Array, end: int) -> Array:
    """The 20 embeddings around an utterance that ends at sample ``end``."""
    newest = min((end + AFTER_END) // BLOCK - 1, len(embeddings) - 1 - STEPS[-1])
    return embeddings[newest + STEPS[0] - WINDOW + 1 : newest + STEPS[-1] + 1]


def passing(embeddings: Array, end: int, count: int, seed: bytes) -> Array:
    """``count`` windows (count, 16, 96) at random steps between a clip's first sound and sample ``end``."""
    views = np.lib.stride_tricks.sliding_window_view(embeddings, WINDOW, axis=0)
    first = LEAD // BLOCK + SOUNDING - WINDOW + 1
    last = max(first + 1, min((end + AFTER_END) // BLOCK - WINDOW + 1, len(views)))
    steps = np.random.default_rng(list(seed)).integers(first, last, count)
    return np.ascontiguousarray(views[steps].transpose(0, 2, 1), np.float32)


SOUNDING = 3
"""Steps into a clip from which on a window has enough of it to be speech."""


def hear(clip: Clip, embed: Embedder | None = None) -> tuple[Array, Array]:
    """One clip in a quiet room: its span (of a sentence: its last) and windows in passing."""
    audio = read(clip.path)
    size = -(-(LEAD + len(audio) + TAIL) // BLOCK) * BLOCK
    heard = np.random.default_rng(list(digest(clip.path))).standard_normal(size).astype(np.float32) * np.float32(ROOM)
    heard[LEAD : LEAD + len(audio)] += audio
    embeddings = (embed or _embedder)(to_int16(heard))
    end = LEAD + (len(audio) if clip.running else speech_span(audio)[1])
    count = PASSING * (3 if clip.running else 1)
    return span_of(embeddings, end), passing(embeddings, end, count, digest(clip.path))


def gather(clips: Sequence[Clip], encoder: bytes, processes: int) -> Spoken:
    """Embed clips on all cores."""
    with multiprocessing.get_context("fork").Pool(processes, _start, (encoder,)) as pool:
        heard = pool.map(hear, clips, chunksize=16)
    single = [i for i, clip in enumerate(clips) if not clip.running]
    sentences = [windows for clip, (_, windows) in zip(clips, heard, strict=True) if clip.running]
    return Spoken(
        np.array([heard[i][0] for i in single], np.float16).astype(np.float32),  # as files keep them
        np.array([heard[i][1] for i in single], np.float32),
        np.array([clips[i].path.parent.name for i in single]),
        np.array([clips[i].label for i in single]),
        np.array([clips[i].speaker for i in single]),
        np.concatenate(sentences) if sentences else np.zeros((0, WINDOW, EMBEDDING), np.float32),
    )


def fit(spoken: Spoken, classes: Sequence[str], seed: int = 0) -> dict[str, NDArray[Any]]:
    """The arrays of a bundle's space from these clips and no others."""
    x = spoken.windows((-1, 0, 1))
    count = len(x)
    flat = x.reshape(-1, x.shape[-2] * x.shape[-1])
    frames = x[:, 1].reshape(-1, x.shape[-1])
    mean, std = np.tile(frames.mean(0), WINDOW), np.tile(frames.std(0) + 1e-3, WINDOW)
    flat = (flat - mean) / std
    centre = flat.mean(0)
    flat -= centre
    _, vectors = np.linalg.eigh(flat.T.astype(np.float64) @ flat / len(flat))
    components = vectors[:, ::-1][:, :DIMENSIONS]
    reduced = flat @ components
    white = _whitening(reduced, np.repeat(spoken.words, 3))
    projection = (components @ white) / std[:, None]
    offset = -(mean / std + centre) @ components @ white
    z = _unit(x.reshape(-1, WINDOW * x.shape[-1]) @ projection + offset).reshape(count, 3, -1)
    others = _cohort(spoken, np.random.default_rng(seed))
    prototypes = [
        z[spoken.labels == name].mean((0, 1))
        if name not in (UNKNOWN, BACKGROUND) and np.any(spoken.labels == name)
        else np.zeros(DIMENSIONS)
        for name in classes
    ]
    return {
        "space_projection": projection.astype(np.float32),
        "space_offset": offset.astype(np.float32),
        "space_prototypes": np.array(prototypes, np.float32),
        "space_cohort": _steps(_unit(others.reshape(len(others), -1) @ projection + offset)),
    }


def _steps(z: Array) -> NDArray[np.int8]:
    """Rows in 127 steps of the largest number among them: their length is 1 by definition, so no scale is kept."""
    return np.asarray(np.round(z * (127.0 / np.abs(z).max())), np.int8)


def _unit(z: Array) -> Array:
    return np.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True), np.float32)


def _cohort(spoken: Spoken, rng: np.random.Generator) -> Array:
    words = spoken.passing[spoken.labels != BACKGROUND].reshape(-1, WINDOW, EMBEDDING)
    running = rng.permutation(len(spoken.running))[: int(RUNNING * COHORT)]
    chosen = rng.permutation(len(words))[: COHORT - len(running)]
    return np.concatenate([words[chosen], spoken.running[running]])


def _whitening(x: Array, words: NDArray[np.str_]) -> NDArray[np.float64]:
    """S^-1/2 of the covariance within words; what has no one word ("unknown", silence) is left out."""
    single = ~np.isin(words, (UNKNOWN, "_silence_"))
    residual = np.concatenate([x[words == w] - x[words == w].mean(0) for w in np.unique(words[single])])
    spread = residual.T.astype(np.float64) @ residual / len(residual)
    spread = (1.0 - SHRINK) * spread + SHRINK * np.trace(spread) / len(spread) * np.eye(len(spread))
    values, vectors = np.linalg.eigh(spread)
    whitening: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return whitening
