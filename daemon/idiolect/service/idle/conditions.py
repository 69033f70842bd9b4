"""The conditions for learning: wishes (``config.Idle``) and measurements go in, obstacles come out.

There is no clock and no file in here. Every obstacle is one sentence that a person can act on. Some are a matter of
*comfort*: they are waived for somebody who asks to learn now, and those of the hours for jobs that have waited too
long. The others (heat, power, pressure, memory, disk, an imminent shutdown) are never waived.

A sensor that is absent or tells nonsense is no obstacle: a board without a battery is on mains, one without a
thermometer is cool. The one exception is a battery that cannot be read while nothing says that there is mains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idiolect.config.schema import Idle
    from idiolect.host.sensors.power import Power
    from idiolect.host.sensors.pressure import Pressure
    from idiolect.host.sensors.resources import Resources
    from idiolect.host.sensors.thermal import Thermal

DAY_MINUTES = 1440
HYSTERESIS_C = 5.0
"""A round that the heat stopped starts again only when it is so much cooler."""
HYSTERESIS_PERCENT = 5.0
"""A round that a low battery stopped starts again only when it has so much more charge."""
LOAD_PER_CORE = 0.8
"""Beyond it a machine whose kernel has no PSI counts as busy."""
ASKED_QUIET_S = 2.0
"""Seconds without speech that are enough where somebody asked to learn now."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The values of all sensors, read at one moment."""

    power: Power
    thermal: Thermal
    pressure: Pressure
    resources: Resources


@dataclass(frozen=True, slots=True)
class Moment:
    """The values of one moment that the conditions look at."""

    sensed: Readings
    quiet_s: float
    """Seconds since anybody spoke."""
    turn: bool = False
    """True when somebody has said a wake word and is about to go on."""
    minute: int | None = None
    """Minute of the local day, 0 to 1439; None for a clock that cannot be believed."""
    stalled: tuple[str, ...] = ()
    """Resources that others have just waited for, by a PSI trigger."""
    leaving: bool = False
    """About to sleep or to shut down."""
    asked: bool = False
    overdue: bool = False
    """Something has waited so long that the hours do not matter any more."""
    running: bool = False
    """True when a round runs already: it is stopped a little later than it would be started."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """The reason why learning waits. ``comfort``: waived for somebody who asks."""

    name: str
    text: str
    comfort: bool = False


def within(hours: str, minute: int) -> bool:
    """Return whether a minute of the day lies in "HH:MM-HH:MM", which may pass midnight.

    Equal ends, and "always", are the whole day. ``minute``: 0 to 1439.
    """
    if hours == "always":
        return True
    start, end = (60 * int(part[:2]) + int(part[3:]) for part in hours.split("-"))
    return (minute - start) % DAY_MINUTES < ((end - start) % DAY_MINUTES or DAY_MINUTES)


def obstacles(wishes: Idle, now: Moment) -> list[Obstacle]:
    """Return what stands in the way now, the most telling first; empty when it may learn."""
    found = [*_people(wishes, now), *_hours(wishes, now), *_machine(wishes, now)]
    return [each for each in found if not (each.comfort and now.asked)]


def _people(wishes: Idle, now: Moment) -> Iterator[Obstacle]:
    if now.turn:
        yield Obstacle("speech", "somebody is speaking to it")
    elif now.asked:
        if now.quiet_s < ASKED_QUIET_S:
            yield Obstacle("speech", "somebody is speaking")
    elif now.quiet_s < 60 * wishes.quiet_minutes:
        spoken = f"{now.quiet_s / 60:.0f} min" if now.quiet_s >= 60 else f"{now.quiet_s:.0f} s"
        yield Obstacle("speech", f"nobody speaking for {wishes.quiet_minutes:g} min (so far {spoken})", comfort=True)


def _hours(wishes: Idle, now: Moment) -> Iterator[Obstacle]:
    if wishes.hours == "always" or now.overdue:
        return
    if now.minute is None:
        text = f"the hours {wishes.hours}, or a day: the clock is not synchronized, so nobody knows the hour"
        yield Obstacle("hours", text, comfort=True)
    elif not within(wishes.hours, now.minute):
        yield Obstacle("hours", f"the hours {wishes.hours}", comfort=True)


def _machine(wishes: Idle, now: Moment) -> Iterator[Obstacle]:
    if now.leaving:
        yield Obstacle("leaving", "the machine is about to sleep or to shut down")
    yield from _power(wishes, now)
    thermal = now.sensed.thermal
    ceiling = wishes.celsius - (0.0 if now.running else HYSTERESIS_C)
    if thermal.celsius is not None and thermal.celsius > ceiling:
        yield Obstacle("heat", f"{ceiling:g} C or less ({thermal.zone} has {thermal.celsius:.0f} C)")
    for reason in thermal.throttled:
        yield Obstacle("throttled", f"the processor running freely ({reason})")
    yield from _pressure(wishes, now)
    resources = now.sensed.resources
    if resources.memory_available_mib is not None and resources.memory_available_mib < wishes.free_memory_mib:
        have = f"{resources.memory_available_mib:.0f}"
        yield Obstacle("memory", f"{wishes.free_memory_mib:g} MiB of memory (there are {have})")
    if not resources.writable:
        yield Obstacle("disk", "a state directory that can be written")
    elif resources.disk_free_mib is not None and resources.disk_free_mib < wishes.free_disk_mib:
        have = f"{resources.disk_free_mib:.0f}"
        yield Obstacle("disk", f"{wishes.free_disk_mib:g} MiB of disk space (there are {have})")


def _power(wishes: Idle, now: Moment) -> Iterator[Obstacle]:
    power = now.sensed.power
    if wishes.power == "mains" and power.mains is not True and not power.charging:
        how = "is on battery" if power.mains is False else "says neither mains nor battery"
        yield Obstacle("power", f"mains power, or charging (it {how})")
    floor = wishes.battery_percent + (0.0 if now.running else HYSTERESIS_PERCENT)
    floor = min(floor, 100.0)
    if power.battery_percent is not None and power.battery_percent < floor:
        yield Obstacle("battery", f"{floor:g} % of charge (it has {power.battery_percent:.0f} %)")
    elif power.has_battery and power.battery_percent is None and power.mains is not True:
        yield Obstacle("battery", "a battery that tells its charge")


def _pressure(wishes: Idle, now: Moment) -> Iterator[Obstacle]:
    pressure = now.sensed.pressure
    stalled = dict.fromkeys(now.stalled, "just now")
    for name in ("cpu", "memory", "io"):
        share = getattr(pressure, name)
        if share is not None and share > wishes.pressure_percent:
            stalled[name] = f"{share:.0f} % of the last 10 s"
    for name, how in stalled.items():
        yield Obstacle("pressure", f"other programs not waiting for {name} ({how})")
    load = now.sensed.resources.load_per_core
    if not pressure.available and load is not None and load > LOAD_PER_CORE and not now.running:
        yield Obstacle("pressure", f"a load of {LOAD_PER_CORE:g} per core or less (it is {load:.1f})")
