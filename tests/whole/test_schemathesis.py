"""Requests made up from the description, sound ones and broken ones, against a real service: it answers as described.

Half of the sound ones are about people who are known, so that more is met than "there is nobody of that name".
"""

from __future__ import annotations

import copy
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.control.api.test_openapi import DESCRIPTION, operations
from tests.support.whole import whole

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install '.[fuzz]'")
from schemathesis import GenerationMode, checks  # noqa: E402
from schemathesis.openapi.checks import JsonSchemaError  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

from tests.support.unix_requests import session  # noqa: E402

STREAMS = {"/v1/events"}  # it never ends: tests/control/api/test_openapi.py reads it
EXAMPLES = 12
"""Of each operation, sound and broken: a thousand requests in all."""
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
]
OPERATIONS = sorted((path, method) for method, path in operations() if path not in STREAMS)
SPOKEN_TO = [each for each in OPERATIONS if {"parameters", "requestBody"} & operations()[each[1], each[0]].keys()]
"""Those that one can say something to."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with whole(tmp_path_factory.mktemp("home")) as it:
        yield it


@pytest.fixture
def people(home):
    """ann and eve, as they are before a request: whatever the last one withdrew, forgot or erased."""
    home.client.resume_learning()
    home.service.personal._learner.consents._pending.clear()  # four questions at most are open at a time
    for number, name in enumerate(("ann", "eve"), 1):
        known = {each["name"]: each["purposes"] for each in home.client.people()["people"]}
        if "enrol" not in known.get(name, {}):
            home.agree(name, "enrol", "adapt_corrections", "adapt_confirmations")
        if not home.client.history(name)["versions"]:
            home.teach(name, number=number)
    return home


@pytest.fixture(scope="module")
def schema():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schemathesis.openapi.from_dict(DESCRIPTION)


def fuzz(operation, mode, body):
    """Run ``body`` with cases of an operation."""
    plain = (operation.path, operation.method.upper()) not in SPOKEN_TO
    quiet = settings(
        max_examples=1 if plain else EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    quiet(given(case=operation.as_strategy(generation_mode=mode), data=st.data())(body))()


def test_what_is_not_as_described_is_found(people):
    wrong = copy.deepcopy(DESCRIPTION)
    wrong["components"]["schemas"]["Recent"]["properties"]["events"] = {"type": "string"}
    operation = schemathesis.openapi.from_dict(wrong)["/v1/events/recent"]["GET"]

    def one(case, data):
        case.validate_response(case.call(base_url="http://localhost", session=asking), checks=CHECKS)

    with session(people.socket) as asking, pytest.raises(BaseExceptionGroup) as found:
        fuzz(operation, GenerationMode.POSITIVE, one)
    assert isinstance(found.value.exceptions[0], JsonSchemaError)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_sound_requests_are_answered_as_described(schema, people, path, method):
    with session(people.socket) as asking:

        def one(case, data):
            for part in (case.body, case.query):
                if isinstance(part, dict) and data.draw(st.booleans()):
                    _known(people, part, data)
            response = case.call(base_url="http://localhost", session=asking)
            case.validate_response(response, checks=CHECKS)

        fuzz(schema[path][method], GenerationMode.POSITIVE, one)


def _known(home, part, data):
    """Put what there is in the place of what was made up."""
    for name in part.keys() & {"profile", "name"}:
        part[name] = data.draw(st.sampled_from(["ann", "eve", "ANN"]))
    if "adapter" in part:
        part["adapter"] = 1
    if "event" in part:
        profile = home.client.people()["people"][0]["profile"]
        part["event"] = home.hears("on", "off", profile, data.draw(st.integers(0, 40)))


@pytest.mark.parametrize(("path", "method"), SPOKEN_TO)
def test_broken_requests_are_refused_as_described(schema, people, path, method):
    with session(people.socket) as asking:

        def one(case, data):
            response = case.call(base_url="http://localhost", session=asking)
            case.validate_response(response, checks=[*CHECKS, openapi_checks.negative_data_rejection])

        fuzz(schema[path][method], GenerationMode.NEGATIVE, one)
    assert people.client.status()["listening"]
