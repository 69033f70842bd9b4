"""What every harness shares: its command line, a line of progress, and the summary as JSON.

A harness ends by itself: after so many cycles, or when its time is over. It exits with 0 when all held, 1 when
something did not (``found`` says what, and the seed repeats the choices), 2 when the machine lacks what it takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for _part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    if str(_part) not in sys.path:
        sys.path.insert(0, str(_part))

import environment  # noqa: E402
from benchmark import machine  # noqa: E402

HELD, FOUND, LACKING = 0, 1, 2
"""Exit codes."""


def arguments(description: str, *, seconds: float, **counts: tuple[int, str]) -> argparse.ArgumentParser:
    """``--NAME N`` for each of ``counts`` (default, what it counts), ``--seconds``, ``--seed`` and ``--json``."""
    if not environment.help_wanted():
        environment.enter(Path(sys.argv[0]).stem)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, meaning) in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} ({default})")
    parser.add_argument("--seconds", type=float, default=seconds, metavar="S", help=f"at most so long ({seconds:g})")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N", help="of all choices")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary there, not to stdout")
    return parser


def help_first(parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Where help is wanted, print it and exit; else find the libraries: to be called before they are imported."""
    if environment.help_wanted():
        parser().parse_args()
    environment.enter(Path(sys.argv[0]).stem)


def lacking(name: str, why: str) -> int:
    """Say what the machine lacks."""
    print(f"{name}: {why}", file=sys.stderr)
    return LACKING


class Run:
    """One run of a harness: its time, its progress, its summary."""

    def __init__(self, name: str, wish: argparse.Namespace) -> None:
        """``wish`` is what ``arguments`` parsed."""
        self.name = name
        self.seed: int = wish.seed
        self._wish = wish
        self._began = time.monotonic()
        self._load = machine.load()
        self._shown = 0.0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether its time is."""
        return self.seconds >= self._wish.seconds

    def show(self, text: str) -> None:
        """A line of progress, on a terminal only, four times a second at most."""
        if sys.stderr.isatty() and time.monotonic() - self._shown > 0.25:
            self._shown = time.monotonic()
            print(f"\r\x1b[K{self.name}: {text}", end="", file=sys.stderr, flush=True)

    def finish(self, figures: Mapping[str, object], found: Sequence[str]) -> int:
        """Print or write the summary; the exit code. ``found`` are the promises that did not hold, a line each."""
        if sys.stderr.isatty():
            print(file=sys.stderr)
        summary = {
            "harness": self.name,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "machine": machine.describe() | {"load_per_core_before": round(self._load, 2)},
            **figures,
            "found": list(found),
        }
        text = json.dumps(summary, indent=2) + "\n"
        if self._wish.json:
            self._wish.json.write_text(text)
        else:
            print(text, end="")
        return FOUND if found else HELD
