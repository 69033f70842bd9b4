"""The statistics of the personal space (``idiolect.pipeline.space``), in closed form from labelled clips.

    Every clip gives the windows of five steps around the end of its speech; the middle three count here. Windows are
    standardised, reduced to DIMENSIONS principal components and whitened by the pooled covariance within words
    (linear discriminant analysis, Fisher 1936), which is shrunk towards its own scale (Ledoit and Wolf 2004).

"Left out" is meant literally: clips that are not given to ``fit`` are in none of the statistics.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from idiolect.values import BLOCK, WINDOW

from .audio import digest, read, to_int16
from .corpus import Clip, speech_span
from .features import Embedder
from .guard import AFTER_END
from .words import BACKGROUND, UNKNOWN

DIMENSIONS = 192
SHRINK = 0.3
COHORT = 400
"""Windows of other people that a taught phrase is set apart from."""
STEPS = (-2, -1, 0, 1, 2)
"""Steps around the one at which an utterance's event is due."""
LEAD, TAIL = 26 * BLOCK, 13 * BLOCK
ROOM = 2.5 / 32_768.0

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spoken:
    """Clips as embeddings: ``spans`` float32 (n, 20, 96), which hold the windows of all ``STEPS``."""

    spans: Array
    words: NDArray[np.str_]
    """What was said: the folder's name."""
    labels: NDArray[np.str_]
    """The class of the head."""
    speakers: NDArray[np.str_]

    def windows(self, steps: Sequence[int] = STEPS) -> Array:
        """(n, steps, 16, 96)."""
        return np.stack([self.spans[:, s - STEPS[0] : s - STEPS[0] + WINDOW] for s in steps], axis=1)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Spoken:
        """Some of the clips."""
        return Spoken(self.spans[chosen], self.words[chosen], self.labels[chosen], self.speakers[chosen])


_embedder: Embedder


def _start(model: bytes) -> None:
    global _embedder  # noqa: PLW0603 - one per worker process
    _embedder = Embedder(model)


def span_of(embeddings: Array, end: int) -> Array:
    """The 20 embeddings around an utterance that ends at sample ``end``."""
    newest = min((end + AFTER_END) // BLOCK - 1, len(embeddings) - 1 - STEPS[-1])
    return embeddings[newest + STEPS[0] - WINDOW + 1 : newest + STEPS[-1] + 1]


def hear(clip: Clip, embed: Embedder | None = None) -> Array:
    """One clip in a quiet room, as a span."""
    audio = read(clip.path)
    size = -(-(LEAD + len(audio) + TAIL) // BLOCK) * BLOCK
    heard = np.random.default_rng(list(digest(clip.path))).standard_normal(size).astype(np.float32) * np.float32(ROOM)
    heard[LEAD : LEAD + len(audio)] += audio
    return span_of((embed or _embedder)(to_int16(heard)), LEAD + speech_span(audio)[1])


def gather(clips: Sequence[Clip], encoder: bytes, processes: int) -> Spoken:
    """Embed clips on all cores."""
    with multiprocessing.get_context("fork").Pool(processes, _start, (encoder,)) as pool:
        spans = pool.map(partial(hear), clips, chunksize=16)
    return Spoken(
        np.array(spans, np.float16).astype(np.float32),  # as files keep them
        np.array([c.path.parent.name for c in clips]),
        np.array([c.label for c in clips]),
        np.array([c.speaker for c in clips]),
    )


def fit(spoken: Spoken, classes: Sequence[str], seed: int = 0) -> dict[str, Array]:
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
    z = x.reshape(-1, WINDOW * x.shape[-1]) @ projection + offset
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).reshape(count, 3, -1)
    chosen = np.random.default_rng(seed).permutation(count)[:COHORT]
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
        "space_cohort": z[chosen, 1].astype(np.float32),
    }


def _whitening(x: Array, words: NDArray[np.str_]) -> NDArray[np.float64]:
    """S^-1/2 of the covariance within words; what has no one word ("unknown", silence) is left out."""
    single = ~np.isin(words, (UNKNOWN, "_silence_"))
    residual = np.concatenate([x[words == w] - x[words == w].mean(0) for w in np.unique(words[single])])
    spread = residual.T.astype(np.float64) @ residual / len(residual)
    spread = (1.0 - SHRINK) * spread + SHRINK * np.trace(spread) / len(spread) * np.eye(len(spread))
    values, vectors = np.linalg.eigh(spread)
    whitening: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return whitening
