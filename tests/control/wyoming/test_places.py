"""A share for everybody at the Wyoming socket: who gets a place when there are more connections than places."""

import asyncio
import socket
from collections import Counter

import pytest

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from wyoming.info import Describe
from wyoming.ping import Ping
from wyoming.wake import Detect

from idiolect.control.limits import Rate
from idiolect.control.serving import Acceptor
from idiolect.control.sockets import make_listener
from idiolect.control.wyoming.connection import CONNECTIONS, Limits
from idiolect.control.wyoming.guests import GRACE_S, KEPT, KEPT_EACH, STALLED_S, Places, Reserve
from idiolect.events import EventStream
from tests.support import speech
from tests.support.wyoming_talk import client, hung_up, idle, leave, say, serving, spoken, story, until


async def is_served(folder):
    async with client(folder) as it:
        await it.write_event(Describe().event())
        await until(it, "info")
        await say(it, spoken("computer"))
        return (await until(it, "detection"))[0].data["name"] == "computer"


@pytest.mark.parametrize("say_something", [False, True])
def test_hundreds_of_idle_connections_keep_nobody_out(say_something, tmp_path, sounds):
    async def scenario():
        async with serving(tmp_path, max_clients=8) as server:
            stranger = await idle(tmp_path, 200, say_something=say_something)
            for _ in range(5):
                assert await is_served(tmp_path)
                stranger += await idle(tmp_path, 20, say_something=say_something)
            assert server.connected <= 8 + KEPT
            (error,) = [event for event in await hung_up(stranger[0]) if event.type == "error"]
            assert error.data["code"] == "too-many-clients"
            leave(stranger)

    asyncio.run(asyncio.wait_for(scenario(), 100))


@story
async def test_connections_opened_without_pause_keep_nobody_out(folder):
    async with serving(folder) as server:
        over, opened = False, 0

        async def storm():
            nonlocal opened
            kept = []
            while not over:
                kept += await idle(folder, 1)
                opened += 1
                await asyncio.sleep(1 / 150)
            leave(kept)

        storming = asyncio.ensure_future(storm())
        served = []
        while len(served) < 10 or opened <= 50:
            served.append(await is_served(folder))
        over = True
        await storming
        assert all(served)
        assert server.connected <= 32 + KEPT + 1


@story
async def test_new_connections_are_taken_few_at_a_time_and_the_kernel_holds_the_others(folder):
    taken, rounds = [], 0
    acceptor = Acceptor(lambda: make_listener(folder / "some.sock", "wyoming"), lambda *_: taken.append(rounds))
    await acceptor.start()
    waiting = []
    for _ in range(100):  # the loop does not run meanwhile
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(str(folder / "some.sock"))
        waiting.append(sock)
    while len(taken) < 100:
        rounds += 1
        await asyncio.sleep(0)
    assert max(Counter(taken).values()) <= 8
    for sock in waiting:
        sock.close()
    await acceptor.stop()


@story
async def test_who_sends_sound_or_waits_for_the_microphone_keeps_its_place(folder):
    hub = EventStream()
    async with serving(folder, hub=hub, microphone=True, max_clients=8), client(folder) as it, client(folder) as waits:
        await waits.write_event(Detect().event())
        await say(it, speech.silence(0.5), stop=False)
        await it.write_event(Ping().event())
        await until(it, "pong")
        stranger = await idle(folder, 100)
        assert hub.subscribers == 1
        await say(it, spoken("computer"), start=False)
        assert (await until(it, "detection"))[0].data["name"] == "computer"
        await waits.write_event(Ping().event())
        await until(waits, "pong")
        leave(stranger)


@story
async def test_who_waits_for_the_microphone_leaves_places_for_others(folder):
    """And who asks and then sends sound of its own is heard, however many wait."""
    async with serving(folder, microphone=True, max_clients=8, limits=Limits(sound_s=0.5)) as server:
        waiting = await idle(folder, 8)
        for it in waiting:
            await it.write_event(Detect().event())
        left = [asyncio.ensure_future(hung_up(it)) for it in waiting]
        async with client(folder) as it:
            await it.write_event(Detect(names=["computer"]).event())
            await say(it, spoken("computer"), stop=False)
            assert (await until(it, "detection"))[0].data["name"] == "computer"
        while sum(each.done() for each in left) < 2:
            await asyncio.sleep(0.01)
        assert sum(guest.following for guest in server.places._guests) == 6
        for each in left:
            if each.done():
                assert [event.data["code"] for event in each.result()] == ["too-many-clients"]
            each.cancel()
        leave(waiting)


class Time:
    """A clock that is set."""

    now = 100.0

    def __call__(self):
        return self.now


def places(most=8):
    clock = Time()
    return Places(most, Limits(), clock), clock


def entered(where, uid, count, gone):
    """So many connections of ``uid``; the ones that have to go note themselves in ``gone``."""
    guests = []
    for _ in range(count):
        guest = where.enter(uid)
        if guest is not None:
            guest.go = lambda guest=guest: gone.append(guest)
            guests.append(guest)
        where.clock.now += 0.01
    return guests


def test_a_uid_that_holds_all_places_leaves_some_to_others_and_to_root():
    where, _ = places()
    gone = []
    greedy = entered(where, 7, 100, gone)
    assert len(gone) == 92
    for guest in greedy:
        guest.following = True
    assert where.enter(7) is None
    assert len(entered(where, 8, 10, gone)) >= KEPT_EACH
    for guest in where._guests:
        guest.following = True
    entered(where, 9, 10, gone)
    for guest in where._guests:
        guest.following = True
    assert where.enter(10) is None
    assert where.enter(0) is not None


def test_nobody_goes_for_a_uid_that_holds_more():
    where, _ = places()
    gone = []
    (few,) = entered(where, 8, 1, gone)
    for guest in entered(where, 7, 7, gone):
        guest.following = True
    assert where.enter(7) is None
    assert gone == []
    assert few in where._guests


def test_who_has_said_nothing_goes_before_who_has_and_then_the_oldest():
    where, clock = places(3)
    gone = []
    spoke, silent, young = entered(where, 7, 3, gone)
    spoke.spoke = True
    clock.now += GRACE_S
    young.since = clock.now
    entered(where, 7, 1, gone)
    assert gone == [silent]
    entered(where, 7, 1, gone)
    assert gone == [silent, spoke]


def test_sound_keeps_a_place_while_it_comes_and_pretence_does_not():
    where, clock = places(1)
    (guest,) = entered(where, 7, 1, gone := [])
    guest.announces(clock.now)
    for _ in range(100):
        clock.now += 0.064
        guest.sends(0.064, clock.now)
        assert where.enter(7) is None
    for _ in range(100):  # a sample now and then is no sound
        clock.now += 1.0
        guest.sends(1 / 16_000, clock.now)
    clock.now += 0.1
    assert not guest.busy(clock.now)
    assert where.enter(7) is not None
    assert gone == [guest]
    guest.sends(3_600.0, clock.now)
    assert not guest.busy(clock.now + STALLED_S)


def test_new_connections_are_counted_for_each_uid():
    where, clock = places()
    assert sum(where.knock(7) for _ in range(1_000)) == CONNECTIONS.burst
    assert where.knock(8)
    clock.now += 0.5
    assert sum(where.knock(7) for _ in range(1_000)) == CONNECTIONS.per_s / 2
    for uid in range(1_000, 2_000):
        where.knock(uid)
    assert len(where._uids) <= 16


def test_what_is_owed_has_an_end():
    """Connections that asked and hung up are not waited for by those who come after them."""
    now = 0.0
    reserve = Reserve(Rate(40.0, 40), lambda: now)
    for _ in range(100_000):
        reserve.take()
    assert reserve.take() <= 1.0
