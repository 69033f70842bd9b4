#!/usr/bin/env python3
"""Changes the program in small ways, one at a time, and counts which of them the tests notice.

In a copy of the tree, for every operator of mutmut (and for each way to leave a check out), the tests that run the
changed line are run until one fails. A change that none notices has *survived*: there a test is missing, or the
change is none, and then ``equivalent.toml`` says why. mutmut's own runner leaves constants, properties and
statements alone, and so do its trampolines; that of cosmic-ray starts an interpreter for each mutant, a second that
here is spent once.

    .venv/bin/python scripts/torture/mutants.py --json FILE                       # trust/ and learning/, all
    .venv/bin/python scripts/torture/mutants.py --sample 1500 --seed 1 --json FILE
    .venv/bin/python scripts/torture/mutants.py --only trust/bundle/verify.py --keep /tmp/map.json
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.torture import harness

DEFAULT = ("trust", "learning")
FIRST = (
    "tests/trust", "tests/learning", "tests/fuzz", "tests/test_bundle.py", "tests/test_receipt.py",
    "tests/test_learner.py", "tests/test_worker.py", "tests/test_windows.py", "tests/test_cli_bundle.py",
    "tests/test_custody.py", "tests/test_upkeep.py", "tests/test_encoder_change.py", "tests/test_people_api.py",
    "tests/attacks/test_bundle_files.py", "tests/attacks/test_vault_rows.py", "tests/attacks/test_audit_log.py",
    "tests/attacks/test_signers.py", "tests/attacks/test_quotes.py", "tests/attacks/test_old_disk_file.py",
)  # fmt: skip
"""Where the tests are that run on mutants; those of the attacks need swtpm, and are left out without it."""


def files_of(root: Path, wanted: Sequence[str]) -> list[str]:
    """The files of the package to change, relative to it."""
    package = root / "daemon" / "idiolect"
    found = []
    for name in wanted or DEFAULT:
        path = package / name.removeprefix("daemon/idiolect/")
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [str(path.relative_to(package)) for path in found]


def tests_of(root: Path, wanted: Sequence[str]) -> list[str]:
    """The files of tests."""
    found = [
        p for name in wanted for p in ([root / name] if (root / name).is_file() else (root / name).glob("test_*.py"))
    ]
    return sorted({str(path.relative_to(root)) for path in found})


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = harness.arguments(
        str(__doc__).partition("\n\n")[0], seconds=2400.0, sample=(0, "so many, evenly over the files; 0: all"),
        jobs=(1, "at once"),
    )  # fmt: skip
    parser.add_argument("--only", action="append", default=[], metavar="PATH", help="a file or folder of the package")
    parser.add_argument("--tests", action="append", default=[], metavar="PATH", help="tests to run, instead of all")
    parser.add_argument("--root", type=Path, default=harness.ROOT, help="the tree; it is copied")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="S", help="a test may compute so long at least (1)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="add each survivor to it as soon as it is known")
    parser.add_argument("--explained", type=Path, metavar="FILE", help="instead of equivalent.toml")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what each test runs there, for the next run")
    wish = parser.parse_args(argv)
    try:
        from scripts.torture.mutating import campaign
    except ImportError as error:
        return harness.lacking("mutants", f"needs mutmut and coverage ({error}): run scripts/setup")
    files, tests = files_of(wish.root, wish.only), tests_of(wish.root, wish.tests or FIRST)
    if not files or not tests:
        return harness.lacking("mutants", "no such files")
    run = harness.Run("mutants", wish)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return campaign.run(run, wish, files, tests)


if __name__ == "__main__":
    sys.exit(main())
