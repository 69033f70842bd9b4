"""One input at a time at a target, within bounds: what must not come of it is a ``Finding``.

A target returns, or raises an ``IdiolectError``. It is reported when it raises anything else, computes for more than
``CPU_S``, takes more memory than its cap beyond what the process had, writes the mark that its input carries into a
log, or logs an error at all: servers put there what they did not expect.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from idiolect.errors import IdiolectError

MARK = "zwetschgenmus"
"""What inputs say where a person would say something private."""
CPU_S = 2.0
LONGEST = 8192
"""Bytes of an input at most."""
_SAMPLE = 256
"""Executions from one look at the memory in use to the next: caches and a fuzzer's corpus grow, too."""
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed, and how much of all executions it gets."""

    run: Callable[[bytes], object]
    goods: Callable[[], Sequence[bytes]]
    """Good inputs to start from, made when they are asked for."""
    share: float = 1.0
    """Weight when executions are dealt out; about what it costs to be wrong here, over what an execution costs."""
    least: int = 10_000
    """Executions of a full run at least."""
    cap_mib: int = 32
    tokens: tuple[bytes, ...] = ()
    """What a fuzzer may put in."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind``: crash, hang, memory or log; ``where`` is the same for the same fault."""

    kind: str
    where: str
    data: bytes
    detail: str = ""


class Hang(KeyboardInterrupt):
    """Out of time. Of this kind, as asyncio lets no other out of a task."""


class _Ears(logging.Handler):
    """Keeps what is logged, until the end of an execution."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Watch:
    """``with Watch(target) as watch``: ``watch.feed(data)``. Belongs to the main thread, as signals do."""

    def __init__(self, target: Target, cpu_s: float = CPU_S) -> None:
        self._target, self._cpu_s = target, cpu_s
        self._ears = _Ears()
        self.executions = 0
        self.peak_mib = 0.0
        """The most that was taken beyond what was in use before."""

    def __enter__(self) -> Watch:
        self._before = signal.signal(signal.SIGPROF, self._time_is_up)
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self._ears)
        root.setLevel(logging.DEBUG)
        for good in self._target.goods():
            with contextlib.suppress(Exception):
                self._target.run(good)  # what is loaded at first use is nobody's memory
        self._ears.records.clear()
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self._ears)
        root.setLevel(self._level)
        signal.signal(signal.SIGPROF, self._before)

    def feed(self, data: bytes) -> Finding | None:
        """Run the target once."""
        self.executions += 1
        if self.executions % _SAMPLE <= 1:
            self._look()
        self._hung = False
        found = self._run(data)
        if self._hung:
            found = Finding("hang", found.where if found else "swallowed", data)
        found = found or self._logged(data) or self._grown(data)
        self._ears.records.clear()
        return found

    def _run(self, data: bytes) -> Finding | None:
        signal.setitimer(signal.ITIMER_PROF, self._cpu_s)
        try:
            self._target.run(data)
        except IdiolectError:
            return None
        except MemoryError as error:
            return Finding("memory", _where(error), data)
        except (Exception, Hang, SystemExit) as error:
            return Finding("crash", _where(error), data, "".join(traceback.format_exception(error))[-3000:])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        return None

    def _time_is_up(self, *_: object) -> None:
        self._hung = True
        raise Hang

    def _logged(self, data: bytes) -> Finding | None:
        for record in self._ears.records:
            text = logging.Formatter().format(record)
            if MARK in text:
                return Finding("log", f"its input in a log: {record.name}: {record.msg!r}"[:200], data, text[-3000:])
            if record.levelno >= logging.ERROR:
                return Finding("log", f"an error in the log: {record.name}: {record.getMessage()[:120]}", data, text)
        return None

    def _grown(self, data: bytes) -> Finding | None:
        peak = _peak_kib()
        self.peak_mib = max(self.peak_mib, (peak - self._in_use) / 1024)
        if peak <= self._in_use + (self._target.cap_mib << 10):
            return None
        grown = (peak - self._in_use) // 1024
        gc.collect()
        self._look()
        return Finding("memory", f"more than {self._target.cap_mib} MiB", data, f"{grown} MiB")

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak is what is in use now
        self._in_use = max(_in_use_kib(), _peak_kib())


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _in_use_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def _where(error: BaseException) -> str:
    """The kind of an error and the innermost line of ours that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if Path(each.filename).is_relative_to(_ROOT) and "engine.py" not in each.filename]
    last = ours[-1] if ours else None
    return type(error).__name__ + (f" at {Path(last.filename).relative_to(_ROOT)}:{last.lineno}" if last else "")
