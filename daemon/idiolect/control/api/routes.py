"""The table of all that can be asked over the control API, by whom, and with which answer. No sockets, no HTTP.

| request | role | answer |
| --- | --- | --- |
| GET /v1/openapi.json | observer | all of this, as OpenAPI 3.1 (``openapi.yaml``) |
| GET /v1/status | observer | the daemon's state |
| GET /v1/events | observer | Server-Sent Events: wake, phrase, rejected, state; `lagged`, `restarted`: some are lost |
| GET /v1/events/recent?limit=1..256 | observer | {"events": [...]}, oldest first |
| POST /v1/listening {"active": bool, "for_s": 1..604800} | user | {"listening": {...}}; for_s only to pause |
| GET /v1/devices | observer | {"devices": [...]} |
| GET /v1/config | observer | the configuration in force |
| GET /v1/config?origin=true | observer | {"config", "origin": {key: {"file", "line"}}}: where each key was set |
| POST /v1/reload {} | admin | {"taken", "at_next_start", "problems"}: the configuration is read again |
| GET /v1/doctor | observer | {"checks": [...]} |
| consent, teaching, corrections, rights | | ``api.people`` |
| /v1/learn | | idle windows: ``api.learn`` |
| /v1/pair | | browsers: ``api.browsers`` |
| /v1/playback | | what the box plays: ``api.playback`` |
| GET /metrics | observer | for Prometheus: ``api.metrics`` |
| /v1/audit..., /v1/attest, /v1/bundle/... | | keys, bundle and audit log: ``api.audit`` |

Errors are {"error": {"field", "message"}}; ``RequestError`` carries their status.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from importlib import resources

from idiolect.control.api import audit, browsers, learn, metrics, people, playback
from idiolect.control.api.daemon import Daemon
from idiolect.control.api.requests import COPY_BYTES, Call, Reply, Route, check_keys, encode
from idiolect.control.api.status import _config, _devices, _doctor, _listening, _recent, _reload, _status
from idiolect.control.peers import Role


async def _openapi(daemon: Daemon, call: Call) -> Reply:  # noqa: ARG001 - the same for every daemon
    check_keys(call.query, ())
    return Reply(await asyncio.to_thread(_description))


@functools.cache
def _description() -> bytes:
    """Return ``openapi.yaml`` as JSON, read when it is asked for: kept, it would take memory for nothing.

    Reading it takes long.
    """
    import yaml

    text = resources.files("idiolect.control").joinpath("openapi.yaml").read_bytes()
    return encode(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 - both are safe


ROUTES: Mapping[str, Mapping[str, Route]] = {
    "/v1/openapi.json": {"GET": Route(Role.OBSERVER, _openapi)},
    "/v1/status": {"GET": Route(Role.OBSERVER, _status)},
    "/v1/events": {"GET": Route(Role.OBSERVER, None)},
    "/v1/events/recent": {"GET": Route(Role.OBSERVER, _recent)},
    "/v1/listening": {"POST": Route(Role.USER, _listening)},
    "/v1/devices": {"GET": Route(Role.OBSERVER, _devices)},
    "/v1/config": {"GET": Route(Role.USER, _config)},  # it names people
    "/v1/reload": {"POST": Route(Role.ADMIN, _reload)},
    "/v1/doctor": {"GET": Route(Role.OBSERVER, _doctor)},
    "/v1/audit": {"GET": Route(Role.USER, audit.show)},
    "/v1/audit/verify": {"GET": Route(Role.USER, audit.verify)},
    "/v1/audit/export": {"GET": Route(Role.ADMIN, audit.export, large=True)},
    "/v1/attest": {"GET": Route(Role.ADMIN, audit.attest)},
    "/v1/consent": {"GET": Route(Role.USER, people.people), "POST": Route(Role.USER, people.ask)},
    "/v1/consent/agree": {"POST": Route(Role.USER, people.agree)},
    "/v1/consent/wait": {"GET": Route(Role.USER, people.wait)},
    "/v1/consent/withdraw": {"POST": Route(Role.USER, people.withdraw)},
    "/v1/erase": {"POST": Route(Role.USER, people.erase)},
    "/v1/profile": {"POST": Route(Role.USER, people.address)},
    "/v1/learn": {"GET": Route(Role.USER, learn.see), "POST": Route(Role.USER, learn.ask)},
    "/v1/learning": {"POST": Route(Role.USER, people.learning)},
    "/v1/enrol": {
        "GET": Route(Role.USER, people.enrolling),
        "POST": Route(Role.USER, people.enrol),
        "DELETE": Route(Role.USER, people.cancel),
    },
    "/v1/enrol/take-back": {"POST": Route(Role.USER, people.take_back)},
    "/v1/enrol/keep": {"POST": Route(Role.USER, people.keep)},
    "/v1/correct": {"POST": Route(Role.USER, people.correct)},
    "/v1/confirm": {"POST": Route(Role.USER, people.confirm)},
    "/v1/review": {"GET": Route(Role.USER, people.review)},
    "/v1/history": {"GET": Route(Role.USER, people.history)},
    "/v1/report": {"GET": Route(Role.USER, people.report)},
    "/v1/explain": {"GET": Route(Role.USER, people.explain)},
    "/v1/adapters/verify": {"GET": Route(Role.USER, people.verify)},
    "/v1/forget": {"POST": Route(Role.USER, people.forget)},
    "/v1/rollback": {"POST": Route(Role.USER, people.rollback)},
    "/v1/share": {"POST": Route(Role.USER, people.share)},
    "/v1/export": {"POST": Route(Role.USER, people.export, large=True)},
    "/v1/import": {"POST": Route(Role.USER, people.bring, body_bytes=COPY_BYTES, large=True)},
    "/v1/playback": {"POST": Route(Role.USER, playback.playback)},
    "/metrics": {"GET": Route(Role.OBSERVER, metrics.show)},
    "/v1/pair": {"GET": Route(Role.USER, browsers.show), "POST": Route(Role.USER, browsers.begin)},
    "/v1/pair/forget": {"POST": Route(Role.USER, browsers.forget)},
    "/v1/bundle/mark-good": {"POST": Route(Role.ADMIN, audit.mark_good)},
}
