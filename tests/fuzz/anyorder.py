"""A whole daemon, asked in any order: pause, agree, teach, correct, forget, erase, take along, and nonsense in between.

Every answer is as the description has it, none is a fault of the daemon's own, it lives on, its audit log verifies, and
neither names nor phrases come into its log.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from idiolect.errors import IdiolectError
from idiolect.values import RETENTION
from tests.control.api.test_openapi import check, operations, resolved
from tests.fuzz.engine import MARK
from tests.support.whole import ME, Whole

OTHER = "quittengelee"
PEOPLE = {MARK: {"users": [ME]}, OTHER: {"users": [ME]}, "bob": {"users": ["somebody-else"]}}
NAMES = st.sampled_from([MARK, MARK, OTHER, OTHER.upper(), "bob", "nobody"])
PHRASES = st.sampled_from([f"{MARK} bitte", f"{OTHER} please", "seven"])
PRIVATE = (MARK, OTHER)
_OPERATIONS = operations()
_POSTS = sorted(path for method, path in _OPERATIONS if method == "POST")
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


class Overheard(logging.Handler):
    """What a log holds that it must not: ``faults``, a line each."""

    def __init__(self, private: tuple[str, ...] = PRIVATE) -> None:
        super().__init__(logging.INFO)
        self._private, self.faults = private, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Runs on any thread."""
        text = logging.Formatter().format(record)
        if any(each in text.casefold() for each in self._private):
            self.faults.append(f"somebody's own words in a log: {record.name}: {record.msg!r}")
        elif record.levelno >= logging.ERROR:
            self.faults.append(f"an error in the log: {record.name}: {text[:300]}")

    def __enter__(self) -> Overheard:
        root = logging.getLogger()
        self._before = root.level
        root.setLevel(min(root.level or logging.INFO, logging.INFO))
        root.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self._before)


def ask(home: Whole, method: str, path: str, body: object = None) -> tuple[int, object]:
    """Status and answer, once they are as described; ``AssertionError`` for a fault of the daemon's own."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(str(home.socket))
    headers = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    assert response.status < 500, f"{method} {path.partition('?')[0]}: {response.status}"
    described = _OPERATIONS[method, path.partition("?")[0]]["responses"]
    assert str(response.status) in described, f"{response.status} is not described"
    content = resolved(described[str(response.status)])["content"]
    kind = response.headers["Content-Type"].partition(";")[0]
    answer = json.loads(raw) if kind == "application/json" else raw.decode()
    check(content[kind]["schema"], answer)
    return response.status, answer


def machine(  # noqa: C901 - a class
    home: Whole, overheard: Overheard, counted: Callable[[], None]
) -> type[RuleBasedStateMachine]:
    """The state machine over one daemon; ``counted`` is called for each request."""

    class AnyOrder(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.events, self.copies, self.number = [""], ["0.0"], [{}], 0

        def ask(self, method: str, path: str, body: object = None) -> tuple[int, object]:
            counted()
            return ask(home, method, path, body)

        @rule(
            active=st.booleans(),
            seconds=st.none() | st.floats(-1, 700_000),
            what=st.sampled_from(["listening", "learning"]),
        )
        def pause(self, active: bool, seconds: float | None, what: str) -> None:
            self.ask("POST", f"/v1/{what}", {"active": active, **({} if seconds is None else {"for_s": seconds})})

        @rule(name=NAMES, purposes=st.lists(st.sampled_from([*RETENTION, "more"]), max_size=6))
        def question(self, name: str, purposes: list[str]) -> None:
            status, answer = self.ask("POST", "/v1/consent", {"name": name, "purposes": purposes})
            if status == 200:
                self.tokens.append(answer["token"])

        @rule(which=st.integers(0, 9))
        def agree(self, which: int) -> None:
            token = self.tokens[-1 - which % len(self.tokens)]
            self.ask("GET", f"/v1/consent/wait?token={token}")
            self.ask("POST", "/v1/consent/agree", {"token": token})

        @rule(name=NAMES)
        def agree_to_all(self, name: str) -> None:
            self.question_and_agree(name)

        def question_and_agree(self, name: str) -> None:
            status, answer = self.ask("POST", "/v1/consent", {"name": name, "purposes": list(RETENTION)})
            if status == 200:
                self.ask("POST", "/v1/consent/agree", {"token": answer["token"]})

        @rule(name=NAMES, purpose=st.sampled_from([*RETENTION, "more"]))
        def withdraw(self, name: str, purpose: str) -> None:
            self.ask("POST", "/v1/consent/withdraw", {"profile": name, "purpose": purpose})

        @rule(name=NAMES, phrase=PHRASES)
        def teach(self, name: str, phrase: str) -> None:
            self.number += 1
            counted()
            with suppress(IdiolectError):
                home.teach(name, phrase, 1 + self.number % 5)

        @rule(name=NAMES, phrase=PHRASES, samples=st.integers(0, 9), end=st.booleans())
        def enrol(self, name: str, phrase: str, samples: int, end: bool) -> None:
            self.ask("POST", "/v1/enrol", {"profile": name, "phrase": phrase, "samples": samples})
            self.ask("GET", "/v1/enrol")
            if end:
                self.ask("DELETE", "/v1/enrol")

        @rule(said=st.sampled_from(["on", "off"]), heard=st.sampled_from(["on", "off", ""]), known=st.booleans())
        def hear(self, said: str, heard: str, known: bool) -> None:
            people = home.client.people()["people"]
            profile = people[0]["profile"] if people and known else "guest"
            self.number += 1
            self.events.append(home.hears(said, heard, profile, self.number))

        @rule(which=st.integers(0, 3), phrase=PHRASES | st.just("off"), right=st.booleans())
        def correct(self, which: int, phrase: str, right: bool) -> None:
            event = self.events[-1 - which % len(self.events)]
            body = {"event": event} if right else {"event": event, "phrase": phrase}
            self.ask("POST", "/v1/confirm" if right else "/v1/correct", body)

        @rule(
            name=NAMES,
            what=st.sampled_from([{"all": True}, {"example": 1}, {"phrase": f"{MARK} bitte"}, {"day": "2026-01-01"}]),
        )
        def forget(self, name: str, what: dict[str, object]) -> None:
            self.ask("POST", "/v1/forget", {"profile": name, **what})

        @rule(name=NAMES, path=st.sampled_from(["/v1/erase", "/v1/rollback", "/v1/profile"]))
        def undo(self, name: str, path: str) -> None:
            self.ask("POST", path, {"profile": name})

        @rule(name=NAMES, passphrase=st.sampled_from(["", "correct horse", "short"]))
        def export(self, name: str, passphrase: str) -> None:
            status, answer = self.ask("POST", "/v1/export", {"profile": name, "passphrase": passphrase})
            if status == 200:
                self.copies.append(answer)

        @rule(name=NAMES, passphrase=st.sampled_from(["", "correct horse"]), which=st.integers(0, 4), broken=_ANYTHING)
        def bring(self, name: str, passphrase: str, which: int, broken: object) -> None:
            document = dict(self.copies[-1 - which % len(self.copies)])
            if which > 2 and document:
                document[sorted(document)[which % len(document)]] = broken
            self.ask("POST", "/v1/import", {"profile": name, "passphrase": passphrase, "document": document})

        @rule(name=NAMES, what=st.sampled_from(["review", "history", "report", "explain"]))
        def see(self, name: str, what: str) -> None:
            self.ask("GET", f"/v1/{what}?profile={name}")
            self.ask("GET", f"/v1/adapters/verify?profile={name}&adapter=1")

        @rule(name=NAMES, forget=st.booleans(), seconds=st.integers(-1, 90))
        def around(self, name: str, forget: bool, seconds: int) -> None:
            self.ask("POST", "/v1/pair", {"profile": name})
            self.ask("POST", "/v1/pair/forget", {"all": True} if forget else {"profile": name})
            self.ask("POST", "/v1/playback", {"active": True, "for_s": seconds})
            for path in ("/v1/status", "/v1/learn", "/v1/consent", "/v1/pair", "/metrics", "/v1/events/recent"):
                self.ask("GET", path)

        @rule(
            path=st.sampled_from(_POSTS),
            body=_ANYTHING,
            field=st.sampled_from(["profile", "name", "event", "token", "active"]),
        )
        def nonsense(self, path: str, body: object, field: str) -> None:
            self.ask("POST", path, body)
            self.ask("POST", path, {field: body})

        @invariant()
        def nothing_is_overheard(self) -> None:
            assert not overheard.faults, overheard.faults

        def teardown(self) -> None:
            """It lives, its log verifies, and the next story begins with nobody."""
            self.ask("POST", "/v1/learning", {"active": True})
            self.ask("DELETE", "/v1/enrol")
            for name in (MARK, OTHER):
                self.ask("POST", "/v1/erase", {"profile": name})
            status, answer = self.ask("GET", "/v1/audit/verify")
            assert status == 200, answer

    return AnyOrder


def play(home: Whole, overheard: Overheard, stories: int, counted: Callable[[], None], *, steps: int = 30) -> None:
    """So many stories of ``steps`` steps; whatever does not hold comes through."""
    run_state_machine_as_test(
        machine(home, overheard, counted),
        settings=settings(
            max_examples=stories, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate], print_blob=False,
        ),
    )  # fmt: skip
