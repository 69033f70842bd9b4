"""Makes and removes the vault's file as a whole: it gets its name when complete, and goes without keys."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from idiolect.errors import VaultError
from idiolect.trust.vault import audit, roots, schema
from idiolect.trust.vault.change import Change
from idiolect.trust.vault.keystore import CURRENT, NEXT, Keystore, Slot
from idiolect.trust.vault.roots import State, VaultContents
from idiolect.trust.vault.rotation import COST, FULL_CREDIT
from idiolect.trust.vault.secret import Secret


def discard(path: Path) -> None:
    """Remove a vault with everything beside it, without keys. The file itself goes first: the rest is nothing alone."""
    with mapped_os(path):
        for name in (path, draft_of(path)):
            remove(name)
        if path.parent.is_dir():
            sync_directory(path)


def draft_of(path: Path) -> Path:
    """Return the name under which a vault is made."""
    return path.with_name(f".{path.name}.new")


def remove(path: Path) -> None:
    """Remove a SQLite file with what lies beside it, if it is there."""
    path.unlink(missing_ok=True)
    remove_side_files(path)


def remove_side_files(path: Path) -> None:
    """Remove WAL and index: a WAL without its file would be read into the next one of that name."""
    for suffix in schema.SIDE_FILES:
        schema.side(path, suffix).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a file's directory durable."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def mapped_os(path: Path) -> Iterator[None]:
    """Turn the system's errors into ``VaultError``."""
    try:
        yield
    except OSError as error:
        what = f"{path.name} cannot be used: {os.strerror(error.errno or 0)}"
        if error.errno == errno.EROFS:
            fix = "mount the file system for writing; if it turned read-only by itself, the disk is failing"
            raise VaultError(what, fix, "readonly") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise VaultError(what, "free some space on the disk", "full") from None
        raise VaultError(what, "see the owner, the mode and the disk", "failed") from None


def first_state(device: str, generation: int, now: int) -> State:
    """Return the counters of a vault in which nothing has happened yet, but for the rotation that it begins with."""
    start = audit.start(device)
    return State(device, 0, generation, 0, False, FULL_CREDIT - COST, max(0, now), start, start)


def place(path: Path, root: Secret, slot: Slot, keystore: Keystore, state: State) -> None:
    """Make the file under another name, put M into the keystore, and only then give the file its own name."""
    draft = draft_of(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove(draft)
    remove_side_files(path)
    _build(draft, root, slot, state)
    for index in (NEXT, CURRENT):
        keystore.write_slot(index, slot)
    os.link(draft, path)  # fails where somebody else was faster, unlike rename
    remove(draft)
    sync_directory(path)


def _build(draft: Path, root: Secret, slot: Slot, state: State) -> None:
    """Write a draft with the vault's own key, no entries, and everything in the file itself."""
    with contextlib.closing(schema.build(draft)) as connection, Secret.random() as vault_key:
        with roots.kek(root, slot.secret, slot.generation) as kek:
            change = Change(connection, VaultContents(state, {}, {}), {slot.generation: kek})
            connection.execute("BEGIN IMMEDIATE")
            change.begin(vault_key, state)
            change.seal(root, vault_key)
            connection.execute("COMMIT")
        schema.flush(connection)
