"""An accelerated day: what a household of two that speaks to the device fifty times makes it write to its disk.

Everything that writes is real: vault, learner, worker, idle windows, the state files. Only time is not: the clocks are
turned on by ten minutes at a step, and what people say are windows of the guard set in place of sound. The kernel
counts the bytes that the process sent towards the disk (write_bytes in /proc/self/io), journal and B-tree pages of
SQLite included; a file system in memory would count nothing, so the day is spent in a folder on a real one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from idiolect.config.schema import Config, Idle
from idiolect.events import EventStream
from idiolect.learning.worker.process import Worker
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import EventIds, Inference
from idiolect.listening.pipeline.space import as_span
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle
from idiolect.people.adapters import Adapters
from idiolect.people.models import model_of
from idiolect.people.people import People
from idiolect.service.idle.scheduler import IdleScheduler
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.vault_thread import VaultThread
from idiolect.values import Detection, Event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning import model as models
    from idiolect.people.learner import Learner

STEP_S = 600
STEPS = 144
DAWN_MINUTE = 360
"""The day begins at six."""
AWAKE, NIGHT = range(102), range(114, STEPS)
"""Steps until 23:00 in which somebody may speak, and those from 01:00 on in which the device may learn."""
INTERACTIONS, CORRECTIONS, CONFIRMATIONS = 50, 5, 3
PURPOSES = ("enrol", "adapt_corrections", "adapt_confirmations", "usage")


@dataclass(frozen=True, slots=True)
class Figures:
    """Bytes that went towards the disk in the day, and what was done in it."""

    bytes_per_day: int
    interactions: int
    jobs: dict[str, int]


class NothingToLearnError(Exception):
    """The bundle has no personal space."""


class _Day:
    """One household and its device."""

    def __init__(self, folder: Path, bundle: str) -> None:
        read = read_bundle(bundle_directory(bundle))
        recognizer = Recognizer.from_bundle(read)
        found = model_of(recognizer)
        if found is None:
            raise NothingToLearnError
        self.model: models.Model = found
        self.boot, self.wall, self.quiet = 1000.0, 86_400.0 * 20_000 + 60.0 * DAWN_MINUTE, 3600.0
        self.minute = DAWN_MINUTE
        names, worker = EventIds(), Worker()
        inference = Inference(recognizer.chain(listening(read)), BlockQueue(8), EventStream(), names, lambda: None)
        config = replace(Config(), state_dir=folder, idle=Idle(machine=folder / "machine", hours="01:00-06:00"))
        model = Model(read.name, read.version, read.digest)
        self.keys = VaultThread(DeviceKeys(config, model, clock=lambda: self.wall), lambda _: None)
        self.personal = Adapters(
            self.keys, inference, EventStream(), found, read.encoder_id, people={}, state_dir=folder, names=names,
            listen=lambda *_: None, backend=worker, synchronized=lambda: True,
        )  # fmt: skip
        self.windows = IdleScheduler(
            self.personal, worker, wishes=lambda: config.idle, state_dir=folder,
            quiet=lambda: (self.quiet, False), custody=self.keys.custody, synchronized=lambda: True,
            minute=lambda: self.minute, now=lambda: self.boot,
        )  # fmt: skip
        self.people, self.inference, self.names = People(self.personal, inference), inference, names
        self.rng = np.random.default_rng(4)
        self.said = 0

    async def open(self) -> None:
        """Get the keys, and two people who agree to everything and teach two phrases each."""
        keeping = asyncio.create_task(self.keys.keep())
        while not self.keys.view.released:
            await asyncio.sleep(0.01)
        keeping.cancel()
        await self.personal.opened()
        self.profiles = await self.personal.do(lambda learner: [self._settle(learner, name) for name in ("a", "b")])

    def _settle(self, learner: Learner, name: str) -> str:
        learner.clock = lambda: self.wall
        pending = learner.consents.begin(name, PURPOSES)
        learner.consents.heard_yes()
        for phrase in (f"first of {name}", f"second of {name}"):
            window = self._window(int(self.rng.integers(400)))
            spans = [self._near(window)[None] for _ in range(3)]
            learner.add(pending.profile, "enrolment", phrase, spans, phrase.encode().hex()[:8])
        learner.round(pending.profile, at_once=True)
        return pending.profile

    def _window(self, row: int) -> NDArray[np.float32]:
        return np.asarray(self.model.guard_windows[row % len(self.model.guard_labels)])

    def _near(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        noise = self.rng.standard_normal((len(as_span(window)), window.shape[1])) * 0.1 * window.std()
        return np.asarray(as_span(window) + noise, np.float32)

    async def speak(self) -> None:
        """One interaction: now and then it was meant otherwise, or is confirmed."""
        rows = [i for i, label in enumerate(self.model.guard_labels) if label in self.model.phrases]
        row = rows[int(self.rng.integers(len(rows)))]
        phrase, profile = self.model.guard_labels[row], self.profiles[self.said % 2]
        event = Event(self.names(), time.time(), Detection("phrase", phrase, 0.9, 0.3, 0.5, 0, 16_000, profile))
        self.inference.recent.keep(event, self._near(self._window(row)))
        self.personal.heard(event)
        if self.said % (INTERACTIONS // CORRECTIONS) == 5:
            other = self.model.phrases[(self.model.phrases.index(phrase) + 1) % len(self.model.phrases)]
            await self.people.correct(event.id, other, "")
        elif self.said % (INTERACTIONS // CONFIRMATIONS) == 7:
            await self.people.confirm(event.id, "")
        self.said += 1

    async def pass_(self) -> None:
        """A day and a night."""
        spoken = Counter(AWAKE[i * len(AWAKE) // INTERACTIONS] for i in range(INTERACTIONS))
        for step in range(STEPS):
            for _ in range(spoken[step]):
                await self.speak()
            self.quiet = 3600.0 if step in NIGHT else 60.0
            self.minute = (DAWN_MINUTE + step * STEP_S // 60) % 1440
            await self.windows.look()
            self.boot += STEP_S
            self.wall += STEP_S
        await self.personal.flush()


def measure(bundle: str, parent: Path) -> Figures | None:
    """Live through a day in a new folder below ``parent``, which has to lie on a disk. None: nothing can be learnt."""
    folder = Path(tempfile.mkdtemp(prefix="day-", dir=parent))
    try:
        return asyncio.run(_lived(folder, bundle))
    except NothingToLearnError:
        return None
    finally:
        shutil.rmtree(folder)


async def _lived(folder: Path, bundle: str) -> Figures:
    day = _Day(folder, bundle)
    thread = threading.Thread(target=day.keys.run)
    thread.start()
    try:
        await day.open()
        before = _written()
        await day.pass_()
        os.sync()
        written = _written() - before
    finally:
        day.keys.stop()
        await asyncio.to_thread(thread.join)
    return Figures(written, day.said, dict(day.windows.log.jobs))


def _written() -> int:
    """Bytes that this process caused to be sent to block devices (proc_pid_io(5))."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])
