"""The checks of `idiolect doctor` that ask the running daemon: each says what was found, and what to do when it is bad.

Goes in: values that others have read (health, view, sensors). Comes out: findings. Only ``Prober`` starts something, a
worker that says what confines it; ``state_directory``, and the clock in ``idle``, look at the machine themselves.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from idiolect.config.schema import Idle
from idiolect.errors import LearningError
from idiolect.host import clock
from idiolect.host.process import Confinement
from idiolect.learning.worker.process import Worker
from idiolect.learning.worker.sandbox import ESSENTIAL, Layer
from idiolect.service.idle.conditions import Readings
from idiolect.trust.bundle.lacking import Lack
from idiolect.trust.device.keys import Finding, View
from idiolect.trust.device.swap import Swapping
from idiolect.values import MicrophoneHealth, counted

log = logging.getLogger(__name__)

LOUD_DBFS, QUIET_DBFS = -3.0, -75.0
"""Levels of a block beyond which a microphone is over-driven or as good as dead."""
PROBED_S = 60.0
"""Seconds that a worker's answer about its confinement holds."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``level`` is ok, warn or fail; ``fix`` is empty when all is well."""

    check: str
    level: str
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the finding as the API carries it."""
        return {**asdict(self), "ok": self.level == "ok"}


def microphone(health: MicrophoneHealth) -> Iterable[Check]:
    """Check that audio is coming in, unbroken and at a sensible level."""
    if health.state != "running":
        level = "warn" if health.state in ("opening", "paused", "ended") else "fail"
        yield Check("microphone", level, f"{health.state}: {health.reason or 'no audio is coming in'}", health.fix)
        return
    yield Check("microphone", "ok", f"{health.device}, {health.rate} Hz, {counted(health.channels, 'channel')}")
    if health.overruns or health.dropped_blocks:
        lost = counted(health.overruns, "overrun"), counted(health.dropped_blocks, "block")
        detail = f"{lost[0]}, {lost[1]} dropped since the start"
        yield Check("audio lost", "warn", detail, "is another process using all cores? see the CPU of idiolectd in top")
    if health.level_dbfs > LOUD_DBFS:
        fix = "lower audio.gain_db or the capture volume"
        yield Check("level", "warn", f"{health.level_dbfs:.0f} dBFS: clipping", fix)
    elif health.level_dbfs < QUIET_DBFS:
        fix = "unmute it in alsamixer (F4), or raise audio.gain_db"
        yield Check("level", "warn", f"{health.level_dbfs:.0f} dBFS: as good as silent", fix)
    else:
        yield Check("level", "ok", f"{health.level_dbfs:.0f} dBFS")


def configuration(now: Mapping[str, object]) -> Iterable[Check]:
    """Check that what is in force is what the files say."""
    restart = "" if now["state"] == "refused" else "restart"
    fix = f"correct that (sudo idiolect config check shows all), then: sudo systemctl {restart or 'reload'} idiolectd"
    if now["state"] == "in-force":
        yield Check("configuration", "ok", "in force is what the files say")
    else:
        yield Check("configuration", "fail", str(now["text"]), fix)


def listening(mode: str, wake_words: Sequence[str], always_on: Sequence[str]) -> Iterable[Check]:
    """Check that there is anything to listen for."""
    if mode == "wake" and not wake_words and not always_on:
        fix = "set listening.wake_words or listening.always_on, or listening.mode: always"
        yield Check("listening", "warn", "no wake word is enabled, so no phrase can ever be heard", fix)


def state_directory(path: Path) -> Iterable[Check]:
    """Check that state can be kept in this directory."""
    if os.access(path, os.W_OK | os.X_OK):
        yield Check("state directory", "ok", str(path))
    else:
        fix = f"create {path} and give it to the user that runs idiolectd"
        detail = f"{path} is missing or not writable: a pause will not survive a restart"
        yield Check("state directory", "warn", detail, fix)


def idle(wishes: Idle, sensed: Readings, leaving: str) -> Iterable[Check]:
    """Check what decides when it learns: power, heat, pressure, memory and disk, hours, and news of a shutdown."""
    power, thermal, pressure, resources = sensed.power, sensed.thermal, sensed.pressure, sensed.resources
    blind = power.has_battery and power.battery_percent is None and power.mains is not True
    fix = "look into /sys/class/power_supply; idle.power: any learns on battery too" if power.trouble else ""
    yield _told("power", power.describe(), power.trouble, blind, fix)
    yield _told("heat", thermal.describe(), thermal.trouble, bool(thermal.throttled), "better cooling or power supply")
    level = "ok" if pressure.available else "warn"
    without = "" if pressure.available else "boot with psi=1; until then the load average decides"
    yield Check("pressure", level, pressure.describe(), without)
    short = not resources.writable or (
        resources.memory_available_mib is not None and resources.memory_available_mib < wishes.free_memory_mib
    )
    fix = "free some memory, or lower idle.free_memory_mib; make the state directory writable"
    yield _told("resources", resources.describe(), resources.trouble, short, fix)
    name, trouble = clock.zone()
    yield Check("time zone", "warn" if trouble else "ok", f"{name}; {trouble}" if trouble else name, trouble)
    if clock.synchronized():
        yield Check("clock", "ok", "synchronized")
    else:
        hours = "" if wishes.hours == "always" else "; idle.hours wait a day at most"
        fix = "enable systemd-timesyncd or chrony"
        yield Check("clock", "warn", f"not synchronized: nothing expires by it{hours}", fix)
    watched = leaving in ("watching", "starting")
    fix = "" if watched else "optional: pip install 'idiolectd[logind]', and a system bus"
    yield Check("sleep", "ok", f"logind: {leaving}" + ("" if watched else "; a round is simply cut off then"), fix)


def _told(name: str, detail: str, trouble: Sequence[str], bad: bool, fix: str) -> Check:
    return Check(name, "warn" if bad or trouble else "ok", detail, fix if bad or trouble else "")


def earlier_encoder(standing: Mapping[str, Mapping[str, int]]) -> Iterable[Check]:
    """Check that nobody still rests on an earlier encoder. ``standing``: by person, how many phrases stand how."""
    for name, detail in (
        ("earlier", "{} still use the earlier model, which costs a second encoder's share of the CPU"),
        ("again", "{} were taught under another encoder, and are not heard with this one"),
    ):
        counts = [each[name] for each in standing.values() if each.get(name)]
        if counts:
            what = f"{counted(sum(counts), 'phrase')} of {counted(len(counts), 'person', 'people')}"
            fix = "`idiolect explain NAME` names them: teach them again with `idiolect enroll`"
            yield Check("taught phrases", "warn", detail.format(what), fix)


def names(refused: Sequence[str]) -> Iterable[Check]:
    """Check that no name was kept which would be refused today. People are told by id: no name is shown here."""
    if refused:
        detail = f"would be refused today for {', '.join(refused)}, who can be named by that id only"
        fix = "idiolect export ID, agree under another name, idiolect import that copy for it, idiolect erase ID"
        yield Check("names", "warn", detail, fix)


class Prober:
    """Asks a worker that it starts for this (not that of a round in course) what confines it.

    That costs half a second of a core, so the answer holds for ``PROBED_S``, whoever asks. Any thread may ask; the
    second to ask waits for the first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._worker, self._turn = clock, Worker(), threading.Lock()
        self._layers: tuple[Layer, ...] = ()
        self._until, self._ended = float("-inf"), False

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers of confinement; empty where no worker starts."""
        with self._turn:
            if self._clock() >= self._until and not self._ended:
                self._layers = self._probe()
                self._until = self._clock() + PROBED_S
            return self._layers

    def _probe(self) -> tuple[Layer, ...]:
        try:
            return self._worker.probe()
        except LearningError as error:
            if not self._ended:
                log.warning("the training worker: %s", error)
            return ()

    def stop(self) -> None:
        """End a worker that is being asked, and start none any more."""
        self._ended = True
        self._worker.close()


def sandbox(layers: Sequence[Layer]) -> Iterable[Check]:
    """Check which layers confine the training worker."""
    if not layers:
        yield Check("sandbox", "fail", "the training worker does not start: nothing is learnt", "see the journal")
        return
    held = ", ".join(f"{each.name} ({each.detail})" if each.detail else each.name for each in layers if each.held)
    missing = [each for each in layers if not each.held]
    if not missing:
        yield Check("sandbox", "ok", held)
        return
    without = ", ".join(f"{each.name} ({each.detail})" for each in missing)
    level = "warn" if any(each.name in ESSENTIAL for each in missing) else "ok"
    yield Check(
        "sandbox", level, f"{held}; without {without}", "a newer kernel, and libseccomp2, bring what is missing"
    )


def confinement(found: Confinement) -> Iterable[Check]:
    """Check what the unit keeps the daemon from: only then does the kernel ensure that nothing leaves the device."""
    if found.complete:
        yield Check("confinement", "ok", "no network, no capabilities, no new privileges, system calls filtered")
        return
    missing = [
        *([f"it could reach the network ({', '.join(found.interfaces)})"] if found.interfaces else []),
        *(["it has capabilities"] if found.capabilities else []),
        *([] if found.no_new_privs else ["it could gain privileges"]),
        *([] if found.seccomp else ["its system calls are not filtered"]),
    ]
    fix = "start it as the service: sudo systemctl enable --now idiolectd; see drop-ins with systemctl cat idiolectd"
    yield Check("confinement", "warn", "; ".join(missing), fix)


def swap(found: Swapping) -> Iterable[Check]:
    """Check whether what is in memory, keys and sound, can get on a disk.

    In a service that is a fault, as its unit forbids it; elsewhere it is a warning.
    """
    if found.open:
        where = f" ({', '.join(found.devices)})" if any(found.devices) else ""
        detail = f"swap is on{where}, and what is in memory may get there: {found.open}"
        yield Check("swap", "fail" if found.service else "warn", detail, found.fix)
    elif not found.locks:
        yield Check("swap", "warn", "the kernel locks no page with a key on it", "LimitMEMLOCK=4M in the unit")
    else:
        kept = "kept out of it by memory.swap.max" if found.devices else "off"
        yield Check("swap", "ok", f"{kept}; keys are on locked pages")


def keys(view: View, findings: Sequence[Finding]) -> Iterable[Check]:
    """Check that the keys are there, and how well they are kept."""
    level = {"released": "ok", "waiting": "warn"}.get(view.state, "fail")
    detail = view.detail if view.released else f"{view.state}: {view.detail}; everybody gets the base model"
    yield Check("keys", level, detail, "" if view.released else view.fix)
    yield from (Check(each.about, each.level, each.detail, each.fix) for each in findings)
    if view.keystore == "file":
        yield Check("keystore", "warn", "file: not hardware protected", "meant for development; set keystore: tpm")


def bundle(name: str, version: int, *, signed: bool, lacks: Iterable[Lack] = ()) -> Iterable[Check]:
    """Tell which model runs, whether it is signed, and what it does not bring."""
    level = "ok" if signed else "warn"
    fix = "" if signed else "an unsigned bundle is meant for development"
    yield Check("bundle", level, f"{name} v{version}, {'signed' if signed else 'unsigned'}", fix)
    yield from (Check("bundle parts", "warn", lack.detail, lack.fix) for lack in lacks)


def examine(*checks: Callable[[], Iterable[Check]]) -> list[dict[str, object]]:
    """Run checks in order and return their findings as the API carries them."""
    return [finding.as_dict() for check in checks for finding in check()]
