"""Targets for what the other ends of our pipes and sockets say: the daemon to its worker, the worker to the daemon, and
whatever answers on the control socket to the client.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

from idiolect.client import connection
from idiolect.learning.messages import ANSWER_CAP, REQUEST_CAP, ask, read_replay, read_request, unpack
from idiolect.learning.worker import frames
from idiolect.learning.worker.process import Worker, _Pipes
from tests.fuzz import learnt
from tests.fuzz.machine import folder


def request(data: bytes) -> None:
    """A request, on the worker's side: the body of a frame. ``{"real": NAME}`` is one of the model's large arrays."""
    read_request(_filled(unpack(data, REQUEST_CAP)))


@cache
def _arrays() -> dict[str, Any]:
    import msgpack

    model = msgpack.unpackb(good_request())["model"]
    return {f"{part}.{name}": array for part in ("head", "space") for name, array in model[part].items()}


def _filled(part: Any) -> Any:
    if isinstance(part, dict):
        if isinstance(part.get("real"), str):
            return _arrays().get(part["real"], part)
        return {name: _filled(each) for name, each in part.items()}
    return [_filled(each) for each in part] if isinstance(part, list) else part


@cache
def good_request() -> bytes:
    """A small one: a model of few windows."""
    whole = learnt.request()
    some = slice(0, 4)
    strata = {kind: values[some] for kind, values in whole.model.guard_strata.items()}
    small = replace(
        whole.model, guard_stored=whole.model.guard_stored[some], guard_labels=whole.model.guard_labels[some],
        guard_strata=strata,
    )  # fmt: skip
    return ask(replace(whole, model=small))


def cut_requests() -> list[bytes]:
    """What fits a fuzzer's inputs: the real one, its arrays by their names."""
    import msgpack

    message = msgpack.unpackb(good_request())
    for part in ("head", "space"):
        message["model"][part] = {name: {"real": f"{part}.{name}"} for name in message["model"][part]}
    guard = message["model"]["guard"]
    guard |= {"shape": [1, *guard["shape"][1:]], "data": guard["data"][: len(guard["data"]) // guard["shape"][0]]}
    message["examples"] = message["examples"][:1]
    return [msgpack.packb(message), msgpack.packb({**message, "examples": [], "task": "selftest"})]


def replay(data: bytes) -> None:
    """The worker's answer to a replay."""
    assert isinstance(read_replay(unpack(data[frames.HEADER :], ANSWER_CAP)), bytes)


def pipe(data: bytes) -> None:
    """The daemon's end of the pipe: hello, then an answer, from a child that says what it likes and leaves."""
    here, there = os.pipe()
    silent, unread = os.pipe()
    with closing(os.fdopen(here, "rb", 0)) as out, closing(os.fdopen(unread, "wb", 0)) as into:
        try:
            os.set_blocking(there, False)
            os.write(there, data[:60_000])
        finally:
            os.close(there)
            os.close(silent)

        class Child:
            stdin, stdout = into, out

        pipes = _Pipes(Child(), 10.0)  # type: ignore[arg-type]
        Worker()._hello(pipes)
        assert len(pipes.receive(ANSWER_CAP)) <= ANSWER_CAP


def good_pipe() -> bytes:
    return frames.pack(b'[["limits", true, "64 MiB"]]') + learnt.good_selftest()


def child(data: bytes) -> None:
    """A real child that says what it likes, through the real ``Worker``."""
    path = folder() / "says"
    path.write_bytes(data)
    Worker(["/bin/cat", str(path)], wall_s=10.0).run(b"request", ANSWER_CAP)


def worker(data: bytes) -> None:
    """A real worker, confined as it is, gets a request of anybody; the last bytes of a good one are ``data``.

    It answers, and dies of no signal: with 0, or with 65 and an error of ours.
    """
    from idiolect.learning.worker.process import _environment

    good = good_request()
    body = data[1:] if data[:1] == b"\1" else good[: max(0, len(good) - len(data))] + data[1:]
    whole = frames.pack(body) if data[-1:] != b"\2" else frames.pack(body)[:-1]
    command = [*Worker()._command]
    done = subprocess.run(
        command, input=whole, capture_output=True, env=_environment(), cwd="/", timeout=60, check=False
    )
    assert done.returncode in (0, 65), f"it ended with {done.returncode}"
    said = frames.size(done.stdout[: frames.HEADER], 4096)
    answer = done.stdout[frames.HEADER + said :]
    size = frames.size(answer[: frames.HEADER], ANSWER_CAP)
    assert frames.body(answer[: frames.HEADER], answer[frames.HEADER : frames.HEADER + size])


# -- a daemon, to its client -------------------------------------------------------------------------------------------


@cache
def _listener() -> tuple[str, socket.socket]:
    path = str(folder() / "control.sock")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(8)
    return path, sock


def _answered(data: bytes, asked: Any) -> None:
    path, sock = _listener()

    def serve() -> None:
        there, _ = sock.accept()
        with there:
            try:
                there.sendall(data)
                there.shutdown(socket.SHUT_WR)
                while there.recv(65_536):
                    pass
            except OSError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        asked(path)
    finally:
        thread.join()


def answer(data: bytes) -> None:
    """What answers on the control socket may be anything."""

    def asked(path: str) -> None:
        with connection.exchange(path, 5.0, "GET", "/v1/status") as got:
            assert isinstance(got.object(), dict)

    _answered(data, asked)


def stream(data: bytes) -> None:
    """The same for the stream of events."""

    def asked(path: str) -> None:
        with connection.exchange(path, 5.0, "GET", "/v1/events") as got:
            for ident, kind, fields in connection.frames(got, None):
                assert isinstance(ident + kind, str)
                assert isinstance(fields, dict)

    _answered(data, asked)


def good_answers() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    body = b'{"version": "0.1.0", "keys": {"state": "released"}}\n'
    refusal = b'{"error": {"field": "profile", "message": "is needed: text"}}\n'
    event = b'retry: 1000\nid: a.1\n: here\n\nid: a.2\nevent: wake\ndata: {"kind": "wake", "phrase": "computer"}\n\n'
    return [
        head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(refusal) + refusal,
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\n\r\n" + refusal,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + head + b"\r\n" + event * 2,
    ]
