"""The part of the control API about idle windows: it shows what learning waits for, and asks for a round now.

| request | role | answer |
| --- | --- | --- |
| GET /v1/learn | user | {"state", "due", "waiting_for", "obstacles", "running", "done", ...} |
| POST /v1/learn {} | user | the same: a round is wanted now; comfort (silence, hours) does not count until it is done |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api.daemon import Daemon
    from idiolect.control.api.requests import Call


async def see(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer GET /v1/learn with what learning waits for."""
    _nothing(call)
    return daemon.windows.status()


async def ask(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer POST /v1/learn: ask for a round now."""
    _nothing(call)
    status = daemon.windows.status()
    if status["state"] == "off":
        raise daemon.windows.closed()
    daemon.windows.ask()
    return {**status, "asked": True}


def _nothing(call: Call) -> None:
    for name in (*call.query, *call.body):
        raise RequestError(422, name[:64], "unknown; nothing can be said here")
