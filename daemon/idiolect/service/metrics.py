"""Gathers everything that can be measured about the running daemon, when somebody asks (``api.metrics``).

Most of it can be read at once. What the vault knows is asked on the keys thread, which a TPM or a round may keep busy:
one question at a time, and nobody waits for it longer than ASK_S; until it is answered the last answer holds.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from idiolect import __version__
from idiolect.control.api.measures import Learnt, Measures, Process
from idiolect.errors import RequestError
from idiolect.host import process
from idiolect.host.sensors.thermal import read_thermal
from idiolect.learning import rollout
from idiolect.listening.audio.capture import BlockQueue
from idiolect.listening.inference import Inference
from idiolect.people.adapters import Adapters
from idiolect.people.learner import Learner
from idiolect.service.idle.scheduler import IdleScheduler
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys, View
from idiolect.trust.vault.audit import MAX_ENTRIES, Entry
from idiolect.values import MicrophoneHealth

ASK_S = 0.25
CLOCK_S = 5.0
"""By how much the clock may be set without the daemon seeming to have started at another time."""
_FIRST_LOOK = 64
"""Entries of the log that are read at once to find this run's first; doubled until it is found."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The values that only the service knows: ``listening`` is the state, also paused; ``machine`` where /sys is."""

    model: Model
    configuration: str
    view: View
    microphone: MicrophoneHealth
    listening: str
    machine: Path


class Measuring:
    """Gathers the numbers. All methods belong to the event loop."""

    def __init__(
        self, inference: Inference, queue: BlockQueue, *, personal: Adapters, windows: IdleScheduler,
        custody: DeviceKeys, now: Callable[[], Moment],
    ) -> None:  # fmt: skip
        self._inference, self._queue, self._personal, self._windows = inference, queue, personal, windows
        self._now = now
        self._told = _Told(custody)
        self._learnt: Learnt | None = None
        self._asking: asyncio.Task[None] | None = None
        self._started = 0.0
        self.clients: dict[str, Callable[[], int]] = {}
        """By service, a way to count who is connected to it."""

    async def measures(self) -> Measures:
        """Return every number there is. Never raises."""
        heat = await asyncio.to_thread(read_thermal, self._now().machine)
        await self._ask()
        now, tally = self._now(), self._inference.tally
        health = now.microphone
        return Measures(
            version=__version__,
            bundle=(now.model.name, now.model.version, now.model.signed),
            configuration=now.configuration,
            events=dict(tally.events),
            latency={kind: durations.spread() for kind, durations in tally.latency.items()},
            processing=tally.processing.spread(),
            microphone=health.state,
            overruns=health.overruns,
            reopened=health.reopened,
            dropped_blocks=health.dropped_blocks,
            queue_blocks=self._queue.waiting,
            listening=now.listening,
            playback=self._inference.playing,
            learning=self._learning(),
            keys=now.view.state,
            protected=now.view.protected,
            learnt=self._learnt if self._personal.open else None,
            jobs=dict(self._windows.log.jobs),
            process=self._process(),
            celsius=heat.celsius,
            throttled=bool(heat.throttled),
            clients={name: count() for name, count in self.clients.items()},
        )

    def _process(self) -> Process:
        own, workers = process.cpu_s()
        started = process.started()
        if abs(started - self._started) > CLOCK_S:  # else it would seem to start anew with every breath of the clock
            self._started = started
        return Process(own, workers, round(process.rss_mib() * 2**20), process.open_files(), self._started)

    def _learning(self) -> str:
        state = str(self._windows.status()["state"])
        if state in ("off", "running"):
            return state
        return ("waiting" if state == "waiting" else "idle") if self._personal.learning else "paused"

    async def _ask(self) -> None:
        """Bring what is known of the vault up to date, unless the keys thread has no time now."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._look())
        await asyncio.wait({self._asking}, timeout=ASK_S)

    async def _look(self) -> None:
        try:
            preempted = self._windows.log.preempted
            self._learnt = await self._personal.do(lambda learner: self._told.look(learner, preempted))
        except RequestError:  # no keys, or a vault that cannot be read: its state says so
            self._learnt = None


class _Told:
    """The vault's numbers, read anew only when its log has grown. Belongs to the thread that owns the vault."""

    def __init__(self, custody: DeviceKeys) -> None:
        self._custody = custody
        self._seen = -1
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in ("verdicts", "rounds", "moves")}
        self._adapters: Counter[str] = Counter()
        self._profiles = self._newest = 0
        self._checkpoint: int | None = None

    def look(self, learner: Learner, preempted: int) -> Learnt:
        """Return the vault's numbers now. ``preempted``: how many rounds gave way, which the log does not have."""
        count = learner.vault.audit_head().count
        if count != self._seen:
            for entry in self._fresh(learner, count):
                self._count(entry)
            self._seen = count
            self._look_at_people(learner)
            self._checkpoint = self._custody.checkpoint_time()
        counts = self._counts
        counts["rounds"]["preempted"] = preempted
        return Learnt(
            self._profiles, dict(self._adapters), self._newest, dict(counts["verdicts"]), dict(counts["rounds"]),
            dict(counts["moves"]), self._checkpoint,
        )  # fmt: skip

    def _fresh(self, learner: Learner, count: int) -> list[Entry]:
        """Return the entries of this run that were not counted yet, oldest first."""
        if self._seen >= 0:
            return learner.vault.audit_entries(min(count - self._seen, MAX_ENTRIES))
        limit = _FIRST_LOOK
        while True:
            entries = learner.vault.audit_entries(limit)
            begins = [i for i, entry in enumerate(entries) if entry.kind == "keys-released"]  # one for each start
            if begins:
                return entries[begins[-1] :]
            if limit >= MAX_ENTRIES:
                return entries
            limit *= 2

    def _count(self, entry: Entry) -> None:
        if entry.kind == "adapter-made":
            self._counts["rounds"]["made"] += 1
            self._counts["verdicts"]["passed"] += 1
            self._counts["moves"][str(json.loads(entry.body)["state"])] += 1
        elif entry.kind == "adapter-refused":
            self._counts["rounds"]["refused"] += 1
            self._counts["verdicts"][str(json.loads(entry.body)["check"])] += 1
        elif entry.kind == "round-failed":
            self._counts["rounds"]["failed"] += 1
        elif entry.kind == "adapter-moved":
            self._counts["moves"][str(json.loads(entry.body)["state"])] += 1

    def _look_at_people(self, learner: Learner) -> None:
        profiles = learner.vault.profiles()
        versions = [learner.versions(profile) for profile in profiles]
        self._profiles = len(profiles)
        self._adapters = Counter(version.state.value for each in versions for version in each)
        self._newest = max((used.number for each in versions if (used := rollout.in_use(each))), default=0)
