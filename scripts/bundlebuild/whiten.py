"""The same head, said in whitened features: z with identity covariance within each class, logits unchanged."""

from __future__ import annotations

import numpy as np

from .head import Array, Weights


def whiten(weights: Weights, z: Array, labels: np.ndarray, shrink: float = 0.05) -> Weights:
    """Re-parametrise so that the within-class covariance of the projection is the identity and its mean zero.

    ``z`` (n, D) are projections of labelled windows. With S the pooled within-class covariance (shrunk towards its
    own scale) and T = S^-1/2, the new projection is (z - m) T and the class weights are T^-1 W, bias b + m W: exact.
    """
    z = z.astype(np.float64)
    classes = np.unique(labels)
    residual = np.concatenate([z[labels == c] - z[labels == c].mean(0) for c in classes])
    spread = residual.T @ residual / len(residual)
    spread = (1.0 - shrink) * spread + shrink * np.trace(spread) / len(spread) * np.eye(len(spread))
    values, vectors = np.linalg.eigh(spread)
    # Symmetric root: z keeps its axes as far as it can, so signs and order of eigenvectors do not matter.
    there = (vectors / np.sqrt(values)) @ vectors.T
    back = (vectors * np.sqrt(values)) @ vectors.T
    mean = z.mean(0)
    return Weights(
        weights.convolution, weights.convolution_bias,
        (weights.projection @ there).astype(np.float32), ((weights.projection_bias - mean) @ there).astype(np.float32),
        (back @ weights.scores).astype(np.float32), (weights.scores_bias + mean @ weights.scores).astype(np.float32),
    )  # fmt: skip


def prototypes(z: Array, labels: np.ndarray, classes: int) -> Array:
    """Class means of whitened projections, (K, D); zeros for a class without windows."""
    out = np.zeros((classes, z.shape[1]), np.float32)
    for c in range(classes):
        if np.any(labels == c):
            out[c] = z[labels == c].mean(0)
    return out


def centroids(z: Array, count: int, rng: np.random.Generator, rounds: int = 25) -> Array:
    """k-means centroids of whitened projections, (count, D): what speech that is no phrase looks like, or silence."""
    centres = z[rng.choice(len(z), min(count, len(z)), replace=False)].astype(np.float32)
    for _ in range(rounds):
        nearest = np.argmin((centres**2).sum(1) - 2.0 * z @ centres.T, axis=1)
        centres = np.stack(
            [z[nearest == c].mean(0) if np.any(nearest == c) else centres[c] for c in range(len(centres))]
        )
    return centres.astype(np.float32)
