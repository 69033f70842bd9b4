"""The command line of scripts/build_deb."""

from __future__ import annotations

import argparse
import configparser
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from debbuild import depends, layout, licences, machine, models, package, sbom, tree, wheels
from debbuild.machine import say
from debbuild.targets import ARCHES, CACHE, RELEASES, ROOT, Arch, BuildError, Target

_EPILOG = f"""\
releases: {", ".join(each.suite + ("" if each.tested else " (never built)") for each in RELEASES.values())}.
Tested: bookworm on amd64, installed and run; bookworm on arm64, built here and run under emulation only. A release
is built on itself, as its own python3 compiles what it will run.

Two builds of one commit give the same bytes, unless they sign: an ECDSA signature is different every time. To get
the same then too, sign once (idiolect bundle sign) and pass the result with --bundle and --public-keys.
"""


def main() -> int:
    """Exit status 1 and one line when something is missing or wrong."""
    options = _parser().parse_args()
    os.umask(0o022)
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "build_deb.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two at once take turns: they share caches
        try:
            _build(options)
        except BuildError as error:
            print(f"build_deb: {error}", file=sys.stderr)
            return 1
    return 0


def _build(options: argparse.Namespace) -> None:
    began = time.monotonic()
    here = _here()
    target = Target(RELEASES[options.release], ARCHES[options.arch] if options.arch else here, here)
    layout.check()
    asked = _signing(options)
    machine.prepare(target)
    version, epoch = options.version or _version(), _epoch()
    found = wheels.collect(target, fresh=options.fresh)
    native = found if not target.foreign else {}
    if isinstance(asked, models.Signing | models.Signed) and not native:
        native = wheels.collect(Target(target.release, here, here))
    with tempfile.TemporaryDirectory(prefix="idiolect-deb-") as work:
        root = Path(work) / "idiolect"
        root.mkdir()
        say("laying out the package")
        tree.make(target, found, root, version)
        models.install(target, root, native, asked)
        layout.fill(root, version)
        if (root / models.POLICY).exists():
            layout.ask_for_tpm(root)
        needs = depends.depends(target, root)
        owned = {name: licences.of_wheel(name, wheel) for name, wheel in found.items()}
        bill = sbom.make(sbom.Described(target, root, version, epoch), found, owned, needs)
        (root / layout.DOC / "idiolect.cdx.json").write_text(bill)
        places = {name: (licence, _places(root / target.site, found[name])) for name, licence in owned.items()}
        (root / layout.DOC / "copyright").write_text(licences.copyright_file(target.site, places))
        package.changelog(root, target, version, epoch, _git("rev-parse", "HEAD"))
        table, mib = package.weight(root, target)
        print(table)
        if mib > package.LIMIT_MIB and not options.allow_larger:
            raise BuildError(f"{mib:.1f} MiB are more than {package.LIMIT_MIB:.0f}: leave out more, or --allow-larger")
        package.finish(root, target, version, needs)
        name = f"idiolect_{version}_{target.arch.name}"
        deb = options.out / f"{name}.deb"
        say("packing")
        package.build(root, deb, epoch, options.compression)
        (options.out / f"{name}.cdx.json").write_text(bill)
    print(f"{deb}: {deb.stat().st_size / 2**20:.1f} MiB, {time.monotonic() - began:.0f} s")


def _places(site: Path, wheel: Path) -> tuple[str, ...]:
    """The top-level names that a wheel has in the tree."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist() if (site / name).is_file()}
    return tuple(sorted(name for name in names if not name.endswith(".dist-info")))


def _signing(options: argparse.Namespace) -> models.Signing | models.Signed | Path | None:
    if options.public_keys:
        if options.sign_key or options.policy_key or not options.bundle:
            raise BuildError("--public-keys goes with --bundle, one that is signed already, and without private keys")
        return models.Signed(options.bundle, options.public_keys)
    if not options.sign_key and not options.policy_key:
        if options.bundle_name or options.bundle_version or options.upgrade_from:
            raise BuildError("a name, a version or --upgrade-from make sense only with --sign-key and --policy-key")
        bundle: Path | None = options.bundle
        return bundle
    if not (options.sign_key and options.policy_key):
        raise BuildError("--sign-key and --policy-key go together: one signs the model, the other approves its boot")
    return models.Signing(
        bundle_key=options.sign_key,
        policy_key=options.policy_key,
        directory=options.bundle,
        name=options.bundle_name,
        version=options.bundle_version,
        upgrade_from=tuple(options.upgrade_from),
        password_file=options.password_file,
    )


def _here() -> Arch:
    name = machine.run(["dpkg", "--print-architecture"]).strip()
    if name not in ARCHES:
        raise BuildError(f"this machine's architecture, {name}, is none of {', '.join(ARCHES)}")
    return ARCHES[name]


def _version() -> str:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["metadata"]["version"]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _epoch() -> int:
    """The date of everything: SOURCE_DATE_EPOCH, or the last commit's."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")
    if not text:
        raise BuildError("this is no git checkout: set SOURCE_DATE_EPOCH to the date that the package shall have")
    return int(text)


def _debian_version(text: str) -> str:
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~-]*", text):
        raise argparse.ArgumentTypeError("a Debian version: it begins with a digit, then letters, digits, . + ~ -")
    return text


def _parser() -> argparse.ArgumentParser:
    about = "Build the Debian package: dist/idiolect_VERSION_ARCH.deb, and its bill of materials beside it."
    parser = argparse.ArgumentParser(
        prog="build_deb", description=about, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHES, help="architecture (default: this machine's)")
    parser.add_argument("--release", choices=RELEASES, default="bookworm", help="default: bookworm")
    parser.add_argument("--version", type=_debian_version, metavar="V", help="instead of the one in setup.cfg")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist")
    parser.add_argument("--allow-larger", action="store_true", help=f"more than {package.LIMIT_MIB:.0f} MiB are fine")
    about = "gzip is quick and half as large again: for trying things out (default: xz)"
    parser.add_argument("--compression", choices=package.COMPRESSIONS, default="xz", help=about)
    parser.add_argument("--fresh", action="store_true", help="fetch and compile all dependencies anew")
    model = parser.add_argument_group("the model that the package carries")
    model.add_argument("--bundle", type=Path, metavar="DIR", help="this bundle instead of the default one")
    model.add_argument("--sign-key", type=Path, metavar="FILE", help="sign it with this private bundle key (PEM)")
    model.add_argument("--policy-key", type=Path, metavar="FILE", help="and approve its boot with this private one")
    about = "instead, with a bundle that is signed already: the folder of its bundle.pem and policy.pem"
    model.add_argument("--public-keys", type=Path, metavar="DIR", help=about)
    model.add_argument("--bundle-name", metavar="NAME", help="a new name")
    model.add_argument("--bundle-version", type=int, metavar="N", help="a new version")
    about = "a signed bundle that this one may replace without a reboot; may be given again"
    model.add_argument("--upgrade-from", type=Path, action="append", default=[], metavar="DIR", help=about)
    model.add_argument("--password-file", type=Path, metavar="FILE", help="its first line opens encrypted keys")
    return parser


if __name__ == "__main__":
    sys.exit(main())
