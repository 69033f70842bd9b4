"""Everything in the package beside the Python environment: units, settings, documentation, keys."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from debbuild.targets import MATERIAL, PREFIX, ROOT, BuildError

DOC = "usr/share/doc/idiolect"
ETC = "etc/idiolect"
FILES = {
    "systemd/idiolectd.service": "usr/lib/systemd/system/idiolectd.service",
    "systemd/idiolectd.socket": "usr/lib/systemd/system/idiolectd.socket",
    "systemd/idiolectd-accounts.service": "usr/lib/systemd/system/idiolectd-accounts.service",
    "systemd/idiolect-tcp@.service": "usr/lib/systemd/system/idiolect-tcp@.service",
    "systemd/idiolect-tcp@.socket": "usr/lib/systemd/system/idiolect-tcp@.socket",
    "systemd/idiolect.sysusers": "usr/lib/sysusers.d/idiolect.conf",
    "systemd/idiolect.tmpfiles": "usr/lib/tmpfiles.d/idiolect.conf",
    "systemd/70-idiolect.rules": "usr/lib/udev/rules.d/70-idiolect.rules",
    "config/vendor.yaml": f"{PREFIX}/idiolect.yaml",
    "config/installed.yaml": f"{ETC}/idiolect.yaml",
    "config/idiolect.yaml": f"{DOC}/idiolect.yaml",
    "config/avahi/idiolect-wyoming.service": f"{DOC}/examples/idiolect-wyoming.service",
    "README.md": f"{DOC}/README.md",
    "NOTICE": f"{DOC}/NOTICE",
}
FOLDERS = {"config/examples": f"{DOC}/examples"}
OPTIONAL_FOLDERS = {"docs": f"{DOC}/docs"}
EMPTY = (f"{ETC}/conf.d", f"{ETC}/keys.d")
LINKS = {"usr/bin/idiolect": "../lib/idiolect/bin/idiolect", "usr/sbin/idiolectd": "../lib/idiolect/bin/idiolectd"}
MANUALS = {"idiolect.1": "usr/share/man/man1", "idiolectd.8": "usr/share/man/man8"}


def check() -> None:
    """``BuildError`` naming every file that the package needs and the checkout lacks."""
    wanted = [*FILES, *(f"scripts/packaging/man/{name}" for name in MANUALS)]
    missing = [name for name in wanted if not (ROOT / name).is_file()]
    missing += [name for name in FOLDERS if not (ROOT / name).is_dir()]
    if missing:
        raise BuildError(f"the package needs what is missing here: {', '.join(missing)}")


def fill(root: Path, version: str) -> None:
    """Copy, link and create."""
    for source, target in FILES.items():
        _copy(ROOT / source, root / target)
    present = {name: target for name, target in OPTIONAL_FOLDERS.items() if (ROOT / name).is_dir()}
    for source, target in (FOLDERS | present).items():
        for path in sorted(p for p in (ROOT / source).rglob("*") if p.is_file()):
            _copy(path, root / target / path.relative_to(ROOT / source))
    for name in EMPTY:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, destination in LINKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(destination)
    for name, target in MANUALS.items():
        text = (MATERIAL / "man" / name).read_text().replace("@VERSION@", version)
        write_gz(root / target / f"{name}.gz", text)


def ask_for_tpm(root: Path) -> None:
    """Who signs a model means its keys to be released to it alone: the package's own settings say so."""
    with (root / FILES["config/vendor.yaml"]).open("a") as vendor:
        vendor.write(
            "\n# The model of this package is signed: a TPM releases the keys to it and to what succeeds it, after\n"
            "# `idiolect provision`. Until then, and on a board without a TPM, everybody gets the base model.\n"
            "keystore: tpm\n"
        )


def write_gz(path: Path, text: str) -> None:
    """Compressed as Debian wants it: best, and without a date in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
