"""A real idiolectd in a process of its own, and everything that can be seen of it from outside."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from benchmark.daemon import UnixConnection
from idiolect.client import Client

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 60.0
"""How long a busy machine may take for what takes milliseconds."""
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ ")
_NUMBER = re.compile(r"\d+")
_COUNTS = re.compile(r"^(idiolect_\w+?|process_\w+)(?:_total)?(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


class Stuck(Exception):
    """The daemon does not come to where it should."""


def wait_until(what: str, true: Any, seconds: float = WAIT_S, every: float = 0.0002) -> None:
    """Wait for ``true()``. Raises ``Stuck``."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Stuck(f"waited {seconds:g} s: {what}")
        time.sleep(every)


class Stream:
    """One client of the event stream, read when asked."""

    def __init__(self, path: Path, *, buffer: int = 0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(WAIT_S)
        self._socket.connect(str(path))
        self._socket.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        self._rest = b""
        while b"\n\n" not in self._rest.replace(b"\r\n\r\n", b"", 1).partition(b"retry")[2]:  # it is subscribed
            received = self._socket.recv(1 << 16)
            if not received:
                raise Stuck("the event stream ended as it began")
            self._rest += received
        self._socket.setblocking(False)
        self.ended = False

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        """(kind, data) of everything that has come."""
        try:
            while not self.ended:
                received = self._socket.recv(1 << 16)
                self.ended = not received
                self._rest += received
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True
        *whole, self._rest = self._rest.split(b"\n\n")
        found = []
        for each in whole:
            fields = dict(line.split(": ", 1) for line in each.decode().splitlines() if ": " in line)
            if "event" in fields:
                found.append((fields["event"], json.loads(fields["data"])))
        return found

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Daemon:
    """The process. ``settings`` is its configuration, ``environment`` what makes libasound know the microphones."""

    def __init__(self, folder: Path, settings: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self.config, self.socket = folder / "idiolect.yaml", folder / "control.sock"
        self.configure(settings)
        self.client = Client(str(self.socket), timeout=WAIT_S)
        self.lines: Counter[str] = Counter()
        """What it logged, numbers taken out."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "idiolect", "--config", str(self.config)],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "daemon")},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        self._log, self._partial = self._process.stderr, b""
        os.set_blocking(self._log.fileno(), False)
        self.pid = self._process.pid
        self._parts = Path(f"/proc/{self.pid}")

    def configure(self, settings: Mapping[str, object]) -> None:
        """Write another configuration, which counts from the next SIGHUP on."""
        self.config.write_text(json.dumps(settings))  # JSON is YAML

    def alive(self) -> bool:
        """Whether it runs; drains what it logs."""
        self.read_log()
        return self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM; its exit code, -9 where it had to be killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                wait_until("the daemon stops", lambda: not self.alive(), 20.0, 0.01)
            except Stuck:
                self._process.kill()
        code = self._process.wait()
        self.read_log()
        self._log.close()
        return code

    def read_log(self) -> None:
        """Count the lines that it has logged."""
        while received := (self._log.read(1 << 16) if not self._log.closed else None):
            *lines, self._partial = (self._partial + received).split(b"\n")
            self.lines.update(_NUMBER.sub("N", _STAMP.sub("", line.decode())) for line in lines)

    def logged(self, part: str) -> int:
        """Lines with that in them."""
        self.read_log()
        return sum(count for line, count in self.lines.items() if part in line)

    # -- what it says --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """GET /v1/status."""
        return dict(self.client.status())

    def metrics(self) -> dict[str, float]:
        """GET /metrics: each value by its name without ``idiolect_``, all kinds of one name together."""
        deadline, status = time.monotonic() + WAIT_S, 0
        while status != HTTPStatus.OK:
            if time.monotonic() > deadline:
                raise Stuck(f"/metrics answers {status}")
            connection = UnixConnection(self.socket)
            connection.timeout = WAIT_S
            try:
                connection.request("GET", "/metrics")
                response = connection.getresponse()
                status, text = response.status, response.read().decode()
            finally:
                connection.close()
        found: dict[str, float] = {}
        for name, _, value in _COUNTS.findall(text):
            key = name.removeprefix("idiolect_")
            found[key] = found.get(key, 0.0) + float(value)
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send it one."""
        os.kill(self.pid, number)

    def halt(self) -> None:
        """SIGSTOP, and wait until it stands."""
        self.signal(signal.SIGSTOP)
        stat = self._parts / "stat"
        wait_until("the daemon halts", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    # -- what the kernel says ------------------------------------------------------------------------------------

    def rss_kib(self) -> int:
        """Resident memory."""
        found = re.search(r"^VmRSS:\s+(\d+) kB", (self._parts / "status").read_text(), re.MULTILINE)
        return int(found.group(1)) if found else 0

    def descriptors(self) -> list[str]:
        """What its descriptors are, without numbers that change."""
        found = []
        for link in (self._parts / "fd").iterdir():
            try:
                found.append(_NUMBER.sub("N", str(link.readlink().name)))
            except FileNotFoundError:  # closed just now
                continue
        return sorted(found)

    def threads(self) -> list[int]:
        """Ids of its threads, as they were begun."""
        return sorted(int(each.name) for each in (self._parts / "task").iterdir())

    def children(self) -> int:
        """Processes that it has."""
        return sum(len((self._parts / "task" / str(each) / "children").read_text().split()) for each in self.threads())

    def written(self) -> int:
        """Bytes that it sent towards a disk (proc_pid_io(5))."""
        fields = dict(line.split(": ") for line in (self._parts / "io").read_text().splitlines())
        return int(fields["write_bytes"])

    def cpu_s(self) -> float:
        """What it has computed."""
        return time.clock_gettime((~self.pid << 3) | 2)  # clock_getcpuclockid(3)


_SEIZE, _INTERRUPT, _DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000
_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


@contextmanager
def held(thread: int) -> Iterator[None]:
    """Hold one thread of another process still. OSError where the kernel does not let us."""
    if _ptrace(_SEIZE, thread, None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        _ptrace(_INTERRUPT, thread, None, None)
        os.waitpid(thread, _WALL)
        yield
    finally:
        _ptrace(_DETACH, thread, None, None)


def readable(*streams: Stream) -> bool:
    """Whether something has come."""
    return bool(select.select(streams, [], [], 0)[0])
