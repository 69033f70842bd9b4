"""HTTP as strangers speak it to the control socket: what h11 would let pass, and any bytes at all."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import traceback
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idiolect.control.http import Wire
from idiolect.control.server import Limits
from idiolect.errors import RequestError
from tests.support.fake_daemon import FakeDaemon, read_answer, running, wait_for

GET = b"GET /v1/status HTTP/1.1\r\n"
POST = b"POST /v1/listening HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PAUSE = b'{"active": false}'
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def everything(sock: socket.socket) -> bytes:
    got = b""
    with suppress(ConnectionError):
        while piece := sock.recv(65_536):
            got += piece
    return got


def sent_with(run, head: bytes) -> tuple[int, str]:
    status, answer = run.send(head)
    return status, answer.get("error", {}).get("field", "")


# -- the head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/status HTTP/1.1\nHost: x\n\n",
        GET + b"Host: x\nA: b\r\n\r\n",
        GET + b"Host: x\rA: b\r\n\r\n",
        GET + b"Host: x\r\nA: b\r\n c\r\n\r\n",
        GET + b" Host: x\r\n\r\n",
        GET + b"Host: x\r\nA: b\x01\r\n\r\n",
        GET + b"Host: x\r\nA: b\x00\r\n\r\n",
        GET + b"Host: x\r\nA: b\x7f\r\n\r\n",
        GET + b"Host : x\r\n\r\n",
        GET + b"Host: x\r\n: b\r\n\r\n",
        GET + b"Host: x\r\nb\r\n\r\n",
        GET + b"\r\n",
        GET + b"Host: x\r\nHost: y\r\n\r\n",
        GET + b"Host: x\r\nLast-Event-ID: a\r\nlast-event-id: b\r\n\r\n",
        GET + b"Host: x\r\n" + b"A: b\r\n" * 100 + b"\r\n",
        GET + b"Host: x\r\n" + (b"A: " + b"b" * 4_000 + b"\r\n") * 5 + b"\r\n",
        b"GET /v1/status\r\n\r\n",
        b"GET /v1/status HTTP/0.9\r\n\r\n",
        b"GET /v1/status HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /v1/status HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET  /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET\t/v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G(T /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02",  # the start of TLS, without any line
        b"hello\r\n",  # a wrong first line, and nothing more
    ],
)
def test_heads_that_could_be_read_in_two_ways(run, head):
    assert sent_with(run, head) == (400, "request")


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n" + GET + b"Host: x\r\n\r\n",
        GET + b"host:x\r\n\r\n",
        GET + b"Host: x\r\nA: b\tc\r\nB: \xff\xfe\r\nC:\r\n\r\n",
        GET + b"Host: x\r\n" + b"A: b\r\n" * 99 + b"\r\n",
        GET + b"Host: x\r\nA: " + b"b" * 8_187 + b"\r\n\r\n",
        b"GET /v1/status HTTP/1.0\r\n\r\n",
        b"GET http://localhost/v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/%73tatus? HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"Host: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        GET + b"Host: x\r\nContent-Length: 17\r\n\r\n" + PAUSE,
    ],
)
def test_heads_that_are_odd_and_right(run, head):
    assert sent_with(run, head) == (200, "")


def test_a_head_in_single_bytes(run):
    with run.connect() as sock:
        for byte in b"\r\n" + GET + b"Host: x\r\nA: b\r\n\r\n":
            sock.sendall(bytes((byte,)))
        assert read_answer(sock)[0] == 200


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"v1/status", (400, "path")),
        (b"x:1", (400, "path")),
        (b"http:///v1/status", (400, "path")),
        (b"http://u:p@x/v1/status", (400, "path")),
        (b"https://x/v1/status", (400, "path")),
        (b"/v1/status#x", (400, "path")),
        (b"http://x#/v1/status", (400, "path")),
        (b"/v1%2Fstatus", (400, "path")),
        (b"/v1/%zz", (400, "path")),
        (b"/v1/%ff", (400, "path")),
        (b"/v1/status?a=%f", (400, "path")),
        (b"/v1/status?%ff=1", (400, "path")),
        (b"/v1/status?" + b"&".join(b"a%d" % number for number in range(33)), (400, "path")),
        (b"*", (404, "path")),
        (b"//v1/status", (404, "path")),
        (b"http://x", (404, "path")),
        (b"/v1/./status", (404, "path")),
        (b"/v1/status/", (404, "path")),
        (b"/v1/status%00", (404, "path")),
        (b"/v1/status?verbose", (422, "verbose")),
        (b"http://x/v1/status?verbose", (422, "verbose")),
        (b"/v1/status?a%0d%0aX:%20y=1", (422, "a\r\nX: y")),
        (b"/v1/events/recent?limit=1&limit=300", (422, "limit")),
        (b"/v1/events/recent?limit=1;a=2", (422, "limit")),
        (b"/v1/events/recent?limit=+1", (422, "limit")),
        (b"/v1/events/recent?limit=%31&", (200, "")),
    ],
)
def test_targets(run, target, expected):
    assert sent_with(run, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n") == expected


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"get", b"FOO"])
def test_methods_that_nothing_has(run, method):
    with run.connect() as sock:
        sock.sendall(method + b" /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = everything(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET\r\n" in head
    assert (body == b"") == (method == b"HEAD")


# -- bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 17\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n" + PAUSE + b"\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Content-Length: 17\r\nContent-Length: 17\r\n\r\n" + PAUSE,
        b"Content-Length: 17\r\nContent-Length: 2\r\n\r\n" + PAUSE,
        b"Content-Length: 17, 17\r\n\r\n" + PAUSE,
        b"Content-Length: +17\r\n\r\n" + PAUSE,
        b"Content-Length: 0x11\r\n\r\n" + PAUSE,
        b"Content-Length: 1_7\r\n\r\n" + PAUSE,
        b"Content-Length: \xb2\r\n\r\n" + PAUSE,
        b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"Content-Length:\r\n\r\n" + PAUSE,
        b"Content-Type: text/plain\r\nContent-Length: 17\r\n\r\n" + PAUSE,
    ],
)
def test_bodies_of_two_lengths_or_none(run, rest):
    assert sent_with(run, POST + rest) == (400, "request")
    assert not run.daemon.paused


def test_chunks_are_not_for_http_1_0(run):
    head = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert sent_with(run, head + b"11\r\n" + PAUSE + b"\r\n0\r\n\r\n") == (400, "request")


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x11\r\n" + PAUSE + b"\r\n0\r\n\r\n",
        b"-1\r\n\r\n0\r\n\r\n",
        b"f" * 40 + b"\r\n" + PAUSE,
        b"11;a\nb\r\n" + PAUSE + b"\r\n0\r\n\r\n",
        b"11\r\n" + PAUSE + b"xx0\r\n\r\n",
        b"11\r\n" + PAUSE + b"\r\n0\r\nno field\r\n\r\n",
        b"11;" + b"a" * 17_000,
        b"11\r\n" + PAUSE + b"\r\n0\r\nA: " + b"a" * 17_000,
    ],
)
def test_chunks_that_are_none(run, chunks):
    assert sent_with(run, CHUNKED + chunks) == (400, "body")
    assert not run.daemon.paused


@pytest.mark.parametrize(
    "chunks",
    [
        b"11\r\n" + PAUSE + b"\r\n0\r\n\r\n",
        b"8;a=b\r\n" + PAUSE[:8] + b"\r\n9\r\n" + PAUSE[8:] + b"\r\n000\r\nX: y\r\n\r\n",
        b"".join(b"1\r\n%c\r\n" % byte for byte in PAUSE) + b"0\r\n\r\n",
    ],
)
def test_chunks_that_are_some(run, chunks):
    assert sent_with(run, CHUNKED + chunks) == (200, "")
    assert run.daemon.paused


def test_chunks_that_are_mostly_not_body(run):
    crumbs = b"1\r\n \r\n" * 16_000
    assert sent_with(run, CHUNKED + crumbs + b"0\r\n\r\n") == (413, "body")


def test_what_follows_a_request_is_never_read_as_one(run):
    smuggled = POST + b"Content-Length: 17\r\n\r\n" + PAUSE
    with run.connect() as sock:
        sock.sendall(GET + b"Host: x\r\nConnection: keep-alive\r\n\r\n" + smuggled * 2)
        got = everything(sock)
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in got
    assert not run.daemon.paused


def test_a_caller_that_waits_for_100_continue(run):
    with run.connect() as sock:
        sock.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 17\r\n\r\n")
        assert sock.recv(4096) == b"HTTP/1.1 100 \r\n\r\n"
        sock.sendall(PAUSE)
        assert read_answer(sock)[0] == 200
    # who would be refused anyhow need not send a body first
    assert sent_with(run, POST + b"Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n") == (413, "body")


def test_a_body_that_breaks_off(run):
    with run.connect() as sock:
        sock.sendall(POST + b"Content-Length: 40\r\n\r\n" + PAUSE)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b""
    assert not run.daemon.paused


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ('Application/JSON ; charset="UTF-8"; a=b', 200),
        ("application/json", 200),
        ("application/jsonx", 415),
        ("application/json; charset=utf-16", 415),
        ("application/json, text/plain", 415),
        ("", 415),
    ],
)
def test_content_types(run, kind, status):
    head = POST.replace(b"application/json", kind.encode())
    assert sent_with(run, head + b"Content-Length: 17\r\n\r\n" + PAUSE)[0] == status


# -- hanging up -------------------------------------------------------------------------------------------------


def test_a_request_is_answered_though_the_caller_says_no_more(run):
    with run.connect() as sock:
        sock.sendall(GET + b"Host: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_answer(sock)[0] == 200


def test_a_caller_that_floods_while_it_waits_is_cut_off(path):
    with running(path, FakeDaemon(hanging=True)) as run, run.connect() as sock:
        sock.sendall(b"GET /v1/devices HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: run.server.busy == 1)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(b"x" * 10_000_000)
        wait_for(lambda: run.server.busy == 0, 60)


def test_an_answer_that_nobody_reads_is_dropped_in_time(path, monkeypatch):
    monkeypatch.setattr(FakeDaemon, "config", lambda _: {"long": "x" * 4_000_000})
    limits = Limits(request_s=0.2, connection_s=0.4)
    with running(path, limits=limits) as run, run.connect() as sock:
        sock.sendall(b"GET /v1/config HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: run.server.connected == 1)
        wait_for(lambda: not run.server.connected, 60)
        assert 0 < len(everything(sock)) < 1_000_000


def test_a_bug_in_the_middle_of_a_stream_ends_it(run, caplog, monkeypatch):
    def fail(*_: object) -> None:
        raise ValueError("secret phrase")

    monkeypatch.setattr("idiolect.events.EventStream.since", fail)
    with run.connect() as sock:
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        got = everything(sock)
    assert got.count(b"HTTP/1.1") == 1
    assert not got.endswith(b"0\r\n\r\n")  # cut off, not ended
    assert "/v1/events failed: ValueError" in caplog.text
    assert "secret" not in caplog.text
    wait_for(lambda: run.server.busy == 0)


# -- any bytes at all -------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        *b"GET|POST| |/v1/status|/v1/listening|http://|x|?a=b|%| HTTP/1.1| HTTP/1.0|\r\n|\n|\r|\r\n\r\n".split(b"|"),
        *b"Host: x\r\n|Content-Length: 17\r\n|Transfer-Encoding: chunked\r\n|Upgrade: a\r\n|11\r\n|0\r\n".split(b"|"),
        *b"Content-Type: application/json\r\n|Expect: 100-continue\r\n|CONNECT x:1 HTTP/1.1\r\n|HEAD * ".split(b"|"),
        *(PAUSE, GET, GET + b"Host: x\r\n\r\n", POST, CHUNKED, POST + b"Content-Length: 17\r\n\r\n", b"A" * 9_000),
    ]
)
PIECES = st.lists(st.lists(PARTS | st.binary(max_size=24), max_size=8).map(b"".join), max_size=4)
ANSWER = re.compile(
    rb"(HTTP/1\.1 100 \r\n\r\n)?HTTP/1\.1 (200|4\d\d|503) [A-Za-z -]+\r\n([A-Za-z-]+: [^\r\n]+\r\n)+\r\n"
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """One server for all examples, and what it and asyncio logged."""
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    limits = Limits(request_s=0.5, connection_s=1.0)
    with running(tmp_path_factory.mktemp("fuzz") / "control.sock", limits=limits) as run:
        yield SimpleNamespace(run=run, logged=logged)
    logging.getLogger().removeHandler(handler)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=PIECES)
def test_any_bytes_get_one_answer_or_a_closed_connection(fuzzed, pieces):
    with fuzzed.run.connect() as sock:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        got = everything(sock)
    if got:
        head = ANSWER.match(got)
        assert head, got
        body = got[head.end() :]
        assert body == b"" or isinstance(json.loads(body), dict)
    assert [record.getMessage() for record in fuzzed.logged if record.levelno > logging.INFO] == []


def test_after_all_that_nothing_is_left_open(fuzzed):
    wait_for(lambda: not fuzzed.run.server.connected, 60)
    assert fuzzed.run.server.busy == 0
    assert fuzzed.run.client.get("/v1/status")


@pytest.mark.parametrize("ends", ["time-out", "too large", "gone"])
def test_a_body_that_fails_is_not_kept_by_its_error(ends):
    """The answer takes as long as its caller reads, and the next one's body comes meanwhile."""

    async def story() -> None:
        reader = asyncio.StreamReader()
        wire = Wire(reader, SimpleNamespace(), 1024)  # type: ignore[arg-type]  # nothing is written
        reader.feed_data(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        await wire.head()
        for _ in range(16):
            reader.feed_data(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
        if ends == "gone":
            reader.feed_eof()
        with pytest.raises((TimeoutError, RequestError, ConnectionError)) as caught:
            async with asyncio.timeout(0.2 if ends == "time-out" else 60):
                await wire.body(1 << 18 if ends == "too large" else 1 << 20)
        error, kept, bodies = caught.value, 0, 0
        while error:
            for frame, _ in traceback.walk_tb(error.__traceback__):
                found = [each for each in frame.f_locals.values() if isinstance(each, bytearray)]
                kept, bodies = kept + sum(map(len, found)), bodies + len(found)
            error = error.__context__
        assert bodies
        assert kept == 0

    asyncio.run(story())
