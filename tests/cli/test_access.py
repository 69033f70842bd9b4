"""`idiolect config check` against the unit: what it hides or leaves read-only, and what modes keep from its user."""

# ruff: noqa: S108

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from idiolect.cli import access, main
from idiolect.cli.access import Who, parsed, unreadable, unwritable
from idiolect.trust.bundle.slots import Slots
from tests.support import bundles

ROOT = Path(__file__).parents[2]
NOBODY = Who("nobody", 65534, frozenset({65534, 4242}))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everybody may enter, in no place that the unit hides."""
    folder = Path(tempfile.mkdtemp(dir="/opt" if os.access("/opt", os.W_OK) else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def packaged(**changes: object) -> access.Unit:
    return replace(parsed(access._PACKAGED), **{"who": NOBODY, **changes})


def test_what_is_taken_for_granted_is_what_the_unit_says() -> None:
    said: dict[str, str] = {}
    for line in (ROOT / "systemd" / "idiolectd.service").read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and name in access._WANTED:
            said[name] = f"{said[name]} {value}" if name in said else value
    assert said == access._PACKAGED


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/home/pi/acme", "ProtectHome=yes"),
        ("/root/acme", "ProtectHome=yes"),
        ("/run/user/1000/acme", "ProtectHome=yes"),
        ("/tmp/acme", "PrivateTmp=yes"),
        ("/var/tmp/acme", "PrivateTmp=yes"),
        ("/dev/shm/acme", "InaccessiblePaths="),
        ("/homestead", ""),
        ("/usr/share", ""),
    ],
)
def test_what_is_hidden(path: str, why: str) -> None:
    found = unreadable(packaged(), Path(path))
    assert bool(found) == bool(why)
    assert why in found


def test_a_link_into_a_home_is_no_way_around(open_folder: Path) -> None:
    (open_folder / "link").symlink_to("/home/pi/acme")
    assert "/home/pi/acme is hidden" in unreadable(packaged(), open_folder / "link")


@pytest.mark.parametrize(
    ("said", "path", "hidden"),
    [
        ({"ProtectHome": "no"}, "/home/pi/acme", False),
        ({"ProtectHome": "read-only"}, "/home/pi/acme", False),
        ({"ProtectHome": "tmpfs"}, "/home/pi/acme", True),
        ({"ProtectHome": "tmpfs", "BindReadOnlyPaths": "/srv/a:/home/pi/acme:rbind"}, "/home/pi/acme/x", False),
        ({"ProtectHome": "tmpfs", "BindReadOnlyPaths": "/home/pi/acme"}, "/home/pi/acme", False),
        ({"ProtectHome": "yes", "BindReadOnlyPaths": "/home/pi/acme"}, "/home/pi/acme", True),
        ({"PrivateTmp": "no"}, "/tmp/acme", False),
        ({"TemporaryFileSystem": "/srv:ro"}, "/srv/acme", True),
        ({"TemporaryFileSystem": "/srv:ro", "BindPaths": "/srv/acme"}, "/srv/acme", False),
        ({"InaccessiblePaths": "-/srv/a /srv/b"}, "/srv/a/x", True),
    ],
)
def test_drop_ins_count(said: dict[str, str], path: str, hidden: bool) -> None:
    unit = replace(parsed(access._PACKAGED | said), who=None)
    assert bool(unreadable(unit, Path(path))) == hidden


@pytest.mark.parametrize(
    ("said", "path", "closed"),
    [
        ({}, "/var/lib/idiolect", False),
        ({}, "/var/lib/idiolect/deeper", False),
        ({}, "/run/idiolect", False),
        ({}, "/var/lib/other", True),
        ({}, "/srv/idiolect", True),
        ({}, "/tmp/state", True),
        ({"ReadWritePaths": "/srv/idiolect"}, "/srv/idiolect", False),
        ({"ReadWritePaths": "/srv", "ReadOnlyPaths": "/srv/idiolect"}, "/srv/idiolect", True),
        ({"BindPaths": "/data:/srv/idiolect"}, "/srv/idiolect", False),
        ({"ProtectSystem": "full"}, "/srv/idiolect", False),
        ({"ProtectSystem": "full"}, "/etc/idiolect", True),
        ({"ProtectSystem": "yes"}, "/etc/idiolect", False),
        ({"ProtectSystem": "no"}, "/usr/idiolect", False),
    ],
)
def test_where_the_unit_may_write(said: dict[str, str], path: str, closed: bool) -> None:
    unit = replace(parsed(access._PACKAGED | said), who=None)
    assert bool(unwritable(unit, Path(path))) == closed


@as_root
def test_owners_and_modes_on_the_way(open_folder: Path) -> None:
    unit = packaged(system="no", private_tmp=False, hidden=())
    inner = open_folder / "inner"
    inner.mkdir()
    file = inner / "file"
    file.write_text("")
    assert unreadable(unit, file) == ""
    assert unreadable(unit, inner) == ""
    file.chmod(0o600)
    assert f"{file} cannot be read by user nobody (it belongs to root, mode 0600)" in unreadable(unit, inner)
    file.chmod(0o640)
    os.chown(file, 0, 4242)
    assert unreadable(unit, file) == ""
    inner.chmod(0o700)
    assert f"{inner} cannot be entered by user nobody" in unreadable(unit, file)
    assert "cannot be written to by user nobody" in unwritable(unit, inner / "new" / "deeper")
    os.chown(inner, 65534, 0)
    assert unwritable(unit, inner / "new" / "deeper") == ""
    os.chown(inner, 65534, 4242)
    inner.chmod(0o070)  # the owner's bits count for the owner, however many the group has
    assert unreadable(unit, file)


@as_root
def test_an_access_control_list(open_folder: Path) -> None:
    unit = packaged()
    file = open_folder / "file"
    file.write_text("")
    file.chmod(0o600)

    def allow(*entries: tuple[int, int, int]) -> None:
        none = 0xFFFFFFFF
        whole = [(1, 6, none), *entries, (4, 0, none), (16, 7, none), (32, 0, none)]
        try:
            os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(map(_entry, sorted(whole))))
        except OSError as error:
            pytest.skip(f"no access control lists here: {error.strerror}")

    assert unreadable(unit, file)
    allow((2, 4, 65534))
    assert unreadable(unit, file) == ""
    allow((8, 4, 4242))
    assert unreadable(unit, file) == ""
    allow((2, 0, 65534), (8, 4, 4242))
    assert unreadable(unit, file)
    allow((2, 4, 1))
    assert unreadable(unit, file)


def _entry(entry: tuple[int, int, int]) -> bytes:
    return struct.pack("<HHI", *entry)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Check settings: the exit code, and all problems by field."""
    file = tmp_path / "idiolect.yaml"

    def run(*arguments: str, **settings: object) -> tuple[int, dict[str, str]]:
        file.write_text(yaml.safe_dump(settings))
        code = main.main(["config", "check", str(file), "--json", *arguments])
        answer = json.loads(capsys.readouterr().out)
        assert all(each["file"] == str(file) and each["line"] >= 1 for each in answer["problems"])
        return code, {each["field"]: each["message"] for each in answer["problems"]}

    return run


def test_everything_that_the_unit_may_not_use_is_told_together(check) -> None:
    code, found = check(
        "--as-unit",
        bundle="/home/pi/acme",
        state_dir="/srv/idiolect",
        trust={"keys_dir": "/root/keys"},
        audio={"device": "file:/tmp/x.wav,speed=2"},
        control={"socket": "/srv/control.sock"},
        wyoming={"enabled": True, "socket": "/srv/wyoming.sock"},
        metrics={"socket": "/srv/unused.sock"},
        page={"enabled": True, "socket": "/tmp/page.sock"},
        handoff={"user": "ann", "socket": "/home/ann/handoff.sock"},
    )
    assert code == 78
    found.pop("file", None)  # it lies in a /tmp that the unit does not see
    assert found.keys() == {
        *("bundle", "state_dir", "trust.keys_dir", "audio.device", "control.socket", "wyoming.socket"),
        *("page.socket", "handoff.socket"),
    }
    assert "ProtectHome=yes" in found["bundle"]
    assert "idiolect bundle install" in found["bundle"]
    assert "ReadWritePaths=" in found["state_dir"]


def test_by_hand_a_home_is_no_obstacle(check, tmp_path: Path) -> None:
    bundles.write(bundles.builtin(), tmp_path / "acme")
    assert check(bundle=str(tmp_path / "acme"), state_dir=str(tmp_path / "state")) == (0, {})
    code, found = check("--as-unit", state_dir="/var/lib/idiolect")
    assert code == 78
    assert found.keys() == {"file"}
    assert "PrivateTmp=yes" in found["file"]
    assert "/etc/idiolect" in found["file"]


@as_root
def test_a_configuration_that_only_its_owner_may_read(
    open_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(access, "unit", packaged)
    file = open_folder / "idiolect.yaml"
    file.write_text("state_dir: /var/lib/idiolect\n")
    assert main.main(["config", "check", str(file), "--as-unit"]) == 0
    file.chmod(0o600)
    capsys.readouterr()
    assert main.main(["config", "check", str(file), "--as-unit"]) == 78
    assert f"sudo chmod o+r {file}" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("settings", "field", "why"),
    [
        ({"listening": {"wake_words": ["computer", "hal"]}}, "listening.wake_words[1]", "does not offer 'hal'"),
        ({"listening": {"thresholds": {"view glas": 0.5}}}, "listening.thresholds.view glas", "does not offer"),
        ({"listening": {"phrases": ["computer"]}}, "listening.phrases[0]", "is a wake word in the bundle"),
        ({"bundle": "/nonexistent"}, "bundle", "/nonexistent cannot be read"),
        ({"bundle": "installed", "state_dir": "/nonexistent"}, "bundle", "no bundle is installed"),
        ({"keystore": "tpm"}, "bundle", "this bundle is unsigned"),
    ],
)
def test_the_bundle_is_opened_as_a_start_would(check, settings, field, why) -> None:
    code, found = check(**settings)
    assert code == 78
    assert why in found[field]


@as_root
def test_an_installed_bundle_that_the_unit_may_not_read(check, open_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(access, "unit", packaged)
    made = bundles.unsigned(bundles.builtin())
    Slots(open_folder / "bundles").install(made.files, made.digest[:16])
    settings = {"bundle": "installed", "state_dir": str(open_folder)}
    assert "bundle" not in check("--as-unit", **settings)[1]
    (open_folder / "bundles" / made.digest[:16] / "head.bin").chmod(0o600)
    code, found = check("--as-unit", **settings)
    assert code == 78
    assert "head.bin cannot be read by user nobody" in found["bundle"]
    assert "chown" in found["bundle"]


@pytest.mark.parametrize(
    ("settings", "field", "why"),
    [
        ({"wyoming": {"enabled": True, "socket": "{}/a"}, "metrics": {"enabled": True, "socket": "{}/a"}},
         "metrics.socket", "is the same as wyoming.socket"),
        ({"page": {"enabled": True, "socket": "{}/link/a"}, "metrics": {"enabled": True, "socket": "{}/a"}},
         "page.socket", "is the same as metrics.socket"),
        ({"control": {"socket": "{}/a"}, "handoff": {"user": "root", "socket": "{}/b/../a"}},
         "handoff.socket", "is the same as control.socket"),
        ({"control": {"socket": "{}/file"}}, "control.socket", "is there and no socket"),
        ({"wyoming": {"enabled": True, "socket": "{}/folder"}}, "wyoming.socket", "is there and no socket"),
        ({"state_dir": "{}/file"}, "state_dir", "/file is no directory"),
        ({"state_dir": "{}/file/deeper"}, "state_dir", "/file is no directory"),
        ({"wyoming": {"enabled": False, "socket": "{}/file"}}, "", ""),
    ],
)  # fmt: skip
def test_places_that_are_taken(check, tmp_path: Path, settings, field, why) -> None:
    folder = tmp_path / "run"
    (folder / "b").mkdir(parents=True)
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder)
    (folder / "file").write_text("")
    settings = {"control": {"socket": "{}/c"}, "state_dir": "{}/state", **settings}
    code, found = check(**json.loads(json.dumps(settings).replace("{}", str(folder))))
    assert list(found) == ([field] if field else []), found
    assert code == (78 if field else 0)
    assert why in found.get(field, "")


def test_a_tampered_bundle_is_named(check, tmp_path: Path) -> None:
    bundles.write(bundles.builtin(), tmp_path / "acme")
    (tmp_path / "acme" / "head.bin").write_bytes(b"x")
    code, found = check(bundle=str(tmp_path / "acme"))
    assert code == 78
    assert "head.bin: refused (6)" in found["bundle"]


def test_keys_that_cannot_be_used_are_told_at_their_own_key(check, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("none")
    assert "trust.keys_dir" in check(trust={"keys_dir": str(tmp_path)})[1]
