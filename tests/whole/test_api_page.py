"""docs/api.md: every operation has a command, and every command is run, against a real service and in that order."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.control.api.test_openapi import check, operations, resolved, two_takes
from tests.support.fake_daemon import wait_for
from tests.support.whole import whole

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
COMMANDS = re.findall(r"^ {4}((?:curl|printf) .+?)(?: {2,}# (.*))?$", PAGE, re.MULTILINE)
STREAM = "/v1/events"


def asked(command: str) -> tuple[str, str]:
    """Method and path of a command."""
    method = "POST" if "--json" in command else "DELETE" if "-X DELETE" in command else "GET"
    return method, re.search(r"http://localhost([^\s'\"?]+)", command)[1]


def test_every_operation_has_a_command_and_every_command_is_one():
    assert {asked(command) for command, _ in COMMANDS} == operations().keys()


class Shell:
    """Runs commands of the page in a folder; ``last`` is the token that an answer brought."""

    def __init__(self, home, folder):
        self.home, self.folder, self.token = home, folder, ""

    def run(self, command: str) -> tuple[int, str]:
        command = command.replace("TOKEN", self.token)
        if "EVENT" in command:
            known = {each["name"]: each["profile"] for each in self.home.client.people()["people"]}
            command = command.replace("EVENT", self.home.hears("on", "on", known["ann"], time.time_ns() % 97))
        stream = asked(command)[1] == STREAM
        line = f"{command} -sS -w '\\n%{{http_code}}' {'--max-time 1' if stream else ''}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
            env={"S": str(self.home.socket), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == (28 if stream else 0), (command, done.stderr)  # 28: time was up
        body, _, status = done.stdout.rpartition("\n")
        if file := re.search(r" -o (\S+)", command):
            body = (self.folder / file[1]).read_text()
        return int(status), body


def test_every_command_does_what_it_says(tmp_path):
    if not (shutil.which("curl") and shutil.which("openssl")):
        pytest.skip("curl or openssl is not installed")
    folder = tmp_path / "shell"
    folder.mkdir()
    with whole(tmp_path) as home:
        shell = Shell(home, folder)
        for command, comment in COMMANDS:
            method, path = asked(command)
            _prepare(home, command)
            status, body = shell.run(command)
            expected = int(found[0]) if (found := re.match(r"\d{3}", comment)) else 200
            assert status == expected, (command, body)
            content = resolved(operations()[method, path]["responses"][str(status)])["content"]
            if "application/json" in content:
                answer = json.loads(body)
                check(content["application/json"]["schema"], answer)
                shell.token = answer.get("token", shell.token)
        assert home.client.people() == {"people": [], "active": "guest", "household": []}


def test_the_python_example_runs(tmp_path):
    code = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]
    assert "Client()" in code
    with whole(tmp_path) as home:
        code = code.replace("Client()", f"Client({str(home.socket)!r})", 1)
        process = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "always\n"
            wait_for(lambda: home.service.hub.subscribers == 1)
            home.hears("on", "on", "guest")
            assert process.stdout.readline() == "on\n"
        finally:
            process.kill()
            process.communicate(timeout=60)


def _prepare(home, command):
    """What has happened by then: the microphone is open again; ann agreed, has taught a phrase, and it was learnt."""
    deadline = time.monotonic() + 60
    while "/v1/enrol" in command and home.client.status()["microphone"]["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if "/v1/enrol/keep" in command:
        two_takes(home)
    if "/v1/correct" in command:
        home.agree("ann", "adapt_corrections", "adapt_confirmations", "household_phrases")
        home.teach("ann", "lights please")
