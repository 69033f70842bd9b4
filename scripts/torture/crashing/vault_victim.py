"""What is killed: a child process that opens the vault, changes it at random, and says what it does as it does it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from idiolect.errors import TrustError
from idiolect.trust.bundle.verify import Verified
from idiolect.trust.vault.vault import Vault
from tests.support import devices
from tests.support.devices import TestDevice
from tests.support.faults import Fault, installed

T = TypeVar("T")
OPERATIONS = ("put", "put", "put", "put-rotate", "forget", "forget", "withdraw", "good")
"""How often which is chosen; the policy key is replaced by a run of its own."""
RUN = 6
"""Operations of a run that nobody kills."""


@dataclass
class Story:
    """What a vault must hold, told by a pipe: ``kept`` surely, ``either`` if what was begun last came to pass."""

    kept: dict[str, bytes] = field(default_factory=dict)
    either: dict[str, bytes] | None = None
    phase: str = "start"
    minimum: int = 0
    """The highest version that was, or may have been, marked good."""
    said: int = 0
    """Entries of the audit log that were there when an operation returned."""

    def hear(self, line: str) -> None:
        """One line of ``Teller``."""
        word, _, rest = line.partition(" ")
        if word == "tpm":
            self.phase = f"{self.phase.partition('/')[0]}/{rest}"
        elif word == "begin":
            operation, _, detail = rest.partition(" ")
            self.phase = operation
            self.either = _after(self.kept, operation, detail)
            if operation == "good":
                self.minimum = max(self.minimum, int(detail))
        else:  # done
            self.phase = "between"
            self.said = int(rest)
            if self.either is not None:
                self.kept, self.either = self.either, None

    @property
    def possible(self) -> list[dict[str, bytes]]:
        """What the vault may hold now."""
        return [self.kept] if self.either is None else [self.kept, self.either]


def _after(kept: dict[str, bytes], operation: str, detail: str) -> dict[str, bytes] | None:
    """What ``operation`` makes of it; None where it changes no record."""
    if operation.startswith("put"):
        ident, _, number = detail.partition(" ")
        return kept | {ident: payload(int(number))}
    if operation == "forget":
        return {ident: value for ident, value in kept.items() if ident != detail}
    return {} if operation == "withdraw" else None


def payload(number: int) -> bytes:
    """A record of some hundred bytes to some KiB: ``number`` tells it from all others."""
    return number.to_bytes(8, "big") * (1 + number % 700)


class Teller(Fault):
    """Writes a line at once, also at every operation of the TPM."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def say(self, line: str) -> None:
        """A line; what is in the pipe survives whoever wrote it."""
        os.write(self._descriptor, line.encode() + b"\n")

    def around(self, name: str, operation: Callable[[], T]) -> T:
        """See ``Fault``."""
        self.say(f"tpm {name}")
        return operation()


@dataclass(frozen=True)
class Victim:
    """One run. ``now`` is what its clock says (seconds), so that there is credit for rotations."""

    device: TestDevice
    bundle: Verified
    story: Story
    chance: random.Random
    now: float

    def fork(self, *, replace: str = "") -> tuple[int, int]:
        """Start it; with ``replace`` it moves to that policy key instead. (pid, descriptor that tells)."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            self._run(Teller(writer), replace)
        os.close(writer)
        return child, reader

    def _run(self, teller: Teller, replace: str) -> NoReturn:
        code = 1
        try:
            with installed(teller), contextlib.suppress(TrustError):  # the TPM may be gone: then it has no keys
                self._replace(teller, replace) if replace else self._change(teller)
            code = 0
        finally:
            os._exit(code)

    def _replace(self, teller: Teller, name: str) -> None:
        teller.say("begin replace")
        self.device.replace_policy_key(self.bundle, name)
        teller.say(f"done {self.story.said}")

    def _change(self, teller: Teller) -> None:
        teller.say("begin open")
        with contextlib.closing(self.device.custody(self.bundle, clock=lambda: self.now)) as custody:
            if not custody.open().released:
                return
            vault, kept = custody.vault, dict(self.story.kept)
            if devices.recall(vault) not in self.story.possible:
                os._exit(2)
            kept = devices.recall(vault)
            teller.say(f"done {vault.audit_head().count}")
            for _ in range(RUN):
                operation, detail = self._choose(kept)
                teller.say(f"begin {operation} {detail}")
                if operation == "good":
                    custody.mark_good()
                else:
                    perform(vault, operation, detail)
                    kept = _after(kept, operation, detail) or {}
                teller.say(f"done {vault.audit_head().count}")
            teller.say("begin close")
        teller.say(f"done {self.story.said}")

    def _choose(self, kept: dict[str, bytes]) -> tuple[str, str]:
        operation = self.chance.choice(OPERATIONS)
        if operation == "good":
            return operation, str(self.bundle.manifest.version)
        if operation == "forget" and kept:
            return operation, self.chance.choice(sorted(kept))
        if operation == "withdraw" and len(kept) > 3:
            return operation, ""
        return ("put-rotate" if operation == "put-rotate" else "put"), (
            f"{self.chance.randrange(40):02x} {self.chance.randrange(1 << 40)}"
        )


def perform(vault: Vault, operation: str, detail: str) -> None:
    """Do it."""
    if operation == "forget":
        devices.forget(vault, detail)
    elif operation == "withdraw":
        devices.withdraw(vault)
    else:
        ident, _, number = detail.partition(" ")
        devices.remember(vault, ident, payload(int(number)), rotate=operation == "put-rotate")
