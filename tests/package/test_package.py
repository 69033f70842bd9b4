"""The Debian package: what is in it, and what must not be."""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import re
import stat
import subprocess
import zlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from debbuild.lockfile import normal, parse
from debbuild.package import LIMIT_MIB
from idiolect.config.schema import load
from idiolect.trust.bundle.choose import read_verified
from idiolect.trust.bundle.public_keys import TrustedKeys, fingerprint, load_public
from idiolect.trust.bundle.signing import load_private
from tests.support import packages
from tests.support.packages import BUILD, PREFIX, ROOT, Package, build

pytestmark = packages.LONG
LOCKS = {name: ROOT / "scripts" / "packaging" / f"{name}.lock" for name in ("requirements", "build")}
FROM_DEBIAN = {"numpy", "pyyaml", "systemd-python"}
EXPECTED = (
    "etc/idiolect/idiolect.yaml",
    "usr/bin/idiolect",
    "usr/lib/idiolect/bin/idiolect",
    "usr/lib/idiolect/bin/idiolectd",
    "usr/lib/idiolect/bin/python3",
    "usr/lib/idiolect/idiolect.yaml",
    "usr/lib/systemd/system/idiolect-tcp@.service",
    "usr/lib/systemd/system/idiolect-tcp@.socket",
    "usr/lib/systemd/system/idiolectd.service",
    "usr/lib/systemd/system/idiolectd.socket",
    "usr/lib/sysusers.d/idiolect.conf",
    "usr/lib/tmpfiles.d/idiolect.conf",
    "usr/lib/udev/rules.d/70-idiolect.rules",
    "usr/sbin/idiolectd",
    "usr/share/doc/idiolect/NOTICE",
    "usr/share/doc/idiolect/README.md",
    "usr/share/doc/idiolect/changelog.Debian.gz",
    "usr/share/doc/idiolect/copyright",
    "usr/share/doc/idiolect/examples/pi-speaker.yaml",
    "usr/share/doc/idiolect/idiolect.cdx.json",
    "usr/share/doc/idiolect/idiolect.yaml",
    "usr/share/man/man1/idiolect.1.gz",
    "usr/share/man/man8/idiolectd.8.gz",
)
PRIVATE_PEM = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\s+(Proc-Type|[A-Za-z0-9+/=]{32})")
# PKCS#8 and SEC1 of a P-256 key, and PKCS#8 under a password (PBES2).
PRIVATE_DER = (
    bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107"),
    bytes.fromhex("30770201010420"),
    bytes.fromhex("06092a864886f70d01050d3081"),
)


@pytest.fixture(scope="module")
def package() -> Package:
    """Without keys of anybody's."""
    return packages.plain()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vendor's four keys."""
    from idiolect.cli.main import main

    folder = tmp_path_factory.mktemp("vendor")
    assert main(["bundle", "keygen", str(folder / "keys")]) == 0
    return folder / "keys"


@pytest.fixture(scope="module")
def signed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """With a model that the build signed."""
    options = ("--sign-key", keys / "bundle.key", "--policy-key", keys / "policy.key")
    name = ("--bundle-name", "acme", "--bundle-version", "7", "--version", "9.1~test")
    pcr = ("--pcr", "11", "--pcr-start", (b"s" * 32).hex())
    return build(tmp_path_factory.mktemp("signed"), *options, *name, *pcr)


# -- the lock ---------------------------------------------------------------------------------------------------------


def constraints() -> dict[str, str]:
    lines = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_locked_is_what_was_tested(name: str) -> None:
    tested = constraints()
    pins = parse(LOCKS[name])
    differing = {pin.name for pin in pins.values() if tested.get(pin.name, pin.version) != pin.version}
    assert not differing
    assert "://" not in LOCKS[name].read_text()


def test_every_dependency_is_locked_or_debians() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    asked = settings["options"]["install_requires"].split("\n")
    for extra in ("litert", "tpm", "logind", "systemd"):
        asked += settings["options.extras_require"][extra].split("\n")
    names = {normal(re.split(r"[<>=!~; \[]", line)[0]) for line in filter(None, asked)}
    assert names <= set(parse(LOCKS["requirements"])) | FROM_DEBIAN


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_the_files_are_where_they_belong(package: Package) -> None:
    names = {name for _, _, name in package.listing}
    assert set(EXPECTED) <= names
    assert {"etc/idiolect/conf.d/", "etc/idiolect/keys.d/"} <= names
    homes = ("etc/idiolect/", PREFIX, "usr/lib/systemd/system/", "usr/share/doc/idiolect/", "usr/share/man/man")
    strangers = {name for name in names if name and not name.endswith("/") and not name.startswith(homes)}
    assert strangers <= set(EXPECTED)
    assert (package.root / "usr/bin/idiolect").resolve() == (package.root / PREFIX / "bin/idiolect").resolve()


def test_all_of_it_is_roots_and_nobody_else_may_write(package: Package) -> None:
    for mode, owner, name in package.listing:
        assert owner == "root/root", name
        executable = name.startswith(f"{PREFIX}/bin/")
        wanted = {"d": "drwxr-xr-x", "l": "lrwxrwxrwx", "-": "-rwxr-xr-x" if executable else "-rw-r--r--"}
        assert mode == wanted[mode[0]], name
    for name in ("postinst", "prerm", "postrm"):
        assert stat.S_IMODE((package.root / "DEBIAN" / name).stat().st_mode) == 0o755


def test_what_people_edit_and_nothing_else_is_a_conffile(package: Package, signed: Package) -> None:
    assert (package.root / "DEBIAN/conffiles").read_text() == "/etc/idiolect/idiolect.yaml\n"
    listed = (signed.root / "DEBIAN/conffiles").read_text().split()
    assert listed == ["/etc/idiolect/idiolect.yaml", "/etc/idiolect/keys.d/acme.pem"]


def test_the_sums_are_those_of_the_files(package: Package) -> None:
    lines = (package.root / "DEBIAN/md5sums").read_text().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = [path for path in package.files if package.root / "DEBIAN" not in path.parents]
    assert sums == {
        str(path.relative_to(package.root)): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in files
    }


def test_it_depends_on_what_it_is_linked_with(package: Package) -> None:
    depends = package.control["Depends"].split(", ")
    minor = package.site.parent.name.removeprefix("python3.")
    assert depends[:2] == [f"python3 (>= 3.{minor})", f"python3 (<< 3.{int(minor) + 1})"]
    libraries = ("libasound2", "libseccomp2", "libc6 (>= 2.")
    for start in ("python3-numpy", "python3-yaml", "python3-systemd", "systemd", *libraries):
        assert any(each.startswith(start) for each in depends), start
    assert any(each.startswith("libtss2-tcti-device") for each in depends)
    # FAPI is not compiled in, and with it no HTTP client comes onto a device that has no network.
    assert not [each for each in depends if "fapi" in each or "curl" in each]


def test_it_is_small(package: Package) -> None:
    assert int(package.control["Installed-Size"]) / 1024 <= LIMIT_MIB


def test_every_source_has_bytecode_that_needs_no_look_at_it(package: Package) -> None:
    sources = sorted((package.root / PREFIX).rglob("*.py"))
    assert len(sources) > 200
    (tag,) = {path.name.split(".")[-2] for path in package.site.rglob("*.pyc")}
    magic = None
    for source in sources:
        compiled = (source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc").read_bytes()
        assert int.from_bytes(compiled[4:8], "little") == 0b01, source  # hash-based, unchecked
        assert magic in (None, compiled[:4])
        magic = compiled[:4]
        assert f"/{source.relative_to(package.root)}".encode() in compiled  # as tracebacks will name it


def test_nothing_tells_where_it_was_built(package: Package) -> None:
    # Wheels name the machines of whoever compiled them; ours is the one that must not show.
    places = [str(ROOT).encode(), b"/tmp/idiolect-", str(package.deb.parent).encode()]
    for path in package.files:
        data = path.read_bytes()
        assert not [place for place in places if place in data], path


def test_whose_every_part_is_can_be_read(package: Package) -> None:
    text = (package.root / "usr/share/doc/idiolect/copyright").read_text()
    assert text.startswith("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n")
    fields = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert all(re.match(r"[A-Z][A-Za-z-]+:", line) for line in fields)
    assert "speech_embedding" in text  # NOTICE
    assert len(re.findall(r"(?m)^Files: ", text)) == 1 + len(parse(LOCKS["requirements"]))
    for name in sorted(path.name for path in package.site.iterdir()):
        known = name.startswith(("idiolect", "debian.pth", "__pycache__")) or name.endswith(".dist-info")
        assert known or f"site-packages/{name}" in text, name


# -- the bill of materials --------------------------------------------------------------------------------------------


_CYCLONEDX = "http://cyclonedx.org/schema"


def test_the_bill_is_valid_and_complete(package: Package) -> None:
    from jsonschema import Draft7Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT7

    there = ".cache/packaging/tools-*/lib/*/*/cyclonedx/schema/_res/bom-1.6.*.json"  # one for each release
    folder = min(path.parent for path in ROOT.glob(there))
    official = f"{_CYCLONEDX}/bom-1.6.SNAPSHOT.schema.json"
    schemas = {path.name: json.loads(path.read_text()) for path in folder.glob("*.schema.json")}
    known = [(f"{_CYCLONEDX}/{name}", Resource.from_contents(schema, DRAFT7)) for name, schema in schemas.items()]
    bill = json.loads((package.root / "usr/share/doc/idiolect/idiolect.cdx.json").read_text())
    validator = Draft7Validator({"$ref": official}, registry=Registry().with_resources(known))
    validator.validate(bill)
    assert bill == json.loads(next(package.deb.parent.glob("*.cdx.json")).read_text())
    parts = {part["name"]: part for part in bill["components"]}
    for pin in parse(LOCKS["requirements"]).values():
        part = parts[pin.name]
        assert part["version"] == pin.version
        assert part["purl"] == f"pkg:pypi/{pin.name}@{pin.version}"
        assert part["licenses"]
        if pin.name not in ("pyalsaaudio", "tpm2-pytss"):  # compiled here
            assert part["hashes"][0]["content"] in pin.hashes
    assert "openssl" in {inner["name"] for inner in parts["cryptography"]["components"]}
    for relation in package.control["Depends"].split(", "):
        assert "external" in parts[relation.split()[0]]["properties"][0]["name"]
    inner = [each for part in parts.values() for each in part.get("components", []) if each["type"] == "file"]
    shipped = {each["name"]: each["hashes"][0]["content"] for each in inner}
    compiled = [path for path in package.files if path.read_bytes()[:4] == b"\x7fELF"]
    assert shipped == {str(p.relative_to(package.site)): hashlib.sha256(p.read_bytes()).hexdigest() for p in compiled}


# -- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_build_gives_the_same_bytes(package: Package, tmp_path: Path) -> None:
    again = build(tmp_path)
    names = [p.relative_to(package.root) for p in package.files]
    assert [p.relative_to(again.root) for p in again.files] == names
    differing = [str(name) for name in names if (package.root / name).read_bytes() != (again.root / name).read_bytes()]
    assert not differing
    assert package.deb.read_bytes() == again.deb.read_bytes()


# -- signing ----------------------------------------------------------------------------------------------------------


def test_the_build_signs_the_model_and_ships_the_public_keys(signed: Package, keys: Path) -> None:
    trusted = TrustedKeys.parse({"acme.pem": (signed.root / "etc/idiolect/keys.d/acme.pem").read_bytes()}, b"")
    verified = read_verified(signed.site / "idiolect/bundles/default", trusted)
    assert (verified.manifest.name, verified.manifest.version) == ("acme", 7)
    policy = load_public("policy.pem", (signed.root / "usr/share/idiolect/policy.pem").read_bytes())
    assert fingerprint(policy) == fingerprint(load_public("policy.pem", (keys / "policy.pem").read_bytes()))
    assert {each.key for each in verified.approvals} == {fingerprint(policy)}
    assert {(each.pcr, each.from_) for each in verified.approvals} == {(11, b"s" * 32)}
    assert '__version__ = "9.1~test"' in (signed.site / "idiolect/__init__.py").read_text()
    assert signed.control["Version"] == f"9.1~test-1~{signed.release.tag}"


def test_a_signed_model_asks_for_a_tpm_and_an_unsigned_one_does_not(package: Package, signed: Package) -> None:
    assert load([signed.root / PREFIX / "idiolect.yaml"]).keystore == "tpm"
    assert load([package.root / PREFIX / "idiolect.yaml"]).keystore == "file"
    assert load([signed.root / PREFIX / "idiolect.yaml", signed.root / "etc/idiolect/idiolect.yaml"]).keystore == "tpm"


def test_no_private_key_gets_in(package: Package, signed: Package, keys: Path) -> None:
    """None in any form that this test knows, and in no form the two that the build read."""
    wanted = list(PRIVATE_DER)
    for name in ("bundle.key", "policy.key"):
        key = load_private(name, (keys / name).read_bytes(), None)
        scalar = key.private_numbers().private_value.to_bytes(32, "big")
        wanted += [scalar, scalar[::-1], scalar.hex().encode(), base64.b64encode(scalar)[:40]]
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        wanted += [der, base64.b64encode(der)[60:120]]
    assert PRIVATE_PEM.search((keys / "bundle.key").read_bytes())  # the search works
    for path in (*package.files, *signed.files):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = zlib.decompress(data, wbits=31)
        assert not PRIVATE_PEM.search(data), path
        assert not [each for each in wanted if each in data], path


@pytest.mark.slow
def test_a_model_that_was_signed_elsewhere_comes_with_its_public_keys(keys: Path, tmp_path: Path) -> None:
    from idiolect.cli.main import main

    signed, public = tmp_path / "acme", tmp_path / "public"
    names = ("--bundle-key", str(keys / "bundle.key"), "--policy-key", str(keys / "policy.key"), "--out", str(signed))
    assert main(["bundle", "sign", "builtin", "--name", "acme", *names]) == 0
    (signed / "bundle.key").write_bytes((keys / "bundle.key").read_bytes())  # lies there by mistake
    public.mkdir()
    for name in ("bundle.pem", "policy.pem"):
        (public / name).write_bytes((keys / name).read_bytes())
    with pytest.raises(AssertionError, match="refused"):  # which is an extra file, as a device would say too
        build(tmp_path / "out", "--bundle", signed, "--public-keys", public)
    (signed / "bundle.key").unlink()
    made = build(tmp_path / "out", "--bundle", signed, "--public-keys", public)
    assert (made.root / "etc/idiolect/keys.d/acme.pem").read_bytes() == (keys / "bundle.pem").read_bytes()
    assert (made.site / "idiolect/bundles/default/model.sig").read_bytes() == (signed / "model.sig").read_bytes()


def test_half_of_the_keys_is_a_mistake(tmp_path: Path, keys: Path) -> None:
    command = [BUILD, "--out", tmp_path, "--sign-key", keys / "bundle.key"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "go together" in done.stderr
    assert not list(tmp_path.iterdir())
