"""Power, heat and room: what real boards show below /sys and /proc, and everything that can be wrong with it.

The trees are built as the kernel builds them: a class's entries are symbolic links to devices elsewhere.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from idiolect.host import sysfs
from idiolect.host.power import read_power
from idiolect.host.resources import read_resources
from idiolect.host.thermal import ThermalReader, read_thermal
from tests.conftest import absent

DAEMON = Path(__file__).parents[1] / "daemon"
MAINS_ON, MAINS_OFF = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}
BATTERY = {"type": "Battery", "present": "1", "status": "Discharging", "capacity": "57"}
MOUSE = {"type": "Battery", "scope": "Device", "present": "1", "status": "Discharging", "capacity": "3"}
PIPE, FOLDER, EIO, MEGABYTES = object(), object(), object(), object()


def put(path: Path, value: object) -> None:
    """One attribute: text as the kernel ends it, bytes as they are, or one of the oddities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if value is PIPE:
        os.mkfifo(path)
    elif value is FOLDER:
        path.mkdir()
    elif value is EIO:
        path.symlink_to("/proc/self/mem")  # a regular file whose first byte cannot be read: EIO, from a real kernel
    elif value is MEGABYTES:
        path.write_bytes(b"5" * (5 << 20))
    elif isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(f"{value}\n")


class Board:
    """A fake root with devices in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(self, kind: str, name: str, /, **attributes: object) -> Path:
        home = self.root / "sys/devices/platform/bus" / kind / name
        home.mkdir(parents=True)
        link = self.root / "sys/class" / kind / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("../../devices/platform/bus") / kind / name)
        for attribute, value in attributes.items():
            put(home / attribute, value)
        return home

    def supply(self, name: str, /, **attributes: object) -> Path:
        return self.device("power_supply", name, **attributes)

    def zone(self, number: int, type_: str, temp: object, **more: object) -> Path:
        return self.device("thermal", f"thermal_zone{number}", type=type_, temp=temp, **more)

    def cooler(self, number: int, type_: str, cur_state: object) -> Path:
        return self.device("thermal", f"cooling_device{number}", type=type_, cur_state=cur_state)

    def supplies(self, **by_name: dict[str, object]) -> Board:
        for name, attributes in by_name.items():
            self.supply(name, **attributes)
        return self


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


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


@pytest.mark.parametrize("value", ["", "3", "-1", "yes", b"\xff", PIPE, FOLDER, EIO, MEGABYTES], ids=repr)
def test_a_supply_that_does_not_say_whether_it_is_online_decides_nothing(board, value):
    board.supplies(AC={"type": "Mains", "online": value}, BAT0={**BATTERY, "status": "Full"})
    power = read_power(board.root)
    assert power.mains is None
    assert power.trouble[0].startswith("AC/online: ")


@pytest.mark.parametrize("value", ["Toaster", "", EIO, FOLDER, PIPE, MEGABYTES], ids=repr)
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


# ---- heat ----


def test_the_hottest_zone_counts(board):
    board.zone(0, "cpu-thermal", "48312")
    board.zone(1, "gpu-thermal", "61000")
    board.zone(10, "soc-thermal", "-5000")
    thermal = read_thermal(board.root)
    assert (thermal.celsius, thermal.zone, thermal.throttled, thermal.trouble) == (61.0, "gpu-thermal", (), ())
    assert thermal.describe() == "61 °C (gpu-thermal); not throttled"


def test_a_machine_without_a_thermometer_is_neither_cool_nor_throttled(board):
    thermal = read_thermal(board.root)
    assert (thermal.celsius, thermal.zone, thermal.throttled, thermal.trouble) == (None, "", (), ())
    assert thermal.describe() == "no thermometer; not throttled"


@pytest.mark.parametrize(
    "value",
    ["", "hot", "-273000", str(10**12), "150001", "-40001", "48.3", b"\x00\xff", PIPE, FOLDER, EIO, MEGABYTES],
    ids=lambda value: repr(value)[:12],
)
def test_a_temperature_that_is_none_is_reported_and_not_believed(board, value):
    board.zone(0, "cpu-thermal", "48312")
    board.zone(1, "broken", value)
    thermal = read_thermal(board.root)
    assert (thermal.celsius, thermal.zone) == (48.312, "cpu-thermal")
    assert len(thermal.trouble) == 1
    assert thermal.trouble[0].startswith("thermal_zone1/temp: ")


def test_the_ends_of_the_scale_are_believed(board):
    board.zone(0, "cold", "-40000")
    assert read_thermal(board.root).celsius == -40.0
    board.zone(1, "hot", "150000")
    assert read_thermal(board.root).celsius == 150.0


@pytest.mark.parametrize("kind", ["PMIC-Die", "iwlwifi_1", "battery", "Battery-therm", "bq-charger-thermal"])
def test_what_is_not_the_processors_heat_is_left_out(board, kind):
    board.zone(0, "CPU-therm", "41000")
    board.zone(1, kind, "100000")
    thermal = read_thermal(board.root)
    assert (thermal.celsius, thermal.zone, thermal.trouble) == (41.0, "CPU-therm", ())


def test_a_disabled_zone_is_left_out(board):
    board.zone(0, "a", "41000", mode="enabled")
    board.zone(1, "b", "99000", mode="disabled")
    assert read_thermal(board.root).celsius == 41.0


def test_a_zone_of_a_part_that_is_switched_off_is_no_trouble(board, monkeypatch):
    board.zone(0, "cpu-thermal", "41000")
    board.zone(1, "cv0-thermal", "99000")
    real = sysfs._read

    def read(path: Path, size: int) -> bytes | None:  # Jetson's driver answers so; no file at hand does
        if path.parent.name == "thermal_zone1" and path.name == "temp":
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(path, size)

    monkeypatch.setattr(sysfs, "_read", read)
    thermal = read_thermal(board.root)
    assert (thermal.celsius, thermal.trouble) == (41.0, ())


@pytest.mark.parametrize("kind", ["Processor", "cpufreq-cpu0", "thermal-cpufreq-0", "devfreq-17000000.gpu"])
def test_a_processor_that_is_cooled_by_doing_less_is_throttled(board, kind):
    device = board.cooler(0, kind, "0")
    assert read_thermal(board.root).throttled == ()
    put(device / "cur_state", "2")
    thermal = read_thermal(board.root)
    assert thermal.throttled == (f"slowed down to stay cool ({kind}, step 2)",)
    assert "slowed down" in thermal.describe()


def test_a_fan_that_turns_is_no_throttling(board):
    board.cooler(0, "pwm-fan", "4")
    assert read_thermal(board.root).throttled == ()


def test_a_cooling_device_with_garbage_is_reported(board):
    board.cooler(0, "Processor", "-1")
    thermal = read_thermal(board.root)
    assert thermal.throttled == ()
    assert thermal.trouble[0].startswith("cooling_device0/cur_state: ")


@pytest.mark.parametrize("folder", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware"])
@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        ("0", []),
        ("50000", []),  # it has happened since the start, and is over
        ("0x50000", []),
        ("1", ["voltage"]),
        ("50005", ["voltage", "throttles"]),
        ("2", ["caps"]),
        ("8", ["soft temperature"]),
        ("f000f", ["voltage", "caps", "throttles", "soft temperature"]),
    ],
)
def test_the_firmware_of_a_raspberry_pi_says_what_it_does_now(board, folder, value, reasons):
    put(board.root / "sys/devices/platform" / folder / "get_throttled", value)
    thermal = read_thermal(board.root)
    assert len(thermal.throttled) == len(reasons)
    assert all(word in told for word, told in zip(reasons, thermal.throttled, strict=True))
    assert thermal.trouble == ()


@pytest.mark.parametrize("value", ["", "-1", "throttled=0x0", "1" * 30, b"\xff", PIPE, FOLDER, EIO, MEGABYTES])
def test_a_firmware_that_talks_garbage_is_reported(board, value):
    put(board.root / "sys/devices/platform/soc/soc:firmware/get_throttled", value)
    thermal = read_thermal(board.root)
    assert thermal.throttled == ()
    assert thermal.trouble[0].startswith("soc:firmware/get_throttled: ")


def test_the_under_voltage_alarm_of_the_mainline_kernel(board):
    alarm = board.device("hwmon", "hwmon1", name="rpi_volt", in0_lcrit_alarm="0") / "in0_lcrit_alarm"
    board.device("hwmon", "hwmon0", name="other", in0_lcrit_alarm="1")
    assert read_thermal(board.root).throttled == ()
    put(alarm, "1")
    assert len(read_thermal(board.root).throttled) == 1


def test_a_jetson_is_throttled_when_its_counters_have_grown(board):
    board.zone(0, "CPU-therm", "52000")
    board.zone(1, "PMIC-Die", "100000")
    counters = board.device("hwmon", "hwmon3", name="soctherm_oc", oc1_event_cnt="0", oc3_event_cnt="37")
    put(counters / "oc3_throt_en", "1")
    reader = ThermalReader(board.root)
    first = reader.read()
    assert (first.celsius, first.throttled, first.trouble) == (52.0, (), ())  # 37 times, but since the start
    assert reader.read().throttled == ()
    put(counters / "oc3_event_cnt", "45")
    assert reader.read().throttled == ("too much current was drawn since the last look (oc3)",)
    assert reader.read().throttled == ()


def test_counters_that_start_again_or_fail_are_no_growth(board):
    counter = board.device("hwmon", "hwmon3", oc1_event_cnt="9") / "oc1_event_cnt"
    reader = ThermalReader(board.root)
    reader.read()
    put(counter, "2")
    assert reader.read().throttled == ()
    put(counter, "")
    failed = reader.read()
    assert (failed.throttled, failed.trouble) == ((), ("hwmon3/oc1_event_cnt: is empty",))
    put(counter, "3")
    assert len(reader.read().throttled) == 1  # the garbage in between has not been believed


def test_a_single_look_knows_no_growth(board):
    counter = board.device("hwmon", "hwmon3", oc1_event_cnt="1") / "oc1_event_cnt"
    read_thermal(board.root)
    put(counter, "2")
    assert read_thermal(board.root).throttled == ()


def test_zones_that_vanish_are_gone(board):
    board.zone(0, "cpu-thermal", "41000")
    (board.zone(1, "cpu-thermal", "99000") / "temp").unlink()
    for kind, name in (("thermal", "thermal_zone7"), ("thermal", "cooling_device7"), ("hwmon", "hwmon7")):
        link = board.root / "sys/class" / kind / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("../../devices/gone")
    thermal = read_thermal(board.root)
    assert (thermal.celsius, thermal.trouble) == (41.0, ())


def test_links_in_a_circle_are_reported(board):
    link = board.root / "sys/class/thermal/thermal_zone0"
    link.parent.mkdir(parents=True)
    link.symlink_to("thermal_zone0")
    assert "symbolic links" in " ".join(read_thermal(board.root).trouble)


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
        started = time.monotonic()
        assert read_power(board.root).trouble == ("BAT0/type: is not a file",)
        assert time.monotonic() - started < 1.0
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
        f"from pathlib import Path; from idiolect.host.resources import read_resources as read\n"
        f"found = read(Path('/'), Path({str(tmp_path)!r})); print(found.disk_free_mib, found.writable, found.trouble)"
    )
    script = f'mount -t tmpfs -o {options} none "$0" && exec "$1" -c "$2"'
    command = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=DAEMON)
    if done.returncode:
        absent(f"cannot mount here: {done.stderr.strip()[-200:]}")
    assert done.stdout.startswith(f"{free} {options == 'size=8m'}")
    assert trouble in done.stdout
