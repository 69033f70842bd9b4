"""A virtual board: QEMU with Debian's own kernel, a TPM, a sound card, a disk that survives a power cut, a network.

The TPM is swtpm behind the CRB interface, which firmware and kernel drive as any chip; the sound card is Intel HDA and
records from the simulated microphone. With KVM it boots in seconds, else in a minute. Commands come in over
virtio-serial.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import roots
from .base import Done, Target, TargetError, Unavailable
from .local import Local
from .sound import WavRoom
from .tpm import AbsentTpm, SoftwareTpm
from .wire import Agent, Monitor

GUEST = Path(__file__).with_name("guest")
LACKS = {"sensors": "this virtual board has no thermometer and no battery"}
KVM = ("-accel", "kvm", "-cpu", "host,arch-capabilities=off")
"""Without the one register that nested virtualization often refuses to set."""
TCG = ("-accel", "tcg,thread=multi", "-cpu", "max,avx=off,avx2=off,fma=off,f16c=off")
"""Without AVX: QEMU 7.2 gets its gather instructions wrong, and numpy dies of it."""
SOUND_PCI = 'for d in /sys/bus/pci/devices/*; do [ "$(cat $d/class)" = 0x040300 ] && echo $d; done; true'


def kvm(kernel: Path, initrd: Path) -> bool:
    """Whether this machine's processor runs the board's code itself.

    Tried once per machine, with a boot that ends in a panic: a nested KVM may be there and emulate every instruction.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False

    def attempt(folder: Path) -> None:
        command = ["qemu-system-x86_64", *KVM, "-machine", "q35", "-m", "512", "-nodefaults", "-display", "none"]
        command += ["-kernel", str(kernel), "-initrd", str(initrd), "-no-reboot", "-append", "panic=-1 rdinit=/none"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=15, check=False)
            verdict = "yes" if done.returncode == 0 else done.stderr.decode(errors="replace")
        except (OSError, subprocess.TimeoutExpired) as error:
            verdict = str(error)
        (folder / "verdict").write_text(verdict)

    machine = Path("/proc/sys/kernel/random/boot_id").read_text()
    return (roots.part("kvm", (machine, str(kernel)), attempt) / "verdict").read_text() == "yes"


def factory_files(folder: Path) -> Path:
    """What the board's disk has beyond Debian: the agent, and the network."""
    units = folder / "etc/systemd/system"
    for unit, target in (("hw-agent.service", "sysinit.target"), ("hw-network.service", "multi-user.target")):
        wants = units / f"{target}.wants"
        wants.mkdir(parents=True)
        shutil.copy(GUEST / unit, units)
        (wants / unit).symlink_to(f"../{unit}")
    library = folder / "usr/local/lib"
    library.mkdir(parents=True)
    shutil.copy(GUEST / "agent.py", library / "hw-agent.py")
    (folder / "etc/fstab").write_text("/dev/vda / ext4 defaults,errors=remount-ro 0 1\n")
    (folder / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    modules = folder / "etc/modules-load.d"
    modules.mkdir(parents=True)
    (modules / "sound.conf").write_text("snd-hda-codec-generic\nsnd-hda-intel\n")
    return folder


def install_into(tree: Path, package: Path) -> None:
    """A root with the package, made in a container: what an integrator's image is. Emulated, apt takes minutes."""
    container = Local(label="image")
    try:
        container.put(package, "/root/idiolect.deb")
        container.run(
            "apt-get update -q && apt-get install -y -q /root/idiolect.deb", timeout=300, network=True
        ).checked()
        tools = " ".join(roots.BOARD_PACKAGES)  # after the package, which has to bring all that it needs
        container.run(f"apt-get install -y -q --no-install-recommends {tools}", timeout=300, network=True).checked()
        # What a first start made belongs to the container; what only this kind of machine needs, too.
        container.check(
            "systemctl stop idiolectd.socket idiolectd.service; rm -rf /var/lib/idiolect/* /root/idiolect.deb"
        )
        container.check(
            "rm -rf /etc/systemd/system/idiolectd.service.d /var/log/journal/* /var/cache/apt/archives/*.deb"
        )
        container.check(
            "systemctl mask e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer; : > /etc/machine-id"
        )
        container.copy_root(tree)
    finally:
        container.close()


class Board(Target):
    """One virtual board, running. ``forward`` is a port of this machine that leads to the board's SSH."""

    qemu, needed = "qemu-system-x86_64", "qemu-system-x86 qemu-utils"
    serial = "ttyS0"
    lacks: Mapping[str, str] = LACKS
    boot_limit_s = 180
    """Seconds that an emulated board may take to come up."""

    def __init__(self, package: Path, *, forward: int = 0, memory_mib: int = 1024) -> None:
        self.name = "board"
        self._forward, self._memory = forward, memory_mib
        self._folder = Path(tempfile.mkdtemp(prefix="idiolect-hw-"))
        self._qemu: subprocess.Popen[bytes] | None = None
        self._agent: Agent | None = None
        self._kernel, self._initrd, base = self._parts(package)
        self._disk = self._folder / "disk.qcow2"
        roots.shell("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, self._disk)
        self.room: WavRoom = WavRoom(self._folder / "mic")
        self.room.device = "plughw:CARD=Intel,DEV=0"
        self._choose(self._folder)
        self._power_on()
        self.facts = self._observe(lacks=dict(self.lacks))
        self.facts.notes |= {"boot_s": f"{self.boot_seconds:.1f}", "accelerator": "KVM" if self._accelerated else "TCG"}
        self._note(package)

    def _parts(self, package: Path) -> tuple[Path, Path, Path]:
        """The kernel, the initramfs, and the disk as it leaves the factory: with the package on it."""
        initrd = roots.initramfs()
        files, version = roots.kernel()
        extra = factory_files(self._folder / "factory")
        return files / f"boot/vmlinuz-{version}", initrd, roots.disk(extra, package, lambda t: install_into(t, package))

    def _choose(self, folder: Path) -> None:
        """The TPM, and how the processor is had."""
        self.chip: SoftwareTpm | AbsentTpm = SoftwareTpm(folder / "tpm", for_qemu=True)
        self._accelerated = kvm(self._kernel, self._initrd)
        self.patience = 1.0 if self._accelerated else 4.0

    def _note(self, package: Path) -> None:
        """What else the report should say of it."""
        self.facts.notes["package"] = package.name

    def _command(self) -> Iterator[str]:
        here = self._folder
        yield from ("setpriv", "--pdeathsig", "KILL", self.qemu, *self._machine())
        yield from ("-m", str(self._memory), "-nodefaults", "-no-user-config", "-display", "none")
        yield from ("-serial", f"file:{here}/console.log")
        yield from ("-kernel", str(self._kernel), "-initrd", str(self._initrd))
        yield from ("-append", f"console={self.serial} quiet net.ifnames=0 mitigations=off rw root=/dev/vda panic=5")
        yield from ("-drive", f"file={self._disk},if=virtio,format=qcow2,cache=writeback")
        yield from ("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=idiolect.hw")
        yield from ("-chardev", f"socket,id=agent,path={here}/agent,server=on,wait=off")
        yield from ("-qmp", f"unix:{here}/qmp,server=on,wait=off", "-device", "virtio-rng-pci")
        yield from ("-device", "ich9-intel-hda,id=hda", "-device", "hda-micro,audiodev=a")
        # One format from the plugin to QEMU: its mixer then has nothing to resample.
        form = "in.fixed-settings=on,in.frequency=16000,in.channels=1,in.format=s16"
        yield from (
            "-audiodev",
            f"alsa,id=a,in.dev={self.room.mic.device},out.dev=null,in.try-poll=off,timer-period=5000,{form}",
        )
        forward = f",hostfwd=tcp:127.0.0.1:{self._forward}-:22" if self._forward else ""
        yield from ("-netdev", f"user,id=n{forward}", "-device", "virtio-net-pci,netdev=n,romfile=")

    def _machine(self) -> Iterator[str]:
        """The processor, and what only this kind of machine has."""
        yield from ("-machine", "q35", "-smp", "2", "-global", "ICH9-LPC.disable_s3=0")
        yield from KVM if self._accelerated else TCG
        yield from ("-chardev", f"socket,id=tpm,path={self.chip.control}", "-tpmdev", "emulator,id=t,chardev=tpm")
        yield from ("-device", "tpm-crb,tpmdev=t")

    def _power_on(self) -> None:
        began = time.monotonic()
        if not shutil.which(self.qemu):
            raise TargetError(f"QEMU is not installed; as root, run: apt-get install {self.needed}")
        self.chip.on()
        with (self._folder / "qemu.log").open("ab") as log:
            environment = os.environ | self.room.mic.environment
            self._qemu = subprocess.Popen(
                list(self._command()), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        for name in ("agent", "qmp"):
            self._await_socket(self._folder / name)
        self._agent, self._monitor = Agent(self._folder / "agent"), Monitor(self._folder / "qmp")
        self._await_boot()
        self.boot_seconds = time.monotonic() - began

    def _await_socket(self, path: Path) -> None:
        assert self._qemu
        ends = time.monotonic() + 20
        while not path.exists():
            if self._qemu.poll() is not None or time.monotonic() > ends:
                raise TargetError(f"QEMU does not start:\n{(self._folder / 'qemu.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _await_boot(self, last: str = "") -> None:
        """Until systemd has come up, in another boot than ``last``."""
        assert self._agent
        question = "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running"
        ends = time.monotonic() + (60 if self._accelerated else self.boot_limit_s)
        while time.monotonic() < ends:
            with contextlib.suppress(TimeoutError):
                words = self._agent.run(question, 5).out.split()
                if len(words) == 2 and words[0] != last and words[1] in ("running", "degraded"):
                    return
            time.sleep(0.1)
        raise TargetError(f"the board does not come up:\n{self.console()}")

    def console(self) -> str:
        """The last of what the board wrote on its serial line."""
        path = self._folder / "console.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def run(self, command: str, *, timeout: float = 30, stdin: bytes = b"", network: bool = False) -> Done:
        assert self._agent
        try:
            return self._agent.run(command, timeout * self.patience, stdin)
        except TimeoutError:
            return Done(command, 124, "", f"the board does not answer\n{self.console()[-500:]}", timeout)

    def reboot(self) -> None:
        last, began = self.check("cat /proc/sys/kernel/random/boot_id"), time.monotonic()
        self.run("systemctl --no-block reboot")
        self._await_boot(last)
        self.boot_seconds = time.monotonic() - began

    def power_cut(self) -> None:
        self._off()
        self._power_on()

    def _off(self) -> None:
        for end in (self._agent, getattr(self, "_monitor", None)):
            if end:
                end.close()
        if self._qemu:
            self._qemu.kill()
            self._qemu.wait()
        self.chip.off()
        for name in ("agent", "qmp"):
            (self._folder / name).unlink(missing_ok=True)

    def unplug(self) -> None:
        found = self.check(SOUND_PCI)
        if found:
            self.check(f"echo 1 > {found}/remove", timeout=20)

    def plug(self) -> None:
        self.check("echo 1 > /sys/bus/pci/rescan", timeout=20)

    def suspend(self) -> float:
        """To RAM, for two seconds."""
        if "mem" not in self.check("cat /sys/power/state").split():
            raise Unavailable("the board's kernel offers no suspend to RAM")
        before = self.check("cat /sys/power/suspend_stats/success")
        self.run("systemctl --no-block suspend")
        self._monitor.wait_for("SUSPEND", 30)
        time.sleep(2)
        self._monitor.execute("system_wakeup")
        self.wait(lambda: self.run("true", timeout=2).rc == 0, 30, "the board wakes up")
        self.wait(lambda: self.check("cat /sys/power/suspend_stats/success") > before, 30, "the kernel has slept")
        return 2.0

    def close(self) -> None:
        self._off()
        shutil.rmtree(self._folder, ignore_errors=True)
