"""The control API over a real Unix socket: answers, the event stream, and refusals that name what is wrong."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from idiolect.client import Client
from idiolect.control.server import Limits
from tests.support.fake_daemon import HASTY, FakeDaemon, event, read_answer, running, wait_for


def collect(client: Client, count: int, last_id: str = "") -> list[str]:
    """The ids of the next ``count`` events."""
    found = []
    for each in client.events(last_id, 5):
        found.append(each.id)
        if len(found) == count:
            break
    return found


# -- answers --------------------------------------------------------------------------------------------------


def test_status_devices_config_and_doctor(run):
    assert run.client.get("/v1/status")["version"] == "0.1.0"
    assert run.client.get("/v1/devices")["devices"][0]["name"] == "plughw:CARD=Seeed,DEV=0"
    assert run.client.get("/v1/config")["schema"] == 2
    answer = run.client.get("/v1/config?origin=true")
    assert answer["config"] == run.client.get("/v1/config?origin=false") == run.client.get("/v1/config")
    assert answer["origin"] == {"audio.gain_db": {"file": "/etc/idiolect/idiolect.yaml", "line": 7}}
    assert run.ask("GET", "/v1/config?origin=1")[0] == 422
    assert run.client.get("/v1/doctor") == {"checks": []}


def test_pausing_and_resuming(run):
    before = time.time()
    answer = run.client.post("/v1/listening", {"active": False, "for_s": 3600})
    assert answer["listening"]["state"] == "paused"
    assert before + 3590 < answer["listening"]["paused_until"] < before + 3700
    assert run.client.post("/v1/listening", {"active": True}) == {"listening": {"state": "idle", "paused_until": None}}
    assert run.client.post("/v1/listening", {"active": False})["listening"] == {"state": "paused", "paused_until": None}


def test_recent_events(run):
    run.publish("one", "two", "three")
    answer = run.client.get("/v1/events/recent?limit=2")
    assert [each["phrase"] for each in answer["events"]] == ["two", "three"]
    assert answer["events"][0] == event("two").as_dict()


def test_the_head_of_an_answer(run):
    status, _, headers = run.ask("GET", "/v1/status")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Connection"] == "close"
    assert headers["Server"] == "idiolectd"


# -- the event stream -----------------------------------------------------------------------------------------


def test_an_event_published_in_another_thread_arrives_as_it_is(run):
    stream = run.client.events(seconds=5)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(next, stream)
        run.await_subscribers(1)
        run.publish("computer")
        got = first.result(5)
    assert (got.id, got.kind, got.data) == ("computer", "phrase", event("computer").as_dict())
    stream.close()
    run.await_subscribers(0)


def test_the_stream_as_bytes_and_its_heartbeat(hasty):
    with hasty.connect() as sock:
        sock.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
        hasty.await_subscribers(1)
        hasty.publish("stop")
        got = b""
        while got.count(b": heartbeat\n\n") < 2:
            got += sock.recv(4096)
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Content-Type: text/event-stream" in head
    assert b"id: stop\nevent: phrase\ndata: {" in body


def test_fifty_clients_hear_everything_in_order(path):
    names = [f"e{number}" for number in range(20)]
    with running(path, max_clients=64) as run, ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(collect, run.client, len(names)) for _ in range(50)]
        run.await_subscribers(50)
        for name in names:
            run.publish(name)
        assert all(future.result(5) == names for future in futures)
        run.await_subscribers(0)


def test_reconnecting_loses_nothing_and_repeats_nothing(run):
    """Drops the connection after every event while another thread publishes at its own pace."""
    names = [f"e{number}" for number in range(60)]

    def publish():
        for name in names:
            run.publish(name)
            time.sleep(0.002)

    run.publish("start")
    publisher = threading.Thread(target=publish)
    publisher.start()
    got = ["start"]
    while len(got) < len(names) + 1:
        got += collect(run.client, 1, got[-1])
    publisher.join()
    assert got[1:] == names


def test_a_client_that_reads_slowly_is_told_that_it_lost_events(path):
    # Its socket fills up, the ring turns over, then it reads on: what it gets ends in "lagged".
    with running(path) as run, run.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
        run.await_subscribers(1)
        for round_ in range(12):
            for number in range(200):
                run.publish(f"{round_}-{number}-{'x' * 1000}")
            time.sleep(0.02)
        got = b""
        while piece := sock.recv(65_536):
            got += piece
    last = got.rstrip().split(b"\n\n")[-1]
    assert last.startswith(b"event: lagged\ndata: ")
    assert json.loads(last.partition(b"data: ")[2])["missed"] > 0
    assert run.daemon.hub.subscribers == 0


def stream(run, count, **headers):
    """The first ``count`` bytes' worth of frames of a stream."""
    with run.connect() as sock:
        said = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        sock.sendall(f"GET /v1/events HTTP/1.0\r\n{said}\r\n".encode())
        got = b""
        while got.partition(b"\r\n\r\n")[2].count(b"\n\n") < count:
            got += sock.recv(4096)
    return got.partition(b"\r\n\r\n")[2].split(b"\n\n")[:count]


def test_a_stream_begins_with_the_id_from_which_it_can_be_resumed(run):
    run.publish("a-1")
    (begin,) = stream(run, 1)
    assert begin.split(b"\n")[1] == b"id: a-1"
    assert b"data" not in begin  # no event: browsers and the client only remember the id
    (begin,) = stream(run, 1, Last_Event_ID="")
    assert begin.split(b"\n")[1] == b"id: a-1"


@pytest.mark.parametrize(("last_id", "kind"), [("a-0", b"lagged"), ("b-7", b"restarted")])
def test_what_is_missing_is_said_first(run, last_id, kind):
    run.publish("a-1", "a-2")
    begin, gap, first = stream(run, 3, Last_Event_ID=last_id)
    assert begin == b"retry: 1000"
    assert gap.startswith(b"event: " + kind + b'\ndata: {"missed":null,')
    assert first.startswith(b"id: a-1\n")


def test_a_client_that_reads_nothing_is_cut_off(hasty):
    with hasty.connect() as sock:
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        hasty.await_subscribers(1)
        for number in range(250):
            hasty.publish(f"{number}-{'x' * 8000}")
        wait_for(lambda: hasty.daemon.hub.subscribers == 0, 60)
    assert hasty.client.get("/v1/status")


def test_a_client_that_goes_away_frees_its_place_at_once(run):
    with run.connect() as sock:
        sock.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        run.await_subscribers(1)
    wait_for(lambda: run.daemon.hub.subscribers == 0, 60)


# -- refusals: each names what is wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, "body"),
        (b"", 400, "body"),
        (b"\xff\xfe{}", 400, "body"),
        (b'{"active": NaN}', 400, "body"),
        (b"[" * 10_000, 422, "body"),
        (b'{"active": ' + b"9" * 5_000 + b"}", 400, "body"),
        (b"[]", 422, "body"),
        (b"{}", 422, "active"),
        (b'{"active": 1}', 422, "active"),
        (b'{"active": null}', 422, "active"),
        (b'{"activ": true}', 422, "activ"),
        (b'{"active": true, "active": false}', 422, "active"),
        (b'{"active": false, "for_s": "1h"}', 422, "for_s"),
        (b'{"active": false, "for_s": true}', 422, "for_s"),
        (b'{"active": false, "for_s": null}', 422, "for_s"),
        (b'{"active": false, "for_s": 0}', 422, "for_s"),
        (b'{"active": false, "for_s": 604801}', 422, "for_s"),
        (b'{"active": false, "for_s": 1e999}', 422, "for_s"),
        (b'{"active": true, "for_s": 60}', 422, "for_s"),
        (b'{"\\ud800": 1}', 400, "body"),  # half a character: it could not be written anywhere
    ],
)
def test_bad_bodies(run, body, status, field):
    got, answer, _ = run.ask("POST", "/v1/listening", body)
    assert (got, answer["error"]["field"]) == (status, field)
    assert not run.daemon.paused


@pytest.mark.parametrize(
    ("request_line", "status", "field", "hint"),
    [
        ("GET /v1/statu", 404, "path", "did you mean /v1/status?"),
        ("GET /", 404, "path", "/v1/events"),
        ("GET /v1/../v1/status", 404, "path", ""),
        ("POST /v1/status", 405, "method", "GET"),
        ("GET /v1/listening", 405, "method", "POST"),
        ("DELETE /v1/events", 405, "method", "GET"),
        ("GET /v1/status?verbose=1", 422, "verbose", ""),
        ("GET /v1/events?since=1", 422, "since", ""),
        ("GET /v1/events/recent?limits=1", 422, "limits", "did you mean limit?"),
        ("GET /v1/events/recent?limit=0", 422, "limit", "256"),
        ("GET /v1/events/recent?limit=257", 422, "limit", "256"),
        ("GET /v1/events/recent?limit=-1", 422, "limit", "256"),
        ("GET /v1/events/recent?limit=%C2%B2", 422, "limit", "256"),
        ("POST /v1/listening?active=true", 422, "active", ""),
    ],
)
def test_bad_targets(run, request_line, status, field, hint):
    method, target = request_line.split()
    got, answer, headers = run.ask(method, target, {"active": True} if method == "POST" else None)
    assert (got, answer["error"]["field"]) == (status, field)
    assert hint in answer["error"]["message"]
    if status == 405:
        assert headers["Allow"] == hint


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "application/json; charset=latin-1"},
        {"Content_Encoding": "gzip"},
    ],
)
def test_other_content_than_json(run, headers):
    status, answer, _ = run.ask("POST", "/v1/listening", b'{"active": false}', **headers)
    assert (status, answer["error"]["field"]) == (415, "Content-Type")
    assert not run.daemon.paused


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_10_mib(run, chunked):
    size = 10 * 1024 * 1024
    with run.connect() as sock:
        kind = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        sock.sendall(
            b"POST /v1/listening HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + kind + b"\r\n\r\n"
        )
        sock.sendall(b"%x\r\n" % size if chunked else b"")
        for _ in range(160):
            sock.sendall(b" " * 65_536)
        status, answer = read_answer(sock)
    assert (status, answer["error"]["field"]) == (413, "body")
    assert run.client.get("/v1/status")


def test_the_largest_body_there_may_be(run):
    fits = b'{"active": false}'.ljust(Limits().body_bytes)
    assert run.ask("POST", "/v1/listening", fits)[0] == 200
    assert run.ask("POST", "/v1/listening", fits + b" ")[0] == 413


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"secret words\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9_000 + b"\r\n\r\n",
        b"GET /v1/" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/listening HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_not_http(run, caplog, data):
    caplog.set_level(logging.DEBUG)
    status, answer = run.send(data)
    assert (status, answer["error"]["field"]) == (400, "request")
    assert "secret words" not in str(answer) + caplog.text


def test_a_broken_chunk_is_the_callers_fault(hasty, caplog):
    head = b"POST /v1/listening HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with hasty.connect() as sock:
        sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        time.sleep(0.05)
        sock.sendall(b"zzz\r\n{}\r\n0\r\n\r\n")
        status, answer = read_answer(sock)
    # the body is refused when the broken chunk comes, not when its time is up
    assert (status, answer["error"]["field"]) == (400, "body")
    assert "zzz" not in caplog.text


def test_a_bug_is_a_500_that_tells_nothing(path, caplog):
    with running(path, FakeDaemon(broken=True)) as run:
        status, answer, _ = run.ask("GET", "/v1/status")
    assert status == 500
    assert set(answer["error"]) == {"field", "message"}
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text + str(answer)
    assert "Traceback" not in caplog.text + str(answer)


def test_an_answer_that_does_not_come_is_a_503(path):
    with running(path, FakeDaemon(hanging=True), HASTY) as run:
        status, answer, _ = run.ask("GET", "/v1/devices")
    assert status == 503
    assert "try again" in answer["error"]["message"]
