"""What of a report may leave the house: what an allow-list names, and nothing personal.

A report is meant to be shown to others, and the machine it tells of may be somebody's: its host name, users, addresses,
serial number and Wi-Fi are nobody's business. So nothing is removed from a report; it is made anew from fields that are
named here. Numbers are numbers, and text must be made of words that are listed here or that stand in these tests' own
source.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from report import Number, Report

HERE = Path(__file__).resolve().parent
UNTOLD = "(not told)"
"""In the place of text that might be anybody's."""
TARGETS = ("local", "board", "board:arm64", "device:loopback")
ARCHES = ("amd64", "arm64", "armhf", "i386", "riscv64")
OUTCOMES = ("passed", "failed", "skipped")
UNITS = ("s", "MiB", "%", "")
ACCELERATORS = ("KVM", "TCG")
SYSTEM = ("Debian", "GNU/Linux", "Raspbian", "Ubuntu", "LTS", "bookworm", "trixie", "noble")
KERNEL = ("rpt", "rpi", "raspi", "v8", "tegra", "generic", "arm64", "amd64", "cloud", "bpo", "deb12", "deb13")
MODEL = (
    *("Raspberry", "Pi", "Zero", "Compute", "Module", "Model", "Plus", "Lite", "Rev", "A", "B", "W", "2W"),
    *(
        "NVIDIA",
        "Jetson",
        "Orin",
        "Nano",
        "NX",
        "AGX",
        "Xavier",
        "Thor",
        "Developer",
        "Kit",
        "Engineering",
        "Reference",
    ),
    *("Super", "Radxa", "ROCK", "Orange", "Banana", "Hardkernel", "ODROID", "Pine64", "Libre", "Khadas"),
)
SMALL = re.compile(r"\d{1,4}(\.\d{1,3}){0,2}\+?")
"""A version or a model's number; a serial number is longer."""
PACKAGE = re.compile(r"idiolect_(\d+(?:\.\d+)*)(\S*?)((?:-\d+)?(?:~(?:deb|ubuntu)[\d.]+(?:u\d+)?)?)_(amd64|arm64)\.deb")


def shareable(report: Report) -> dict[str, Any]:
    """The report in words and numbers that say what kind of machine it was, and not whose."""
    return {
        "schema": "idiolect/hw-report/v2",
        "target": report.target if report.target in TARGETS else "device",
        "package": _package(report.package),
        "machine": _machine(report.facts),
        "made_first_s": _number(sum(value for value in report.built.values() if isinstance(value, int | float))),
        "tests": [_test(entry) for entry in report.tests],
        "numbers": [_measured(number) for number in report.numbers],
    }


def _machine(facts: dict[str, Any]) -> dict[str, Any]:
    notes, lacks = (found if isinstance(found := facts.get(name), dict) else {} for name in ("notes", "lacks"))
    return {
        "arch": _one_of(facts.get("arch"), ARCHES),
        "model": _words(facts.get("model"), MODEL),
        "system": _words(facts.get("system"), SYSTEM),
        "kernel": _words(facts.get("kernel"), KERNEL),
        "accelerator": _one_of(notes.get("accelerator"), ACCELERATORS),
        "lacks": sorted(name for name in lacks if name in _own_words()),
        **{name: _number(facts.get(name)) for name in ("systemd", "memory_mib")},
        **{name: facts.get(name) is True for name in ("has_tpm", "has_sound", "enforces_cgroups")},
    }


def _test(entry: dict[str, Any]) -> dict[str, Any]:
    """Its name and outcome; of a reason only what is written in our own source."""
    reason = str(entry.get("reason", "")).removeprefix("Skipped: ")
    return {
        "test": _test_name(entry.get("test")),
        "outcome": _one_of(entry.get("outcome"), OUTCOMES),
        "seconds": _number(entry.get("seconds")),
        "reason": reason if not reason or reason in _own_words() else UNTOLD,
    }


def _measured(number: Number) -> dict[str, Any]:
    step = number.name.removeprefix("install: ")
    known = number.name in _own_words() or step in _own_words()
    value, limit = _number(number.value), _number(number.limit)
    return {
        "name": number.name if known else UNTOLD,
        "value": value,
        "unit": _one_of(number.unit, UNITS),
        "limit": limit,
        "test": _test_name(number.test),
        "good": value is not None and (limit is None or value <= limit),
    }


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _one_of(value: object, known: Iterable[str]) -> str:
    return value if isinstance(value, str) and value in known else ""


def _words(value: object, known: Iterable[str]) -> str:
    """Text of which every word is listed, or a small number; else ``UNTOLD`` in its place."""
    if not isinstance(value, str) or not value:
        return ""
    words = re.split(r"[\s+~_()-]+", value)
    return value if all(not word or word in known or SMALL.fullmatch(word) for word in words) else UNTOLD


def _package(name: str) -> str:
    """The package's version and architecture; the rest of a version is the builder's own."""
    found = PACKAGE.fullmatch(name.rpartition("/")[2])
    if not found:
        return UNTOLD
    version, own, release, arch = found.groups()
    return f"idiolect {version}{release}{' of its own' if own else ''} {arch}"


def _test_name(value: object) -> str:
    """File and function, which are ours; of what stands in brackets only words of our source."""
    text = value if isinstance(value, str) else ""
    name, _, rest = text.partition("[")
    function = name.rpartition("::")[2]
    if function not in _functions():
        return UNTOLD
    words = re.split(r"[\s_-]+", rest.removesuffix("]"))
    known = all(word in _own_words() or re.fullmatch(r"\d{1,5}", word) for word in words if word)
    return f"{function}[{rest}" if rest and known else function


@functools.cache
def _trees() -> list[ast.Module]:
    files = [path for path in HERE.rglob("*.py") if "__pycache__" not in path.parts]
    return [ast.parse(path.read_text()) for path in files]


@functools.cache
def _own_words() -> frozenset[str]:
    """Every text that stands in the source of these tests as it is."""
    nodes = (node for tree in _trees() for node in ast.walk(tree))
    return frozenset(
        node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value
    )


@functools.cache
def _functions() -> frozenset[str]:
    nodes = (node for tree in _trees() for node in ast.walk(tree))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
