"""`idiolect bundle keygen | sign`: the commands for a vendor's machine, where the private keys are."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.cli.files import (
    SHORT,
    CommandError,
    described,
    emit,
    files_explained,
    lack_lines,
    lacks,
    opened,
    read,
    whole,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from idiolect.trust.bundle.approvals import Approval
    from idiolect.trust.bundle.verify import Verified

_BUILTIN = "builtin"
_PASSWORD_CAP = 1024


def keygen_options(keygen: argparse.ArgumentParser) -> None:
    """Add the options of `keygen` to its parser."""
    keygen.add_argument("directory", metavar="DIR", help="where bundle.key, bundle.pem, policy.key, policy.pem go")
    keygen.add_argument("--password-file", metavar="FILE", help="encrypt the private keys with its first line")


def sign_options(sign: argparse.ArgumentParser) -> None:
    """Add the options of `sign` to its parser."""
    sign.add_argument("directory", metavar="DIR", help=f"the bundle, or {_BUILTIN}: the one that comes with Idiolect")
    sign.add_argument("--bundle-key", metavar="FILE", required=True, help="private key that signs (PEM)")
    about = "private key that approves boots (PEM); a second one while a device's policy key is replaced"
    sign.add_argument("--policy-key", metavar="FILE", required=True, action="append", help=about)
    sign.add_argument("--out", metavar="DIR", help="write the signed bundle here; without it DIR itself is signed")
    sign.add_argument("--name", metavar="NAME", help="a new name")
    sign.add_argument("--version", type=_version, metavar="N", help="a new version: devices compare it, from 1")
    about = "a signed bundle that this one may replace without a reboot; may be given again"
    sign.add_argument("--upgrade-from", metavar="DIR", action="append", default=[], help=about)
    sign.add_argument("--pcr", type=_pcr, default=14, metavar="N", help="PCR that is measured into, 0 to 15 (14)")
    about = "what that PCR holds before the daemon starts (64 hex digits); without it zeros"
    sign.add_argument("--pcr-start", type=_digest, default=bytes(32), metavar="HEX", help=about)
    sign.add_argument("--password-file", metavar="FILE", help="its first line opens encrypted keys")


@files_explained
def keygen(options: argparse.Namespace) -> int:
    """Run `idiolect bundle keygen`: write two fresh pairs of keys."""
    from idiolect.host.files import write_durably
    from idiolect.trust.bundle import signing
    from idiolect.trust.bundle.public_keys import fingerprint, load_public

    directory, files = Path(options.directory), signing.keygen(_password(options))
    for name in files:
        if os.path.lexists(directory / name):
            raise CommandError(f"{directory / name} exists: a key is never overwritten; name another directory")
    for name, pem in files.items():
        write_durably(directory / name, pem, 0o600 if name.endswith(".key") else 0o644)
    prints = {name: fingerprint(load_public(name, files[name])) for name in ("bundle.pem", "policy.pem")}
    lines = [
        f"wrote {', '.join(files)} to {directory}",
        f"bundle key  {prints['bundle.pem']}",
        f"policy key  {prints['policy.pem']}",
        "keep *.key off every device, and a copy of them where no fire reaches both",
        "next: bundle.pem into keys.d of each device; idiolect provision --policy-key policy.pem on each;",
        "      idiolect bundle sign DIR --bundle-key bundle.key --policy-key policy.key",
    ]
    return emit(options, {"directory": str(directory), "files": list(files), "fingerprints": prints}, lines)


@files_explained
def sign(options: argparse.Namespace) -> int:
    """Run `idiolect bundle sign`: write the signed bundle."""
    from idiolect.trust.bundle import signing

    password = _password(options)
    policy = [_private(path, password) for path in options.policy_key]
    plan = signing.Plan(
        bundle_key=_private(options.bundle_key, password),
        policy_keys=policy,
        name=options.name,
        version=options.version,
        pcr=options.pcr,
        pcr_start=options.pcr_start,
        upgrades=[approval for path in options.upgrade_from for approval in _upgrade(path, policy)],
    )
    source, out = _directories(options)
    before = _payload(source)
    signed = signing.sign(before, plan)
    _write(signed, before if out == source else {}, out)
    answer = {"directory": str(out), **described(signed), "lacks": lacks(signed)}
    return emit(options, answer, [*_signed_lines(signed, out), *lack_lines(lacks(signed))])


def _directories(options: argparse.Namespace) -> tuple[Path, Path]:
    if options.directory == _BUILTIN:
        from idiolect.trust.bundle.choose import builtin

        source = builtin()
        if not options.out:
            raise CommandError("the bundle that comes with Idiolect stays as it is: name a directory with --out")
    else:
        source = Path(options.directory)
    out = Path(options.out or source)
    if out.exists() and out.resolve() != source.resolve() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"{out} exists and is no empty directory: name another one with --out")
    return source, source if out.exists() and out.resolve() == source.resolve() else out


def _payload(path: Path) -> dict[str, bytes]:
    """Return manifest and payload of a bundle that is whole, signed or not."""
    from idiolect.trust.bundle.verify import verify

    with opened(path) as source:
        return dict(verify(source, None, allow_unsigned=True).files)


def _upgrade(path: str, policy: Sequence[EllipticCurvePrivateKey]) -> list[Approval]:
    """Return the approvals of a signed bundle that these policy keys made."""
    from idiolect.trust.bundle import approvals

    with opened(Path(path)) as source:
        found = approvals.parse(source.read(approvals.FILE, approvals.CAP))
    mine = [each for each in found if any(approvals.check(each, key.public_key()) for key in policy)]
    if not mine:
        message = f"{path} is approved by none of these policy keys: no device can come from it without a reboot"
        raise CommandError(message)
    return mine


def _write(signed: Verified, before: dict[str, bytes], out: Path) -> None:
    """Write what changed, the signature last: before it is there, what is there passes for nothing."""
    from idiolect.host.files import write_durably
    from idiolect.trust.bundle import signature

    out.mkdir(parents=True, exist_ok=True)  # with the umask's mode: a signed bundle is no secret
    for name in sorted(signed.files, key=lambda name: name == signature.FILE):
        if before.get(name) != signed.files[name]:
            write_durably(out / name, signed.files[name], 0o644)


def _signed_lines(signed: Verified, out: Path) -> list[str]:
    lines = [
        f"signed {signed.manifest.name} version {signed.manifest.version} in {out}",
        f"  model.sig       by bundle key {signed.signer[:SHORT]}, over all other files",
        f"  manifest.json   measures {signed.digest}",
    ]
    for each in signed.approvals:
        change = f"{each.from_.hex()[:SHORT]} -> {each.to.hex()[:SHORT]}"
        lines.append(f"  approvals.json  PCR {each.pcr} {change}, by policy key {each.key[:SHORT]}")
    return [*lines, f"next: idiolect bundle install {out}, on a device with that bundle key in keys.d"]


def _password(options: argparse.Namespace) -> bytes | None:
    if not options.password_file:
        return None
    password = read(options.password_file, _PASSWORD_CAP).split(b"\n")[0].removesuffix(b"\r")
    if not password:
        raise CommandError(f"the first line of {options.password_file} is empty: it holds the password")
    return password


def _private(path: str, password: bytes | None) -> EllipticCurvePrivateKey:
    from idiolect.trust.bundle.public_keys import FILE_CAP
    from idiolect.trust.bundle.signing import load_private

    return load_private(Path(path).name, read(path, FILE_CAP), password)


def _version(text: str) -> int:
    if (version := whole(text)) < 1:
        raise argparse.ArgumentTypeError("versions count from 1")
    return version


def _pcr(text: str) -> int:
    if (pcr := whole(text)) > 15:
        raise argparse.ArgumentTypeError("a PCR from 0 to 15: others can be reset while the system runs")
    return pcr


def _digest(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise argparse.ArgumentTypeError("a PCR's value is 64 hex digits")
    return value
