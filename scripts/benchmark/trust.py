"""What trust costs: checking a bundle, getting keys from a TPM (swtpm), rotating them, wear of its NV memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.daemon import by_path
from idiolect.config.schema import Config, Trust
from idiolect.trust.bundle import signing
from idiolect.trust.bundle.choose import Model, builtin
from idiolect.trust.bundle.directory import Directory
from idiolect.trust.bundle.public_keys import TrustedKeys
from idiolect.trust.bundle.verify import Verified, verify
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.provisioning import Provisioning, read_record
from idiolect.trust.device.tpm_keystore import TpmKeystore
from idiolect.trust.vault.keystore import Keystore, Slot
from idiolect.trust.vault.vault import Vault

STARTS = 10
ROTATIONS = 6
"""As many as the meter allows in a row."""
DAY_S = 86_400.0


@dataclass(frozen=True)
class Board:
    """A provisioned board with a TPM in software."""

    config: Config
    bundle: Verified
    tpm: Any

    @property
    def model(self) -> Model:
        """What its keystore is told of the bundle."""
        manifest = self.bundle.manifest
        return Model(manifest.name, manifest.version, self.bundle.digest, self.bundle.approvals, signed=True)

    def settings(self) -> dict[str, Any]:
        """For the daemon's configuration file."""
        trust = self.config.trust
        return {
            "bundle": str(self.config.bundle),
            "keystore": "tpm",
            "state_dir": str(self.config.state_dir),
            "trust": {"keys_dir": str(trust.keys_dir), "tcti": trust.tcti},
        }


@contextmanager
def board(folder: Path) -> Iterator[Board | None]:
    """One in ``folder``, or None where there is no swtpm or no tpm2-pytss."""
    swtpm = by_path("swtpm")
    if swtpm.missing():
        yield None
        return
    with swtpm.Swtpm() as tpm:
        keys = signing.keygen()
        plan = signing.Plan(
            signing.load_private("bundle.key", keys["bundle.key"]),
            [signing.load_private("policy.key", keys["policy.key"])],
        )
        with Directory(builtin()) as source:
            files = {name: source.read(name, 8 << 20) for name in source.names()}
        signed = signing.sign(files, plan)
        for where, content in (("bundle", signed.files), ("keys.d", {"bundle.pem": keys["bundle.pem"]})):
            (folder / where).mkdir()
            for name, data in content.items():
                (folder / where / name).write_bytes(data)
        config = replace(
            Config(),
            bundle=folder / "bundle",
            keystore="tpm",
            state_dir=folder / "state",
            trust=Trust(keys_dir=folder / "keys.d", tcti=tpm.tcti),
        )
        for step in Provisioning(config, policy_key=keys["policy.pem"]).steps():
            step.run()
        yield Board(config, signed, tpm)


def measure(made: Board, folder: Path) -> dict[str, Any]:
    """Times in ms (medians), and NV writes of a day."""
    return {
        "verify_ms": _verify_ms(made),
        "keys_ms": _keys_ms(made),
        "start_ms": _start_ms(made),
        "rotation_ms": _rotation_ms(made),
        "nv_writes_per_day_abused": _nv_writes(folder, events=1000),
        "nv_writes_per_day_normal": _nv_writes(folder, events=3),
    }


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def _verify_ms(made: Board) -> float:
    """From the directory, keys included, to bytes that may be loaded."""

    def check() -> None:
        with Directory(Path(made.config.trust.keys_dir)) as source:
            keys = TrustedKeys.read(source)
        with Directory(Path(made.config.bundle)) as source:
            verify(source, keys)

    return statistics.median(_timed(check) for _ in range(STARTS))


def _keys_ms(made: Board) -> float:
    """A fresh boot: PCR read, extended, S unsealed, both slots of M read."""
    device = read_record(Path(made.config.state_dir))
    if device is None:
        raise RuntimeError("not provisioned")
    model = made.model

    def start() -> float:
        made.tpm.power_cycle()

        def keys() -> None:
            opened = TpmKeystore.open(
                made.config.trust.tcti, device, bytes.fromhex(model.digest), model.approvals, model.version
            )
            opened[1].wipe()

        return _timed(keys)

    return statistics.median(start() for _ in range(STARTS))


def _start_ms(made: Board) -> float:
    """The same with the vault opened and the audit entry written."""

    def start() -> float:
        made.tpm.power_cycle()
        custody = DeviceKeys(made.config, made.model)
        spent = _timed(custody.open)
        if not custody.view.released:
            raise RuntimeError(custody.view.detail)
        custody.close()
        return spent

    return statistics.median(start() for _ in range(STARTS))


def _rotation_ms(made: Board) -> float:
    """A security event of a vault with a person in it, to the end of its rotation, NV and disk included."""
    clock = [time.time() + 2 * DAY_S]
    custody = DeviceKeys(made.config, made.model, clock=lambda: clock[0])
    custody.open()

    def event(number: int) -> None:
        with custody.vault.change("erased", rotate=True, profile=f"{number:02x}", count=0) as change:
            change.add_key(f"{number:02x}", "enrol", "00")
            change.erase(f"{number:02x}")

    spent = []
    for number in range(ROTATIONS):
        spent.append(_timed(lambda number=number: event(number)))  # type: ignore[misc]
        if custody.vault.owed:
            raise RuntimeError("the meter had no credit: this was no rotation")
    custody.close()
    return statistics.median(spent)


class _Counting:
    """A file keystore that counts what a TPM would have to write."""

    def __init__(self, inner: Keystore) -> None:
        self.inner, self.writes = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write_slot(self, index: int, slot: Slot) -> None:
        """Count it."""
        self.writes += 1
        self.inner.write_slot(index, slot)


def _nv_writes(folder: Path, events: int) -> int:
    """Slot writes in a day with so many security events, evenly spread, after a quiet one."""
    name = f"{events}-events"
    inner, released = FileKeystore.create(folder / f"{name}.json")
    counting = _Counting(inner)
    clock = [1_800_000_000.0]
    path = folder / f"{name}.db"
    with Vault.create(path, released, counting, clock=lambda: clock[0], monotonic=lambda: clock[0]) as vault:
        clock[0] += DAY_S
        counting.writes = 0
        for number in range(events):
            clock[0] += DAY_S / events
            with vault.change("forgot", rotate=True, profile="aa", purpose="enrol", count=number):
                pass
            vault.rotate_if_due()
    return counting.writes
