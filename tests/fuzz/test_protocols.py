"""Conversations with the real servers: any bytes, in any pieces; and a whole daemon asked in any order.

The positive controls: a server that talks without end, keeps a connection, loses a task or answers with a bug.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time

import jsonschema
import pytest

pytest.importorskip("wyoming", reason="pip install '.[wyoming]'")
pytest.importorskip("jeepney", reason="pip install '.[logind]'")

from idiolect.control.http import Pieces
from tests.fuzz import anyorder, kept, web
from tests.fuzz.engine import MARK, Target, Watch
from tests.fuzz.mutate import Mutator
from tests.fuzz.stage import Loop, closed, converse, loop, pieces, play, settled
from tests.fuzz.targets import TARGETS
from tests.support.fake_daemon import FakeDaemon, running
from tests.support.whole import whole

COUNTS = {
    "control": 120, "page": 80, "wyoming": 80, "wyoming-talk": 60, "wyoming-ears": 10, "handoff": 30, "bus": 60,
    "client": 60, "client-stream": 60, "worker-child": 10, "worker-confined": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tidy():
    with closed():
        yield


@pytest.mark.parametrize("name", COUNTS)
def test_whatever_is_said_is_answered_or_refused(name):
    target = TARGETS[name]
    inputs = Mutator(target.goods(), target.tokens, 3)
    with Watch(target) as watch:
        goods = target.goods()[1 if name == "worker-confined" else 0 :][:20]  # a whole round is for test_worker
        for data in (*goods, *(inputs.next() for _ in range(COUNTS[name]))):
            found = watch.feed(data)
            assert found is None, (found.kind, found.where, found.detail)


ONE_SURROGATE = b'{"type": "ping", "data": {"text": "\\ud800' + MARK.encode() + b'"}}\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wyoming", b"\0" + ONE_SURROGATE),
        ("handoff", b"\0" + ONE_SURROGATE),
        ("client", b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 6000),
        ("client-stream", b"HTTP/1.1 200 OK\r\n\r\ndata: " + b"[" * 6000 + b"\n\n"),
    ],
)
def test_what_the_first_million_found_stays_mended(name, data):
    with Watch(TARGETS[name]) as watch:
        assert watch.feed(data) is None


def answered(signature, body=b""):
    """The bus's answer to Hello, with a body of that signature, little-endian."""
    fields = b"\5\1u\0\1\0\0\0" + b"\7\1s\0\x14\0\0\0org.freedesktop.DBus\0" + bytes(3)
    fields += b"\x08\1g\0" + bytes([len(signature)]) + signature + b"\0"
    head = b"l\2\0\1" + len(body).to_bytes(4, "little") + b"\1\0\0\0" + len(fields).to_bytes(4, "little") + fields
    return b"\0" + head + bytes(-len(head) % 8) + body


@pytest.mark.parametrize(
    "data",
    [
        answered(b"a()", b"\4\0\0\0" + bytes(12)),  # of structures of nothing there is no end
        answered(b"a{}", b"\4\0\0\0" + bytes(12)),
        answered(b"s", b"\2\0\0\0ab!"),  # text without its end
    ],
)
def test_a_bus_that_talks_nonsense_is_watched_on(data):
    with Watch(TARGETS["bus"]) as watch:
        found = watch.feed(data)
        assert found is None, (found.where, found.detail)


@pytest.mark.parametrize("owner", [(5,), ("no name",), (":1." + "9" * 200,)])
def test_an_owner_without_a_name_is_nobody(owner):
    import jeepney

    def reply(serial, *body):
        call = jeepney.new_method_call(jeepney.DBusAddress("/x", "a.b", "a.b"), "y")
        call.header.serial = serial
        made = jeepney.new_method_return(call, {str: "s", int: "u"}[type(body[0])] if body else None, body)
        made.header.fields[jeepney.HeaderFields.sender] = "org.freedesktop.DBus"
        return bytes(made.serialise(serial + 100))

    with Watch(TARGETS["bus"]) as watch:
        said = reply(1, ":1.9") + b"".join(reply(n) for n in (2, 3, 4)) + reply(5, *owner)
        found = watch.feed(b"\0" + said)
        assert found is None, (found.where, found.detail)


# -- positive controls -------------------------------------------------------------------------------------------------


def reported(scenario, tasks=()):
    """What the engine says of a conversation."""
    with Watch(Target(lambda _: play(scenario()), list)) as watch:
        found = watch.feed(MARK.encode())
    for task in asyncio.all_tasks(loop()):
        task.cancel()
    loop().run_until_complete(asyncio.sleep(0))
    for task in tasks:
        task.cancelled() or task.exception()  # or asyncio says so when it is forgotten
    return f"{found.kind}: {found.where} {found.detail}" if found else ""


class Server:
    """Serves connections with ``serve``, as the real ones do."""

    def __init__(self, serve):
        self.serve, self.connected, self.tasks = serve, 0, []

    def accept(self, reader, writer):
        self.connected += 1

        async def serving():
            await self.serve(reader, writer)
            self.connected -= 1

        self.tasks.append(asyncio.ensure_future(serving()))

    async def met(self, data=b"\0GET"):
        await converse(lambda: Pieces(self.accept), data)
        await settled(lambda: self.connected)


async def polite(reader, writer):
    while await reader.read(100):
        pass
    writer.close()


async def endless(reader, writer):
    while True:
        writer.write(bytes(60_000))
        await writer.drain()


async def deaf(reader, writer):
    while True:
        await asyncio.sleep(1e4)


async def lingering(reader, writer):
    writer.close()
    await asyncio.sleep(1e4)


async def forgetful(reader, writer):
    kept_alive.append(asyncio.ensure_future(asyncio.sleep(1e4)))
    await polite(reader, writer)


async def indiscreet(reader, writer):
    logging.getLogger("idiolect.of.tests").info("got %r", await reader.read(100))
    await polite(reader, writer)


async def broken(reader, writer):
    writer.close()
    raise ValueError("nobody waits for this")


kept_alive = []


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (endless, "it talks without end"),
        (deaf, "TimeoutError"),
        (lingering, "a connection is served for ever"),
        (forgetful, "1 tasks are left"),
        (indiscreet, "log: its input in a log"),
        (broken, "a connection is served for ever"),
        (polite, ""),
    ],
)
def test_a_bad_server_is_reported(serve, said):
    server = Server(serve)
    heard = reported(lambda: server.met(b"\0" + MARK.encode()), server.tasks)
    assert said in heard
    assert bool(said) == bool(heard), heard


def test_a_bug_behind_the_server_is_reported(monkeypatch):
    server = web._control()
    monkeypatch.setattr(server._daemon, "broken", True)
    heard = reported(lambda: web._http(server, b"\0GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert heard.startswith("crash: AssertionError")
    assert "or of a bug" in heard


def test_time_passes_only_where_nobody_has_anything_to_do():
    own = Loop()
    began = time.monotonic()
    before = own.time()
    try:
        own.run_until_complete(asyncio.sleep(3600.0))
        assert own.time() - before >= 3600.0
        assert own.run_until_complete(own.run_in_executor(None, lambda: time.sleep(0.1) or 7)) == 7
        with pytest.raises(AssertionError, match="everybody waits"):
            own.run_until_complete(asyncio.Event().wait())
        assert time.monotonic() - began < 60
    finally:
        own.close()


def test_an_input_is_sent_in_pieces_and_whole():
    for mode in range(256):
        parts, leaving = pieces(bytes([mode]) + b"x" * 500)
        assert b"".join(parts) == b"x" * 500
        assert 1 <= len(parts) <= 500
        assert leaving == mode >> 6
    assert len(pieces(b"\1" + b"x" * 60)[0]) == 60
    assert pieces(b"") == ([], 0)


# -- a whole daemon ----------------------------------------------------------------------------------------------------


def test_a_daemon_is_asked_in_any_order(tmp_path):
    asked = []
    with anyorder.Overheard() as overheard, whole(tmp_path, people=anyorder.PEOPLE) as home:
        anyorder.play(home, overheard, 8, lambda: asked.append(1))
        assert home.client.status()["listening"]
    assert len(asked) > 50
    assert overheard.faults == []


def test_half_a_character_is_refused_wherever_it_is(tmp_path):
    with anyorder.Overheard() as overheard, whole(tmp_path, people=anyorder.PEOPLE) as home:
        home.agree(MARK, "enrol")
        half = "\ud800" * 9
        for path, body in (
            ("/v1/export", {"profile": MARK, "passphrase": half}),
            ("/v1/enrol", {"profile": MARK, "phrase": half}),
            ("/v1/consent", {"name": half, "purposes": ["enrol"]}),
            ("/v1/import", {"profile": MARK, "document": {"schema": half}, "passphrase": half}),
        ):
            assert anyorder.ask(home, "POST", path, body)[0] == 400
        copy = json.loads(kept.good_copies()[0])
        copy["examples"][0]["phrase"] = "\U0001f600 both halves"
        assert anyorder.ask(home, "POST", "/v1/import", {"profile": MARK, "document": copy})[0] == 200
        sealed = kept._sealed(json.dumps(copy | {"examples": [copy["examples"][0] | {"heard": half}]}).encode())
        body = {"profile": MARK, "document": sealed, "passphrase": kept.PASSPHRASE}
        assert anyorder.ask(home, "POST", "/v1/import", body)[0] == 422
    assert overheard.faults == []


class Wrong(FakeDaemon):
    """Answers what the description does not have."""

    async def devices(self):
        return [{"name": 5}]


class At:
    def __init__(self, path):
        self.socket = path


def test_an_answer_that_is_not_as_described_is_reported(tmp_path):
    with running(tmp_path / "control.sock", Wrong()) as run:
        with pytest.raises(jsonschema.ValidationError):
            anyorder.ask(At(run.path), "GET", "/v1/devices")
        assert anyorder.ask(At(run.path), "GET", "/v1/learn")[0] == 200
    with running(tmp_path / "control.sock", FakeDaemon(broken=True)) as run, pytest.raises(AssertionError, match="500"):
        anyorder.ask(At(run.path), "GET", "/v1/status")


@pytest.mark.parametrize(
    ("level", "text", "fault"),
    [
        (logging.INFO, f"somebody said {MARK.upper()}", "own words"),
        (logging.ERROR, "it failed", "an error"),
        (logging.WARNING, "refused", ""),
    ],
)
def test_what_is_overheard(level, text, fault):
    with anyorder.Overheard() as overheard:
        logging.getLogger("idiolect.of.tests").log(level, "%s", text)
    assert len(overheard.faults) == bool(fault)
    assert fault in "".join(overheard.faults)
