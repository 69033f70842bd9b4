"""What every test may ask for: the recordings beside the checkout, and one thread per library."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from tests.support.fake_daemon import Running
    from tests.support.swtpm import Swtpm

# Before a test imports numpy: results must not depend on how many cores share a sum.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))  # what the scripts are made of is tested too
DATA = Path(os.environ.get("IDIOLECT_DATA", ROOT.parent / "shared" / "data"))
"""Real recordings, laid out as their README says; never part of the repository."""
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def absent(what: str) -> None:
    """Skip a test whose material is missing, or fail it in CI, where nothing may be missing silently."""
    if IN_CI:
        pytest.fail(f"missing in CI: {what}", pytrace=False)
    pytest.skip(what)


PACE_TRIES = 5


os.umask(0o022)  # what tests write is as readable as what a package installs


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Try a test of pace again, all of its fixtures anew, until it has held once.

    What such a test promises is a time: a busy machine spoils some of its tries, a fault all of them.
    """
    if not item.get_closest_marker("pace"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(PACE_TRIES):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not any(report.failed for report in reports):
            break
        item._initrequest()  # type: ignore[attr-defined]  # pytest's own way to have the fixtures made again
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real recordings (speech_commands, digits, phrases, coffee_orders, noise)."""
    if not (DATA / "digits").is_dir():
        absent("no recordings: set IDIOLECT_DATA to a folder of them")
    return DATA


@pytest.fixture(scope="session")
def sounds() -> Path:
    """The recordings of Debian's asterisk-core-sounds-en-wav."""
    folder = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
    if not folder.is_dir():
        absent("no /usr/share/asterisk/sounds: run scripts/setup")
    return folder


def pytest_report_header() -> str:
    """Which of the two interpreters the encoder will find: both run the pipeline's tests."""
    runtimes = [name for name in ("ai_edge_litert", "tflite_runtime") if find_spec(name)]
    return f"interpreters: {', '.join(runtimes) or 'none'}; recordings: {'yes' if DATA.is_dir() else 'no'}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's control socket lies."""
    return tmp_path / "control.sock"


@pytest.fixture
def run(path: Path) -> Iterator[Running]:
    """A control server on ``path`` with a daemon behind it."""
    from tests.support import fake_daemon  # late: the environment of tflite-runtime has no h11

    with fake_daemon.running(path) as it:
        yield it


@pytest.fixture
def hasty(path: Path) -> Iterator[Running]:
    """The same with short time limits."""
    from tests.support import fake_daemon

    with fake_daemon.running(path, limits=fake_daemon.HASTY) as it:
        yield it


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    """A TPM 2.0 in software, switched on."""
    from tests.support.swtpm import Swtpm, missing  # late: the environment of tflite-runtime has no tpm2-pytss

    if why := missing():
        pytest.skip(why)
    with Swtpm() as chip:
        yield chip
