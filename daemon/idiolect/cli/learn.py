"""`idiolect learn`: show what learning waits for, or ask for a round now."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from idiolect.cli import output as show
from idiolect.client import Client
from idiolect.client.answers import Learning
from idiolect.values import counted

Add = Callable[..., argparse.ArgumentParser]
_POLL_S = 0.2
KINDS = {
    "expire": "deleting what has expired",
    "rebuild": "learning from what is new",
    "selftest": "testing what is in use",
    "checkpoint": "checking the log",
}


def learn_lines(status: Mapping[str, Any]) -> list[str]:
    """Return lines about what is due, and what it waits for."""
    lines = [show.plain(show.idle_text(status))]
    lines += [f"  waits for: {show.plain(each)}" for each in status.get("waiting_for", [])]
    if done := status.get("done"):
        lines.append("  done since the start: " + ", ".join(f"{count} {kind}" for kind, count in done.items()))
    if status.get("preempted") or status.get("failed"):
        why = f"; last: {show.plain(status['stopped_by'])}" if status.get("stopped_by") else ""
        lines.append(f"  gave way {_times(status['preempted'])}, failed {_times(status['failed'])}{why}")
    missing = [name for name, held in status.get("sandbox", {}).items() if not held]
    if missing:
        lines.append(f"  the worker runs without: {', '.join(missing)} (idiolect doctor)")
    return lines


def _learn(options: argparse.Namespace) -> int:
    client = Client(options.socket)
    if not options.now:
        return _say(options, client.learning(), None)
    before = client.learning()
    client.learn()
    status = _follow(client, options.timeout)
    if status["failed"] > before["failed"]:
        _say(options, status, ["it failed, and is tried again later: see the journal, and idiolect doctor"])
        return 1
    if status["state"] == "nothing due":
        new = {k: n - before["done"].get(k, 0) for k, n in status["done"].items() if n > before["done"].get(k, 0)}
        line = ", ".join(f"{KINDS.get(kind, kind)} ({count})" for kind, count in new.items())
        return _say(options, status, [f"done: {line}" if line else "there is nothing to learn"])
    _say(options, status, [*learn_lines(status), "it goes on as soon as it can"])
    return 1


def _follow(client: Client, seconds: float) -> Learning:
    """Return the daemon's state once all is done, or when the time is up; meanwhile tell it on a terminal."""
    ends, shown = time.monotonic() + seconds, ""
    time.sleep(_POLL_S)  # until it has looked
    while True:
        status = client.learning()
        if not status["asked"] or time.monotonic() > ends:
            return status
        text = show.plain("; ".join([show.idle_text(status), *status["waiting_for"]]))
        if sys.stderr.isatty() and text != shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            shown = text
        time.sleep(_POLL_S)


def _say(options: argparse.Namespace, status: Mapping[str, Any], lines: list[str] | None) -> int:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(json.dumps(status, indent=2) if options.json else "\n".join(lines or learn_lines(status)))
    return 0


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the command to the parser."""
    learn = add(commands, common, "learn", "show what learning waits for", _learn)
    learn.add_argument("--now", action="store_true", help="do not wait for silence or the right hours; 1: not yet done")
    learn.add_argument("--timeout", type=show.seconds, default=60.0, metavar="TIME", help="wait so long (default 60s)")


def _times(number: int) -> str:
    return counted(number, "time")
