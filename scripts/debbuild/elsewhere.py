"""A package for another release than this machine's: the same build, inside of a root of that release."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from debbuild import origin, roots
from debbuild.machine import run, say
from debbuild.targets import CACHE, ROOT, Arch, BuildError, Release

_PIP = (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf")
"""Where this machine says which package index it uses."""


def build(options: argparse.Namespace, release: Release, here: Arch) -> int:
    """Run the build in the release's root, which shares the checkout and the files that were named; its exit status."""
    roots.check(release)
    if os.geteuid():
        message = f"this machine does not run {release.name}: build on one that does, or have a root of it made here:"
        raise BuildError(f"{message} as root, run: ./scripts/build_deb {shlex.join(sys.argv[1:])}")
    root = roots.builder(release, here)
    say(f"building in a root of {release.name}")
    options.out.mkdir(parents=True, exist_ok=True)
    shared = [ROOT, *_PIP, *_paths(options)]
    command = roots.command(root, [ROOT / "scripts/build_deb", *arguments(options)], shared)
    env = {"SOURCE_DATE_EPOCH": str(origin.epoch()), origin.COMMIT: origin.commit()}
    status = subprocess.run(command, env=roots.environment() | env, cwd="/", check=False).returncode
    made = [*options.out.glob(f"*~{release.tag}_*.deb"), *options.out.glob(f"*~{release.tag}_*.cdx.json")]
    hand_over(options.out, *made)
    return status


def hand_over(*made: Path) -> None:
    """Give what sudo made to who called it, the caches, too: the next build may be without."""
    owner = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if os.geteuid() or not all(owner):
        return
    whose = ":".join(map(str, owner))
    run(["chown", "--no-dereference", whose, CACHE, *made])
    run(["chown", "--recursive", "--no-dereference", whose, *(each for each in CACHE.iterdir() if each != roots.ROOTS)])


def arguments(options: argparse.Namespace) -> Iterator[str]:
    """The options again, with paths that hold in any folder."""
    for name, value in vars(options).items():
        for each in value if isinstance(value, list) else [value]:
            if each is True:
                yield f"--{name.replace('_', '-')}"
            elif each not in (None, False):
                yield f"--{name.replace('_', '-')}={_absolute(each) if isinstance(each, Path) else each}"


def _paths(options: argparse.Namespace) -> Iterator[Path]:
    for value in vars(options).values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Path):
                yield _absolute(each)


def _absolute(path: Path) -> Path:
    """Without links and `..`, which a root need not have."""
    return path.resolve()
