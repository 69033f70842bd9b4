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

EVERYBODY_MAY = {"errors", "values", "structure"}
# part -> the parts it may import, beside itself and EVERYBODY_MAY. Nobody but __main__ lists the service.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "values": set(),
    "structure": set(),  # bounds what is parsed, wherever that is
    "config": set(),
    "pipeline": set(),
    "frames": set(),
    "learning": {"pipeline"},
    "trust": set(),
    "host": {"frames", "trust"},
    "control": {"config"},
    "connections": {"config", "control"},  # whom else the daemon serves: one place that opens and closes them all
    "doctor": {"config", "custody", "host", "idle", "trust"},  # of trust only what a bundle lacks
    "supervision": {"custody", "host"},  # what systemd hears
    "pausing": {"host"},
    "worker": {"frames", "host", "learning", "trust"},  # host only for the sandbox; trust for a key from a passphrase
    "idle": {"config", "host"},  # conditions in, obstacles out; of the host only the shape of what it measures
    "assembly": {"config", "custody", "host", "learning", "pipeline", "trust"},  # bundle and config become a chain
    "custody": {"config", "host", "trust"},  # keystore, vault and audit log of one device
    "learner": {"custody", "host", "learning", "pipeline", "trust"},  # the vault's examples into adapters
    "personal": {
        "config",
        "control",
        "custody",
        "host",
        "idle",
        "inference",
        "learner",
        "learning",
        "pipeline",
        "trust",
    },
    "inference": {"control", "host", "learning", "pipeline"},  # the thread between the queue and the events
    "streams": {"assembly", "control", "host", "pipeline"},  # clients' sound, heard as the microphone's is
    "client": set(),  # for other programs, too
    "cli": {"client", "config", "custody", "host", "trust"},  # signing, provisioning and proofs work without a daemon
    "settings": {"assembly", "config", "custody"},  # what is in force, and what a reload makes of it
    "service": {
        "settings",
        "custody",
        "assembly",
        "config",
        "connections",
        "control",
        "doctor",
        "host",
        "inference",
        "learning",
        "pausing",
        "personal",
        "pipeline",
        "streams",
        "supervision",
        "trust",
    },
    "__main__": {"config", "service"},  # of config only where the files are
}
# Files beside the packages that are one part together.
SAME_PART = {
    **dict.fromkeys(
        ("configconnect", "configedit", "configfiles", "configkinds", "configmigrate", "configparse"), "config"
    ),
    **dict.fromkeys(
        (
            "cli_access",
            "cli_box",
            "cli_bundle",
            "cli_check",
            "cli_config",
            "cli_doctor",
            "cli_files",
            "cli_idle",
            "cli_learn",
            "cli_output",
            "cli_pair",
            "cli_sign",
            "cli_trust",
            "cli_units",
        ),
        "cli",
    ),
    **dict.fromkeys(("client_types", "client_wire"), "client"),
    **dict.fromkeys(
        ("copies", "jobs", "observe", "records", "rights", "sharing", "shelves", "standing", "voices"), "learner"
    ),
    **dict.fromkeys(("box", "enrolment", "measuring", "pairing", "people", "refusals", "windows"), "personal"),
    "tally": "inference",
    "stretching": "worker",
    "starting": "assembly",
    **dict.fromkeys(("boot", "consent", "keysthread", "lastgood", "notices", "policykey", "provisioning"), "custody"),
}

# Where sound becomes decisions there is no clock, file, thread, socket or log, and time is counted in samples: of
# the standard library and of others only what computes.
PURE = ("pipeline", "learning")
PURE_MAY = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing", "numpy"),
    *("hashlib", "json", "struct"),  # bytes in, bytes out
}
WORLD_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}

# Library -> the one file that may import it.
OWNERS = {
    "ai_edge_litert": "idiolect.pipeline.encoder",
    "tflite_runtime": "idiolect.pipeline.encoder",
    "alsaaudio": "idiolect.host.microphone",
    "h11": "idiolect.control.wire",
    "tpm2_pytss": "idiolect.host.tpm",
    "msgpack": "idiolect.learning.protocol",
    "jeepney": "idiolect.host.logind",
    "systemd": "idiolect.host.systemd",
}
NOT_IN_CLI = {"numpy", "h11", "soxr", "ai_edge_litert", "tflite_runtime", "alsaaudio"}


@dataclass(frozen=True)
class Module:
    """One source file: ``imports`` are dotted names, ``typing_only`` those that only a type checker sees."""

    name: str
    imports: set[str] = field(default_factory=set)
    typing_only: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)

    @property
    def part(self) -> str:
        own = self.name.split(".")[1] if "." in self.name else "__init__"
        return SAME_PART.get(own, own)

    @property
    def all_imports(self) -> set[str]:
        return self.imports | self.typing_only


def parse(name: str, source: str, *, package: bool = False) -> Module:
    """Read one file; a ``from`` import counts both for the module and for the name it takes from there."""
    module = Module(name)
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
        if module.part not in MAY_IMPORT:
            yield f"{module.name}: say in MAY_IMPORT what {module.part} may import"
            continue
        allowed = MAY_IMPORT[module.part] | EVERYBODY_MAY | {module.part}
        for name in sorted(module.all_imports & house.keys() - {"idiolect"}):
            if house[name].part not in allowed:
                yield f"{module.name} imports {name}"


def purity_faults(house: dict[str, Module]) -> Iterator[str]:
    """What touches the world in the parts that must not."""
    for module in house.values():
        if module.part in PURE:
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


def test_parts_import_only_what_they_may(house):
    assert list(layer_faults(house)) == []


def test_only_main_imports_the_service(house):
    users = {m.name for m in house.values() if "idiolect.service" in m.all_imports}
    assert users == {"idiolect.__main__"}


def test_pipeline_and_learning_touch_nothing_of_the_world(house):
    assert any(m.part == "pipeline" for m in house.values())
    assert list(purity_faults(house)) == []


@pytest.mark.parametrize(("library", "owner"), OWNERS.items())
def test_one_file_owns_a_library(house, library, owner):
    assert importers(house, library) == ({owner} if owner in house else set())


def test_cli_cannot_reach_a_heavy_library(house):
    reached = reach(house, "idiolect.cli")
    assert {"idiolect.client", "idiolect.client_wire", "idiolect.errors"} <= reached
    assert reached & NOT_IN_CLI == set()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("idiolect.cli", NOT_IN_CLI),
        ("idiolect.client", NOT_IN_CLI | {"yaml", "cryptography", "argparse"}),
        ("idiolect.values", NOT_IN_CLI),
        ("idiolect.pipeline.chain", {"h11", "socket"}),
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
        ("idiolect.pipeline.gate", "def f():\n    import time", "idiolect.pipeline.gate imports time"),
        ("idiolect.learning.ledger", "from os.path import join", "idiolect.learning.ledger imports os"),
        ("idiolect.pipeline.chain", "x = open('y')", "idiolect.pipeline.chain calls open()"),
        ("idiolect.host.tpm", "from ..pipeline import chain", "idiolect.host.tpm imports idiolect.pipeline.chain"),
        ("idiolect.control.api", "from idiolect import service", "idiolect.control.api imports idiolect.service"),
        ("idiolect.newcomer", "", "idiolect.newcomer: say in MAY_IMPORT what newcomer may import"),
        (
            "idiolect.trust.vault",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import idiolect.service",
            "idiolect.trust.vault imports idiolect.service",
        ),
    ],
)
def test_the_reader_sees_a_crossed_line(name, source, fault):
    fake = {n: Module(n) for n in ("idiolect", "idiolect.pipeline", "idiolect.pipeline.chain", "idiolect.service")}
    fake[name] = parse(name, source)
    assert fault in [*layer_faults(fake), *purity_faults(fake)]


def test_the_reader_follows_imports_through_other_modules():
    fake = {
        "idiolect": Module("idiolect"),
        "idiolect.cli": parse("idiolect.cli", "def f():\n    from idiolect.control import client"),
        "idiolect.control": Module("idiolect.control"),
        "idiolect.control.client": parse("idiolect.control.client", "from . import wire", package=False),
        "idiolect.control.wire": parse("idiolect.control.wire", "import numpy.linalg"),
    }
    assert "numpy" in reach(fake, "idiolect.cli")
