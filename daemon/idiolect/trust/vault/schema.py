"""The vault's SQLite file: its tables, how it is looked at without changing it, and how SQLite's errors are told.

| table | what a row holds |
| --- | --- |
| `meta` | the one row of ``roots.State``, with the two MACs over it |
| `wraps` | a data key in a box under the key of one rotation (``generation``); purpose "vault" is the vault's own key |
| `records` | a sealed record; ``tag`` is the end of its box, beside the rest so that opening reads no payload |
| `roots` | the MAC over a profile's keys and records |
| `audit` | the entries of the audit log |

A file is looked at read-only first (``probe``), so that one which is damaged, foreign or newer keeps every byte:

1. a regular file that nobody else uses, reached through no link, with no rollback journal beside it (WAL leaves none);
2. SQLite's header, with our application id and a schema version that is not of the future;
3. as many pages as the header says, unless a WAL still has some of them; after a crash, SQLite's own ``quick_check``;
4. the tables that this version makes, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from idiolect.errors import VaultError

APPLICATION_ID = 0x49644C56  # "IdLV"
PAYLOAD_CAP = 1 << 20
"""Bytes of the largest payload of a record."""
MAX_RECORDS = 20_000
FILE_CAP = 256 << 20
"""Bytes of the largest file, which also bounds what opening one reads; 20,000 records of 8 KB fit."""
_PAGE = 4096
MAX_WRAPS = 2 * 1024
SIDE_FILES = ("-wal", "-shm", "-journal")
_HEADER = 100
RESET = "keep a copy if you want to look into it, then run idiolect factory-reset"
"""The next step where a file cannot be saved."""

READ_AGAIN = f"if the kernel's log tells of the disk, mend that and restart idiolectd; else {RESET}"
"""The next step where SQLite does not tell damage from an unreadable block (SQLITE_IOERR_CORRUPTFS)."""

_TABLES = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1), device TEXT NOT NULL, counter INTEGER NOT NULL,
    generation INTEGER NOT NULL, pending INTEGER NOT NULL, owed INTEGER NOT NULL,
    credit INTEGER NOT NULL, high INTEGER NOT NULL,
    anchor_count INTEGER NOT NULL, anchor_head BLOB NOT NULL, count INTEGER NOT NULL, head BLOB NOT NULL,
    origin BLOB NOT NULL, root BLOB NOT NULL) STRICT;
CREATE TABLE wraps (
    profile TEXT NOT NULL, purpose TEXT NOT NULL, generation INTEGER NOT NULL, receipt TEXT NOT NULL,
    key_generation INTEGER NOT NULL, box BLOB NOT NULL,
    PRIMARY KEY (profile, purpose, generation)) STRICT, WITHOUT ROWID;
CREATE TABLE records (
    profile TEXT NOT NULL, purpose TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, encoder TEXT NOT NULL,
    key_generation INTEGER NOT NULL, expires INTEGER NOT NULL, tag BLOB NOT NULL, box BLOB NOT NULL,
    PRIMARY KEY (profile, purpose, kind, id)) STRICT;
CREATE TABLE roots (profile TEXT PRIMARY KEY NOT NULL, mac BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
"""


def _first_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";\n"):
        connection.execute(statement)


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_first_tables]
"""Entry n takes a file of schema version n to n + 1, in a transaction of its own. A new file runs through all."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file to the newest schema version."""
    for version in range(_version(connection), len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        MIGRATIONS[version](connection)
        connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@functools.cache
def _expected(version: int) -> tuple[tuple[str, ...], ...]:
    """Return the rows of ``sqlite_schema`` that the tables of a schema version have."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as scratch:
        for step in MIGRATIONS[:version]:
            step(scratch)
        return _tables(scratch)


def _tables(connection: sqlite3.Connection) -> tuple[tuple[str, ...], ...]:
    found = connection.execute("SELECT type, name, tbl_name, ifnull(sql, '') FROM sqlite_schema ORDER BY 1, 2 LIMIT 64")
    return tuple(tuple(row) for row in found)


def lock(path: Path) -> int:
    """Return a descriptor whose lock keeps other idiolectd off the file while it is open (checks 1 to 3).

    Close it after every SQLite connection to the file: closing any descriptor drops SQLite's own locks.

    Raises:
        VaultError: the file is absent, in use, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise VaultError(f"there is no {path.name}", "run idiolect provision", "absent") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_header(path, descriptor)
    except BlockingIOError:
        os.close(descriptor)
        raise VaultError(f"another idiolectd uses {path.name}", "stop the other one", "failed") from None
    except OSError as error:
        os.close(descriptor)
        raise _unreadable(path, error) from None
    except VaultError:
        os.close(descriptor)
        raise
    return descriptor


def _unreadable(path: Path, error: OSError) -> VaultError:
    what = os.strerror(error.errno or 0)
    return VaultError(f"{path.name} cannot be read: {what}", "see its owner, its mode and the disk", "failed")


def _check_header(path: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or os.path.lexists(side(path, "-journal")):  # 1
        raise VaultError(f"{path.name} is no regular file, or has a journal that is not ours", RESET, "damaged")
    header = os.pread(descriptor, _HEADER, 0)
    if len(header) < _HEADER or header[:16] != b"SQLite format 3\0" or header[18:20] != b"\x02\x02":  # 2
        raise VaultError(f"{path.name} is no vault, or its beginning is damaged", RESET, "damaged")
    application, version = _u32(header, 68), _u32(header, 60)
    if application != APPLICATION_ID:
        raise VaultError(f"{path.name} belongs to another program", "move it away", "foreign")
    if version > len(MIGRATIONS):
        raise VaultError(f"{path.name} was written by a newer version (schema {version})", "upgrade idiolect", "newer")
    page = _u32(header, 16) >> 16
    if status.st_size > FILE_CAP:
        raise VaultError(f"{path.name} is larger than a vault can be", RESET, "damaged")
    if not version or (not has_wal(path) and status.st_size != _u32(header, 28) * (65536 if page == 1 else page)):  # 3
        raise VaultError(f"{path.name} is cut short or damaged", RESET, "damaged")


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "big")


def side(path: Path, suffix: str) -> Path:
    """Return the path of the file that SQLite keeps beside the vault."""
    return path.with_name(path.name + suffix)


def has_wal(path: Path) -> bool:
    """Return True if changes lie beside the file that are not in it yet: it was not closed in order."""
    try:
        return side(path, "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def probe(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect for reading, to a file in the newest schema version, without changing a byte of it or its WAL.

    Without a WAL the file is read as it lies. With one SQLite needs an index of it, ``-shm``, which goes again. An
    older version is migrated in memory. Raises ``VaultError``: damaged, newer.
    """
    wal = has_wal(path)
    connection = sqlite3.connect(_uri(path, "ro" if wal else "ro&immutable=1"), uri=True, isolation_level=None)
    try:
        _configure(connection, "trusted_schema=OFF", "cell_size_check=ON")
        version = _version(connection)
        if version > len(MIGRATIONS):  # the WAL may hold a newer one than the header
            raise VaultError(f"{path.name} was written by a newer version", "upgrade idiolect", "newer")
        if _tables(connection) != _expected(version):  # 4
            raise VaultError(f"{path.name} does not have the tables of a vault", RESET, "damaged")
        if wal and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):  # 3
            raise VaultError(f"{path.name} is damaged since the last crash", READ_AGAIN, "damaged")
        if version == len(MIGRATIONS):
            yield connection
        else:
            with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
                connection.backup(copy)
                migrate(copy)
                yield copy
    finally:
        connection.close()
        with contextlib.suppress(OSError):  # there is none without a WAL, or on a disk that is read-only
            side(path, "-shm").unlink()


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection for writing to an existing file, which this process then holds alone.

    EXCLUSIVE comes before WAL, so that the index of the WAL lies in memory and no ``-shm`` is made.
    """
    connection = sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None)
    try:
        wanted = ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON")
        _configure(
            connection,
            *wanted,
            "trusted_schema=OFF",
            "cell_size_check=ON",
            "temp_store=MEMORY",
            f"max_page_count={FILE_CAP // _PAGE}",
        )
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, *pragmas: str) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * PAYLOAD_CAP)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def build(path: Path) -> sqlite3.Connection:
    """Make a new file with empty tables, mode 0600. It must not exist."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(connection)
    return connection


def flush(connection: sqlite3.Connection) -> None:
    """Put everything into the file itself and cut the WAL to nothing, so that neither keeps what was deleted."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


_MEANING = {
    sqlite3.SQLITE_FULL: (
        "the disk is full, or the vault as large as it may be",
        "free some space; nothing is lost",
        "full",
    ),
    sqlite3.SQLITE_READONLY: ("the vault cannot be written", "see its owner, its mode and the mount", "readonly"),
    sqlite3.SQLITE_PERM: ("the vault cannot be written", "see its owner, its mode and the mount", "readonly"),
    sqlite3.SQLITE_CANTOPEN: ("the vault cannot be opened for writing", "see its directory and the mount", "readonly"),
    sqlite3.SQLITE_CORRUPT: ("the vault's file is damaged, or the disk does not read it", READ_AGAIN, "damaged"),
    sqlite3.SQLITE_NOTADB: ("the vault's file is damaged", RESET, "damaged"),
    sqlite3.SQLITE_IOERR: ("the disk does not read or write the vault", "see the kernel's log", "failed"),
    sqlite3.SQLITE_BUSY: ("another idiolectd uses the vault", "stop the other one", "failed"),
    sqlite3.SQLITE_LOCKED: ("another idiolectd uses the vault", "stop the other one", "failed"),
}


@contextlib.contextmanager
def mapped(state: str = "failed") -> Iterator[None]:
    """Turn SQLite's errors into ``VaultError``; ``state`` is that of errors which SQLite gives no code of its own.

    SQLite's text is left out: it may quote what lies in a row.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where text in a damaged file is none
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        message, fix, known = _MEANING.get(code & 0xFF, (f"the vault failed (SQLite code {code})", RESET, state))
        raise VaultError(message, fix, known) from None
