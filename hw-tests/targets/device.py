"""A machine of yours, over ssh: --target device:HOST, where HOST is what `ssh HOST` takes (user@name, an alias).

It logs in without asking (BatchMode) as root, or as somebody who may `sudo -n`. One connection serves the whole run.
What would harm what the device keeps is marked `destructive` and skipped unless --destructive is given.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .base import Done, Target, TargetError, Unavailable
from .sound import Loudspeaker, Room, SilentRoom
from .tpm import Chip, NoChip

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PREFIX = f"export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH={PATH}; "
CARD = "sed -n 's/^.*\\[\\(.*[^ ]\\) *\\].*$/\\1/p' /proc/asound/cards | head -1"
USB = "for d in /sys/class/sound/card*/device/..; do [ -e $d/authorized ] && echo $(readlink -f $d); done; true"


class Device(Target):
    """A real device. ``power`` is a command here that cuts its power and gives it back."""

    def __init__(self, host: str, loudspeaker: str = "", power: str = "", *, options: tuple[str, ...] = ()) -> None:
        self.name = f"device:{host}"
        self._power = power
        self._folder = Path(tempfile.mkdtemp(prefix="idiolect-hw-"))
        self._ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ControlMaster=auto"]
        self._ssh += ["-o", f"ControlPath={self._folder}/%C", "-o", "ControlPersist=60", "-o", "ServerAliveInterval=5"]
        self._ssh += [*options, *host.removeprefix("ssh://").split(), "--"]
        self._sudo = ""
        self._unplugged = ""
        if self.check("id -u") != "0":
            self._sudo = "sudo -n "
            if self.check("id -u") != "0":
                raise TargetError(f"{host}: not root, and sudo -n does not make it")
        self.room: Room = SilentRoom("default")
        self.facts = self._observe()
        self.chip: Chip = Chip() if self.facts.has_tpm else NoChip()
        card = self.check(CARD) if self.facts.has_sound else ""
        device = f"plughw:CARD={card},DEV=0" if card else "default"
        self.room = Loudspeaker(device, loudspeaker) if loudspeaker else SilentRoom(device)
        self.facts.lacks |= self._lacking()

    def _lacking(self) -> dict[str, str]:
        lacks = {"fresh": "this device is not fresh"}
        if not self.facts.has_sound:
            lacks["kernel sound"] = lacks["microphone"] = "this device has no sound card"
        if not self.facts.has_tpm:
            lacks["kernel tpm"] = "this device has no TPM"
        if not self.facts.enforces_cgroups:
            lacks["cgroup limits"] = "this device's kernel has no memory and pids controllers (cgroup_enable=memory?)"
        if "mem" not in self.run("cat /sys/power/state").out.split() or not self.run("command -v rtcwake").out:
            lacks["suspend"] = "this device cannot sleep, or has no clock to wake it"
        if self.run("ls /sys/class/thermal/thermal_zone0").rc:
            lacks["sensors"] = "this device shows no thermometer"
        if self.run("systemd-detect-virt --container --quiet").rc == 0:
            lacks["own clock"] = "a container shares its host's clock"
        return lacks

    def run(self, command: str, *, timeout: float = 30, stdin: bytes = b"", network: bool = False) -> Done:
        inner = f"{PREFIX}{command}"
        words = [*self._ssh, f"{self._sudo}timeout -k 2 {timeout} sh -c {shlex.quote(inner)}"]
        began = time.monotonic()
        try:
            done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout + 20, check=False)
        except subprocess.TimeoutExpired:
            return Done(command, 124, "", "stopped at its time limit", time.monotonic() - began)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return Done(command, done.returncode, out, err, time.monotonic() - began)

    def _boot_id(self) -> str:
        done = self.run("cat /proc/sys/kernel/random/boot_id", timeout=10)
        return done.out.strip() if done.rc == 0 else ""

    def _await_boot(self, last: str) -> None:
        ends = time.monotonic() + 300
        while time.monotonic() < ends:
            self._hang_up()
            now = self._boot_id()
            if now and now != last:
                self.run("systemctl is-system-running --wait", timeout=120)
                return
            time.sleep(2)
        raise TargetError("the device does not come back")

    def _hang_up(self) -> None:
        command = [*self._ssh[:-1], "-O", "exit"]
        host = command.pop(-3)  # ssh wants the control command before the host
        subprocess.run([*command, host], capture_output=True, check=False)

    def reboot(self) -> None:
        last = self._boot_id()
        self.run("systemctl --no-block reboot", timeout=10)
        self._await_boot(last)

    def power_cut(self) -> None:
        if not self._power:
            raise Unavailable("nobody here can cut its power: give --power, such as the command of a smart plug")
        last = self._boot_id()
        subprocess.run(["sh", "-c", self._power], check=True)
        self._await_boot(last)

    def unplug(self) -> None:
        """A microphone on USB can be taken from the bus by the kernel."""
        found = self.check(USB).split()
        if not found:
            raise Unavailable("no USB microphone: nobody here to pull the plug")
        self._unplugged = found[0]
        self.check(f"echo 0 > {self._unplugged}/authorized")

    def plug(self) -> None:
        if self._unplugged:
            self.check(f"echo 1 > {self._unplugged}/authorized")

    def suspend(self) -> float:
        self.need("suspend")
        began = time.monotonic()
        self.run("rtcwake -m mem -s 5", timeout=60)
        self.wait(self._boot_id, 60, "the device wakes up")
        return time.monotonic() - began

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            self._hang_up()
        shutil.rmtree(self._folder, ignore_errors=True)
