"""From the suite's options to a machine with the product on it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from product import PACKAGE, SETTINGS, Product
from targets import arm64, roots
from targets.base import Target, TargetError

ROOT = Path(__file__).resolve().parents[1]
REMOTE_DEB = "/root/idiolect.deb"
SUFFIX = {"bookworm": "~deb12u", "trixie": "~deb13u"}
"""What the version of a release's package has at its end, before a number."""


def arch_of(target: str) -> str:
    """The architecture whose package a target takes, where none is named."""
    return arm64.ARCH if target == "board:arm64" else roots.ARCH


def package(given: Path | None, release: str, arch: str) -> Path:
    """The package: the one that was named, or the newest in dist/ for that release, or a new one."""
    if given:
        return given.resolve(strict=True)
    mine = f"{PACKAGE}_*{SUFFIX[release]}*_{arch}.deb"
    found = sorted((ROOT / "dist").glob(mine), key=lambda path: path.stat().st_mtime)
    if not found:
        command = [ROOT / "scripts/build_deb", "--arch", arch, "--release", release]
        subprocess.run(command, check=True, cwd=ROOT)
        return package(None, release, arch)
    return found[-1]


def make(config: pytest.Config, deb: Path) -> Target:
    """The machine that --target names."""
    kind, _, host = config.getoption("--target").partition(":")
    release = config.getoption("--release")
    if kind == "local":
        from targets.local import Local

        return Local(release=release)
    if (kind, host) == ("board", arm64.ARCH):
        from targets.board_arm64 import BoardArm64

        return BoardArm64(deb)
    if kind == "board" and release == roots.RELEASES[0]:
        from targets.board import Board

        return Board(deb)
    if (kind, host) == ("device", "loopback"):
        from targets.loopback import LoopbackDevice

        return LoopbackDevice(release)
    if kind == "device" and host:
        from targets.device import Device

        return Device(host, config.getoption("--loudspeaker") or "", config.getoption("--power") or "")
    raise pytest.UsageError(f"--target is local, board (of {roots.RELEASES[0]} only), board:arm64 or device:HOST")


def install(target: Target, deb: Path) -> Product:
    """Install the package if the machine came without it, and bring it up; the steps' seconds go to its facts."""
    product = Product(target)
    steps: dict[str, float] = {}
    began = time.monotonic()
    if target.facts.notes.get("package") != deb.name:
        target.put(deb, REMOTE_DEB)
        target.run("apt-get update -q", timeout=240, network=True).checked()
        steps["package lists"] = time.monotonic() - began
        product.apt(f"install {REMOTE_DEB}").checked()
        steps["apt install"] = time.monotonic() - began - sum(steps.values())
    target.put(product.baseline(), SETTINGS)
    target.check("systemctl restart idiolectd.service", timeout=120)
    product.mark()
    try:
        product.running(60)
    except TimeoutError as error:
        raise TargetError(f"{error}\n{product.told}") from error
    steps["settings to listening"] = time.monotonic() - began - sum(steps.values())
    product.story = steps
    return product


def repacked(deb: Path, version: str, folder: Path) -> Path:
    """The same package under another version."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        roots.shell("dpkg-deb", "-R", deb, tree)
        control = tree / "DEBIAN/control"
        lines = [
            f"Version: {version}" if each.startswith("Version:") else each for each in control.read_text().splitlines()
        ]
        control.write_text("\n".join(lines) + "\n")
        out = folder / f"{PACKAGE}_{version}_{deb.stem.rpartition('_')[2]}.deb"
        roots.shell("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, out)
        shutil.rmtree(tree)
    return out
