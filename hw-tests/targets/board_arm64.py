"""A virtual arm64 board: QEMU's virt machine with a processor like a Raspberry Pi 4's, without KVM and without a TPM.

It shows that the package for arm64 installs with apt on a Debian for arm64, boots, hears, and goes again. How fast it
does so is QEMU's doing: every instruction is translated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from . import arm64
from .board import LACKS, Board, factory_files
from .tpm import AbsentTpm

NO_TPM = (
    "this virtual arm64 board has no TPM: Debian's arm64 kernel has no driver for the only one QEMU offers it "
    "(CONFIG_TCG_TIS is not set); the x86 board runs these tests"
)


PATIENT_UNIT = """\
# A processor that is emulated takes many times as long; what is measured here is not held to these.
[Service]
TimeoutStartSec=600
WatchdogSec=180
"""


def factory(folder: Path) -> Path:
    """What the disk has beyond Debian."""
    factory_files(folder)
    drop_ins = folder / "etc/systemd/system/idiolectd.service.d"
    drop_ins.mkdir()
    (drop_ins / "80-emulated.conf").write_text(PATIENT_UNIT)
    return folder


class BoardArm64(Board):
    """One virtual arm64 board, running; the package is not yet on it."""

    qemu, needed = arm64.QEMU, "qemu-system-arm qemu-utils"
    serial = "ttyAMA0"
    lacks = LACKS | {"kernel tpm": NO_TPM, "suspend": "QEMU's virt machine cannot sleep"}
    boot_limit_s = 900

    def _parts(self, package: Path) -> tuple[Path, Path, Path]:
        suite = arm64.release_of(package)
        files, version = arm64.kernel(suite)
        disk = arm64.disk(suite, factory(self._folder / "factory"))
        return files / f"boot/vmlinuz-{version}", arm64.initramfs(suite), disk

    def _choose(self, folder: Path) -> None:
        self.chip = AbsentTpm()
        self._accelerated = False
        self.patience = 24.0

    def _machine(self) -> Iterator[str]:
        yield from arm64.MACHINE

    def _note(self, package: Path) -> None:
        self.name = "board:arm64"
        self.facts.notes["clock"] = "seconds on this board are QEMU's, which translates every instruction; no Pi's"
