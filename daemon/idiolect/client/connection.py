"""Requests over the control socket as bytes, and what goes wrong in words: HTTP on a Unix socket, one connection each.

Standard library only, and quick to import.
"""

from __future__ import annotations

import grp
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from idiolect.errors import IdiolectError, RequestError
from idiolect.host import structure

_MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of one answer: more is no answer of ours. The longest is a person's copy."""
_MAX_PARTS = 1 << 18
"""Brackets and commas in one."""
_MAX_LINE = 65_536
"""Bytes of one line in the event stream."""
_BUSY_S = 0.01
"""Between two tries to connect to a daemon that too many others are connecting to."""
_JOURNAL = "journalctl -u idiolectd -n 50"
_OF_THE_UNIT = "/run/idiolect/control.sock"
"""The socket that systemd has for the daemon: of another one it knows nothing."""
_SYSTEMD = Path("/run/systemd/system")
"""There where systemd is the service manager, sd_booted(3)."""
_SILENCE_S = 40.0
"""A stream without a line for so long is dead: the daemon sends a heartbeat every 15 s."""


class NoAnswerError(IdiolectError):
    """The daemon gave no answer; ``fix`` is the next step."""

    exit_code = 69  # EX_UNAVAILABLE

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}: {fix}")
        self.message = message
        self.fix = fix


class UnreachableError(NoAnswerError):
    """There is no daemon at the socket, or it has no time for us."""


class NotPermittedError(NoAnswerError):
    """The daemon, or its socket's mode, refuses us; ``fix`` says which group to join."""

    exit_code = 77  # EX_NOPERM


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        ends = time.monotonic() + (self.timeout or 0.0)
        while True:
            try:
                return self.sock.connect(self._path)
            except BlockingIOError:  # more are waiting than the kernel holds: it is busy, and not gone
                if time.monotonic() >= ends:
                    raise TimeoutError from None
                time.sleep(_BUSY_S)


def _written(body: Mapping[str, object]) -> bytes:
    """Return a body as JSON in as few bytes as there are; half a character is left to the daemon to refuse."""
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(body).encode()


@contextmanager
def exchange(
    path: str, timeout: float, method: str, target: str, *,
    body: Mapping[str, object] | None = None, headers: Mapping[str, str] | None = None,
) -> Iterator[Exchange]:  # fmt: skip
    """Ask the daemon at ``path``, and give its answer if it is a good one; otherwise raise the reason."""
    connection = _UnixConnection(path, timeout)
    payload = None if body is None else _written(body)
    kind = {} if body is None else {"Content-Type": "application/json"}
    try:
        connection.request(method, target, payload, {**(headers or {}), **kind})
        sock = connection.sock  # getresponse drops it, as the daemon closes after each answer
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise explain(path, error) from None
    with closing(connection), closing(response):
        answer = Exchange(path, sock, response)
        if response.status != http.client.OK:
            raise _refusal(response, answer.object())
        yield answer


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer that is being read."""

    path: str
    sock: socket.socket
    response: http.client.HTTPResponse

    def object(self) -> dict[str, object]:
        """All of it, as a JSON object."""
        return _parse(self._all())

    def text(self) -> str:
        """All of it, as text."""
        return self._all().decode(errors="replace")

    def line(self, deadline: float | None) -> str:
        """The next line with its end; "" where the stream ends. ``TimeoutError`` after ``deadline``."""
        left = _SILENCE_S if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(min(left, _SILENCE_S))
        try:
            return self.response.readline(_MAX_LINE).decode(errors="replace")
        except TimeoutError:
            if left <= _SILENCE_S and deadline is not None:
                raise
            return ""  # without even a heartbeat: the daemon hangs
        except (OSError, http.client.HTTPException):
            return ""

    def _all(self) -> bytes:
        try:
            return self.response.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise explain(self.path, error) from None


def frames(answer: Exchange, deadline: float | None) -> Iterator[tuple[str, str, dict[str, object]]]:
    """The Server-Sent Events of an answer: id ("" without one), kind, data ({} where there is only an id)."""
    fields: dict[str, str] = {}
    while line := answer.line(deadline):
        name, _, value = line.partition(": ")
        if line != "\n":
            fields[name] = value.rstrip("\n")
        elif "data" in fields or "id" in fields:
            data = _parse(fields["data"].encode()) if "data" in fields else {}
            yield fields.get("id", ""), fields.get("event", ""), data
            fields = {}


def _parse(raw: bytes) -> dict[str, object]:
    try:
        answer = structure.load(raw, parts=_MAX_PARTS)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UnreachableError("what answers there does not talk like idiolectd", "is --socket right?")
    return answer


def _refusal(response: http.client.HTTPResponse, answer: Mapping[str, object]) -> IdiolectError:
    error = answer.get("error")
    details = error if isinstance(error, dict) else {}
    field, message = str(details.get("field", "")), str(details.get("message", response.reason))
    hurried = response.status == http.client.TOO_MANY_REQUESTS and field == "rate"
    if hurried or response.status in (http.client.FORBIDDEN, http.client.SERVICE_UNAVAILABLE):
        kind = NotPermittedError if response.status == http.client.FORBIDDEN else UnreachableError
        what, _, fix = message.partition(": ")  # so the daemon words its refusals
        return kind(what, fix or "try again")
    return RequestError(response.status, field, f"{field}: {message}" if field else message)


def explain(path: str, error: Exception) -> NoAnswerError:
    """Why the daemon at ``path`` did not answer, and what to do."""
    if isinstance(error, PermissionError):
        return NotPermittedError(f"no permission to use {path}", _which_group(path))
    if isinstance(error, FileNotFoundError | ConnectionError) and (failed := _failed(path)):
        return UnreachableError(failed, f"see '{_JOURNAL}'; once that is mended: sudo systemctl restart idiolectd")
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return UnreachableError(f"idiolectd is not running (nobody answers at {path})", how_to_start())
    if isinstance(error, TimeoutError):
        return UnreachableError(f"idiolectd at {path} does not answer in time", f"see '{_JOURNAL}'")
    if isinstance(error, ConnectionError):
        fix = f"it is stopping, or has too many clients; try again, or see '{_JOURNAL}'"
        return UnreachableError(f"idiolectd at {path} hung up", fix)
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else type(error).__name__
    return UnreachableError(f"idiolectd at {path} cannot be asked ({reason})", "is --socket right?")


def _failed(path: str) -> str:
    """How the service failed, as systemd has it; "" where it did not, or where systemd does not say."""
    if path != _OF_THE_UNIT or not _SYSTEMD.is_dir():
        return ""
    import subprocess  # slow to import, and seldom needed

    wanted = "--property=ActiveState,Result,ExecMainStatus,StatusText"
    command = ["systemctl", "show", "idiolectd.service", wanted]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    state = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    if state.get("ActiveState") != "failed":
        return ""
    reason = f": {state['StatusText']}" if state.get("StatusText") else ""
    return f"idiolectd failed ({state.get('Result')}, exit status {state.get('ExecMainStatus')}){reason}"


def how_to_start() -> str:
    """The next step for somebody without a running daemon."""
    if _SYSTEMD.is_dir():
        return f"start it with 'sudo systemctl start idiolectd', or see why it stopped with '{_JOURNAL}'"
    return "start it with 'idiolectd', or name the socket of a running one with --socket"


def _which_group(path: str) -> str:
    """The group that may use the socket, as far as we can see it: of the socket, or of the directory it hides in."""
    for place in (Path(path), Path(path).parent):
        try:
            name = grp.getgrgid(place.stat().st_gid).gr_name
        except (OSError, KeyError):
            continue
        if name != "root":
            return f"join the group {name} (sudo usermod -aG {name} $USER), then log in again"
    return "join the group that control.roles in the daemon's configuration names, or use sudo"
