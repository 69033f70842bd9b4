"""Debian packages for tests: built once a run, and taken apart."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tests.conftest import absent

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "scripts" / "build_deb"
PREFIX = "usr/lib/idiolect"
# What only a network, root or another release would have.
_NOT_HERE = re.compile(r"NewConnectionError|Temporary failure|as root, run|there is no /usr/bin/python")


@dataclass(frozen=True)
class Package:
    """A package, and the folder that it is unpacked in, metadata below DEBIAN."""

    deb: Path
    root: Path

    @cached_property
    def control(self) -> dict[str, str]:
        """Field by field, without the description's text."""
        text = (self.root / "DEBIAN" / "control").read_text()
        return dict(re.findall(r"(?m)^([A-Za-z-]+): (.*)$", text))

    @cached_property
    def listing(self) -> list[tuple[str, str, str]]:
        """Mode, owner and path of everything, as the archive has them."""
        listed = subprocess.run(["dpkg-deb", "--contents", self.deb], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=5) for line in listed.splitlines()]
        return [(row[0], row[1], row[5].split(" -> ")[0].removeprefix("./")) for row in rows]

    @property
    def site(self) -> Path:
        """Where the private packages lie."""
        (site,) = (self.root / PREFIX / "lib").glob("python3.*/site-packages")
        return site

    @property
    def files(self) -> Iterator[Path]:
        """All of them, links aside."""
        return (path for path in sorted(self.root.rglob("*")) if path.is_file() and not path.is_symlink())

    def python(self, *arguments: str | Path, **environment: str) -> str:
        """What the package's own interpreter says, run where it was unpacked."""
        command = [self.root / PREFIX / "bin" / "python3", *arguments]
        env = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **environment}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()


def build(folder: Path, *options: str | Path) -> Package:
    """Compressed quickly rather than well. Skips where it cannot be built, or fails in CI."""
    if not shutil.which("dpkg-deb"):
        absent("no dpkg-deb: this is no Debian")
    command = [BUILD, "--compression", "gzip", "--out", folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and _NOT_HERE.search(done.stderr):
        absent(f"the package cannot be built here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (deb,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, folder / "root"], check=True)
    return Package(deb, folder / "root")


@cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="package-")  # removed when the run ends


@cache
def plain() -> Package:
    """As somebody without keys builds it."""
    return build(Path(_place().name))
