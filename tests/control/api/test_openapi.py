"""The description of the control API is what the daemon does: its routes, roles, and the answers of a real service."""

from __future__ import annotations

import http.client
import json
import socket
import time
import typing
from importlib import resources

import jsonschema
import numpy as np
import pytest
import yaml

from idiolect.client import answers as client_types
from idiolect.client.answers import Status
from idiolect.control import limits
from idiolect.control.api import routes as api
from idiolect.listening.attempt import Taken
from tests.support.learners import invented
from tests.support.whole import whole

DESCRIPTION = yaml.safe_load(resources.files("idiolect.control").joinpath("openapi.yaml").read_bytes())
METHODS = ("get", "post", "delete", "put", "patch")
NONCE = "00112233445566778899aabbccddeeff"


def operations():
    return {
        (method.upper(), path): operation
        for path, item in DESCRIPTION["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def resolved(part):
    """A part of the description, or what its reference leads to."""
    while "$ref" in part:
        target = DESCRIPTION
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


def check(schema, instance):
    """``instance`` against a schema of the description, JSON Schema 2020-12."""
    whole_schema = {**schema, "components": DESCRIPTION["components"]}
    jsonschema.Draft202012Validator(whole_schema).validate(instance)


# -- the routes -------------------------------------------------------------------------------------------------------


def test_every_route_is_described_and_nothing_else():
    routes = {(method, path): route for path, methods in api.ROUTES.items() for method, route in methods.items()}
    described = operations()
    assert described.keys() == routes.keys()
    assert {key: each["x-role"] for key, each in described.items()} == {
        key: route.role.name.lower() for key, route in routes.items()
    }


def test_what_costs_much_is_said():
    assert {path for (_, path), each in operations().items() if each.get("x-costly")} == limits.HEAVY


def test_the_document_itself_is_sound():
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(DESCRIPTION)
    assert list(nulls(DESCRIPTION)) == []
    idents = [each["operationId"] for each in operations().values()]
    assert len(set(idents)) == len(idents)
    for name, schema in DESCRIPTION["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("type") != "object" or "additionalProperties" in schema or name == "Config", name


def nulls(part, at=""):
    """Names without a value: a comma in what should have been quoted."""
    if isinstance(part, dict):
        for name, value in part.items():
            if value is None:
                yield f"{at}/{name}"
            yield from nulls(value, f"{at}/{name}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from nulls(value, f"{at}/{number}")


def test_every_operation_says_how_it_refuses():
    for (method, path), each in operations().items():
        wanted = {"400", "401", "403", "405", "408", "422", "429", "503", "200"}
        wanted |= {"413", "415"} if method == "POST" else set()
        assert wanted <= each["responses"].keys() <= wanted | {"404", "409"}, (method, path)


def test_the_clients_types_are_the_schemas():
    schemas = DESCRIPTION["components"]["schemas"]
    types = {name: each for name, each in vars(client_types).items() if typing.is_typeddict(each)}
    assert len(types) > 30
    assert Status in types.values()
    for name, each in types.items():
        assert each.__annotations__.keys() == schemas[name]["properties"].keys(), name
        assert each.__required_keys__ == set(schemas[name]["required"]), name


# -- answers ----------------------------------------------------------------------------------------------------------


class Checked:
    """Asks a service, and holds each answer to the description; ``seen``: (method, path, status) of all of them."""

    def __init__(self, home):
        self.home, self.seen = home, set()

    def ask(self, method, path, body=None, expect=200):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.home.socket))
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        assert response.status == expect, raw
        plain = path.partition("?")[0]
        self.seen.add((method, plain, expect))
        content = resolved(operations()[method, plain]["responses"][str(expect)])["content"]
        kind = response.headers["Content-Type"].partition(";")[0]
        answer = json.loads(raw) if kind == "application/json" else raw.decode()
        check(content[kind]["schema"], answer)
        if body is not None and expect == 200:
            check(resolved(operations()[method, plain]["requestBody"])["content"]["application/json"]["schema"], body)
        return answer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with whole(tmp_path_factory.mktemp("home")) as it:
        yield it


@pytest.fixture(scope="module")
def asked(home):
    """All answers that there are, in the order of somebody's life with the device."""
    api_ = Checked(home)
    ask = api_.ask
    for path in ("status", "devices", "config", "config?origin=true", "doctor", "events/recent", "openapi.json"):
        ask("GET", f"/v1/{path}")
    ask("POST", "/v1/reload", {})
    ask("POST", "/v1/reload", {"hard": True}, 422)
    ask("POST", "/v1/listening", {"active": False, "for_s": 60})
    ask("GET", "/v1/status")
    ask("POST", "/v1/listening", {"active": False})
    ask("POST", "/v1/listening", {"active": True})
    ask("POST", "/v1/listening", {"active": True, "for_s": 60}, 422)
    ask("POST", "/v1/playback", {"active": True, "for_s": 60})
    ask("GET", "/v1/events/recent")
    ask("POST", "/v1/playback", {"active": False})
    _consent(ask)
    profile = ask("GET", "/v1/consent")["people"][0]["profile"]
    home.teach()
    _teaching(home, ask)
    _corrections(home, ask, profile)
    _seeing(ask)
    _learning(home, ask)
    _moving(ask)
    _browsers(ask)
    _proofs(ask)
    ask("POST", "/v1/consent/withdraw", {"profile": "ann", "purpose": "adapt_confirmations"})
    ask("POST", "/v1/consent/withdraw", {"profile": "ann", "purpose": "adapt_confirmations"}, 409)
    ask("POST", "/v1/forget", {"profile": "ann", "all": True})
    ask("GET", "/v1/report?profile=ann")
    ask("POST", "/v1/erase", {"profile": "ann"})
    ask("GET", "/v1/events/recent")
    return api_


def _consent(ask):
    ask("GET", "/v1/consent")
    ask("POST", "/v1/consent", {"name": "ann", "purposes": []}, 422)
    question = ask("POST", "/v1/consent", {"name": "ann", "purposes": list(typing.get_args(client_types.Purpose))})
    ask("GET", f"/v1/consent/wait?token={question['token']}")
    ask("POST", "/v1/consent/agree", {"token": question["token"]})
    ask("GET", f"/v1/consent/wait?token={question['token']}")
    ask("POST", "/v1/consent/agree", {"token": "none"}, 404)
    theirs = ask("POST", "/v1/consent", {"name": "bob", "purposes": ["enrol"]})
    ask("POST", "/v1/consent/agree", {"token": theirs["token"]}, 403)
    ask("POST", "/v1/consent", {"name": "ann", "purposes": ["enrol"]}, 409)
    for number in range(3):
        ask("POST", "/v1/consent", {"name": f"guest {number}", "purposes": ["enrol"], "language": "de"})
    ask("POST", "/v1/consent", {"name": "one more", "purposes": ["enrol"]}, 429)


def two_takes(home):
    """Two takes in the enrolment that goes on, of which the second is unlike the first and can be kept on request."""
    deadline = time.monotonic() + 60.0
    while (lesson := home.service.teaching._lesson) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for number in (1, 2):
        sound = np.random.default_rng(number).integers(-3000, 3000, 4000).astype(np.int16)
        lesson.hear(Taken(invented(number)[0], sound, -20.0, 12), number)


def _takes(home, ask, ident):
    two_takes(home)
    ask("POST", "/v1/enrol/take-back", {"take": True, "id": ident}, 422)
    ask("POST", "/v1/enrol/take-back", {"take": 9, "id": ident}, 404)
    ask("POST", "/v1/enrol/take-back", {"take": 1, "id": "0000"}, 409)
    assert ask("POST", "/v1/enrol/keep", {"id": ident})["takes"] == [1, 2]
    ask("POST", "/v1/enrol/keep", {"id": ident}, 409)
    assert ask("POST", "/v1/enrol/take-back", {"take": 1, "id": ident})["takes"] == [2]


def _teaching(home, ask):
    ask("GET", "/v1/enrol", expect=404)
    ask("POST", "/v1/enrol/take-back", {"take": 1}, 409)
    ask("POST", "/v1/enrol/keep", {}, 409)
    begun = ask("POST", "/v1/enrol", {"profile": "ann", "phrase": "good night", "samples": 3, "speak": ""})
    _takes(home, ask, begun["id"])
    ask("POST", "/v1/enrol", {"profile": "ann", "phrase": "good night"}, 409)
    ask("GET", "/v1/enrol")
    ask("DELETE", "/v1/enrol")
    ask("DELETE", "/v1/enrol", expect=409)
    ask("POST", "/v1/profile", {"profile": "ann"})
    home.service.teaching._state.result = home.teach("ann", "fire", 2)  # as it is after an enrolment
    ask("GET", "/v1/enrol")


def _corrections(home, ask, profile):
    ask("POST", "/v1/correct", {"event": home.hears("on", "off", profile), "phrase": "on"})
    ask("POST", "/v1/correct", {"event": home.hears("on", "", profile, 1), "phrase": "never taught"}, 422)
    ask("POST", "/v1/correct", {"event": "gone", "phrase": "on"}, 404)
    ask("POST", "/v1/confirm", {"event": home.hears("up", "up", profile, 2)})
    ask("POST", "/v1/confirm", {"event": home.hears("up", "up", "guest", 3)}, 409)
    ask("GET", "/v1/events/recent?limit=2")
    for number in range(3):  # what is counted, and told apart from the base model
        event = home.hears("stop", "stop", profile, 4 + number)
        heard = home.service._inference.recent.look(event).event
        home.loop.call_soon_threadsafe(home.service.personal.heard, heard)
    home.on_loop(home.service.personal.flush())


def _seeing(ask):
    for what in ("review", "history", "report", "explain"):
        ask("GET", f"/v1/{what}?profile=ann")
        ask("GET", f"/v1/{what}?profile=nobody", expect=404)
        ask("GET", f"/v1/{what}", expect=422)
    ask("GET", "/v1/explain?profile=ann&adapter=1")
    ask("GET", "/v1/explain?profile=ann&adapter=77", expect=404)
    assert ask("GET", "/v1/adapters/verify?profile=ann&adapter=1")["ok"]
    ask("GET", "/v1/adapters/verify?profile=ann&adapter=77", expect=404)


def _learning(home, ask):
    ask("GET", "/v1/learn")
    ask("POST", "/v1/learn", {})
    deadline = time.monotonic() + 60
    while home.client.learning()["asked"] and time.monotonic() < deadline:
        time.sleep(0.1)
    ask("GET", "/v1/learn")

    async def tested():
        profile = home.service.personal.profiles["ann"]
        await home.service.personal.do(lambda learner: learner.test(profile))

    home.on_loop(tested())
    assert ask("GET", "/v1/report?profile=ann")["selftest"]
    assert ask("GET", "/v1/review?profile=ann")["upkeep"]
    ask("POST", "/v1/learning", {"active": False})
    ask("POST", "/v1/learning", {"active": False, "for_s": 60})
    ask("GET", "/v1/status")
    ask("POST", "/v1/learning", {"active": True})


def _moving(ask):
    document = ask("POST", "/v1/export", {"profile": "ann"})
    sealed = ask("POST", "/v1/export", {"profile": "ann", "passphrase": "correct horse"})
    ask("POST", "/v1/export", {"profile": "ann", "passphrase": "short"}, 422)
    ask("POST", "/v1/import", {"profile": "ann", "document": sealed, "passphrase": "wrong horse"}, 422)
    ask("POST", "/v1/import", {"profile": "ann", "document": sealed, "passphrase": "correct horse"})
    ask("POST", "/v1/import", {"profile": "ann", "document": document})
    ask("POST", "/v1/import", {"profile": "ann", "document": {}}, 422)
    ask("POST", "/v1/rollback", {"profile": "ann"})
    ask("POST", "/v1/share", {"profile": "ann", "phrase": "lights please", "shared": True})
    ask("POST", "/v1/share", {"profile": "ann", "phrase": "never taught", "shared": True}, 404)
    ask("POST", "/v1/share", {"profile": "ann", "phrase": "fire", "shared": "yes"}, 422)
    ask("POST", "/v1/forget", {"profile": "ann", "example": 1})
    ask("POST", "/v1/forget", {"profile": "ann", "phrase": "fire"})
    ask("POST", "/v1/forget", {"profile": "ann", "day": "1999-01-01"}, 404)
    for wrong in ({"example": True}, {"all": False}, {"phrase": 3}, {"day": None}, {"example": "1"}):
        ask("POST", "/v1/forget", {"profile": "ann", **wrong}, 422)


def _browsers(ask):
    ask("GET", "/v1/pair")
    ask("POST", "/v1/pair", {"profile": "ann"})
    ask("POST", "/v1/pair/forget", {"all": True})
    ask("POST", "/v1/pair/forget", {}, 422)
    ask("POST", "/v1/pair/forget", {"id": 3}, 422)


def _proofs(ask):
    ask("GET", "/v1/audit")
    ask("GET", "/v1/audit?limit=1000")
    ask("GET", "/v1/audit?limit=1001", expect=422)
    ask("GET", "/v1/audit/verify")
    ask("GET", f"/v1/audit/export?nonce={NONCE}")
    ask("GET", "/v1/audit/export?nonce=00%2000", expect=422)
    ask("GET", f"/v1/attest?nonce={NONCE}", expect=409)
    ask("POST", "/v1/bundle/mark-good", {})
    ask("POST", "/v1/bundle/mark-good?now=1", {}, 422)


def test_every_answer_is_as_described(asked):
    answered = {(method, path) for method, path, status in asked.seen if status == 200}
    wanted = operations().keys() - {
        ("GET", "/v1/events"),  # below
        ("GET", "/v1/attest"),  # needs a TPM: below
        ("GET", "/metrics"),  # tests/control/api/test_metrics.py
    }
    assert wanted - answered == set()


def test_the_stream_is_as_described(tmp_path):
    """Every kind of event that there was, as it comes over the stream, and the words about the stream itself."""
    kinds = operations()["GET", "/v1/events"]["x-events"]
    seen, told = set(), set()
    with whole(tmp_path) as home:
        _happen(home)
        for event in home.client.events("00000000-1", 5):  # of a run that there never was
            check(kinds[event.kind], event.data)
            assert event.kind in ("lagged", "restarted") or event.id == event.data["id"]
            seen.add(event.kind)
            told |= event.data.keys() if event.kind == "state" else set()
            if event.data.get("phrase") == "stop":
                break
    assert seen == {"restarted", "phrase", "rejected", "state"}
    assert {"keys", "listening", "microphone", "playback", "learning", "enrolment"} <= told


def _happen(home):
    profile = home.agree("eve")
    home.hears("on", "on", profile)
    home.hears("on", "", profile)
    home.client.teach("eve", "good night")
    time.sleep(0.1)
    home.client.cancel_teaching()
    home.client.pause()
    home.client.resume()
    home.client.playback(True)
    home.client.playback(False)
    home.client.pause_learning()
    home.client.resume_learning()
    home.hears("stop", "stop", "guest")


def test_a_quote_is_as_described(tpm, tmp_path):
    """With a TPM: the answers that have one."""
    from tests.support import bundles
    from tests.support.devices import TestDevice  # late: it needs tpm2-pytss

    device = TestDevice(tmp_path, tpm)
    device.provision()
    with device.boot(bundles.signed()) as custody:
        answers = custody.attest(bytes.fromhex(NONCE)), custody.audit_export(bytes.fromhex(NONCE))
    for path, answer in zip(("/v1/attest", "/v1/audit/export"), answers, strict=True):
        check(operations()["GET", path]["responses"]["200"]["content"]["application/json"]["schema"], answer)
        assert answer["quote"]
