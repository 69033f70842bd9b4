"""This machine: its commands, its Debian packages, and a foreign architecture's headers beside them."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from debbuild.targets import CACHE, RELEASES, Arch, BuildError, Release, Target

LIBRARIES = ("libc6-dev", "libasound2-dev", "libtss2-dev", "libpython3-dev", "libseccomp2", "libstdc++6")
"""What the sources are compiled against; the last two only so that it is known whose libraries they are."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"build_deb: {text}", flush=True)


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """What the command printed; ``BuildError`` with the end of what it said when it fails."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            env=env,
            cwd=cwd,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is missing on this machine") from None
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise BuildError(f"{' '.join(map(str, command[:4]))} ... failed:\n{said}")
    return done.stdout


def _installed(package: str) -> bool:
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "installed"


def this_release() -> Release | None:
    """What this machine runs, if packages are built for that; derivatives count as what they are made from."""
    try:
        about = platform.freedesktop_os_release()
    except OSError:
        return None
    names = (about.get("VERSION_CODENAME", ""), about.get("UBUNTU_CODENAME", ""), about.get("DEBIAN_CODENAME", ""))
    return next((RELEASES[name] for name in names if name in RELEASES), None)


def _as_root() -> list[str] | None:
    """What stands before a command that takes root: nothing, sudo, or None where neither will do."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        if sys.stdin.isatty():
            return ["sudo"]
        if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0:
            return ["sudo", "-n"]
    return None


def install(packages: Sequence[str]) -> None:
    """Install those of the Debian packages that this machine lacks, as root or with sudo."""
    missing = [each for each in packages if not _installed(each)]
    if not missing:
        return
    before = _as_root()
    if before is None:
        raise BuildError(f"as root, run: apt-get install {' '.join(missing)}")
    say(f"installing Debian packages: {' '.join(missing)}")
    get = [*before, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"]
    command = [*get, "install", "-y", "--no-install-recommends", *missing]
    try:
        run(command)
    except BuildError:  # the lists may be older than the mirror
        run([*get, "update"])
        run(command)


def prepare(target: Target) -> None:
    """Install the Debian packages that the build needs and this machine lacks."""
    minor = target.python
    wanted = ["binutils", f"{minor}-venv", "pkg-config"]
    if target.foreign:
        machine = target.arch.machine
        wanted += [f"gcc-{machine}-linux-gnu", f"libc6-dev-{target.arch.name}-cross", keyring_package(target.release)]
    else:
        wanted += ["gcc", f"{minor}-dev", *LIBRARIES]
    install(wanted)


def supersede(folder: Path) -> None:
    """Make way for ``folder``, NAME-KEY: what was made under other keys goes, as nobody would ever ask for it again."""
    for old in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"):
        shutil.rmtree(old)
    folder.mkdir(parents=True)


def library_root(target: Target) -> Path:
    """Where the target's headers and libraries lie: here, or for a foreign architecture in a folder of their own."""
    return _sysroot(target) if target.foreign else Path("/")


def keyring(release: Release) -> Path:
    """The keys that the release's mirrors sign with."""
    return Path(f"/usr/share/keyrings/{release.distribution}-archive-keyring.gpg")


def keyring_package(release: Release) -> str:
    """What brings them."""
    return {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}[release.distribution]


def mirror(release: Release, arch: Arch) -> str:
    """The mirror that this machine uses anyway. A board's maker has one beside it that may end alike."""
    wanted = "ubuntu-ports" if release.distribution == "ubuntu" and arch.name != "amd64" else release.distribution
    listed = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    # Who speaks for a mirror is in its lists, which a machine may not have fetched yet.
    for uri in [*run([*listed, f"Origin: {release.name.split()[0]}"]).split(), *run(listed).split()]:
        if uri.rstrip("/").endswith(f"/{wanted}"):
            return uri
    message = f"none of this machine's apt sources is a mirror of {release.name} for {arch.name} (.../{wanted}): "
    raise BuildError(f"{message}add one to /etc/apt/sources.list.d, or build on {release.name} for {arch.name}")


def merged(root: Path) -> None:
    """Make /bin, /sbin and /lib* links into /usr, as every release here has them.

    Packages may say either place: one file lies at /lib for one release and at /usr/lib for the next, and a linker
    script names it the other way round.
    """
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")


def unpack_deb(deb: Path, root: Path) -> None:
    """Extract a Debian package below ``root``, through the links that it has for folders."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as archive:
        command = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)]
        done = subprocess.run(command, stdin=archive.stdout, capture_output=True, text=True, check=False)
    if done.returncode or archive.returncode:
        raise BuildError(f"{deb.name} cannot be unpacked: {done.stderr[-500:]}")


def _sysroot(target: Target) -> Path:
    """Fetched by apt in folders of its own: it chooses, checks and downloads, and nothing is installed."""
    what = f"{target.release.suite} {target.arch.name} {LIBRARIES} merged"
    key = hashlib.sha256(what.encode()).hexdigest()[:12]
    root = CACHE / "packaging" / f"sysroot-{target.release.suite}-{target.arch.name}-{key}"
    if (root / "stamp").exists():
        return root
    supersede(root)
    merged(root)
    apt = root / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    components = "main" if target.release.distribution == "debian" else "main universe"
    where = f"{mirror(target.release, target.arch)} {target.release.suite} {components}"
    source = f"deb [arch={target.arch.name} signed-by={keyring(target.release)}] {where}\n"
    (apt / "sources.list").write_text(source)
    say(f"fetching {target.arch.name}'s headers and libraries")
    options = {
        "APT::Architecture": target.arch.name,
        "APT::Architectures": target.arch.name,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Dir::State::status": apt / "status",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
    }
    get = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run([*get, "update"])
    run([*get, "install", "--download-only", "-y", f"lib{target.python}-dev", *LIBRARIES])
    owners = []
    for deb in sorted((apt / "archives").glob("*.deb")):
        unpack_deb(deb, root)
        package = run(["dpkg-deb", "--field", deb, "Package"]).strip()
        for line in run(["dpkg-deb", "--contents", deb]).splitlines():
            path = line.split(maxsplit=5)[5].split(" -> ")[0]
            if ".so." in path:
                owners.append(f"{Path(path).name} {package}\n")
    (root / "owners").write_text("".join(owners))
    shutil.rmtree(apt)
    (root / "stamp").touch()
    return root


def owner_of(target: Target, soname: str) -> str:
    """The Debian package that has a shared library."""
    if target.foreign:
        known = dict(line.split() for line in (library_root(target) / "owners").read_text().splitlines())
        if soname not in known:
            raise BuildError(f"nobody's library: {soname}")
        return known[soname]
    # Either spelling: Debian files a library where it lay before /lib became a link to /usr/lib.
    paths = [f"{prefix}/{target.arch.triplet}/{soname}" for prefix in ("/usr/lib", "/lib")]
    found = subprocess.run(["dpkg-query", "-S", *paths], capture_output=True, text=True, check=False).stdout
    if not found:
        raise BuildError(f"nobody's library: {soname}")
    return found.split(":")[0]
