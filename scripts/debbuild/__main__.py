"""The command line of scripts/build_deb."""

from __future__ import annotations

import argparse
import configparser
import fcntl
import os
import re
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from debbuild import depends, elsewhere, layout, licences, machine, models, origin, package, sbom, tree, wheels
from debbuild.machine import say
from debbuild.targets import ARCHES, CACHE, RELEASES, ROOT, Arch, BuildError, Release, Target

_EPILOG = f"""\
releases: {", ".join(f"{each.suite} ({each.name})" for each in RELEASES.values())}.
A release's own python3 compiles what it will run. Where this machine is another release of the same distribution, the
package is built in a root of the one that was asked for, which debootstrap makes in .cache/roots; that takes root.
For Ubuntu, build on Ubuntu. docs/integrator.md says which packages have been installed and run.

Two builds of one commit give the same bytes, unless they sign: an ECDSA signature is different every time. To get
the same then too, sign once (idiolect bundle sign) and pass the result with --bundle and --public-keys.
"""
_OF_SIGNING = ("bundle_name", "bundle_version", "upgrade_from", "pcr", "pcr_start")


def main() -> int:
    """Exit status 1 and one line when something is missing or wrong."""
    here = machine.this_release()
    options = build_parser(here).parse_args()
    os.umask(0o022)
    CACHE.mkdir(exist_ok=True)
    try:
        if not options.release:
            raise BuildError(f"no package is built for what this machine runs: --release {'|'.join(RELEASES)}")
        asked = _signing(options)
        if here != RELEASES[options.release]:
            return elsewhere.build(options, RELEASES[options.release], _here())
        with (CACHE / "build_deb.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # two at once take turns: they share caches
            _build(options, asked)
    except BuildError as error:
        print(f"build_deb: {error}", file=sys.stderr)
        return 1
    return 0


def _build(options: argparse.Namespace, asked: models.Signing | models.Signed | Path | None) -> None:
    began = time.monotonic()
    here = _here()
    target = Target(RELEASES[options.release], ARCHES[options.arch] if options.arch else here, here)
    layout.check()
    machine.prepare(target)
    ours, epoch = options.version or _version(), origin.epoch()
    version = target.release.version(ours)
    found = wheels.collect(target, fresh=options.fresh)
    native = found if not target.foreign else {}
    if isinstance(asked, models.Signing | models.Signed) and not native:
        machine.prepare(Target(target.release, here, here))
        native = wheels.collect(Target(target.release, here, here))
    with tempfile.TemporaryDirectory(prefix="idiolect-deb-") as work:
        root = Path(work) / "idiolect"
        root.mkdir()
        say("laying out the package")
        tree.make(target, found, root, ours)
        models.install(target, root, native, asked)
        layout.fill(root, ours)
        if (root / models.POLICY).exists():
            layout.ask_for_tpm(root)
        needs = depends.depends(target, root)
        owned = {name: licences.of_wheel(name, wheel) for name, wheel in found.items()}
        bill = sbom.make(sbom.Described(target, root, version, epoch), found, owned, needs)
        (root / layout.DOC / "idiolect.cdx.json").write_text(bill)
        places = {name: (licence, _places(root / target.site, found[name])) for name, licence in owned.items()}
        (root / layout.DOC / "copyright").write_text(licences.copyright_file(target.site, places))
        package.changelog(root, target, version, epoch, origin.commit())
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
        elsewhere.hand_over(options.out, deb, options.out / f"{name}.cdx.json")
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
        if any(getattr(options, name) not in (None, []) for name in _OF_SIGNING):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in _OF_SIGNING)
            raise BuildError(f"what goes into a signature ({names}) makes sense only with --sign-key and --policy-key")
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
        pcr=options.pcr,
        pcr_start=options.pcr_start,
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


def _debian_version(text: str) -> str:
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~-]*", text):
        raise argparse.ArgumentTypeError("a Debian version: it begins with a digit, then letters, digits, . + ~ -")
    return text


def build_parser(here: Release | None) -> argparse.ArgumentParser:
    """The options; ``here`` is what this machine runs, if that is one of the releases."""
    about = "Build the Debian package: dist/idiolect_VERSION-1~RELEASE_ARCH.deb, and its bill of materials beside it."
    parser = argparse.ArgumentParser(
        prog="build_deb", description=about, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHES, help="architecture (default: this machine's)")
    suite = here.suite if here else None
    about = f"for which release (default: this machine's, {suite or 'which is none of them'})"
    parser.add_argument("--release", choices=RELEASES, default=suite, help=about)
    about = f"instead of the one in setup.cfg, {_version()}; -1 and the release are added to it"
    parser.add_argument("--version", type=_debian_version, metavar="V", help=about)
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
    about = "PCR that devices measure it into, as `idiolect bundle sign` has it (default: 14)"
    model.add_argument("--pcr", type=int, metavar="N", help=about)
    about = "what that PCR holds before the daemon starts, 64 hex digits: on PCs whose firmware measures into it"
    model.add_argument("--pcr-start", metavar="HEX", help=f"{about} (default: zeros)")
    model.add_argument("--password-file", type=Path, metavar="FILE", help="its first line opens encrypted keys")
    return parser


if __name__ == "__main__":
    sys.exit(main())
