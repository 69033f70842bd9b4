"""Starting the training worker: a child process with two pipes, limits, and nothing else that it could use."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence

from idiolect.errors import LearningError

MEMORY = 768 << 20
"""Address space in bytes: interpreter and libraries map far more than they touch (measured: 64 MiB resident)."""
CPU_S = 60
WALL_S = 120.0
FILES = 16
_MODULE = "idiolect.worker"


class Worker:
    """One child at a time; ``kill`` may come from any thread, whenever somebody starts to speak."""

    def __init__(self, command: Sequence[str] = (), wall_s: float = WALL_S) -> None:
        self._command = list(command) or [sys.executable, "-m", _MODULE]
        self._wall_s = wall_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, request: bytes, cap: int) -> bytes:
        """Send a frame, return the answer's (at most ``cap`` bytes). ``LearningError`` when there is none."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            close_fds=True,
            preexec_fn=_limit,  # noqa: PLW1509 - calls setrlimit and nice only
        )
        with self._lock:
            self._child = child
        try:
            answer, _ = child.communicate(request, timeout=self._wall_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise LearningError(
                "the training worker took too long and was stopped", "it is tried again later"
            ) from None
        finally:
            with self._lock:
                self._child = None
        if child.returncode < 0:
            raise LearningError("the training worker was stopped", "it is tried again later")
        if len(answer) > cap + 4:
            raise LearningError("the training worker said more than it may", "report it")
        return answer

    def kill(self) -> None:
        """Stop what runs, if anything does."""
        with self._lock:
            if self._child is not None:
                self._child.kill()


def _limit() -> None:
    """In the child, before it becomes the worker."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(19)
