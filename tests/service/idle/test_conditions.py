"""The conditions for learning: every one alone stands in the way, sensors that fail do not, and the hours are local."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.config.schema import Idle
from idiolect.host import clock
from idiolect.host.sensors.power import read_power
from idiolect.host.sensors.pressure import Pressure, read_pressure
from idiolect.host.sensors.resources import read_resources
from idiolect.host.sensors.thermal import read_thermal
from idiolect.service.idle.conditions import DAY_MINUTES, Moment, Readings, obstacles, within
from tests.support.boards import Board, put

WISHES = Idle()


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path / "board")


def sensed(board):
    root = board.root
    return Readings(read_power(root), read_thermal(root), read_pressure(root), read_resources(root, root))


def names(board, wishes=WISHES, **changes):
    given_moment = {"quiet_s": 3600.0, "minute": 180} | changes
    return [each.name for each in obstacles(wishes, Moment(sensed(board), **given_moment))]


def test_a_quiet_cool_board_on_mains_may_learn(board):
    assert names(board) == []


@pytest.mark.parametrize(
    ("obstacle", "change"),
    [
        ("speech", {"quiet_s": 30.0}),
        ("speech", {"turn": True}),
        ("leaving", {"leaving": True}),
        ("pressure", {"stalled": ("memory",)}),
    ],
)
def test_each_condition_alone_stands_in_the_way(board, obstacle, change):
    assert names(board, **change) == [obstacle]


@pytest.mark.parametrize(
    ("obstacle", "prepare"),
    [
        ("heat", lambda board: board.heat(71)),
        ("memory", lambda board: board.memory(50)),
        ("power", lambda board: board.battery(90)),
        ("battery", lambda board: board.battery(20, "Charging", mains=1)),
        ("throttled", lambda board: board.put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005")),
    ],
)
def test_each_sensor_alone_stands_in_the_way(board, obstacle, prepare):
    prepare(board)
    assert set(names(board)) == {obstacle}
    assert set(names(board, asked=True)) == {obstacle}, "who asks does not make a board cooler"


def test_pressure_counts_by_psi_and_where_there_is_none_by_load(board):
    moment = Moment(sensed(board), 3600.0, minute=0)
    some = replace(moment, sensed=replace(moment.sensed, pressure=Pressure(60.0, 0.0, 0.0)))
    assert [o.name for o in obstacles(WISHES, some)] == ["pressure"]
    board.put("proc/loadavg", "9999.00 1.00 1.00 5/100 1")
    assert names(board) == ["pressure"]
    psi = replace(some, sensed=replace(sensed(board), pressure=Pressure(0.0, 0.0, 0.0)))
    assert obstacles(WISHES, psi) == []


def test_comfort_is_waived_for_who_asks(board):
    night = replace(WISHES, hours="01:00-05:00")
    assert names(board, night, minute=720, quiet_s=60.0) == ["speech", "hours"]
    assert names(board, night, minute=720, quiet_s=60.0, asked=True) == []
    assert names(board, night, quiet_s=0.5, asked=True) == ["speech"]


def test_what_waited_too_long_does_not_wait_for_its_hours(board):
    night = replace(WISHES, hours="01:00-05:00")
    assert names(board, night, minute=720) == ["hours"]
    assert names(board, night, minute=720, overdue=True) == []
    assert names(board, night, minute=720, overdue=True, quiet_s=1.0) == ["speech"]


def test_a_clock_that_nobody_sets_keeps_from_nothing_but_the_hours(board):
    assert names(board, minute=None) == []
    (hours,) = obstacles(replace(WISHES, hours="01:00-05:00"), Moment(sensed(board), 3600.0))
    assert "not synchronized" in hours.text
    assert names(board, replace(WISHES, hours="01:00-05:00"), minute=None, overdue=True) == []


def test_it_starts_cooler_and_fuller_than_it_stops(board):
    board.heat(67)
    assert names(board) == ["heat"]
    assert names(board, running=True) == []
    board.heat(50)
    board.battery(42, "Charging", mains=1)
    assert names(board) == ["battery"]
    assert names(board, running=True) == []


@pytest.mark.parametrize("nonsense", ["-273000", "1000000000000", "", "warm", "\x00\xff", "-1e9"])
def test_a_thermometer_that_tells_nonsense_is_no_reason(board, nonsense):
    put(board.thermometer, nonsense)
    assert names(board) == []
    assert sensed(board).thermal.trouble


@pytest.mark.parametrize("nonsense", ["-5", "1000000000", "", "full"])
def test_a_battery_that_tells_nonsense_is_one_only_without_mains(board, nonsense):
    board.battery(nonsense, "Not charging", mains=1)
    assert names(board) == []
    board.battery(nonsense, "Discharging", mains=0)
    assert set(names(board)) == {"power", "battery"}
    assert set(names(board, replace(WISHES, power="any"))) == {"battery"}


def test_a_battery_may_do_where_the_integrator_says_so(board):
    board.battery(90)
    assert names(board, replace(WISHES, power="any")) == []
    board.battery(30)
    assert names(board, replace(WISHES, power="any")) == ["battery"]


def test_an_empty_machine_may_learn(tmp_path):
    assert names(Board(tmp_path)) == []
    bare = Readings(*(read(tmp_path / "none") for read in (read_power, read_thermal, read_pressure)),
                  read_resources(tmp_path / "none", tmp_path))  # fmt: skip
    assert obstacles(WISHES, Moment(bare, 3600.0)) == []


def test_a_state_directory_that_cannot_be_written_is_one(board):
    found = read_resources(board.root, Path("/proc"))
    moment = Moment(replace(sensed(board), resources=found), 3600.0)
    assert [o.name for o in obstacles(WISHES, moment)] == ["disk"]


# -- the hours -----------------------------------------------------------------------------------------------------

MINUTES = st.integers(0, DAY_MINUTES - 1)


def clock_text(minute):
    return f"{minute // 60:02}:{minute % 60:02}"


@given(MINUTES, MINUTES, MINUTES)
def test_hours_and_their_complement_cover_the_day(start, end, minute):
    inside = within(f"{clock_text(start)}-{clock_text(end)}", minute)
    if start == end:
        assert inside
    else:
        assert inside != within(f"{clock_text(end)}-{clock_text(start)}", minute)


@given(MINUTES, MINUTES)
def test_hours_begin_where_they_say_and_end_before(start, end):
    hours = f"{clock_text(start)}-{clock_text(end)}"
    assert within(hours, start)
    assert within(hours, end) == (start == end)


@pytest.fixture
def zone(monkeypatch):
    def to(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield to
    monkeypatch.undo()
    time.tzset()


BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
"""POSIX form: needs no files."""


@pytest.mark.parametrize("name", ["Europe/Berlin", BERLIN])
def test_daylight_saving_time_is_in_the_hours(zone, name):
    if "/B" in name and not Path("/usr/share/zoneinfo", name).exists():
        pytest.skip("no time zone files here (tzdata)")
    zone(name)
    spring = 1_774_746_000  # 2026-03-29 01:00 UTC: 02:00 becomes 03:00
    autumn = 1_792_890_000  # 2026-10-25 01:00 UTC: 03:00 becomes 02:00
    shown = [clock_text(clock.minute_of_day(spring + 60 * m)) for m in (-1, 0)]
    assert shown == ["01:59", "03:00"]
    shown = [clock_text(clock.minute_of_day(autumn + 60 * m)) for m in (-60, -1, 0, 59, 60)]
    assert shown == ["02:00", "02:59", "02:00", "02:59", "03:00"]
    in_window = [m for m in range(-180, 180) if within("02:30-04:00", clock.minute_of_day(spring + 60 * m))]
    assert len(in_window) == 60  # 03:00 to 04:00; what the gap swallowed is made up for by catching up


def test_missing_zone_files_are_utc_and_said(zone, tmp_path):
    zone("Europe/Nowhere")
    name, trouble = clock.zone(zones=tmp_path)
    assert "Europe/Nowhere" in trouble
    assert clock.minute_of_day(0) == 0
    zone("")
    name, trouble = clock.zone(localtime=tmp_path / "localtime")
    assert name == "UTC"
    assert "is missing" in trouble
    zone("UTC")
    assert clock.zone() == ("UTC", "")
