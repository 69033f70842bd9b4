"""``keystore: file`` keeps both secrets in one JSON file, for development and for boards without a TPM.

Nothing protects them but the file's mode: who copies the disk has the keys, and no boot is measured. What remains true
is that an old copy of the vault alone is unreadable after a rotation, as the file holds the newest M only (though a
flash disk may keep the old one in blocks that it no longer uses).

Where systemd hands the service a credential ``idiolect.keystore`` when the file is made, that is half of the root
secret: a copy of the state directory alone opens nothing then. The credential lies outside it, for root only, or is
itself encrypted to the board (systemd-creds(1)).

The file is read anew for each write, so that this process holds no copy of the secrets beside the one it handed out;
what Python and the JSON reader copy while they work is not wiped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idiolect.errors import KeystoreError
from idiolect.host import structure
from idiolect.host.files import DISK_STATES, TooLarge, read_capped, write_durably
from idiolect.host.systemd import CREDSTORE, credentials
from idiolect.trust.vault.envelope import derive
from idiolect.trust.vault.keystore import SECRET_BYTES, Released, Slot
from idiolect.trust.vault.secret import Secret

FILE_CAP = 4096
SCHEMA = "idiolect/keystore/file/v1"
WITH_CREDENTIAL = "idiolect/keystore/file/v2"
"""The schema with half of the root secret in a credential, and the field `credential` to tell which."""
CREDENTIAL = "idiolect.keystore"
_CREDENTIAL_BYTES = range(16, 1025)
_ROOT_LABEL, _NAME_LABEL = b"idiolect/keystore/file/root", b"idiolect/keystore/file/credential"
_FIELDS = {"schema", "root", "next", "current", "minimum_version"}
_MAX_NUMBER = 2**53 - 1
_HEX = re.compile(f"[0-9a-f]{{{2 * SECRET_BYTES}}}")
_NAME = re.compile("[0-9a-f]{16}")
_RESTORE = "restore it from a backup, or run `idiolect factory-reset`: without it the vault cannot be read"


@dataclass(frozen=True, slots=True)
class _Stored:
    """The file's content; a slot is a generation from 1 and 64 hexadecimal digits."""

    root: str
    slots: tuple[tuple[int, str], tuple[int, str]]
    minimum: int
    credential: str = ""

    def __repr__(self) -> str:
        return "<_Stored>"  # never the secrets, not even in a traceback with locals


class FileKeystore:
    """A ``Keystore`` that keeps its secrets in that file."""

    kind = "file"
    protected = False

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path) -> tuple[FileKeystore, Released]:
        """Make a file with fresh secrets and hand them out.

        Raises:
            KeystoreError: there is a file already, which may be needed.
        """
        if os.path.lexists(path):
            raise KeystoreError(f"{path.name} exists and is not written over", "open it instead", "failed")
        slot, other_half = (1, os.urandom(SECRET_BYTES).hex()), _credential()
        name = "" if other_half is None else _name(other_half)
        _store(path, _Stored(os.urandom(SECRET_BYTES).hex(), (slot, slot), 0, name))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> tuple[FileKeystore, Released]:
        """Read the file and hand out its secrets.

        Raises:
            KeystoreError: the file is absent, damaged, or cannot be read.
        """
        stored = _load(path)
        root = _whole_root(stored)
        slots = [Slot(generation, _secret(secret)) for generation, secret in stored.slots]
        return cls(path), Released(root, (slots[0], slots[1]))

    def write_slot(self, index: int, slot: Slot) -> None:
        """Replace one copy of M, durably before this returns; the other stays as it is."""
        stored = _load(self._path)
        slots = list(stored.slots)
        slots[index] = (slot.generation, slot.secret.view.hex())
        _store(self._path, replace(stored, slots=(slots[0], slots[1])))

    def minimum_version(self) -> int:
        """Return the lowest version of a bundle that may get the keys, from 0."""
        return _load(self._path).minimum

    def raise_minimum(self, version: int) -> None:
        """Raise the minimum version; a lower ``version`` than before changes nothing."""
        stored = _load(self._path)
        if version > stored.minimum:
            _store(self._path, replace(stored, minimum=version))

    def wipe(self) -> None:
        """Do nothing: it holds no secret between two calls."""


def _credential() -> Secret | None:
    """Return the credential, hashed to a fixed length: as the service has it, else, for root, from where it comes."""
    directory = credentials() or CREDSTORE
    try:
        raw = read_capped(directory / CREDENTIAL, _CREDENTIAL_BYTES[-1])
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, TooLarge) as error:
        what = error.strerror if isinstance(error, OSError) else "it is too large"
        raise KeystoreError(
            f"the credential {CREDENTIAL} cannot be read: {what}", f"see {CREDSTORE}", "failed"
        ) from None
    if len(raw) not in _CREDENTIAL_BYTES:
        fix = f"put 32 random bytes into {CREDSTORE / CREDENTIAL}, if nothing was stored yet"
        raise KeystoreError(f"the credential {CREDENTIAL} has fewer than {_CREDENTIAL_BYTES[0]} bytes", fix, "failed")
    return Secret(bytearray(hashlib.sha256(raw).digest()))


def _name(credential: Secret) -> str:
    """Return 16 hex digits by which the file tells a credential from another; they do not lead back to it."""
    return derive(credential, _NAME_LABEL).view[:8].hex()


def _whole_root(stored: _Stored) -> Secret:
    root = _secret(stored.root)
    if not stored.credential:
        return root
    credential = _credential()
    if credential is None or _name(credential) != stored.credential:
        root.wipe()
        what = "is missing" if credential is None else "is another one than when the keys were made"
        fix = f"restore {CREDSTORE / CREDENTIAL} from a backup, or run `idiolect factory-reset`"
        raise KeystoreError(f"the credential {CREDENTIAL} {what}", fix, "absent" if credential is None else "refused")
    whole = derive([root, credential], _ROOT_LABEL)
    root.wipe()
    credential.wipe()
    return whole


def _secret(text: str) -> Secret:
    return Secret(bytearray.fromhex(text))


def _store(path: Path, stored: _Stored) -> None:
    """Replace the file durably."""
    value: dict[str, object] = {
        "schema": WITH_CREDENTIAL if stored.credential else SCHEMA,
        "root": stored.root,
        "next": {"generation": stored.slots[0][0], "secret": stored.slots[0][1]},
        "current": {"generation": stored.slots[1][0], "secret": stored.slots[1][1]},
        "minimum_version": stored.minimum,
    }
    if stored.credential:
        value["credential"] = stored.credential
    try:
        write_durably(path, json.dumps(value, indent=1).encode() + b"\n")
    except OSError as error:
        what, state = os.strerror(error.errno or 0), DISK_STATES.get(error.errno or 0, "failed")
        raise KeystoreError(f"{path.name} cannot be written: {what}", "free or repair the disk", state) from None


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
    """Return the content, checked. Raises ``ValueError`` where it is not exactly of the schema."""
    value = structure.load(raw, parts=64, depth=2, pairs=_once)
    bound = isinstance(value, dict) and value.get("schema") == WITH_CREDENTIAL
    fields, schema = (_FIELDS | {"credential"}, WITH_CREDENTIAL) if bound else (_FIELDS, SCHEMA)
    if not isinstance(value, dict) or set(value) != fields or value["schema"] != schema:
        raise ValueError("fields")
    name = value["credential"] if bound else ""
    if not isinstance(name, str) or (bound and not _NAME.fullmatch(name)):
        raise ValueError("credential")
    slots = (_slot(value["next"]), _slot(value["current"]))
    return _Stored(_hex(value["root"]), slots, _number(value["minimum_version"], 0), name)


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
