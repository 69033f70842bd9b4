#!/usr/bin/env python3
"""Build a bundle, the default one or an integrator's: ``scripts/build_bundle.py --help`` explains it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"


def main() -> int:
    """Read the arguments, find the environment that has the daemon and its libraries, then build."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # before numpy: a threaded matrix product may sum in another order
    sys.path.insert(0, str(ROOT / "scripts"))
    from bundlebuild import arguments

    arguments.parse(None)  # --help and mistakes are answered without numpy, and so before ./scripts/setup
    try:
        from bundlebuild.cli import main as build
    except ImportError as error:
        if PYTHON.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
            os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606 - our own interpreter
        print(f"build_bundle: {error}; run ./scripts/setup first", file=sys.stderr)
        return 1
    return build()


if __name__ == "__main__":
    sys.exit(main())
