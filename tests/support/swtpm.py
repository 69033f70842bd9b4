"""A TPM 2.0 in software (swtpm), started for a test: real commands, state in a directory, power that can be cut."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

CMD_GET_CAPABILITY = bytes([0, 0, 0, 1])
"""A command of swtpm's control channel (swtpm_ioctls(3)) that changes nothing."""


class Swtpm:
    """One TPM on a Unix socket. ``tcti`` is what tpm2-tss calls it; state survives ``power_cycle``, PCRs do not."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="swtpm-"))  # short: a socket's path has 107 bytes
        self.socket = self.folder / "tpm"
        self.tcti = f"swtpm:path={self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.power_on()

    def power_on(self) -> None:
        """Start it, as a board does: TPM2_Startup(CLEAR)."""
        for name in ("tpm", "tpm.ctrl"):
            (self.folder / name).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}"),
                *("--server", f"type=unixio,path={self.socket}", "--ctrl", f"type=unixio,path={self.socket}.ctrl"),
                *("--flags", "not-need-init,startup-clear", "--seccomp", "action=none"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(60)
                try:
                    probe.connect(f"{self.socket}.ctrl")
                    probe.sendall(CMD_GET_CAPABILITY)
                    if probe.recv(64):  # it serves: to be there is not enough
                        return
                except OSError:
                    pass
                time.sleep(0.005)
        raise TimeoutError("swtpm does not start")

    def power_off(self) -> None:
        """Cut the power: kill -9, so that nothing is saved that a real TPM would not have saved."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def power_cycle(self) -> None:
        """Off and on again: PCRs start from zero."""
        self.power_off()
        self.power_on()

    def save(self, folder: Path) -> Path:
        """A copy of what it would keep without power."""
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(
            self.folder, folder, ignore=lambda _, names: [n for n in names if n.startswith("tpm.") or n == "tpm"]
        )

    def restore(self, saved: Path) -> None:
        """Off, back to the copy, and on: for tests that begin again and again from one state."""
        self.power_off()
        for path in self.folder.iterdir():
            path.unlink()
        shutil.copytree(saved, self.folder, dirs_exist_ok=True)
        self.power_on()

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process
        return self._process.pid

    def remove(self) -> None:
        """Off, and its state gone."""
        self.power_off()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Swtpm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def missing() -> str:
    """Why no test can have a TPM here; "" when it can."""
    if not shutil.which("swtpm"):
        return "swtpm is not installed (scripts/setup installs it)"
    try:
        import tpm2_pytss  # noqa: F401
    except (ImportError, NotImplementedError) as error:
        return f"tpm2-pytss cannot be imported: {error}"
    return ""
