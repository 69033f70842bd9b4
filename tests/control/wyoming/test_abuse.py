"""Wyoming's bad guests: what each of them gets, and that the others do not notice."""

import asyncio
import gc
import json
import logging
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")

from wyoming.audio import AudioChunk
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.ping import Ping

from idiolect.control.limits import Bucket, Rate
from idiolect.control.wyoming import server as served
from idiolect.control.wyoming.connection import CONNECTIONS, EventError, Limits, Wire
from idiolect.control.wyoming.server import Refusals
from idiolect.listening.backlog import MOST, TURN
from idiolect.listening.pipeline.chain import Chain
from tests.control.wyoming.test_server import transcript
from tests.support import speech
from tests.support.wyoming_talk import client, hung_up, say, serving, story, streams, until, words

HASTY = Limits(event_s=0.3, idle_s=0.4, write_s=0.4, linger_s=0.3)
SECRET = "correct horse battery staple"  # noqa: S105 - what must not be quoted


def header(kind="audio-chunk", **fields):
    return json.dumps({"type": kind, **fields}).encode() + b"\n"


BROKEN = {
    "no JSON": (SECRET.encode() + b"\n", "header"),
    "no object": (b'["describe"]\n', "header"),
    "an empty line": (b"\n", "header"),
    "not UTF-8": (b'{"type":"\xff"}\n', "header"),
    "deep": (b'{"data":' + b"[" * 4000 + b"\n", "header"),
    "a long line": (b'{"type":"' + b"x" * 5000 + b'"}\n', "header"),
    "no end of line": (b"x" * 9000, "header"),
    "no type": (b"{}\n", "type"),
    "a type that is a number": (b'{"type":7}\n', "type"),
    "an endless type": (header("x" * 65), "type"),
    "data that are a list": (header(data=[1]), "data"),
    "data that are text": (header(data=SECRET), "data"),
    "99 GB": (header(payload_length=99_000_000_000), "payload_length"),
    "one byte too many": (header(payload_length=65_537), "payload_length"),
    "a negative payload": (header(payload_length=-1), "payload_length"),
    "a payload of 1.0": (header(payload_length=1.0), "payload_length"),
    "a payload of true": (header(payload_length=True), "payload_length"),
    "a payload of text": (header(payload_length="12"), "payload_length"),
    "much data": (header(data_length=16_385), "data_length"),
    "negative data": (header(data_length=-5), "data_length"),
    "deep data": (header(data_length=12_000) + b"[" * 12_000, "data"),
    "data that are no JSON": (header(data_length=4) + b"{{{{", "data"),
    "further data that are a list": (header(data_length=2) + b"[]", "data"),
    "names that are text": (header("detect", data={"names": "computer"}), "names"),
    "names that are numbers": (header("detect", data={"names": [1]}), "names"),
    "names without end": (header("detect", data={"names": ["x"] * 129}), "names"),
    "a language that is none": (header("transcribe", data={"language": 5}), "language"),
    "a long ping": (header("ping", data={"text": "x" * 1025}), "text"),
}


async def raw(folder, data):
    """Send bytes; all events until it hangs up."""
    it = client(folder)
    await it.connect()
    try:
        it._writer.write(data)
        return await hung_up(it)
    finally:
        await it.disconnect()


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_malformed_is_refused_by_the_name_of_the_field(tmp_path, caplog, what):
    data, code = BROKEN[what]

    async def scenario():
        async with serving(tmp_path), client(tmp_path) as other:
            (error,) = await raw(tmp_path, data)
            await other.write_event(Ping("still there").event())
            assert (await until(other, "pong"))[0].data["text"] == "still there"
            return error

    error = asyncio.run(scenario())
    assert (error.type, error.data["code"]) == ("error", code)
    assert SECRET not in error.data["text"]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert code in caplog.text
    assert SECRET not in caplog.text


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["type", "data", "data_length", "payload_length", "version"]),
        st.none()
        | st.booleans()
        | st.integers(-5, 100_000)
        | st.text(max_size=70)
        | st.dictionaries(st.text(), st.text()),
    ).map(lambda value: json.dumps(value).encode() + b"\n")
)
def test_whatever_comes_is_an_event_or_a_refusal_or_the_end(data):
    async def scenario():
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=8_192)
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            wire = Wire(reader, writer, HASTY)
            code = "header"
            try:
                while (event := await wire.read(1.0)) is not None:
                    assert isinstance(event.type, str)
                    assert isinstance(event.data, dict)
                    assert len(event.payload or b"") <= 65_536
            except EventError as error:
                code = error.code
            except ConnectionError:
                pass
            wire.abort()
            return code

    assert asyncio.run(scenario()) in ("header", "type", "data", "data_length", "payload_length")


@story
async def test_an_event_has_to_be_complete_in_time_and_who_says_nothing_goes(folder):
    async with serving(folder, limits=HASTY):
        for begun, code in ((b'{"type":', "time-out"), (header(payload_length=1000) + b"x" * 10, "time-out")):
            (error,) = await raw(folder, begun)
            assert error.data["code"] == code
        begun = time.monotonic()
        assert await raw(folder, b"") == []
        assert 0.3 < time.monotonic() - begun < 10


@story
async def test_half_an_event_and_the_end_is_no_ado(folder):
    async with serving(folder) as server:
        it = client(folder)
        await it.connect()
        it._writer.write(header(payload_length=1000) + b"x" * 10)
        await it.disconnect()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not server._clients:
                break
        assert not server._clients


@story
async def test_silence_for_ever_is_heard_without_growing(folder):
    ears = streams()
    async with serving(folder, ears), client(folder) as it:
        for n in range(40):
            await say(it, speech.silence(2.0, seed=n), start=n == 0, stop=False)
        # the gate has shut: of eighty seconds only the beginning was encoded
        assert ears.pool.switches <= 1
        await say(it, words(7), start=False)
        assert await it.read_event() == Event("not-detected")


@story
async def test_a_client_that_sends_faster_than_is_heard_waits_and_others_are_served(folder):
    ears, depths = streams(), []
    hour = np.concatenate([speech.sentences(10)] * 6)
    async with serving(folder, ears) as server, client(folder) as flood, client(folder) as it:

        async def watch():
            while True:
                depths.extend(one.backlog.pending for one in opened)
                await asyncio.sleep(0.001)

        opened, make = [], ears.open
        ears.open = lambda heard: opened.append(make(heard)) or opened[-1]
        watching = asyncio.create_task(watch())
        pouring = asyncio.create_task(say(flood, hour, size=16_000))
        await asyncio.sleep(0.05)
        assert (await transcript(it, words(7))).text == "seven"
        assert not pouring.done()  # somebody else was served in the midst of it
        await pouring
        assert (await until(flood, "not-detected"))[0]
        watching.cancel()
        assert len(server._clients) == 2
    assert TURN < max(depths) <= MOST


async def pester(it):
    """Ask, and never read an answer."""
    for _ in range(60):
        for _ in range(100):
            await it.write_event(Describe().event())
        await asyncio.sleep(0.05)


@story
async def test_who_never_reads_is_cut_off(folder):
    many = Rate(1.0, 100_000)
    at_once = replace(HASTY, describes=many, all_describes=many, all_events=many)
    async with serving(folder, limits=at_once) as server:
        it = client(folder)
        await it.connect()
        with pytest.raises(ConnectionError):
            await pester(it)
        assert not server._clients
        it._writer.transport.abort()
        async with client(folder) as other:
            await other.write_event(Describe().event())
            assert (await until(other, "info"))[0]


@story
async def test_a_flood_of_requests_leaves_others_their_turn(folder):
    async with serving(folder), client(folder) as it:
        floods = [client(folder) for _ in range(5)]
        for flood in floods:
            await flood.connect()
            flood._writer.write(header("describe") * 2000)
        took = []
        for _ in range(5):
            begun = time.monotonic()
            await it.write_event(Ping().event())
            await until(it, "pong")
            took.append(time.monotonic() - begun)
        assert sorted(took)[2] < 1.0, took
        for flood in floods:
            flood._writer.transport.abort()


# -- connections ------------------------------------------------------------------------------------------------------


def test_a_storm_of_connections_is_let_in_slowly():
    now = 100.0
    bucket = Bucket(CONNECTIONS, lambda: now)
    assert sum(not bucket.take() for _ in range(1000)) == CONNECTIONS.burst
    now += 0.5
    assert sum(not bucket.take() for _ in range(1000)) == CONNECTIONS.per_s / 2
    now += 1000.0
    assert sum(not bucket.take() for _ in range(1000)) == CONNECTIONS.burst


@story
async def test_after_a_storm_it_serves_as_before(folder):
    async with serving(folder) as server, client(folder) as stayed:
        await stayed.write_event(Ping().event())
        await until(stayed, "pong")
        for _ in range(300):
            _, writer = await asyncio.open_unix_connection(folder / "wyoming.sock")
            writer.transport.abort()
        await asyncio.sleep(0.1)
        assert len(server._clients) <= 32
        await stayed.write_event(Ping("still").event())
        assert (await until(stayed, "pong"))[0].data["text"] == "still"
        await asyncio.sleep(20 / CONNECTIONS.per_s)
        async with client(folder) as it:
            await it.write_event(Describe().event())
            await until(it, "info")


def test_the_journal_hears_of_refusals_once_a_minute_with_their_number(caplog):
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(50):
        refusals.note("header")
    now = 61.0
    refusals.note("type")
    refusals.note("type")
    assert [r.getMessage() for r in caplog.records] == [
        "wyoming: 1 times refused or cut off, the last time for: header",
        "wyoming: 50 times refused or cut off, the last time for: type",
    ]


def test_a_bug_ends_one_connection_and_its_text_is_in_no_log(tmp_path, caplog, monkeypatch):
    async def scenario():
        async with serving(tmp_path), client(tmp_path) as it, client(tmp_path) as other:
            await it.write_event(Describe().event())
            assert await hung_up(it) == []
            await other.write_event(Ping().event())
            await until(other, "pong")

    def broken(_):
        raise ValueError(SECRET)

    monkeypatch.setattr(served, "info", broken)
    asyncio.run(scenario())
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "wyoming: a connection failed: ValueError"
    ]
    assert SECRET not in caplog.text


def test_a_bug_in_the_ears_ends_one_connection(tmp_path, caplog, sounds):
    async def scenario():
        ears = streams()
        async with serving(tmp_path, ears), client(tmp_path) as it:
            ears.wish = None
            await it.write_event(AudioChunk(16_000, 2, 1, bytes(2560)).event())
            await asyncio.sleep(0.2)
            await it.write_event(AudioChunk(16_000, 2, 1, bytes(2560)).event())
            assert await hung_up(it) == []

    asyncio.run(scenario())
    assert "wyoming: a connection failed: AttributeError" in caplog.text


@story
async def test_who_hangs_up_in_mid_word_leaves_no_chain_behind(folder):
    """Not even until Python looks for circles, which may be hours: each is a third of a MiB."""

    def chains():
        return sum(isinstance(each, Chain) for each in gc.get_objects())

    gc.collect()
    before = chains()
    gc.disable()
    try:
        async with serving(folder) as server:
            for n in range(10):
                async with client(folder) as it:
                    await say(it, words(n), stop=False)
            for _ in range(400):
                await asyncio.sleep(0.01)
                if not server._clients:
                    break
            await asyncio.sleep(0.2)
            assert chains() == before
    finally:
        gc.enable()


@story
async def test_stopping_takes_no_time_whatever_clients_do(folder):
    async with serving(folder) as server:
        clients = [client(folder) for _ in range(10)]
        for n, it in enumerate(clients):
            await it.connect()
            await say(it, words(7), stop=False) if n % 2 else it._writer.write(b'{"type"')
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        await server.stop()
        assert time.monotonic() - begun < 5.0  # and not until they have said all, which takes longer
        await server.stop()
        assert not (folder / "wyoming.sock").exists()
        for it in clients:
            it._writer.transport.abort()
