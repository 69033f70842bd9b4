"""`scripts/bench`: what the daemon costs, beside what others cost, on the same speech in the same run."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def parse() -> argparse.Namespace:
    """The command line, or its help; needs no library."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--audio", type=Path, metavar="WAV", help="speech to feed instead of Debian's recordings")
    parser.add_argument("--peers", action="store_true", help="also run openWakeWord, pyopen- and pymicro-wakeword")
    parser.add_argument("--bundle", default="builtin", metavar="DIR", help="the bundle to listen with")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR", help="more digits")
    parser.add_argument(
        "--disk",
        type=Path,
        default=ROOT,
        metavar="DIR",
        help="a folder on a disk, where writes can be counted (that of the project)",
    )
    parser.add_argument("--repetitions", type=int, default=7, metavar="N", help="rounds of each CPU figure (7)")
    parser.add_argument("--listen", type=float, default=20.0, metavar="S", help="seconds that the daemon runs (20)")
    options = parser.parse_args()
    if options.repetitions < 1 or options.listen <= 0:
        parser.error("--repetitions and --listen must be more than 0")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.parent}")  # said now, not after minutes
    return options


if __name__ == "__main__":
    parse()
