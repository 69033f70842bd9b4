"""`idiolect playback`: say that the box itself plays something, for scripts around a player."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from idiolect.cli import output as show
from idiolect.client import Client

Add = Callable[..., argparse.ArgumentParser]
_MAX_S = 3600.0


def _playback(options: argparse.Namespace) -> int:
    active = options.active == "on"
    answer = Client(options.socket).playback(active, options.for_s if active else None)
    print(json.dumps(answer, indent=2) if options.json else playback_text(answer["playback"]))
    return 0


def playback_text(playback: Mapping[str, Any]) -> str:
    """Return in one line if something is played, and how long that holds."""
    if not playback.get("active"):
        return "playback: off"
    left = max(0, round(float(playback.get("until") or 0.0) - time.time()))
    return f"playback: on for {left} s: only what is clear counts, and nothing is learnt of what is heard"


def _lease(text: str) -> float:
    seconds = show.seconds(text)
    if not 1 <= seconds <= _MAX_S:
        raise argparse.ArgumentTypeError("playback is said for 1s to 1h, and again before that is over")
    return seconds


def register(commands: Any, common: argparse.ArgumentParser, add: Add) -> None:
    """Add the command to the parser."""
    about = "say that the box plays music or speaks: only what is clear counts, and nothing is learnt"
    playback = add(commands, common, "playback", about, _playback)
    playback.add_argument("active", choices=["on", "off"])
    playback.add_argument(
        "--for", dest="for_s", type=_lease, metavar="TIME", help="30s, 5m, up to 1h (5m unless given); then it is off"
    )
