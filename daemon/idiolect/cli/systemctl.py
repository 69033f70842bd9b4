"""Asks systemctl for the command line, where systemd is the service manager."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from idiolect.cli.files import CommandError

SERVICE, SOCKET = "idiolectd.service", "idiolectd.socket"
_SYSTEMD = Path("/run/systemd/system")
"""This directory is there where systemd is the service manager, sd_booted(3)."""


def state(unit: str, wanted: Sequence[str]) -> dict[str, str] | None:
    """Return properties of a unit; None where systemd is not or does not know it.

    Raises ``CommandError`` when systemctl does not answer.
    """
    if not _SYSTEMD.exists():
        return None
    found = dict(line.split("=", 1) for line in _systemctl("show", unit, f"--property=LoadState,{','.join(wanted)}"))
    return None if found.get("LoadState") in (None, "not-found") else found


@contextmanager
def stopped() -> Iterator[bool]:
    """Stop the daemon while this lasts, and start it again whatever comes of it. Yields True if systemd has it.

    Its socket goes first: with that open the next client would start the daemon again.
    """
    active = [unit for unit in (SOCKET, SERVICE) if _active(unit)]
    if not active:
        yield state(SERVICE, ()) is not None
        return
    print("stopping idiolectd for as long as this takes", file=sys.stderr)
    _systemctl("stop", *active)
    try:
        yield True
    finally:
        _systemctl("start", *active)
        print("idiolectd is started again", file=sys.stderr)


def _active(unit: str) -> bool:
    found = state(unit, ("ActiveState",))
    return found is not None and found["ActiveState"] in ("active", "activating", "reloading")


def _systemctl(*arguments: str) -> list[str]:
    try:
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=90, check=False)
    except (OSError, subprocess.TimeoutExpired):
        raise CommandError("systemd does not answer: see systemctl status idiolectd", 70) from None
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CommandError(f"systemctl {arguments[0]}: {reason[0]}: try again with sudo", 77)
    return [line for line in done.stdout.splitlines() if "=" in line]
