"""An upgrade of the distribution, from Debian 12 to 13, takes the package along: `scripts/test --all` tries it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from debbuild import machine
from debbuild.targets import ARCHES, RELEASES
from tests.support import packages
from tests.support.packages import Package

pytestmark = [
    packages.LONG,
    pytest.mark.skipif(os.environ.get("PACKAGE_RELEASE") != "trixie", reason="long: scripts/test --all runs it"),
]
SETTING = "# of the administrator\n"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """For Debian 12."""
    return packages.build(tmp_path_factory.mktemp("old"), "--release", "bookworm")


def test_from_debian_12_to_13(old: Package) -> None:
    new = packages.plain()
    with packages.installed(old) as board:
        settings = board.root / "etc/idiolect/idiolect.yaml"
        settings.write_text(settings.read_text() + SETTING)
        _offer(board.root / "repository", old, new)
        mirror = machine.mirror(RELEASES["trixie"], ARCHES[new.control["Architecture"]])
        sources = f"deb {mirror} trixie main\ndeb [trusted=yes] file:/repository ./\n"
        (board.root / "etc/apt/sources.list").write_text(sources)
        board.run("apt-get", "update")
        confold = ("-o", "Dpkg::Options::=--force-confold")
        board.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q", *confold, "dist-upgrade")
        now = board.run("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "idiolect")
        assert now == f"{new.control['Version']} installed"
        assert board.run("idiolect", "config", "check") == "OK"
        assert settings.read_text().endswith(SETTING)
        assert not list((board.root / "usr/lib/idiolect/lib/python3.11").rglob("*.py"))


def _offer(folder: Path, *offered: Package) -> None:
    """A repository of packages that apt can read."""
    folder.mkdir()
    entries = []
    for package in offered:
        shutil.copy(package.deb, folder)
        data = package.deb.read_bytes()
        about = (package.root / "DEBIAN/control").read_text().rstrip("\n")
        where = f"Filename: ./{package.deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        entries.append(f"{about}\n{where}")
    (folder / "Packages").write_text("\n".join(entries))
