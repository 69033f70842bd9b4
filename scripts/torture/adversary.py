#!/usr/bin/env python3
"""The adversary: every attack of the threat model, tried, and what no test of a part shows, at a whole daemon.

| part | what is tried |
| --- | --- |
| attacks | the attack tests, by the attackers of `docs/threat-model.md` (``attacks``) |
| poison | the poisoning suite of `scripts/evaluate`, with a bound on what was not seen (``attacks``) |
| timing | whether the time that a refusal takes tells a secret (``timings``) |
| memory | keys and sound in the memory of a running daemon, in a core, after they must be gone (``memory``) |
| watch | every file, byte and socket of a whole session (``watching``) |
| stranger | a second user of the machine, without the group (``stranger``) |

    scripts/torture/adversary.py --json FILE --report FILE.md [--only PARTS] [--full]

Each part has its positive controls: the same search, watch or probe must find what was put there, or notice a daemon
that was made to break its promise. `--full`: all attack tests, all owners of the poisoning suite, memory with a TPM in
software, 20 times the measurements. Needs root, strace, gdb; what is missing is said, and that part left out.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from options import some_of
from torture import harness

OWNERS = 2
"""Of the poisoning suite in a short run: 16 attacks each."""
NOBODY, UNKNOWN = 65_534, 54_321

Result = tuple[dict[str, Any], list[str]]


def attacks(wish: argparse.Namespace, run: harness.Run) -> Result:  # noqa: ARG001
    """See the module."""
    from torture.attacking import attacks as part

    return part.run(full=wish.full, seconds=3600.0 if wish.full else 1800.0)


def poison(wish: argparse.Namespace, run: harness.Run) -> Result:  # noqa: ARG001
    """See the module."""
    from torture.attacking import attacks as part

    return part.poisoning(owners=None if wish.full else wish.owners)


def timing(wish: argparse.Namespace, run: harness.Run) -> Result:
    """See the module."""
    from torture.attacking import installed, timings

    count, chance = wish.measurements * (20 if wish.full else 1), random.Random(run.seed)  # noqa: S311
    if why := installed.needs():
        figures, found = timings.run(count, chance)
        return figures | {"by the socket": f"skipped: {why}"}, found
    with installed.Installed() as home:
        return timings.run(count, chance, home)


def memory(wish: argparse.Namespace, run: harness.Run) -> Result:  # noqa: ARG001
    """See the module."""
    from tests.support.swtpm import missing
    from torture.attacking import memory as part

    figures, found = part.run(tpm=False)
    every: dict[str, Any] = {"keystore file": figures}
    if wish.full and (why := missing()):
        every["keystore tpm"] = {"skipped": why}
    elif wish.full:
        every["keystore tpm"], more = part.run(tpm=True)
        found += [f"with a TPM: {what}" for what in more]
    return every, found


def watch(wish: argparse.Namespace, run: harness.Run) -> Result:  # noqa: ARG001
    """See the module."""
    from torture.attacking import watching

    figures, found = watching.run()
    figures["controls"], missed = watching.controls()
    return figures, [*found, *missed]


def stranger(wish: argparse.Namespace, run: harness.Run) -> Result:  # noqa: ARG001
    """See the module: at rest, and while the worker trains."""
    from torture.attacking import installed
    from torture.attacking import stranger as part

    with installed.Installed() as home, part.training(home) as worker:
        figures, found = part.run(
            home, {"nobody": (NOBODY, NOBODY), "a user unknown to the system": (UNKNOWN, UNKNOWN)}, worker
        )
        return figures | {"worker": "was trained with" if worker else "skipped: none could be caught"}, found


PARTS: Mapping[str, Callable[[argparse.Namespace, harness.Run], Result]] = {
    "attacks": attacks, "poison": poison, "timing": timing, "memory": memory, "watch": watch, "stranger": stranger,
}  # fmt: skip
AT_A_DAEMON = ("memory", "watch", "stranger")
"""Parts that need a daemon of another user's."""


def main() -> int:
    """See the module."""
    wish = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from torture.attacking import installed

    run = harness.Run("adversary", wish)
    figures: dict[str, Any] = {}
    found: list[str] = []
    lacks = installed.needs()
    for name in wish.only:
        run.show(name)
        if run.over:
            found.append(f"{name}: the time was over before it")
            continue
        if lacks and name in AT_A_DAEMON:
            figures[name] = {"skipped": lacks}
            continue
        try:
            figures[name], more = PARTS[name](wish, run)
        except installed.Lacking as why:
            figures[name], more = {"skipped": str(why)}, []
        found += [f"{name}: {what}" for what in more]
    if wish.report:
        from torture.attacking.report import written

        wish.report.write_text(written(figures, found, run.seed))
    return run.finish(figures, found)


def _arguments() -> argparse.Namespace:
    counts = {"owners": (OWNERS, "owners that are poisoned"), "measurements": (5000, "timings of each kind of refusal")}
    parser = harness.arguments(__doc__ or "", seconds=3600.0, **counts)
    parser.add_argument(
        "--only", type=some_of(PARTS), default=list(PARTS), metavar="PARTS", help=f"some of {','.join(PARTS)}"
    )
    parser.add_argument("--full", action="store_true", help="all of it: an hour")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="the same as a page to read")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
