"""Who asks too often is told to wait, by whatever door; others, root and ordinary use do not notice."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

import pytest

from idiolect.client import Client, UnreachableError
from idiolect.control import limits
from idiolect.control.api import requests
from idiolect.control.api.daemon import Session
from idiolect.control.doors import KernelDoor
from idiolect.control.limits import CALLERS, Rate, Rates, TooOften
from idiolect.control.peers import Role
from idiolect.control.server import Server
from idiolect.control.sockets import open_listener
from tests.support import fake_daemon
from tests.support.fake_daemon import running

STRANGER = os.geteuid() + 4321
SOMEBODY = requests.Caller("somebody", STRANGER, Role.USER)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def allowed(rates, caller, path="/v1/status", most=1000):
    """How many requests are let through at once."""
    for number in range(most):
        try:
            rates.check(caller, path)
        except TooOften:
            return number
    return most


def test_a_burst_and_then_so_many_a_second():
    clock = Clock()
    rates = Rates(clock=clock)
    assert allowed(rates, SOMEBODY) == 200
    clock.now += 1
    assert allowed(rates, SOMEBODY) == 50
    clock.now += 3600
    assert allowed(rates, SOMEBODY) == 200


@pytest.mark.parametrize("path", sorted(limits.HEAVY))
def test_what_costs_much_has_a_bucket_of_its_own(path):
    clock = Clock()
    rates = Rates(clock=clock)
    assert allowed(rates, SOMEBODY, path) == 10
    assert allowed(rates, SOMEBODY, "/v1/status") == 200 - 11  # the refused one counted among all
    clock.now += 1
    assert allowed(rates, SOMEBODY, path) == 1


def test_how_long_to_wait():
    clock = Clock()
    rates = Rates(Rate(0.1, 1), clock=clock)
    rates.check(SOMEBODY, "/v1/status")
    with pytest.raises(TooOften) as told:
        rates.check(SOMEBODY, "/v1/status")
    assert (told.value.status, told.value.retry_s) == (429, 10)
    clock.now += 10
    rates.check(SOMEBODY, "/v1/status")


def test_a_clock_that_stands_still_gives_nothing():
    rates = Rates(clock=lambda: 5.0)
    allowed(rates, SOMEBODY)
    assert allowed(rates, SOMEBODY) == 0


def test_one_who_loops_takes_nothing_from_others():
    rates = Rates(clock=Clock())
    allowed(rates, SOMEBODY)
    assert allowed(rates, requests.Caller("other", STRANGER + 1, Role.USER)) == 200


def test_root_and_the_daemons_own_user_are_not_counted():
    rates = Rates(clock=Clock())
    assert allowed(rates, requests.Caller("root", 0, Role.ADMIN)) == 1000
    assert allowed(rates, requests.Caller("idiolect", os.geteuid(), Role.ADMIN)) == 1000
    assert allowed(rates, requests.Caller("admin", STRANGER, Role.ADMIN)) == 200  # by group: that could be any program


def test_a_browser_counts_as_its_person_whoever_let_it_in():
    """Root has paired both: that makes nobody root."""
    rates = Rates(clock=Clock())
    ann, bob = (
        requests.Caller("root", 0, Role.USER, Session("i", name, "", "root", 0, 0, 1)) for name in ("ann", "bob")
    )
    assert allowed(rates, ann) == 200
    assert allowed(rates, bob) == 200


def test_memory_is_bounded():
    rates = Rates(clock=Clock())
    for uid in range(STRANGER, STRANGER + 5000):
        with suppress(TooOften):
            rates.check(requests.Caller("", uid), "/v1/status")
    assert len(rates._buckets) == CALLERS


def test_a_flood_of_names_gives_nobody_a_fresh_bucket():
    """Who comes as one user after another, to have those before forgotten, shares one bucket with himself."""
    clock = Clock()
    rates = Rates(clock=clock)
    known = [requests.Caller("", STRANGER + n) for n in range(CALLERS)]
    for caller in known:
        allowed(rates, caller)
    assert sum(allowed(rates, requests.Caller("", STRANGER + 1000 + n)) for n in range(1000)) == 200
    assert allowed(rates, known[0]) == 0  # nobody was pushed out
    clock.now += 10  # 50 a second fill all of them, which are forgotten as they are like fresh ones then
    assert allowed(rates, requests.Caller("", STRANGER + 9999)) == 200


def test_whoever_asked_too_much_can_still_pause():
    rates = Rates(clock=Clock())
    allowed(rates, SOMEBODY)
    rates.check(SOMEBODY, "/v1/listening")
    assert allowed(rates, SOMEBODY, "/v1/listening") == 19


def test_strangers_at_the_page_have_one_bucket_that_no_paired_browser_needs():
    rates = Rates(clock=Clock())
    assert allowed(rates, requests.Caller(), "/js/main.js") == 400
    rates.check(requests.Caller(), "/v1/session")  # a code may be tried all the same: see `pairing`
    paired = requests.Caller("", STRANGER, Role.USER, Session("i", "ann", "", "", STRANGER, 0, 1))
    assert allowed(rates, paired, "/js/main.js") == 200


# -- over the socket --------------------------------------------------------------------------------------------------


class Everybody(KernelDoor):
    """The control socket's door, to which all callers are one stranger with the role that the route needs."""

    async def admit(self, sock, request):  # noqa: ARG002
        route = requests.find_route(self.routes, request.method, request.path)
        return requests.Caller("somebody", STRANGER, route.role), route


@pytest.fixture
def strangers(path, monkeypatch):
    """A server that takes everybody for a stranger, at two a second and three at once."""

    def made(daemon, settings, limits_):
        rates = Rates(Rate(2.0, 3), Rate(1.0, 1))
        return Server(daemon, Everybody(settings.roles), lambda: open_listener(path), limits=limits_, rates=rates)

    monkeypatch.setattr(fake_daemon, "control_server", made)
    with running(path) as run:
        yield run


def test_the_answer_says_when_to_come_back(strangers, caplog):
    with caplog.at_level(logging.WARNING):
        answers = [strangers.ask("GET", "/v1/status") for _ in range(6)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429, 429]
    _, body, headers = answers[-1]
    assert body["error"] == {"field": "rate", "message": "too many requests: ask again in 1 s"}
    assert headers["Retry-After"] == "1"
    assert [record.levelname for record in caplog.records].count("WARNING") == 1  # not a line for each
    time.sleep(1.1)
    assert strangers.ask("GET", "/v1/status")[0] == 200


def test_costly_ones_are_refused_while_others_are_answered(strangers):
    assert strangers.ask("GET", "/v1/audit/verify")[0] == 200
    assert strangers.ask("GET", "/v1/audit/verify")[0] == 429
    assert strangers.ask("GET", "/v1/status")[0] == 200


def test_a_stream_counts_once_however_long_it_is(strangers):
    with strangers.connect() as sock:
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        strangers.await_subscribers(1)
        strangers.publish(*(f"a-{number}" for number in range(50)))
        got = b""
        while b"a-49" not in got:
            got += sock.recv(65536)
    assert strangers.ask("GET", "/v1/status")[0] == 200


def test_the_client_says_that_the_daemon_has_no_time(strangers):
    client = Client(str(strangers.path))
    for _ in range(3):
        client.status()
    with pytest.raises(UnreachableError, match="too many requests: ask again"):
        client.status()


def test_ordinary_use_is_never_told_to_wait():
    """`idiolect enroll` asks ten times a second, `learn --now` five, a page a few more; for ten minutes."""
    clock = Clock()
    rates = Rates(clock=clock)
    for _ in range(6000):
        clock.now += 0.1
        for asked in ("/v1/enrol", "/v1/learn", "/v1/status"):
            rates.check(SOMEBODY, asked)
    for _ in range(600):
        clock.now += 1.0
        rates.check(SOMEBODY, "/v1/audit/verify")
