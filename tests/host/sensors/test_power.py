"""Power and room: what real boards show below /sys and /proc, and everything that can be wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from idiolect.host.sensors.power import read_power
from idiolect.host.sensors.resources import read_resources
from idiolect.host.sensors.thermal import read_thermal
from tests.conftest import absent
from tests.support.boards import EIO, FOLDER, MEGABYTES, PIPE, Sysfs, put

DAEMON = Path(__file__).parents[3] / "daemon"
MAINS_ON, MAINS_OFF = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}
BATTERY = {"type": "Battery", "present": "1", "status": "Discharging", "capacity": "57"}
MOUSE = {"type": "Battery", "scope": "Device", "present": "1", "status": "Discharging", "capacity": "3"}


@pytest.fixture
def board(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


# ---- power ----


@pytest.mark.parametrize(
    ("supplies", "mains", "percent", "charging"),
    [
        pytest.param({}, True, None, False, id="a Pi: no supply is shown"),
        pytest.param({"mouse": MOUSE}, True, None, False, id="a Pi with a mouse"),
        pytest.param({"poe": {"type": "Mains", "online": "0"}}, True, None, False, id="a Pi fed past its PoE hat"),
        pytest.param({"ucsi": {"type": "USB", "online": "0"}}, True, None, False, id="a desktop with a USB-C port"),
        pytest.param({"AC": MAINS_ON, "BAT0": BATTERY}, True, 57, False, id="a laptop on mains, its battery held"),
        pytest.param({"AC": MAINS_OFF, "BAT0": BATTERY}, False, 57, False, id="a laptop on its battery"),
        pytest.param({"AC": MAINS_OFF, "BAT0": {**BATTERY, "status": "Full"}}, False, 57, False, id="just unplugged"),
        pytest.param(
            {"AC": MAINS_ON, "BAT0": {**BATTERY, "status": "Full", "capacity": "100"}, "BAT1": BATTERY, "mouse": MOUSE},
            *(True, 57, False),
            id="two batteries: the emptier one counts",
        ),
        pytest.param(
            {"usb": {"type": "USB_PD", "online": "2"}, "gauge": {**BATTERY, "status": "Charging"}},
            *(True, 57, True),
            id="a battery speaker on a USB PD charger",
        ),
        pytest.param({"usb": {"type": "USB_HVDCP_3", "online": "1"}, "gauge": BATTERY}, True, 57, False, id="USB_*"),
        pytest.param({"pad": {"type": "Wireless", "online": "1"}, "b": BATTERY}, True, 57, False, id="on a pad"),
        pytest.param({"b": {**BATTERY, "status": "Charging"}}, True, 57, True, id="no supply shown, but it charges"),
        pytest.param({"b": {**BATTERY, "status": "Full"}}, True, 57, False, id="no supply shown, but it is full"),
        pytest.param({"b": BATTERY}, False, 57, False, id="no supply shown, and it runs down"),
        pytest.param({"b": {**BATTERY, "status": "Unknown"}}, None, 57, False, id="no supply shown, and no status"),
        pytest.param({"b": {**BATTERY, "status": "Not charging"}}, None, 57, False, id="it only does not charge"),
        pytest.param({"b": {**BATTERY, "present": "0"}}, True, None, False, id="the battery was taken out"),
        pytest.param({"ups": {**BATTERY, "type": "UPS"}}, False, 57, False, id="an UPS runs down"),
        pytest.param({"ups": {**BATTERY, "type": "UPS", "status": "Charging"}}, True, 57, True, id="an UPS charges"),
        pytest.param(
            {"source": {"type": "USB", "online": "1", "scope": "Device"}, "b": BATTERY},
            *(False, 57, False),
            id="a port that feeds somebody else's device",
        ),
        pytest.param({"b": {**BATTERY, "capacity": "0"}}, False, 0, False, id="empty is a level"),
    ],
)
def test_boards_and_what_feeds_them(board, supplies, mains, percent, charging):
    power = read_power(board.supplies(**supplies).root)
    assert (power.mains, power.battery_percent, power.charging) == (mains, percent, charging)
    assert power.trouble == ()


@pytest.mark.parametrize(
    "value",
    ["", "full", "-5", "101", str(10**12), "1_0", "5.5", "+5", b"\x00\x01\xff\xfe", "٥", PIPE, FOLDER, EIO, MEGABYTES],
    ids=lambda value: repr(value)[:12],
)
def test_a_capacity_that_is_none_is_reported_and_not_believed(board, value):
    board.supplies(AC=MAINS_ON, BAT0={**BATTERY, "capacity": value})
    power = read_power(board.root)
    assert (power.mains, power.has_battery, power.battery_percent) == (True, True, None)
    assert len(power.trouble) == 1
    assert power.trouble[0].startswith("BAT0/capacity: ")


def shown(value: object) -> str:
    """Name a value alike in every process; what is no text is one of the board's troubles, told apart by pytest."""
    return repr(value) if isinstance(value, str | bytes) else "trouble"


@pytest.mark.parametrize("value", ["", "3", "-1", "yes", b"\xff", PIPE, FOLDER, EIO, MEGABYTES], ids=shown)
def test_a_supply_that_does_not_say_whether_it_is_online_decides_nothing(board, value):
    board.supplies(AC={"type": "Mains", "online": value}, BAT0={**BATTERY, "status": "Full"})
    power = read_power(board.root)
    assert power.mains is None
    assert power.trouble[0].startswith("AC/online: ")


@pytest.mark.parametrize("value", ["Toaster", "", EIO, FOLDER, PIPE, MEGABYTES], ids=shown)
def test_a_supply_of_no_known_type_may_be_a_battery(board, value):
    board.supply("odd", type=value, capacity="3")
    power = read_power(board.root)
    assert (power.mains, power.has_battery) == (None, False)
    assert power.trouble[0].startswith("odd/type: ")


def test_a_status_of_no_known_word_says_nothing(board):
    board.supply("BAT0", **{**BATTERY, "status": "Charging soon"})
    power = read_power(board.root)
    assert (power.mains, power.charging, power.battery_percent) == (None, False, 57)
    assert power.trouble == ("BAT0/status: says 'Charging soon'",)


def test_a_supply_unplugged_between_listing_and_reading_is_gone(board):
    board.supplies(AC=MAINS_ON)
    (board.root / "sys/class/power_supply/gone").symlink_to("../../devices/platform/bus/power_supply/gone")
    power = read_power(board.root)
    assert (power.mains, power.trouble) == (True, ())


def test_a_class_that_cannot_be_listed_may_hold_a_battery(board):
    put(board.root / "sys/class/power_supply", "not a directory")
    power = read_power(board.root)
    assert power.mains is None
    assert power.trouble == ("class/power_supply: Not a directory",)


def test_other_peoples_mice_are_named_nowhere(board):
    board.supply("hid-00:11:22:33:44:55-battery", type=EIO, scope="Device", capacity=EIO)
    power = read_power(board.root)
    assert "00:11" not in repr(power) + power.describe()


@pytest.mark.parametrize(
    ("supplies", "line"),
    [
        ({}, "on mains, no battery"),
        ({"AC": MAINS_OFF, "B": BATTERY}, "on battery, battery 57 %"),
        ({"AC": MAINS_ON, "B": {**BATTERY, "status": "Charging"}}, "on mains, battery 57 %, charging"),
        (
            {"B": {"type": "Battery", "status": "Unknown", "capacity": "x"}},
            "cannot tell whether on mains, battery at an unknown level; "
            "B/capacity: says 'x' and not a number from 0 to 100",
        ),
    ],
)
def test_power_is_told_in_one_line(board, supplies, line):
    assert read_power(board.supplies(**supplies).root).describe() == line


def test_what_was_read_cannot_be_changed(board):
    with pytest.raises(FrozenInstanceError):
        read_power(board.root).mains = False
    with pytest.raises(FrozenInstanceError):
        read_thermal(board.root).celsius = 0.0


# ---- all sensors ----


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_reported(board):
    (board.supply("BAT0", **BATTERY) / "capacity").chmod(0)
    (board.zone(0, "cpu-thermal", "41000") / "temp").chmod(0)
    assert read_power(board.root).trouble == ("BAT0/capacity: Permission denied",)
    assert read_thermal(board.root).trouble == ("thermal_zone0/temp: Permission denied",)


def test_nothing_waits_for_a_pipe_with_a_silent_writer(board):
    home = board.supply("BAT0", type=PIPE)
    writer = os.open(home / "type", os.O_RDWR | os.O_NONBLOCK)
    try:
        assert read_power(board.root).trouble == ("BAT0/type: is not a file",)
    finally:
        os.close(writer)


@pytest.mark.parametrize("look", [read_power, read_thermal, lambda root: read_resources(root, root)])
def test_looking_leaves_no_descriptor_open(board, look: Callable):
    board.supplies(a={"type": PIPE}, b={**BATTERY, "capacity": EIO, "status": FOLDER}, c={"type": MEGABYTES})
    board.zone(0, "cpu", EIO)
    look(board.root)
    before = len(list(Path("/proc/self/fd").iterdir()))
    look(board.root)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_machine_at_hand_can_be_asked(tmp_path):
    root = Path("/")
    assert read_power(root).mains in (True, False, None)
    assert read_thermal(root).describe()
    resources = read_resources(root, tmp_path)
    assert resources.trouble == ()
    assert resources.memory_available_mib > 1
    assert resources.load_per_core >= 0


# ---- room ----

MEMINFO = "MemTotal:         949448 kB\nMemFree:           61220 kB\nMemAvailable:     524288 kB\nBuffers:  1 kB"


def test_room_is_what_the_kernel_says(tmp_path):
    put(tmp_path / "proc/meminfo", MEMINFO)
    put(tmp_path / "proc/loadavg", f"{1.5 * (os.cpu_count() or 1):.2f} 0.50 0.25 1/123 4567")
    resources = read_resources(tmp_path, tmp_path)
    assert resources.memory_available_mib == 512.0
    assert resources.load_per_core == pytest.approx(1.5)
    status = os.statvfs(tmp_path)
    assert resources.disk_free_mib == pytest.approx(status.f_bavail * status.f_frsize / 2**20, rel=0.05)
    assert (resources.writable, resources.trouble) == (True, ())
    assert resources.describe().startswith("512 MiB of memory and ")


@pytest.mark.parametrize(
    "value",
    ["", "MemTotal: 5 kB", "MemAvailable: lots kB", "MemAvailable: -5 kB", b"\xff", PIPE, FOLDER, EIO, MEGABYTES],
)
def test_memory_that_cannot_be_told_is_reported(tmp_path, value):
    put(tmp_path / "proc/meminfo", value)
    put(tmp_path / "proc/loadavg", "0.00 0.00 0.00 1/2 3")
    resources = read_resources(tmp_path, tmp_path)
    assert (resources.memory_available_mib, resources.load_per_core) == (None, 0.0)
    assert resources.trouble[0].startswith("proc/meminfo: ")
    assert "unknown amount of memory" in resources.describe()


def test_a_load_that_cannot_be_told_is_reported(tmp_path):
    put(tmp_path / "proc/meminfo", MEMINFO)
    put(tmp_path / "proc/loadavg", "idle")
    resources = read_resources(tmp_path, tmp_path)
    assert (resources.load_per_core, resources.trouble) == (None, ("proc/loadavg: does not say",))


def test_a_state_directory_that_is_missing_has_no_room(tmp_path):
    resources = read_resources(Path("/"), tmp_path / "nowhere")
    assert (resources.disk_free_mib, resources.writable) == (None, False)
    assert resources.trouble[0].endswith("nowhere: No such file or directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("options", "free", "trouble"),
    [
        ("size=8m,ro", "8.0", "()"),
        ("size=8m,nr_inodes=1", "8.0", "no room for another file"),
        ("size=8m", "8.0", "()"),
    ],
)
def test_a_state_directory_takes_files_only_where_there_is_room(tmp_path, options, free, trouble):
    code = (
        f"from pathlib import Path; from idiolect.host.sensors.resources import read_resources as read\n"
        f"found = read(Path('/'), Path({str(tmp_path)!r})); print(found.disk_free_mib, found.writable, found.trouble)"
    )
    script = f'mount -t tmpfs -o {options} none "$0" && exec "$1" -c "$2"'
    command = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=DAEMON)
    if done.returncode:
        absent(f"cannot mount here: {done.stderr.strip()[-200:]}")
    assert done.stdout.startswith(f"{free} {options == 'size=8m'}")
    assert trouble in done.stdout
