"""A picture of a run: how late events and answers are over the share of a core. matplotlib is wanted here only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torture.loading.order import LATE, LIMITS, MISSED, Figures

HINT = "--plot needs matplotlib: .venv/bin/pip install matplotlib"
LEAST_S = 0.001


def draw(file: Path, table: Mapping[float, Figures]) -> None:
    """SVG or PNG, by the file's name; a figure that did not come is a cross at the top."""
    import matplotlib as mpl  # optional

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shares = sorted(table)
    top = 60.0
    figure, axes = plt.subplots(figsize=(8.0, 5.0))
    for name in LIMITS:
        if name == MISSED or not any(name in table[share] for share in shares):
            continue
        scale = 0.001 if name == LATE else 1.0
        rows = [(100 * share, table[share][name]) for share in shares if name in table[share]]
        values = [(x, top if y is None else max(LEAST_S, scale * y)) for x, y in rows]
        style = {"linewidth": 3.0, "color": "black"} if name == LATE else {"linewidth": 1.2}
        (line,) = axes.plot(*zip(*values, strict=True), marker=".", label=name, **style)
        gone = [x for x, y in rows if y is None]
        axes.plot(gone, [top] * len(gone), "x", color=line.get_color())
    for share in shares:
        if missed := table[share].get(MISSED):
            axes.annotate(f"{missed:.0f} missed", (100 * share, LEAST_S * 1.5), rotation=90, fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="share of one core (%)", ylabel="95th percentile (s)")
    axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    axes.invert_xaxis()
    axes.legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
