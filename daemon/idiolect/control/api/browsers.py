"""The part of the control API about browsers: letting one in, seeing which are, and shutting them out.

| request | role | answer |
| --- | --- | --- |
| POST /v1/pair {"profile"} | user | {"code", "person", "expires_s", "access", "fingerprint"}: to be typed on the page |
| GET /v1/pair | user | {"browsers": [{"id", "person", "profile", "created", "expires"}]}, of whom the caller may ask |
| POST /v1/pair/forget {"id"} or {"profile"} or {"all": true} | user | {"forgotten": number} |

``profile`` is a name or an id; somebody who is not known yet may be named, too, and agrees on the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idiolect.control.api.arguments import only
from idiolect.errors import RequestError

if TYPE_CHECKING:
    from idiolect.control.api.daemon import Daemon
    from idiolect.control.api.requests import Call

Answer = dict[str, object]


async def begin(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/pair with a code for a browser."""
    body = only(call.body, "profile")
    return await daemon.pairing.begin(body.get("profile"), call.caller.user, call.caller.uid)


async def show(daemon: Daemon, call: Call) -> Answer:
    """Answer GET /v1/pair with the browsers of whom the caller may ask."""
    only(call.query)
    return await daemon.pairing.browsers(call.caller.user, call.caller.admin)


async def forget(daemon: Daemon, call: Call) -> Answer:
    """Answer POST /v1/pair/forget: shut out one browser, a person's, or all."""
    body = only(call.body, "id", "profile", "all")
    named = [body[name] for name in ("id", "profile") if name in body]
    if len(body) != 1 or body.get("all", True) is not True or not all(map(_is_name, named)):
        raise RequestError(422, "id", 'is needed, or "profile", or "all": true; one of them')
    return await daemon.pairing.forget(body, call.caller.user, call.caller.admin)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 64
