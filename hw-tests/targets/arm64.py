"""What the virtual arm64 board is made of: a fresh Debian for arm64, its kernel, an initramfs. Made once, in .cache.

The mirror that this machine's apt uses has the other architecture, too: apt chooses, checks and downloads in folders of
its own, so nothing of this machine changes. debootstrap unpacks here. What it then has to run runs in an emulator for
programs, in namespaces of its own, where this machine has one; else on the virtual machine itself.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from pathlib import Path

from . import roots
from .base import TargetError

ARCH = "arm64"
QEMU = "qemu-system-aarch64"
RELEASES = {"3.11": "bookworm", "3.13": "trixie"}
"""The Debian releases of which there is a virtual board, by the Python that a package asks for."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "ca-certificates"),
    # what the tests themselves use: the agent, arecord, a hardware clock
    *("python3", "alsa-utils", "util-linux-extra"),
)
"""Beyond a minimal Debian: what any image for a board has, too."""
MACHINE = ("-machine", "virt", "-cpu", "cortex-a72", "-accel", "tcg,thread=multi", "-smp", "2")
"""A processor like a Raspberry Pi 4's: what would need a newer one than that stops with an illegal instruction."""
INIT = roots.INIT.replace("exec switch_root /root /sbin/init", 'exec switch_root /root "${start:-/sbin/init}"')
CONFIGURE = """\
#!/bin/sh
# What debootstrap has to run on a machine, or in an emulator, of the processor that the Debian is for.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
if ! /debootstrap/debootstrap --second-stage > /root/second-stage.log 2>&1; then
    tail -n 30 /root/second-stage.log /debootstrap/debootstrap.log
    exit 1
fi
rm -rf /var/cache/apt/archives/*.deb /root/configure /root/start /root/second-stage.log
systemctl mask e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer
: > /etc/machine-id
"""
WELL = "DEBIAN IS CONFIGURED"
START = f"""\
#!/bin/sh
# Runs in the place of init, once.
if sh /root/configure; then
    sync
    mount -o remount,ro /
    echo {WELL}
fi > /dev/console 2>&1
sync
echo o > /proc/sysrq-trigger
sleep 60
"""
EMULATOR = "/usr/bin/qemu-aarch64-static"
ELF = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
NO_EMULATION = 100
ENTER = f"""\
# Foreign programs run here and nowhere else: a kernel from 6.7 on has a table of them in each user namespace.
echo ready
read -r mapped
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit {NO_EMULATION}
printf '%s' ':aarch64:M::{ELF}:{MASK}:{EMULATOR}:F' > /proc/sys/fs/binfmt_misc/register || exit {NO_EMULATION}
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount --rbind /sys "$1/sys" || exit {NO_EMULATION}
# Nobody may make devices in a namespace; said to be in a container, debootstrap does not try.
exec env container=lxc chroot "$1" /bin/sh /root/configure
"""
SECOND_STAGE_S = 3600


def release_of(package: Path) -> str:
    """The Debian release that a package is for, by the Python that it asks for."""
    depends = roots.shell("dpkg-deb", "--field", package, "Depends")
    found = re.search(r"python3 \(>= (3\.\d+)", depends)
    if not found or found[1] not in RELEASES:
        wanted = f"Python {found[1]}" if found else "no Python of a Debian release"
        raise TargetError(f"{package.name} asks for {wanted}; there are virtual boards for {', '.join(RELEASES)}")
    return RELEASES[found[1]]


def _apt(folder: Path, suite: str) -> list[str]:
    """Options that let apt work in ``folder`` alone, for the other architecture."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    source = f"deb [arch={ARCH} signed-by={KEYRING}] {roots.mirror()} {suite} main\n"
    (folder / "sources.list").write_text(source)
    options = {
        "APT::Architecture": ARCH,
        "APT::Architectures": ARCH,
        "APT::Sandbox::User": "root",
        "Dir::State::status": folder / "status",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _files(suite: str) -> Path:
    """Debian's kernel and its busybox, unpacked; ``version`` is a file with the kernel's."""

    def make(folder: Path) -> None:
        options = _apt(folder / "apt", suite)
        roots.shell("apt-get", "-qq", *options, "update")
        depends = roots.shell("apt-cache", *options, "depends", "--important", f"linux-image-{ARCH}")
        image = next(word for word in depends.split() if word.startswith("linux-image-6"))
        roots.shell("apt-get", "-qq", *options, "download", image, "busybox-static", cwd=folder)
        (folder / "usr/lib").mkdir(parents=True)
        (folder / "lib").symlink_to("usr/lib")
        for deb in folder.glob("*.deb"):
            archive = folder / "archive.tar"
            with archive.open("wb") as file:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=file, check=True)
            # Into a merged /usr, whichever way the release names its files.
            roots.shell("tar", "--keep-directory-symlink", "-xf", archive, cwd=folder)
            archive.unlink()
            deb.unlink()
        shutil.rmtree(folder / "apt")
        version = image.removeprefix("linux-image-")
        roots.shell("depmod", "-b", folder, version)
        (folder / "version").write_text(version)

    return roots.part(f"files-{ARCH}-{suite}", (suite, 1), make)


def kernel(suite: str) -> tuple[Path, str]:
    """Debian's kernel for arm64, unpacked, and its version."""
    folder = _files(suite)
    return folder, (folder / "version").read_text()


def initramfs(suite: str) -> Path:
    """Busybox and what it takes to mount the disk."""
    folder, version = kernel(suite)

    def make(out: Path) -> None:
        tree = out / "tree"
        for name in ("bin", "proc", "sys", "dev", "root", "m"):
            (tree / name).mkdir(parents=True)
        # Merged or not: where the package has put it.
        shutil.copy(next(folder.glob("**/bin/busybox")), tree / "bin/busybox")
        names = []
        for file in roots.module_files(folder, version, roots.AT_BOOT):
            plain = tree / "m" / file.name.removesuffix(".xz")
            data = file.read_bytes()
            plain.write_bytes(lzma.decompress(data) if file.suffix == ".xz" else data)
            names.append(f"/m/{plain.name}\n")
        (tree / "modules").write_text("".join(names))
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        busybox = roots.download("busybox-static") / "bin/busybox"
        pack = f"find . > ../names; {busybox} cpio -o -H newc < ../names > ../plain; gzip -1 < ../plain > ../initrd"
        roots.shell("sh", "-ec", pack, cwd=tree)

    return roots.part(f"initramfs-{ARCH}-{suite}", (version, INIT, roots.AT_BOOT, 1), make) / "initrd"


def disk(suite: str, extra: Path) -> Path:
    """A disk with a fresh Debian, ``extra`` over it, and no Idiolect: that is installed as anywhere, with apt."""
    folder, version = kernel(suite)
    initrd = initramfs(suite)
    files = sorted(path for path in extra.rglob("*") if path.is_file())
    content = [(str(file.relative_to(extra)), file.read_text()) for file in files]

    def make(out: Path) -> None:
        tree = out / "tree"
        _first_stage(tree, suite)
        for file in roots.module_files(folder, version, roots.MODULES):
            inside = tree / file.relative_to(folder)
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, inside)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copy(folder / "lib/modules" / version / name, tree / "lib/modules" / version)
        roots.shell("depmod", "-b", tree, version)
        roots.shell("cp", "-a", f"{extra}/.", tree)
        configured = _configure_here(tree)
        roots.shell("mke2fs", "-q", "-t", "ext4", "-d", tree, out / "disk.img", "4G")
        shutil.rmtree(tree)
        if not configured:
            _configure_there(out, folder / f"boot/vmlinuz-{version}", initrd)

    made_from = (suite, PACKAGES, version, roots.MODULES, CONFIGURE, content)
    return roots.part(f"disk-{ARCH}-{suite}", made_from, make) / "disk.img"


def _first_stage(tree: Path, suite: str) -> None:
    """Everything that only unpacks."""
    include = f"--include={','.join(PACKAGES)}"
    alone = ("unshare", "-m", "--propagation", "private")
    foreign = ("--foreign", f"--arch={ARCH}", "--variant=minbase", include)
    roots.shell(*alone, "debootstrap", *foreign, suite, tree, roots.mirror())
    if (tree / "proc").is_symlink():  # so it does where it takes this machine for a container
        (tree / "proc").unlink()
        (tree / "proc").mkdir()
    (tree / "etc/hostname").write_text(f"{roots.HOSTNAME}\n")
    (tree / "etc/hosts").write_text(f"127.0.0.1 localhost {roots.HOSTNAME}\n")
    (tree / "var/log/journal").mkdir(parents=True, exist_ok=True)
    (tree / "root/configure").write_text(CONFIGURE)
    (tree / "root/start").write_text(START)
    (tree / "root/start").chmod(0o755)


def _configure_here(tree: Path) -> bool:
    """Let Debian's packages configure themselves program by program; false where this machine cannot run them."""
    if not Path(EMULATOR).exists():
        return False
    command = ["unshare", "--user", "--mount", "--propagation", "private", "--pid", "--fork", "sh", "-c", ENTER, "sh"]
    with subprocess.Popen(
        [*command, tree], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            return False
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536\n")
        said, _ = process.communicate("mapped\n", timeout=SECOND_STAGE_S)
    if process.returncode not in (0, NO_EMULATION):
        raise TargetError(f"Debian's packages did not configure themselves:\n{said[-3000:]}")
    return process.returncode == 0


def _configure_there(folder: Path, image: Path, initrd: Path) -> None:
    """The same on the virtual machine itself, which takes ten times as long: boot once, without an init."""
    console = folder / "console.log"
    command: list[str | Path] = [QEMU, *MACHINE, "-m", "1024", "-nodefaults", "-display", "none"]
    command += ["-serial", f"file:{console}"]
    command += ["-kernel", image, "-initrd", initrd, "-no-reboot", "-append"]
    command += ["console=ttyAMA0 quiet rw root=/dev/vda panic=5 start=/root/start"]
    command += ["-drive", f"file={folder / 'disk.img'},if=virtio,format=raw,cache=unsafe", "-device", "virtio-rng-pci"]
    try:
        roots.shell(*command, timeout=SECOND_STAGE_S)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"the virtual machine did not configure Debian within {SECOND_STAGE_S} s") from error
    said = console.read_text(errors="replace")
    if WELL not in said:
        raise TargetError(f"Debian's packages did not configure themselves on the virtual machine:\n{said[-3000:]}")
