"""Heat: what real boards show of it below /sys, and everything that can be wrong with it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from idiolect.host.sensors import sysfs
from idiolect.host.sensors.thermal import ThermalReader, read_thermal
from tests.support.boards import EIO, FOLDER, MEGABYTES, PIPE, Sysfs, put

DAEMON = Path(__file__).parents[3] / "daemon"
MAINS_ON, MAINS_OFF = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}
BATTERY = {"type": "Battery", "present": "1", "status": "Discharging", "capacity": "57"}
MOUSE = {"type": "Battery", "scope": "Device", "present": "1", "status": "Discharging", "capacity": "3"}


@pytest.fixture
def board(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


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
