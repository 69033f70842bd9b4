"""Whole systems of a release in .cache/roots: to build another release's package in, and to try a package in.

debootstrap makes them from the mirror that this machine uses anyway. They are entered by chroot, in a mount namespace
of their own: what is mounted for a command is gone when that ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from debbuild.machine import install, keyring, keyring_package, mirror, run, say, this_release
from debbuild.targets import CACHE, RELEASES, Arch, BuildError, Release

ROOTS = CACHE / "roots"
# A private /proc and /dev/shm, then what is asked for, each at its own place.
_ENTER = """
root=$1
shift
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$1"
    shift
done
shift
exec chroot "$root" "$@"
"""
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
_NETWORK = (Path("/etc/resolv.conf"), Path("/etc/hosts"))
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SETTINGS = ("PIP_", "SSL_", "REQUESTS_", "DEB", "SOURCE_DATE_EPOCH", "IDIOLECT_")
_PROXIES = {"http_proxy", "https_proxy", "no_proxy"}


def hindrance() -> str:
    """Why no root can be made and entered here, or nothing. A container may be root's and yet not let him mount."""
    if os.geteuid():
        return "that takes root"
    tried = subprocess.run([*_ALONE, "true"], capture_output=True, text=True, env=environment(), check=False)
    return f"no mount namespace can be made here: {tried.stderr.strip()}" if tried.returncode else ""


def check(release: Release) -> None:
    """``BuildError`` where no root of the release can be made: only its own distribution has its mirror and keys."""
    here = this_release()
    if not here or here.distribution != release.distribution:
        known = " or ".join(each.name for each in RELEASES.values() if each.distribution == release.distribution)
        message = f"a package for {release.name} is built on {known}: this machine has neither its mirror nor its keys"
        raise BuildError(message)


def builder(release: Release, arch: Arch) -> Path:
    """A root of the release with its python3, in which its package can be built."""

    def make(folder: Path) -> None:
        copy(minimal(release, arch), folder)
        _apt(folder, "install", "python3", "ca-certificates")
        _trust(folder)

    return _part(f"build-{release.suite}-{arch.name}", f"{release} {arch}", make)


def with_packages(release: Release, arch: Arch, relations: str) -> Path:
    """A minimal root of the release, with what satisfies a Depends field and no more."""

    def make(folder: Path) -> None:
        copy(minimal(release, arch), folder)
        _apt(folder, "satisfy", relations)

    return _part(f"depends-{release.suite}-{arch.name}", f"{release} {arch} {relations}", make)


def minimal(release: Release, arch: Arch) -> Path:
    """What debootstrap calls a minimal base: essential packages and apt."""

    def make(folder: Path) -> None:
        check(release)
        install(["debootstrap", keyring_package(release)])
        say(f"making a root of {release.name} ({release.suite}) by debootstrap")
        where: list[str | Path] = [release.suite, folder, mirror(release, arch)]
        options = ["--variant=minbase", f"--arch={arch.name}", f"--keyring={keyring(release)}"]
        run([*_ALONE, "debootstrap", *options, *where], env=environment())
        for deb in (folder / "var/cache/apt/archives").glob("*.deb"):
            deb.unlink()
        _trust(folder)

    return _part(f"minimal-{release.suite}-{arch.name}", f"{release} {arch}", make)


def copy(source: Path, target: Path) -> None:
    """Fill an empty folder with a root of its own, which may be ruined."""
    run(["cp", "-a", "--reflink=auto", f"{source}/.", target])


@contextmanager
def scratch(source: Path) -> Iterator[Path]:
    """A copy that is thrown away afterwards."""
    with tempfile.TemporaryDirectory(dir=ROOTS, prefix="scratch-") as folder:
        copy(source, Path(folder))
        Path(folder).chmod(0o755)  # as /, for others than root, too
        yield Path(folder)


def command(root: Path, words: Sequence[str | Path], binds: Iterable[Path] = ()) -> list[str]:
    """The command line that runs ``words`` in a root, where ``binds`` are seen under the names that they have here."""
    shared = [str(path) for path in (*_NETWORK, *binds) if path.exists()]
    for path in shared:
        _place_for(path, root)
    return [*_ALONE, "sh", "-euc", _ENTER, "enter", str(root), *shared, "--", *map(str, words)]


def enter(root: Path, words: Sequence[str | Path], binds: Iterable[Path] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command in a root and hear what it says."""
    return subprocess.run(
        command(root, words, binds), env=environment(), capture_output=True, text=True, check=False, cwd="/"
    )


def environment() -> dict[str, str]:
    """What a command in a root has to know of this machine: how the network is reached, and what was asked for."""
    known = {name: text for name, text in os.environ.items() if name.startswith(_SETTINGS) or name.lower() in _PROXIES}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home()), "LC_ALL": "C.UTF-8"} | known


def _place_for(path: str, root: Path) -> None:
    """Make what ``path`` can be mounted on. A link there would lead out of the root."""
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        place.mkdir(exist_ok=True)
        return
    if place.is_symlink():
        place.unlink()
    place.touch()


def _trust(root: Path) -> None:
    """Trust in a root whom this machine trusts: its mirrors may be reached by https, or through a proxy of its own."""
    if _CERTIFICATES.exists():
        place = root / _CERTIFICATES.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_CERTIFICATES, place)


def _apt(root: Path, *words: str) -> None:
    """Have apt in a root install something, without what that only recommends."""
    get = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    env = environment() | {"DEBIAN_FRONTEND": "noninteractive"}
    run(command(root, [*get, "update"]), env=env)
    run(command(root, [*get, "-y", "--no-install-recommends", *words]), env=env)
    run(command(root, ["apt-get", "clean"]), env=env)


def _part(name: str, made_from: str, make: Callable[[Path], None]) -> Path:
    """A root by its name, made where it is missing or was made from something else. Two at once take turns."""
    folder, stamp = ROOTS / name, ROOTS / f"{name}.stamp"
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / f"{name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == made_from:
            return folder
        if why := hindrance():
            raise BuildError(f"a root of {name} cannot be made: {why}")
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)
        stamp.write_text(made_from)  # last: what has a stamp is whole
    return folder
