"""Somebody else, in a process of his own, who keeps a daemon busy; and what that costs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import speech
from tests.whole.test_service import Daemon

NOBODY, GROUP = 65_534, "daemon"
MIB = 1 << 20

_PREAMBLE = """
import socket, sys, threading, time
path, ends = sys.argv[1], time.monotonic() + float(sys.argv[2])
def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(15)
    sock.connect(path)
    return sock
def ask(data):
    with connect() as sock:
        sock.sendall(data)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer
def get(target):
    return ask(b"GET %s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % target.encode())
def on_and_on(work):
    while time.monotonic() < ends:
        try:
            work()
        except OSError:
            time.sleep(0.01)
def all_at_once(number, *works):
    threads = [threading.Thread(target=on_and_on, args=(work,)) for work in works for _ in range(number)]
    for thread in threads: thread.start()
    print("begun", flush=True)
    for thread in threads: thread.join()
"""
SIEGES = {
    "half requests": """
held = []
def hold():
    sock = connect()
    sock.sendall(b"GET /v1/sta")
    held.append(sock)
    if len(held) > 400: held.pop(0).close()
    time.sleep(0.001)
all_at_once(1, hold)
""",
    "bodies that do not come": """
def hold():
    with connect() as sock:
        sock.sendall(b"POST /v1/learning HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n"
                     b"Content-Length: 9\\r\\n\\r\\n")
        sock.recv(1)
all_at_once(120, hold)
""",
    "event streams": """
def hold():
    with connect() as sock:
        sock.sendall(b"GET /v1/events HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        while sock.recv(65536): pass
all_at_once(100, hold)
""",
    "imports": """
body = b'{"profile":"ann","document":{"examples":[' + b"{}," * ((16 << 20) // 3 - 40) + b"{}]}}"
head = b"POST /v1/import HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
def bring():
    answer = ask(head % len(body) + body)
    time.sleep(0.05)
all_at_once(6, bring)
""",
    "imports of one long text": """
body = '{"profile":"\\U0001f600","document":{"x":"'.encode() + b"a" * ((16 << 20) - 100) + b'"}}'
head = b"POST /v1/import HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
def bring():
    answer = ask(head % len(body) + body)
    time.sleep(0.05)
all_at_once(6, bring)
""",
    "questions": """
all_at_once(12, lambda: get("/v1/doctor"), lambda: get("/v1/devices"), lambda: get("/v1/status"),
            lambda: get("/v1/config"), lambda: get("/v1/openapi.json"))
""",
}


class Besieged(Daemon):
    """A whole daemon, whose control socket members of GROUP may use as role user. "ann" is paired with root."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, speech.silence(0.2))
        extra = f"  roles: {{observer: [{GROUP}], user: [{GROUP}], admin: []}}\npeople: {{ann: {{users: [root]}}}}\n"
        text = self.config.read_text().replace(
            f"control: {{socket: {folder}/control.sock}}\n", f"control:\n  socket: {folder}/control.sock\n{extra}"
        )
        self.config.write_text(text + "keystore: file\n")

    def memory(self, field: str = "VmRSS") -> float:
        """MiB, of /proc/PID/status."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))

    def at_rest(self) -> float:
        """MiB now, from where on the most is counted anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory()

    @contextmanager
    def siege(self, name: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
        """Somebody else at it until the block ends."""
        command = [_python(), "-c", _PREAMBLE + SIEGES[name], str(self.folder / "control.sock"), str(seconds)]
        child = subprocess.Popen(
            command, user=NOBODY, group=NOBODY, extra_groups=[_gid()], stdout=subprocess.PIPE, text=True, cwd="/",
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert child.stdout.readline() == "begun\n"
            yield child
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def _gid() -> int:
    import grp

    return grp.getgrnam(GROUP).gr_gid


def _python() -> str:
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([python, "-c", ""], check=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("no Python that nobody may run")


@contextmanager
def besieged() -> Iterator[Besieged]:
    """One that serves and has its keys, in a folder that others may look into."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = Path(tempfile.mkdtemp(prefix="idiolect-test-"))
    folder.chmod(0o755)
    it = Besieged(folder)
    try:
        it.start().wait(lambda: it.status() is not None, 60)
        it.wait(lambda: it.status()["personalization"]["state"] == "on", 60)
        it.wait(lambda: it.status()["first_block_ms"] is not None, 60)
        (folder / "control.sock").chmod(0o666)
        yield it
    finally:
        it.stop()
        shutil.rmtree(folder)
