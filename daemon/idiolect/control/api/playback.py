"""The part of the control API for the box around the daemon.

| request | role | answer |
| --- | --- | --- |
| POST /v1/playback {"active": bool, "for_s": 1..3600} | user | {"playback": {"active", "until"}}: a lease, 300 s |

While the box plays music or speaks itself, scores must be higher, and nothing is learnt of what is heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idiolect.control.api.arguments import only
from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api.daemon import Daemon
    from idiolect.control.api.requests import Call

LEASE_S = 300.0
MAX_LEASE_S = 3600.0


async def playback(daemon: Daemon, call: Call) -> dict[str, object]:
    """Answer POST /v1/playback: something is played, or no more."""
    body = only(call.body, "active", "for_s")
    active, seconds = body.get("active"), body.get("for_s", LEASE_S)
    if not isinstance(active, bool):
        raise RequestError(422, "active", "is needed, and must be true or false")
    if not active and "for_s" in body:
        raise RequestError(422, "for_s", 'limits playback: send it with "active": true, or leave it out')
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= MAX_LEASE_S:
        raise RequestError(422, "for_s", f"must be a number of seconds from 1 to {MAX_LEASE_S:.0f}; renew it in time")
    return {"playback": daemon.box.playback(float(seconds) if active else None)}
