"""Two slots for installed bundles, current and previous. They are storage: no trust is decided here.

    <root>/<first 16 hex digits of sha256(manifest.json)>/...    a bundle; replaced as a whole, never changed
    <root>/slots.json                                            {"current", "previous", "minimum"}

An installation fills a directory of a name of its own, syncs it, renames it, and then replaces `slots.json`: that is
the moment from which the new bundle counts. What no slot names any more is removed last, so that a crash at any
instruction leaves a `slots.json` that names whole bundles; leftovers go with the next installation.

``minimum`` is a hint, so that an old bundle is refused before a reboot; whoever can write here can lower it. The
minimum that counts is kept by the keystore.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from idiolect.errors import BundleError
from idiolect.host import structure
from idiolect.host.files import TooLarge, read_capped, sync_directory, write_durably

FOLDER = "bundles"
"""Name of the folder with the slots in the state directory."""
FILE = "slots.json"
_CAP = 4096
_NAME = re.compile(r"[0-9a-f]{16}")
_TEMPORARY = ".new"
_LOCK = ".lock"
MAX_MINIMUM = 2**63 - 1
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""renameat2(2)."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class State:
    """Says which bundle is where; names are 16 hex digits."""

    current: str | None = None
    previous: str | None = None
    minimum: int = 0
    """The lowest version worth installing."""


class Slots:
    """The slots under ``root``. Methods raise ``BundleError`` for a state that cannot be read, else ``OSError``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def state(self) -> State:
        """Return what the slots hold; an empty state before the first installation.

        Raises:
            BundleError: `slots.json` is damaged.
        """
        try:
            raw = read_capped(self._root / FILE, _CAP)
        except FileNotFoundError:
            return State()
        except TooLarge:
            raise _damaged() from None
        return _parse(raw)

    def directory(self, name: str) -> Path:
        """Return where the bundle of that name lies. Raises ``ValueError`` for what is no such name."""
        return self._root / _checked(name)

    def install(self, files: Mapping[str, bytes], name: str) -> State:
        """Put a verified bundle into the current slot; what was there becomes the previous one.

        The bundle that is current already changes nothing; the previous one becomes the current one again. ``files``
        are written as they are: names must be plain, and are.
        """
        _checked(name)
        with self._locked():
            before = self.state()
            if name == before.current and self._whole(files, name):
                self._sweep(before)
                return before
            self._place(files, name)
            previous = before.previous if name == before.current else before.current
            after = self._switch(replace(before, current=name, previous=previous))
            self._sweep(after)
            return after

    def rollback(self) -> State:
        """Swap the slots. Raises ``BundleError`` where there is no previous bundle."""
        with self._locked():
            before = self.state()
            if before.previous is None:
                raise BundleError(FILE, "there is no previous bundle: install one with 'idiolect bundle install'")
            return self._switch(replace(before, current=before.previous, previous=before.current))

    def note_minimum(self, version: int) -> State:
        """Raise the hint; a lower ``version`` than before changes nothing."""
        with self._locked():
            before = self.state()
            if version <= before.minimum:
                return before
            return self._switch(replace(before, minimum=version))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out for the while: the daemon may note a minimum while somebody installs."""
        self._root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _switch(self, after: State) -> State:
        write_durably(self._root / FILE, json.dumps(asdict(after)).encode(), 0o644)
        return after

    def _whole(self, files: Mapping[str, bytes], name: str) -> bool:
        """Return True if the bundle's directory holds exactly these bytes; otherwise the bundle is written again."""
        directory = self._root / name
        try:
            if {entry.name for entry in directory.iterdir()} != set(files):
                return False
            return all(read_capped(directory / file, len(data)) == data for file, data in files.items())
        except (OSError, TooLarge):
            return False

    def _place(self, files: Mapping[str, bytes], name: str) -> None:
        if not self._whole(files, name):
            temporary = self._root / f"{_TEMPORARY}-{name}"
            _remove(temporary)
            temporary.mkdir(mode=0o755)
            for file, data in files.items():
                if not file or "/" in file or file in (".", ".."):
                    raise ValueError("a bundle's files have plain names")
                write_durably(temporary / file, data, 0o644)
            _put(temporary, self._root / name)
            _remove(temporary)  # what lay there: signed anew, damaged, or left over
        sync_directory(self._root)  # the bundle before the `slots.json` that names it

    def _sweep(self, state: State) -> None:
        keep = {state.current, state.previous}
        for entry in self._root.iterdir():
            ours = _NAME.fullmatch(entry.name) or entry.name.startswith((f"{_TEMPORARY}-", f".{FILE}."))
            if ours and entry.name not in keep:
                with suppress(OSError):  # the bundle is installed; what is left goes the next time
                    _remove(entry)


def _parse(raw: bytes) -> State:
    try:
        value = structure.load(raw, parts=64, depth=2)
        state = State(**value)
        names = [_checked(name) for name in (state.current, state.previous) if name is not None]
    except (ValueError, TypeError, RecursionError):
        raise _damaged() from None
    whole = type(state.minimum) is int and 0 <= state.minimum <= MAX_MINIMUM
    if not whole or len(set(names)) != len(names) or (state.previous and not state.current):
        raise _damaged()
    return state


def _damaged() -> BundleError:
    return BundleError(FILE, "is damaged: remove it and install the bundle again")


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a slot is named by 16 lower-case hex digits")
    return name


def _put(new: Path, place: Path) -> None:
    """Give a directory its name.

    Another one of that name, such as the same model with other approvals, changes places with it in one step: the slot
    is never empty.
    """
    if not place.exists():
        new.rename(place)
        return
    paths = os.fsencode(new), os.fsencode(place)
    if _libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) != 0:
        # Not on this file system (vfat, nfs): there, a crash right here costs this slot.
        _remove(place)
        new.rename(place)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
