"""Every script says how it is used at once: on a bare machine, installing nothing, leaving nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_HELP = {"demo_learn.py", "demo_live.py", "demo_trust.py", "options.py", "environment.py"}
"""Parts of scripts/demo, and what scripts share."""


def scripts() -> list[Path]:
    """What somebody may run in scripts/ and below; the package's own maintainer scripts are Debian's to run."""
    places = [
        *(ROOT / "scripts").iterdir(),
        *(ROOT / "scripts/packaging").iterdir(),
        *(ROOT / "scripts/torture").iterdir(),
    ]
    return sorted(path for path in places if path.is_file() and os.access(path, os.X_OK) and path.name not in NO_HELP)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing was set up."""
    folder = tmp_path_factory.mktemp("bare") / "checkout"
    ignored = shutil.ignore_patterns(
        "__pycache__", ".venv*", ".cache", ".git", "build", "dist", "*.egg-info", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH with coreutils, bash, sed and grep; and in ``with-python`` a Python without any library, too."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("bash", "sh", "env", "sed", "grep", "dirname", "basename", "cat", "head", "id", "uname", "tr", "cut"):
        (folder / name).symlink_to(str(shutil.which(name)))
    python = folder / "with-python" / "python3"
    python.parent.mkdir()
    # -S: without site-packages, as on a machine that has nothing but Python
    python.write_text(f'#!/bin/sh\nexec {os.path.realpath(_system_python())} -S -B "$@"\n')
    python.chmod(0o755)
    return folder


def _system_python() -> str:
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin") or shutil.which("python3")
    assert found
    return found


def asked(checkout: Path, script: Path, path: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [checkout / script.relative_to(ROOT), "--help"]
    environment = {"PATH": path, "HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60, cwd=home)


def contents(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(ROOT / "scripts")))
def test_help_comes_at_once_and_leaves_nothing(script: Path, checkout: Path, tools: Path, tmp_path: Path) -> None:
    before = contents(checkout)
    done = asked(checkout, script, f"{tools}/with-python:{tools}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 10
    assert "setup:" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert contents(checkout) == before
    assert contents(tmp_path) == set()


TOP = [path for path in scripts() if path.parent.name in ("scripts", "packaging")]


@pytest.mark.parametrize("script", TOP, ids=lambda path: str(path.relative_to(ROOT / "scripts")))
def test_without_python_it_helps_or_says_so(script: Path, checkout: Path, tools: Path, tmp_path: Path) -> None:
    done = asked(checkout, script, str(tools), tmp_path)
    said = done.stdout + done.stderr
    if done.returncode:
        assert "python3" in said
        assert len(said.splitlines()) == 1, said
        assert "No such file" not in said
    assert contents(tmp_path) == set()


def test_a_script_that_would_set_up_first_is_noticed(checkout: Path, tools: Path, tmp_path: Path) -> None:
    hasty = checkout / "scripts" / "hasty"
    hasty.write_text('#!/bin/sh\ntouch "$(dirname "$0")/made"\nexec python3 -c "import numpy"\n')
    hasty.chmod(0o755)
    before = contents(checkout)
    done = asked(checkout, ROOT / "scripts" / "hasty", f"{tools}/with-python:{tools}", tmp_path)
    assert done.returncode != 0
    assert contents(checkout) != before or "touch" in done.stderr
    hasty.unlink()
