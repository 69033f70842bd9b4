"""Which commit the package is built from, and the date that everything in it has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from debbuild.layout import FILES
from debbuild.machine import say
from debbuild.targets import ROOT, BuildError

COMMIT = "IDIOLECT_COMMIT"
"""Says the commit to a build that has no git, inside of another release's root."""


def commit() -> str:
    """The commit, or nothing where this is no git checkout or there is no git."""
    return os.environ.get(COMMIT) or _git("rev-parse", "HEAD")


def epoch() -> int:
    """SOURCE_DATE_EPOCH, or the last commit's date, or in a source archive its newest file's."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")
    if text:
        if not text.isdigit():
            raise BuildError("SOURCE_DATE_EPOCH is no number: set it to seconds since 1970, or not at all")
        return int(text)
    say("no git here: the package has the date of the newest file; SOURCE_DATE_EPOCH sets another")
    return int(max(path.stat().st_mtime for path in _sources()))


def _sources() -> Iterator[Path]:
    """What the package is made from, without what running it may have left there."""
    yield from (ROOT / name for name in (*FILES, "setup.cfg"))
    yield from (path for path in (ROOT / "daemon" / "idiolect").rglob("*") if path.is_file() and path.suffix != ".pyc")


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
