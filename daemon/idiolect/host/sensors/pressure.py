"""Tells if somebody waits for a processor, memory or the disk: Documentation/accounting/psi.rst.

Two ways, because not every machine has the second: averages that are read, and triggers by which the kernel wakes a
process as soon as tasks have waited for too long. An unprivileged process may arm triggers since Linux 6.4, with
windows of a multiple of 2 s (and is spared the real-time thread that the kernel starts for the privileged); before, it
is refused. Kernels built with PSI_DEFAULT_DISABLED want ``psi=1`` on their command line, and ``ProcSubset=pid`` in a
unit hides it all.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from idiolect.host.sensors.sysfs import Look

_FOLDER = "proc/pressure"
_FILE = 512
"""Bytes of /proc/pressure/* at most: it has about 120."""
_SOME = re.compile(r"^some avg10=([0-9]{1,3}\.[0-9]{2}) ", re.MULTILINE)

WINDOW_US = 2_000_000
"""Microseconds over which waiting is added up."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """Percent of the last ten seconds, 0 to 100, in which at least one task waited. None: cannot be told."""

    cpu: float | None
    memory: float | None
    io: float | None
    trouble: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Return True if the kernel gives at least one of the three numbers."""
        return any(value is not None for value in (self.cpu, self.memory, self.io))

    def describe(self) -> str:
        """Return the three percentages and trouble in one line for people."""
        if not self.available:
            return "; ".join(("not known: the kernel keeps none (psi=1 on its command line?)", *self.trouble))
        values = {"processor": self.cpu, "memory": self.memory, "disk": self.io}
        waits = ", ".join(f"{name} {'?' if value is None else f'{value:.0f} %'}" for name, value in values.items())
        return "; ".join((f"waiting for {waits}", *self.trouble))


def read_pressure(root: Path = Path("/")) -> Pressure:
    """Read the averages of the last ten seconds, below ``root`` (/). Never raises."""
    look = Look(root)
    cpu, memory, io = (_average(look, f"{_FOLDER}/{resource}") for resource in ("cpu", "memory", "io"))
    return Pressure(cpu, memory, io, tuple(look.trouble))


def _average(look: Look, path: str) -> float | None:
    text = look.text(path, _FILE)
    if text is None:
        return None
    found = _SOME.search(text)
    if found is None or float(found[1]) > 100:
        look.blame(path, "does not say")
        return None
    return float(found[1])


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires when within ``window_us`` some task waited for ``resource`` (cpu, memory or io) ``stall_us`` in all."""

    resource: str
    stall_us: int
    window_us: int = WINDOW_US


RULES = (
    Rule("cpu", WINDOW_US * 30 // 100),
    Rule("memory", WINDOW_US * 5 // 100),
    Rule("io", WINDOW_US * 20 // 100),
)


class Triggers:
    """The kernel's word when pressure rises, as one descriptor: for ``loop.add_reader(triggers.fileno(), ...)``.

    Never raises: what could not be armed is named in ``missing``, and never fires. A context manager. A trigger fires
    once per window for as long as the pressure lasts.
    """

    def __init__(self, root: Path = Path("/"), rules: Sequence[Rule] = RULES) -> None:
        self._epoll = select.epoll()
        self._armed: dict[int, str] = {}
        self._missing: list[str] = []
        for rule in rules:
            self._arm(root / _FOLDER / rule.resource, rule)
        self.fired()  # the edge that registering makes

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the resources that are not watched, each with the reason: ``cpu: No such file or directory``."""
        return tuple(self._missing)

    @property
    def armed(self) -> tuple[str, ...]:
        """Return the resources that are watched."""
        return tuple(self._armed.values())

    def fileno(self) -> int:
        """Return a descriptor that is readable when something has fired since the last ``fired()``.

        Raises ``ValueError`` after ``close()``.
        """
        return self._epoll.fileno()

    def fired(self) -> tuple[str, ...]:
        """Return the resources whose triggers fired since the last call. Does not wait."""
        if self._epoll.closed:
            return ()
        names = []
        for descriptor, events in self._epoll.poll(0):
            if events & (select.EPOLLERR | select.EPOLLHUP):
                self._drop(descriptor)
            else:
                names.append(self._armed[descriptor])
        return tuple(names)

    def close(self) -> None:
        """Disarm everything. A reader of ``fileno()`` has to go first. May be called twice."""
        for descriptor in self._armed:
            os.close(descriptor)
        self._armed.clear()
        self._epoll.close()

    def __enter__(self) -> Triggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _arm(self, path: Path, rule: Rule) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._missing.append(f"{rule.resource}: {error.strerror}")
            return
        try:
            os.write(descriptor, f"some {rule.stall_us} {rule.window_us}\0".encode("ascii"))
            # A trigger says EPOLLIN always and EPOLLPRI once, to whoever asks first. Where this epoll is watched by
            # another, that is the other's look: waiting for EPOLLPRI alone, fired() would find nothing left. So it
            # waits for the edge, which only the kernel's firing makes, and takes EPOLLIN as the name of who fired.
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLPRI | select.EPOLLET)
        except OSError as error:
            os.close(descriptor)
            self._missing.append(f"{rule.resource}: {error.strerror}")
        else:
            self._armed[descriptor] = rule.resource

    def _drop(self, descriptor: int) -> None:
        self._missing.append(f"{self._armed.pop(descriptor)}: the kernel took the trigger away")
        self._epoll.unregister(descriptor)
        os.close(descriptor)
