"""The host's ends of a virtual board's two sockets: the agent in it, and QEMU's monitor."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import queue
import socket
import threading
import time
from pathlib import Path
from typing import Any

from .base import Done, TargetError


class Agent:
    """Commands to the board and their answers, by number; any number at a time."""

    def __init__(self, path: Path) -> None:
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while received := self._socket.recv(1 << 18):
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    with contextlib.suppress(ValueError, KeyError):  # half a line from before a restart; a late answer
                        answer = json.loads(line)
                        self._answers[answer["id"]].put(answer)
        for waiting in list(self._answers.values()):  # the board is off
            waiting.put({})

    def run(self, command: str, timeout: float, stdin: bytes = b"") -> Done:
        """One command. ``TimeoutError`` when the board does not answer at all."""
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        request = {"id": number, "command": command, "timeout": timeout, "stdin": base64.b64encode(stdin).decode()}
        try:
            with self._lock:
                self._socket.sendall(b"\n" + json.dumps(request).encode() + b"\n")
            if not (answer := answers.get(timeout=timeout + 5)):
                raise ConnectionResetError
        except (queue.Empty, OSError) as error:
            raise TimeoutError(f"the board does not answer: {command}") from error
        finally:
            del self._answers[number]
        out, err = (base64.b64decode(answer[name]).decode(errors="replace") for name in ("out", "err"))
        return Done(command, answer["rc"], out, err, answer["seconds"])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Monitor:
    """QEMU's machine protocol (QMP)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self.events: list[str] = []
        self._next()  # the greeting
        self.execute("qmp_capabilities")

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise TargetError("QEMU hung up")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self.events.append(message["event"])
        return message

    def execute(self, command: str, **arguments: Any) -> Any:
        """One command; returns what it says."""
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._next()
            if "error" in message:
                raise TargetError(f"QEMU: {message['error']['desc']}")
            if "return" in message:
                return message["return"]

    def wait_for(self, event: str, seconds: float) -> None:
        """Until an event came, or ``TimeoutError``; what came before counts."""
        ends = time.monotonic() + seconds
        while event not in self.events:
            self._socket.settimeout(max(0.01, ends - time.monotonic()))
            try:
                self._next()
            except OSError as error:
                raise TimeoutError(f"QEMU did not say {event}") from error
            finally:
                self._socket.settimeout(10)
        self.events.remove(event)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
