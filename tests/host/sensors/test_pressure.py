"""Pressure: what /proc/pressure says, and triggers of the real kernel under a real load, as root and as nobody."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from idiolect.host.sensors.pressure import RULES, Pressure, Rule, Triggers, read_pressure
from tests.conftest import absent

DAEMON = Path(__file__).parents[3] / "daemon"
NOBODY = 65534
SOON_S = 15.0
"""A window is 2 s, and the machine may be busy with other tests."""
ASLEEP = Rule("memory", 1_999_999)
"""Fires only when somebody waits for memory all the time."""
EASY = Rule("cpu", 20_000)
"""One per cent: any load on every core fires it."""


def lines(some: str, full: str = "0.00") -> str:
    return "".join(f"{kind} avg10={value} avg60=1.00 avg300=2.00 total=123\n" for kind, value in locals().items())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    for resource, value in (("cpu", "12.34"), ("memory", "0.00"), ("io", "100.00")):
        (tmp_path / "proc/pressure" / resource).write_text(lines(value))
    return tmp_path


def need_triggers() -> None:
    """Skip where the kernel arms no trigger for us."""
    with Triggers(rules=(ASLEEP, EASY)) as triggers:
        if triggers.missing:
            absent(f"no pressure triggers here: {triggers.missing}")


@contextlib.contextmanager
def hogs() -> Iterator[None]:
    """Twice as many busy processes as there are cores."""
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


# ---- averages ----


def test_averages_are_read(root):
    pressure = read_pressure(root)
    assert pressure == Pressure(12.34, 0.0, 100.0)
    assert pressure.available
    assert pressure.describe() == "waiting for processor 12 %, memory 0 %, disk 100 %"


def test_a_kernel_without_pressure_is_no_trouble(tmp_path):
    pressure = read_pressure(tmp_path)
    assert pressure == Pressure(None, None, None)
    assert not pressure.available
    assert "psi=1" in pressure.describe()


@pytest.mark.parametrize("garbage", ["", "some avg10=x avg60=", lines("100.01"), lines("-1.00"), "\0", "9" * 5000])
def test_garbage_is_reported_and_the_rest_believed(root, garbage):
    (root / "proc/pressure/memory").write_text(garbage)
    pressure = read_pressure(root)
    assert (pressure.cpu, pressure.memory, pressure.io) == (12.34, None, 100.0)
    assert pressure.available
    assert pressure.trouble[0].startswith("pressure/memory: ")
    assert "memory ?" in pressure.describe()


def test_the_kernel_at_hand_can_be_asked():
    if not Path("/proc/pressure/cpu").exists():
        absent("this kernel keeps no pressure")
    pressure = read_pressure()
    assert pressure.trouble == ()
    assert all(0 <= value <= 100 for value in (pressure.cpu, pressure.memory, pressure.io))


# ---- triggers ----


def test_a_load_fires_by_name_and_wakes_a_loop():
    need_triggers()

    async def watch() -> list[tuple[str, ...]]:
        seen: list[tuple[str, ...]] = []
        twice = asyncio.Event()

        def fired() -> None:
            seen.append(triggers.fired())
            if len(seen) == 2:
                twice.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(triggers.fileno(), fired)
        try:
            await asyncio.wait_for(twice.wait(), SOON_S)  # again and again, as long as it lasts
        finally:
            loop.remove_reader(triggers.fileno())
        return seen

    with Triggers(rules=(EASY, ASLEEP)) as triggers, hogs():
        assert triggers.armed == ("cpu", "memory")
        assert asyncio.run(watch()) == [("cpu",), ("cpu",)]


def test_the_rules_of_the_house_fire_under_a_load_on_every_core():
    need_triggers()
    with Triggers() as triggers, hogs():
        assert (triggers.missing, triggers.armed) == ((), ("cpu", "memory", "io"))
        assert select.select([triggers], [], [], SOON_S)[0]
        assert "cpu" in triggers.fired()


def test_every_window_is_one_that_the_unprivileged_may_have():
    assert all(rule.window_us % 2_000_000 == 0 and 0 < rule.stall_us < rule.window_us for rule in RULES)


UNPRIVILEGED = f"""
import os, select, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
from idiolect.host.sensors.pressure import Triggers
with Triggers() as triggers:
    print(triggers.missing, flush=True)
    print(bool(select.select([triggers], [], [], {SOON_S})[0]), triggers.fired(), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_unprivileged_process_is_woken_too():
    need_triggers()
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 4):
        absent("a kernel before 6.4 arms no triggers for the unprivileged")
    code = f"import sys; sys.path.insert(0, {str(DAEMON)!r}); import idiolect.host.sensors.pressure\n{UNPRIVILEGED}"
    with hogs():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    missing, woken = done.stdout.splitlines()
    assert missing == "()"
    assert woken.startswith("True")
    assert "cpu" in woken


def test_a_quiet_trigger_wakes_nobody():
    need_triggers()
    with Triggers(rules=(ASLEEP,)) as triggers, hogs():
        assert triggers.missing == ()
        assert select.select([triggers], [], [], 3.0)[0] == []
        assert triggers.fired() == ()


def test_it_is_told_once_and_not_lost_while_nobody_asks():
    need_triggers()
    with Triggers(rules=(EASY,)) as triggers, hogs():
        assert select.select([triggers], [], [], SOON_S)[0]
        assert select.select([triggers], [], [], 0.0)[0]  # looking takes nothing away
        assert triggers.fired() == ("cpu",)
        assert triggers.fired() == ()
        assert not select.select([triggers], [], [], 0.5)[0]  # though the load lasts: once per window


def test_no_pressure_at_all_is_told_and_never_wakes(tmp_path):
    with Triggers(tmp_path) as triggers:
        assert triggers.armed == ()
        assert triggers.missing == tuple(f"{name}: No such file or directory" for name in ("cpu", "memory", "io"))
        assert select.select([triggers], [], [], 0.1)[0] == []
        assert triggers.fired() == ()


def test_files_that_are_no_triggers_are_told(root):
    (root / "proc/pressure/io").unlink()
    (root / "proc/pressure/io").mkdir()
    with Triggers(root) as triggers:
        assert [why.partition(": ")[0] for why in triggers.missing] == ["cpu", "memory", "io"]
        assert triggers.armed == ()


@pytest.mark.parametrize("rule", [Rule("cpu", 0), Rule("cpu", 3_000_000), Rule("cpu", 1, 11_000_000)])
def test_a_rule_that_the_kernel_refuses_is_told(rule):
    need_triggers()
    with Triggers(rules=(rule, ASLEEP)) as triggers:
        assert triggers.missing == (f"cpu: {os.strerror(errno.EINVAL)}",)
        assert triggers.armed == ("memory",)


def test_closing_gives_every_descriptor_back_and_may_be_repeated():
    before = len(list(Path("/proc/self/fd").iterdir()))
    triggers = Triggers()
    triggers.close()
    triggers.close()
    assert triggers.fired() == ()
    with pytest.raises(ValueError, match="closed"):
        triggers.fileno()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
