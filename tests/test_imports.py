"""The lines of the house: who may import whom, read from the source of every module.

The parts are the packages of ``idiolect`` and the files beside them. Each line here is a promise of the design;
to cross one on purpose, change the table and say why.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DAEMON = Path(__file__).parents[1] / "daemon"

# The rooms of the house, and which rooms each may import from, or which single modules, beside itself and the ground. A
# room is a folder; the files at the top are rooms of their own. No room lists the service but ``__main__``.
GROUND = {"errors", "values"}
TRUST = {"trust/bundle", "trust/vault", "trust/device"}
LISTENING = {"listening", "listening/audio", "listening/pipeline"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "values": set(),
    "events": set(),  # the event stream: ids, the ring, subscribers
    "client": {"idiolect.host.structure"},  # for other programs: the standard library alone
    "config": set(),
    "host": set(),  # what several rooms need of the machine
    "host/sensors": set(),
    "trust/bundle": {"config", "host"},  # is this bundle good?
    "trust/vault": {"host"},  # what is kept, sealed; knows nothing of bundles
    "trust/device": {"config", "host", "host/sensors", "trust/bundle", "trust/vault"},  # this device's own secrets
    "listening/pipeline": set(),  # one block of sound becomes decisions
    "listening/audio": set(),  # a microphone, a pipe or a file becomes blocks
    "listening": {"config", "events", "host", "listening/audio", "listening/pipeline", "trust/bundle"},
    "learning": {
        "idiolect.host.structure",
        "idiolect.listening.attempt",
        "listening/pipeline",
    },  # examples in, a judged adapter out
    "learning/worker": {"host", "learning", "trust/vault"},  # where that runs: a process without files
    "people": {"config", "events", "host", "learning", "learning/worker", *LISTENING, *TRUST},
    "control": {"config", "control/api", "events", "host"},  # doors, limits and sockets, whoever is behind them
    "control/api": {"control", "events", "host"},
    "control/page": {"control", "control/api", "people", "trust/device"},
    "control/wyoming": {"control", "events", "host", "listening"},
    "service": {
        *("config", "control", "control/api", "control/page", "control/wyoming", "events", "host", "host/sensors"),
        *("learning", "learning/worker", "people", "service/idle", *LISTENING, *TRUST),
    },
    "service/idle": {"config", "host", "host/sensors", "learning", "learning/worker", "people", "trust/device"},
    "cli": {"client", "config", "host", "trust/bundle", "trust/device", "trust/vault"},  # some verbs need no daemon
    "__main__": {"config", "service"},
}


# Where sound becomes decisions there is no clock, file, thread, socket or log, and time is counted in samples: of
# the standard library and of others only what computes.
PURE = ("listening/pipeline", "learning")
PURE_FILES = {"idiolect.listening.attempt"}
PURE_MAY = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing", "numpy"),
    *("hashlib", "json", "struct"),  # bytes in, bytes out
}
WORLD_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}

# Library -> the one file that may import it.
OWNERS = {
    "ai_edge_litert": "idiolect.listening.pipeline.encoder",
    "tflite_runtime": "idiolect.listening.pipeline.encoder",
    "alsaaudio": "idiolect.listening.audio.microphone",
    "h11": "idiolect.control.http",
    "tpm2_pytss": "idiolect.trust.device.tpm",
    "msgpack": "idiolect.learning.messages",
    "jeepney": "idiolect.host.sensors.logind",
    "systemd": "idiolect.host.systemd",
}
NOT_IN_CLI = {"numpy", "h11", "soxr", "ai_edge_litert", "tflite_runtime", "alsaaudio"}


@dataclass(frozen=True)
class Module:
    """One source file: ``imports`` are dotted names, ``typing_only`` those that only a type checker sees."""

    name: str
    package: bool = False
    imports: set[str] = field(default_factory=set)
    typing_only: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)

    @property
    def room(self) -> str:
        """The folder that it stands in; its own name at the top."""
        within = self.name.split(".")[1:]
        return "/".join(within if self.package or len(within) == 1 else within[:-1])

    @property
    def all_imports(self) -> set[str]:
        return self.imports | self.typing_only


def parse(name: str, source: str, *, package: bool = False) -> Module:
    """Read one file; a ``from`` import counts both for the module and for the name it takes from there."""
    module = Module(name, package)
    tree = ast.parse(source)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        found = module.typing_only if id(node) in guarded else module.imports
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            module.calls.add(node.func.id)
    return module


def read_house(root: Path) -> dict[str, Module]:
    """Every module under ``root`` by its dotted name."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        modules[name] = parse(name, path.read_text(encoding="utf-8"), package=package)
    return modules


def layer_faults(house: dict[str, Module]) -> Iterator[str]:
    """Imports that cross a line of MAY_IMPORT."""
    for module in house.values():
        if module.name == "idiolect" or (module.package and not module.all_imports):
            continue
        if module.room not in MAY_IMPORT:
            yield f"{module.name}: say in MAY_IMPORT what {module.room} may import"
            continue
        allowed = MAY_IMPORT[module.room] | GROUND | {module.room}
        for name in sorted(module.all_imports & house.keys() - {"idiolect"}):
            other = house[name]
            empty = other.package and not other.all_imports
            if not (empty or other.room in allowed or other.name in allowed):
                yield f"{module.name} imports {name}"


def circles(house: dict[str, Module]) -> list[frozenset[str]]:
    """The modules that reach each other by their imports, those for a type checker included (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in sorted(house[name].all_imports & house.keys() - {name}):
            if house[other].package:
                continue
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            ring = frozenset(path[path.index(name) :])
            del path[path.index(name) :]
            if len(ring) > 1:
                found.append(ring)

    for name in (module.name for module in house.values() if not module.package):
        if name not in order:
            visit(name)
    return found


def purity_faults(house: dict[str, Module]) -> Iterator[str]:
    """What touches the world in the parts that must not."""
    for module in house.values():
        if module.room in PURE or module.name in PURE_FILES:
            roots = {name.split(".")[0] for name in module.all_imports}
            owned = {library for library, owner in OWNERS.items() if owner == module.name}
            yield from (f"{module.name} imports {name}" for name in sorted(roots - PURE_MAY - owned - {"idiolect"}))
            yield from (f"{module.name} calls {name}()" for name in sorted(module.calls & WORLD_CALLS))


def importers(house: dict[str, Module], library: str) -> set[str]:
    return {m.name for m in house.values() if any(i.split(".")[0] == library for i in m.all_imports)}


def reach(house: dict[str, Module], start: str) -> set[str]:
    """All that ``start`` may load at run time, late imports included: ours by dotted name, libraries by root."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in seen or name not in house:
            continue
        seen.add(name)
        todo += [name.rpartition(".")[0], *house[name].imports]
    libraries = {i.split(".")[0] for name in seen for i in house[name].imports}
    return seen | libraries - {"idiolect"}


@pytest.fixture(scope="module")
def house() -> dict[str, Module]:
    return read_house(DAEMON)


def test_rooms_import_only_what_they_may(house):
    assert list(layer_faults(house)) == []


def test_every_room_of_the_table_is_there(house):
    assert {module.room for module in house.values() if module.name != "idiolect"} >= MAY_IMPORT.keys()


def test_at_most_fourteen_doors_at_the_top():
    entries = {path.name for path in (DAEMON / "idiolect").iterdir()} - {
        "__pycache__",
        "__init__.py",
        "py.typed",
        "bundles",
    }
    assert len(entries) <= 14, sorted(entries)


def test_nothing_is_imported_in_a_circle(house):
    assert circles(house) == []


def test_a_circle_is_seen():
    fake = {
        "idiolect.a": parse("idiolect.a", "from idiolect.b import x"),
        "idiolect.b": parse("idiolect.b", "def f():\n    from idiolect import c"),
        "idiolect.c": parse("idiolect.c", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import idiolect.a"),
        "idiolect.d": parse("idiolect.d", "import idiolect.a"),
    }
    assert circles(fake) == [frozenset({"idiolect.a", "idiolect.b", "idiolect.c"})]


def test_only_main_imports_the_service(house):
    users = {m.name for m in house.values() if "idiolect.service.service" in m.all_imports}
    assert users == {"idiolect.__main__"}


def test_pipeline_and_learning_touch_nothing_of_the_world(house):
    assert any(m.room == "listening/pipeline" for m in house.values())
    assert list(purity_faults(house)) == []


@pytest.mark.parametrize(("library", "owner"), OWNERS.items())
def test_one_file_owns_a_library(house, library, owner):
    assert importers(house, library) == ({owner} if owner in house else set())


def test_cli_cannot_reach_a_heavy_library(house):
    reached = reach(house, "idiolect.cli.main")
    assert {"idiolect.client.client", "idiolect.client.connection", "idiolect.errors"} <= reached
    assert reached & NOT_IN_CLI == set()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("idiolect.cli.main", NOT_IN_CLI),
        ("idiolect.client", NOT_IN_CLI | {"yaml", "cryptography", "argparse"}),
        ("idiolect.values", NOT_IN_CLI),
        ("idiolect.listening.pipeline.chain", {"h11", "socket"}),
    ],
)
def test_importing_loads_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DAEMON)
    loaded = set(done.stdout.split())
    assert "idiolect" in loaded
    assert loaded & heavy == set()


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        (
            "idiolect.listening.pipeline.gate",
            "def f():\n    import time",
            "idiolect.listening.pipeline.gate imports time",
        ),
        ("idiolect.learning.ledger", "from os.path import join", "idiolect.learning.ledger imports os"),
        ("idiolect.listening.pipeline.chain", "x = open('y')", "idiolect.listening.pipeline.chain calls open()"),
        (
            "idiolect.trust.device.tpm",
            "from ...listening.pipeline import chain",
            "idiolect.trust.device.tpm imports idiolect.listening.pipeline.chain",
        ),
        (
            "idiolect.control.api.routes",
            "from idiolect.service import service",
            "idiolect.control.api.routes imports idiolect.service.service",
        ),
        ("idiolect.newcomer", "", "idiolect.newcomer: say in MAY_IMPORT what newcomer may import"),
        (
            "idiolect.trust.vault.vault",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import idiolect.service.service",
            "idiolect.trust.vault.vault imports idiolect.service.service",
        ),
    ],
)
def test_the_reader_sees_a_crossed_line(name, source, fault):
    fake = {
        n: Module(n, n in {"idiolect", "idiolect.listening.pipeline"})
        for n in (
            "idiolect",
            "idiolect.listening.pipeline",
            "idiolect.listening.pipeline.chain",
            "idiolect.service.service",
        )
    }
    fake[name] = parse(name, source)
    assert fault in [*layer_faults(fake), *purity_faults(fake)]


def test_the_reader_follows_imports_through_other_modules():
    fake = {
        "idiolect": Module("idiolect"),
        "idiolect.cli.main": parse("idiolect.cli.main", "def f():\n    from idiolect.control import client"),
        "idiolect.control": Module("idiolect.control"),
        "idiolect.control.client": parse("idiolect.control.client", "from . import http", package=False),
        "idiolect.control.http": parse("idiolect.control.http", "import numpy.linalg"),
    }
    assert "numpy" in reach(fake, "idiolect.cli.main")
