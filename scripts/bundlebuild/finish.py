"""From a trained head to the files of a bundle: whitening, prototypes, folded statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from . import head, whiten
from .audio import digest
from .features import Labelled, windows
from .head import Array
from .train import Trained
from .words import BACKGROUND, UNKNOWN

SAMPLE = 40_000
"""Labelled windows from which class statistics are taken."""
UNKNOWN_CENTRES, BACKGROUND_CENTRES = 16, 8
DIGEST = 6
"""Bytes of a clip's SHA-256 that ``trained_on.bin`` keeps: enough to know a clip again, too little to tell one."""


def sample(data: Labelled, rng: np.random.Generator) -> tuple[Array, np.ndarray]:
    """Up to SAMPLE labelled windows and their classes."""
    useful = np.flatnonzero(data.labels >= 0)
    chosen = np.sort(rng.choice(useful, min(SAMPLE, len(useful)), replace=False))
    return windows(data.embeddings, chosen).astype(np.float32), data.labels[chosen]


def project(model: Trained, x: Array, batch: int = 4096) -> Array:
    """z of raw windows, (n, Z)."""
    return np.concatenate(
        [head.features(model.weights, (x[i : i + batch] - model.mean) / model.std) for i in range(0, len(x), batch)]
    )


def arrays(model: Trained, data: Labelled, rng: np.random.Generator) -> dict[str, Array]:
    """Whiten ``model`` in place and return everything ``head.bin`` holds.

    The standardisation of embeddings is folded into the convolution: relu(((x - m) / s) W + b) has the weights
    W / s and the bias b - (m / s) W.
    """
    x, labels = sample(data, rng)
    model.weights = whiten.whiten(model.weights, project(model, x), labels)
    z = project(model, x)
    found = model.weights.arrays()
    mean, std = np.tile(model.mean, head.TAPS), np.tile(model.std, head.TAPS)
    found["convolution_bias"] = (found["convolution_bias"] - (mean / std) @ found["convolution"]).astype(np.float32)
    found["convolution"] = (found["convolution"] / std[:, None]).astype(np.float32)
    unknown, background = model.classes.index(UNKNOWN), model.classes.index(BACKGROUND)
    return {
        **found,
        **statistics(model.mean, model.std),
        "prototypes": whiten.prototypes(z, labels, len(model.classes)),
        "unknown_prototypes": whiten.centroids(z[labels == unknown], UNKNOWN_CENTRES, rng),
        "background_prototypes": whiten.centroids(z[labels == background], BACKGROUND_CENTRES, rng),
    }


def statistics(mean: Array, std: Array) -> dict[str, Array]:
    """What embeddings look like, (96,) each: for whoever compares windows as they are, without the head."""
    return {"embedding_mean": mean.astype(np.float32), "embedding_std": std.astype(np.float32)}


def from_arrays(classes: tuple[str, ...], stored: Mapping[str, np.ndarray]) -> Trained:
    """A shipped head as one that can be trained on: its standardisation is already folded in."""
    names = ("convolution", "convolution_bias", "projection", "projection_bias", "scores", "scores_bias")
    weights = head.Weights(*(np.array(stored[name], np.float32) for name in names))
    width = weights.convolution.shape[0] // head.TAPS
    return Trained(weights, np.zeros(width, np.float32), np.ones(width, np.float32), classes)


def trained_on(paths: Iterable[Path], before: bytes = b"") -> dict[str, bytes]:
    """``trained_on.bin``: truncated digests of the samples of every recorded clip, on top of ``before``."""
    known = {before[i : i + DIGEST] for i in range(0, len(before), DIGEST)}
    return {"trained_on.bin": b"".join(sorted(known | {digest(path)[:DIGEST] for path in paths}))}
