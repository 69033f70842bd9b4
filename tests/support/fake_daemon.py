"""A daemon without ears: the real control server on a real Unix socket, around the simplest possible ``Daemon``."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from idiolect.client import Client
from idiolect.config.schema import Control
from idiolect.control.api.measures import Learnt, Measures, Process
from idiolect.control.server import Limits, Server, control_server
from idiolect.errors import RequestError
from idiolect.events import EventStream
from idiolect.listening.counters import Counters
from idiolect.values import Detection, Event

HASTY = Limits(request_s=0.4, answer_s=0.4, connection_s=0.8, write_s=0.4, heartbeat_s=0.1)
"""For tests of time-outs."""


class FakeWindows:
    """Implements ``api.learn.Windows``: one round is due, and done as soon as somebody asks, unless too hot."""

    def __init__(self) -> None:
        self.hot = self.broken = False
        self.asked = self.tried = False
        self.done: dict[str, int] = {}

    def ask(self) -> None:
        self.asked, self.tried = self.hot, True
        if not (self.hot or self.broken):
            self.done = {"rebuild": 2}

    def status(self) -> dict[str, object]:
        waiting = ["65 C or less (cpu-thermal has 81 C)"] if self.hot else ["nobody speaking for 10 min (so far 12 s)"]
        return {
            "state": "nothing due" if self.done else "waiting",
            "asked": self.asked,
            "running": None,
            "due": {} if self.done else {"rebuild": 2},
            "waiting_for": [] if self.done else waiting,
            "obstacles": [] if self.done else ["heat" if self.hot else "speech"],
            "done": self.done,
            "preempted": 3,
            "failed": int(self.broken and self.tried),
            "last": None,
            "stopped_by": "somebody spoke",
            "sandbox": {"limits": True, "landlock": False},
        }


@dataclass
class FakeDaemon:
    """Implements ``api.routes.Daemon``; ``broken`` and ``hanging`` make what the tests of faults need."""

    hub: EventStream = field(default_factory=EventStream)
    paused: bool = False
    paused_until: float | None = None
    broken: bool = False
    hanging: bool = False
    checks: list[dict[str, object]] = field(default_factory=list)
    problems: list[dict[str, object]] = field(default_factory=list)
    windows: FakeWindows = field(default_factory=FakeWindows)
    box: FakeBox = field(default_factory=lambda: FakeBox())  # noqa: PLW0108  # which comes below
    measuring: FakeMeasuring = field(default_factory=lambda: FakeMeasuring())  # noqa: PLW0108

    def status(self) -> dict[str, object]:
        if self.broken:
            raise ValueError("secret phrase 12345")
        state = "paused" if self.paused else "idle"
        return {
            "version": "0.1.0",
            "uptime_s": 3725.0,
            "listening": {"state": state, "paused_until": self.paused_until},
            "microphone": {"state": "running", "device": "plughw:Seeed", "rate": 16000, "channels": 1, "overruns": 2},
            "bundle": {"name": "default", "version": 3, "signed": False, "encoder": "abc123"},
            "keystore": "file (not hardware protected)",
            "keys": {"state": "released", "text": "released from a file: not hardware protected; for development"},
            "events": self.hub.published,
            "interpreter": "litert",
            "learning": self.windows.status(),
            "personalization": {"state": "off", "detail": "the keys are not released: everybody gets the base model"},
        }

    def pause(self, seconds: float | None) -> None:
        self.paused, self.paused_until = True, None if seconds is None else time.time() + seconds

    def resume(self) -> None:
        self.paused, self.paused_until = False, None

    def config(self) -> dict[str, object]:
        return {"schema": 2, "audio": {"device": "default", "gain_db": 3.0}}

    def origins(self) -> dict[str, object]:
        return {"audio.gain_db": {"file": "/etc/idiolect/idiolect.yaml", "line": 7}}

    def reload(self) -> dict[str, object]:
        return {"taken": not self.problems, "at_next_start": [], "problems": self.problems}

    async def devices(self) -> list[dict[str, object]]:
        if self.hanging:
            await asyncio.sleep(60)
        return [{"name": "plughw:CARD=Seeed,DEV=0", "description": "Seeed 2-mic"}]

    async def doctor(self) -> list[dict[str, object]]:
        return self.checks

    @property
    def proofs(self) -> FakeProofs:
        return FakeProofs()


class FakeBox:
    """Implements ``api.playback.Box``."""

    def __init__(self) -> None:
        self.leases: list[float | None] = []

    def playback(self, seconds: float | None) -> dict[str, object]:
        self.leases.append(seconds)
        return {"active": seconds is not None, "until": None if seconds is None else time.time() + seconds}


class FakeMeasuring:
    """Implements ``api.metrics.Measuring``: of everything a little."""

    async def measures(self) -> Measures:
        tally = Counters()
        tally.event(event("seven").detection, base=True, late=0.12)
        verdicts, rounds = {"passed": 3, "2": 1}, {"made": 3, "refused": 1}
        learnt = Learnt(2, {"active": 2}, 3, verdicts, rounds, {"canary": 3}, 1_700_000_000)
        return Measures(
            version="0.1.0", bundle=("default", 3, False), configuration="in-force", events=dict(tally.events),
            latency={kind: each.spread() for kind, each in tally.latency.items()}, processing=tally.processing.spread(),
            microphone="running", overruns=2, reopened=1, dropped_blocks=0, queue_blocks=1, listening="idle",
            playback=False, learning="idle", keys="released", protected=False, learnt=learnt, jobs={"rebuild": 2},
            process=Process(12.5, 1.5, 60 << 20, 30, 1_700_000_000.0), celsius=48.5, throttled=False,
            clients={"events": 1},
        )  # fmt: skip


class FakeProofs:
    """Implements ``api.audit.Proofs`` over a log of one entry."""

    async def audit(self, limit: int) -> dict[str, object]:
        entry = {"seq": 1, "time": 1_700_000_000, "kind": "provisioned", "body": {"generation": 2}, "hash": "00" * 32}
        return {"entries": [entry][-limit:]}

    async def audit_verify(self) -> dict[str, object]:
        return {"count": 1, "head": "00" * 32}

    async def audit_export(self, nonce: bytes) -> dict[str, object]:
        return {"export": {"nonce": nonce.hex()}, "quote": None}

    async def attest(self, nonce: bytes) -> dict[str, object]:  # noqa: ARG002 - as the interface has it
        raise RequestError(409, "nonce", "keystore: file has no TPM that could vouch for anything")

    async def mark_good(self) -> dict[str, object]:
        return {"minimum": 3}


@dataclass
class Running:
    """A server in a thread of its own, as the daemon's main thread has it."""

    daemon: FakeDaemon
    server: Server
    loop: asyncio.AbstractEventLoop
    path: Path

    @property
    def client(self) -> Client:
        return Client(str(self.path), timeout=60)

    def submit(self, coroutine) -> Future:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def stop(self) -> float:
        """Stop the server; the seconds that took."""
        begin = time.perf_counter()
        self.submit(self.server.stop()).result(5)
        return time.perf_counter() - begin

    def publish(self, *names: str) -> None:
        """From this thread, which is not the loop's."""
        for name in names:
            self.daemon.hub.publish(event(name))

    def await_subscribers(self, count: int) -> None:
        wait_for(lambda: self.daemon.hub.subscribers == count)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        sock.connect(str(self.path))
        return sock

    def send(self, data: bytes) -> tuple[int, dict]:
        """Raw bytes in, the status and JSON of the answer out."""
        with self.connect() as sock:
            sock.sendall(data)
            return read_answer(sock)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, dict]:
        """Status, JSON and headers for a request that ``Client`` would be too well-behaved to send."""
        with self.connect() as sock:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = sock
            payload = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            given = {"Content-Type": "application/json"} if payload is not None else {}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, payload, given)
            response = connection.getresponse()
            return response.status, json.loads(response.read()), dict(response.headers)


def event(name: str) -> Event:
    """A detection of phrase ``name``, whose id is ``name`` too."""
    return Event(name, 1_700_000_000.25, Detection("phrase", name, 0.91, 0.4, 0.6, 16_000, 32_000))


def read_answer(sock: socket.socket) -> tuple[int, dict]:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, json.loads(response.read())


def wait_for(condition, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def running(
    path: Path, daemon: FakeDaemon | None = None, limits: Limits | None = None, **settings: object
) -> Iterator[Running]:
    """Serve until the block ends. ``settings`` are those of ``config.Control``."""
    daemon = daemon or FakeDaemon()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = control_server(daemon, Control(socket=path, **settings), limits)
        it = Running(daemon, server, loop, path)
        it.submit(server.start()).result(5)
        try:
            yield it
        finally:
            it.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
