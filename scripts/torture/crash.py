#!/usr/bin/env python3
"""kill -9 of the daemon, of its worker and of the TPM, at random and at every marked step, and a look at what is left.

A device is used as people use it: they agree, teach, correct, forget, take their consent back and are erased; adapters
are trained, promoted and rolled back; bundles are upgraded and marked good; checkpoints are made. Somebody dies in the
middle, at a random instant or at a step that was not hit yet (``crashing/steps.py``); the next start must find every
invariant kept (``crashing/check.py``), and goes on. Four kinds of victims:

| kind | who |
| --- | --- |
| file, tpm | custody, learner and the real worker in a forked process (``crashing/victim.py``), keys in a file or TPM |
| daemon | whole `idiolectd` processes, used over their socket (``crashing/daemons.py``) |
| vault | the vault and the TPM alone, with policy keys replaced (``kill_nine``) |

    scripts/torture/crash.py --cycles 10000 --jobs 2 --json FILE
    scripts/torture/crash.py --spoil               what was lost, leaked or revived on purpose must be reported

A cycle is a start, a few operations, a death, and the check of the next start. Exit code 1 on any loss. The same
``--seed`` makes the same choices; when a random kill strikes depends on the machine too.
"""

from __future__ import annotations

import os

# The trainer's bytes are the worker's only on the same arithmetic: its environment has none of these.
for _name in [name for name in os.environ if name.startswith(("OPENBLAS_", "OMP_", "MKL_", "NPY_"))]:
    del os.environ[_name]
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import argparse  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import random  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from options import some_of  # noqa: E402
from torture import harness  # noqa: E402

SHARES = {"file": 0.52, "tpm": 0.29, "vault": 0.175, "daemon": 0.015}
"""Of the cycles, by kind."""
TPM = ("tpm", "vault")


def run_kind(kind: str, cycles: int, run: harness.Run) -> tuple[dict[str, object], list[str]]:
    """So many cycles of a kind; figures, and what was lost."""
    if kind == "vault":
        from torture import kill_nine

        figures = kill_nine.run(cycles, lambda: run.over, run.seed, run.show)
        return {"cycles": figures["points"], **figures}, [str(loss) for loss in figures["losses"]]  # type: ignore[attr-defined]
    if kind == "daemon":
        from torture.crashing import daemons

        return daemons.run(cycles, run)
    from torture.crashing import board

    return board.run(kind, cycles, run)


def shared(wish: argparse.Namespace) -> dict[str, int]:
    """How many cycles of which kind."""
    from tests.support.swtpm import missing

    shares = {kind: share for kind, share in SHARES.items() if not (kind in TPM and missing())}
    if wish.only:
        shares = dict.fromkeys(wish.only, 1.0)
    counts = {kind: round(wish.cycles * share / sum(shares.values())) for kind, share in shares.items()}
    if wish.daemons >= 0 and "daemon" in counts:
        counts["daemon"] = wish.daemons
    counts[next(iter(counts))] += wish.cycles - sum(counts.values())
    return {kind: count for kind, count in counts.items() if count > 0}


def alone(wish: argparse.Namespace, run: harness.Run) -> int:
    """All kinds, one after the other."""
    figures: dict[str, dict[str, object]] = {}
    found: list[str] = []
    for kind, cycles in shared(wish).items():
        figures[kind], losses = run_kind(kind, cycles, run)
        found += [f"{kind}: {loss}" for loss in losses]
    return run.finish(summary(figures), found)


def summary(figures: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """What all kinds came to."""
    total = sum(int(str(each["cycles"])) for each in figures.values())
    lacking = sorted(set(SHARES) - set(figures))
    return {"cycles": total, "kinds": dict(figures), **({"not run": lacking} if lacking else {})}


def together(wish: argparse.Namespace, run: harness.Run) -> int:
    """The same in several processes, each with its share and its own devices."""
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder) / f"{job}.json" for job in range(wish.jobs)]
        processes = []
        for job, report in enumerate(reports):
            cycles = wish.cycles // wish.jobs + (job < wish.cycles % wish.jobs)
            command = [sys.executable, str(Path(__file__).resolve()), "--cycles", str(cycles), "--json", str(report)]
            command += ["--seconds", str(wish.seconds), "--seed", str(wish.seed + job)]
            command += ["--only", ",".join(wish.only)] if wish.only else []
            command += ["--daemons", str(wish.daemons // wish.jobs)] if wish.daemons >= 0 else []
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL if job else None))
        codes = [process.wait() for process in processes]
        told = [json.loads(report.read_text()) for report in reports if report.exists()]
    figures = {"cycles": sum(each["cycles"] for each in told), "jobs": told}
    found = [f"job {job}: {what}" for job, each in enumerate(told) for what in each["found"]]
    found += [f"job {job} ended with {code}" for job, code in enumerate(codes) if code not in (0, 1)]
    return run.finish(figures, found)


def main() -> int:
    """See the module."""
    counts = {"cycles": (10_000, "starts, deaths and checks"), "jobs": (1, "processes that share them")}
    parser = harness.arguments(__doc__ or "", seconds=7200.0, **counts)
    parser.add_argument("--daemons", type=int, default=-1, metavar="N", help="so many of the cycles with idiolectd")
    parser.add_argument("--only", type=some_of(SHARES), metavar="KINDS", help=f"some of {','.join(SHARES)}")
    parser.add_argument("--spoil", action="store_true", help="break each invariant on purpose: it must be reported")
    wish = parser.parse_args()
    logging.getLogger("idiolect").setLevel(logging.CRITICAL)  # refusals are the point here
    run = harness.Run("crash", wish)
    if wish.spoil:
        from torture.crashing import spoil

        reported, missed = spoil.every(random.Random(wish.seed))  # noqa: S311 - choices, not keys
        return run.finish({"cycles": len(reported) + len(missed), "reported": reported}, missed)
    return together(wish, run) if wish.jobs > 1 else alone(wish, run)


if __name__ == "__main__":
    sys.exit(main())
