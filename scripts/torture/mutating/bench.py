"""A copy of the tree, the servers that run its tests, and which of them run which line."""

from __future__ import annotations

import ast
import compileall
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .changes import Mutant, Place

PACKAGE = "daemon/idiolect"
_PARTS = ("daemon", "tests", "scripts", "config", "systemd", "docs", "setup.cfg", "pyproject.toml", "README.md")
_PLAIN_ID = re.compile(r"[\w./:-]+(\[[\w.,+-]*\])?$")
_LONGEST, _TOTAL = 4.0, 20.0
"""Seconds: of a test that is run on mutants, and of all that are run on one that nothing kills."""
_ALIKE = 4
"""So many cases of one test come before the others."""


class Tree:
    """A copy to change, in memory where there is room for it."""

    def __init__(self, root: Path) -> None:
        memory = Path("/dev/shm")  # noqa: S108 -- the tests wait for the disk else
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-", dir=memory if roomy else None)
        self.path = Path(self._folder.name) / "tree"
        self.path.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.pyc")
        for part in _PARTS:
            if (root / part).is_dir():
                shutil.copytree(root / part, self.path / part, ignore=ignored)
            elif (root / part).is_file():
                shutil.copy2(root / part, self.path / part)
        with contextlib.redirect_stdout(io.StringIO()):
            compileall.compile_dir(self.path, quiet=2)
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(self.path / p) for p in ("daemon", "scripts", ".")),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "COVERAGE_CORE": "ctrace",
            "TMPDIR": self._folder.name,
            "IDIOLECT_DATA": os.environ.get("IDIOLECT_DATA", str(root.parent / "shared" / "data")),
        }

    def write(self, file: str, text: str) -> None:
        """Put ``text`` in the place of a file of the package, and take its bytecode away."""
        path = self.path / PACKAGE / file
        path.write_text(text)
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            cached.unlink()

    def server(self, *arguments: str) -> subprocess.Popen[str]:
        """The process of ``server.py``."""
        command = [sys.executable, str(Path(__file__).with_name("server.py")), *arguments]
        return subprocess.Popen(
            command, cwd=self.path, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def close(self) -> None:
        """Away with it."""
        self._folder.cleanup()


class Map:
    """Which tests run a line, and how long they take; what was measured is kept in a file, by file of tests."""

    def __init__(self, tree: Tree, files: Sequence[str], kept: Path | None, report: Any = None) -> None:
        self._tree = tree
        known: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
        self._kept, self._known = kept, known
        base = _digest(_sources(tree.path))
        names = {file: f"{base}-{_digest([tree.path / file])}" for file in files}
        missing = [file for file in files if known.get(file, {}).get("key") != names[file]]
        for file in missing:
            if report:
                report(f"measuring {file}")
            known[file] = {"key": names[file], **self._measured(file)}
            self._keep()
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {}
        self.importing: dict[str, set[int]] = {}
        for part in (known[file] for file in files):
            good = {n: s for n, s in part["seconds"].items() if n not in part["failed"] and s <= _LONGEST}
            self.seconds |= good
            for path, lines in part["lines"].items():
                here = self.lines.setdefault(path, {})
                for line, tests in lines.items():
                    here.setdefault(int(line), set()).update(t for t in tests if t in good)
                    if "import" in tests:
                        self.importing.setdefault(path, set()).add(int(line))
        self.left_out = sum(len(part["seconds"]) for part in (known[f] for f in files)) - len(self.seconds)
        """Tests that fail or are skipped here, or take too long."""
        self._uses = _uses(tree.path)
        named = _named(tree.path, files)
        self._naming: dict[str, set[str]] = {}
        for test in self.seconds:
            for name in named.get(test.partition("[")[0], ()):
                self._naming.setdefault(name, set()).add(test)

    def _measured(self, file: str) -> dict[str, Any]:
        out = self._tree.path.parent / "map.json"
        with self._tree.server("measure", str(out), PACKAGE, file) as process:
            process.communicate()
        if not out.exists():
            raise RuntimeError(f"{file} could not be measured: do the tests of this tree run at all?")
        part: dict[str, Any] = json.loads(out.read_text())
        out.unlink()
        return part

    def tests(self, place: Place) -> list[str]:
        """Those that run the place, or what it defines: the quickest first, until they take too long together."""
        path = f"{PACKAGE}/{place.file}"
        here = self.lines.get(path, {})
        first: set[str] = set()
        if place.function:
            found = set().union(*(here.get(line, ()) for line in place.lines))
        else:
            first = set().union(*(self._naming.get(name, ()) for name in place.names)) & self.seconds.keys()
            used = [at for name in place.names for at in self._uses.get(name, ())]
            found = set().union(*(self.lines.get(p, {}).get(line, ()) for p, line in used))
            found = found | first or set().union(*here.values())
        chosen, total = [], 0.0
        own = f"/test_{Path(place.file).stem}.py::"  # what was written about this file comes first, and what names it
        mine = self._naming.get(Path(place.file).stem, set())
        seen: Counter[str] = Counter()
        ranked = []
        for test in sorted(found, key=lambda t: (self.seconds[t], t)):
            seen[function := test.partition("[")[0]] += 1
            strange = own not in test and test not in mine
            ranked.append((test not in first, strange, seen[function] > _ALIKE, self.seconds[test], test))
        for *_, test in sorted(ranked):
            total += self.seconds[test]
            if chosen and total > _TOTAL:
                break
            chosen.append(test)
        return chosen

    def _keep(self) -> None:
        if self._kept:
            self._kept.write_text(json.dumps(self._known))

    def doubtful(self) -> dict[str, list[str]]:
        """The tests of which it was not seen yet that they pass in a fork on what is unchanged, by file."""
        files: dict[str, list[str]] = {}
        for name in self.seconds:
            file = name.partition("::")[0]
            if not self._known[file].get("sound"):
                files.setdefault(file, []).append(name)
        return files

    def sound(self, file: str) -> None:
        """All that is left of a file passes."""
        self._known[file]["sound"] = True
        self._keep()

    def drop(self, test: str) -> None:
        """Never run ``test``."""
        self._known[test.partition("::")[0]]["failed"].append(test)
        self.seconds.pop(test, None)
        for lines in self.lines.values():
            for tests in lines.values():
                tests.discard(test)

    def cold(self, places: Iterable[Place]) -> set[tuple[str, str]]:
        """The functions of ``places`` that run while their module is imported."""
        return {
            (place.file, place.function)
            for place in places
            if place.function and self.importing.get(f"{PACKAGE}/{place.file}", set()) & set(place.lines)
        }


def _sources(root: Path) -> list[Path]:
    mutated = [p for part in ("trust", "learning") for p in sorted((root / PACKAGE / part).glob("*.py"))]
    return mutated + [p for p in sorted((root / "tests").rglob("*.py")) if not p.name.startswith("test_")]


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in paths)).hexdigest()[:16]


def _uses(root: Path) -> dict[str, set[tuple[str, int]]]:
    """Where in the package each name is read."""
    found: dict[str, set[tuple[str, int]]] = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        where = str(path.relative_to(root))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.setdefault(node.id, set()).add((where, node.lineno))
            elif isinstance(node, ast.Attribute):
                found.setdefault(node.attr, set()).add((where, node.lineno))
    return found


def _named(root: Path, files: Iterable[str]) -> dict[str, set[str]]:
    """Which names each test reads itself, by the test's id without parameters."""
    found: dict[str, set[str]] = {}
    for file in files:
        for part in ast.parse((root / file).read_text()).body:
            if isinstance(part, ast.FunctionDef) and part.name.startswith("test"):
                names = {n.attr if isinstance(n, ast.Attribute) else n.id for n in ast.walk(part)
                         if isinstance(n, ast.Attribute | ast.Name)}  # fmt: skip
                found[f"{file}::{part.name}"] = names
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    verdict: str
    """killed, timeout, survived or uncovered."""
    test: str = ""
    """The one that killed it, or the last one that was run."""
    seconds: float = 0.0


class Bench:
    """Runs mutants, one after the other, in one copy of the tree."""

    def __init__(self, tree: Tree, files: Sequence[str], patience: float = 1.0) -> None:
        self._tree = tree
        self._files = files
        self._patience = patience
        self._servers: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Bench:
        self._server("warm")  # now, while the tree is unchanged: it keeps what it imports
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._servers.values():
            assert process.stdin is not None  # noqa: S101
            process.stdin.close()
            process.wait()
            assert process.stdout is not None  # noqa: S101
            process.stdout.close()

    def _server(self, mode: str) -> subprocess.Popen[str]:
        if mode not in self._servers:
            self._servers[mode] = self._tree.server(mode, *(self._files if mode == "warm" else ()))
            self._answer(mode)
        return self._servers[mode]

    def _ask(self, mode: str, request: dict[str, Any]) -> dict[str, Any]:
        process = self._server(mode)
        assert process.stdin is not None  # noqa: S101
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return self._answer(mode)

    def _answer(self, mode: str) -> dict[str, Any]:
        process = self._servers[mode]
        assert process.stdout is not None  # noqa: S101
        if not (line := process.stdout.readline()):
            raise RuntimeError(f"the {mode} server ended: do the tests of this tree run at all?")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, mutant: Mutant, tests: Sequence[str], seconds: dict[str, float], *, cold: bool) -> Verdict:
        """Run ``tests`` on ``mutant`` until one fails. ``cold``: import everything anew."""
        if not tests:
            return Verdict("uncovered")
        place = mutant.place
        path = self._tree.path / PACKAGE / place.file
        before = path.read_text()
        self._tree.write(place.file, mutant.text)
        request = {
            "file": str(path),
            "function": place.function,
            "nth": place.nth,
            "patience": self._patience,
            "tests": {t: seconds[t] for t in tests},
        }
        try:
            answer = {"verdict": "misfit"}
            if not cold:
                answer = self._ask("warm", request)
            if answer["verdict"] == "misfit":
                plain = {t if _PLAIN_ID.match(t) else t.partition("[")[0]: s for t, s in request["tests"].items()}
                answer = self._ask("cold", request | {"tests": plain})
        finally:
            self._tree.write(place.file, before)
        if answer["verdict"] not in ("killed", "timeout", "survived"):
            raise RuntimeError(f"{mutant}: {answer}")
        return Verdict(answer["verdict"], answer["test"], answer["seconds"])
