"""The Debian package's maintainer scripts, run on folders of a test's own: what they make, leave and destroy."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from idiolect.trust.device import tpm_keystore
from tests.support.devices import TestDevice
from tests.support.swtpm import Swtpm

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "packaging" / "debian"
PLACES = ("/etc/", "/var/lib/", "/run/", "/usr/share/idiolect/")
"""What the scripts may touch; every one is moved into the test's folder."""
TOOLS = "systemd-sysusers systemd-tmpfiles systemctl udevadm deb-systemd-helper deb-systemd-invoke ischroot"
SECRETS = ("etc/credstore/idiolect.keystore", "etc/credstore.encrypted/idiolect.keystore")


class Board:
    """A root file system of its own: tools that only note how they were called, and no TPM unless one is given."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for place in PLACES:
            (folder / place.strip("/")).mkdir(parents=True, exist_ok=True)
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in TOOLS.split():
            self.tool(name, f'echo "{name} $*" >>"{folder}/called"\n' + ("exit 1" if name == "ischroot" else ""))

    def tool(self, name: str, body: str) -> None:
        (self.tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.tools / name).chmod(0o755)

    def run(self, script: str, *arguments: str, tpm: str = "/nonexistent/tpm") -> subprocess.CompletedProcess[str]:
        text = (SCRIPTS / script).read_text().replace("/dev/tpmrm0", tpm)
        for place in PLACES:
            text = text.replace(place, f"{self.root}{place}")
        (self.root / script).write_text(text)
        env = {"PATH": f"{self.tools}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        command = ["sh", str(self.root / script), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)

    @property
    def called(self) -> list[str]:
        path = self.root / "called"
        return path.read_text().splitlines() if path.exists() else []

    def systemd(self) -> None:
        """It runs."""
        (self.root / "run/systemd/system").mkdir(parents=True)

    @property
    def credential(self) -> Path:
        return self.root / SECRETS[0]

    @property
    def state(self) -> Path:
        return self.root / "var/lib/idiolect"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_every_shell_understands_them(name: str) -> None:
    subprocess.run(["sh", "-n", SCRIPTS / name], check=True)


@pytest.mark.parametrize("name", ["debian/postinst", "debian/prerm", "debian/postrm", "audit", "check_arm64", "lock"])
def test_the_linter_has_nothing_to_say(name: str) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", SCRIPTS.parent / name], check=True)


# -- installing and upgrading -----------------------------------------------------------------------------------------


def test_the_first_installation_makes_user_and_credential_and_starts_both_units(board: Board) -> None:
    board.systemd()
    said = board.run("postinst", "configure", "").stdout
    assert "idiolect doctor" in said
    assert "provision" not in said  # no TPM here
    assert board.called[:2] == ["systemd-sysusers idiolect.conf", "systemd-tmpfiles --create idiolect.conf"]
    assert board.called[-1] == "deb-systemd-invoke start idiolectd.socket idiolectd.service"
    assert len(board.credential.read_bytes()) == 32
    assert board.credential.stat().st_mode & 0o777 == 0o600
    assert board.credential.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in board.credential.parent.iterdir()] == [board.credential.name]


def test_an_upgrade_restarts_the_service_alone_and_keeps_the_credential(board: Board) -> None:
    board.systemd()
    board.run("postinst", "configure", "")
    before = board.credential.read_bytes()
    (board.root / "called").unlink()
    assert board.run("postinst", "configure", "0.1.0").stdout == ""
    assert [line for line in board.called if "invoke" in line] == [
        "deb-systemd-invoke start idiolectd.socket",
        "deb-systemd-invoke restart idiolectd.service",
    ]
    assert board.credential.read_bytes() == before


@pytest.mark.parametrize("there", ["var/lib/idiolect/keystore.json", SECRETS[1]])
def test_keys_that_were_made_without_the_credential_stay_readable(board: Board, there: str) -> None:
    (board.root / there).parent.mkdir(parents=True, exist_ok=True)
    (board.root / there).touch()
    board.run("postinst", "configure", "")
    assert not board.credential.exists()


def test_where_an_image_is_built_nothing_is_started(board: Board) -> None:
    board.run("postinst", "configure", "")
    assert not [line for line in board.called if "invoke" in line or "systemctl" in line]
    assert any("deb-systemd-helper enable idiolectd.service" in line for line in board.called)


def test_a_unit_that_somebody_disabled_stays_disabled(board: Board) -> None:
    board.tool("deb-systemd-helper", f'echo "$*" >>"{board.root}/called"; [ "$2" != was-enabled ]')
    board.run("postinst", "configure", "0.1.0")
    assert "update-state idiolectd.service" in board.called
    assert not [line for line in board.called if line.startswith("enable")]


def test_without_systemd_the_message_says_what_is_missing(board: Board) -> None:
    (board.tools / "systemd-sysusers").unlink()
    text = (SCRIPTS / "postinst").read_text()
    script = board.root / "postinst"
    script.write_text(text.replace("command -v systemd-sysusers", "false"))
    done = subprocess.run(["sh", script, "configure", ""], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install systemd" in done.stderr


def test_removal_stops_the_daemon_and_keeps_everything(board: Board) -> None:
    board.systemd()
    board.run("postinst", "configure", "")
    board.state.mkdir()
    board.run("prerm", "remove")
    assert "idiolectd.service" in board.called[-1]
    assert board.called[-1].startswith("deb-systemd-invoke stop ")
    board.run("postrm", "remove")
    assert board.credential.exists()
    assert board.state.exists()


def test_an_upgrade_stops_nothing_before(board: Board) -> None:
    board.systemd()
    board.run("prerm", "upgrade", "0.2.0")
    assert board.called == []


# -- purge ------------------------------------------------------------------------------------------------------------


def test_the_script_names_the_indices_that_the_daemon_uses() -> None:
    text = (SCRIPTS / "postrm").read_text()
    for index in (*tpm_keystore.SLOTS, tpm_keystore.MINIMUM, tpm_keystore.STORAGE_KEY, tpm_keystore.ATTESTATION_KEY):
        assert f"{index:08x}" in text


def test_purge_removes_keys_state_and_settings(board: Board) -> None:
    board.run("postinst", "configure", "")
    state = ("var/lib/idiolect/keystore.json", "var/lib/idiolect/vault.db")
    for name in (*state, "etc/idiolect/keys.d/a.pem", SECRETS[1]):
        (board.root / name).parent.mkdir(parents=True, exist_ok=True)
        (board.root / name).write_text("x")
    outside = board.root / "outside"
    outside.write_text("somebody else's")
    (board.state / "device.json").symlink_to(outside)
    for _ in range(2):  # again changes nothing
        said = board.run("postrm", "purge")
        assert said.stderr == ""
    assert outside.read_text() == "somebody else's"
    left = [p for p in board.root.rglob("*") if "idiolect" in p.relative_to(board.root).as_posix() and p.is_file()]
    assert left == []
    assert not board.state.exists()
    assert not (board.root / "etc/idiolect").exists()


@contextmanager
def device_file(chip: Swtpm) -> Iterator[str]:
    """What /dev/tpmrm0 is on a board: one write is a command, then the answer can be read. A pty before swtpm."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)

    def serve() -> None:
        while True:
            try:
                command = os.read(ours, 4096)
            except OSError:
                return
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(chip.socket))
                line.sendall(command)
                answer = line.recv(10)
                size = struct.unpack(">I", answer[2:6])[0]
                while len(answer) < size:
                    answer += line.recv(4096)
            os.write(ours, answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(theirs)
    finally:
        os.close(theirs)
        thread.join(60)
        os.close(ours)


def left_in(device: TestDevice) -> list[int]:
    from idiolect.trust.device.tpm import Tpm

    everything = (*tpm_keystore.SLOTS, tpm_keystore.MINIMUM, tpm_keystore.STORAGE_KEY, tpm_keystore.ATTESTATION_KEY)
    with Tpm(device.config.trust.tcti) as tpm:
        return [each for each in everything if tpm.exists(each)]


@pytest.fixture
def provisioned(board: Board, tpm: Swtpm) -> TestDevice:
    device = TestDevice(board.root, tpm)
    device.provision()
    shutil.copytree(device.state, board.state)
    assert len(left_in(device)) == 5
    return device


def test_purge_deletes_the_secret_in_the_tpm(board: Board, provisioned: TestDevice, tpm: Swtpm) -> None:
    with device_file(tpm) as path:
        said = board.run("postrm", "purge", tpm=path)
    assert said.stderr == ""
    assert left_in(provisioned) == []
    assert not board.state.exists()


def test_purge_finds_half_of_it_gone_already(board: Board, provisioned: TestDevice, tpm: Swtpm) -> None:
    from idiolect.trust.device.tpm import Tpm

    with Tpm(provisioned.config.trust.tcti) as chip:
        chip.undefine(tpm_keystore.MINIMUM)
        chip.evict(tpm_keystore.ATTESTATION_KEY)
    with device_file(tpm) as path:
        said = board.run("postrm", "purge", tpm=path)
    assert said.stderr == ""
    assert left_in(provisioned) == []


def test_an_owner_auth_is_in_the_way_and_the_commands_are_named(
    board: Board, provisioned: TestDevice, tpm: Swtpm
) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    with ESAPI(tpm.tcti) as esys:
        esys.hierarchy_change_auth(ESYS_TR.OWNER, b"secret")
    with device_file(tpm) as path:
        said = board.run("postrm", "purge", tpm=path).stderr
    assert "tpm2_nvundefine -C o -P AUTH 0x01801d00" in said
    assert "tpm2_evictcontrol -C o -P AUTH -c 0x81001d00" in said
    assert len(left_in(provisioned)) == 5
    assert not board.state.exists()


def test_keys_of_others_in_the_tpm_are_left_alone(board: Board, provisioned: TestDevice, tpm: Swtpm) -> None:
    """No record of a TPM of ours in the state directory; and a chroot, whose /dev is another system's."""
    with device_file(tpm) as path:
        board.tool("ischroot", "exit 0")
        assert "chroot" in board.run("postrm", "purge", tpm=path).stderr
        board.tool("ischroot", "exit 1")
        assert board.run("postrm", "purge", tpm=path).stderr == ""  # the record is gone now
    assert len(left_in(provisioned)) == 5
