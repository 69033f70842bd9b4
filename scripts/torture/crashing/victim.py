"""The process that is killed: it opens the device, checks it, and changes it by the operations that it was given.

It says what it is about to do and what must be there afterwards, does it with the daemon's own parts and the real
worker, looks whether the vault holds just that, and says that it is done. Whoever killed it knows the rest.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from idiolect.errors import IdiolectError, WorkerFailed
from idiolect.trust.bundle.verify import Verified
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.provisioning import read_record
from tests.support.devices import TestDevice
from torture.crashing import check
from torture.crashing.check import Boot
from torture.crashing.choosing import Doing
from torture.crashing.operations import Operations
from torture.crashing.steps import Steps, Target
from torture.crashing.story import State, Story

ONE_ROUND = ("teach", "train", "bring")
"""Operations with one round, of which nothing is left when its worker dies."""


@dataclass(frozen=True)
class Order:
    """What a victim is to do, and where it dies."""

    device: TestDevice
    boot: Boot
    verified: Verified
    boots: Sequence[Boot]
    story: Story
    plan: Sequence[str]
    target: Target | None
    seed: float
    now: float
    tpm: int = 0

    def fork(self) -> tuple[int, int]:
        """Start it: its number, and where it tells."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            Victim(self, writer).live()
        os.close(writer)
        return child, reader


class Victim:
    """See the module."""

    def __init__(self, order: Order, writer: int) -> None:
        self._order, self._writer = order, writer
        self._chance = random.Random(order.seed)  # noqa: S311 - choices, not keys
        self._state: State = dict(order.story.kept)
        self._count, self._head = order.story.count, order.story.head
        self._steps = Steps(self._say, order.target, order.tpm)
        self._custody: DeviceKeys
        self._operations: Operations

    def _say(self, word: str, **more: object) -> None:
        left = memoryview(f"{word} {pickle.dumps(more).hex() if more else ''}\n".encode())
        while left:
            left = left[os.write(self._writer, left) :]

    def live(self) -> NoReturn:
        """All of it; ends the process."""
        code = 1
        try:
            with self._steps.installed(tpm=bool(self._order.tpm)):
                if self._begin():
                    for name in ("refresh", *self._order.plan):
                        self._do(name)
                    self._steps.give_up()
                    self._do("close")
                self._custody.close()
            code = 0
        except BaseException as error:
            where = traceback.extract_tb(sys.exc_info()[2])[-1]
            self._say("wrong", what=[f"{type(error).__name__} at {where.name}:{where.lineno}: {error}"])
        finally:
            os._exit(code)

    # -- the start ----------------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Open it and check it; whether there are keys."""
        order = self._order
        record = read_record(order.device.state)
        self._announce("open" if record and record.complete else "provision", [])
        self._custody = order.device.custody(order.verified, clock=lambda: order.now)
        view = self._custody.open()
        if not view.released:
            self._say("closed", state=view.state, detail=view.detail, seen=self._steps.seen)
            return False
        seen = check.look(self._custody.vault, self._count, self._head)
        state, differs = order.story.match(seen.people)
        wrong = seen.wrong + [f"after {order.story.operation}: {what}" for what in differs]
        if state is not None:
            wrong += check.prove(seen, state, order.boots, order.story.proven)
        wrong += check.leftovers(order.device.state)
        if wrong or state is None:
            self._say("wrong", what=wrong)
            return False
        self._state = state
        self._operations = Operations(order.boot, self._custody, self._chance, order.now)
        self._tell("sound", seen.count, seen.head, proven=seen.proven, steps=self._steps.seen)
        return True

    def _tell(self, word: str, count: int, head: str, **more: object) -> None:
        self._count, self._head = count, head
        self._say(word, state=self._state, count=count, head=head, **more)

    def _announce(self, name: str, states: Sequence[State], minimum: int = 0) -> None:
        self._steps.begin()
        self._say("begin", name=name, states=list(states), minimum=minimum)

    # -- an operation -------------------------------------------------------------------------------------------

    def _do(self, name: str) -> None:
        doing = self._operations.choose(name, self._state)
        if doing is None:
            self._steps.begin()
            return
        self._announce(name, doing.states, doing.minimum)
        before = self._custody.vault.audit_head().count if name != "close" else self._count
        failed = ""
        try:
            doing.run()
        except WorkerFailed as error:
            failed = f"worker {error.cause}"
        except IdiolectError as error:
            failed = f"{type(error).__name__}: {error}"
        if name == "close":
            self._tell("done", self._count, self._head, steps=self._steps.seen, failed=failed, dropped=0)
        else:
            self._settle(name, doing, before, failed)

    def _settle(self, name: str, doing: Doing, before: int, failed: str) -> None:
        """What is there now must be what was said; less where something died."""
        vault = self._custody.vault
        seen = check.look(vault, self._count, self._head)
        harmed = failed or self._steps.struck
        fresh = vault.audit_entries(seen.count - before) if seen.count > before else []
        dropped = sum(entry.kind == "round-failed" for entry in fresh)
        wanted = [doing.states[-1]] if doing.states and not (harmed or dropped) else [self._state, *doing.states]
        state, differs = Story(wanted[0], list(wanted[1:])).match(seen.people)
        wrong = seen.wrong + [f"{name} returned, and {what}" for what in differs]
        if (failed.startswith("worker") or self._steps.unanswered) and not dropped:
            wrong.append(f"{name}: its worker died, and the log does not say so")
        if state is not None and dropped and name in ONE_ROUND and failed:
            grown = [p[:6] for p in state if p in self._state and state[p].counter > self._state[p].counter]
            wrong += [f"{name}: its worker died, and {p} has a new version all the same" for p in grown]
        if wrong or state is None:
            self._say("wrong", what=wrong)
            os._exit(0)
        self._state = state
        self._tell("done", seen.count, seen.head, steps=self._steps.seen, failed=failed, dropped=dropped)
