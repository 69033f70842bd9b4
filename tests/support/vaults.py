"""Vaults for tests: real files, a real file keystore, and clocks that tests move."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from idiolect.errors import KeystoreError
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault.keystore import Slot
from idiolect.trust.vault.vault import Vault

ANN, BEN = "aa" * 8, "bb" * 8
DAY = 86_400
START = 1_800_000_000.0


@dataclass
class Clock:
    """Wall and monotonic time, in seconds. ``pass_`` moves both, ``set_back`` the wall alone."""

    wall: float = START
    steady: float = 1000.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


class Keys:
    """A file keystore that counts slot writes, and fails those that a test tells it to."""

    kind, protected = "file", False

    def __init__(self, inner: FileKeystore, before: Callable[[int, Slot], None] = lambda *_: None) -> None:
        self.inner = inner
        self.writes = 0
        self.out_of_reach: set[int] = set()
        self.before = before

    def write_slot(self, index: int, slot: Slot) -> None:
        self.before(index, slot)
        if index in self.out_of_reach:
            raise KeystoreError("the TPM does not answer", "wait", "busy")
        self.writes += 1
        self.inner.write_slot(index, slot)

    def minimum_version(self) -> int:
        return self.inner.minimum_version()

    def raise_minimum(self, version: int) -> None:
        self.inner.raise_minimum(version)

    def wipe(self) -> None:
        self.inner.wipe()


@dataclass
class House:
    """A state directory with a keystore and perhaps a vault."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    writes: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.keyfile.exists():
            FileKeystore.create(self.keyfile)[1].wipe()

    @property
    def keyfile(self) -> Path:
        return self.directory / "keystore.json"

    @property
    def path(self) -> Path:
        return self.directory / "vault.db"

    def create(self) -> Vault:
        keystore, released = FileKeystore.open(self.keyfile)
        times = {"clock": lambda: self.clock.wall, "monotonic": lambda: self.clock.steady}
        return Vault.create(self.path, released, Keys(keystore), **times)

    def open(self, keys: Callable[[FileKeystore], Keys] = Keys, device: str = "") -> Vault:
        keystore, released = FileKeystore.open(self.keyfile)
        times = {"clock": lambda: self.clock.wall, "monotonic": lambda: self.clock.steady}
        try:
            return Vault.open(self.path, released, keys(keystore), device, **times)
        except BaseException:
            assert len(released.root) == 32  # it is still the caller's
            raise

    def sql(self, statement: str, *values: object) -> list[tuple]:
        """Meddle with the closed file, as who has the disk can."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir() if path.name.startswith("vault")}


def add(vault: Vault, profile: str = ANN, purpose: str = "enrol", receipt: str = "01") -> None:
    with vault.change("key-added", profile=profile, purpose=purpose, receipt=receipt) as change:
        change.add_key(profile, purpose, receipt)


def put(vault: Vault, ident: str, payload: bytes, profile: str = ANN, purpose: str = "enrol", **more) -> None:
    with vault.change("put", count=1) as change:
        change.put(profile, purpose, "example", ident, payload, **more)


def furnished(house: House) -> Vault:
    """A vault with two people and three purposes."""
    vault = house.create()
    add(vault, ANN, "enrol", "01")
    add(vault, ANN, "adapt_corrections", "02")
    add(vault, BEN, "enrol", "03")
    for n in range(3):
        put(vault, f"0{n}", b"ann says %d" % n)
        put(vault, f"0{n}", b"ben says %d" % n, BEN)
    put(vault, "00", b"no, ann says", ANN, "adapt_corrections")
    return vault


def contents(vault: Vault) -> dict[tuple[str, str], dict[str, bytes]]:
    """Everything readable in it."""
    return {
        (profile, purpose): {record.id: record.payload for record in vault.items(profile, purpose, "example")}
        for profile in vault.profiles()
        for purpose in vault.purposes(profile)
    }
