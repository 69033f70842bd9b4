"""Shared by the commands about bundles: files and keys read with a cap, refusals explained, answers printed."""

from __future__ import annotations

import argparse
import errno
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idiolect.cli import output as show
from idiolect.config.files import MAIN, files_for
from idiolect.errors import BundleError, IdiolectError

if TYPE_CHECKING:
    from idiolect.config.schema import Config
    from idiolect.trust.bundle.directory import Directory
    from idiolect.trust.bundle.verify import Verified

DEFAULT_CONFIG = str(MAIN)
SHORT = 16
"""Hex digits of a fingerprint or digest that are shown to people."""

Add = Callable[..., argparse.ArgumentParser]
Run = Callable[[argparse.Namespace], int]


class CommandError(IdiolectError):
    """Raised when a command cannot be done as asked; the message says what to do instead."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def files_explained(run: Run) -> Run:
    """Wrap a command: an ``OSError`` becomes a sentence and an exit code."""

    @functools.wraps(run)
    def explained(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM)
            fix = "try again with sudo" if denied else "check the path and the disk"
            raise CommandError(f"{error.filename}: {error.strerror}: {fix}", 77 if denied else 74) from None

    return explained


@contextmanager
def opened(path: Path) -> Iterator[Directory]:
    """Open the directory as a source for a while. Raises ``BundleError`` where it is none."""
    from idiolect.trust.bundle.directory import Directory

    try:
        directory = Directory(path)
    except OSError as error:
        raise BundleError("manifest.json", f"{path} cannot be read ({error.strerror}): check the path") from None
    with directory:
        yield directory


def read_config(options: argparse.Namespace) -> Config:
    """Return the configuration that ``--config`` names, with the conf.d beside it.

    By default it is made of the layers of this machine.
    """
    from idiolect.config.schema import load

    return load(files_for(Path(options.config)))


def read(path: str, cap: int) -> bytes:
    """Return a file of at most ``cap`` bytes. Raises ``CommandError`` for a larger one."""
    from idiolect.host.files import TooLarge, read_capped

    try:
        return read_capped(Path(path), cap)
    except TooLarge as error:
        raise CommandError(f"{error}: is it the right file?") from None


def described(verified: Verified) -> dict[str, Any]:
    """Return a bundle as ``--json`` shows it."""
    approvals = [{"key": a.key, "pcr": a.pcr, "from": a.from_.hex(), "to": a.to.hex()} for a in verified.approvals]
    label = {"name": verified.manifest.name, "version": verified.manifest.version}
    return {**label, "digest": verified.digest, "signer": verified.signer, "approvals": approvals}


def lacks(verified: Verified) -> list[dict[str, str]]:
    """Return what a bundle lacks, as ``--json`` shows it."""
    from idiolect.trust.bundle.lacking import lacking

    return [{"part": each.part, "detail": each.detail, "fix": each.fix} for each in lacking(verified.files)]


def lack_lines(found: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what a bundle lacks, as warnings for people."""
    return [show.plain(f"WARNING: {each['detail']}: {each['fix']}") for each in found]


def whole(text: str) -> int:
    """Return a whole number from 0. Raises ``ArgumentTypeError``, as argparse wants it."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def emit(options: argparse.Namespace, answer: Mapping[str, Any], lines: list[str]) -> int:
    """Print ``answer`` with --json, else ``lines``; return exit code 0."""
    print(json.dumps(answer, indent=2) if options.json else "\n".join(lines))
    return 0
