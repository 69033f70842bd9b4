"""The private Python environment: wheels unpacked, pruned, stripped and compiled, like a venv at its final place."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from email.parser import HeaderParser
from pathlib import Path

from debbuild.machine import run
from debbuild.prune import ships
from debbuild.targets import PREFIX, ROOT, BuildError, Target
from debbuild.wheels import pip, tools

OWN = "idiolectd"
"""Our own package, among the others."""
DEBIAN_SITE = "/usr/lib/python3/dist-packages"
_SCRIPTS = {"idiolect": "idiolect.cli.main", "idiolectd": "idiolect.__main__"}
# -I: neither the caller's environment nor his home has a say in what root, or the daemon, imports.
_SCRIPT = """#!/{prefix}/bin/python3 -I
import sys

from {module} import main

sys.exit(main())
"""


def make(target: Target, wheels: Mapping[str, Path], root: Path, version: str) -> None:
    """Fill ``root``/usr/lib/idiolect."""
    site = root / target.site
    site.mkdir(parents=True)
    for name, wheel in sorted(wheels.items()):
        unpack(name, wheel, site)
    _unpack_own(target, site, version)
    _environment(target, root)
    _strip(target, site)
    compile_all(target, root)


def unpack(name: str, wheel: Path, site: Path) -> None:
    """What ships of a wheel. A wheel is a zip file with site-packages' content and a folder of other things."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = member.filename
            if member.is_dir() or ".data/" in path or not ships(name, path):
                continue
            target = site / path
            if not target.resolve().is_relative_to(site.resolve()):
                raise BuildError(f"{wheel.name} wants to write outside of its folder: {path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            data = archive.read(member)
            target.write_bytes(_headers(data) if path.endswith(".dist-info/METADATA") else data)


def _headers(metadata: bytes) -> bytes:
    """Without the README that follows them."""
    return metadata.partition(b"\n\n")[0] + b"\n"


def _unpack_own(target: Target, site: Path, version: str) -> None:
    """Built from a copy, so that the checkout, where others work, stays as it is."""
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source"
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
        shutil.copytree(ROOT / "daemon", source / "daemon", ignore=ignore)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copyfile(ROOT / name, source / name)
        pip(tools(target), "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", work, source)
        (wheel,) = Path(work).glob("*.whl")
        unpack(OWN, wheel, site)
    init = site / "idiolect" / "__init__.py"
    text, count = re.subn(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', init.read_text())
    if count != 1:
        raise BuildError(f"{init.name} has no line __version__ = ...")
    init.write_text(text)


def _environment(target: Target, root: Path) -> None:
    """What makes Python take the folder for its own, and Debian's modules come after ours."""
    prefix, site = root / PREFIX, root / target.site
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python3").symlink_to("/usr/bin/python3")
    version = "{}.{}".format(*target.release.python)
    (prefix / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n")
    # numpy, yaml and systemd. Only this folder: what somebody put into /usr/local is not for us.
    (site / "debian.pth").write_text(f"{DEBIAN_SITE}\n")
    for name, module in _SCRIPTS.items():
        script = prefix / "bin" / name
        script.write_text(_SCRIPT.format(prefix=PREFIX, module=module))
        script.chmod(0o755)


def _strip(target: Target, site: Path) -> None:
    libraries = compiled(site)
    strip = f"{target.tool_prefix}strip"
    run([strip, "--strip-unneeded", "--remove-section=.comment", "--remove-section=.note", *libraries])


def compiled(folder: Path) -> list[Path]:
    """Every shared library below a folder, by what it is and not by its name."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    return [path for path in files if _magic(path) == b"\x7fELF"]


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def compile_all(target: Target, root: Path) -> None:
    """.pyc files that are believed without a look at the source: start-up is the same on a read-only root."""
    run(
        [
            *(f"/usr/bin/{target.python}", "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash"),
            *("-s", root, "-p", "/", root / PREFIX),
        ],
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
    )


def metadata(site: Path, name: str) -> dict[str, str]:
    """The headers of an installed package's METADATA; of several alike the last one, classifiers aside."""
    from debbuild.lockfile import normal

    for path in sorted(site.glob("*.dist-info/METADATA")):
        message = HeaderParser().parsestr(path.read_text())
        if normal(str(message["Name"])) == name:
            return {key: str(value) for key, value in message.items()}
    raise BuildError(f"{name} is not in the tree")
