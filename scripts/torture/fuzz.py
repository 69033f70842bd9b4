#!/usr/bin/env python3
"""Every parser of what others wrote, every protocol, and the API, with a million inputs that nobody sane would send.

1. The targets (`tests/fuzz/targets.py`), each in a process of its own: guided by what the inputs reach where atheris
   is installed (`pip install '.[fuzz]'`), else at random. No execution may raise what is no error of ours, compute for
   more than 2 s, take more memory than the target's cap, write what it was given into a log, or log an error.
2. The API of a whole daemon, as its description has it: schemathesis makes up requests, sound ones and broken ones.
3. The same daemon, asked in any order by people who pause, teach, correct, forget and erase.

    scripts/torture/fuzz.py --executions 1000000 --json FILE
    scripts/torture/fuzz.py --executions 50000 control page     # these alone

Executions are dealt out by the targets' shares. Exit code 1 on any finding: the summary holds its input, in hex.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for _part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    if str(_part) not in sys.path:
        sys.path.insert(0, str(_part))

from torture import harness  # noqa: E402
from torture.fuzzing.api import CAPS_MIB  # noqa: E402
from torture.fuzzing.inside import At  # noqa: E402

FULL = 1_000_000
API, ORDER = "api", "any-order"
"""Names of the parts that are no targets."""
API_SHARE, ORDER_SHARE = 0.02, 0.02
"""Of all executions: each is a request to a whole daemon."""
STUCK_S = 30.0
"""CPU seconds within one execution after which the process is killed: where not even a signal is heard."""
_COVERED = re.compile(r"cov: (\d+)")


@dataclass
class Outcome:
    """Of one target."""

    wanted: int
    executions: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0
    cap_mib: int = 0
    edges: int | None = None
    """Places in the code that were reached, where atheris counted them."""
    found: list[dict[str, str]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """For the summary."""
        kinds = [each["kind"] for each in self.found]
        return {
            "executions": self.executions, "wanted": self.wanted, "seconds": round(self.seconds, 1),
            "crashes": kinds.count("crash"), "hangs": kinds.count("hang"), "over_cap": kinds.count("memory"),
            "in_logs": kinds.count("log"), "peak_mib": self.peak_mib, "cap_mib": self.cap_mib, "edges": self.edges,
        }  # fmt: skip


def main() -> int:
    """See the module."""
    wish = _arguments().parse_args()
    from tests.fuzz.targets import TARGETS

    if unknown := set(wish.targets) - {*TARGETS, API, ORDER}:
        return harness.lacking("fuzz", f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    run = harness.Run("fuzz", wish)
    how = "atheris" if importlib.util.find_spec("atheris") and not wish.plain else "plain"
    plan = dealt(wish.executions, wish.targets or [*TARGETS, API, ORDER])
    outcomes: dict[str, Outcome] = {}
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - what is fuzzed writes a lot of small files
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as scratch:

        def one(name: str) -> None:
            run.show(f"{len(outcomes)} of {len(plan)} done, {name}")
            folder = Path(scratch) / name
            folder.mkdir()
            child = (
                _part(name, plan[name], run, folder)
                if name in (API, ORDER)
                else _inside(name, plan[name], run, folder, how)
            )
            outcomes[name] = supervised(child, folder, plan[name], lambda: run.over or ended.is_set())
            outcomes[name].cap_mib = TARGETS[name].cap_mib if name in TARGETS else CAPS_MIB[name]

        with ThreadPoolExecutor(wish.jobs) as pool:
            list(pool.map(one, plan))
    return _finish(run, plan, outcomes, how)


def _arguments() -> argparse.ArgumentParser:
    description = __doc__ or ""
    parser = harness.arguments(description, seconds=5400, executions=(FULL, "in all"))
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="these alone, of tests/fuzz/targets.py; or api, any-order"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="targets at once (1)")
    parser.add_argument("--plain", action="store_true", help="at random, although atheris is there")
    return parser


def dealt(executions: int, names: Sequence[str]) -> dict[str, int]:
    """How many each gets: what it needs at least in a full run, scaled, and of the rest its share."""
    from tests.fuzz.targets import TARGETS

    chosen = [TARGETS[name] for name in names if name in TARGETS]
    asked = {
        name: round(executions * share) for name, share in ((API, API_SHARE), (ORDER, ORDER_SHARE)) if name in names
    }
    whole = sum(each.least for each in TARGETS.values())
    part = min(1.0, executions / FULL) if len(chosen) == len(TARGETS) else min(1.0, executions * 0.5 / max(1, whole))
    rest = max(0.0, executions - sum(asked.values()) - sum(each.least * part for each in chosen))
    weight = sum(each.share for each in chosen) or 1.0
    plan = {
        name: math.ceil(TARGETS[name].least * part + rest * TARGETS[name].share / weight) or 1
        for name in names
        if name in TARGETS
    }
    return plan | asked


def _inside(name: str, executions: int, run: harness.Run, folder: Path, how: str) -> subprocess.Popen[bytes]:
    seed = run.seed + zlib.crc32(name.encode())
    script = str(Path(__file__).with_name("fuzzing") / "inside.py")
    return _started([script, name, str(executions), str(seed), str(folder), how], folder)


def _part(name: str, executions: int, run: harness.Run, folder: Path) -> subprocess.Popen[bytes]:
    script = str(Path(__file__).with_name("fuzzing") / "api.py")
    return _started([script, name, str(executions), str(run.seed), str(folder)], folder)


def _started(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    quiet = os.environ | {
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=quiet
        )


def supervised(
    child: subprocess.Popen[bytes], folder: Path, wanted: int, over: Callable[[], bool], stuck_s: float = STUCK_S
) -> Outcome:
    """Wait for a target's process, and end it where it is stuck in one execution or ``over()`` says so."""
    began, outcome = time.monotonic(), Outcome(wanted)
    at, before, cpu = At(folder / "at"), (0, b""), 0.0
    try:
        while child.poll() is None:
            time.sleep(0.1)
            now = at.read()
            if now[0] != before[0]:
                before, cpu = now, _cpu_s(child.pid)
            elif now[0] and _cpu_s(child.pid) - cpu > stuck_s:
                outcome.found.append({"kind": "hang", "where": "in code that hears no signal", "data": now[1].hex()})
                break
            if over():
                break
    finally:
        ended = child.poll()
        child.kill()
        child.wait()
    if ended not in (None, 0):
        said = (folder / "said").read_text(errors="replace")[-2000:]
        outcome.found.append(
            {"kind": "crash", "where": f"the process ended with {ended}", "data": at.read()[1].hex(), "detail": said}
        )
    _read(folder, outcome)
    outcome.executions = outcome.executions if ended == 0 else max(outcome.executions, at.read()[0])
    outcome.seconds = time.monotonic() - began
    return outcome


def _read(folder: Path, outcome: Outcome) -> None:
    """What the process wrote down."""
    found = folder / "found.jsonl"
    if found.exists():
        outcome.found += [json.loads(line) for line in found.read_text().splitlines()]
    result = folder / "result.json"
    if result.exists():
        told = json.loads(result.read_text())
        outcome.executions, outcome.peak_mib = told["executions"], told["peak_mib"]
    covered = _COVERED.findall((folder / "said").read_text(errors="replace"))
    outcome.edges = int(covered[-1]) if covered else None


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _finish(run: harness.Run, plan: Mapping[str, int], outcomes: Mapping[str, Outcome], how: str) -> int:
    found = [
        f"{name}: {each['kind']}: {each['where']}: {each['data'][:2000]}: {each.get('detail', '')[-600:]}"
        for name, outcome in outcomes.items()
        for each in outcome.found
    ]
    done = sum(outcome.executions for outcome in outcomes.values())
    found += [
        f"{name}: only {outcome.executions} of {outcome.wanted} executions"
        for name, outcome in outcomes.items()
        if outcome.executions < outcome.wanted and not outcome.found
    ]
    figures = {
        "how": how,
        "executions": done,
        **{
            kind: sum(o.figures()[kind] for o in outcomes.values())
            for kind in ("crashes", "hangs", "over_cap", "in_logs")
        },
        "targets": {name: outcomes[name].figures() for name in plan if name in outcomes},
    }
    return run.finish(figures, found)


if __name__ == "__main__":
    sys.exit(main())
