#!/bin/sh
""":" # sh reads this first, and tells a machine without python3 what to do; for Python it is a text and nothing more
command -v python3 >/dev/null || {
    echo "build_bundle: python3 is missing; run ./scripts/setup --bundle first" >&2
    exit 1
}
exec python3 "$0" "$@"
":"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__doc__ = """Build a bundle, the default one or an integrator's: ``--help``, or bundlebuild/cli.py."""
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Read the arguments, find the environment that has the daemon and its libraries, then build."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # before numpy: a threaded matrix product may sum in another order
    sys.path.insert(0, str(ROOT / "scripts"))
    import environment
    from bundlebuild import arguments

    arguments.parse(None)  # --help and mistakes are answered without numpy, and so before ./scripts/setup
    environment.enter("build_bundle", "./scripts/setup --bundle")
    from bundlebuild.cli import main as build

    return build()


if __name__ == "__main__":
    sys.exit(main())
