"""Whole `idiolectd` processes, killed while they are used over their socket: the true binary, thread and worker.

Their microphone is a pipe with a quiet room in it. What a person would teach comes in as their own export does
(``import``), so that each take is one that the harness knows. After a death the same state directory is either opened
as it lies and checked (``crashing/check.py``), or the daemon is started again and asked what it keeps.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from idiolect.client import Client
from idiolect.client.connection import UnreachableError
from idiolect.errors import RequestError
from idiolect.learning.ledger import PURPOSES
from idiolect.listening.recognizer import Recognizer
from idiolect.people.models import model_of
from idiolect.trust.bundle import bundle as bundle_files
from tests.support import bundles
from tests.support.devices import TestDevice
from torture.crashing import check
from torture.crashing.board import PATIENCE_S, _is_worker
from torture.crashing.check import Boot
from torture.crashing.choosing import Doing
from torture.crashing.lives import Loss, live
from torture.crashing.operations import NEEDS, OFTEN
from torture.crashing.steps import DAEMON, WORKER, alive
from torture.crashing.story import MARK, Finding, Found, State, Story, markers
from torture.crashing.uses import CAN, NAMES, Uses

if TYPE_CHECKING:
    from torture.harness import Run

START_S, ANSWER_S = 60.0, 60.0
MIDNIGHT_S = 120.0
"""No cycle is begun so close to the end of a day: what it says of the day must be true to its end."""
LIFE = 25
LEFT = {".personal.json.new", "listening.json", ".listening.json.new", ".last-good.json.new"}
"""Files of the daemon besides: who is addressed, by an opaque id, and whether it listens. Each is written as a whole
under a name of its own first, which the next write takes over."""


class House:
    """One state directory with a daemon in it, now and then."""

    def __init__(self, chance: random.Random, tally: dict[str, Any]) -> None:
        self._chance, self.tally, self.story = chance, tally, Story()
        self.folder = Path(tempfile.mkdtemp(prefix="crash-"))
        self.state_dir = self.folder / "state"
        self._fifo = self.folder / "audio"
        os.mkfifo(self._fifo)
        self._room = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)
        wishes = {
            "audio": {"device": f"fifo:{self._fifo}"}, "state_dir": str(self.state_dir), "keystore": "file",
            "control": {"socket": str(self.folder / "control.sock")}, "listening": {"mode": "always"},
            "people": {name: {"users": [getpass.getuser()]} for name in NAMES},
        }  # fmt: skip
        (self.folder / "idiolect.yaml").write_text(yaml.safe_dump(wishes))
        self.client = Client(str(self.folder / "control.sock"), timeout=ANSWER_S)
        self._verified = bundles.unsigned(bundles.builtin())
        loaded = bundle_files.load(self._verified)
        model = model_of(Recognizer.from_bundle(loaded))
        assert model is not None  # noqa: S101 - the shipped bundle has a space
        self._boot = Boot(loaded.digest, loaded.version, loaded.encoder_id, model)
        self._uses = Uses(self.client, self._boot.encoder, chance)
        self._marks = markers()
        self._daemon: subprocess.Popen[bytes] | None = None
        self.lost = False

    def close(self) -> None:
        """Remove it all; what lost something stays, to be looked into."""
        self.kill()
        os.close(self._room)
        if not self.lost:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- the process --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Until it serves, has its keys and hears the room."""
        command = [sys.executable, "-m", "idiolect", "--config", str(self.folder / "idiolect.yaml")]
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stderr=log, stdout=log)
        ends = time.monotonic() + START_S
        while True:
            with contextlib.suppress(BlockingIOError):
                os.write(self._room, bytes(2560))
            with contextlib.suppress(UnreachableError, RequestError):
                status = self.client.status()
                if status["personalization"]["state"] == "on":
                    return
            if self._daemon.poll() is not None or time.monotonic() > ends:
                raise Loss(f"idiolectd does not start again: {self._last_line()}")
            time.sleep(0.02)

    def _last_line(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def kill(self) -> None:
        """-9, and every worker of it goes too."""
        if self._daemon is None:
            return
        workers = _workers(self._daemon.pid)
        self._daemon.kill()
        self._daemon.wait()
        self._daemon = None
        ends = time.monotonic() + PATIENCE_S
        while any(alive(pid) and _is_worker(pid) for pid in workers):
            if time.monotonic() > ends:
                raise Loss("a worker outlived its daemon")
            time.sleep(0.01)

    # -- a cycle ------------------------------------------------------------------------------------------------

    def cycle(self) -> None:
        """Start it and ask what it has; use it; kill; look at what is left."""
        if 86_400 - time.time() % 86_400 < MIDNIGHT_S:
            time.sleep(MIDNIGHT_S + 5)
        self.start()
        self.ask()
        for _ in range(self._chance.randint(0, 3)):
            self._do(self._choose())
        died = self._die()
        self.kill()
        self.tally["deaths"][died] = self.tally["deaths"].get(died, 0) + 1
        self.tally["cycles"] += 1
        self.look_at_remains()
        if self._chance.random() < 0.5:
            self.check()

    def look_at_remains(self) -> None:
        """No plaintext in the state directory, no name in the journal, no row that is nobody's."""
        found = check.plaintext(self.folder / "state", self._marks)
        found += ["the journal names somebody, or what they said"] * (
            MARK.encode() in (self.folder / "log").read_bytes()
        )
        found += check.orphans(self.state_dir, self.story.erased)
        if found:
            raise Loss(f"after {self.story.operation}: {'; '.join(found)}")

    def _choose(self) -> str:
        can = [name for name in OFTEN if name in CAN and NEEDS.get(name, bool)(self.story.kept)]
        if any(len(p.examples) < 10 and p.receipts for p in self.story.kept.values()):
            can += ["bring", "bring"]
        return self._chance.choice(can or ["consent"])

    def _do(self, name: str) -> None:
        """An operation that nobody disturbs."""
        doing = self._uses.choose(name, self.story.kept)
        if doing is None:
            return
        self._announce(name, doing)
        doing.run()
        self._returned(name, doing)

    def _announce(self, name: str, doing: Doing) -> None:
        self.story.operation, self.story.after = name, doing.states

    def _returned(self, name: str, doing: Doing) -> None:
        story, told = self.story, self.tally["operations"]
        told[name] = told.get(name, 0) + 1
        if doing.states:
            story.erased |= set(story.kept) - set(doing.states[-1])
            story.kept, story.after = self._resolved(doing.states[-1]), []
        story.operation = f"{name}, which returned"
        mark = self.client.verify_audit()
        story.count, story.head = mark["count"], mark["head"]

    def _die(self) -> str:
        """An operation that somebody disturbs: at a random instant the daemon dies, or its worker, and then it."""
        name = self._choose()
        doing = self._uses.choose(name, self.story.kept)
        if doing is None or self._chance.random() < 0.1:
            return "between operations"
        self._announce(name, doing)
        caught: list[Exception] = []
        thread = threading.Thread(target=_caught, args=(doing.run, caught))
        thread.start()
        if self._chance.random() < 0.3 and self._kill_worker(thread):
            thread.join(ANSWER_S)
            self._after_worker(name, doing, caught)
            return f"{WORKER}, then {DAEMON}"
        time.sleep(self._chance.uniform(0, 0.3))
        self.kill()
        thread.join(ANSWER_S)
        if thread.is_alive():
            raise Loss(f"{name}: the client still waits for a daemon that is dead")
        if not caught and doing.states:
            self.story.erased |= set(self.story.kept) - set(doing.states[-1])
            self.story.kept, self.story.after = doing.states[-1], []  # it had answered
        return DAEMON

    def _kill_worker(self, thread: threading.Thread) -> bool:
        assert self._daemon is not None  # noqa: S101 - it runs
        while thread.is_alive():
            if workers := _workers(self._daemon.pid):
                time.sleep(self._chance.uniform(0, 0.15))
                for pid in filter(_is_worker, workers):
                    os.kill(pid, signal.SIGKILL)
                    return True
                return False
            time.sleep(0.001)
        return False

    def _after_worker(self, name: str, doing: Doing, caught: list[Exception]) -> None:
        """The daemon goes on, without the candidate, and its log says why."""
        if self._daemon is None or self._daemon.poll() is not None:
            raise Loss(f"{name}: the daemon did not outlive its worker: {self._last_line()}")
        self.client.status()
        if caught and not isinstance(caught[0], UnreachableError | RequestError):
            raise Loss(f"{name}: after its worker died the daemon answered with a {type(caught[0]).__name__}")
        if caught:
            self.tally["dropped"] += 1
            kinds = [entry["kind"] for entry in self.client.audit(limit=5)["entries"]]
            if "round-failed" not in kinds:
                raise Loss(f"{name}: a worker died, and the log does not say so")
        elif doing.states:
            self.story.erased |= set(self.story.kept) - set(doing.states[-1])
            self.story.kept, self.story.after = self._resolved(doing.states[-1]), []

    # -- what it must have --------------------------------------------------------------------------------------

    def _finding(self) -> Finding:
        """What the API says of everybody."""
        found = {}
        digests = {
            (profile, e.sequence, e.phrase, e.source, e.heard): e.digest
            for state in [self.story.kept, *self.story.after]
            for profile, person in state.items()
            for e in person.examples
        }
        for row in self.client.people()["people"]:
            kept: Any = self.client.review(row["profile"])
            examples = tuple(
                (
                    e["id"],
                    digests.get((row["profile"], e["id"], e["phrase"], e["source"], e["heard"]), ""),
                    e["encoder"],
                    PURPOSES[e["source"]],
                )
                for e in kept["examples"]
            )
            table = tuple((v["adapter"], v["state"]) for v in kept["adapters"])
            receipts = {purpose: said["receipt"] for purpose, said in kept["purposes"].items()}
            counter = max((n for n, _ in table), default=self._known(row["profile"]))
            found[row["profile"]] = Found(
                kept["name"], receipts, examples, {}, table, max(counter, self._known(row["profile"]))
            )
        return found

    def _known(self, profile: str) -> int:
        """The counter of versions, which the API does not tell."""
        states = [self.story.kept, *self.story.after]
        return max((state[profile].counter for state in states if profile in state), default=0)

    def _resolved(self, wanted: State) -> State:
        state, differs = _loose(Story(wanted)).match(self._finding())
        if state is None:
            raise Loss(f"{self.story.operation} returned, and {'; '.join(differs)}")
        return state

    def ask(self) -> None:
        """What the daemon says it keeps; a version of everybody's proven by it."""
        mark = self.client.verify_audit()
        if mark["count"] < self.story.count:
            raise Loss(f"the audit log has {mark['count']} entries, {self.story.count} had been written")
        state, differs = _loose(self.story).match(self._finding())
        if state is None:
            raise Loss(f"after {self.story.operation} the daemon says: {'; '.join(differs)}")
        self._adopt(state, int(mark["count"]), str(mark["head"]))
        for profile, person in state.items():
            if person.table and self._chance.random() < 0.3:
                number = self._chance.choice(person.table)[0]
                if not (proof := self.client.verify_adapter(profile, number))["ok"]:
                    raise Loss(f"the daemon does not prove version {number}: {proof['checks']}")

    def _adopt(self, state: State, count: int, head: str) -> None:
        self.story.erased |= set(self.story.kept) - set(state)
        self.story.kept, self.story.after = state, []
        self.story.count, self.story.head = count, head

    def check(self) -> None:
        """Open the vault as it lies and check all of it."""
        custody = TestDevice(self.folder, None).custody(self._verified)
        with contextlib.closing(custody):
            if not custody.open().released:
                raise Loss(f"no keys: {custody.view.state}: {custody.view.detail}")
            seen = check.look(custody.vault, self.story.count, self.story.head)
            state, differs = _loose(self.story).match(seen.people)
            wrong = seen.wrong + [f"after {self.story.operation}: {what}" for what in differs]
            wrong += check.prove(seen, state, [self._boot], self.story.proven) if state else []
            wrong += [
                what for what in check.leftovers(self.state_dir) if not any(what.startswith(f"{n} ") for n in LEFT)
            ]
        if wrong or state is None:
            raise Loss("; ".join(wrong[:8]))
        self.tally["adapters made again"] += len(seen.proven - self.story.proven)
        self.story.proven = seen.proven
        self._adopt(state, seen.count, seen.head)


def _loose(story: Story) -> Story:
    """With the rounds that the daemon makes when it starts, or finds a window: new versions beside those there were."""
    kept, *after = (
        {profile: person.after_round(2) for profile, person in state.items()} for state in [story.kept, *story.after]
    )
    return Story(kept, after)


def _workers(daemon: int) -> list[int]:
    """The daemon's worker, whichever thread started it."""
    found = []
    for path in Path(f"/proc/{daemon}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in path.read_text().split()]
    return [pid for pid in found if _is_worker(pid)]


def _caught(work: Callable[[], object], caught: list[Exception]) -> None:
    try:
        work()
    except Exception as error:
        caught.append(error)


def run(cycles: int, told: Run) -> tuple[dict[str, object], list[str]]:
    """So many cycles on one household after the other; figures, and what was lost."""
    chance = random.Random(f"daemon/{told.seed}")  # noqa: S311 - choices, not keys
    tally: dict[str, Any] = {"cycles": 0, "deaths": {}, "operations": {}, "dropped": 0, "adapters made again": 0}
    losses = live("daemon", cycles, told, lambda: House(chance, tally), most=LIFE, done=lambda: int(tally["cycles"]))
    return tally, losses
