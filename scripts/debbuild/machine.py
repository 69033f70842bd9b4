"""This machine: its commands, its Debian packages, and a foreign architecture's headers beside them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from debbuild.targets import CACHE, BuildError, Target

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
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


def prepare(target: Target) -> None:
    """Install the Debian packages that the build needs and this machine lacks."""
    if not Path(f"/usr/bin/{target.python}").exists():
        message = f"build {target.release.suite}'s package on {target.release.suite}: there is no /usr/bin/"
        raise BuildError(message + target.python)
    minor = target.python
    wanted = ["binutils", f"{minor}-venv", "pkg-config"]
    if target.foreign:
        machine = target.arch.machine
        wanted += [f"gcc-{machine}-linux-gnu", f"libc6-dev-{target.arch.name}-cross", "debian-archive-keyring"]
    else:
        wanted += ["gcc", f"{minor}-dev", *LIBRARIES]
    missing = [each for each in wanted if not _installed(each)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise BuildError(f"as root, run: apt-get install {' '.join(missing)}")
    say(f"installing Debian packages: {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    try:
        run(install, env=env)
    except BuildError:  # the lists may be older than the mirror
        run(["apt-get", "update", "-qq"], env=env)
        run(install, env=env)


def supersede(folder: Path) -> None:
    """Make way for ``folder``, NAME-KEY: what was made under other keys goes, as nobody would ever ask for it again."""
    for old in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"):
        shutil.rmtree(old)
    folder.mkdir(parents=True)


def library_root(target: Target) -> Path:
    """Where the target's headers and libraries lie: here, or for a foreign architecture in a folder of their own."""
    return _sysroot(target) if target.foreign else Path("/")


def _mirror() -> str:
    """The Debian mirror that this machine uses anyway."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split()
    for uri in listed:
        if uri.rstrip("/").endswith("/debian"):
            return uri
    raise BuildError("none of this machine's apt sources is a Debian mirror: the other architecture cannot be built")


def _sysroot(target: Target) -> Path:
    """Fetched by apt in folders of its own: it chooses, checks and downloads, and nothing is installed."""
    what = f"{target.release.suite} {target.arch.name} {LIBRARIES}"
    key = hashlib.sha256(what.encode()).hexdigest()[:12]
    root = CACHE / "packaging" / f"sysroot-{target.release.suite}-{target.arch.name}-{key}"
    if (root / "stamp").exists():
        return root
    supersede(root)
    apt = root / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    source = f"deb [arch={target.arch.name} signed-by={KEYRING}] {_mirror()} {target.release.suite} main\n"
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
        run(["dpkg-deb", "--extract", deb, root])
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
