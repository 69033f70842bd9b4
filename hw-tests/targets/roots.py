"""What the virtual machines are made of: a fresh Debian, its kernel, a small initramfs, a disk. Made once, in .cache.

Everything comes from the mirror that this machine's apt uses anyway. What has a stamp is whole and current: the stamp
holds what it was made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import TargetError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "hw"
RELEASES = ("bookworm", "trixie")
"""Debian's, oldest first: what the package is installed on here."""
ARCH = "amd64"
PACKAGES = ("systemd", "systemd-sysv")
"""Beyond a minimal Debian, so that it boots. All else the package brings by its Depends: what it lacks shows."""
BOARD_PACKAGES = (
    *("dbus", "kmod", "iproute2", "ca-certificates"),
    # what the tests themselves use: arecord, a hardware clock that wakes it
    *("alsa-utils", "util-linux-extra"),
)
"""What the virtual board has besides, as any image for a board."""
MODULES = (
    *("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "virtio_console", "virtio_net", "virtio_rng"),
    *("snd-hda-codec-generic", "snd-hda-intel", "snd-aloop", "snd-usb-audio"),
)
AT_BOOT = MODULES[:7]
HOSTNAME = "idiolect-hw"
NEEDED = "debootstrap systemd-container swtpm qemu-system-x86 qemu-system-arm qemu-user-static qemu-utils alsa-utils"
TIMES: dict[str, float] = {}
"""Seconds that each part took when it had to be made in this run; for the report."""


def shell(*command: str | Path, cwd: Path | None = None, timeout: float = 900) -> str:
    """Run a host command that must go well."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise TargetError(f"{command[0]} is missing; as root, run: apt-get install {NEEDED}") from error
    if done.returncode:
        raise TargetError(
            f"{' '.join(map(str, command))}: exit status {done.returncode}\n{(done.stderr + done.stdout)[-2000:]}"
        )
    return done.stdout


def mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    listing = shell("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    found = [line for line in listing.splitlines() if line.rstrip("/").endswith("/debian")]
    if not found:
        raise TargetError("none of this machine's apt sources is a Debian mirror")
    return found[0]


@contextmanager
def _part(name: str, made_from: object) -> Iterator[Path | None]:
    """The folder of one part to fill, None where it is current. Two runs at once take turns."""
    folder, stamp = CACHE / name, CACHE / f"{name}.stamp"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == repr(made_from):
            yield None
            return
        stamp.unlink(missing_ok=True)
        if any(f" {folder}/" in line for line in Path("/proc/mounts").read_text().splitlines()):
            raise TargetError(f"something is mounted below {folder}: unmount it first")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        began = time.monotonic()
        yield folder
        TIMES[name] = round(time.monotonic() - began, 1)
        stamp.write_text(repr(made_from))


def part(name: str, made_from: object, make: Callable[[Path], None]) -> Path:
    """A part, made where it is missing or was made from something else."""
    with _part(name, made_from) as folder:
        if folder:
            make(folder)
    return CACHE / name


def debian(release: str) -> Path:
    """A fresh Debian with systemd; nobody writes to it."""
    return part(f"root-{release}-{ARCH}", (release, PACKAGES), lambda folder: _debootstrap(folder, release))


def _debootstrap(folder: Path, release: str) -> None:
    if os.geteuid():
        raise TargetError("virtual machines need root on this one")
    include = f"--include={','.join(PACKAGES)}"
    # In mount points of its own: one that it leaves behind would be copied, or deleted, with the rest.
    alone = ("unshare", "-m", "--propagation", "private")
    shell(*alone, "debootstrap", "--variant=minbase", f"--arch={ARCH}", include, release, folder, mirror())
    for path in (folder / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    (folder / "etc/hostname").write_text(f"{HOSTNAME}\n")
    (folder / "etc/hosts").write_text(f"127.0.0.1 localhost {HOSTNAME}\n")
    (folder / "etc/machine-id").write_text("")
    # An image for a device keeps its journal, and lets nobody log in by password.
    (folder / "var/log/journal").mkdir(parents=True, exist_ok=True)


def download(*packages: str) -> Path:
    """Debian packages, unpacked."""

    def make(folder: Path) -> None:
        # apt's download user may not write here: root does it, which apt remarks on and does.
        shell("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=folder)
        for package in folder.glob("*.deb"):
            shell("dpkg-deb", "--extract", package, folder)
            package.unlink()

    return part("-".join(("files", *packages)), packages, make)


def kernel() -> tuple[Path, str]:
    """Debian's current kernel, unpacked, and its version."""
    depends = shell("apt-cache", "depends", "--important", f"linux-image-{ARCH}")
    image = next(word for word in depends.split() if word.startswith("linux-image-6"))
    version = image.removeprefix("linux-image-")
    folder = download(image)
    if not (folder / f"lib/modules/{version}/modules.dep").exists():
        shell("depmod", "-b", folder, version)
    return folder, version


def module_files(folder: Path, version: str, names: tuple[str, ...]) -> list[Path]:
    found: dict[Path, None] = {}
    for name in names:
        listed = shell("modprobe", "-d", folder, "-S", version, "-D", name)
        found |= {Path(line.split()[1]): None for line in listed.splitlines() if line.startswith("insmod")}
    return list(found)


INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "$module" 2>/dev/null; done < /modules
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
mount -t ext4 /dev/vda /root
mount --move /dev /root/dev; mount --move /proc /root/proc; mount --move /sys /root/sys
exec switch_root /root /sbin/init
"""


def initramfs() -> Path:
    """Busybox and what it takes to mount the disk; a few hundred milliseconds of the boot."""
    folder, version = kernel()

    def make(out: Path) -> None:
        tree = out / "tree"
        for name in ("bin", "proc", "sys", "dev", "root", "m"):
            (tree / name).mkdir(parents=True)
        busybox = download("busybox-static") / "bin/busybox"
        shutil.copy(busybox, tree / "bin/busybox")
        files = module_files(folder, version, AT_BOOT)
        for file in files:
            shutil.copy(file, tree / "m")
        (tree / "modules").write_text("".join(f"/m/{file.name}\n" for file in files))
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        pack = f"find . > ../names; {busybox} cpio -o -H newc < ../names > ../plain; gzip -1 < ../plain > ../initrd"
        shell("sh", "-ec", pack, cwd=tree)

    return part("initramfs", (version, INIT, AT_BOOT, 3), make) / "initrd"


def disk(extra: Path, package: Path, install: Callable[[Path], None]) -> Path:
    """The board's disk as it leaves the factory: ``install`` makes a tree of the fresh Debian with the package on it,
    then come the kernel's modules, and ``extra`` over all.
    """
    folder, version = kernel()
    files = sorted(path for path in extra.rglob("*") if path.is_file())
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    packages = (RELEASES[0], PACKAGES, BOARD_PACKAGES)
    made_from = (packages, version, MODULES, digest, [(str(f.relative_to(extra)), f.read_text()) for f in files])

    def make(out: Path) -> None:
        tree = out / "tree"
        tree.mkdir()
        install(tree)
        for file in module_files(folder, version, MODULES):
            inside = tree / file.relative_to(folder)
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, inside)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copy(folder / "lib/modules" / version / name, tree / "lib/modules" / version)
        shell("depmod", "-b", tree, version)
        shell("cp", "-a", f"{extra}/.", tree)
        shell("mke2fs", "-q", "-t", "ext4", "-d", tree, out / "disk.img", "4G")
        shutil.rmtree(tree)

    return part("disk", made_from, make) / "disk.img"
