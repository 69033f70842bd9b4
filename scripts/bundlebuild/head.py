"""The base head: a small network from a window of 16 embeddings to class scores, forward and backward by hand.

    x (n, 16, 96) --standardise--> conv over 3 steps, relu (n, 14, H) --flatten, linear--> z (n, Z) --linear--> logits

Order in time is kept all the way: the flattened 14 columns are never pooled. Every column needs three embeddings only,
so the device computes one new column per 80 ms. Gradients stand beside the forward pass they belong to and are checked
against finite differences in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
TAPS = 3


@dataclass(slots=True)
class Weights:
    """What is learnt, named as in the bundle: ``convolution`` (3*96, H), ``projection`` (14*H, Z), ``scores`` (Z, C)"""

    convolution: Array
    convolution_bias: Array
    projection: Array
    projection_bias: Array
    scores: Array
    scores_bias: Array

    def arrays(self) -> dict[str, Array]:
        """By name; changing an array in place changes the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def create(rng: np.random.Generator, *, steps: int, width: int, hidden: int, dim: int, classes: int) -> Weights:
    """Random weights, zero biases; variances kept through the layers."""

    def normal(rows: int, columns: int, gain: float) -> Array:
        return np.asarray(rng.standard_normal((rows, columns)) * np.sqrt(gain / rows), np.float32)

    def zero(n: int) -> Array:
        return np.zeros(n, np.float32)

    columns = (steps - TAPS + 1) * hidden
    return Weights(
        normal(TAPS * width, hidden, 2.0), zero(hidden), normal(columns, dim, 1.0), zero(dim),
        normal(dim, classes, 1.0), zero(classes),
    )  # fmt: skip


@dataclass(slots=True)
class Trace:
    """What ``backward`` needs from ``forward``; masks are None without dropout."""

    taps: Array
    columns: Array
    z: Array
    keep_columns: Array | None
    keep_z: Array | None


def unfold(x: Array) -> Array:
    """Three neighbouring steps side by side: (n, T, W) -> (n, T - 2, 3 W), oldest first."""
    n, steps, width = x.shape
    view = np.lib.stride_tricks.sliding_window_view(x, TAPS, axis=1)  # (n, T-2, W, 3)
    return np.ascontiguousarray(view.transpose(0, 1, 3, 2)).reshape(n, steps - TAPS + 1, TAPS * width)


def _keep(rng: np.random.Generator, shape: tuple[int, ...], dropout: float) -> Array:
    return (rng.random(shape, np.float32) >= dropout).astype(np.float32) / np.float32(1.0 - dropout)


def features(w: Weights, x: Array) -> Array:
    """z (n, Z) of standardised windows (n, 16, 96)."""
    columns = np.maximum(unfold(x) @ w.convolution + w.convolution_bias, 0.0)
    z: Array = columns.reshape(len(x), -1) @ w.projection + w.projection_bias
    return z


def forward(w: Weights, x: Array, rng: np.random.Generator | None = None, dropout: float = 0.0) -> tuple[Array, Trace]:
    """Logits (n, C) of standardised windows (n, 16, 96). With ``rng``, dropout on columns and on z."""
    taps = unfold(x)
    columns = np.maximum(taps @ w.convolution + w.convolution_bias, 0.0)
    keep_columns = keep_z = None
    if rng is not None and dropout > 0.0:
        keep_columns = _keep(rng, columns.shape, dropout)
        columns = columns * keep_columns
    z = columns.reshape(len(x), -1) @ w.projection + w.projection_bias
    if rng is not None and dropout > 0.0:
        keep_z = _keep(rng, z.shape, dropout)
        z = z * keep_z
    return z @ w.scores + w.scores_bias, Trace(taps, columns, z, keep_columns, keep_z)


def backward(w: Weights, trace: Trace, d_logits: Array) -> list[Array]:
    """Gradients in the order of the fields of ``Weights``, for the gradient of the loss by the logits."""
    d_z = d_logits @ w.scores.T
    if trace.keep_z is not None:
        d_z *= trace.keep_z
    flat = trace.columns.reshape(len(d_z), -1)
    d_columns = (d_z @ w.projection.T).reshape(trace.columns.shape)
    if trace.keep_columns is not None:
        d_columns *= trace.keep_columns
    d_columns *= trace.columns > 0.0
    d_rows = d_columns.reshape(-1, len(w.convolution_bias))
    return [
        trace.taps.reshape(len(d_rows), -1).T @ d_rows, d_rows.sum(0),
        flat.T @ d_z, d_z.sum(0),
        trace.z.T @ d_logits, d_logits.sum(0),
    ]  # fmt: skip


def softmax(logits: Array) -> Array:
    """Posteriors along the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    result: Array = shifted / shifted.sum(-1, keepdims=True)
    return result


def loss(logits: Array, targets: Array, weights: Array) -> tuple[float, Array]:
    """Mean weighted cross-entropy against target distributions (n, C), and its gradient by the logits."""
    posterior = softmax(logits)
    scale = (weights / np.float32(max(float(weights.sum()), 1e-6)))[:, None]
    value = -float((np.log(posterior + 1e-12) * targets * scale).sum())
    return value, (posterior - targets) * scale


class Adam:
    """Adam with decoupled weight decay on matrices (not on biases)."""

    def __init__(self, arrays: Sequence[Array], decay: float) -> None:
        self._arrays, self._decay, self._step = list(arrays), decay, 0
        self._first = [np.zeros_like(a) for a in arrays]
        self._second = [np.zeros_like(a) for a in arrays]

    def update(self, gradients: list[Array], rate: float) -> None:
        """One step, in place."""
        self._step += 1
        fix1, fix2 = 1.0 - 0.9**self._step, 1.0 - 0.999**self._step
        for a, g, m, v in zip(self._arrays, gradients, self._first, self._second, strict=True):
            m[...] = np.float32(0.9) * m + np.float32(0.1) * g
            v[...] = np.float32(0.999) * v + np.float32(0.001) * g * g
            keep = 1.0 - rate * self._decay if a.ndim > 1 else 1.0
            step = m / (np.sqrt(v / np.float32(fix2)) + np.float32(1e-8))
            a[...] = np.float32(keep) * (a - np.float32(rate / fix1) * step)
