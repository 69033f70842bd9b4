"""Debian packages for tests: built once a run, taken apart, and installed in a root that has what they depend on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from debbuild import machine, roots
from debbuild.targets import ARCHES, RELEASES, BuildError, Release
from tests.conftest import absent

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "scripts" / "build_deb"
PREFIX = "usr/lib/idiolect"
LONG = pytest.mark.timeout(3600)
"""For modules of tests with packages: the first one waits until it is built, the first build fetches and compiles."""
# What only a network, root or another release would have.
_NOT_HERE = re.compile(r"NewConnectionError|Temporary failure|[Aa]s root|neither its mirror nor its keys")


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
    def release(self) -> Release:
        """What it is for."""
        (found,) = (each for each in RELEASES.values() if self.control["Version"].endswith(f"~{each.tag}"))
        return found

    @property
    def site(self) -> Path:
        """Where the private packages lie."""
        (site,) = (self.root / PREFIX / "lib").glob("python3.*/site-packages")
        return site

    @property
    def files(self) -> Iterator[Path]:
        """All of them, links aside."""
        return (path for path in sorted(self.root.rglob("*")) if path.is_file() and not path.is_symlink())


@dataclass(frozen=True)
class Installed:
    """A package, installed in a root that holds what it depends on and nothing else."""

    package: Package
    root: Path

    @property
    def site(self) -> str:
        """Where the private packages lie, seen from inside."""
        return f"/{self.package.site.relative_to(self.package.root)}"

    def run(self, *words: str | Path, binds: tuple[Path, ...] = ()) -> str:
        """What a command says inside, which has to go well. It sees ``binds`` as they are here."""
        done = roots.enter(self.root, words, binds)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()


def build(folder: Path, *options: str | Path) -> Package:
    """Compressed quickly rather than well. Skips where it cannot be built, or fails in CI."""
    if not shutil.which("dpkg-deb"):
        absent("no dpkg-deb: this is no Debian")
    command = [BUILD, "--compression", "gzip", "--out", folder, *_release(), *options]  # the last --release counts
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and _NOT_HERE.search(done.stderr):
        absent(f"the package cannot be built here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (deb,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, folder / "root"], check=True)
    return Package(deb, folder / "root")


def _release() -> list[str]:
    """PACKAGE_RELEASE has the tests try another release's package than this machine's."""
    asked = os.environ.get("PACKAGE_RELEASE")
    return ["--release", asked] if asked else []


@cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="package-")  # removed when the run ends


@cache
def plain() -> Package:
    """As somebody without keys builds it."""
    return build(Path(_place().name))


@contextmanager
def installed(package: Package) -> Iterator[Installed]:
    """Install it for a while: what it depends on by apt, which may add nothing, then the package by dpkg alone."""
    if why := roots.hindrance():
        pytest.skip(f"the package is not installed in a root of its own: {why}")
    arch = ARCHES[package.control["Architecture"]]
    try:
        ready = roots.with_packages(package.release, arch, package.control["Depends"])
    except BuildError as error:
        absent(f"no root to install the package in: {error}")
    with roots.scratch(ready) as root:
        machine.run(["cp", package.deb, root / "root/idiolect.deb"])
        it = Installed(package, root)
        it.run("dpkg", "--install", "/root/idiolect.deb")
        yield it
