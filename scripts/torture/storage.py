#!/usr/bin/env python3
"""Disks that fail: at every write, sync, cut, rename, removal and read of every operation, and power cuts after each.

Below SQLite and below Python's own calls lies a disk (``faultfs.c``, loaded before the C library) that counts what is
done to the state directory. For each operation, each call and each way to fail (full, full in the middle of a write,
read-only, an I/O error once or for good, an unreadable block) a child runs it on a copy of the same home, and then:

1. the operation was done, or refused with an error of this project that tells a next step;
2. what it said is so: done means all of it, refused one of the states between two transactions, never half of one;
3. once the disk is well again the next operation works, without a restart after a full or read-only disk; and after
   a restart everything is as it was last seen, and the audit log is whole;
4. nothing lies in the directory that does not belong there, and no name or phrase readably.

Power cuts are worked out from the log of what went through (``disk.cuts``): unsynced sectors are lost, torn and
reordered, names as a journal may have kept them. What had been promised is there, and nothing by halves.

    scripts/torture/storage.py --json FILE                     # every operation, every call, every fault
    scripts/torture/storage.py --only forget,create --every 10   # a sample
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(part))

from torture import harness  # noqa: E402


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    counts = {"every": (1, "one call in so many"), "several": (3, "choices of what a power cut leaves, beside the two")}
    parser = harness.arguments(__doc__, seconds=1500.0, **counts)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="some operations of torture/disk/stack.py (all)",
    )
    parser.add_argument("--controls", action="store_true", help="break the product on purpose: is it found?")
    return parser


if __name__ == "__main__":
    harness.help_first(arguments)

from torture.disk import shim  # noqa: E402
from torture.disk.bench import Bench, Tally  # noqa: E402
from torture.disk.controls import controls  # noqa: E402
from torture.disk.stack import OPERATIONS, Operation  # noqa: E402


def torture(bench: Bench, run: harness.Run, operations: Sequence[Operation], every: int, several: int) -> None:
    """All of it, until it is done or the time is over."""
    for operation in operations:
        if run.over:
            bench.tally.found.append(f"the time was over before {operation.name}")
            return
        course = bench.course(operation)
        run.show(f"{operation.name}: {len(course.kinds)} calls, {sum(bench.tally.points.values())} points so far")
        bench.faults(operation, course, every)
        bench.cuts(operation, course, several, every)


def figures(tally: Tally) -> dict[str, object]:
    """For the summary."""
    faults: Counter[str] = Counter()
    for name, count in tally.points.items():
        faults[name.partition(": ")[2]] += count
    return {
        "points": sum(tally.points.values()),
        "by_fault": dict(faults),
        "by_operation": dict(tally.points),
        "refused": dict(tally.refused.most_common()),
    }


def main() -> int:
    """See the module."""
    wish: argparse.Namespace = arguments().parse_args()
    names = [each.name for each in OPERATIONS]
    if wrong := [name for name in wish.only or () if name not in names]:
        arguments().error(f"--only: {wrong[0]!r} is none of {', '.join(names)}")
    wish.only = wish.only or names
    if why := shim.missing():
        return harness.lacking("storage", why)
    shim.reenter([__file__, *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    logging.getLogger("idiolect").setLevel(logging.CRITICAL)  # refusals are the point here
    run = harness.Run("storage", wish)
    folder = Path(tempfile.mkdtemp(prefix="storage-", dir=shim.fast()))
    try:
        bench = Bench(folder, wish.seed)
        if wish.controls:
            return run.finish({"controls": controls(bench)}, bench.tally.found)
        chosen = [each for each in OPERATIONS if each.name in wish.only]
        torture(bench, run, chosen, wish.every, wish.several)
    finally:
        shutil.rmtree(folder)
    return run.finish(figures(bench.tally), bench.tally.found)


if __name__ == "__main__":
    sys.exit(main())
