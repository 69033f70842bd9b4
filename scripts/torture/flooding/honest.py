"""Who must be served while others flood: root, who pauses and resumes, and a satellite that streams one word."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torture.flooding.floods import USUAL, event
from torture.loading.running import ask

CHUNK = 1_024
RATE = 16_000
LATE_S = 20.0
"""A word that nobody is told of so long after its end is lost."""
PATIENCE_S = 10.0
EVERY_S = 0.25


class Again:
    """Does something over and over in a thread, from ``with`` to its end; it is tried once at least."""

    def __init__(self, what: Callable[[], None], every_s: float) -> None:
        self._what, self._every_s = what, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Again:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        self._what()
        while not self._over.wait(self._every_s):
            self._what()


class Pauser:
    """Root at the control socket; ``took`` has the seconds of each request, None where it failed."""

    def __init__(self, control: Path, slack: float = 1.0) -> None:
        """``slack``: times as patient as usual."""
        self._control, self._patience_s = control, PATIENCE_S * slack
        self.took = list[float | None]()
        self.why = ""

    def once(self) -> None:
        """Pause, and resume."""
        for active in (False, True):
            began = time.monotonic()
            try:
                ask(self._control, "POST", "/v1/listening", {"active": active}, patience=self._patience_s)
                self.took.append(time.monotonic() - began)
            except (OSError, ValueError) as error:
                self.took.append(None)
                self.why = str(error)[:80] or type(error).__name__


class Satellite:
    """A Wyoming client in real time; ``took`` has the seconds from the end of each word to its detection, or None.

    ``cost`` is what the daemon computed meanwhile, in seconds of one processor.
    """

    def __init__(
        self, wyoming: Path, word: NDArray[np.int16], cpu_s: Callable[[], float], slack: float = 1.0
    ) -> None:  # fmt: skip
        self._path, self._cpu_s, self._slack = wyoming, cpu_s, slack
        loud = np.flatnonzero(np.abs(word.astype(int)) > 300)
        self._word, self._end = word, int(loud[-1])
        self.took, self.cost = list[float | None](), list[float]()
        self.why = ""

    def once(self) -> None:
        """Connect, say the word, wait for the detection, and hang up."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE_S * self._slack)
                sock.connect(str(self._path))
                self._say(sock)
        except OSError as error:
            self.took.append(None)
            self.why = str(error)[:80] or type(error).__name__

    def _say(self, sock: socket.socket) -> None:
        told, ended, cpu = _Told(sock), 0.0, 0.0
        sock.sendall(event("detect", {"names": ["computer"]}) + event("audio-start", USUAL))
        begun, first = time.monotonic(), 0
        quiet = np.zeros(CHUNK, np.int16)
        while not ended or time.monotonic() < ended + LATE_S * self._slack:
            part = self._word[first : first + CHUNK] if first < len(self._word) else quiet
            time.sleep(max(0.0, begun + (first + len(part)) / RATE - time.monotonic()))
            sock.sendall(event("audio-chunk", USUAL, part.astype("<i2").tobytes()))
            first += len(part)
            if not ended and first > self._end:
                ended, cpu = time.monotonic(), self._cpu_s()
            if told.detection():
                self.took.append(time.monotonic() - (ended or time.monotonic()))
                self.cost.append(self._cpu_s() - (cpu or self._cpu_s()))
                return
        self.took.append(None)
        self.why = "it was not told of its word"


class _Told:
    """What a client has been sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._got = sock, b""

    def detection(self) -> bool:
        """Whether the word has been detected. ``OSError`` at the end, with the error that came before it."""
        while select.select([self._sock], [], [], 0)[0]:
            part = self._sock.recv(1 << 16)
            if not part:
                raise ConnectionResetError("hung up on: " + self._got.decode(errors="replace")[-80:])
            self._got += part
        return b'"detection"' in self._got
