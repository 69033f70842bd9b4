"""Where a script of ours finds its libraries: in .venv, which ./scripts/setup makes. Needs none of them itself."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

VENV = Path(__file__).resolve().parents[1] / ".venv"
LIBRARIES = ("numpy", "yaml", "cryptography", "msgpack")
"""The daemon's: who has these has the rest."""


def help_wanted() -> bool:
    """Whether the command line asks for help and nothing else will happen."""
    return bool({"-h", "--help"} & set(sys.argv[1:]))


def enter(name: str, setup: str = "./scripts/setup") -> None:
    """Go on in .venv where this interpreter lacks the libraries; exit with the way to them where there is none."""
    missing = [library for library in LIBRARIES if find_spec(library) is None]
    if not missing:
        return
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - our own interpreter
    sys.exit(f"{name}: {missing[0]} is missing; run {setup} first")
