"""The process that runs tests on mutants: one fork each, of a process that has imported everything already.

Started in a copy of the tree with a mode and the files of tests:

* ``measure``: run all, and write down which lines each test runs, how long it takes, and what importing runs;
* ``warm``: import all tests, then for each request a child in which the changed function gets its new code;
* ``cold``: import only what is not ours, then for each request a child that imports the changed tree: for changes
  outside functions, and in functions that run while importing.

Requests and answers are lines of JSON on the standard streams.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

_SUBREAPER = 36
_SURVIVED, _KILLED, _MISFIT, _ABSENT = 0, 10, 11, 12
_MEMORY = 4 << 30
_FOREIGN = (
    "numpy", "yaml", "msgpack", "h11", "hypothesis.stateful", "hypothesis.strategies", "cryptography.x509",
    "cryptography.hazmat.primitives.asymmetric.ec", "cryptography.hazmat.primitives.ciphers.aead", "sqlite3",
    "cryptography.hazmat.primitives.kdf.hkdf", "cryptography.hazmat.primitives.kdf.scrypt", "jsonschema", "asyncio",
    "pytest_timeout", "numpy.testing", "concurrent.futures", "http.client", "statistics",
)  # fmt: skip
OPTIONS = ("-q", "-s", "--assert=plain", "--tb=no", "-p", "no:cacheprovider", "-p", "no:faulthandler")
VERDICTS = {_SURVIVED: "survived", _KILLED: "killed", _MISFIT: "misfit", _ABSENT: "absent"}


class Limits:
    """Ends a child that computes longer than a test may; the waiting is the parent's to end."""

    def __init__(self, beat: int, seconds: dict[str, float], least: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._least = least

    def test(self, name: str) -> None:
        """``name`` begins: say so, and start its clock."""
        os.write(self._beat, name.encode() + b"\n")
        signal.setitimer(signal.ITIMER_PROF, self._least + 8 * self._seconds.get(name, 1.0))


def _confine(beat: int) -> None:
    """A child: its own session, silent, with an end to its memory, and no dump when it crashes."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.set_inheritable(beat, False)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY,) * 2)


class Server:
    """Takes requests, forks, waits, cleans up."""

    def __init__(self) -> None:
        self._in = os.fdopen(os.dup(0), "r")
        self._out = os.fdopen(os.dup(1), "w")
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

    def answer(self, **fields: object) -> None:
        """One line."""
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()

    def requests(self) -> Iterator[dict[str, Any]]:
        """Until nobody asks any more."""
        for line in self._in:
            yield json.loads(line)

    def child(self, request: dict[str, Any], work: Any, least: float) -> None:
        """Run ``work(request, limits)`` in a child, whose exit code it returns; answer with the verdict.

        A test may compute for ``least`` seconds, and for eight times what it took when it was measured.
        """
        began = time.monotonic()
        heard, beat = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = _KILLED
            try:
                os.close(heard)
                _confine(beat)
                code = work(request, Limits(beat, request["tests"], least))
            finally:
                os._exit(code)
        os.close(beat)
        test, late = self._watch(heard, request["tests"])
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self._sweep(pid)
        code = os.waitstatus_to_exitcode(status)
        timeout = late or code in (-signal.SIGPROF, -signal.SIGXCPU)
        # Whatever ends a child otherwise (a crash of the interpreter, too little memory) is a test that failed.
        verdict = "timeout" if timeout else VERDICTS.get(code, "killed")
        self.answer(verdict=verdict, test=test, seconds=time.monotonic() - began)

    def _watch(self, heard: int, seconds: dict[str, float]) -> tuple[str, bool]:
        """Until the child closes its end: the test that it was in last, and whether that waited for too long."""
        text, test = b"", ""
        while True:
            if not select.select([heard], [], [], 15.0 + 10 * seconds.get(test, 1.0))[0]:
                os.close(heard)
                return test, True
            data = os.read(heard, 65536)
            if not data:
                os.close(heard)
                return test, False
            text += data
            test = text.split(b"\n")[-2].decode() if b"\n" in text else test

    def _sweep(self, pid: int) -> None:
        """End and reap what a child left behind, which is ours since it died."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        while True:
            try:
                children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
                    os.waitpid(int(child), 0)
            except (ProcessLookupError, ChildProcessError):
                continue
            if not children:
                return


class Outcome:
    """Ends the child at the first test that fails; tells the clock of each that begins."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._limits.test(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A part of a test has ended."""
        if report.failed:
            os._exit(_KILLED)

    def pytest_collectreport(self, report: Any) -> None:
        """A file could not be imported."""
        if report.failed:
            os._exit(_KILLED)


class Warm:
    """A session that stops after collecting, and forks from there."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def pytest_runtestloop(self, session: Any) -> bool:
        """Serve instead."""
        items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()  # a child need not copy what it does not change
        functions: dict[str, dict[tuple[str, int], list[FunctionType]]] = {}

        def work(request: dict[str, Any], limits: Limits) -> int:
            path = str(Path(request["file"]).resolve())
            code = _codes(compile(Path(path).read_text(), path, "exec", dont_inherit=True))
            key = (request["function"], request["nth"])
            found = functions[path].get(key)
            if not found or key not in code:
                return _MISFIT
            for function in found:
                try:
                    function.__code__ = code[key]
                except ValueError:  # other variables of the surrounding function
                    return _MISFIT
            wanted = [items[name] for name in request["tests"] if name in items]
            if not wanted:
                return _ABSENT
            session.config.pluginmanager.register(Outcome(limits))
            for item, following in zip(wanted, [*wanted[1:], None], strict=True):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            return _SURVIVED

        self._server.answer(ready=True, tests=len(items))
        for request in self._server.requests():
            path = str(Path(request["file"]).resolve())
            if path not in functions:
                functions[path] = _functions(path)
            self._server.child(request, work, request.get("patience", 1.0))
        return True


def _codes(module: CodeType) -> dict[tuple[str, int], CodeType]:
    """The outermost functions of a module, by qualified name and by which of that name they are."""
    found: dict[tuple[str, int], CodeType] = {}
    waiting = [module]
    while waiting:
        code = waiting.pop(0)
        for part in code.co_consts:
            if not isinstance(part, CodeType) or part.co_name.startswith("<"):
                continue
            if not part.co_flags & 0x02:  # CO_NEWLOCALS: a function; a class's body has functions in it
                waiting.append(part)
                continue
            nth = sum(name == part.co_qualname for name, _ in found)
            found[part.co_qualname, nth] = part
    return found


def _functions(path: str) -> dict[tuple[str, int], list[FunctionType]]:
    """The function objects of that file, wherever they hang."""
    found: dict[str, dict[int, list[FunctionType]]] = {}
    gc.unfreeze()
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and thing.__code__.co_filename == path:
            by_line = found.setdefault(thing.__code__.co_qualname, {})
            by_line.setdefault(thing.__code__.co_firstlineno, []).append(thing)
    gc.freeze()
    return {(name, n): lines[line] for name, lines in found.items() for n, line in enumerate(sorted(lines))}


def _cold(request: dict[str, Any], limits: Limits) -> int:
    code = pytest.main([*OPTIONS, *request["tests"]], plugins=[Outcome(limits)])
    if code == pytest.ExitCode.OK:
        return _SURVIVED
    # "no such test" is said of a file that cannot be imported; that all of them exist the control has shown.
    return _ABSENT if code == pytest.ExitCode.NO_TESTS_COLLECTED else _KILLED


class Measure:
    """Which lines each test runs."""

    def __init__(self, cover: Any) -> None:
        self._cover = cover
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self._caches: list[Any] = []

    def pytest_collection_finish(self) -> None:
        """Find what the tests themselves remember: without it, only the first of them would be seen to run it."""
        kept = (thing for thing in gc.get_objects() if isinstance(thing, functools._lru_cache_wrapper))
        self._caches = [each for each in kept if ".test_" in f".{each.__module__}"]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """What runs now is that test's."""
        for each in self._caches:
            each.cache_clear()
        self._cover.switch_context(nodeid)
        self.seconds[nodeid] = 0.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A part of a test has ended."""
        self.seconds[report.nodeid] += report.duration
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)


def measure(out: Path, package: str, files: list[str]) -> None:
    """Write a map to ``out``: the lines of ``package`` by test."""
    import coverage

    cover = coverage.Coverage(data_file=None, source=[package], config_file=False, messages=False)
    cover.start()
    cover.switch_context("import")
    for path in sorted(Path(package).glob("*/*.py")):
        if path.parent.name in ("trust", "learning"):
            importlib.import_module(".".join(path.with_suffix("").parts[1:]))
    cover.switch_context("collect")
    noted = Measure(cover)
    pytest.main([*OPTIONS, *files], plugins=[noted])
    cover.stop()
    data, lines = cover.get_data(), {}
    for path in data.measured_files():
        lines[os.path.relpath(path)] = {n: tests for n, tests in data.contexts_by_lineno(path).items() if tests}
    out.write_text(json.dumps({"seconds": noted.seconds, "failed": sorted(noted.failed), "lines": lines}))


def main() -> int:
    """Do what the mode says."""
    mode, *arguments = sys.argv[1:]
    sys.path[0] = str(Path.cwd())  # as for `python -m pytest`
    if mode == "measure":
        measure(Path(arguments[0]), arguments[1], arguments[2:])
        return 0
    server = Server()
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    if mode == "warm":
        return int(pytest.main([*OPTIONS, *arguments], plugins=[Warm(server)]))
    for name in _FOREIGN:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    server.answer(ready=True)
    for request in server.requests():
        server.child(request, _cold, 3 * request.get("patience", 1.0))  # the first test imports what others need, too
    return 0


if __name__ == "__main__":
    sys.exit(main())
