"""Idle windows: when the device learns, what it waits for, and how it stops at once when somebody needs it.

Goes in: jobs that are due (``jobs``, asked on the keys thread), what the sensors say, and that somebody speaks. Comes
out: jobs done one by one on the keys thread, their heavy part in the worker. Whether they may be done now is decided by
``conditions``.

How it stops: while a job runs, the conditions are looked at every second, the kernel says when others wait (PSI), and
``interrupt``, which the inference thread calls at every event, kills the worker then and there. An interrupted job
leaves nothing behind and is due again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from idiolect.config.schema import Idle
from idiolect.errors import LearningError, Preempted, RequestError, TrustError
from idiolect.host import clock
from idiolect.host.sensors.logind import Logind
from idiolect.host.sensors.power import read_power
from idiolect.host.sensors.pressure import Triggers, read_pressure
from idiolect.host.sensors.resources import read_resources
from idiolect.host.sensors.thermal import ThermalReader
from idiolect.learning.worker.process import Backend
from idiolect.people.adapters import Adapters
from idiolect.people.learner import Learner
from idiolect.service.idle import conditions, jobs
from idiolect.service.idle.conditions import Moment, Obstacle, Readings
from idiolect.service.idle.jobs import Job
from idiolect.trust.device.keys import DeviceKeys

log = logging.getLogger(__name__)

LOOK_S = 15.0
"""Seconds between two looks at the conditions while a job waits for them."""
REST_S = 600.0
"""Seconds between two looks with nothing to do."""
EAGER_S = 0.5
"""Seconds between two looks while somebody waits for a round."""
RECHECK_S = 1.0
"""Seconds between two looks while a round runs."""
FLUSH_S = 3600.0
"""Counts of what was said are written this rarely: flash wears out."""
ASKED_S = 3600.0
"""Seconds that the wish to learn now is remembered."""
CATCH_UP_S = 26 * 3600.0
"""A job that has waited so long has missed its hours, and does not wait for them any more."""
FIRST_BACKOFF_S, LAST_BACKOFF_S = 600.0, 86_400.0
"""After a worker that failed: doubled each time."""
STALLED_S = 10.0
"""Seconds that a PSI trigger is remembered."""
WHILE_RUNNING = ("cpu", "memory")
"""Pressure that stops a round. Waiting for the disk is none of its doing, but for its own start."""


class Sensors:
    """Reads the machine's sensors below a root: / or, for development, a tree of files that look like it."""

    def __init__(self, root: Path, state_dir: Path) -> None:
        self.root, self._state_dir = root, state_dir
        self._thermal = ThermalReader(root)

    def read(self) -> Readings:
        """Return what every sensor says, within a few milliseconds; never raises."""
        return Readings(
            read_power(self.root), self._thermal.read(), read_pressure(self.root),
            read_resources(self.root, self._state_dir),
        )  # fmt: skip


@dataclass(slots=True)
class Log:
    """Counts of what happened in windows since the start; for `status`."""

    jobs: Counter[str] = field(default_factory=Counter)
    preempted: int = 0
    failed: int = 0
    last: float | None = None
    """Wall time of the last job's end."""
    stopped_by: str = ""


class IdleScheduler:
    """Decides when jobs run, and runs them.

    ``interrupt`` may be called by any thread, all else belongs to the event loop.
    """

    def __init__(
        self, personal: Adapters, backend: Backend, *, wishes: Callable[[], Idle], state_dir: Path,
        quiet: Callable[[], tuple[float, bool]], custody: DeviceKeys,
        synchronized: Callable[[], bool] = clock.synchronized, minute: Callable[[], int] = clock.minute_of_day,
        now: Callable[[], float] = clock.since_boot,
    ) -> None:  # fmt: skip
        """Take what is asked and watched; nothing runs before ``run``.

        Args:
            quiet: tells for how long (s) nobody spoke, and whether a turn is open.
            minute: of the local day.
            now: a clock that nobody sets, in seconds.
        """
        self._personal, self._backend, self._wishes = personal, backend, wishes
        self._quiet, self._custody, self._synchronized = quiet, custody, synchronized
        self._minute, self._now = minute, now
        self._sensors = Sensors(wishes().machine, state_dir)
        self._logind = Logind(lambda leaving: self._look_again() if leaving else None)
        self._wake = asyncio.Event()
        self._asked_until = 0.0
        self._wishes_made = 0
        self._due: list[Job] = []
        self._key: tuple[object, ...] = ()
        self._found: list[Job] = []
        self._waiting: list[Obstacle] = []
        self._running: Job | None = None
        self._halt = ""
        self._backoff: dict[Job, tuple[float, float]] = {}
        self._stalls: dict[str, float] = {}
        self._due_since: float | None = None
        self._flushed = now()
        self.log = Log()

    # -- what others ask ----------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Remember that somebody wants a round now: neither comfort nor earlier failures count until it is done."""
        self._backoff.clear()
        self._asked_until = self._now() + ASKED_S
        self._wishes_made += 1
        self._look_again()

    @property
    def asked(self) -> bool:
        """Return whether somebody wants a round now."""
        return self._now() < self._asked_until

    def changed(self) -> None:
        """Look what is due, soon: something was added or removed."""
        self._wake.set()

    def interrupt(self) -> None:
        """Stop what runs, at once: somebody speaks."""
        if self._backend.stop():
            self._halt = "somebody spoke"

    def status(self) -> dict[str, object]:
        """Return what is due, what it waits for, and what happened; kinds and counts, no names."""
        state = "running" if self._running else "waiting" if self._due else "nothing due"
        if not self._personal.open:
            state = "off"
        waiting = self._waiting if self._due else []
        return {
            "state": state,
            "asked": self.asked,
            "running": self._running.kind if self._running else None,
            "due": dict(Counter(job.kind for job in self._due)),
            "waiting_for": [obstacle.text for obstacle in waiting],
            "obstacles": [obstacle.name for obstacle in waiting],
            "done": dict(self.log.jobs),
            "preempted": self.log.preempted,
            "failed": self.log.failed,
            "last": self.log.last,
            "stopped_by": self.log.stopped_by,
            "sandbox": {layer.name: layer.held for layer in self._backend.layers},
        }

    def closed(self) -> RequestError:
        """Return the error that says why the state is "off"."""
        return self._personal.closed()

    async def examine(self) -> tuple[Readings, str]:
        """Return what the sensors say, and what logind does, for `doctor`."""
        return await asyncio.to_thread(self._sensors.read), self._logind.state

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, wait and work until cancelled."""
        watching = asyncio.create_task(self._logind.run())
        try:
            while True:
                pause = await self.look()
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
        finally:
            watching.cancel()
            self._backend.kill()

    def _look_again(self) -> None:
        if self._logind.leaving and self._backend.stop():
            self._halt = "the machine is about to sleep or to shut down"
        self._wake.set()

    async def look(self) -> float:
        """Take one look, and do what is due if nothing stands in the way; return how long to rest then, in seconds."""
        if not self._personal.open:
            await self._personal.opened()
        if not self._personal.open:
            return REST_S
        wishes_known = self._wishes_made
        try:
            self._personal.glance()
            if self._now() - self._flushed > FLUSH_S:
                await self._flush()
            await self._find_due()
            await self._unconditional()
            if self._due:
                self._waiting = await self._obstacles()
                if not self._waiting:
                    await self._window()
                    self._note_waiting()
        except (RequestError, TrustError) as error:
            log.warning("idle work has to wait: %s", error)
            return REST_S
        if not self._due:
            if self._wishes_made == wishes_known:  # a wish made meanwhile may be for what was not yet due
                self._asked_until = 0.0
            return REST_S
        return EAGER_S if self.asked else LOOK_S

    async def _flush(self) -> None:
        self._flushed = self._now()
        await self._personal.flush()

    async def _find_due(self) -> None:
        personal, asked, day = self._personal, self.asked, self._personal.expired_day
        found = await personal.do(lambda learner: self._looked(learner, day, asked))
        kept = [job for job in found if personal.learning or job.kind in jobs.WITHOUT_LEARNING]
        self._due = [job for job in kept if self._backoff.get(job, (0.0, 0.0))[0] <= self._now()]
        self._note_waiting()

    def _looked(self, learner: Learner, day: int | None, asked: bool) -> list[Job]:
        """Return what is due, on the keys thread: everything is read for it, so only when anything has changed."""
        key = (learner.vault.audit_head().count, learner.day, day, asked, frozenset(learner.recalled))
        if key != self._key:
            self._found = jobs.due(learner, day, self._custody.last_checkpoint(), asked=asked)
            self._key = key
        return self._found

    def _note_waiting(self) -> None:
        waiting = any(job.kind not in jobs.UNCONDITIONAL for job in self._due)
        self._due_since = (self._due_since or self._now()) if waiting else None
        self._personal.note_waiting(waiting)

    async def _unconditional(self) -> None:
        for job in [job for job in self._due if job.kind in jobs.UNCONDITIONAL]:
            await self._do(job)
            await self._find_due()

    # -- the conditions -----------------------------------------------------------------------------------------

    async def _obstacles(self, *, running: bool = False) -> list[Obstacle]:
        sensed = await asyncio.to_thread(self._sensors.read)
        return conditions.obstacles(self._wishes(), self._moment(sensed, running))

    def _moment(self, sensed: Readings, running: bool) -> Moment:
        quiet_s, turn = self._quiet()
        synchronized = self._synchronized()
        stalled = tuple(name for name, then in self._stalls.items() if self._now() - then < STALLED_S)
        return Moment(
            sensed=sensed, quiet_s=quiet_s, turn=turn, minute=self._minute() if synchronized else None,
            stalled=stalled, leaving=self._logind.leaving, asked=self.asked, overdue=self._overdue(synchronized),
            running=running,
        )  # fmt: skip

    def _overdue(self, synchronized: bool) -> bool:
        """Return whether a job has missed its hours: by this boot's clock, or by the wall clock where believed."""
        waited = self._now() - self._due_since if self._due_since is not None else 0.0
        if synchronized:
            waited = max(waited, self._personal.waited_s)
        return waited > CATCH_UP_S

    # -- a window -----------------------------------------------------------------------------------------------

    async def _window(self) -> None:
        """Do all jobs that are due, until something stands in the way."""
        self._halt = ""
        with Triggers(self._sensors.root) as triggers:
            loop = asyncio.get_running_loop()
            loop.add_reader(triggers.fileno(), self._stalled, triggers)
            watching = asyncio.create_task(self._watch())
            try:
                await self._flush()
                await self._work([job for job in self._due if job.kind not in jobs.UNCONDITIONAL])
            finally:
                watching.cancel()
                loop.remove_reader(triggers.fileno())

    async def _work(self, todo: Sequence[Job]) -> None:
        for job in todo:
            self._backend.resume()  # before the look: whoever speaks from here on calls it off
            if self._halt or await self._obstacles(running=True):
                return
            await self._do(job)

    async def _do(self, job: Job) -> None:
        """Do one job, and note how it went."""
        personal = self._personal
        expired = personal.expired_day

        def work(learner: Learner) -> bool:
            return jobs.run(learner, job, expired, self._custody.checkpoint)

        self._running = job
        personal.publish({"learning": {"running": job.kind}})
        try:
            if await personal.idle(work):
                await personal.reload()
            self._done(job)
        except Preempted:
            self.log.preempted += 1
            self.log.stopped_by = self._halt or "somebody spoke"
            log.info("learning gave way: %s", self.log.stopped_by)
        except (RequestError, TrustError):
            raise  # no keys, or a vault that cannot be written: that is not the job's fault
        except LearningError as error:
            self._failed(job, str(error))
        except Exception as error:  # a bug: this job is not done, and nobody goes deaf of it
            self._failed(job, f"an internal error ({type(error).__name__})")
        finally:
            self._running = None
            personal.publish({"learning": {"running": ""}})

    def _done(self, job: Job) -> None:
        self._due = [other for other in self._due if other != job]
        self._backoff.pop(job, None)
        self.log.jobs[job.kind] += 1
        self.log.last = time.time()

    def _failed(self, job: Job, why: str) -> None:
        """Note a failure: the job is tried again, each time later."""
        self.log.failed += 1
        wait = min(2 * self._backoff.get(job, (0.0, FIRST_BACKOFF_S / 2))[1], LAST_BACKOFF_S)
        self._backoff[job] = (self._now() + wait, wait)
        self._due = [other for other in self._due if other != job]
        log.warning("%s failed: %s; tried again in %.0f min", job.kind, why, wait / 60)

    async def _watch(self) -> None:
        """Stop the window when a condition does not hold any more; runs while one is open."""
        while True:
            await asyncio.sleep(RECHECK_S)
            if found := await self._obstacles(running=True):
                self._stop(f"it needs {found[0].text}")

    def _stalled(self, triggers: Triggers) -> None:
        """Note that the kernel says others wait, and stop the window where that concerns it."""
        fired = triggers.fired()
        self._stalls |= dict.fromkeys(fired, self._now())
        if busy := [name for name in fired if name in WHILE_RUNNING]:
            self._stop(f"other programs wait for {busy[0]}")

    def _stop(self, why: str) -> None:
        self._halt = why
        self._backend.stop()
