"""A whole idiolectd on the slow board, and whoever asks something of it: each asks again and again and notes how long
it took.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.daemon import ROOT, UnixConnection, cpu_s, memory_mib
from tests.support.alsa.wavmic import WavMic
from torture.loading.board import Board
from torture.loading.household import House, person
from torture.loading.talk import LISTENING, Speaker

PATIENCE_S = 15.0
"""Who has no answer by then has none."""
DATA = re.compile(rb"^data: (\{.*\})\r?$", re.MULTILINE)
COMMAND = (sys.executable, "-m", "idiolect")


class Failed(Exception):
    """The daemon does not run; the message says what."""


class Daemon:
    """One that runs, or starts: ``pid``, sockets, its speaker."""

    def __init__(self, folder: Path, house: House, board: Board, minutes: float = 2.0, **more: object) -> None:
        self.folder, self._board = folder, board
        self.command = COMMAND
        folder.mkdir(parents=True, exist_ok=True)
        self.control, self.wyoming = folder / "control.sock", folder / "wyoming.sock"
        self.page, self.metrics = folder / "page.sock", folder / "metrics.sock"
        self.speaker = Speaker(folder / "room.raw", minutes)
        self._mic = WavMic(folder, folder / "room.raw")
        mine = {"users": [getpass.getuser()]}
        settings: dict[str, object] = {
            "audio": {"device": self._mic.device},
            "state_dir": str(house.state),
            "control": {"socket": str(self.control), "max_clients": 128},
            "wyoming": {"enabled": True, "socket": str(self.wyoming), "max_clients": 64},
            "metrics": {"enabled": True, "socket": str(self.metrics)},
            "page": {"enabled": True, "socket": str(self.page)},
            "listening": LISTENING,
            "people": {person(number): mine for number in range(house.people)},
            "idle": {"machine": str(folder / "no-sensors")},
            "keystore": "file",
            "log_level": "warning",
        }
        (folder / "idiolect.yaml").write_text(json.dumps(settings | more))  # JSON is YAML

    def start(self) -> None:
        """Begin; returns at once."""
        self.began = time.monotonic()
        command = [*self.command, "--config", str(self.folder / "idiolect.yaml")]
        variables = self._mic.environment | {"PYTHONPATH": str(ROOT / "daemon"), "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=self._board.join,  # noqa: PLW1509 - it writes a file, and no thread is in the way
            )  # fmt: skip
        self._board.follow(self.process.pid)

    def ready(self, seconds: float = 60.0) -> tuple[float | None, float | None]:
        """Seconds from the start until it listens and serves, and until the keys are here and everybody is known.

        None for what has not come within ``seconds``.
        """
        ends, serving = self.began + seconds, None
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise Failed(f"idiolectd ended with exit code {self.process.returncode}: {self.log()}")
            status = self.status()
            if serving is None and status and status["first_block_ms"] is not None:
                serving = float(status["first_block_ms"]) / 1000
                self.speaker.origin = self._mic.started_at or 0.0
            if serving and status and status["personalization"].get("adapters"):
                return serving, time.monotonic() - self.began
            time.sleep(0.25)
        return serving, None

    def status(self, patience: float = PATIENCE_S) -> dict[str, Any]:
        """Its own word; empty while there is none."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return dict(ask(self.control, "GET", "/v1/status", patience=patience))
        return {}

    def log(self) -> str:
        """What it wrote last."""
        return (self.folder / "log").read_text(errors="replace")[-400:].strip()

    def figures(self) -> dict[str, float]:
        """Memory in MiB and CPU seconds so far."""
        with contextlib.suppress(OSError):
            pid = self.process.pid
            rss = memory_mib(pid, "status", "VmRSS")  # a zombie has none
            return {"cpu_s": round(cpu_s(pid), 3)} | ({} if math.isnan(rss) else {"rss_mib": round(rss, 1)})
        return {}

    def stop(self) -> None:
        """End it, kindly where that works."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def daemon(
    folder: Path, house: House, board: Board, *, minutes: float = 2.0, seconds: float = 60.0, **more: object
) -> Iterator[Daemon]:
    """One that is up and has everybody's adapters."""
    it = Daemon(folder, house, board, minutes, **more)
    it.start()
    try:
        if None in it.ready(seconds):
            raise Failed(f"idiolectd was not up within {seconds:.0f} s: {it.log()}")
        yield it
    finally:
        it.stop()


def ask(
    sock: Path, method: str, path: str, body: Mapping[str, object] | None = None, *, patience: float = PATIENCE_S
) -> Any:
    """One request; the answer, as JSON where it is. ``OSError`` where it is refused or does not come."""
    connection = UnixConnection(sock)
    connection.timeout = patience
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        read = answer.read()
        if answer.status >= 400:
            raise OSError(answer.status, f"{method} {path}: {answer.status}")
        return json.loads(read) if answer.headers["Content-Type"].startswith("application/json") else read
    finally:
        connection.close()


def describe(sock: Path) -> None:
    """Ask a Wyoming server what it is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(sock))
        client.sendall(b'{"type": "describe"}\n')
        if not client.recv(1 << 16):
            raise OSError("no answer")


class Listener:
    """A client of the event stream: what came, and when (monotonic)."""

    def __init__(self, control: Path) -> None:
        self.arrived: list[tuple[float, dict[str, Any]]] = []
        self.ended = False
        self._over = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(control))
        self._socket.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        received = b""
        while not self._over.is_set():
            try:
                part = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                part = b""
            if not part:
                self.ended = True
                return
            at = time.monotonic()
            *frames, received = re.split(rb"\r?\n\r?\n", received + part)
            for frame in frames:
                self.arrived += [(at, json.loads(data)) for data in re.findall(DATA, frame)]

    def close(self) -> None:
        """Hang up."""
        self._over.set()
        self._thread.join()
        self._socket.close()


class Asker:
    """Asks the same thing every so many seconds, one at a time; ``took`` has seconds, None for what failed."""

    def __init__(self, name: str, every: float, question: Callable[[], object]) -> None:
        self.name, self.took = name, list[float | None]()
        self.why = ""
        self._every, self._question = every, question
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after what is being asked."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.0 if not self.took else self._every):
            self.once()

    def once(self) -> None:
        """Ask."""
        began = time.monotonic()
        try:
            self._question()
            self.took.append(time.monotonic() - began)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.took.append(None)
            self.why = type(error).__name__ if not error.args else str(error)[:80]


def spread(values: list[float | None]) -> dict[str, float | int | None]:
    """Of seconds or ms: how many, how many failed, and percentiles of those that came."""
    came = [value for value in values if value is not None]
    p50, p95, most = np.percentile(came, (50, 95, 100)).tolist() if came else (None, None, None)
    failed = len(values) - len(came)
    return {"count": len(values), "failed": failed, "p50": _short(p50), "p95": _short(p95), "max": _short(most)}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
