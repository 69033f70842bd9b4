"""scripts/build_deb before it builds: for which release, under which version, and what it says when something lacks."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from debbuild import elsewhere, machine, origin, roots, wheels
from debbuild.__main__ import build_parser, main
from debbuild.lockfile import parse
from debbuild.targets import ARCHES, RELEASES, BuildError, Release, Target
from tests.conftest import absent
from tests.support.packages import BUILD, LONG, ROOT

HERE = ARCHES["amd64"]


def said(*words: str | Path, status: int, **environment: str) -> str:
    """What the script says, which ends with that status."""
    env = os.environ | environment
    done = subprocess.run([BUILD, *words], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


# -- versions ---------------------------------------------------------------------------------------------------------

ORDER = (
    "0.1.0",
    "0.1.0+acme1",
    "0.1.0+acme2",
    "0.1.1",
    "0.2.0~rc1",
    "0.2.0",
    "0.2.0.1",
    "0.10.0",
    "1:0.1-2",
    "1:0.1-3",
)
"""Of ours, from old to new."""


@pytest.mark.skipif(not shutil.which("dpkg"), reason="no dpkg: this is no Debian")
def test_versions_sort_by_what_we_released_then_by_the_distributions_age() -> None:
    """An upgrade from Debian 12 to 13 takes the newer one's package, and no candidate passes for a release."""
    in_order = [release.version(ours) for ours in ORDER for release in RELEASES.values()]
    assert len(set(in_order)) == len(in_order)
    for older, newer in itertools.pairwise(in_order):
        assert subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=False).returncode == 0, older
    before = ["dpkg", "--compare-versions", "0.1.0", "lt", RELEASES["bookworm"].version("0.1.0")]
    assert subprocess.run(before, check=False).returncode == 0, "packages of old had no release in their version"


def test_a_version_that_names_the_release_names_it_once() -> None:
    bookworm = RELEASES["bookworm"]
    assert bookworm.version("0.1.0") == "0.1.0-1~deb12u1"
    assert bookworm.version("0.1.0-3") == "0.1.0-3~deb12u1"
    assert bookworm.version(bookworm.version("0.1.0")) == bookworm.version("0.1.0")


# -- for which release ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "suite"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "bookworm"),
        ({"ID": "debian", "VERSION_CODENAME": "trixie"}, "trixie"),
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble", "UBUNTU_CODENAME": "noble"}, "noble"),
        ({"ID": "linuxmint", "VERSION_CODENAME": "wilma", "UBUNTU_CODENAME": "noble"}, "noble"),
        ({"ID": "linuxmint", "VERSION_CODENAME": "faye", "DEBIAN_CODENAME": "bookworm"}, "bookworm"),
        ({"ID": "ubuntu", "VERSION_CODENAME": "jammy"}, None),
        ({"ID": "arch"}, None),
    ],
)
def test_the_release_is_the_machines(about: dict[str, str], suite: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "freedesktop_os_release", lambda: about)
    found = machine.this_release()
    assert (found.suite if found else None) == suite


def test_help_names_the_release_and_installs_nothing() -> None:
    text = " ".join(said("--help", status=0).split())
    here = machine.this_release()
    assert f"(default: this machine's, {here.suite if here else 'which is none of them'})" in text
    for release in RELEASES.values():
        assert f"{release.suite} ({release.name})" in text
    for option in re.findall(r" --([a-z-]+)", text):
        assert f'"--{option}"' in (ROOT / "scripts/debbuild/__main__.py").read_text() or option == "help"


def test_another_distributions_release_is_refused_with_what_to_do() -> None:
    here = machine.this_release()
    other = next(each for each in RELEASES.values() if not here or each.distribution != here.distribution)
    assert f"a package for {other.name} is built on" in said("--release", other.suite, status=1)


def test_another_release_takes_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    here = machine.this_release()
    others = [each for each in RELEASES.values() if here and each != here and each.distribution == here.distribution]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for other in others:
        monkeypatch.setattr(sys, "argv", ["build_deb", "--release", other.suite])
        assert main() == 1
        assert f"as root, run: ./scripts/build_deb --release {other.suite}\n" in capsys.readouterr().err


def test_the_build_in_a_root_is_asked_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.chdir(tmp_path / "keys")
    words = ["--release=trixie", "--arch=arm64", "--fresh", "--out=../out", "--sign-key=bundle.key", "--pcr=11"]
    words += ["--policy-key=policy.key", "--upgrade-from=one", "--upgrade-from=two", "--bundle-name=-a b"]
    options = build_parser(None).parse_args(words)
    told = list(elsewhere.arguments(options))
    monkeypatch.chdir("/")
    again = vars(build_parser(None).parse_args(told))
    keys = tmp_path / "keys"
    paths = {"out": tmp_path / "out", "sign_key": keys / "bundle.key", "policy_key": keys / "policy.key"}
    assert again == vars(options) | paths | {"upgrade_from": [keys / "one", keys / "two"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="as root only: files are given away")
def test_what_sudo_made_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "CACHE", tmp_path)
    monkeypatch.setattr(roots, "ROOTS", tmp_path / "roots")
    for name in ("wheels", "roots"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    elsewhere.hand_over(tmp_path / "wheels")
    owners = {name: (tmp_path / name).stat().st_uid for name in ("", "wheels", "wheels/file", "roots", "roots/file")}
    assert owners == {"": 65534, "wheels": 65534, "wheels/file": 65534, "roots": 0, "roots/file": 0}


# -- what may be missing ----------------------------------------------------------------------------------------------


def test_without_git_the_date_is_that_of_the_newest_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    sources = [ROOT / "README.md", *(ROOT / "daemon/idiolect").rglob("*.py")]
    assert origin.epoch() >= int(max(path.stat().st_mtime for path in sources))
    assert origin.commit() == ""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert origin.epoch() == 86400
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(BuildError, match="seconds since 1970"):
        origin.epoch()


@pytest.mark.slow
@LONG
def test_without_python_it_says_so_and_does_not_doubt_the_distribution() -> None:
    if why := roots.hindrance():
        pytest.skip(f"this is tried in a root that has no python3: {why}")
    try:
        bare = roots.minimal(machine.this_release() or RELEASES["bookworm"], HERE)
    except BuildError as error:
        absent(f"no root without python3: {error}")
    done = roots.enter(bare, [BUILD, "--help"], [ROOT])
    assert done.returncode == 1
    assert done.stderr == "build_deb: python3 is missing, which --help needs too: apt-get install python3\n"


# -- another architecture ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb: this is no Debian")
def test_either_spelling_of_a_librarys_place_finds_it(tmp_path: Path) -> None:
    """One release files its C library below /lib and another below /usr/lib; linker scripts name it either way."""
    for number, place in enumerate(("lib/x", "usr/lib/y", "bin", "usr/lib/x")):
        tree = tmp_path / f"tree{number}"
        (tree / "DEBIAN").mkdir(parents=True)
        about = f"Package: p{number}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
        (tree / "DEBIAN/control").write_text(about)
        (tree / place).mkdir(parents=True)
        (tree / place / f"file{number}").touch()
        subprocess.run(["dpkg-deb", "--build", tree, tmp_path / f"{number}.deb"], check=True, capture_output=True)
    root = tmp_path / "root"
    machine.merged(root)
    for number in range(4):
        machine.unpack_deb(tmp_path / f"{number}.deb", root)
    for name in ("lib/x/file0", "lib/y/file1", "bin/file2", "lib/x/file3"):
        assert (root / name).is_file(), name
        assert (root / "usr" / name).is_file(), name
    (tmp_path / "broken.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(BuildError, match=r"broken\.deb cannot be unpacked"):
        machine.unpack_deb(tmp_path / "broken.deb", root)


@pytest.mark.slow
@LONG
@pytest.mark.parametrize("release", RELEASES.values(), ids=lambda release: release.suite)
@pytest.mark.parametrize("arch", ARCHES)
def test_every_locked_wheel_is_there_for(release: Release, arch: str, tmp_path: Path) -> None:
    """Under every release's Python and both architectures, Ubuntu's among them, which no other test can try here."""
    pins = [pin for name, pin in parse(wheels.MATERIAL / "requirements.lock").items() if name not in wheels.SOURCES]
    target = Target(release, ARCHES[arch], HERE)
    options = ["--dry-run", "--ignore-installed", "--require-hashes", "--no-deps", "--target", tmp_path]
    command = [sys.executable, "-m", "pip", "install", *options, *wheels.fitting(target)]
    command += ["-r", wheels.requirements(pins, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "NewConnectionError" in done.stderr:
        absent("no package index can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.search(r"Would install (.*)", done.stdout)[1].split()) == len(pins)
