"""Faults at every TPM operation: the power goes, or our process dies, before or after the n-th of them."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from idiolect.errors import TrustError
from idiolect.trust.device.tpm import Tpm
from tests.support.devices import TestDevice
from tests.support.swtpm import Swtpm

T = TypeVar("T")
Work = Callable[[Callable[[], None]], None]
"""Something that may be interrupted; it calls what it is given once what it did must be kept."""

CHANGES = frozenset(
    {"extend_pcr", "create_storage_key", "create_attestation_key", "evict", "seal", "define", "undefine", "write"}
)
"""Operations after which a fault is not the same as before the next one: what the TPM holds has changed."""
OPERATIONS = CHANGES | {
    *("properties", "exists", "read_pcr", "trust_storage_key", "name_and_pem", "quote", "unseal"),
    *("check_index", "read_openly", "read"),
}


@dataclass
class Fault:
    """Calls ``strike`` at operation number ``at`` (from 0), ``after`` it or before. ``names`` are those that began."""

    at: int = -1
    after: bool = False
    strike: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.names: list[str] = []

    def around(self, name: str, operation: Callable[[], T]) -> T:
        """An operation, with the fault if it is its turn."""
        turn = len(self.names) == self.at
        self.names.append(name)
        if turn and not self.after:
            self.strike()
        result = operation()
        if turn and self.after:
            self.strike()
        return result


@contextmanager
def installed(fault: Fault) -> Iterator[Fault]:
    """Every public operation of ``Tpm`` passes ``fault``."""

    def wrap(name: str, operation: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(operation)
        def call(*args: object, **named: object) -> object:
            return fault.around(name, lambda: operation(*args, **named))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(Tpm, name, wrap(name, getattr(Tpm, name)))
        yield fault


def points(names: Sequence[str], kind: str) -> Iterator[tuple[int, bool]]:
    """Every (number, after) at which a fault makes a difference, of operations with these names.

    A process killed between two operations that only read leaves what it leaves when killed before the next change.
    """
    for number, name in enumerate(names):
        if kind == "power" or name in CHANGES:
            yield number, False
        if name in CHANGES:
            yield number, True


@dataclass(frozen=True)
class Scene:
    """A board that can be put back to one moment with its power just switched on."""

    device: TestDevice
    tpm: Swtpm
    chip: Path
    disk: Path

    @classmethod
    def of(cls, device: TestDevice, tpm: Swtpm, folder: Path) -> Scene:
        """The moment is now."""
        device.state.mkdir(exist_ok=True)
        return cls(device, tpm, tpm.save(folder / "chip"), device.image(folder / "disk"))

    def begin(self) -> None:
        """Back to it."""
        self.tpm.restore(self.chip)
        self.device.restore(self.disk)

    def faults(self, kind: str, work: Work, prepare: Callable[[], object] = lambda: None) -> Iterator[bool]:
        """Run ``work`` from the same moment with every fault in turn; yields whether it got to what must be kept.

        ``kind`` "power": the TPM goes off and, once ``work`` has given up, on again. "process": ours is killed, and
        the boot goes on. Ends with the unharmed run.
        """
        self.begin()
        prepare()
        with installed(Fault()) as count:
            work(lambda: None)
        attempt = self._without_power if kind == "power" else _killed
        for at, after in points(count.names, kind):
            self.begin()
            prepare()
            yield attempt(Fault(at, after), work)
        self.begin()
        prepare()
        yield _finished(work)

    def _without_power(self, fault: Fault, work: Work) -> bool:
        done: list[bool] = []
        fault.strike = self.tpm.power_off
        with installed(fault):
            try:
                work(lambda: done.append(True))
            except TrustError as error:
                state = error.state
            else:
                state = "absent"
        assert state == "absent"
        assert len(fault.names) > fault.at
        self.tpm.power_on()
        return bool(done)


def _killed(fault: Fault, work: Work) -> bool:
    """The same in a forked child, that the kernel kills."""

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            fault.strike = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
            with installed(fault):
                work(lambda: _tell(writer))
        finally:
            os._exit(1)  # alive at the end, or an exception: both are wrong
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child was to be killed"
    return bool(said)


def _tell(descriptor: int) -> None:
    os.write(descriptor, b"+")


def _finished(work: Work) -> bool:
    done: list[bool] = []
    work(lambda: done.append(True))
    assert done
    return True
