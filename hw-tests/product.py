"""The installed product, driven as its users do: apt, systemctl, the configuration, the control socket, the journal."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from targets.base import Done, Target

PACKAGE = "idiolect"
UNIT, SOCKET = "idiolectd.service", "idiolectd.socket"
STATE = "/var/lib/idiolect"
CONTROL = "/run/idiolect/control.sock"
SETTINGS = "/etc/idiolect/conf.d/50-hw.yaml"
CREDENTIAL = "/etc/credstore/idiolect.keystore"
DROP_INS = f"/etc/systemd/system/{UNIT}.d"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LISTENING = f"listening: {{mode: always, wake_words: [], phrases: [{', '.join(DIGITS)}], always_on: []}}\n"
CLIENT = """\
import http.client, json, socket, sys
method, path, body, seconds = json.load(sys.stdin)
made = http.client.HTTPConnection("localhost")
made.sock = socket.socket(socket.AF_UNIX)
made.sock.settimeout(seconds)
made.sock.connect(sys.argv[1])
made.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
answer = made.getresponse()
print(answer.status, answer.read().decode())
"""


class Unanswered(Exception):  # as often a state as a mistake
    """Nobody serves the control socket."""


class Refused(Exception):
    """The daemon answered with an error."""


class Product:
    """idiolectd on a target. What a test changes with ``configure`` and ``drop_in`` is undone after it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.device = target.room.device
        self.usual: dict[str, object] = {}
        """Settings beside the microphone that each test begins with."""
        self._changed: set[str] = set()
        self._since = "0"
        self.story: dict[str, float] = {}
        """What installing took, in seconds a step."""
        self.emulated = target.facts.notes.get("accelerator") == "TCG"
        """An emulated processor: times are reported, not judged."""

    # -- package ------------------------------------------------------------------------------------------------

    def apt(self, arguments: str, *, timeout: float = 240) -> Done:
        """apt-get, from the mirror."""
        options = "-y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold"
        return self.target.run(f"apt-get {options} {arguments} </dev/null", timeout=timeout, network=True)

    def dpkg(self, arguments: str) -> Done:
        """dpkg, without a mirror."""
        return self.target.run(f"dpkg {arguments} </dev/null", timeout=120)

    @property
    def version(self) -> str:
        """The installed version, "" when it is not installed."""
        done = self.target.run(f"dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' {PACKAGE}")
        status, _, version = done.out.partition(" ")
        return version if status == "installed" else ""

    # -- service ------------------------------------------------------------------------------------------------

    def systemctl(self, arguments: str, *, timeout: float = 60) -> Done:
        """Whatever comes of it."""
        return self.target.run(f"systemctl {arguments}", timeout=timeout)

    def start(self) -> None:
        """Start it; fails where systemd says that it failed."""
        self.target.check(f"systemctl reset-failed {UNIT} {SOCKET} 2>/dev/null; systemctl start {UNIT}", timeout=90)

    def restart(self) -> None:
        """Stop and start it."""
        self.target.check(f"systemctl reset-failed {UNIT} {SOCKET} 2>/dev/null; systemctl restart {UNIT}", timeout=90)

    def stop(self, *, socket: bool = False) -> None:
        """Stop it; with the socket, nobody can wake it up."""
        self.target.check(f"systemctl stop {f'{SOCKET} ' if socket else ''}{UNIT}")

    def show(self, name: str, unit: str = UNIT) -> str:
        """One property of a unit."""
        return self.target.check(f"systemctl show {unit} -p {name} --value")

    @property
    def pid(self) -> int:
        """The daemon's process, 0 when there is none."""
        return int(self.show("MainPID"))

    @property
    def line(self) -> str:
        """The status line of `systemctl status`."""
        return self.show("StatusText")

    @property
    def told(self) -> str:
        """Everything `systemctl status` shows."""
        return self.systemctl(f"status --no-pager -n 20 {UNIT}").out

    # -- settings -----------------------------------------------------------------------------------------------

    def baseline(self, **keys: object) -> str:
        """The settings that a test begins with; ``keys`` are further top-level ones, as JSON, which is YAML too."""
        keys = {**self.usual, **keys}
        audio = {"device": self.device}
        more = "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())
        return f"schema: 2\naudio: {json.dumps(audio)}\n{LISTENING}{more}"

    def configure(self, text: str, path: str = SETTINGS) -> None:
        """Write settings; they count from the next start or reload."""
        self._changed.add(path)
        self.target.put(text, path)

    def drop_in(self, text: str, *, unit: str = UNIT, name: str = "95-test.conf") -> None:
        """Change a unit."""
        path = f"/etc/systemd/system/{unit}.d/{name}"
        self._changed.add(path)
        self.target.put(text, path)
        self.target.check("systemctl daemon-reload", timeout=60)

    def begin(self) -> None:
        """As a test finds it: the usual settings, running, hearing."""
        self.target.room.hush()
        if self._changed:
            self.target.unlink(*self._changed)
            self.target.check("systemctl daemon-reload", timeout=60)
        if self._changed or self.target.run(f"test -e {SETTINGS}").rc:
            self.target.put(self.baseline(), SETTINGS)
            self.restart()
        elif self.show("ActiveState") != "active":
            self.start()
        self._changed.clear()
        self.mark()

    def touched(self, *paths: str) -> None:
        """Something else was changed: start anew for the next test."""
        self._changed |= set(paths) or {SETTINGS}

    # -- what it says -------------------------------------------------------------------------------------------

    def api(self, path: str, body: object = None, *, seconds: float = 10) -> dict[str, Any]:
        """One request to the control socket: GET, or POST with a body."""
        request = json.dumps(["GET" if body is None else "POST", path, body, seconds])
        command = f"python3 -c {shlex.quote(CLIENT)} {CONTROL}"
        done = self.target.run(command, stdin=request.encode(), timeout=seconds + 10)
        if done.rc:
            raise Unanswered(done.err.strip().splitlines()[-1] if done.err.strip() else f"exit status {done.rc}")
        status, _, text = done.out.partition(" ")
        answer: dict[str, Any] = json.loads(text)
        if status != "200":
            raise Refused(f"{status}: {answer}")
        return answer

    def status(self) -> dict[str, Any]:
        """GET /v1/status."""
        return self.api("/v1/status")

    def microphone(self) -> dict[str, Any]:
        """Its health."""
        health: dict[str, Any] = self.status()["microphone"]
        return health

    def idiolect(self, arguments: str, *, typed: str = "", timeout: float = 60) -> Done:
        """The command line."""
        return self.target.run(f"idiolect {arguments}", stdin=typed.encode(), timeout=timeout)

    def mark(self) -> None:
        """Let ``journal`` begin here."""
        done = self.target.run("journalctl --sync; journalctl -n 0 --show-cursor -q")
        found = re.search(r"cursor: (\S+)", done.out)
        self._since = found.group(1) if found else ""

    def journal(self, unit: str = UNIT, *, arguments: str = "-o cat") -> str:
        """What a unit, and systemd about it, wrote since ``mark``."""
        since = f"--after-cursor={shlex.quote(self._since)}" if self._since else ""
        return self.target.run(f"journalctl --sync; journalctl --no-pager -q {since} -u {unit} {arguments}").out

    # -- hearing ------------------------------------------------------------------------------------------------

    def running(self, seconds: float = 15) -> dict[str, Any]:
        """Wait until it hears the microphone; its status then."""

        def heard() -> dict[str, Any] | None:
            try:
                status = self.status()
            except Unanswered:
                return None
            good = status["microphone"]["state"] == "running" and status["first_block_ms"] is not None
            return status if good else None

        found: dict[str, Any] = self.target.wait(heard, seconds, "the daemon hears the microphone")
        return found

    def events(self, kind: str = "phrase") -> list[dict[str, Any]]:
        """The last events of a kind, oldest first."""
        recent = self.api("/v1/events/recent")["events"]
        return [event for event in recent if event["kind"] == kind]

    @contextmanager
    def hears(self, *phrases: str, kind: str = "phrase", seconds: float = 10) -> Iterator[list[dict[str, Any]]]:
        """What is said within becomes just these events; they are in the list afterwards."""
        before = {event["id"] for event in self.events(kind)}
        fresh: list[dict[str, Any]] = []
        yield fresh

        def all_of_them() -> list[dict[str, Any]] | None:
            found = [event for event in self.events(kind) if event["id"] not in before]
            return found if len(found) >= len(phrases) else None

        fresh += self.target.wait(all_of_them, seconds, f"{', '.join(phrases)} heard")
        names = [event.get("phrase") for event in fresh]
        assert names == list(phrases), f"said {phrases}, heard {names}"

    def say(self, *numbers: int) -> None:
        """Speak digits, one after the other, into the room."""
        for number in numbers:
            self.target.room.say(digit(number))
            time.sleep(0.3)

    def understands(self, *numbers: int) -> list[dict[str, Any]]:
        """Digits are spoken and heard."""
        with self.hears(*(DIGITS[number] for number in numbers)) as events:
            self.say(*numbers)
        return events


def digit(number: int) -> Any:
    """A spoken digit, from Debian's recordings; quiet around it."""
    import pytest

    from tests.support import speech

    if not speech.SOUNDS.is_dir():
        pytest.skip(f"no recordings in {speech.SOUNDS}: run scripts/setup")
    return speech.digit(number)


def wake_words(word: str, count: int) -> list[Any]:
    """Real recordings of a wake word, where there are any beside the checkout; else the test is skipped."""
    import os

    import numpy as np
    import pytest
    import soundfile

    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("IDIOLECT_DATA", root.parent / "shared" / "data")) / "phrases" / word
    files = sorted(folder.glob("*.flac"))[:count]
    if not files:
        pytest.skip("no recordings of wake words: set IDIOLECT_DATA")
    return [np.asarray(soundfile.read(str(file), dtype="int16")[0]) for file in files]
