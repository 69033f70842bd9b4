"""A container: real systemd as PID 1 on a fresh Debian, seen through an overlay in memory. Boots in half a second.

Commands enter its namespaces through its PID 1, which needs neither a bus nor a network in there. It has no network at
all; only a command that says ``network`` runs in this machine's own network namespace, to reach the package mirror.
The microphone is the plugin of the tests, the TPM one in software, both in a folder that is bound in at /hw.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import roots
from .base import Done, Target, TargetError
from .neighbour import Neighbour, connect
from .sound import WavRoom
from .tpm import SoftwareTpm

INSIDE = "/hw"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}
MOUNT = """\
set -e
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
echo mounted
exec cat
"""
JOIN = 'mkdir -p "$1" && echo $$ > "$1/cgroup.procs" || exit; shift; exec "$@"'
"""Into a control group of its own: two containers in one would take each other for what is to be cleaned up."""
DROP_IN = f"""\
# The simulated microphone and the TPM in software lie outside of what the unit may see.
[Service]
Environment=ALSA_CONFIG_PATH={INSIDE}/mic/room.conf
BindPaths={INSIDE}
"""
LACKS = {
    "cgroup limits": "a container's memory and task limits are not enforced here: its cgroups have no controllers",
    "own clock": "a container shares this machine's clock",
    "kernel sound": "a container has no sound card of its own",
    "kernel tpm": "a container's TPM is a socket, no device",
    "suspend": "a container cannot sleep",
    "own network": "the container has no network to leave by",
    "sensors": "a container's sensors are this machine's",
}


class Local(Target):
    """One container, running."""

    def __init__(self, *, label: str = "local", release: str = roots.RELEASES[0]) -> None:
        self.name = label
        lower = roots.debian(release)
        self._folder = Path(tempfile.mkdtemp(prefix="idiolect-hw-"))
        self._folder.chmod(0o755)
        self._leader = 0
        self._group = Path(f"/sys/fs/cgroup/hw-{os.getpid()}-{id(self):x}")
        self._nspawn: subprocess.Popen[bytes] | None = None
        shared = self._folder / "hw"
        shared.mkdir(mode=0o755)
        self.room: WavRoom = WavRoom(shared / "mic", inside=f"{INSIDE}/mic")
        self.chip: SoftwareTpm = SoftwareTpm(shared / "tpm", inside=f"{INSIDE}/tpm")
        self.chip.on()
        (self._folder / "overlay").mkdir()
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "-m", "--propagation", "private"),
                *("sh", "-c", MOUNT, "mount", self._folder / "overlay", lower),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"mounted\n":
            raise TargetError("the container's root cannot be mounted: this needs root, and overlayfs")
        self._boot()
        self.put(Path("/etc/resolv.conf").read_bytes(), "/etc/resolv.conf")
        self.put(DROP_IN, "/etc/systemd/system/idiolectd.service.d/90-hw.conf")
        self.facts = self._observe(has_tpm=True, has_sound=True, lacks=LACKS)
        self.facts.notes["boot_s"] = f"{self.boot_seconds:.2f}"

    def _boot(self) -> None:
        began = time.monotonic()
        command = [
            *("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "sh", "-c", JOIN, "join", self._group),
            *("setpriv", "--pdeathsig", "KILL"),
            *("systemd-nspawn", "-q", "-D", self._folder / "overlay/root", f"--machine={self._group.name}"),
            *("--register=no", "--keep-unit", "--link-journal=no", "--console=pipe", "--private-network"),
            # The probes must meet the unit's filter and not the container's.
            "--system-call-filter=@keyring @memlock bpf io_uring_setup io_uring_enter io_uring_register "
            "perf_event_open landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret pidfd_getfd",
            *(f"--bind={self._folder}/hw:{INSIDE}", f"--hostname={roots.HOSTNAME}", "--boot"),
        ]
        with (self._folder / "console.log").open("ab") as log:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._find_leader()
        self._await_boot()
        self.boot_seconds = time.monotonic() - began

    def _find_leader(self) -> None:
        """PID 1 of the container: the one child of systemd-nspawn."""
        assert self._nspawn
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            if self._nspawn.poll() is not None:
                break
            for pid in children.read_text().split():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                        self._leader = int(pid)
                        return
            time.sleep(0.01)
        raise TargetError(f"the container does not start:\n{self.console()}")

    @property
    def leader(self) -> int:
        """Its PID 1, by this machine's count."""
        return self._leader

    def console(self) -> str:
        """The last of what the container wrote on its console."""
        return (self._folder / "console.log").read_text(errors="replace")[-3000:]

    def _await_boot(self) -> None:
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            done = self.run("systemctl is-system-running", timeout=5)
            if done.out.strip() in ("running", "degraded"):
                return
            time.sleep(0.05)
        raise TargetError(f"the container does not come up:\n{self.console()}")

    def run(self, command: str, *, timeout: float = 30, stdin: bytes = b"", network: bool = False) -> Done:
        spaces = ["-m", "-u", "-i", "-p", "-C"] + ([] if network else ["-n"])
        words = ["nsenter", "-t", str(self._leader), *spaces, "timeout", "-k", "2", str(timeout), "sh", "-c", command]
        began = time.monotonic()
        try:
            done = subprocess.run(
                words, input=stdin, capture_output=True, env=ENVIRONMENT, timeout=timeout + 10, check=False
            )
        except subprocess.TimeoutExpired:
            return Done(command, 124, "", "stopped at its time limit", time.monotonic() - began)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return Done(command, done.returncode, out, err, time.monotonic() - began)

    def reboot(self) -> None:
        assert self._nspawn
        self.run("systemctl --no-block reboot")
        self._nspawn.wait(30)  # it ends, too, and leaves the next start to who started it
        self.chip.cycle(orderly=True)
        self._boot()

    def power_cut(self) -> None:
        assert self._nspawn
        os.kill(self._leader, signal.SIGKILL)
        self.chip.off()
        self._nspawn.wait(10)
        self.chip.on()
        self._boot()

    def copy_root(self, tree: Path) -> None:
        """Shut it down and copy all of its files."""
        assert self._nspawn
        self.run("systemctl --no-block poweroff")
        self._nspawn.wait(30)
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        roots.shell(*inside, "cp", "-ax", f"{self._folder}/overlay/root/.", tree)

    def neighbour(self) -> Neighbour:
        return Neighbour(self._leader)

    def connect(self, port: int) -> socket.socket:
        return connect(self._leader, "127.0.0.1", port)

    def unplug(self) -> None:
        self.room.fault("gone")

    def plug(self) -> None:
        self.room.fault("gone", on=False)

    def close(self) -> None:
        if self._nspawn and self._nspawn.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(5)
            self._nspawn.kill()
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        command = [*inside, "find", self._group, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]
        subprocess.run(command, capture_output=True, check=False)
        self._holder.kill()
        self._holder.wait()
        self.chip.off()
        shutil.rmtree(self._folder, ignore_errors=True)
