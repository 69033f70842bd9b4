"""The real daemon, listening to a simulated microphone in real time with one client on its event stream."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 20.0


class DaemonError(Exception):
    """The daemon did not do what the bench waits for; the message says what."""


@dataclass(frozen=True)
class Running:
    """What a daemon under load takes. Memory in MiB, CPU in seconds per second of audio, times in ms."""

    rss_mib: float
    pss_mib: float
    cpu_per_audio_s: float
    start_ms: float
    stop_ms: float
    events: int


def by_path(name: str) -> ModuleType:
    """The tests' simulated microphone or TPM, loaded by its path: the tests are no package of the scripts'."""
    spec = importlib.util.spec_from_file_location(name.rpartition("/")[2], ROOT / "tests" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise DaemonError(f"tests/{name}.py is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and typing look their module up
    spec.loader.exec_module(module)
    return module


def run(folder: Path, wav: Path, seconds: float, more: dict[str, Any]) -> Running:
    """Let the daemon listen to ``wav`` for so long and look at its memory then.

    ``folder`` is scratch space, ``more`` goes into the configuration.
    """
    microphones = by_path("alsa/wavmic")
    try:
        mic = microphones.WavMic(folder, wav, eof="loop")
    except microphones.PluginError as error:
        raise DaemonError(f"the simulated microphone: {error}") from None
    config = folder / "idiolect.yaml"
    control = folder / "control.sock"
    settings = {
        "audio": {"device": mic.device},
        "state_dir": str(folder),
        "control": {"socket": str(control)},
        "log_level": "warning",
        **more,
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    with _daemon(config, mic.environment) as process:
        start_ms = _first_block_ms(process, control)
        with _events(control) as stream:
            before, began = cpu_s(process.pid), time.monotonic()
            time.sleep(seconds)
            cpu = (cpu_s(process.pid) - before) / (time.monotonic() - began)
            status = ask(control, "/v1/status")
            memory = (memory_mib(process.pid, "status", "VmRSS"), memory_mib(process.pid, "smaps_rollup", "Pss"))
            events = stream.pending()
        stop_ms = _stop(process)
    if status["microphone"]["state"] != "running" or status["microphone"]["overruns"]:
        raise DaemonError(f"the microphone did not run undisturbed: {status['microphone']}")
    return Running(*memory, cpu, start_ms, stop_ms, events)


@contextmanager
def _daemon(config: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "idiolect", "--config", str(config)],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "daemon")},
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _first_block_ms(process: subprocess.Popen[bytes], control: Path) -> float:
    """From the start of the process to its first block, as the daemon itself knows it."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DaemonError(f"the daemon ended with exit code {process.returncode}")
        if control.exists():
            first = ask(control, "/v1/status")["first_block_ms"]
            if first is not None:
                return float(first)
        time.sleep(0.1)
    raise DaemonError(f"no audio was processed within {START_TIMEOUT_S:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> float:
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(10)
    except subprocess.TimeoutExpired:
        raise DaemonError("the daemon did not stop within 10 s of SIGTERM") from None
    if code != 0:
        raise DaemonError(f"the daemon ended with exit code {code} after SIGTERM")
    return (time.monotonic() - began) * 1000.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5.0)
        self._path = path

    def connect(self) -> None:
        """Reach the daemon."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(control: Path, path: str) -> dict[str, Any]:
    """One GET of the control API."""
    connection = UnixConnection(control)
    try:
        connection.request("GET", path)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    except OSError as error:
        raise DaemonError(f"the control socket does not answer: {error.strerror}") from None
    finally:
        connection.close()


class _Stream:
    """A client of the event stream that reads when asked; the kernel's socket buffer holds what came meanwhile."""

    def __init__(self, control: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(control))
        self.socket.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")

    def pending(self) -> int:
        """How many events have arrived."""
        self.socket.setblocking(False)
        received = b""
        try:
            while part := self.socket.recv(65536):
                received += part
        except BlockingIOError:
            pass
        return len(re.findall(rb"^event: (?:wake|phrase|rejected)", received, re.MULTILINE))


@contextmanager
def _events(control: Path) -> Iterator[_Stream]:
    stream = _Stream(control)
    try:
        yield stream
    finally:
        stream.socket.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process, by its own clock: /proc counts in steps of 10 ms, seconds of silence."""
    return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) makes of a pid on Linux


def memory_mib(pid: int, file: str, name: str) -> float:
    """A figure of /proc/PID/``file`` in MiB (proc_pid_status(5)); NaN where it is not there."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else float("nan")
