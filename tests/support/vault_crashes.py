"""Power cuts: a scenario in a child that dies at the n-th step, where a step is a SQL statement or a slot write."""

from __future__ import annotations

import os
import shutil
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault.keystore import Slot
from idiolect.trust.vault.secret import Secret
from tests.support.vaults import House, Keys

DIED = 9


class Countdown:
    """Dies when it was asked for the n-th time."""

    def __init__(self, left: int) -> None:
        self.left = left

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(DIED)


class DyingKeys(Keys):
    """May die before, in the middle of, and after each slot write: in the middle the slot is torn."""

    def __init__(self, inner: FileKeystore, countdown: Countdown) -> None:
        super().__init__(inner)
        self.countdown = countdown

    def write_slot(self, index: int, slot: Slot) -> None:
        self.countdown.step()
        super().write_slot(index, Slot(slot.generation, Secret.random()))
        self.countdown.step()
        super().write_slot(index, slot)
        self.countdown.step()


def dying_connect(countdown: Countdown) -> Callable[..., sqlite3.Connection]:
    """``sqlite3.connect`` whose connections may die before and after each statement."""

    class Dying(sqlite3.Connection):
        def execute(self, *args, **more):
            countdown.step()
            cursor = super().execute(*args, **more)
            countdown.step()
            return cursor

        def close(self):
            countdown.step()
            super().close()
            countdown.step()

    real = sqlite3.connect

    def connect(*args, **more):
        return real(*args, **more, factory=Dying)

    return connect


Scenario = Callable[[House, Callable[[FileKeystore], Keys]], None]


def run(house: House, scenario: Scenario, n: int, patch: Callable[[], None] = lambda: None) -> bool:
    """Run a scenario in a child that dies at step ``n``; whether it died."""
    child = os.fork()
    if child == 0:
        try:
            patch()
            countdown = Countdown(n)
            sqlite3.connect = dying_connect(countdown)
            scenario(house, lambda inner: DyingKeys(inner, countdown))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, DIED)
    return code == DIED


def every_crash(
    base: House, directory: Path, scenario: Scenario, patch: Callable[[], None] = lambda: None
) -> Iterator[House]:
    """A copy of ``base`` after each death, and one after the whole scenario."""
    n, died = 1, True
    while died:
        copy = directory / str(n)
        shutil.copytree(base.directory, copy)
        house = House(copy, base.clock)
        died = run(house, scenario, n, patch)
        yield house
        shutil.rmtree(copy)
        n += 1
    assert n > 20  # a scenario has many steps, or the patch did not take
