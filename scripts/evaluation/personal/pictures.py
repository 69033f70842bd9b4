"""Plots of what personalization does: learning curves, error tradeoffs, poisoning, confusions before and after.

matplotlib is imported where it is drawn with, and wanted nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.tasks import Confusion

from . import adapt, poison, taught

if TYPE_CHECKING:
    from .run import Result

POINTS = 200
FLOOR = 0.02
"""Percent at which a logarithmic axis ends: less was not measured."""


def draw(folder: Path, result: Result) -> list[Path]:
    """Everything there is material for. Raises ``ImportError`` without matplotlib."""
    import matplotlib as mpl  # optional

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def save(name: str, figure: Any) -> None:
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)
        written.append(folder / f"{name}.png")

    for source in sorted({u.source for u in result.users}):
        users = [u for u in result.users if u.source == source]
        figure, axes = plt.subplots(figsize=(7, 4.5))
        _learning(axes, source, users)
        save(f"learning_{source}", figure)
        figure, pair = plt.subplots(1, 2, figsize=(12, 6))
        _confusions(pair, source, users)
        save(f"confusion_{source}_before_after", figure)
    for kind, scores in result.scores.items():
        if scores:
            figure, axes = plt.subplots(figsize=(6, 6))
            _tradeoff(axes, kind, scores)
            save(f"det_taught_{kind}", figure)
    if result.owners:
        figure, axes = plt.subplots(figsize=(7, 4.5))
        _poisoning(axes, result.owners)
        save("poisoning", figure)
    return written


def _learning(axes: Any, source: str, users: Sequence[adapt.User]) -> None:
    shots = [0, *adapt.SHOTS]
    curves = np.array([[u.mean(5)[0], *(u.mean(k)[1] for k in adapt.SHOTS)] for u in users])
    for curve in curves:
        axes.plot(shots, 100 * curve, color="0.75", linewidth=0.8)
    axes.plot(shots, 100 * curves.mean(0), color="C0", linewidth=2.5, marker="o", label=f"mean of {len(users)} people")
    axes.set_xlabel("utterances of each phrase that the person taught")
    axes.set_ylabel("errors on her other utterances, %")
    axes.set_title(f"{source}: one grey line per person")
    axes.set_ylim(bottom=0)
    axes.legend()


def _confusions(pair: Any, source: str, users: Sequence[adapt.User]) -> None:
    rows = [(said, before, after) for u in users for shots, said, before, after in u.confusions if shots == 5]
    labels = sorted({word for row in rows for word in row})
    for axes, side, title in zip(pair, (1, 2), ("base model", "after five of each"), strict=True):
        confusion = Confusion.of(labels, [r[0] for r in rows], [r[side] for r in rows])
        share = confusion.counts / np.maximum(1, confusion.counts.sum(1, keepdims=True))
        axes.imshow(share, vmin=0.0, vmax=1.0, cmap="Blues")
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("heard")
        axes.set_ylabel("said")
        axes.set_title(f"{source}, {title}: {100 * (confusion.accuracy or 0):.1f} %")


def _tradeoff(axes: Any, kind: str, scores: Sequence[taught.Scores]) -> None:
    false = np.logspace(-3, -0.3, POINTS)
    for shots in taught.SHOTS:
        curves = [
            _misses(o, n, false)
            for s in scores
            for o, n in zip(s.own.get(shots, []), s.other.get(shots, []), strict=True)
        ]
        if curves:
            axes.plot(100 * false, np.maximum(100 * np.mean(curves, axis=0), FLOOR), label=f"{shots} utterances")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 100)
    axes.set_xlabel("other clips taken for it, %")
    axes.set_ylabel("missed, %")
    axes.set_title(f"Taught {kind}, other people's voices")
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def _misses(own: NDArray[np.float32], other: NDArray[np.float32], false: NDArray[np.float64]) -> NDArray[np.float64]:
    limits = np.quantile(other, 1.0 - false)
    return np.asarray((own[None, :] <= limits[:, None]).mean(1), np.float64)


def _poisoning(axes: Any, owners: Sequence[poison.Owner]) -> None:
    attacks = [a for o in owners for a in o.attacks]
    for goal, manner in sorted({(a.goal, a.manner) for a in attacks}):
        some = [a for a in attacks if (a.goal, a.manner) == (goal, manner)]
        lost = [0.0, *(float(np.mean([a.lost[n] for a in some])) for n in poison.STEPS)]
        axes.plot([0, *poison.STEPS], 100 * np.array(lost), marker="o", label=f"{goal}, {manner}")
    blunt = [a for a in attacks if a.believed]
    believed = [0.0, *(float(np.mean([a.believed[n] for a in blunt])) for n in poison.STEPS)]
    axes.plot([0, *poison.STEPS], 100 * np.array(believed), "k--", label="without admission, as a comparison")
    axes.axhline(5.0, color="0.6", linestyle=":")
    axes.set_xlabel("poisoned corrections")
    axes.set_ylabel("the owner's utterances lost, %")
    axes.set_ylim(bottom=-0.3)
    axes.legend()
