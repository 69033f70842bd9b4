"""What can be built: releases and architectures, one line each, and where things lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MATERIAL = ROOT / "scripts" / "packaging"
CACHE = ROOT / ".cache"
PREFIX = "usr/lib/idiolect"
"""The private Python environment, below the package's root."""


class BuildError(Exception):
    """The build cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian or Ubuntu release: its python3 and its glibc, 2.x, decide which wheels fit."""

    suite: str
    name: str
    tag: str
    python: tuple[int, int]
    glibc: int

    @property
    def distribution(self) -> str:
        """Whose mirrors have it: debian or ubuntu."""
        return self.name.split()[0].lower()

    def version(self, ours: str) -> str:
        """The package's version for this release.

        The release goes into Debian's revision, so that everything else decides first: 0.2.0~rc1 comes before 0.2.0
        and 0.1.0+acme1 after 0.1.0, whatever they were built for. Of one version the newer release's is the higher
        one, which makes an upgrade of the distribution take it.
        """
        if ours.endswith(f"~{self.tag}"):
            return ours
        return f"{ours}~{self.tag}" if "-" in ours else f"{ours}-1~{self.tag}"


@dataclass(frozen=True, slots=True)
class Arch:
    """An architecture under its Debian name, and what others call it."""

    name: str
    machine: str

    @property
    def triplet(self) -> str:
        """As gcc and Debian's library folders call it."""
        return f"{self.machine}-linux-gnu"


RELEASES = {
    each.suite: each
    for each in (
        Release("bookworm", "Debian 12", "deb12u1", (3, 11), 36),
        Release("trixie", "Debian 13", "deb13u1", (3, 13), 41),
        Release("noble", "Ubuntu 24.04", "ubuntu24.04.1", (3, 12), 39),
    )
}
ARCHES = {each.name: each for each in (Arch("amd64", "x86_64"), Arch("arm64", "aarch64"))}


@dataclass(frozen=True, slots=True)
class Target:
    """What one package is for, and which machine makes it."""

    release: Release
    arch: Arch
    here: Arch

    @property
    def foreign(self) -> bool:
        """Whether nothing of it runs on this machine."""
        return self.arch != self.here

    @property
    def python(self) -> str:
        """Such as python3.11."""
        return "python{}.{}".format(*self.release.python)

    @property
    def abi(self) -> str:
        """Such as cp311."""
        return "cp{}{}".format(*self.release.python)

    @property
    def site(self) -> str:
        """Where packages go, below the package's root."""
        return f"{PREFIX}/lib/{self.python}/site-packages"

    @property
    def tool_prefix(self) -> str:
        """What stands before gcc, strip and readelf."""
        return f"{self.arch.triplet}-" if self.foreign else ""

    @property
    def platforms(self) -> list[str]:
        """The wheels that fit, as pip calls them."""
        modern = [f"manylinux_2_{minor}_{self.arch.machine}" for minor in range(17, self.release.glibc + 1)]
        return [*modern, f"manylinux2014_{self.arch.machine}"]
