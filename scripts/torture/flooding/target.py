"""The daemon that is flooded, and what is seen of it from outside: memory, processor time, and how it ends."""

from __future__ import annotations

import grp
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from torture.flooding.floods import Flood
from torture.flooding.pouring import Poured, Pourer, become
from torture.loading.running import Daemon, Failed

STRANGER = 65_534
"""The uid of who floods, where the harness is root."""
ROLES = {"observer": "games", "user": "users", "": "nogroup"}
"""Groups that every Debian has, and that own nothing here."""
SETTLE_S = 2.0
STOP_S = 30.0


class NoBoard:
    """No limit on processor time or memory: what counts here is what the daemon takes. A ``board.Board``."""

    how = "the whole machine"

    def join(self) -> None:
        """Nothing is joined."""

    def follow(self, pid: int) -> None:
        """Nobody is followed."""

    def limit(self, share: float, mib: int | None = None) -> None:
        """There is none."""

    def throttled(self) -> tuple[int, float]:
        """Never."""
        return 0, 0.0

    def killed(self) -> int:
        """Nobody counts."""
        return -1

    def close(self) -> None:
        """Nothing is open."""


class Target(Daemon):
    """An idiolectd whose sockets a stranger can open: ``rest_mib`` is its memory when nobody has asked anything."""

    def __init__(self, folder: Path, max_clients: int = 32) -> None:
        house = SimpleNamespace(state=folder / "state", people=0)
        wyoming = {
            "enabled": True, "socket": str(folder / "wyoming.sock"), "microphone": True, "max_clients": max_clients,
        }  # fmt: skip
        control = {
            "socket": str(folder / "control.sock"),
            "roles": {role: [group] for role, group in ROLES.items() if role} | {"admin": []},
        }
        super().__init__(folder, house, NoBoard(), 0.2, wyoming=wyoming, control=control)  # type: ignore[arg-type]
        self.rest_mib = 0.0

    def path(self, name: str) -> Path:
        """The socket of that section."""
        return self.folder / f"{name}.sock"

    def begin(self, patience_s: float = 60.0) -> None:
        """Start it, and wait until it hears and serves. ``Failed``."""
        self.start()
        ends = time.monotonic() + patience_s
        while (self.status(1.0) or {}).get("first_block_ms") is None:
            if self.process.poll() is not None or time.monotonic() > ends:
                raise Failed(f"idiolectd does not serve: {self.log()}")
            time.sleep(0.1)
        for part in (self.folder.parent, self.folder):
            part.chmod(0o755)
        for socket in self.folder.glob("*.sock"):
            socket.chmod(0o666)  # who may do what is decided behind them
        time.sleep(SETTLE_S)
        self._proc = Path(f"/proc/{self.process.pid}")
        self.rest_mib = self._memory("VmRSS")
        (self._proc / "clear_refs").write_text("5")  # the most that it ever had begins anew

    def peak_mib(self) -> float:
        """The most memory that it has had since it began to serve."""
        return self._memory("VmHWM")

    def cpu_s(self) -> float:
        """What it has computed."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # clock_getcpuclockid(3)

    def _memory(self, field: str) -> float:
        found = re.search(rf"^{field}:\s+(\d+) kB", (self._proc / "status").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else float("nan")

    def end(self) -> dict[str, float | int | None]:
        """SIGTERM: its exit code, and the seconds and processor seconds until then; None where it had to be killed."""
        before, began, cpu = self.cpu_s(), time.monotonic(), 0.0
        self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None and time.monotonic() < began + STOP_S:
            if (now := _cpu_of(self.process.pid)) is not None:
                cpu = now - before
            time.sleep(0.002)
        took = time.monotonic() - began
        if self.process.poll() is None:
            self.stop()
            return {"exit_s": None, "exit_cpu_s": round(cpu, 3), "exit_code": None}
        return {"exit_s": round(took, 3), "exit_cpu_s": round(cpu, 3), "exit_code": self.process.returncode}


def _cpu_of(pid: int) -> float | None:
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


@contextmanager
def flooded(it: Target, flood: Flood) -> Iterator[Poured]:
    """A process that floods, for so long."""
    context = multiprocessing.get_context("fork")
    poured = Poured(context.Value("q", 0), context.Value("q", 0))
    path, gid = it.path(flood.socket), grp.getgrnam(ROLES[flood.role]).gr_gid

    def run() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.nice(5)  # it is who is flooded that is measured, not who gets the machine
        streams = flood.streams()
        become(STRANGER, gid)
        Pourer(path, streams, poured, flood.per_s).run()

    process = context.Process(target=run, daemon=True)
    process.start()
    try:
        yield poured
    finally:
        process.kill()
        process.join()
