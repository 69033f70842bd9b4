"""A report of hw-tests: what it may say of a machine, tried with a description that is hostile in every field."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HW_TESTS = Path(__file__).resolve().parents[2] / "hw-tests"
CANARIES = {
    "host": "annas-kitchen",
    "user": "anna.novak",
    "home": "/home/anna/speaker",
    "serial": "10000000c0ffee42",
    "short serial": "100000",
    "mac": "dc:a6:32:01:02:03",
    "ip": "192.168.178.23",
    "ip6": "fe80::dea6:32ff:fe01:203",
    "wifi": "Novak Guest 5G",
    "mail": "anna@example.org",
    "word": "Raspberry Pi of Anna",
    "number as text": "123456789",
    "quoted": '","host":"annas-kitchen',
}


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """hw-tests' own modules, which lie outside of the packages."""
    sys.path.insert(0, str(HW_TESTS))
    try:
        yield importlib.import_module("report"), importlib.import_module("sharing")
    finally:
        sys.path.remove(str(HW_TESTS))
        for name in ("report", "sharing"):
            del sys.modules[name]


def honest(report: ModuleType) -> Any:
    """What a Raspberry Pi 5 might say."""
    facts = {
        "arch": "arm64", "model": "Raspberry Pi 5 Model B Rev 1.0", "kernel": "6.12.34+rpt-rpi-2712",
        "system": "Debian GNU/Linux 12 (bookworm)", "systemd": 252, "memory_mib": 4045, "has_tpm": True,
        "has_sound": True, "enforces_cgroups": False,
        "lacks": {"suspend": "this device cannot sleep, or has no clock to wake it"}, "notes": {},
    }  # fmt: skip
    made = report.Report(target="device:anna@annas-kitchen", facts=facts, package="idiolect_0.1.0~deb12u1_arm64.deb")
    made.tests = [
        {"test": "test_boot.py::test_restarted_its_control_socket_is_still_there", "outcome": "passed",
         "seconds": 3.25, "reason": ""},
        {"test": "test_faults.py::test_a_group_that_is_missing_comes_back[tss]", "outcome": "skipped", "seconds": 0.1,
         "reason": "Skipped: nobody here to pull the plug"},
    ]  # fmt: skip
    made.numbers = [
        report.Number("boot: kernel's start to READY, by its own clock", 21.5, "s", None,
                      "test_booted_it_is_ready_by_itself_and_hears"),
        report.Number("install: apt install", 31.0, "s", None, "test_from_a_fresh_debian_to_the_first_word"),
    ]  # fmt: skip
    return made


def test_what_a_board_says_of_itself_is_in_the_report(modules: tuple[ModuleType, ModuleType]) -> None:
    report, sharing = modules
    said = sharing.shareable(honest(report))
    assert said["target"] == "device"
    assert said["package"] == "idiolect 0.1.0~deb12u1 arm64"
    machine = said["machine"]
    assert (machine["model"], machine["kernel"]) == ("Raspberry Pi 5 Model B Rev 1.0", "6.12.34+rpt-rpi-2712")
    assert machine["system"] == "Debian GNU/Linux 12 (bookworm)"
    assert (machine["memory_mib"], machine["has_tpm"], machine["lacks"]) == (4045, True, ["suspend"])
    assert [(each["outcome"], each["reason"]) for each in said["tests"]] == [
        ("passed", ""), ("skipped", "nobody here to pull the plug"),
    ]  # fmt: skip
    assert said["tests"][1]["test"] == "test_a_group_that_is_missing_comes_back[tss]"
    assert [(each["name"], each["value"]) for each in said["numbers"]] == [
        ("boot: kernel's start to READY, by its own clock", 21.5), ("install: apt install", 31.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("model", "NVIDIA Jetson Orin Nano Developer Kit"),
        ("model", "Raspberry Pi Zero 2 W Rev 1.0"),
        ("model", "Raspberry Pi 4 Model B Rev 1.5"),
        ("model", "Raspberry Pi Compute Module 5 Rev 1.0"),
        ("system", "Ubuntu 24.04.3 LTS"),
        ("kernel", "6.8.12-tegra"),
        ("kernel", "6.1.0-50-arm64"),
        ("kernel", "6.12.117+deb13-arm64"),
    ],
)
def test_boards_that_are_named_in_the_docs_are_told(
    modules: tuple[ModuleType, ModuleType], field: str, text: str
) -> None:
    report, sharing = modules
    made = honest(report)
    made.facts[field] = text
    assert sharing.shareable(made)["machine"][field] == text


def places(report: Any) -> Iterator[str]:
    """Every place of a report that could hold text, each with a way to put some there."""
    yield from (field.name for field in dataclasses.fields(report) if field.name in ("target", "package"))
    yield from (f"facts.{name}" for name in report.facts)
    yield from ("facts.lacks.KEY", "facts.lacks.suspend", "facts.notes.KEY", "facts.notes.accelerator")
    yield from ("facts.KEY", "built.KEY", "built.disk")
    yield from (f"tests.{name}" for name in report.tests[0])
    yield "tests.KEY"
    yield from (f"numbers.{field.name}" for field in dataclasses.fields(report.numbers[0]))


def poison(report: Any, place: str, text: str) -> None:
    """Write ``text`` there: in the place of the value, or of a key's name."""
    first, _, rest = place.partition(".")
    name, _, inner = rest.partition(".")
    if not rest:
        setattr(report, first, f"{getattr(report, first)}{text}")
    elif first == "tests":
        for entry in report.tests:
            entry[text if name == "KEY" else name] = f"{entry.get(name, '')}{text}"
    elif first == "numbers":
        for number in report.numbers:
            setattr(number, name, f"{getattr(number, name)}{text}" if name != "value" else text)
    elif inner and isinstance(report.facts[name], dict):
        report.facts[name][text if inner == "KEY" else inner] = text
    elif not inner:
        found = report.facts if first == "facts" else report.built
        old = found.get(name)
        found[text if name == "KEY" else name] = f"{old} {text}" if isinstance(old, str) else text


@pytest.mark.parametrize("what", CANARIES)
def test_nothing_personal_gets_through_wherever_it_stands(modules: tuple[ModuleType, ModuleType], what: str) -> None:
    report, sharing = modules
    text = CANARIES[what]
    for place in places(honest(report)):
        made = honest(report)
        made.numbers = [dataclasses.replace(number, limit=None) for number in made.numbers]
        poison(made, place, text)
        written = json.dumps(sharing.shareable(made))
        strings = [value for value in leaves(json.loads(written)) if isinstance(value, str)]
        assert not [value for value in strings if text in value or text.strip('",:') in value], f"{place}: {written}"
        assert "annas-kitchen" not in written, place


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.1.0", "0.1.0"),
        ("0.1.0-1~deb13u1", "0.1.0-1~deb13u1"),
        ("0.1.0-1~ubuntu24.04.1", "0.1.0-1~ubuntu24.04.1"),
        ("0.1.0+annas-kitchen", "0.1.0 of its own"),
        ("0.1.0+annas.kitchen1-1~deb12u1", "0.1.0-1~deb12u1 of its own"),
        ("0.1.0~deb12u1+annas-kitchen", "0.1.0 of its own"),
    ],
)
def test_of_a_package_of_ones_own_only_the_number_is_told(
    modules: tuple[ModuleType, ModuleType], version: str, told: str
) -> None:
    report, sharing = modules
    made = honest(report)
    made.package = f"idiolect_{version}_arm64.deb"
    assert sharing.shareable(made)["package"] == f"idiolect {told} arm64"


def leaves(value: Any) -> Iterator[Any]:
    """Everything in it that is no container, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def test_a_report_that_was_filled_at_every_place_at_once_is_still_clean(
    modules: tuple[ModuleType, ModuleType],
) -> None:
    report, sharing = modules
    made = honest(report)
    for place in places(made):
        for text in CANARIES.values():
            poison(made, place, text)
    written = json.dumps(sharing.shareable(made))
    for text in CANARIES.values():
        assert text not in written


def test_the_page_names_only_options_and_targets_that_there_are() -> None:
    page = (HW_TESTS.parent / "docs" / "boards.md").read_text()
    source = (HW_TESTS / "conftest.py").read_text() + (HW_TESTS / "machines.py").read_text()
    commands = [line for line in page.splitlines() if "pytest hw-tests" in line]
    assert commands
    options = set(re.findall(r"(--[a-z]+)", " ".join(commands) + page[page.index("## Half an hour") :]))
    assert options >= {"--target", "--report", "--deb", "--loudspeaker", "--destructive"}
    known = set(re.findall(r'addoption\(\s*"(--[a-z]+)"', source))
    assert options - {"--arch", "--help"} <= known
    targets = {target.partition(":") for target in re.findall(r"--target (\S+?)[`\s]", page)}
    assert {kind for kind, _, _ in targets} == {"board", "device"}
    assert ("board", ":", "arm64") in targets
