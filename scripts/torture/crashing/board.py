"""One device, whose process, worker and TPM are killed again and again, and the story of what it must hold."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import random
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.devices import TestDevice
from tests.support.swtpm import Swtpm
from torture.crashing import check
from torture.crashing.bundles import boot, carried
from torture.crashing.lives import Loss, live
from torture.crashing.operations import NEEDS, OFTEN, TRAINING
from torture.crashing.steps import BETWEEN, DAEMON, POWER, WORKER, Target, alive
from torture.crashing.story import Story, markers
from torture.crashing.tally import Tally
from torture.crashing.victim import Order

if TYPE_CHECKING:
    from torture.harness import Run

LIFE = 100
"""Cycles of a device, after which another one is made: its first start is tortured too, and its log does not grow."""
STARTS = ("open", "provision")
START = 20_000 * 86_400.0
AT_RANDOM, NOBODY = 0.25, 0.03
"""Shares of the deaths that come at any instant, and of the runs that nobody kills."""
UNHARMED = (["consent"], ["usage", "checkpoint"], ["teach", "correct"], ["train", "rollback"], ["forget"])
"""What a run of the harness begins with."""
FIRST_START = 0.7
"""Share of the first starts that are killed at a step: a device has one, unless that happens."""
SWITCH, CYCLE_POWER = 0.15, 0.1
WORKERS, POWERS = 0.3, 0.3
"""Of the deaths: whose."""
GIVE_UP_S = 60.0
"""For a run, on a busy machine."""
PATIENCE_S = 60.0
"""How long a worker may need to notice that its daemon is gone; one that is not confined yet starts first."""
_SUBREAPER = 36
"""prctl(2)."""


class Board:
    """See the module."""

    def __init__(self, kind: str, chance: random.Random, tally: Tally) -> None:
        self._chance, self.tally, self.story = chance, tally, Story()
        self.folder = Path(tempfile.mkdtemp(prefix="crash-"))
        self.tpm = Swtpm() if kind == "tpm" else None
        self.device = TestDevice(self.folder, self.tpm)
        self.now = START
        self._base = self._runs = chance.randint(1, 4)
        self._orphans: dict[int, float] = {}
        self._buffer = b""
        self._killed: set[str] = set()
        self._marks = markers()
        self.wrong: list[str] = []
        self.lost = False
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # so that a worker without its daemon is seen, and by us
        if self.tpm:
            self.device.provision()
        tally.devices += 1

    def close(self) -> None:
        """Remove it; nobody of it is left then. What lost something stays, to be looked into."""
        with contextlib.suppress(Loss):
            self._await_orphans(PATIENCE_S)
        if self.tpm:
            self.tpm.remove()
        if not self.lost:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def state_dir(self) -> Path:
        """Where the device keeps everything."""
        return self.device.state

    # -- a cycle ------------------------------------------------------------------------------------------------

    def cycle(self) -> None:
        """A start, which is checked; some operations; a death. ``Loss`` where anything is not as it must be."""
        self._choose_bundle()
        plan = self._plan()
        target, at = self._target(plan)
        self._run(plan, target, at)
        self.tally.cycles += 1
        if self.wrong:
            raise Loss("; ".join(self.wrong[:8]))
        self._look_at_remains()

    def learn(self) -> None:
        """Runs that nobody kills: which steps there are, and how long they take on this machine."""
        for plan in UNHARMED:
            self._run(plan, None, None)
            if self.wrong:
                raise Loss("; ".join(self.wrong[:8]))

    def check(self) -> None:
        """A start that is only checked."""
        self._run([], None, None)
        if self.wrong:
            raise Loss("; ".join(self.wrong[:8]))

    def _choose_bundle(self) -> None:
        self._base = max(self._base, self.story.minimum)
        before = self._runs
        if self._runs < self._base or self._chance.random() < SWITCH:
            self._runs = self._base if self._runs != self._base else self._base + 1
        self._switched = self._runs != before
        if self.tpm and (self._chance.random() < CYCLE_POWER or self._runs < before):
            self.tpm.power_cycle()

    def _plan(self) -> list[str]:
        """An operation to die in, perhaps after another one."""
        can = [name for name in OFTEN if NEEDS[name](self.story.kept)]
        weights = [OFTEN[name] + 2 * self.tally.left(name) for name in can]
        return self._chance.choices(can, weights, k=self._chance.choice((1, 1, 2)))

    def _target(self, plan: list[str]) -> tuple[Target | None, float | None]:
        """Where somebody dies: at a step, or after so many seconds, or nowhere."""
        chance, roll = self._chance, self._chance.random()
        new = not self.story.count and not self.tpm
        if new and self.tally.left("provision") and chance.random() < FIRST_START:
            return Target(0, self.tally.rarest("provision", sorted(self.tally.seen["provision"]))), None
        if roll < NOBODY:
            return None, None
        names = ["provision" if new else "open", "refresh", *plan, "close"]
        often = 2 * (1 + self.tally.left(names[0]) / 8)
        weights = [often, 10 if self._switched else 1, *([10] * len(plan)), 1]
        (place,) = chance.choices(range(len(names)), weights)
        name = names[place]
        steps = self.tally.seen[name]
        if roll < NOBODY + AT_RANDOM or not steps:
            return None, chance.uniform(0, 0.9 * self.tally.span[any(each in TRAINING for each in plan)])
        who, fitting = DAEMON, sorted(steps)
        workers = [step for step in fitting if step.startswith("worker")]
        if workers and chance.random() < WORKERS:
            who, fitting = WORKER, workers
        elif self.tpm and chance.random() < POWERS:
            who = POWER
        chance.shuffle(fitting)
        return Target(place, self.tally.rarest(name, fitting), who), None

    def _run(self, plan: list[str], target: Target | None, at: float | None) -> None:
        self.now += self._chance.uniform(4, 30) * 3600
        known = [each for version in range(max(1, self._base - 8), self._base + 2) for each in
                 (boot(version)[1], carried(version)) if each]  # fmt: skip
        verified, mine = boot(self._runs)
        tpm = self.tpm.pid if self.tpm else 0
        order = Order(
            self.device, mine, verified, known, self.story, plan, target, self._chance.random(), self.now, tpm
        )  # fmt: skip
        self._killed, self._needs_power = set(), ""
        began = time.monotonic()
        child, reader = order.fork()
        try:
            training = any(name in TRAINING for name in plan)
            self._attend(child, reader, None if at is None else began + at, training=training)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self._hear_all(reader)
            _, status = os.waitpid(child, 0)
        self._note(status, time.monotonic() - began, plan)
        self._after(child)
        if self._needs_power and not self.wrong:
            self._once_more(plan)

    def _once_more(self, plan: list[str]) -> None:
        """The one time that power may have to be cycled: a new oldest bundle where the PCR holds the one before."""
        state, detail = self._needs_power, self._detail
        if not self.tpm or self._cycled:
            self.wrong.append(f"no keys: {state}: {detail}")
            return
        self.tally.power_cycles_needed[state] += 1
        self.tpm.power_cycle()
        self._cycled = True
        try:
            self._run(plan, None, None)
        finally:
            self._cycled = False

    _cycled = _switched = False
    _needs_power = _detail = ""

    # -- while it runs ------------------------------------------------------------------------------------------

    def _attend(self, child: int, reader: int, at: float | None, *, training: bool) -> None:
        """Hear what it says until it has ended, or its time has come."""
        ends = time.monotonic() + GIVE_UP_S
        self._worker_at = 0.0
        others = ([WORKER] if training else []) + ([POWER] if self.tpm else [])
        victim = self._chance.choice((DAEMON, *others)) if at else ""
        while (now := time.monotonic()) < ends:
            due = min(t for t in (ends, at or ends, self._worker_at or ends) if t)
            if select.select([reader], [], [], max(0.0, due - now))[0]:
                if not self._hear(reader, worker=victim == WORKER):
                    return
            elif self._worker_at and time.monotonic() >= self._worker_at:
                self._kill_worker()
            elif at and time.monotonic() >= at:
                at = None
                self._kill(victim if victim != WORKER else DAEMON, child)
        if time.monotonic() >= ends:
            self.wrong.append(f"{self._doing} did not end in {GIVE_UP_S:g} s")

    def _kill(self, who: str, child: int) -> None:
        self._killed.add(who)
        self.tally.deaths[f"{who} at random"] += 1
        if who == POWER and self.tpm:
            self.tpm.power_off()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _kill_worker(self) -> None:
        self._worker_at = 0.0
        if _is_worker(self._worker):
            self._killed.add(WORKER)
            self.tally.deaths[f"{WORKER} at random"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)

    _worker, _doing = 0, ""

    def _hear(self, reader: int, *, worker: bool = False) -> bool:
        """What was said; False at the end."""
        said = os.read(reader, 1 << 16)
        *lines, self._buffer = (self._buffer + said).split(b"\n")
        for line in lines:
            word, _, rest = line.decode().rpartition(" ")
            self._understand(word or rest, pickle.loads(bytes.fromhex(rest)) if rest else {}, worker)  # noqa: S301 - our own child's
        return bool(said)

    def _hear_all(self, reader: int) -> None:
        while self._hear(reader):
            pass
        self._buffer = b""
        os.close(reader)

    def _understand(self, said: str, more: dict[str, Any], worker: bool) -> None:
        story, tally = self.story, self.tally
        word, _, rest = said.partition(" ")
        if word == "begin":
            self._doing = more["name"]
            if self._doing not in STARTS:  # what was in course before the death still is
                story.operation, story.after = self._doing, more["states"]
            story.minimum = max(story.minimum, more["minimum"])
        elif word in ("sound", "done"):
            tally.operations[self._doing] += 1
            tally.seen[self._doing].update(more["steps"])
            self._settle(more)
        elif word == "struck":
            who, _, step = rest.partition(" ")
            self._killed.add(who)
            if step == BETWEEN:
                tally.deaths[f"{who} {step}"] += 1
                return
            tally.deaths[f"{who} at a step"] += 1
            tally.hit[self._doing][step] += 1
            tally.seen[self._doing][step] += 1
        elif word == "worker":
            self._worker = int(rest)
            if worker:
                self._worker_at = time.monotonic() + self._chance.uniform(0, 0.2)
        elif word == "closed":
            self._needs_power, self._detail = more["state"], more["detail"]
            tally.seen[self._doing].update(more["seen"])
        elif word == "wrong":
            self.wrong += more["what"]

    def _settle(self, more: dict[str, Any]) -> None:
        story, tally = self.story, self.tally
        story.erased |= set(story.kept) - set(more["state"])
        story.kept, story.after = more["state"], []
        story.count, story.head = more["count"], more["head"]
        if "proven" in more:
            tally.proven += len(more["proven"] - story.proven)
            story.proven = more["proven"]
        tally.dropped += more.get("dropped", 0)
        if failed := more.get("failed"):
            who = WORKER if failed.startswith("worker") else POWER
            if who not in self._killed:
                self.wrong.append(f"{self._doing} failed, and nobody was killed: {failed}")
            elif who == POWER:
                tally.refused[self._doing] += 1
        elif more.get("dropped") and WORKER not in self._killed:
            self.wrong.append(f"{self._doing}: a worker died by itself")
        if self._doing not in STARTS:
            story.operation = f"{self._doing}, which returned"

    # -- afterwards ---------------------------------------------------------------------------------------------

    def _note(self, status: int, seconds: float, plan: list[str]) -> None:
        if os.WIFEXITED(status):
            if not self._killed:
                self.tally.deaths["nobody"] += 1
                training = any(name in TRAINING for name in plan)
                self.tally.span[training] += 0.5 * (seconds - self.tally.span[training])
            if os.WEXITSTATUS(status):
                self.wrong.append(f"the process ended by itself with {os.WEXITSTATUS(status)}")

    def _after(self, child: int) -> None:
        """Switch on what was off, and see who is left."""
        if self._needs_power and POWER in self._killed:
            self._needs_power = ""  # it had no keys because there was no TPM
        if self.tpm:
            if POWER in self._killed:
                self.tpm.power_off()
                self.tpm.power_on()
            _flush_handles(self.tpm)
        now = time.monotonic()
        for pid in _children():
            if pid != child and (not self.tpm or pid != self.tpm.pid):
                self._orphans.setdefault(pid, now)
        self._await_orphans(0.0)

    def _await_orphans(self, seconds: float, patience: float = PATIENCE_S) -> None:
        """Every worker whose daemon is gone goes too."""
        ends = time.monotonic() + seconds
        while True:
            for pid, since in list(self._orphans.items()):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                age = time.monotonic() - since
                if not alive(pid):
                    del self._orphans[pid]
                    self.tally.longest_orphan = max(self.tally.longest_orphan, age)
                elif age > patience:
                    raise Loss(f"a worker is alive {age:.1f} s after its daemon died")
            if not self._orphans or time.monotonic() >= ends:
                return
            time.sleep(0.01)

    def _look_at_remains(self) -> None:
        found = check.plaintext(self.state_dir, self._marks)
        found += check.orphans(self.state_dir, self.story.erased)
        if found:
            raise Loss(f"after {self.story.operation}: {'; '.join(found[:8])}")


def _children() -> list[int]:
    """Of this process; a worker whose daemon died is one, too."""
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def _is_worker(pid: int) -> bool:
    try:
        return b"idiolect.learning.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _flush_handles(tpm: Swtpm) -> None:
    """What the kernel's resource manager does when a program dies: free what it had loaded."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import TPM2_CAP

    with ESAPI(tpm.tcti) as esys:
        for first in (0x80000000, 0x02000000):
            _, data = esys.get_capability(TPM2_CAP.HANDLES, first, 16)
            for handle in list(data.data.handles):
                esys.flush_context(esys.tr_from_tpmpublic(handle))


def run(kind: str, cycles: int, told: Run) -> tuple[dict[str, object], list[str]]:
    """So many cycles on one device after the other; figures, and what was lost."""
    chance = random.Random(f"{kind}/{told.seed}")  # noqa: S311 - choices, not keys
    tally = Tally()
    boot(2)
    losses = live(
        kind, cycles, told, lambda: Board(kind, chance, tally), most=LIFE, done=lambda: tally.cycles, first=Board.learn
    )
    return tally.figures(), losses
