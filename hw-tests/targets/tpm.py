"""The machine's TPM: a real one, one in software that a virtual machine takes for real, or one behind a socket."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .base import TargetError, Unavailable


class Chip:
    """A TPM that nobody here can switch off; ``tcti`` is what the product calls it."""

    tcti = "device:/dev/tpmrm0"

    def take(self) -> None:
        """Take it away while the machine runs."""
        raise Unavailable("a TPM that is soldered in stays where it is")

    def give(self) -> None:
        """Put it back."""


class NoChip(Chip):
    """A machine without one."""


class AbsentTpm(NoChip):
    """The place of a TPM in a virtual machine that has none: its power is switched all the same."""

    control = Path("/dev/null")

    def on(self) -> None:
        """Nothing to power."""

    def off(self, *, orderly: bool = False) -> None:
        """Nothing to cut."""


class SoftwareTpm(Chip):
    """swtpm in ``folder``, where its socket is called ``tpm``.

    ``for_qemu``: QEMU drives it over a control socket, as firmware and kernel drive a chip. Else a client talks to it
    over a Unix socket that the machine sees below ``inside``.
    """

    def __init__(self, folder: Path, *, inside: str = "", for_qemu: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._for_qemu = folder, for_qemu
        self.control = folder / "tpm.ctrl"
        self.tcti = Chip.tcti if for_qemu else f"swtpm:path={inside}/tpm"
        self._process: subprocess.Popen[bytes] | None = None
        state = f"{folder}/state"
        Path(state).mkdir(exist_ok=True)
        self._command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--seccomp", "action=none"]
        self._command += ["--ctrl", f"type=unixio,path={self.control},mode=0666"]
        if not for_qemu:
            self._command += ["--server", f"type=unixio,path={folder}/tpm,mode=0666"]
            self._command += ["--flags", "not-need-init,startup-clear"]

    def on(self) -> None:
        """Power it; a chip for a client gets TPM2_Startup(CLEAR) at once."""
        if not shutil.which("swtpm"):
            raise Unavailable("swtpm is not installed (scripts/setup installs it)")
        for name in ("tpm", "tpm.ctrl"):
            (self._folder / name).unlink(missing_ok=True)
        command = ["setpriv", "--pdeathsig", "KILL", *self._command]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        ends = time.monotonic() + 5
        waits_for = self.control if self._for_qemu else self._folder / "tpm"
        while not (waits_for.exists() and self.control.exists()):
            if time.monotonic() > ends or self._process.poll() is not None:
                raise TargetError("swtpm does not start")
            time.sleep(0.01)

    def take(self) -> None:
        if self._for_qemu:
            super().take()
        self.off()

    def give(self) -> None:
        self.on()

    def off(self, *, orderly: bool = False) -> None:
        """Cut its power, or let it end as at an orderly restart."""
        if self._process:
            self._process.send_signal(signal.SIGTERM if orderly else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
            self._process.kill()
            self._process.wait()
            self._process = None

    def cycle(self, *, orderly: bool = False) -> None:
        """Off and on: PCRs start from zero."""
        self.off(orderly=orderly)
        self.on()
