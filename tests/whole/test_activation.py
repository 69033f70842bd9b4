"""What systemd hands to the daemon: the control socket, other sockets that it must not keep, and public keys."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from idiolect.client import Client
from idiolect.client.connection import UnreachableError
from idiolect.config.schema import Config, Trust
from idiolect.errors import BundleError
from idiolect.trust.bundle import choose
from tests.support import bundles

DAEMON = Path(__file__).parents[2] / "daemon"
# A process of its own, as the descriptors have to begin with 3 and LISTEN_PID has to be its own.
CHILD = """
import json, logging, os, sys
from pathlib import Path
logging.basicConfig(stream=sys.stderr)
given = [int(each) for each in sys.argv[2:]]
moved = [os.dup(each) for each in given]
for index, each in enumerate(moved):
    os.dup2(each, 100 + index)
for index in range(len(moved)):
    os.dup2(100 + index, 3 + index)
os.closerange(3 + len(moved), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
from idiolect.control.sockets import open_listener
listener = open_listener(Path(sys.argv[1]))
def family(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
    except OSError:
        return ""
print(json.dumps({"path": listener.socket.getsockname(), "left": [family(3 + i) for i in range(len(moved))]}))
import socket
for fd in range(3, 3 + len(moved)):  # what somebody who broke in would try with all that is left
    sock = None
    try:
        sock = socket.socket(fileno=os.dup(fd))
        if sock.family == socket.AF_INET:
            import ctypes
            ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16)  # AF_UNSPEC: no listener any more
            sock.connect(("127.0.0.1", int(os.environ["TARGET"])))
            print("escaped")
    except OSError:
        pass
"""


class Activation:
    """Sockets to be inherited, in order and with names."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self._passed: list[tuple[str, socket.socket]] = []

    def unix(self, name: str, kind=socket.SOCK_STREAM) -> Path:
        path = self.folder / f"{name}.sock"
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        sock.bind(str(path))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        self._passed.append((name, sock))
        return path

    def client(self, path: Path) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(str(path))
        return sock

    def tcp(self, name: str) -> None:
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        self._passed.append((name, sock))

    def run(self, code: str = CHILD, **environment: str) -> subprocess.CompletedProcess[str]:
        fds = [sock.fileno() for _, sock in self._passed]
        listen = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(name for name, _ in self._passed)}
        return subprocess.run(
            [sys.executable, "-c", code, str(self.folder / "own.sock"), *map(str, fds)],
            env=os.environ | listen | {"PYTHONPATH": str(DAEMON)} | environment,
            pass_fds=fds,
            capture_output=True,
            text=True,
            check=True,
        )


@pytest.fixture
def activation(tmp_path):
    with ExitStack() as stack:
        yield Activation(tmp_path, stack)


def test_the_socket_of_our_name_is_taken_whatever_the_order(activation):
    activation.unix("page")
    control = activation.unix("control")
    answer = json.loads(activation.run().stdout)
    assert answer["path"] == str(control)
    assert answer["left"] == ["", "socket"]  # the other one is closed: who connects is refused, and does not wait


def test_a_datagram_socket_is_not_taken_for_it(activation):
    activation.unix("datagrams", socket.SOCK_DGRAM)
    control = activation.unix("anything")
    assert json.loads(activation.run().stdout)["path"] == str(control)


def test_without_any_the_configured_one_is_made_and_under_systemd_that_is_said(activation):
    answer = activation.run(NOTIFY_SOCKET=str(activation.folder / "notify"))
    assert json.loads(answer.stdout)["path"] == str(activation.folder / "own.sock")
    assert "is idiolectd.socket masked?" in answer.stderr
    assert "masked" not in activation.run(NOTIFY_SOCKET="").stderr


SERVES = (
    CHILD[: CHILD.index("from idiolect")]
    + """
import asyncio
from idiolect.control.sockets import open_listener
from idiolect.control.serving import Acceptor
async def serve():
    acceptor = Acceptor(lambda: open_listener(Path(sys.argv[1])), lambda reader, writer: None)
    await acceptor.start()
    for path in filter(None, [os.environ.get("REPLACED")]):
        os.unlink(path)
        Path(path).touch()
    await acceptor.stop()
asyncio.run(serve())
"""
)


def test_systemds_socket_is_still_there_when_the_daemon_has_gone(activation):
    """Else nobody could talk to the next one. (asyncio of Python 3.13 removes the file unless told not to.)"""
    control = activation.unix("control")
    activation.run(SERVES)
    assert control.is_socket()


def test_a_socket_of_ones_own_goes_with_the_daemon_and_somebody_elses_in_its_place_stays(activation):
    own = activation.folder / "own.sock"
    activation.run(SERVES)
    assert not own.exists()
    activation.run(SERVES, REPLACED=str(own))
    assert own.is_file()


class Outside:
    """A server on the host's network, which nothing in a confined process may reach."""

    def __enter__(self) -> Outside:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self._socket.settimeout(1.0)
        self.port = self._socket.getsockname()[1]
        self.reached = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def _accept(self) -> None:
        try:
            self._socket.accept()[0].close()
            self.reached = True
        except TimeoutError:
            pass

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()


UNSHARED = "import ctypes, os\nif ctypes.CDLL(None, use_errno=True).unshare(0x40000000): raise SystemExit('unshare')\n"
KEEPS_IT = CHILD.replace("listener = open_listener(Path(sys.argv[1]))", "class listener: socket = None").replace(
    "listener.socket.getsockname()", "None"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace, which takes root")
def test_an_inherited_tcp_listener_leaves_an_empty_network_namespace_and_so_is_closed(activation):
    """First that the escape is real, in a process that keeps the socket; then that ours does not."""
    activation.tcp("web")
    with Outside() as outside:
        assert "escaped" in activation.run(UNSHARED + KEEPS_IT, TARGET=str(outside.port)).stdout
    assert outside.reached
    with Outside() as outside:
        answer = activation.run(UNSHARED + CHILD, TARGET=str(outside.port))
        assert json.loads(answer.stdout.splitlines()[0])["path"] == str(activation.folder / "own.sock")
        assert "escaped" not in answer.stdout
        assert "TCP or UDP socket was passed" in answer.stderr
    assert not outside.reached


# -- keys ------------------------------------------------------------------------------------------------------------


def pem(name: str) -> bytes:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return bundles.key(name).public_key().public_bytes(serialization.Encoding.PEM, kind)


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def test_in_the_unit_systemds_copies_of_the_standard_directory_count(credentials):
    (credentials / "keys.d_vendor.pem").write_bytes(pem("bundle"))
    (credentials / "other.pem").write_bytes(pem("stranger"))
    keys = choose.trusted_keys(Config())
    assert [each.file for each in keys.keys] == ["keys.d_vendor.pem"]
    assert not keys.revoked
    (credentials / "keys.d_revoked").write_text(keys.keys[0].fingerprint + "\n")
    assert choose.trusted_keys(Config()).revoked == {keys.keys[0].fingerprint}


def test_with_no_key_among_the_credentials_nobody_is_trusted_and_a_directory_of_ones_own_is_read(credentials, tmp_path):
    assert choose.trusted_keys(Config()).keys == ()
    own = tmp_path / "keys"
    own.mkdir()
    (own / "mine.pem").write_bytes(pem("bundle"))
    assert [each.file for each in choose.trusted_keys(Config(trust=Trust(keys_dir=own))).keys] == ["mine.pem"]


def test_a_damaged_copy_refuses_all(credentials):
    (credentials / "keys.d_vendor.pem").write_bytes(b"garbage")
    with pytest.raises(BundleError, match=r"keys.d_vendor.pem"):
        choose.trusted_keys(Config())


# -- a start that fails ------------------------------------------------------------------------------------------------

TURNS_AWAY = (
    CHILD[: CHILD.index("from idiolect")]
    + "from idiolect.control.turning_away import turn_away\nprint(turn_away('/etc/idiolect/x.yaml:3: no'))\n"
)


def test_all_who_wait_for_a_daemon_that_cannot_start_are_told_why(activation):
    """Also who has not asked yet. Nobody is left for whom systemd would start it again."""
    path = activation.unix("control")
    asked, silent = (activation.client(path) for _ in range(2))
    asked.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert activation.run(TURNS_AWAY).stdout.strip() == "2"
    for client in (asked, silent):
        response = http.client.HTTPResponse(client)
        response.begin()
        answer = json.loads(response.read())
        assert (response.status, response.headers["Connection"]) == (503, "close")
        assert answer["error"]["message"].startswith("idiolectd did not start: /etc/idiolect/x.yaml:3: no; see 'journ")
    assert activation.run(TURNS_AWAY).stdout.strip() == "0"


def test_a_daemon_that_a_client_woke_tells_it_which_line_is_wrong(activation):
    """The whole program, as systemd starts it: exit status 78, and whoever asks through the library hears of it."""
    path = activation.unix("control")
    (activation.folder / "wrong.yaml").write_text("schema: 2\nlistening:\n  timeout_s: 0\n")
    ready = CHILD[: CHILD.index("from idiolect")].replace("sys.argv[2:]", "sys.argv[2:3]")
    program = ready + (
        "from idiolect.service.service import start\n"
        f"code = start([Path({str(activation.folder / 'wrong.yaml')!r})])\n"
        "print(code)\n"
    )
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(Client(str(path)).status)
        wait_until_somebody_connects(path)
        assert activation.run(program).stdout.strip() == "78"
        told = asking.exception(60)
    assert isinstance(told, UnreachableError)
    assert told.message == "idiolectd did not start"
    assert "wrong.yaml:3" in told.fix
    assert "systemctl restart idiolectd" in told.fix


def wait_until_somebody_connects(path):
    """Until the kernel lists a connection to the socket that nobody has accepted, proc_net(5): state 2, connecting."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(str(path))]
        if any(fields[5] != "01" for fields in lines):
            return
        time.sleep(0.01)
    raise TimeoutError("nobody connects")
