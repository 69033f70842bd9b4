"""One life after the other, each of so many cycles, until there were enough or something was lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torture.harness import Run


class Loss(Exception):
    """Something that had been promised is not there, or something is there that must not be."""


class Life(Protocol):
    """A device, or a household with a daemon."""

    folder: Path
    lost: bool
    """What lost something is not removed."""

    def cycle(self) -> None:
        """A death, and what is left of it."""

    def check(self) -> None:
        """A last look."""

    def close(self) -> None:
        """The end."""


L = TypeVar("L", bound=Life)


def live(
    kind: str, cycles: int, told: Run, begin: Callable[[], L], *, most: int, done: Callable[[], int],
    first: Callable[[L], object] = lambda _: None,
) -> list[str]:  # fmt: skip
    """Lives of at most ``most`` cycles; what was lost. ``done`` counts them all, ``first`` is done with the first."""
    losses: list[str] = []
    while done() < cycles and not told.over and not losses:
        life = begin()
        try:
            if not done():
                first(life)
            for _ in range(min(most, cycles - done())):
                life.cycle()
                told.show(f"{kind}: {done()} of {cycles} cycles")
                if told.over:
                    break
            life.check()
        except Loss as loss:
            life.lost = True
            print(f"crash: see {life.folder}", file=sys.stderr)
            losses.append(f"cycle {done()}: {loss}")
        finally:
            life.close()
    return losses
