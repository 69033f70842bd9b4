"""The tree of errors. Every message says what is wrong, where, and what to do next.

An error never carries audio, a phrase, a name or a key: messages may reach the journal.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass

NONSENSE = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What it may raise to take apart, by what it should be, something that others wrote: all of it means "is none"."""


class IdiolectError(Exception):
    """Anything this project raises on purpose; ``exit_code`` is what a program that dies of it returns.

    Exit codes follow sysexits(3), which systemd knows by name.
    """

    exit_code = 70  # EX_SOFTWARE


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration: where (file, line from 1, dotted field), what, and the fix.

    ``section`` is the key at the top of the file in which all of the mistake lies, "" where that is not certain: what
    stands there may belong to another section, as after a slip of the indentation.
    """

    source: str
    line: int
    field: str
    message: str
    section: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.field}: {self.message}"


class ConfigError(IdiolectError):
    """The configuration is unusable; ``problems`` holds every reason at once, in order of line."""

    exit_code = 78  # EX_CONFIG

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def reason(error: IdiolectError | None) -> str:
    """Why something was refused, in one line."""
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        return f"{error.problems[0]} (and {len(error.problems) - 1} more: idiolect config check)"
    return str(error)


class BundleError(IdiolectError):
    """A bundle is missing, truncated, not what its manifest says, or not vouched for; the message names the file.

    ``check`` is the number of the check in ``bundle.verify`` that it failed, 0 where it never came to these.
    """

    exit_code = 78

    def __init__(self, file: str, message: str, check: int = 0) -> None:
        super().__init__(f"bundle file {file}: {f'refused ({check}): ' if check else ''}{message}")
        self.file = file
        self.message = message
        self.check = check


class TrustError(IdiolectError):
    """Keys or vault cannot be used now: everybody gets the base model and nothing is stored.

    ``state`` is one word for programs, the message one sentence for people, ``fix`` their next step.
    """

    exit_code = 74
    state = "failed"

    def __init__(self, message: str, fix: str, state: str = "") -> None:
        super().__init__(message)
        self.fix = fix
        if state:
            self.state = state


class KeystoreError(TrustError):
    """The keystore does not give its secrets.

    States: absent, busy, lockout (all three may pass), refused (the wrong model was measured), replaced, cleared,
    unprovisioned, damaged, full, readonly, failed.
    """


class VaultError(TrustError):
    """The vault cannot be read or written. Its file is left exactly as it is.

    States: absent, damaged, foreign (another device's), older (from before a rotation), newer (of a later version),
    full, readonly, failed.
    """


class LearningError(IdiolectError):
    """What was learnt, or is to be learnt from, cannot be used; ``fix`` tells the next step."""

    exit_code = 65  # EX_DATAERR

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class WorkerFailed(LearningError):
    """The training worker gave no answer, and was killed. ``cause``: start, timeout, crash, oversize, garbled, stopped.

    Nothing was changed by it.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message, "it is tried again later; if it goes on, see `idiolect doctor`")
        self.cause = cause


class Preempted(WorkerFailed):
    """A training round gave way to somebody who speaks, or to a condition that no longer held."""

    def __init__(self) -> None:
        super().__init__("stopped", "the training round was interrupted")


class MicrophoneError(IdiolectError):
    """Audio cannot be captured now. The service stays up and tries again; ``fix`` tells the next step."""

    exit_code = 74  # EX_IOERR
    state = "failed"

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class MicrophoneAbsent(MicrophoneError):
    """There is no such device, or it was unplugged."""

    state = "absent"


class MicrophoneBusy(MicrophoneError):
    """Another program holds the device."""

    state = "busy"


class MicrophoneStalled(MicrophoneError):
    """The device is open and delivers nothing."""

    state = "stalled"


class MicrophoneFormat(MicrophoneError):
    """The device gives a rate, channel count or sample format that cannot be used."""

    state = "format"


class SourceEnded(MicrophoneError):
    """A recording that is played once has come to its end: nothing is wrong."""

    state = "ended"


class RequestError(IdiolectError):
    """A caller of the control API asked for something wrong; ``field`` names the part at fault."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
