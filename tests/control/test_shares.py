"""A share for everybody: whoever holds how many connections and requests, others are served, and root first of all."""

from __future__ import annotations

import asyncio
import functools
import os
import ssl

import pytest

from idiolect.control.api import requests, routes
from idiolect.control.api.daemon import Session
from idiolect.control.doors import OpenDoor
from idiolect.control.peers import Role
from idiolect.control.server import Limits, Server
from idiolect.control.shared import Shared
from idiolect.control.shares import KEPT, SHORT, URGENT, Guests, Places, Stage
from idiolect.control.sockets import make_listener
from idiolect.errors import RequestError
from idiolect.trust.device import certificate
from tests.support.fake_daemon import FakeDaemon


def story(scenario):
    """A test in an event loop."""

    @functools.wraps(scenario)
    def test(**given):
        asyncio.run(asyncio.wait_for(scenario(**given), 60))

    return test


ANN, BEN, ROOT = os.geteuid() + 4321, os.geteuid() + 4322, 0


class Hall:
    """``Guests``, and who was cut off."""

    def __init__(self, most, *, known=True):
        self.guests, self.cut = Guests(most, known=known), []

    def come(self, uid, name="", stage=Stage.ASKING):
        guest = self.guests.enter(uid, lambda: self.cut.append(name))
        if guest is not None:
            guest.stage = stage
        return guest


def test_one_user_has_half_and_makes_room_among_his_own():
    hall = Hall(10)
    assert all(hall.come(ANN, n) for n in range(8))
    assert hall.cut == [0, 1, 2]
    assert all(hall.come(BEN, f"ben {n}") for n in range(5))
    assert hall.cut == [0, 1, 2]


def test_whoever_is_being_served_is_not_cut_off():
    hall = Hall(10)
    served = [hall.come(ANN, n, Stage.SERVED) for n in range(5)]
    assert hall.come(ANN, "one more") is None
    hall.guests.leave(served[0])
    assert hall.come(ANN, "one more")
    assert hall.cut == []


def test_who_has_his_answer_goes_after_those_who_never_asked():
    hall = Hall(4, known=False)
    hall.come(ANN, "answered", Stage.ANSWERED)
    hall.come(ANN, "silent")
    hall.come(ANN, "served", Stage.SERVED)
    hall.come(ANN, "silent too")
    for n in range(3):
        assert hall.come(ANN, f"new {n}", Stage.SERVED)
    assert hall.cut == ["silent", "silent too", "answered"]
    assert hall.come(ANN, "no room left") is None


def test_when_all_is_full_the_greediest_gives_way_and_root_has_places_of_its_own():
    hall = Hall(10)
    for n in range(3):
        hall.come(BEN, f"ben {n}")
    for n in range(5):
        hall.come(ANN, f"ann {n}")
    hall.come(ANN + 9, "third")
    hall.come(ANN + 9, "third too")
    assert all(hall.come(ROOT, f"root {n}") for n in range(KEPT))
    assert hall.cut == []
    assert hall.come(ROOT, "one more")
    assert hall.cut == ["ann 0"]


def test_root_comes_in_though_everybody_is_being_served():
    hall = Hall(4)
    for uid in (ANN, ANN, BEN, BEN):
        assert hall.come(uid, "", Stage.SERVED)
    assert hall.come(ANN + 9) is None
    assert hall.come(ROOT)


# -- requests ----------------------------------------------------------------------------------------------------------


HELD = []


def taken(places, caller, path="/v1/status", *, short=True, most=100):
    """How many places somebody gets, and keeps."""
    for number in range(most):
        place = places.take(caller, path, short=short)
        HELD.append(place)  # else it is free again
        try:
            place.__enter__()
        except RequestError:
            return number
    return most


def user(uid):
    return requests.Caller("", uid, Role.USER)


def test_streams_of_one_user_leave_places_for_others():
    places = Places(16)
    assert taken(places, user(ANN), short=False) == 12
    assert taken(places, user(BEN), short=False) == 4
    assert taken(places, user(BEN)) == SHORT


def test_root_and_pausing_get_a_place_whatever_is_taken():
    places = Places(8)
    for uid in range(ANN, ANN + 30):
        taken(places, user(uid), short=False)
        taken(places, user(uid))
    assert taken(places, user(BEN)) == 0
    assert taken(places, user(BEN), "/v1/listening") == URGENT
    assert taken(places, requests.Caller("root", ROOT, Role.ADMIN), "/v1/listening") == KEPT


def test_strangers_at_the_page_leave_half_of_it_to_those_who_are_paired():
    places = Places(12)
    assert taken(places, requests.Caller(), short=False) == 6
    paired = requests.Caller("root", 0, Role.USER, Session("i", "ann", "", "root", 0, 0, 1))
    assert taken(places, paired, short=False) == 6


def test_a_place_is_free_when_its_request_has_ended():
    places = Places(1)
    for _ in range(5):
        with places.take(user(ANN), "/", short=False):
            assert places.taken == 1
    assert places.taken == 0


# -- one answer for all ------------------------------------------------------------------------------------------------


@story
async def test_one_answer_serves_all_who_ask_meanwhile_and_for_a_moment_after():
    made, go = [], asyncio.Event()

    async def make():
        made.append(1)
        await go.wait()
        return len(made)

    shared = Shared(make, keep_s=60.0)
    asking = [asyncio.ensure_future(shared.get()) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # who began it and hangs up does not take it from the others
    go.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 49
    assert await shared.get() == 1


@story
async def test_a_failure_is_told_to_all_and_not_kept():
    answers = [ValueError("first"), 2]

    async def make():
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = Shared(make, keep_s=0.0)
    both = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [type(each) for each in both] == [ValueError, ValueError]
    assert await shared.get() == 2


# -- over the socket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@story
async def test_behind_a_proxy_half_open_connections_give_way_to_a_visitor(tmp_path, tls):
    """All come from one program; the handshake counts, too: who never speaks TLS costs a place and no more."""
    path = tmp_path / "page.sock"
    route = requests.Route(Role.OBSERVER, routes.ROUTES["/v1/status"]["GET"].answer)
    door = OpenDoor({"/": {"GET": route}})
    context = _server_side() if tls else None
    server = Server(
        FakeDaemon(), door, lambda: make_listener(path, "page"), max_clients=4, tls=context, proxied=True,
        limits=Limits(request_s=60.0),
    )  # fmt: skip
    await server.start()
    try:
        silent = [await asyncio.open_unix_connection(path) for _ in range(100)]
        for _ in range(5):
            assert await asyncio.wait_for(_visit(path, tls), 30)
        assert server.connected <= 2 * 4 + 16 + KEPT + 1
        ended = [reader.at_eof() or await _ends(reader) for reader, _ in silent[:50]]
        assert all(ended), "the oldest were cut off"
        for _, writer in silent:
            writer.close()
    finally:
        await server.stop()
    assert not server._known


async def _ends(reader):
    try:
        return await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionError:
        return True


def _server_side():
    from idiolect.control.page.server import context

    return context(certificate.make("test"))


async def _visit(path, tls):
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_unix_connection(path, ssl=context, server_hostname="x" if tls else None)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.startswith(b"HTTP/1.1 200 ")
