"""The steps at which a process may die, marked from outside: what is wrapped here is the product's own, unchanged.

| step | where |
| --- | --- |
| sql | before every statement that changes something; before and after BEGIN, COMMIT, the WAL's checkpoint and close |
| file | before and after open for writing, fsync, rename, link and unlink |
| slot | before and after each write of a rotating secret |
| tpm | before every operation of the TPM, and after those that change what it holds |
| worker | the child is there; it has said hello; the request is written; the answer is read |

A step is called by what it does and by its number among those in the operation, "sql COMMIT#2"; from the fourth on
all have one name.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from idiolect.learning.worker import process as worker
from idiolect.trust.device.key_file import FileKeystore
from tests.support.faults import CHANGES, Fault, installed

T = TypeVar("T")
MOST = 4
_TABLE = re.compile(r"\b(meta|wraps|records|roots|audit)\b")
_CHANGING = ("BEGIN", "COMMIT", "ROLLBACK", "INSERT", "DELETE", "UPDATE", "CREATE")
_AROUND = ("BEGIN", "COMMIT", "PRAGMA wal_checkpoint(TRUNCATE)")
DAEMON, WORKER, POWER = "daemon", "worker", "power"
BETWEEN = "between operations"


def label(statement: str) -> str:
    """A statement as the name of a step, "" where it changes nothing."""
    verb = statement.strip().partition(" ")[0]
    if statement.startswith("PRAGMA wal_checkpoint") or verb in ("BEGIN", "COMMIT", "ROLLBACK"):
        return statement if verb == "PRAGMA" else verb
    if verb not in _CHANGING:
        return ""
    table = _TABLE.search(statement)
    return f"{verb} {table[0]}" if table else verb


@dataclass(frozen=True)
class Target:
    """Who dies at the first of some steps of an operation of the run (by its place in it)."""

    place: int
    steps: frozenset[str]
    who: str = DAEMON


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Steps:
    """Counts the steps of each operation, and strikes at one."""

    def __init__(self, say: Callable[[str], None], target: Target | None = None, tpm: int = 0) -> None:
        """``tpm``: the process that is the TPM."""
        self._say, self._target, self._tpm = say, target, tpm
        self._place = -1
        self._counts: Counter[str] = Counter()
        self.seen: list[str] = []
        self.worker = 0
        self._answered = False
        self.struck = ""
        self.unanswered = False
        """Whether a worker died in this operation with its answer unread."""

    def begin(self) -> None:
        """The next operation."""
        self._place += 1
        self._counts.clear()
        self.seen = []
        self.unanswered = False

    def mark(self, name: str) -> None:
        """A step."""
        self._counts[name] += 1
        step = f"{name}#{min(self._counts[name], MOST)}"
        if step not in self.seen:
            self.seen.append(step)
        target = self._target
        if target and not self.struck and target.place == self._place and step in target.steps:
            self.struck = target.who
            self.unanswered = target.who == WORKER and not self._answered
            self._say(f"struck {target.who} {step}")
            self._strike(target.who)

    def give_up(self) -> None:
        """The last operation is over, and its step did not come: die all the same."""
        if self._target and not self.struck and self._place >= self._target.place:
            self._say(f"struck {DAEMON} {BETWEEN}")
            self._strike(DAEMON)

    def _strike(self, who: str) -> None:
        victim = {DAEMON: os.getpid(), WORKER: self.worker, POWER: self._tpm}[who]
        os.kill(victim, signal.SIGKILL)
        while alive(victim):
            time.sleep(0.0002)

    def around(self, name: str, work: Callable[[], T]) -> T:
        """A step before and one after."""
        self.mark(f"{name} before")
        result = work()
        self.mark(f"{name} after")
        return result

    def hello(self, pid: int) -> None:
        """A worker was started."""
        self.worker, self._answered = pid, False
        self._say(f"worker {pid}")
        self.mark("worker started")

    @contextmanager
    def installed(self, *, tpm: bool) -> Iterator[None]:
        """Mark the steps of this process."""
        with ExitStack() as stack:
            stack.enter_context(patch("sqlite3.connect", _connect(self)))
            stack.enter_context(patch.object(worker, "_Pipes", _pipes(self)))
            for name in ("fsync", "replace", "rename", "link", "unlink"):
                stack.enter_context(patch.object(os, name, _wrapped(self, f"file {name}", getattr(os, name))))
            stack.enter_context(patch.object(os, "open", _opening(self, os.open)))
            stack.enter_context(patch.object(FileKeystore, "write_slot", _slot(self, FileKeystore.write_slot)))
            if tpm:
                stack.enter_context(installed(_Marking(self)))
            yield


def _connect(steps: Steps) -> Callable[..., sqlite3.Connection]:
    class Marked(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            name = label(sql)
            if not name:
                return super().execute(sql, *args)
            if name in _AROUND:
                return steps.around(f"sql {name}", lambda: sqlite3.Connection.execute(self, sql, *args))
            steps.mark(f"sql {name}")
            return super().execute(sql, *args)

        def close(self) -> None:
            steps.around("sql close", lambda: sqlite3.Connection.close(self))

    real = sqlite3.connect
    return lambda *args, **more: real(*args, **more, factory=Marked)


def _wrapped(steps: Steps, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **more: steps.around(name, lambda: real(*args, **more))


def _opening(steps: Steps, real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            return steps.around("file open", lambda: real(path, flags, *args, **more))
        return real(path, flags, *args, **more)

    return opened


def _slot(steps: Steps, real: Callable[..., None]) -> Callable[..., None]:
    def write(self: FileKeystore, index: int, slot: Any) -> None:
        steps.around(f"slot {index}", lambda: real(self, index, slot))

    return write


class _Marking(Fault):
    """Every operation of the TPM."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def around(self, name: str, operation: Callable[[], T]) -> T:
        """See ``Fault``."""
        self._steps.mark(f"tpm {name} before")
        result = operation()
        if name in CHANGES:
            self._steps.mark(f"tpm {name} after")
        return result


def _pipes(steps: Steps) -> type:
    """The daemon's side of the two pipes."""

    class Marked(worker._Pipes):
        def __init__(self, child: Any, seconds: float) -> None:
            super().__init__(child, seconds)
            if steps.worker != child.pid:
                steps.hello(child.pid)
            self._greeted = False

        def send(self, data: bytes) -> None:
            super().send(data)
            steps.mark("worker has the request")

        def receive(self, cap: int) -> bytes:
            said = super().receive(cap)
            if self._greeted:
                steps._answered = True
            steps.mark("worker has answered" if self._greeted else "worker has said hello")
            self._greeted = True
            return said

    return Marked
