"""Pictures of the confusions; matplotlib is wanted here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .tasks import Confusion

HINT = "--plots needs matplotlib: .venv/bin/pip install matplotlib"


def draw(folder: Path, confusions: Mapping[str, Confusion]) -> list[Path]:
    """One PNG per task and condition. Raises ``ImportError`` without matplotlib."""
    import matplotlib as mpl  # optional

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, confusion in confusions.items():
        if confusion.accuracy is None:
            continue
        rows = confusion.counts / np.maximum(1, confusion.counts.sum(1, keepdims=True))
        size = 2.0 + 0.45 * len(confusion.labels)
        figure, axes = plt.subplots(figsize=(size, size))
        axes.imshow(rows, vmin=0.0, vmax=1.0, cmap="Blues")
        axes.set_xticks(range(len(confusion.labels)), confusion.labels, rotation=90)
        axes.set_yticks(range(len(confusion.labels)), confusion.labels)
        axes.set_xlabel("heard")
        axes.set_ylabel("said")
        axes.set_title(f"{name}: {100 * confusion.accuracy:.1f} % of {confusion.counts.sum()}")
        for (row, column), count in np.ndenumerate(confusion.counts):
            if count:
                axes.text(
                    column,
                    row,
                    str(count),
                    ha="center",
                    va="center",
                    color="white" if rows[row, column] > 0.5 else "black",
                    fontsize=7,
                )
        figure.tight_layout()
        written.append(folder / f"{name}.png")
        figure.savefig(written[-1], dpi=110)
        plt.close(figure)
    return written
