"""Talks to systemd: readiness, a line of status, the watchdog, credentials, the journal.

The only file that imports systemd-python, and only where systemd started us: elsewhere all of this does nothing.
Sources: sd_notify(3), sd_watchdog_enabled(3), sd_journal_send(3), systemd.exec(5) for credentials.
"""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

from idiolect.errors import IdiolectError

_STATUS_CAP = 200
"""Characters of a status line: what `systemctl status` shows without wrapping twice."""
_MESSAGES = uuid.UUID("5d8e0a8f-33b5-4c8e-9a55-7b8f64f3f2a1")
"""Name space of the MESSAGE_IDs; never to be changed, as people filter by them."""


class SystemdError(IdiolectError):
    """Raised when systemd waits for a word that cannot be spoken."""

    exit_code = 78


class Notifier:
    """sd_notify: a word to the service manager, who need not be there. Any thread may call its methods."""

    def __init__(self) -> None:
        """Find the notification socket and the watchdog.

        Raises ``SystemdError`` where systemd waits and systemd-python is missing: better now than in a time-out.
        """
        self._notify: Any = None
        self._said = ""
        self.watchdog_s = _watchdog_s()
        """Seconds within which ``alive`` has to be called again; 0.0 where nobody watches."""
        if not os.environ.get("NOTIFY_SOCKET"):
            return
        try:
            from systemd.daemon import notify
        except ImportError:
            message = "the unit says Type=notify, but systemd-python is missing: pip install 'idiolectd[systemd]'"
            raise SystemdError(message) from None
        self._notify = notify

    def ready(self) -> None:
        """Tell that start-up, or a reload, is finished."""
        self._say("READY=1")

    def reloading(self) -> None:
        """Tell that the configuration is read again; ``ready`` ends it."""
        self._say("RELOADING=1")

    def stopping(self) -> None:
        """Tell that the daemon has begun to stop."""
        self._say("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog: the daemon lives."""
        self._say("WATCHDOG=1")

    def status(self, line: str) -> None:
        """Show one line in `systemctl status`; it is sent only when it is another one than before."""
        line = " ".join(line.split())[:_STATUS_CAP]
        if line != self._said:
            self._said = line
            self._say(f"STATUS={line}")

    def _say(self, what: str) -> None:
        if self._notify is not None:
            self._notify(what)


def _watchdog_s() -> float:
    """Return the seconds of the unit's WatchdogSec= for this process, 0 where it has none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(os.environ.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0.0


# -- credentials -------------------------------------------------------------------------------------------------------

CREDSTORE = Path("/etc/credstore")
"""The directory of the credentials of services, where root may look itself (systemd.exec(5))."""


def credentials() -> Path | None:
    """Return the directory of what systemd handed to this service; None outside one."""
    place = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(place) if place else None


# -- journal -----------------------------------------------------------------------------------------------------------


def message_id(template: str) -> str:
    """Return the MESSAGE_ID, 32 hex digits, of all messages made from one template: it names that kind for good."""
    return uuid.uuid5(_MESSAGES, template).hex


class Journal(logging.Handler):
    """Log records into the journal, with fields: `journalctl -u idiolectd IDIOLECT_PART=device.keys`.

    | field | holds |
    | --- | --- |
    | PRIORITY | as syslog(3) |
    | MESSAGE_ID | the kind of message, `docs/operations.md` lists them |
    | IDIOLECT_PART | the last two parts of the module that speaks, such as device.keys or service.supervision |
    | IDIOLECT_THREAD | its thread: MainThread, keys, capture, inference |
    | CODE_FILE, CODE_LINE, CODE_FUNC | where that is in the source |

    Nothing else of a record is sent, in particular no exception's text and no arguments by themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        from systemd.journal import send

        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record to the journal, for ``logging.Handler``."""
        try:
            self._send(
                record.getMessage(),
                MESSAGE_ID=message_id(str(record.msg)),
                PRIORITY=str(_priority(record.levelno)),
                SYSLOG_IDENTIFIER="idiolectd",
                CODE_FILE=record.filename,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                IDIOLECT_PART=".".join(record.name.split(".")[-2:]),
                IDIOLECT_THREAD=record.threadName or "",
            )
        except Exception:
            self.handleError(record)


def _priority(level: int) -> int:
    """Return syslog(3)'s number of a level of ``logging``."""
    for least, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return priority
    return 7


def journal() -> logging.Handler | None:
    """Return a handler where standard error is the journal and systemd-python is there, else None.

    Standard error is compared with JOURNAL_STREAM (systemd.exec(5)).
    """
    try:
        there = os.fstat(2)
        if os.environ.get("JOURNAL_STREAM") != f"{there.st_dev}:{there.st_ino}":
            return None
        return Journal()
    except (OSError, ImportError):
        return None
