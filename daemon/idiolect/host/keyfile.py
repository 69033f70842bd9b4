"""``keystore: file``: both secrets in one JSON file. For development and for boards without a TPM.

Nothing protects them but the file's mode: who copies the disk has the keys, and no boot is measured. What remains true
is that an old copy of the vault alone is unreadable after a rotation, as the file holds the newest M only (though a
flash disk may keep the old one in blocks that it no longer uses).

The file is read anew for each write, so that this process holds no copy of the secrets beside the one it handed out;
what Python and the JSON reader copy while they work is not wiped.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idiolect.errors import KeystoreError
from idiolect.host.files import TooLarge, read_capped, write_durably
from idiolect.trust.keystore import SECRET_BYTES, Released, Slot
from idiolect.trust.secret import Secret

FILE_CAP = 4096
SCHEMA = "idiolect/keystore/file/v1"
_FIELDS = {"schema", "root", "next", "current", "minimum_version"}
_MAX_NUMBER = 2**53 - 1
_HEX = re.compile(f"[0-9a-f]{{{2 * SECRET_BYTES}}}")
_RESTORE = "restore it from a backup, or run `idiolect factory-reset`: without it the vault cannot be read"


@dataclass(frozen=True, slots=True)
class _Stored:
    """The file's content; a slot is a generation from 1 and 64 hexadecimal digits."""

    root: str
    slots: tuple[tuple[int, str], tuple[int, str]]
    minimum: int

    def __repr__(self) -> str:
        return "<_Stored>"  # never the secrets, not even in a traceback with locals


class FileKeystore:
    """The ``Keystore`` over that file."""

    kind = "file"
    protected = False

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path) -> tuple[FileKeystore, Released]:
        """Make a file with fresh secrets and hand them out. ``KeystoreError`` when there is one: it may be needed."""
        if os.path.lexists(path):
            raise KeystoreError(f"{path.name} exists and is not written over", "open it instead", "failed")
        slot = (1, os.urandom(SECRET_BYTES).hex())
        _store(path, _Stored(os.urandom(SECRET_BYTES).hex(), (slot, slot), 0))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> tuple[FileKeystore, Released]:
        """Read the file and hand out its secrets. ``KeystoreError``: absent, damaged or failed."""
        stored = _load(path)
        slots = [Slot(generation, _secret(secret)) for generation, secret in stored.slots]
        return cls(path), Released(_secret(stored.root), (slots[0], slots[1]))

    def write_slot(self, index: int, slot: Slot) -> None:
        """See ``Keystore``."""
        stored = _load(self._path)
        slots = list(stored.slots)
        slots[index] = (slot.generation, slot.secret.view.hex())
        _store(self._path, replace(stored, slots=(slots[0], slots[1])))

    def minimum_version(self) -> int:
        """See ``Keystore``."""
        return _load(self._path).minimum

    def raise_minimum(self, version: int) -> None:
        """See ``Keystore``."""
        stored = _load(self._path)
        if version > stored.minimum:
            _store(self._path, replace(stored, minimum=version))

    def wipe(self) -> None:
        """Nothing: it holds no secret between two calls."""


def _secret(text: str) -> Secret:
    return Secret(bytearray.fromhex(text))


def _store(path: Path, stored: _Stored) -> None:
    """Replace the file durably."""
    value = {
        "schema": SCHEMA,
        "root": stored.root,
        "next": {"generation": stored.slots[0][0], "secret": stored.slots[0][1]},
        "current": {"generation": stored.slots[1][0], "secret": stored.slots[1][1]},
        "minimum_version": stored.minimum,
    }
    try:
        write_durably(path, json.dumps(value, indent=1).encode() + b"\n")
    except OSError as error:
        what = os.strerror(error.errno or 0)
        raise KeystoreError(f"{path.name} cannot be written: {what}", "free or repair the disk", "failed") from None


def _load(path: Path) -> _Stored:
    """Read the file: (1) a regular file of its owner alone, (2) at most 4 KiB, (3) JSON of exactly this schema."""
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):  # (1)
            raise KeystoreError(f"{path.name} is no regular file", _RESTORE, "damaged")
        if mode & 0o077:
            others = f"{path.name} may be read by others (mode {mode & 0o777:04o})"
            raise KeystoreError(others, "treat its keys as known: chmod 600, or reset the device", "failed")
        raw = read_capped(path, FILE_CAP)  # (2)
    except FileNotFoundError:
        raise KeystoreError(f"there is no {path.name}", "run `idiolect provision`", "absent") from None
    except TooLarge:
        raise KeystoreError(f"{path.name} is larger than a keystore can be", _RESTORE, "damaged") from None
    except OSError as error:
        what = os.strerror(error.errno or 0)
        raise KeystoreError(f"{path.name} cannot be read: {what}", "see the owner and the disk", "failed") from None
    try:
        return _parsed(raw)  # (3)
    except (ValueError, RecursionError):  # of which nothing is shown: it may quote the content
        raise KeystoreError(f"{path.name} is cut short or damaged", _RESTORE, "damaged") from None


def _parsed(raw: bytes) -> _Stored:
    """``ValueError`` where the content is not exactly of the schema."""
    value = json.loads(raw, object_pairs_hook=_once)
    if not isinstance(value, dict) or set(value) != _FIELDS or value["schema"] != SCHEMA:
        raise ValueError("fields")
    slots = (_slot(value["next"]), _slot(value["current"]))
    return _Stored(_hex(value["root"]), slots, _number(value["minimum_version"], 0))


def _slot(value: Any) -> tuple[int, str]:
    if not isinstance(value, dict) or set(value) != {"generation", "secret"}:
        raise ValueError("slot")
    return _number(value["generation"], 1), _hex(value["secret"])


def _number(value: object, least: int) -> int:
    if type(value) is not int or not least <= value <= _MAX_NUMBER:
        raise ValueError("number")
    return value


def _hex(value: object) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError("secret")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("double key")
    return value
