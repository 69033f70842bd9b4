"""What systemd hears, over a real notification socket and real libsystemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from idiolect.errors import ConfigError, Problem, reason
from idiolect.host.systemd import Notifier, SystemdError, message_id
from idiolect.listening.audio.capture import BlockQueue
from idiolect.service.supervision import Condition, Supervision, describe
from idiolect.trust.device.keys import View
from idiolect.values import BLOCK, Captured, MicrophoneHealth
from tests.support.alsa import require_wavmic
from tests.whole.test_service import Daemon, room

pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")


class Manager:
    """The service manager's end of the socket: every message with the time when it came."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(0.05)
        self._began = time.monotonic()
        self.heard: list[tuple[float, str]] = []

    def listen(self, seconds=0.0):
        """Take what has come, for so long."""
        ends = time.monotonic() + seconds
        while True:
            with contextlib.suppress(TimeoutError):
                for line in self._socket.recv(4096).decode().splitlines():
                    self.heard.append((time.monotonic() - self._began, line))
                continue
            if time.monotonic() > ends:
                return self

    def lines(self, start=""):
        return [line for _, line in self.heard if line.startswith(start)]

    def wait(self, start, seconds=10.0):
        ends = time.monotonic() + seconds
        while not self.lines(start):
            assert time.monotonic() < ends, self.heard
            self.listen()

    def close(self):
        self._socket.close()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    manager = Manager(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield manager
    manager.close()


@pytest.fixture
def daemon(tmp_path):
    require_wavmic()
    running = []

    def make(*args, **wishes):
        running.append(Daemon(tmp_path, *args, **wishes))
        return running[-1]

    yield make
    for one in running:
        one.stop()


# -- the whole daemon ----------------------------------------------------------------------------------------------


@pytest.mark.pace
def test_ready_comes_when_control_serves_and_the_microphone_was_tried(daemon, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    d = daemon(room(4)).start()
    manager.wait("READY=1")
    assert d.status()["microphone"]["state"] == "running"  # and it answers
    assert manager.lines("STATUS=listening to ")
    fed = len(manager.lines("WATCHDOG=1"))
    manager.listen(2.5)
    fed = len(manager.lines("WATCHDOG=1")) - fed
    assert 3 <= fed <= 8  # five times in two seconds, give or take naps
    d.client.post("/v1/listening", {"active": False})
    manager.wait("STATUS=paused")
    d.stop()
    manager.listen(0.2)
    assert manager.lines()[-1] == "STOPPING=1"
    assert len(manager.lines("READY=1")) == 1
    assert not [line for line in manager.lines() if "four" in line]


def test_it_is_ready_without_a_microphone_and_says_so_and_the_search_keeps_it_alive(daemon, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    d = daemon(room(4))
    d.write(device="hw:CARD=nowhere")
    d.start()
    manager.wait("READY=1")
    assert manager.lines("STATUS=no sound (absent)")
    manager.listen(2.5)  # attempts come after 0.25, 0.75, 1.75 s
    assert len(manager.lines("WATCHDOG=1")) >= 2
    d.write()
    d.process.send_signal(signal.SIGHUP)
    manager.wait("STATUS=listening to ")
    states = [line for line in manager.lines() if line in ("READY=1", "RELOADING=1")]
    assert states == ["READY=1", "RELOADING=1", "READY=1"]


def test_a_refused_reload_is_told_and_the_next_good_one_forgets_it(daemon, manager):
    d = daemon(room(4)).start()
    manager.wait("READY=1")
    good = d.config.read_text()
    d.config.write_text(good + "\nlisten: {}\nvolume: 3\n")
    d.process.send_signal(signal.SIGHUP)
    manager.wait("STATUS=configuration refused")
    assert "and 1 more" in manager.lines("STATUS=configuration refused")[0]
    d.config.write_text(good)
    d.process.send_signal(signal.SIGHUP)
    d.wait(lambda: manager.listen().lines("STATUS=")[-1].startswith("STATUS=listening to"))


def test_who_does_not_start_says_why(daemon, manager):
    d = daemon(room(4))
    d.config.write_text("schema: 99\n")
    d.start()
    assert d.process.wait(60) == 78
    manager.listen(0.2)
    (line,) = manager.lines("STATUS=did not start: ")
    assert "schema" in line
    assert not manager.lines("READY=1")


def test_without_systemd_python_the_time_out_is_not_waited_for(tmp_path, manager):
    (tmp_path / "systemd.py").write_text("raise ImportError('not here')")
    code = "from idiolect.host.systemd import Notifier; Notifier()"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert run.returncode != 0
    assert b"systemd-python is missing: pip install" in run.stderr
    assert SystemdError.exit_code == 78


# -- the watchdog's food -------------------------------------------------------------------------------------------


class Watched:
    """A supervision on a loop of its own."""

    def __init__(self, watchdog_s=0.5):
        os.environ["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.queue = BlockQueue(25)
        self.health = MicrophoneHealth()
        self.supervision = Supervision(Notifier(), self.queue, self.look)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.loop.call_soon_threadsafe(self.supervision.serving)
        time.sleep(0.05)

    def look(self):
        return Condition(self.health, View("file"), False, "bundle x v1")

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def watched(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "0")
    watched = Watched()
    yield watched
    watched.stop()


def block():
    return Captured(np.zeros(BLOCK, np.float32), 0)


def test_a_search_feeds_it_unless_recognition_leaves_blocks_lying(watched, manager):
    watched.supervision.searching()
    assert len(manager.listen(0.1).lines("WATCHDOG")) == 1
    watched.queue.put(block())
    time.sleep(0.15)
    watched.supervision.searching()
    assert len(manager.listen(0.1).lines("WATCHDOG")) == 1
    watched.supervision.processed()
    assert len(manager.listen(0.1).lines("WATCHDOG")) == 2


def test_it_is_not_fed_oftener_than_needed(watched, manager):
    for _ in range(100):
        watched.supervision.processed()
    assert len(manager.listen(0.1).lines("WATCHDOG")) == 1


def test_a_main_loop_that_hangs_feeds_nobody(watched, manager):
    gate = threading.Event()
    watched.loop.call_soon_threadsafe(gate.wait)
    for _ in range(4):
        watched.supervision.processed()
        time.sleep(0.12)
    assert not manager.listen(0.1).lines("WATCHDOG")
    gate.set()
    assert manager.listen(0.2).lines("WATCHDOG")


def test_a_watchdog_that_is_another_process_s_is_not_fed(monkeypatch, manager):
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier().watchdog_s == 0.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier().watchdog_s == 1.0
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert Notifier().watchdog_s == 0.0


# -- the sentence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        (
            Condition(
                MicrophoneHealth(state="running", device="hw:1"), View("tpm", "released", protected=True), False, "b"
            ),
            "listening to hw:1; keys released; b",
        ),
        (
            Condition(MicrophoneHealth(state="busy", reason="taken", fix="use dsnoop"), View("file"), False, "b"),
            "no sound (busy): taken: use dsnoop; b",
        ),
        (
            Condition(MicrophoneHealth(), View("tpm", "absent", "no TPM", "plug it in"), True, "b", "f:1: is wrong"),
            "f:1: is wrong; paused: idiolect resume listening; "
            "base model only: no TPM: plug it in; b",
        ),
    ],
)  # fmt: skip
def test_the_sentence_names_the_trouble_and_the_next_step(condition, wanted):
    assert describe(condition) == wanted


def test_a_status_line_is_one_short_line_and_said_once(manager):
    notifier = Notifier()
    notifier.status("a\nb\tc " + "x" * 500)
    notifier.status("a b c " + "x" * 500)
    (line,) = manager.listen(0.1).lines()
    assert line.startswith("STATUS=a b c x")
    assert len(line) <= 207


def test_many_problems_are_one_and_a_number():
    problems = tuple(Problem("f", line, "k", "is wrong") for line in (1, 2, 3))
    assert reason(ConfigError(problems)).endswith("(and 2 more: idiolect config check)")
    assert "more" not in reason(ConfigError(problems[:1]))


def test_message_ids_are_for_good():
    assert message_id("stopped") == "f1babf79ab6056798dacdaa02de2fc2a"
