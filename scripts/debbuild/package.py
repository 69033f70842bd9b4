"""From a filled tree to a .deb: control files, dates and modes that never differ, and what weighs how much."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path

from debbuild.layout import DOC, write_gz
from debbuild.machine import run
from debbuild.targets import MATERIAL, PREFIX, Target

LIMIT_MIB = 40.0
"""What our files and the private dependencies may take on a device."""
# numpy comes with the reference BLAS, which takes a third more CPU time to listen and twice as much to learn.
RECOMMENDS = ("alsa-utils", "libopenblas0-serial | libblis4-serial | libopenblas0", "tpm-udev")
COMPRESSIONS = {"xz": ("-Zxz", "--threads-max=1"), "gzip": ("-Zgzip", "-z1")}
SUGGESTS = ("tpm2-tools",)
MAINTAINER = "The Idiolect authors <idiolect@localhost>"
_SCRIPTS = ("postinst", "prerm", "postrm")
_DESCRIPTION = """\
Description: voice daemon that learns its people on the device
 Idiolect listens through ALSA, recognises wake words and phrases with a small
 quantized model, and learns each consenting person's voice and vocabulary on
 the device: no speech leaves it and none is written to its disk. What it
 learns is encrypted, and with a TPM 2.0 readable only to a signed model.
 .
 The daemon runs confined by systemd and without a network; programs talk to it
 on a Unix socket, people with the command idiolect.
"""


def control(target: Target, root: Path, version: str, depends: Iterable[str]) -> str:
    """The control file. ``MAINTAINER`` is overridden as Debian's tools do it, by DEBFULLNAME and DEBEMAIL."""
    name, mail = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return (
        f"Package: idiolect\nVersion: {version}\nArchitecture: {target.arch.name}\n"
        f"Maintainer: {f'{name} <{mail}>' if name and mail else MAINTAINER}\n"
        f"Installed-Size: {sum(_sizes(root).values()) // 1024}\n"
        f"Depends: {', '.join(depends)}\nRecommends: {', '.join(RECOMMENDS)}\nSuggests: {', '.join(SUGGESTS)}\n"
        f"Section: sound\nPriority: optional\n{_DESCRIPTION}"
    )


def changelog(root: Path, target: Target, version: str, epoch: int, commit: str) -> None:
    """Debian wants one; git has the real one."""
    what = f"  * Built from commit {commit}." if commit else "  * Built from a source archive."
    head = f"idiolect ({version}) {target.release.suite}; urgency=medium"
    text = f"{head}\n\n{what}\n\n -- {MAINTAINER}  {formatdate(epoch)}\n"
    write_gz(root / DOC / "changelog.Debian.gz", text)


def finish(root: Path, target: Target, version: str, depends: Iterable[str]) -> None:
    """DEBIAN/, and the modes of everything."""
    meta = root / "DEBIAN"
    meta.mkdir()
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and meta not in p.parents)
    (meta / "control").write_text(control(target, root, version, depends))
    conffiles = [f"/{path.relative_to(root)}\n" for path in files if path.relative_to(root).parts[0] == "etc"]
    (meta / "conffiles").write_text("".join(conffiles))
    sums = (f"{_md5(path)}  {path.relative_to(root)}\n" for path in files)
    (meta / "md5sums").write_text("".join(sums))
    for name in _SCRIPTS:
        shutil.copyfile(MATERIAL / "debian" / name, meta / name)
    executable = {meta / name for name in _SCRIPTS} | set((root / PREFIX / "bin").iterdir())
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in executable else 0o644)


def build(root: Path, deb: Path, epoch: int, compression: str) -> None:
    """The archive; dpkg-deb takes the date from SOURCE_DATE_EPOCH, and one thread so that cores do not show."""
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(root, (epoch, epoch))
    deb.parent.mkdir(parents=True, exist_ok=True)
    part = deb.with_suffix(".part")
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    how = COMPRESSIONS[compression]
    run(["dpkg-deb", "--root-owner-group", *how, "--build", root, part], env=env)
    part.replace(deb)


def weight(root: Path, target: Target) -> tuple[str, float]:
    """A table of what weighs, and the sum in MiB, in whole blocks as du counts them."""
    site = root / target.site
    rows: dict[str, int] = {}
    for path, size in _sizes(root).items():
        name = path.relative_to(site).parts[0] if site in path.parents else "units, settings, documentation"
        if path.is_relative_to(site / "idiolect" / "bundles"):
            name = "idiolect: the model"
        rows[name] = rows.get(name, 0) + size
    small = {name: size for name, size in rows.items() if size < 100 << 10}
    table = {name: size for name, size in rows.items() if name not in small} | {"everything else": sum(small.values())}
    total = sum(rows.values()) / 2**20
    lines = [f"{size / 2**20:8.2f}  {name}" for name, size in sorted(table.items(), key=lambda each: -each[1])]
    return "\n".join(["     MiB", *lines, f"{total:8.2f}  together, of at most {LIMIT_MIB:.0f}"]), total


def _sizes(root: Path) -> dict[Path, int]:
    """Every file and what it takes on a disk with blocks of 4 KiB; folders count as a block each."""
    found = {}
    for path in root.rglob("*"):
        if (root / "DEBIAN") in (path, *path.parents):
            continue
        mode = path.lstat()
        found[path] = -(-mode.st_size // 4096) * 4096 if stat.S_ISREG(mode.st_mode) else 4096
    return found


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
