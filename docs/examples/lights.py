"""Which light to show and which sound to play: put your LED ring's and player's calls where this one prints.

python3 lights.py [SOCKET]        # prints a line for each change; Ctrl-C ends it
"""

from __future__ import annotations

import sys
import time
from typing import Any

from idiolect.client import SOCKET, Client, UnreachableError

CLOSED = {"phrase": "", "timeout": "closed", "rejected": "not-understood", "interrupted": "closed"}
"""The sound when a turn ends, by why it did; a phrase has had its own."""


class Box:
    """What was heard of the daemon last, and what the box shows for it."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.listening = str(status["listening"]["state"])
        self.microphone = str(status["microphone"]["state"])
        self.learning = bool(status["learning"]["running"])

    def light(self) -> str:
        """One light, the most important first."""
        if self.listening == "paused":
            return "red"  # nobody listens, because somebody wanted that
        if self.microphone not in ("running", "opening", "paused"):
            return "red-blinking"
        if self.listening == "listening":
            return "blue"
        return "white-breathing" if self.learning else "off"

    def take(self, event: dict[str, Any]) -> str:
        """Remember what has changed; the sound to play for it, "" for none."""
        kind = str(event["kind"])
        if kind != "state":
            return {"wake": "wake", "phrase": "done", "rejected": "again"}[kind]
        self.microphone = event.get("microphone", {}).get("state", self.microphone)
        self.learning = bool(event.get("learning", {}).get("running", self.learning))
        if "listening" in event:
            self.listening = str(event["listening"]["state"])
            return CLOSED.get(event["listening"].get("after", ""), "")
        return ""


def main(socket: str) -> None:
    """Follow the daemon for ever, over its restarts."""
    client = Client(socket)
    box, shown = Box(dict(client.status())), ""
    events = client.events(resume=True, patience_s=None)
    while True:
        if (light := box.light()) != shown:
            print("light", shown := light, flush=True)
        event = next(events)
        if event.kind in ("lost", "lagged", "restarted"):
            print("light", shown := "purple", flush=True)  # nobody knows
            box = Box(asked(client))
        elif event.id and (sound := box.take(event.data)):
            print("sound", sound, flush=True)


def asked(client: Client) -> dict[str, Any]:
    """How the daemon is, once it is there again."""
    while True:
        try:
            return dict(client.status())
        except UnreachableError:
            time.sleep(1.0)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else SOCKET)
    except KeyboardInterrupt:
        pass
    except UnreachableError as error:
        sys.exit(str(error))
