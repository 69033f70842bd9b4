"""Training: minibatches of windows drawn from labelled streams, the same bytes for the same inputs.

Run it with one BLAS thread (``build_bundle.py`` sees to that): a threaded matrix product may sum in another order.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import head
from .features import Labelled, windows
from .head import Array, Weights


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained."""

    hidden: int = 64
    dim: int = 96
    passes: float = 4.0
    batch: int = 256
    rate: float = 1.5e-3
    decay: float = 0.02
    dropout: float = 0.3
    smoothing: float = 0.05
    mixup: float = 0.3
    jitter: float = 0.15
    background_share: float = 0.25
    seed: int = 1


@dataclass(slots=True)
class Trained:
    """A head and the statistics its inputs are standardised with, (96,) each."""

    weights: Weights
    mean: Array
    std: Array
    classes: tuple[str, ...]


def logits(model: Trained, x: Array, batch: int = 4096) -> Array:
    """Scores (n, K) of raw windows (n, 16, 96)."""
    parts = [
        head.forward(model.weights, (x[i : i + batch] - model.mean) / model.std)[0] for i in range(0, len(x), batch)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(model.classes)), np.float32)


def _pick(data: Labelled, share: float, rng: np.random.Generator, background: int) -> np.ndarray:
    """Steps to train on in one pass: all that are labelled, background thinned to ``share`` of the whole."""
    useful = np.flatnonzero(data.labels >= 0)
    quiet = useful[data.labels[useful] == background]
    rest = useful[data.labels[useful] != background]
    count = min(len(quiet), int(len(rest) * share / (1.0 - share)))
    return rng.permutation(np.concatenate([rest, rng.choice(quiet, count, replace=False)]))


def fit(data: Labelled, classes: tuple[str, ...], recipe: Recipe, *, progress: bool = True) -> Trained:
    """Train a head. Raises ``ValueError`` when a class has no labelled step."""
    rng = np.random.default_rng(recipe.seed)
    counts = np.bincount(data.labels[data.labels >= 0], minlength=len(classes))
    if not counts.all():
        raise ValueError(f"no training data for {classes[int(np.argmin(counts))]!r}")
    mean, std = data.embeddings.astype(np.float32).mean(0), data.embeddings.astype(np.float32).std(0) + 1e-3
    weights = head.create(
        rng, steps=16, width=data.embeddings.shape[1], hidden=recipe.hidden, dim=recipe.dim,
        classes=len(classes),
    )  # fmt: skip
    optimizer = head.Adam(list(weights.arrays().values()), recipe.decay)
    eye = np.eye(len(classes), dtype=np.float32) * (1.0 - recipe.smoothing) + recipe.smoothing / len(classes)
    # Frequent classes count for less, but not as little as full balancing would make them.
    balance = (counts.mean() / counts) ** 0.5
    per_pass = len(_pick(data, recipe.background_share, np.random.default_rng(0), len(classes) - 1))
    total = max(1, int(recipe.passes * per_pass) // recipe.batch)
    warm = max(1, min(200, total // 10))
    order = np.zeros(0, np.int64)
    running = 0.0
    for step in range(total):
        if len(order) < recipe.batch:
            order = _pick(data, recipe.background_share, rng, len(classes) - 1)
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        x = (windows(data.embeddings, chosen).astype(np.float32) - mean) / std
        target, weight = (
            eye[data.labels[chosen]],
            data.weights[chosen] * balance[data.labels[chosen]].astype(np.float32),
        )
        if recipe.mixup > 0.0:
            share = np.float32(rng.beta(recipe.mixup, recipe.mixup))
            share = max(share, np.float32(1.0) - share)
            other = rng.permutation(len(x))
            x = share * x + (1 - share) * x[other]
            target = share * target + (1 - share) * target[other]
        x += rng.standard_normal(x.shape, np.float32) * np.float32(recipe.jitter)
        scores, trace = head.forward(weights, x, rng, recipe.dropout)
        value, gradient = head.loss(scores, target, weight)
        # A short warm-up, then half a cosine down to nothing.
        rate = recipe.rate * min(1.0, (step + 1) / warm) * 0.5 * (1.0 + np.cos(np.pi * step / total))
        optimizer.update(head.backward(weights, trace, gradient), float(rate))
        running += 0.01 * (value - running)
        if progress and step % 100 == 0:
            print(f"\r  step {step}/{total}, loss {running:.3f}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return Trained(weights, mean, std, classes)


_sets: Sequence[Labelled]


def _fit_one(job: tuple[int, tuple[str, ...], Recipe]) -> Trained:
    number, classes, recipe = job
    return fit(_sets[number], classes, recipe, progress=number == 0)


def fit_all(sets: Sequence[Labelled], classes: tuple[str, ...], recipe: Recipe, processes: int) -> list[Trained]:
    """A head for each data set, side by side; each is what ``fit`` would give."""
    global _sets  # noqa: PLW0603 - forked workers share the data instead of copying it
    _sets = sets
    jobs = [(number, classes, recipe) for number in range(len(sets))]
    with multiprocessing.get_context("fork").Pool(min(processes, len(sets))) as pool:
        return pool.map(_fit_one, jobs, chunksize=1)
