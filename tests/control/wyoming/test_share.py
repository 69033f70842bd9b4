"""A share for everybody at the Wyoming socket: what one client may have waiting, how long its turns are, how often it
may ask. Counted in queued jobs, blocks and turns, never in seconds.
"""

import asyncio
import fcntl
import json
import socket
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from wyoming.ping import Ping
from wyoming.wake import Detect

from idiolect.control.limits import Rate
from idiolect.control.wyoming.connection import Limits
from idiolect.control.wyoming.server import SEND_BYTES
from idiolect.listening.backlog import LEAST, MOST, TURN, Backlog, Job, Piece, Turns
from idiolect.listening.pipeline.encoder_pool import REPLAYED
from idiolect.listening.sound import Sound
from tests.support.wyoming_talk import client, idle, leave, say, serving, spoken, story, streams, until

LOUD = (np.random.default_rng(3).standard_normal(32_000) * 3_000).astype("<i2").tobytes()
USUAL = {"rate": 16_000, "width": 2, "channels": 1}
FORMATS = (Sound(16_000, 2, 1), Sound(8_000, 1, 1), Sound(192_000, 4, 8))


# -- work has a price -------------------------------------------------------------------------------------------------


async def starts(stream, number):
    await stream.start(FORMATS[number % 3])


async def detects(stream, number):
    await stream.detect(None if number % 2 else ["computer"])


async def transcribes(stream, number):
    await stream.transcribe()


async def changes(stream, number):
    await (stream.transcribe() if number % 2 else stream.detect(None))
    await stream.start(FORMATS[number % 3])


async def empty(stream, number):
    await stream.feed(b"", number)


async def one_sample(stream, number):
    await stream.feed(b"xx", number)


async def samples_and_starts(stream, number):
    await stream.start(FORMATS[0])
    await stream.feed(b"xx", None)


async def samples_and_wishes(stream, number):
    await stream.detect(None)
    await stream.feed(b"xx", None)


async def longest(stream, number):
    await stream.feed((LOUD * 2)[:65_536], None)


FLOODS = (starts, detects, transcribes, changes, empty, one_sample, samples_and_starts, samples_and_wishes, longest)


class Held:
    """The thread of some ears, which does nothing until it is let go."""

    def __init__(self, ears):
        self._go = threading.Event()
        ears.worker.submit(self._go.wait)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._go.set()


async def nobody(_):
    """Is told what was heard."""


async def poured(stream, flood, count=3_000):
    """Have a client do it so often; how often it got, before it had to wait."""
    done = 0

    async def pour():
        nonlocal done
        await stream.start(FORMATS[0])
        for number in range(count):
            await flood(stream, number)
            done += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(pour())
    for _ in range(6 * count):
        await asyncio.sleep(0)
    return done, task


@pytest.mark.parametrize("flood", FLOODS)
def test_whatever_a_client_sends_its_backlog_is_bounded(flood, sounds):
    async def scenario():
        ears = streams()
        stream = ears.open(nobody)
        with Held(ears):
            done, task = await poured(stream, flood)
            waiting = len(stream.backlog._todo) + len(stream.backlog._begun)
            assert done == 3_000 or task.done() is False
            assert waiting <= 256
            assert stream.backlog.pending <= MOST
            task.cancel()
        stream.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("flood", FLOODS)
def test_a_backlog_delays_another_client_by_one_turn(flood, sounds):
    """Counted in blocks that went through an encoder, those that were replayed included."""

    async def scenario():
        ears = streams(always_on=["seven"])
        first, other = ears.open(nobody), ears.open(nobody)
        with Held(ears):
            _, task = await poured(first, flood)
            before, at = ears.pool.steps, []
            ears.worker.submit(lambda: at.append(ears.pool.steps))  # the next in line
            await other.start(FORMATS[0])
            await asyncio.sleep(0)
        while not at:
            await asyncio.sleep(0.001)
        await other.backlog.drained()
        task.cancel()
        first.close()
        other.close()
        assert at[0] - before <= 17 + REPLAYED  # a turn, and its last piece

    asyncio.run(scenario())


def test_everything_costs_at_least_something_and_a_turn_ends():
    """Jobs that call themselves free, and jobs that cost more than they say."""

    async def turns(price, steps):
        counted, turned = 0, []

        def pieces():
            nonlocal counted
            counted += steps
            yield Piece(price)

        worker = ThreadPoolExecutor(1)
        backlog = Backlog(Turns(worker, lambda: counted), nobody)
        turn = backlog._turn

        def watched():
            done = turn()
            turned.append(done[1][0])
            return done

        backlog._turn = watched
        for _ in range(200):
            await backlog.put(Job(price, pieces))
        await backlog.drained()
        assert sum(turned) == 200 * LEAST
        return len(turned)

    assert asyncio.run(turns(0, 0)) >= 200 * LEAST // TURN
    assert asyncio.run(turns(0, TURN)) >= 200


@pytest.mark.parametrize("flood", [longest, one_sample, samples_and_starts])
def test_who_speaks_in_real_time_is_next_however_many_have_sent_too_much(flood, sounds):
    """Counted in turns of others between a chunk's coming and its being heard."""
    asyncio.run(asyncio.wait_for(in_real_time(flood), 100))


async def in_real_time(what):
    ears, ended = streams(), []
    run = ears.turns.run

    async def watched(used, turn):
        made = await run(used, turn)
        ended.append(turn.__self__)
        return made

    ears.turns.run = watched
    floods = [ears.open(nobody) for _ in range(16)]
    pouring = [asyncio.ensure_future(poured(flood, what)) for flood in floods]
    one = ears.open(nobody)
    await one.start(FORMATS[0])
    await one.backlog.drained()
    waited = []
    for first in range(0, 12 * 2_048, 2_048):
        before = len(ended)
        while len(ended) < before + 20:  # sound comes more slowly than its share could be heard
            await asyncio.sleep(0.001)
        begun = len(ended)
        await one.feed(LOUD[first : first + 2_048], None)
        await one.backlog.drained()
        waited.append(ended[begun:].index(one.backlog))
    for task in pouring:
        task.cancel()
    for each in (one, *floods):
        each.close()
    # One after another it would be sixteen each. A turn or two more pass where the loop is busy with something else.
    assert sorted(waited)[len(waited) // 2] <= 6
    assert sum(waited) <= 8 * len(waited)


@story
async def test_who_comes_again_and_again_is_not_always_next(folder):
    ears, used = streams(), []
    one = ears.open(nobody)
    await one.start(FORMATS[0])
    await one.backlog.drained()
    for _ in range(5):
        again = ears.open(nobody)
        used.append(again.backlog._used)
        await again.start(FORMATS[0])
        await again.backlog.drained()
        again.close()
    assert used == sorted(set(used))
    assert one.backlog._used <= used[0]
    one.close()


@story
async def test_what_is_set_twice_before_its_turn_is_done_once_and_the_last_counts(folder):
    ears, heard = streams(), []

    async def hear(each):
        heard.append(each.known.name)

    stream = ears.open(hear)
    with Held(ears):
        await stream.detect(["jarvis"])
        for _ in range(50):
            await stream.start(FORMATS[1])
            await stream.detect(["alexa"])
            await stream.start(FORMATS[0])
            await stream.detect(["computer"])
        await asyncio.sleep(0)
        assert len(stream.backlog._todo) + len(stream.backlog._begun) <= 4
        await stream.feed(spoken("computer").astype("<i2").tobytes(), None)
    await stream.finish()
    assert heard == ["computer"]
    stream.close()


KINDS = ("audio-start", "detect", "transcribe", "audio-stop", "audio-chunk", "describe", "ping")


@story
async def test_another_clients_word_is_found_while_many_do_all_of_that(folder):
    async def flood(number):
        it = client(folder)
        await it.connect()
        try:
            while True:
                it._writer.write(wire_bytes(KINDS[number % 7]))
                it._writer.write(wire_bytes("audio-chunk", b"xx") if number % 2 else wire_bytes("audio-start"))
                await it._writer.drain()
        finally:
            it._writer.transport.abort()

    async with serving(folder):
        floods = [asyncio.ensure_future(flood(number)) for number in range(14)]
        await asyncio.sleep(0.3)
        async with client(folder) as it:
            await it.write_event(Detect(names=["computer"]).event())
            await say(it, spoken("computer"), stop=False)
            event = await asyncio.wait_for(it.read_event(), 50)
            assert event.data["name"] == "computer"
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)


def wire_bytes(kind, payload=None):
    head = {"type": kind, "data": USUAL} | ({"payload_length": len(payload)} if payload else {})
    return json.dumps(head).encode() + b"\n" + (payload or b"")


# -- how often --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ping", "describe", "unheard-of", "detect", "audio-stop", "audio-chunk"])
def test_who_asks_faster_than_it_may_is_read_no_further(kind, tmp_path, sounds):
    slow = Rate(0.001, 5)
    limits = Limits(events=slow, describes=slow, chunks=slow)

    async def scenario():
        taken = []
        async with serving(tmp_path, limits=limits), client(tmp_path) as it, client(tmp_path) as other:
            read = Counting(taken)
            it._writer.write(wire_bytes(kind) * 60)
            await read.still()
            assert taken.count(kind) == 6  # the burst, and the one whose price is waited for
            await other.write_event(Ping("well").event())
            assert (await until(other, "pong"))[0].data["text"] == "well"

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize(("kind", "share"), [("ping", "all_events"), ("describe", "all_describes")])
def test_who_comes_again_and_again_has_no_new_reserve_each_time(kind, share, tmp_path, sounds):
    async def scenario():
        taken = []
        async with serving(tmp_path, limits=Limits(**{share: Rate(0.001, 12)})):
            read = Counting(taken)
            stranger = await idle(tmp_path, 20)
            for it in stranger:
                it._writer.write(wire_bytes(kind) * 3)
            await read.still()
            leave(stranger)
            assert taken.count(kind) == 12 + 20  # the reserve, and one of each connection whose price is waited for

    asyncio.run(asyncio.wait_for(scenario(), 60))


class Counting:
    """Notes the type of each event that clients send and a server takes."""

    def __init__(self, taken):
        from idiolect.control.wyoming import server as wyoming

        answer = wyoming.Client._answer_one
        self.taken = taken

        async def noted(one):
            kind = await answer(one)
            taken.append(kind)
            return kind

        server_clients = wyoming.Client
        self._undo = lambda: setattr(server_clients, "_answer_one", answer)
        server_clients._answer_one = noted

    async def still(self):
        """Wait until nothing more is taken, and undo."""
        before = -1
        while before != len(self.taken):
            before = len(self.taken)
            await asyncio.sleep(0.3)
        self._undo()


@story
async def test_answers_that_nobody_reads_are_few(folder):
    """Of thousands that were asked for: what lies in the kernel, and one more."""
    many = Rate(1.0, 100_000)
    limits = Limits(describes=many, all_describes=many, all_events=many, write_s=30.0)
    async with serving(folder, limits=limits):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(str(folder / "wyoming.sock"))
        raw.setblocking(False)
        rest = wire_bytes("describe") * 20_000
        for _ in range(200):
            with suppress(BlockingIOError):
                rest = rest[raw.send(rest) :]
            await asyncio.sleep(0.005)
        unread = fcntl.ioctl(raw.fileno(), termios.FIONREAD, bytes(4))
        assert int.from_bytes(unread, sys.byteorder) <= 2 * SEND_BYTES
        assert len(rest) > 1_000  # it is read no further than it is answered
        raw.close()
