"""The part of the control API about the daemon itself: status, events, listening, devices, configuration, checks."""

from __future__ import annotations

from collections.abc import Mapping

from idiolect.control.api.daemon import Daemon
from idiolect.control.api.requests import Call, check_keys
from idiolect.errors import RequestError
from idiolect.events import RING
from idiolect.values import MAX_PAUSE_S


async def _status(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    return daemon.status()


async def _recent(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ("limit",))
    text = call.query.get("limit", str(RING))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= RING):
        raise RequestError(422, "limit", f"must be a whole number from 1 to {RING}")
    return {"events": daemon.hub.recent(int(text))}


async def _listening(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    check_keys(call.body, ("active", "for_s"))
    active = call.body.get("active")
    if not isinstance(active, bool):
        raise RequestError(422, "active", "is needed, and must be true or false")
    seconds = _pause_length(call.body)
    if not active:
        daemon.pause(seconds)
    elif seconds is None:
        daemon.resume()
    else:
        raise RequestError(422, "for_s", 'limits a pause: send it with "active": false, or leave it out')
    return {"listening": daemon.status()["listening"]}


def _pause_length(body: Mapping[str, object]) -> float | None:
    if "for_s" not in body:
        return None
    value = body["for_s"]
    # bool is an int to Python, not to a caller
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_PAUSE_S:
        raise RequestError(
            422, "for_s", f"must be a number of seconds from 1 to {MAX_PAUSE_S}; left out: until resumed"
        )
    return float(value)


async def _devices(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    return {"devices": await daemon.devices()}


async def _config(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ("origin",))
    wanted = call.query.get("origin", "false")
    if wanted not in ("true", "false"):
        raise RequestError(422, "origin", "must be true or false")
    return {"config": daemon.config(), "origin": daemon.origins()} if wanted == "true" else daemon.config()


async def _reload(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    check_keys(call.body, ())
    return daemon.reload()


async def _doctor(daemon: Daemon, call: Call) -> dict[str, object]:
    check_keys(call.query, ())
    return {"checks": await daemon.doctor()}
