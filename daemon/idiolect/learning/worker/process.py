"""The place where training runs: an interface, and the child process behind it.

``Backend`` is all that the learner knows: bytes in, bytes out, and a way to stop it. ``Worker`` is the one there is, a
fresh confined process for each request (``sandbox``). A trusted execution environment could be another: the request
holds all that a round needs, and the answer is checked by its receiver. A process is not one: who owns the kernel sees
what it computes.

The daemon's side believes nothing: every length is capped before it is read, every wait has an end, and a child that
says too much, too little or nothing is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from idiolect.errors import NONSENSE, LearningError, Preempted, WorkerFailed
from idiolect.host import structure
from idiolect.learning.worker import frames
from idiolect.learning.worker.sandbox import IDLE, Layer

WALL_S = 120.0
HELLO_S = 30.0
"""Seconds for the child to load its libraries and confine itself; a slow board needs a few."""
HELLO_CAP = 4096
_CHUNK = 1 << 16
_MODULE = "idiolect.learning.worker.main"


class Backend(Protocol):
    """A place to train in, as the learner sees it. Any thread may call ``stop``."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers that confine it, as it last told them; empty before it ever ran."""

    def run(self, request: bytes, cap: int, *, patient: bool = False) -> bytes:
        """Return the answer to a request, at most ``cap`` bytes.

        A ``patient`` request, for which nobody waits, gives way: after ``stop`` it ends with ``Preempted``, or does not
        even begin.

        Raises:
            WorkerFailed: there is no answer.
            Preempted: a patient request was ended, or did not begin.
        """

    def stop(self) -> bool:
        """End a patient request; return True if one ran. None begins until ``resume``. Returns at once."""

    def resume(self) -> None:
        """Let patient requests run again. To be called before one looks whether anything speaks against it."""

    def kill(self) -> None:
        """End the request that runs, patient or not."""


class Worker:
    """A ``Backend`` that runs one confined child for each request, one at a time."""

    def __init__(self, command: Sequence[str] = (), wall_s: float = WALL_S) -> None:
        self._command = list(command) or [sys.executable, "-m", _MODULE]
        self._wall_s = wall_s
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._patient = False
        self._called_off = False
        self._ended = self._closed = False
        self._layers: tuple[Layer, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers that confine the child, as the last one told them."""
        return self._layers

    def run(self, request: bytes, cap: int, *, patient: bool = False) -> bytes:
        """Return a fresh child's answer to a request, at most ``cap`` bytes.

        Raises:
            WorkerFailed: there is no answer.
            Preempted: a patient request was ended, or did not begin.
        """
        with self._turn:
            with self._lock:
                if patient and self._called_off:
                    raise Preempted
                self._patient, self._ended = patient, False
            try:
                return self._run(request, cap, [IDLE] if patient else [])
            finally:
                with self._lock:
                    self._patient = False

    def probe(self) -> tuple[Layer, ...]:
        """Start a child only to hear what confines it. ``WorkerFailed`` when it cannot even say that."""
        with self._turn:
            with self._lock:
                self._ended = False
            with self._started() as child:
                self._hello(_Pipes(child, HELLO_S))
        return self._layers

    def stop(self) -> bool:
        """End a patient request; return True if one ran. None begins until ``resume``."""
        with self._lock:
            self._called_off = True
            if self._patient:
                self._end()
            return self._patient

    def resume(self) -> None:
        """Let patient requests run again."""
        with self._lock:
            self._called_off = False

    def kill(self) -> None:
        """End the request that runs, patient or not."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """End whatever runs, and let nothing run any more."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        self._ended = True
        if self._child is not None:
            self._child.kill()

    def _run(self, request: bytes, cap: int, options: Sequence[str]) -> bytes:
        with self._started(options) as child:
            try:
                pipes = _Pipes(child, self._wall_s)
                self._hello(pipes)
                pipes.send(frames.pack(request))
                return pipes.receive(cap)
            except LearningError:
                if self._ended:
                    raise Preempted from None
                raise

    @contextlib.contextmanager
    def _started(self, options: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
        """Start a child, which is killed and reaped in the end whatever happens."""
        try:
            child = subprocess.Popen(
                [*self._command, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                close_fds=True,
                bufsize=0,
            )
        except OSError as error:
            raise WorkerFailed("start", f"the training worker cannot be started: {error.strerror}") from None
        with self._lock:
            self._child = child
            if self._ended or self._closed:
                child.kill()
        try:
            yield child
        finally:
            with self._lock:
                self._child = None
            child.kill()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            child.wait()

    def _hello(self, pipes: _Pipes) -> None:
        """Read which layers confine the child, in its own words, before anything of ours is sent to it."""
        said = pipes.receive(HELLO_CAP)
        try:
            self._layers = tuple(
                Layer(str(n)[:32], bool(held), str(d)[:80]) for n, held, d in structure.load(said)[:32]
            )
        except NONSENSE:
            raise WorkerFailed("garbled", "the training worker does not say what confines it") from None


def _environment() -> dict[str, str]:
    """Return the child's environment, without the daemon's own variables: they may hold what is nobody's business."""
    return {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


class _Pipes:
    """Both pipes of a child, never blocking longer than until a deadline."""

    def __init__(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        if child.stdin is None or child.stdout is None:
            raise WorkerFailed("start", "the training worker has no pipes")
        self._to, self._from = child.stdin.fileno(), child.stdout.fileno()
        for handle in (self._to, self._from):
            os.set_blocking(handle, False)
        self._ends = time.monotonic() + seconds

    def send(self, data: bytes) -> None:
        """Write all of ``data`` to the child before the deadline. Raises ``WorkerFailed`` when it stopped listening."""
        left = memoryview(data)
        while left:
            self._wait(self._to, select.POLLOUT)
            try:
                left = left[os.write(self._to, left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise WorkerFailed("crash", "the training worker stopped listening") from None

    def receive(self, cap: int) -> bytes:
        """Return the body of one frame; not a byte beyond it is read. Raises ``WorkerFailed``."""
        header = self._read(frames.HEADER)
        try:
            size = frames.size(header, cap)
        except LearningError:
            raise WorkerFailed("oversize", "the training worker wants to say more than it may") from None
        received = self._read(size)
        try:
            return frames.body(header, received)
        except LearningError:
            raise WorkerFailed("garbled", "the training worker's answer was garbled") from None

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._from, select.POLLIN)
            try:
                part = os.read(self._from, min(size - len(data), _CHUNK))
            except BlockingIOError:
                continue
            if not part:
                raise WorkerFailed("crash", "the training worker ended without an answer")
            data += part
        return bytes(data)

    def _wait(self, handle: int, event: int) -> None:
        """Wait until a pipe can be used or the other side is gone, which the call that follows finds out."""
        poll = select.poll()
        poll.register(handle, event)
        left = self._ends - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise WorkerFailed("timeout", "the training worker took too long and was stopped")
