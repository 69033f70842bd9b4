"""The control API's vocabulary: what can be asked, by whom, and what comes back. No sockets and no HTTP in here.

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

from idiolect.control.api import audit as trust_api
from idiolect.control.api import browsers as pairing_api
from idiolect.control.api import learn as idle_api
from idiolect.control.api import metrics
from idiolect.control.api import people as learn_api
from idiolect.control.api import playback as box_api
from idiolect.control.api.daemon import Daemon
from idiolect.control.api.requests import COPY_BYTES, Call, Reply, Route, check_keys, encode
from idiolect.control.api.status import _config, _devices, _doctor, _listening, _recent, _reload, _status
from idiolect.control.peers import Role


async def _openapi(daemon: Daemon, call: Call) -> Reply:  # noqa: ARG001 - the same for every daemon
    check_keys(call.query, ())
    return Reply(await asyncio.to_thread(_description))


@functools.cache
def _description() -> bytes:
    """``openapi.yaml`` as JSON. Read when it is asked for: it would be memory for nothing. To read it takes long."""
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
    "/v1/audit": {"GET": Route(Role.USER, trust_api.show)},
    "/v1/audit/verify": {"GET": Route(Role.USER, trust_api.verify)},
    "/v1/audit/export": {"GET": Route(Role.ADMIN, trust_api.export, large=True)},
    "/v1/attest": {"GET": Route(Role.ADMIN, trust_api.attest)},
    "/v1/consent": {"GET": Route(Role.USER, learn_api.people), "POST": Route(Role.USER, learn_api.ask)},
    "/v1/consent/agree": {"POST": Route(Role.USER, learn_api.agree)},
    "/v1/consent/wait": {"GET": Route(Role.USER, learn_api.wait)},
    "/v1/consent/withdraw": {"POST": Route(Role.USER, learn_api.withdraw)},
    "/v1/erase": {"POST": Route(Role.USER, learn_api.erase)},
    "/v1/profile": {"POST": Route(Role.USER, learn_api.address)},
    "/v1/learn": {"GET": Route(Role.USER, idle_api.see), "POST": Route(Role.USER, idle_api.ask)},
    "/v1/learning": {"POST": Route(Role.USER, learn_api.learning)},
    "/v1/enrol": {
        "GET": Route(Role.USER, learn_api.enrolling),
        "POST": Route(Role.USER, learn_api.enrol),
        "DELETE": Route(Role.USER, learn_api.cancel),
    },
    "/v1/enrol/take-back": {"POST": Route(Role.USER, learn_api.take_back)},
    "/v1/enrol/keep": {"POST": Route(Role.USER, learn_api.keep)},
    "/v1/correct": {"POST": Route(Role.USER, learn_api.correct)},
    "/v1/confirm": {"POST": Route(Role.USER, learn_api.confirm)},
    "/v1/review": {"GET": Route(Role.USER, learn_api.review)},
    "/v1/history": {"GET": Route(Role.USER, learn_api.history)},
    "/v1/report": {"GET": Route(Role.USER, learn_api.report)},
    "/v1/explain": {"GET": Route(Role.USER, learn_api.explain)},
    "/v1/adapters/verify": {"GET": Route(Role.USER, learn_api.verify)},
    "/v1/forget": {"POST": Route(Role.USER, learn_api.forget)},
    "/v1/rollback": {"POST": Route(Role.USER, learn_api.rollback)},
    "/v1/share": {"POST": Route(Role.USER, learn_api.share)},
    "/v1/export": {"POST": Route(Role.USER, learn_api.export, large=True)},
    "/v1/import": {"POST": Route(Role.USER, learn_api.bring, body_bytes=COPY_BYTES, large=True)},
    "/v1/playback": {"POST": Route(Role.USER, box_api.playback)},
    "/metrics": {"GET": Route(Role.OBSERVER, metrics.show)},
    "/v1/pair": {"GET": Route(Role.USER, pairing_api.show), "POST": Route(Role.USER, pairing_api.begin)},
    "/v1/pair/forget": {"POST": Route(Role.USER, pairing_api.forget)},
    "/v1/bundle/mark-good": {"POST": Route(Role.ADMIN, trust_api.mark_good)},
}
