"""scripts/setup: groups bring what they are named for and no more, and tools are heard only when they fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "scripts" / "setup"
HEAVY = {"chromium", "pipewire", "wireplumber", "dbus", "mosquitto", "prometheus", "qemu-system-x86"}


def bash(program: str, *functions: str) -> subprocess.CompletedProcess[str]:
    """A program with functions of scripts/setup in it."""
    found = "\n".join(f"source <(sed -n '/^{name}() {{/,/^}}/p' {SETUP})" for name in functions)
    return subprocess.run(["bash", "-c", f"{found}\n{program}"], capture_output=True, text=True, check=False)


def packages(group: str) -> set[str]:
    functions = ("demo_packages", "bundle_packages", "test_packages")
    done = bash(f"python=$(command -v python3)\n{group}_packages", *functions)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_what_a_bundle_takes_brings_no_browser_and_no_servers() -> None:
    demo, bundle, everything = packages("demo"), packages("bundle"), packages("test")
    assert demo < bundle < everything
    assert not HEAVY & bundle
    assert {"gcc", "espeak-ng", "swtpm"} <= demo
    assert "pipewire" in everything


@pytest.mark.parametrize("script", ["bench", "load_clients", "check_homeassistant"])
def test_scripts_ask_for_no_more_than_they_need(script: str) -> None:
    text = (ROOT / "scripts" / script).read_text()
    calls = [line.split("#")[0] for line in text.splitlines() if "scripts/setup" in line and "echo" not in line]
    assert calls
    assert all("--bundle" in line or "--peers" in line for line in calls)


def test_tools_are_heard_when_they_fail_and_only_then() -> None:
    quiet = bash("quietly sh -c 'echo noise; echo more >&2'", "quietly")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    loud = bash("quietly sh -c 'echo no such package >&2; exit 100' || echo seen", "quietly")
    assert loud.stdout == "seen\n"
    assert "no such package" in loud.stderr


def test_a_group_that_was_installed_is_remembered_beside_others(tmp_path: Path) -> None:
    """Asking for a bundle's needs and for the demo's in turn makes nothing anew, until something changes."""
    program = f"""
    cd {tmp_path}; mkdir -p venv/bin scripts; printf '#!/bin/sh\\n' >venv/bin/python; chmod 755 venv/bin/python
    touch setup.cfg pyproject.toml scripts/setup scripts/constraints.txt
    root={tmp_path}; all_steps=(demo_steps bundle_steps test_steps)
    for steps in demo_steps bundle_steps; do
        keep_current venv python3
        key python3 "$steps" >>venv/setup-stamp
    done
    current venv python3 demo_steps && current venv python3 bundle_steps && echo both
    current venv python3 test_steps || echo "not the tests'"
    echo changed >setup.cfg
    keep_current venv python3
    current venv python3 demo_steps || echo stale
    """
    done = bash(program, "key", "current", "keep_current")
    assert done.stdout.splitlines() == ["both", "not the tests'", "stale"], done.stderr
