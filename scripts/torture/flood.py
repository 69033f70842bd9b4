#!/usr/bin/env python3
"""Floods: everything that a stranger can send without end, one after another, at a whole daemon on its real sockets.

For each flood a fresh idiolectd is started, and while it is flooded by another user (where this runs as root)

* its memory is held against what it was at rest: at most 32 MiB more;
* root pauses and resumes listening over the control socket: each time, and within a second at p99;
* another Wyoming client sends one word in real time, again and again: it is told of each;
* SIGTERM ends it while the flood goes on: within a second, exit code 0.

    scripts/torture/flood.py --json FILE [--only NAME,...] [--each SECONDS] [--slack N]

The Wyoming floods are what anybody may do who reaches the port; the others take a role of the control socket, the page
or the numbers. About ten minutes. On a busy machine `--slack 5` gives all times five times as long.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
for part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(part))

from options import some_of  # noqa: E402
from torture import harness  # noqa: E402


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = harness.arguments(__doc__ or "", seconds=3_600.0, each=(8, "seconds that each flood lasts"))
    parser.add_argument("--slack", type=float, default=1.0, metavar="N", help="times as long as promised is well (1)")
    parser.add_argument(
        "--only", default="wyoming,control", metavar="LIST",
        help="wyoming, control, or names of floods; a wrong one lists them (all)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    harness.help_first(arguments)

import numpy as np  # noqa: E402

from tests.support.alsa import wavmic  # noqa: E402
from torture.flooding.floods import CONTROL, FLOODS, WYOMING  # noqa: E402
from torture.flooding.honest import EVERY_S, Again, Pauser, Satellite  # noqa: E402
from torture.flooding.target import Target, flooded  # noqa: E402
from torture.loading.running import Failed, spread  # noqa: E402

MEMORY_MIB, PAUSE_S, EXIT_S = 32.0, 1.0, 1.0
"""What is to be reached."""
BEGIN_S = 1.0
"""For a flood to have begun before anything is measured but memory."""


def one(name: str, folder: Path, word: Any, wish: argparse.Namespace) -> dict[str, Any]:
    """One flood at one daemon: what was measured."""
    folder.mkdir()
    it = Target(folder)
    it.begin()
    try:
        with flooded(it, FLOODS[name]) as poured:
            time.sleep(BEGIN_S)
            pauser = Pauser(it.control, wish.slack)
            satellite = Satellite(it.wyoming, word, it.cpu_s, wish.slack)
            cpu, began = it.cpu_s(), time.monotonic()
            with Again(pauser.once, EVERY_S), Again(satellite.once, EVERY_S):
                time.sleep(wish.each)
            used = (it.cpu_s() - cpu) / (time.monotonic() - began)
            peak = it.peak_mib()
            row = {
                "sent_mib": round(poured.bytes.value / (1 << 20), 1), "connections": poured.connections.value,
                "rest_mib": round(it.rest_mib, 1), "above_rest_mib": round(peak - it.rest_mib, 1),
                "cores_used": round(used, 2), "load": round(os.getloadavg()[0], 1),
                "pause": _told(pauser), "word": _told(satellite),
                "word_cpu_s": round(max(satellite.cost, default=0.0), 3),
            }  # fmt: skip
            return row | it.end()
    finally:
        it.stop()


def _told(who: Pauser | Satellite) -> dict[str, Any]:
    came = [each for each in who.took if each is not None]
    p99 = {"p99": round(float(np.percentile(came, 99)), 4)} if came else {}
    return spread(who.took) | p99 | ({"why": who.why} if who.why else {})


def judged(row: dict[str, Any], slack: float) -> list[str]:
    """What did not hold of one flood."""
    found = [] if row["connections"] else ["nobody could connect: nothing was tried"]
    if row["above_rest_mib"] > MEMORY_MIB:
        found.append(f"{row['above_rest_mib']:g} MiB above rest")
    pause, word = row["pause"], row["word"]
    if pause["failed"]:
        found.append(f"{pause['failed']} of {pause['count']} times root could not pause or resume ({pause['why']})")
    if pause.get("p99", 0.0) > PAUSE_S * slack:
        found.append(f"pausing took {pause['p99']:g} s at p99")
    if word["failed"]:
        found.append(f"{word['failed']} of {word['count']} words were lost ({word['why']})")
    if row["exit_s"] is None or row["exit_s"] > EXIT_S * slack or row["exit_code"]:
        found.append(f"SIGTERM: exit code {row['exit_code']} after {row['exit_s']} s")
    return found


def attempt(name: str, folder: Path, word: Any, wish: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """One flood: its row, with a verdict, and what did not hold."""
    try:
        row = one(name, folder, word, wish)
        found = judged(row, wish.slack)
    except (Failed, OSError) as error:  # it has died, or never served
        row, found = {}, [f"the daemon is gone: {str(error)[:200] or type(error).__name__}"]
    return {"verdict": "not held" if found else "held"} | row, found


def main() -> int:
    """See the module."""
    parser = arguments()
    wish = parser.parse_args()
    try:
        wish.only = _chosen(wish.only)
    except argparse.ArgumentTypeError as error:
        parser.error(f"--only: {error}")
    try:
        wavmic.build()
        from tests.support.wyoming_talk import spoken

        word = spoken("computer")
    except (wavmic.PluginError, ImportError, OSError) as error:
        return harness.lacking("flood", f"needs gcc, libasound's headers, wyoming and espeak-ng: {error}")
    run = harness.Run("flood", wish)
    rows, found = dict[str, Any](), list[str]()
    with tempfile.TemporaryDirectory(prefix="idiolect-flood-", ignore_cleanup_errors=True) as folder:
        for name in wish.only:
            if run.over:
                found.append(f"{name}: the time was over before it")
                continue
            run.show(name)
            rows[name], more = attempt(name, Path(folder) / name, word, wish)
            found += [f"{name}: {what}" for what in more]
            print(f"{name:<22} {rows[name]['verdict']:<9} {'; '.join(more)}", file=sys.stderr, flush=True)
    who = "another user's" if os.geteuid() == 0 else "our own user's: root's places cannot be told from the stranger's"
    limits = {"above_rest_mib": MEMORY_MIB, "pause_p99_s": PAUSE_S, "exit_s": EXIT_S, "slack": wish.slack}
    return run.finish({"limits": limits, "floods_are": who, "floods": rows}, found)


def _chosen(text: str) -> list[str]:
    groups = {"wyoming": list(WYOMING), "control": list(CONTROL)}
    chosen = some_of([*FLOODS, *groups])(text)
    return [name for each in chosen for name in groups.get(each, [each])]


if __name__ == "__main__":
    sys.exit(main())
