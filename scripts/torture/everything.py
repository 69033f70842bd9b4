#!/usr/bin/env python3
"""Every harness in full, two at once, into a folder: what docs/reliability.md was filled in from. Some hours.

    scripts/torture/everything.py --out DIR             the counts of the issue: two to three hours on two cores
    scripts/torture/everything.py --out DIR --share 10  a tenth of the counts: some twenty minutes

Writes ``DIR/NAME.json`` and ``DIR/NAME.log`` for each, and prints a line when one has ended. Those that measure time
(``load``, ``flood``, ``hours``) come last and alone. Exit code 1 if any found something, 2 if any could not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Part:
    """A harness. ``counts`` are scaled by ``--share``, ``fixed`` are not."""

    name: str
    counts: tuple[tuple[str, int], ...] = ()
    fixed: tuple[str, ...] = ()

    def command(self, out: Path, share: float, seed: int) -> list[str]:
        """Its command line."""
        scaled = (word for option, count in self.counts for word in (option, str(max(1, round(count * share)))))
        common = ("--seed", str(seed), "--json", str(out / f"{self.name}.json"))
        return [sys.executable, str(HERE / f"{self.name}.py"), *scaled, *self.fixed, *common]


TOGETHER = (
    Part("crash", (("--cycles", 10_000),)),
    Part("fuzz", (("--executions", 1_000_000),)),
    Part("storage"),
    Part("clock", (("--days", 3_000), ("--pauses", 2_000))),
)
ALONE = (Part("adversary"), Part("hours", (("--minutes", 1_440),)), Part("load"), Part("flood"))


def run(part: Part, out: Path, share: float, seed: int) -> int:
    """Run one to its end; its exit code."""
    began = time.monotonic()
    with (out / f"{part.name}.log").open("w") as log:
        code = subprocess.run(part.command(out, share, seed), stdout=log, stderr=log, check=False).returncode
    told = out / f"{part.name}.json"
    found: Sequence[str] = json.loads(told.read_text())["found"] if told.exists() else ["no summary: see its log"]
    print(f"{part.name:<10} {time.monotonic() - began:>6.0f} s  exit {code}  found {len(found)}", flush=True)
    for line in found:
        print(f"    {line}", flush=True)
    return code


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the summaries go")
    parser.add_argument("--share", type=float, default=100.0, metavar="PERCENT", help="of the full counts (100)")
    parser.add_argument("--seed", type=int, default=int(time.time()), metavar="N", help="of all choices")
    wish = parser.parse_args()
    wish.out.mkdir(parents=True, exist_ok=True)
    share = wish.share / 100
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda part: run(part, wish.out, share, wish.seed), TOGETHER))
    codes += [run(part, wish.out, share, wish.seed) for part in ALONE]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
