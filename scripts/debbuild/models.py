"""The model that the package carries: the default bundle, or an integrator's, signed while the package is built.

Private keys are read by `idiolect bundle sign`, a process of its own, and only signatures come back. The public halves
go into the package: the bundle key among the trusted ones, the policy key for `idiolect provision`. Where the private
keys are out of reach, a bundle that was signed there is taken with its public keys instead.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from debbuild.layout import ETC
from debbuild.machine import run, say
from debbuild.targets import ROOT, BuildError, Target
from debbuild.tree import unpack

POLICY = "usr/share/idiolect/policy.pem"
_KEEP = ("manifest.json", "approvals.json", "model.sig")
"""Of a bundle, beside what its manifest lists."""


@dataclass(frozen=True, slots=True)
class Signing:
    """A bundle to be signed here."""

    bundle_key: Path
    policy_key: Path
    directory: Path | None = None
    name: str | None = None
    version: int | None = None
    pcr: int | None = None
    pcr_start: str | None = None
    upgrade_from: tuple[Path, ...] = ()
    password_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A bundle that was signed elsewhere; ``keys`` holds bundle.pem and policy.pem, as `bundle keygen` calls them."""

    directory: Path
    keys: Path


def install(target: Target, root: Path, wheels: Mapping[str, Path], asked: Signing | Signed | Path | None) -> None:
    """Put the bundle into its place in the tree. ``wheels`` are this machine's: signing and checking run here."""
    place = root / target.site / "idiolect" / "bundles" / "default"
    if asked is None:
        return
    if isinstance(asked, Path):
        _replace(place, asked)
        _say_lacks(place)
        return
    with tempfile.TemporaryDirectory() as work:
        idiolect = _Idiolect(Path(work) / "site", wheels)
        if isinstance(asked, Signed):
            name, about = idiolect.verify(asked, Path(work) / "keys.d")
            _replace(place, asked.directory)
            public = [(asked.keys / name).read_text() for name in ("bundle.pem", "policy.pem")]
        else:
            name, about = idiolect.sign(asked, asked.directory or place, Path(work) / "bundle")
            _replace(place, Path(work) / "bundle")
            public = [idiolect.public(key, asked.password_file) for key in (asked.bundle_key, asked.policy_key)]
        say(f"the model: {about}")
        _say_lacks(place)
        for text, path in zip(public, (root / ETC / "keys.d" / f"{name}.pem", root / POLICY), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def _say_lacks(place: Path) -> None:
    """Warn of what the model lacks: who builds the package can still mend it."""
    code = (
        "import sys; from pathlib import Path; from idiolect.trust.bundle.lacking import lacking;"
        "files = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()};"
        "print('\\n'.join(map(str, lacking(files))))"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "daemon"), "PYTHONDONTWRITEBYTECODE": "1"}
    for line in run([sys.executable, "-s", "-c", code, place], env=environment).splitlines():
        if line:
            say(f"WARNING: the model: {line}")


def _replace(place: Path, source: Path) -> None:
    """Only what belongs to a bundle: no file that happens to lie beside it, such as a key, is shipped."""
    manifest = json.loads((source / "manifest.json").read_bytes())
    names = [*manifest["files"], *(name for name in _KEEP if (source / name).exists())]
    shutil.rmtree(place)
    place.mkdir()
    for name in names:
        if Path(name).name != name or (source / name).is_symlink():
            raise BuildError(f"{source / name} is no plain file of a bundle")
        shutil.copyfile(source / name, place / name)


class _Idiolect:
    """Idiolect's own command line, with the locked cryptography, on this machine."""

    def __init__(self, site: Path, wheels: Mapping[str, Path]) -> None:
        site.mkdir()
        for name in ("cffi", "cryptography"):
            unpack(name, wheels[name], site)
        self._env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "daemon")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def sign(self, asked: Signing, source: Path, out: Path) -> tuple[str, str]:
        command: list[str | Path] = ["-m", "idiolect.cli.main", "bundle", "sign", source, "--out", out, "--json"]
        command += ["--bundle-key", asked.bundle_key.resolve(), "--policy-key", asked.policy_key.resolve()]
        options = {"--name": asked.name, "--version": asked.version, "--password-file": asked.password_file}
        options |= {"--pcr": asked.pcr, "--pcr-start": asked.pcr_start}
        for option, value in options.items():
            if value is not None:
                command += [option, str(value)]
        for each in asked.upgrade_from:
            command += ["--upgrade-from", each]
        answer = json.loads(self._run(command))
        return answer["name"], f"{answer['name']} version {answer['version']}, signed by {answer['signer'][:16]}"

    def verify(self, asked: Signed, trusted: Path) -> tuple[str, str]:
        """Its name, and a line about it. As a device with these keys checks it: what that refuses is refused here."""
        trusted.mkdir()
        for name in ("bundle.pem", "policy.pem"):
            if "PRIVATE" in (asked.keys / name).read_text():
                raise BuildError(f"{asked.keys / name} is a private key: it has no place in a package")
        shutil.copyfile(asked.keys / "bundle.pem", trusted / "bundle.pem")
        command: list[str | Path] = ["-m", "idiolect.cli.main", "bundle", "verify", asked.directory.resolve()]
        command += ["--keys", trusted, "--policy-key", asked.keys.resolve() / "policy.pem"]
        verdict = self._run(command).splitlines()[-1]
        manifest = json.loads((asked.directory / "manifest.json").read_bytes())
        return str(manifest["name"]), verdict.removeprefix("OK: ")

    def public(self, key: Path, password: Path | None) -> str:
        code = (
            "import sys; from pathlib import Path; from idiolect.trust.bundle.signing import load_private;"
            "from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat;"
            "word = Path(sys.argv[2]).read_bytes().split(b'\\n')[0].removesuffix(b'\\r') if sys.argv[2] else None;"
            "key = load_private('key', Path(sys.argv[1]).read_bytes(), word).public_key();"
            "print(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), end='')"
        )
        return self._run(["-c", code, key.resolve(), password or ""])

    def _run(self, arguments: list[str | Path]) -> str:
        return run([sys.executable, "-s", *arguments], env=self._env)
