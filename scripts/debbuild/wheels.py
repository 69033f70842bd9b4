"""Wheels for the target, locked by hash: fetched where there are any, compiled where there is only source.

They are kept in .cache/wheels, one folder for each state of the locks and of this file: the second build takes none
of the minutes of the first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from debbuild.lockfile import Pin, normal, parse
from debbuild.machine import library_root, run, say, supersede
from debbuild.targets import CACHE, MATERIAL, Target

SOURCES = ("pyalsaaudio", "tpm2-pytss")
"""Those without wheels; everything else has to have one."""
TSS = ("tss2-esys", "tss2-mu", "tss2-rc", "tss2-sys", "tss2-tctildr")
"""What tpm2-pytss may find of the TSS. Idiolect speaks ESAPI: without FAPI and policy library, neither they nor
libcurl, json-c and their like come into the daemon's process and onto the device."""
_BUILT_IN = "/tmp/idiolect-wheels"  # noqa: S108  # a fixed name, as compilers put it into what they make
_FLAGS = "-O2 -g0 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -Wformat -Werror=format-security"
_LINK = "-Wl,-z,relro -Wl,-z,now"


def pip(tools: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
    """pip, which is told nothing by this machine's constraints."""
    run([tools / "bin/python", "-m", "pip", "--disable-pip-version-check", "-q", *arguments], env=env)


def tools(target: Target) -> Path:
    """A virtual environment of the release's own Python with the locked build tools."""
    lock = MATERIAL / "build.lock"
    key = hashlib.sha256(lock.read_bytes() + target.python.encode()).hexdigest()[:16]
    folder = CACHE / "packaging" / f"tools-{target.release.suite}-{key}"
    if not (folder / "stamp").exists():
        say("making an environment with the locked build tools")
        supersede(folder)
        run([f"/usr/bin/{target.python}", "-m", "venv", "--clear", folder])
        pip(folder, "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", lock)
        (folder / "stamp").touch()
    return folder


def collect(target: Target, *, fresh: bool = False) -> dict[str, Path]:
    """The wheel of every locked package, by its normal name."""
    pins = parse(MATERIAL / "requirements.lock")
    material = [MATERIAL / "requirements.lock", MATERIAL / "build.lock", Path(__file__)]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in material)).hexdigest()[:16]
    folder = CACHE / "wheels" / f"{target.release.suite}-{target.arch.name}-{key}"
    if fresh or not (folder / "stamp").exists():
        supersede(folder)
        _fetch(target, [pin for name, pin in pins.items() if name not in SOURCES], folder)
        _compile(target, [pins[name] for name in SOURCES], folder)
        (folder / "stamp").touch()  # last: what has a stamp is whole
    found = {normal(path.name.split("-")[0]): path for path in sorted(folder.glob("*.whl"))}
    if missing := sorted(pins.keys() - found.keys()):
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: remove it")
    return found


def requirements(pins: Iterable[Pin], folder: Path) -> Path:
    """A file of them, as pip reads it."""
    path = folder / "requirements.txt"
    path.write_text("".join(f"{pin.requirement()}\n" for pin in pins))
    return path


def _fetch(target: Target, pins: list[Pin], folder: Path) -> None:
    say(f"fetching wheels for {target.arch.name}")
    with tempfile.TemporaryDirectory() as work:
        what = ("-r", requirements(pins, Path(work)))
        pip(tools(target), "download", "--require-hashes", "--no-deps", "--dest", folder, *fitting(target), *what)


def fitting(target: Target) -> list[str]:
    """The options that have pip take wheels for the target, whatever it runs on itself."""
    python = ["--only-binary=:all:", "--implementation=cp", f"--python-version={target.abi[2:]}"]
    abis = [f"--abi={abi}" for abi in (target.abi, "abi3", "none")]
    return [*python, *abis, *(f"--platform={platform}" for platform in target.platforms)]


def _compile(target: Target, pins: list[Pin], folder: Path) -> None:
    env, work = _environment(target), Path(_BUILT_IN)
    for pin in pins:
        say(f"compiling {pin.name} {pin.version} for {target.arch.name}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        try:
            pip(
                tools(target),
                *("download", "--require-hashes", "--no-deps", "--no-binary=:all:", "--no-build-isolation"),
                *("--dest", work, "-r", requirements([pin], work)),
                env=env,
            )
            (archive,) = work.glob("*.tar.gz")
            run(["tar", "--extract", "--file", archive, "--directory", work, "--no-same-owner"])
            source = work / archive.name.removesuffix(".tar.gz")
            pip(tools(target), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work, source, env=env)
            (wheel,) = work.glob("*.whl")
            # setuptools names a wheel after the machine that it ran on; what is in it was made for the target.
            name = wheel.name.replace(target.here.machine, target.arch.machine)
            shutil.copyfile(wheel, folder / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _environment(target: Target) -> dict[str, str]:
    """What a compiler is told: the target's headers, hardening, and no name of a folder in the result."""
    root = library_root(target)
    packages = CACHE / "packaging" / f"pkgconfig-{target.release.suite}-{target.arch.name}"
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir(parents=True)
    # pkg-config's own folder lists the whole TSS: it is shown only the files that count.
    for name in TSS:
        for known in root.glob(f"usr/lib/{target.arch.triplet}/pkgconfig/{name}.pc"):
            (packages / known.name).write_bytes(known.read_bytes())
    sources = tools(target)
    gcc = f"{target.tool_prefix}gcc"
    env = {
        "PATH": f"{sources}/bin:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": "315532800",  # what a wheel's zip file can say; the package has its own dates
        "PYTHONHASHSEED": "0",
        "PKG_CONFIG_LIBDIR": str(packages),
        "CFLAGS": f"{_FLAGS} -ffile-prefix-map={_BUILT_IN}=.",
        "LDFLAGS": _LINK,
    } | {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    if not target.foreign:
        return env
    include = root / "usr/include" / target.python
    data = f"_sysconfigdata__{target.arch.triplet}"
    return env | {
        "PKG_CONFIG_SYSROOT_DIR": str(root),
        "CC": gcc,
        "LDSHARED": f"{gcc} -shared",
        # In the flags and not in CC, which tpm2-pytss takes for the name of one program.
        "CFLAGS": f"--sysroot={root} {env['CFLAGS']} -ffile-prefix-map={root}=/ -isystem {include}",
        "LDFLAGS": f"--sysroot={root} {_LINK}",
        "_PYTHON_HOST_PLATFORM": f"linux-{target.arch.machine}",
        "_PYTHON_SYSCONFIGDATA_NAME": data,
        "PYTHONPATH": str(_sysconfigdata(target, root, data)),
    }


def _sysconfigdata(target: Target, root: Path, name: str) -> Path:
    """The target Python's idea of how extensions are called, where this one finds it."""
    folder = CACHE / "packaging" / f"sysconfig-{target.release.suite}-{target.arch.name}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / f"usr/lib/{target.python}/{name}.py", folder / f"{name}.py")
    return folder
