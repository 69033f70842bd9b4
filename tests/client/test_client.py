"""The typed client: a method for every operation, nothing heavy behind it, and a stream that says what it lost."""

from __future__ import annotations

import errno
import inspect
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from idiolect.client import Client, NotPermittedError, RequestError, ServerEvent, UnreachableError
from idiolect.client import client as client_module
from idiolect.events import RING
from tests.control.api.test_openapi import operations
from tests.support.fake_daemon import running
from tests.support.whole import Whole

PACKAGE = Path(client_module.__file__).parents[1]
STAND_INS = {
    "name": "ann", "profile": "ann", "purposes": ["enrol"], "purpose": "enrol", "phrase": "lights", "event": "e-1",
    "token": "t", "adapter": 1, "document": {}, "nonce": bytes(8), "active": True, "take": 1,
}  # fmt: skip
LOW_LEVEL = {"get", "post", "delete", "events"}


class Noting(Client):
    """Asks nobody; notes what would have been asked."""

    def __init__(self):
        super().__init__("/nowhere")
        self.asked = []

    def _ask(self, method, path, body):
        self.asked.append((method, path.partition("?")[0], body))
        return {}


def test_a_socket_at_which_too_many_wait_is_asked_again(tmp_path):
    """The kernel holds so many who connect and turns the next away at once: that is no daemon that is gone."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        waiting, turned_away = [], 0
        while not turned_away:
            waiting.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            waiting[-1].setblocking(False)
            turned_away = waiting[-1].connect_ex(str(path))
        assert turned_away == errno.EAGAIN

        def serve():
            time.sleep(0.3)
            for _ in waiting:  # the last of them was turned away, and the client comes in its place
                sock = stack.enter_context(listener.accept()[0])
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

        server = threading.Thread(target=serve)
        server.start()
        assert Client(str(path), timeout=20).get("/v1/status") == {}
        server.join()


def test_there_is_a_method_for_every_operation(monkeypatch):
    noting = Noting()
    for name, method in inspect.getmembers(noting, inspect.ismethod):
        if not name.startswith("_") and name not in LOW_LEVEL | {"metrics"}:
            needed = [
                p.name for p in inspect.signature(method).parameters.values()
                if p.default is p.empty and p.kind is not p.VAR_KEYWORD
            ]  # fmt: skip
            method(*(STAND_INS[each] for each in needed))
    made = {(method, path) for method, path, _ in noting.asked}
    elsewhere = {("GET", "/metrics"), ("GET", "/v1/events"), ("GET", "/v1/openapi.json")}
    assert made == operations().keys() - elsewhere


def test_what_is_left_out_is_not_sent():
    noting = Noting()
    noting.pause()
    noting.pause(60)
    noting.playback(False)
    noting.forget("ann", day="2026-11-24")
    assert [body for _, _, body in noting.asked] == [
        {"active": False},
        {"active": False, "for_s": 60},
        {"active": False},
        {"profile": "ann", "day": "2026-11-24"},
    ]


def test_a_query_is_escaped(run):
    with pytest.raises(RequestError, match="limit"):
        run.client.get("/v1/events/recent", limit="1&x=2")
    assert run.client.get("/v1/events/recent", limit=None) == {"events": []}


def test_it_is_typed_and_needs_nothing_but_the_standard_library():
    assert (PACKAGE / "py.typed").exists()
    assert not (PACKAGE / "control" / "client.py").exists()
    code = (
        "import sys, idiolect.client; names = {n.split('.')[0] for n in sys.modules} - {'idiolect'};"
        "print(*sorted(n for n in names if not n.startswith('_') and n not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    ours = {"sitecustomize", "usercustomize", "distutils-precedence"}
    assert not {n for n in done.stdout.split() if not n.startswith("__editable__")} - ours


def test_refusals_are_errors_with_status_field_and_fix(run, path):
    with pytest.raises(RequestError) as refused:
        run.client.pause(0)
    assert (refused.value.status, refused.value.field) == (422, "for_s")
    with pytest.raises(UnreachableError, match="not running"):
        Client(str(path) + "x").status()
    assert issubclass(NotPermittedError, Exception)


# -- the stream -------------------------------------------------------------------------------------------------------


class Follower:
    """Follows a daemon in a thread; ``events`` is what came."""

    def __init__(self, client, **how):
        self.events, self.error = [], None
        self._stream = client.events(resume=True, **how)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            for event in self._stream:
                self.events.append(event)
        except Exception as error:
            self.error = error

    def kinds(self):
        return [event.kind for event in self.events]

    def ids(self):
        return [event.id for event in self.events if event.id]

    def wait(self, condition, seconds=15):
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, (self.kinds(), self.error)
            time.sleep(0.01)


def test_a_lost_connection_is_resumed_and_nothing_is_missing(path):
    with running(path) as run:
        follower = Follower(run.client)
        run.await_subscribers(1)
        run.publish("a-1")
        follower.wait(lambda f: f.ids() == ["a-1"])
        run.loop.call_soon_threadsafe(run.daemon.hub.hang_up)
        follower.wait(lambda f: "lost" in f.kinds())
        run.publish("a-2", "a-3")
        follower.wait(lambda f: f.ids() == ["a-1", "a-2", "a-3"])
        assert follower.kinds() == ["connected", "phrase", "lost", "connected", "phrase", "phrase"]


def test_a_connection_lost_before_the_first_event_is_resumed_too(path):
    with running(path) as run:
        follower = Follower(run.client)
        run.await_subscribers(1)
        run.loop.call_soon_threadsafe(run.daemon.hub.hang_up)
        follower.wait(lambda f: f.kinds() == ["connected", "lost"])
        run.publish("a-1")
        follower.wait(lambda f: f.ids() == ["a-1"])
        assert follower.kinds() == ["connected", "lost", "connected", "phrase"]


def test_away_for_too_long_is_told_once(path):
    with running(path) as run:
        run.publish("a-0")
        follower = Follower(run.client, last_id="a-0")
        run.await_subscribers(1)
        run.publish("a-1")
        follower.wait(lambda f: f.ids() == ["a-1"])
        run.loop.call_soon_threadsafe(run.daemon.hub.hang_up)
        follower.wait(lambda f: "lost" in f.kinds())
        run.publish(*(f"a-{number}" for number in range(2, RING + 50)))
        follower.wait(lambda f: f.ids()[-1:] == [f"a-{RING + 49}"])
    assert follower.kinds()[1:6] == ["phrase", "lost", "connected", "lagged", "phrase"]
    assert follower.kinds().count("lagged") == 1
    assert follower.ids()[1] == "a-50"


def test_a_real_restart_is_told(tmp_path):
    home = Whole(tmp_path).start()
    follower = Follower(home.client, patience_s=None)
    try:
        follower.wait(lambda f: "connected" in f.kinds())
        home.hears("on", "on", "guest")
        follower.wait(lambda f: "phrase" in f.kinds())
        home.stop()
        follower.wait(lambda f: "lost" in f.kinds())
        home.start()
        home.hears("stop", "stop", "guest")
        follower.wait(lambda f: f.kinds().count("phrase") == 2)
    finally:
        home.stop()
    told = [kind for kind in follower.kinds() if kind != "state"]
    assert told[1:6] == ["phrase", "lost", "connected", "restarted", "phrase"], follower.kinds()
    runs = {event.id.partition("-")[0] for event in follower.events if event.kind == "phrase"}
    assert len(runs) == 2


def test_patience_has_an_end(path):
    with running(path) as run:
        follower = Follower(run.client, patience_s=0.3)
        run.await_subscribers(1)
    follower.thread.join(60)
    assert follower.events == [
        ServerEvent("", "connected"),
        ServerEvent("", "lost", {"message": "the daemon ended the event stream"}),
    ]
    assert isinstance(follower.error, UnreachableError)


def test_time_is_up_while_the_daemon_is_away(path):
    with running(path) as run:
        follower = Follower(run.client, seconds=0.6)
        run.await_subscribers(1)
    follower.thread.join(60)
    assert isinstance(follower.error, TimeoutError)


def test_without_resume_the_end_is_the_end(path):
    with running(path) as run:
        stream = run.client.events()
        thread = threading.Thread(target=lambda: seen.extend(stream))
        seen = []
        thread.start()
        run.await_subscribers(1)
        run.loop.call_soon_threadsafe(run.daemon.hub.hang_up)
        thread.join(60)
        assert not thread.is_alive()
        assert seen == []
