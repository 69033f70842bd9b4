"""Tests of the installed product on a whole machine: pytest hw-tests --target local | board | board:arm64 | device:HOST

local    a container: systemd as PID 1 on a fresh Debian, microphone and TPM simulated behind libasound and the TSS
board    a virtual board: Debian's kernel, a TPM and a sound card that are devices, power that can be cut
board:arm64
         a virtual board with another processor, emulated: the package for arm64 from its installation to its end
device   a machine of yours over ssh, with whatever it has; what would harm it needs --destructive

hw-tests/README.md says what each takes. Only root can make the first three.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "daemon"), str(HERE)]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import machines  # noqa: E402
from product import Product  # noqa: E402
from report import Number, Report  # noqa: E402
from sharing import shareable  # noqa: E402
from targets.base import Target, TargetError, Unavailable  # noqa: E402

REPORT = pytest.StashKey[Report]()
ORDER = (
    "install",
    "boot",
    "service",
    "configuration",
    "ports",
    "budgets",
    "microphone",
    "sandbox",
    "learning",
    "documented",
    "faults",
    "tpm",
    "package",
    "report",
)
"""Files in this order: what takes the machine apart comes last."""
EMULATED_S = 5400
ELSEWHERE = "the same on any processor: left to the container and the x86 board (--everything runs it here, too)"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suite's own options."""
    group = parser.getgroup("idiolect on a machine")
    group.addoption(
        "--target", default="local", metavar="KIND", help="local (default), board, board:arm64 or device:HOST"
    )
    group.addoption(
        "--release", choices=machines.roots.RELEASES, default="bookworm", help="Debian's: whose root, whose package"
    )
    group.addoption(
        "--deb", type=Path, metavar="FILE", help="the package; default: dist/idiolect_*_ARCH.deb, built if absent"
    )
    group.addoption("--report", type=Path, metavar="FILE", help="write a report as JSON")
    group.addoption("--destructive", action="store_true", help="on a device: also what loses what it keeps")
    group.addoption(
        "--everything", action="store_true", help="on an emulated board: also what the container tries, too"
    )
    group.addoption("--loudspeaker", metavar="PCM", help="on a device: an ALSA output here that it can hear")
    group.addoption(
        "--power", metavar="COMMAND", help="on a device: cuts its power and gives it back, such as a smart plug's"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Markers also hold when another settings file than ours is in force."""
    for line in (
        "quick: part of the subset for CI",
        "destructive: would harm what a real device keeps",
        "anywhere: the same on any machine",
        "arm64: what a package for another processor has to show",
    ):
        config.addinivalue_line("markers", line)
    config.stash[REPORT] = Report(target=config.getoption("--target"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In order; what would harm a device only where that is wanted."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=place)
    if config.getoption("--target") == "board:arm64":
        _for_an_emulated_processor(config, items)
    if config.getoption("--target").startswith("device:") and not config.getoption("--destructive"):
        for item in items:
            if item.get_closest_marker("destructive"):
                item.add_marker(pytest.mark.skip(reason="would harm what the device keeps: --destructive allows it"))


def _for_an_emulated_processor(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Time enough, also for the first one, which may have to make the machine; and only what is worth that time."""
    for item in items:
        item.add_marker(pytest.mark.timeout(EMULATED_S))
        # Those of the TPM say by themselves why they do not run.
        wanted = item.get_closest_marker("arm64") or item.path.stem == "test_tpm"
        if not wanted and not config.getoption("--everything"):
            item.add_marker(pytest.mark.skip(reason=ELSEWHERE))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """What a machine lacks is a reason to skip."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The same in the test itself."""
    return (yield from _skipping())


def _skipping() -> Iterator[Any]:
    try:
        return (yield)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    """Into the report; with a failure, what the machine says of it."""
    result: pytest.TestReport = yield
    if result.when == "call" or result.skipped or result.failed:
        reason = result.longrepr[2] if result.skipped and isinstance(result.longrepr, tuple) else ""
        entry = {"test": item.nodeid, "outcome": result.outcome, "seconds": round(call.duration, 2), "reason": reason}
        item.config.stash[REPORT].tests.append(entry)
    product = getattr(item, "funcargs", {}).get("product")
    if result.failed and isinstance(product, Product):
        try:
            result.sections.append(("systemctl status", product.told))
            result.sections.append(("journal", product.journal(arguments="-o short-precise")[-6000:]))
        except Exception as error:
            result.sections.append(("the machine", f"does not answer: {error}"))
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The numbers, at the end of the run."""
    report = config.stash[REPORT]
    if not report.facts:
        return
    terminalreporter.section("the machine, and what was measured")
    for line in report.lines():
        terminalreporter.write_line(line)
    if path := config.getoption("--report"):
        path.write_text(json.dumps(shareable(report), indent=1) + "\n")
        terminalreporter.write_line(f"report: {path}")


@pytest.fixture(scope="session")
def deb(pytestconfig: pytest.Config) -> Path:
    """The package to test."""
    options = pytestconfig.option
    return machines.package(options.deb, options.release, machines.arch_of(options.target))


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config, deb: Path) -> Iterator[Target]:
    """The machine, one for the whole run."""
    report = pytestconfig.stash[REPORT]
    try:
        machine = machines.make(pytestconfig, deb)
    except TargetError as error:
        pytest.exit(f"no machine to test on: {error}", 3)
    try:
        report.facts, report.package = machine.facts.as_dict(), deb.name
        report.built = dict(machines.roots.TIMES)
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="session")
def installed(target: Target, deb: Path) -> Product:
    """The package installed on it, and its service up; ``story`` says how long each step took."""
    try:
        return machines.install(target, deb)
    except TargetError as error:  # once, and not for every test again
        pytest.exit(f"the package cannot be installed, or its service does not hear:\n{error}", 3)


@pytest.fixture(autouse=True)
def _left_to_others(request: pytest.FixtureRequest, installed: Product) -> None:
    """An emulated processor has no time for what is the same on any machine."""
    if (
        installed.emulated
        and request.node.get_closest_marker("anywhere")
        and not (request.config.getoption("--target") == "board:arm64" and request.node.get_closest_marker("arm64"))
        and not request.config.getoption("--everything")
    ):
        pytest.skip("the same on any machine: left to the container, as this processor is emulated (--everything)")


@pytest.fixture
def product(installed: Product) -> Product:
    """The running service with the usual settings."""
    installed.begin()
    return installed


@pytest.fixture
def measure(request: pytest.FixtureRequest, installed: Product) -> Any:
    """Record a number, and hold it to its limit; an emulated processor's times count for nothing."""
    numbers = request.config.stash[REPORT].numbers

    def record(name: str, value: float, unit: str = "s", limit: float | None = None, *, timing: bool = True) -> float:
        emulated = timing and installed.emulated
        note = "emulated" + (f": {limit:g} not held" if limit is not None else "") if emulated else ""
        number = Number(name, round(value, 3), unit, None if emulated else limit, request.node.name, note)
        numbers.append(number)
        assert number.good, str(number)
        return value

    return record


@pytest.fixture
def stopwatch() -> Any:
    """Seconds since it was asked for."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
