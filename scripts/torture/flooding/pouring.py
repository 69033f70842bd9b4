"""How a stranger floods a socket: many connections of one process, each sending the same again and again."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PIECE = 65_536
AGAIN_S = 0.005
"""From a connection that was refused or ended to the next one in its place."""


@dataclass
class Poured:
    """What a flood got rid of so far, shared between processes: ``multiprocessing.Value`` each."""

    bytes: Any
    connections: Any


@dataclass(frozen=True)
class Stream:
    """What one connection sends: ``first`` and ``body`` once, then ``again`` without end.

    What is answered is read only with ``read``, or where there is nothing to send ``again``. Whoever is hung up on
    comes again.
    """

    first: bytes = b""
    again: bytes = b""
    read: bool = False
    body: bytes = b""


@dataclass(eq=False)
class _Line:
    stream: Stream
    todo: list[bytes] = field(default_factory=list)
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    sock: socket.socket | None = None
    due: float = 0.0


class Pourer:
    """So many connections to ``path``, kept up until the process is killed."""

    def __init__(self, path: Path, streams: Sequence[Stream], poured: Poured, per_s: float = 0.0) -> None:
        """``per_s``: so many new connections a second; 0: as many as can be."""
        self._path, self._poured = str(path), poured
        self._lines = [_Line(stream) for stream in streams]
        self._selector = selectors.DefaultSelector()
        self._every = 1 / per_s if per_s else 0.0
        self._next = time.monotonic()

    def run(self) -> None:
        """Never returns."""
        while True:
            self._open_those_that_are_due()
            for key, events in self._selector.select(AGAIN_S):
                line: _Line = key.data
                try:
                    if events & selectors.EVENT_READ:
                        self._read(line)
                    if line.sock is not None and events & selectors.EVENT_WRITE:
                        self._write(line)
                except OSError:
                    self._end(line)

    def _open_those_that_are_due(self) -> None:
        now = time.monotonic()
        for line in self._lines:
            if line.sock is None and line.due <= now and self._next <= now:
                self._next = max(self._next, now - 0.1) + self._every
                self._open(line)

    def _open(self, line: _Line) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError:  # its backlog is full
            sock.close()
            line.due = time.monotonic() + AGAIN_S
            return
        stream = line.stream
        line.sock, line.rest = sock, memoryview(b"")
        line.todo = [part for part in (stream.body, stream.first) if part]
        reads = selectors.EVENT_READ if stream.read or not stream.again else 0
        writes = selectors.EVENT_WRITE if line.todo or stream.again else 0
        self._selector.register(sock, reads | writes, line)
        self._poured.connections.value += 1

    def _read(self, line: _Line) -> None:
        if line.sock is not None and not line.sock.recv(PIECE):
            self._end(line)

    def _write(self, line: _Line) -> None:
        if line.sock is None:
            return
        if not line.rest:
            line.rest = memoryview(line.todo.pop() if line.todo else line.stream.again)
        if not line.rest:
            self._selector.modify(line.sock, selectors.EVENT_READ, line)
            return
        with contextlib.suppress(BlockingIOError):
            sent = line.sock.send(line.rest[:PIECE])
            line.rest = line.rest[sent:]
            self._poured.bytes.value += sent

    def _end(self, line: _Line) -> None:
        if line.sock is not None:
            self._selector.unregister(line.sock)
            line.sock.close()
        line.sock, line.due = None, time.monotonic() + AGAIN_S


def become(uid: int, gid: int) -> None:
    """Turn this process into a stranger of one group, with as many connections as it may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
