"""The units, by systemd's own judgement, and what they promise that systemd does not check.

Whether they hold is tried in a booted system: hw-tests/.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
EXPOSURE = 15
"""Ten times the exposure level that `systemd-analyze security` may say of the daemon."""
pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def directives(unit: str, section: str = "Service") -> list[tuple[str, str]]:
    """Every assignment of a section, in order: systemd allows a key more than once."""
    found, current = [], ""
    for line in (UNITS / unit).read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == section and "=" in line and not line.startswith("#"):
            found.append(tuple(line.split("=", 1)))
    return found


@pytest.mark.parametrize("unit", ["idiolectd.service", "idiolectd.socket", "idiolectd-accounts.service"])
def test_systemd_finds_nothing_wrong(unit):
    answer = analyze("verify", "--man=no", "--recursive-errors=no", str(UNITS / unit))
    # the program is not installed here, and is looked for by the package's tests
    complaints = [
        each for each in answer.stderr.splitlines() if not re.search(r"/usr/s?bin/idiolectd? is not exec", each)
    ]
    assert complaints == []


def test_a_tcp_proxy_is_complete_with_nothing_but_an_address(tmp_path):
    for name in ("idiolect-tcp@.socket", "idiolect-tcp@.service"):
        shutil.copy(UNITS / name, tmp_path / name.replace("@", "@wyoming"))
    socket = tmp_path / "idiolect-tcp@wyoming.socket"
    assert "no Listen setting" in analyze("verify", "--man=no", str(socket)).stderr
    socket.write_text(socket.read_text() + "\n[Socket]\nListenStream=127.0.0.1:10400\n")
    for path in sorted(tmp_path.iterdir()):
        assert analyze("verify", "--man=no", "--recursive-errors=no", str(path)).stderr == ""


@pytest.mark.parametrize("unit", ["idiolectd.service", "idiolect-tcp@.service"])
def test_its_exposure_is_at_most_one_and_a_half(unit):
    answer = analyze("security", "--offline=yes", f"--threshold={EXPOSURE}", "--json=short", str(UNITS / unit))
    rows = json.loads(answer.stdout)
    assert answer.returncode == 0, [row["json_field"] for row in rows if row["exposure"]]


def test_whatever_is_relaxed_has_its_reason_beside_it():
    text = (UNITS / "idiolectd.service").read_text()
    for wanted in ("PrivateUsers=yes", "ProcSubset=pid", "PrivateDevices=yes", "ProtectClock=yes", "RemoveIPC=yes"):
        assert re.search(rf"^# {wanted} is left out", text, re.MULTILINE), wanted
    assert re.search(
        r"^# To lock pages with keys.*\n(# .*\n)*SystemCallFilter=mlock mlock2 munlock$", text, re.MULTILINE
    )
    assert re.search(r"^# To give the sockets.*\n(# .*\n)*SystemCallFilter=fchownat$", text, re.MULTILINE)
    assert re.search(r"^# With these the training worker.*\n(# .*\n)?SystemCallFilter=prlimit64", text, re.MULTILINE)


def test_nothing_of_the_daemon_reaches_a_network():
    service = dict(directives("idiolectd.service"))
    assert service["PrivateNetwork"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"
    assert service["IPAddressDeny"] == "any"
    listens = [value for key, value in directives("idiolectd.socket", "Socket") if key.startswith("Listen")]
    assert listens == ["/run/idiolect/control.sock"]  # and never a port
    # An IP filter binds a socket by the unit that made it: what a drop-in adds here is filtered here, or nowhere.
    own = dict(directives("idiolectd.socket", "Socket"))
    assert (own["PrivateNetwork"], own["IPAddressDeny"]) == ("yes", "any")


def test_the_proxy_cannot_open_the_control_socket():
    """Whoever comes through it would have the role of its group."""
    proxy = dict(directives("idiolect-tcp@.service"))
    socket = dict(directives("idiolectd.socket", "Socket"))
    assert socket["SocketMode"] == "0660"
    assert proxy["Group"] == "idiolect-tcp" != socket["SocketGroup"]
    # Not the template's name, which is the group's: systemd makes no dynamic user where there is a group so called.
    assert (proxy["DynamicUser"], proxy["User"]) == ("yes", "idiolect-tcp-%i")


def test_a_configuration_that_is_wrong_is_not_tried_again_and_a_crash_is():
    service = dict(directives("idiolectd.service"))
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "78")
    assert service["OOMPolicy"] == "continue"
    assert int(service["WatchdogSec"]) >= 2 * 8 + 4  # twice capture's longest backoff, and an open


def test_every_program_that_a_unit_runs_is_on_a_minimal_debian():
    """The package's own, systemd's, and the shell, which is always there. /bin/kill, say, is not."""
    ours, always = ("/usr/sbin/idiolectd", "/usr/bin/idiolect"), ("/bin/sh", "systemd-sysusers")
    proxy = "/lib/systemd/systemd-socket-proxyd"
    for unit in UNITS.glob("*.service"):
        run = {value.split()[0] for key, value in directives(unit.name) if key.startswith("Exec")}
        assert run <= {*ours, *always, proxy}, unit.name


def test_keys_can_be_locked_and_not_much_more():
    service = dict(directives("idiolectd.service"))
    assert service["LimitMEMLOCK"] == "4M"
    assert service["MemorySwapMax"] == "0"
    allowed = [value for key, value in directives("idiolectd.service") if key == "SystemCallFilter"]
    assert "mlockall" not in " ".join(allowed)


def test_every_account_that_a_unit_names_is_made(tmp_path):
    made = {
        line.split()[1] for line in (UNITS / "idiolect.sysusers").read_text().splitlines() if line[:2] in ("u ", "g ")
    }
    service = dict(directives("idiolectd.service"))
    named = {service["User"], service["Group"], *service["SupplementaryGroups"].split()}
    named |= {
        dict(directives("idiolect-tcp@.service"))["Group"],
        dict(directives("idiolectd.socket", "Socket"))["SocketGroup"],
    }
    assert named <= made
    if shutil.which("systemd-sysusers"):
        (tmp_path / "etc").mkdir()
        command = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "idiolect.sysusers")]
        subprocess.run(command, check=True, capture_output=True)
        assert "idiolect:" in (tmp_path / "etc/passwd").read_text()
        groups = dict(line.split(":", 1) for line in (tmp_path / "etc/group").read_text().splitlines())
        assert groups["audio"].endswith("idiolect")
        assert groups["tss"].endswith("idiolect")


def test_no_private_key_is_asked_for():
    loads = [value for key, value in directives("idiolectd.service") if key.startswith("LoadCredential")]
    assert loads == ["keys.d:/etc/idiolect/keys.d", "idiolect.keystore"]


def test_the_files_are_what_systemd_reads():
    """No key of a socket or service is given where another section would be meant."""
    for unit in UNITS.glob("*.s*"):
        if unit.suffix in (".service", ".socket"):
            parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
            parser.read_string(unit.read_text())
            assert {"Unit"} <= set(parser.sections()) <= {"Unit", "Service", "Socket", "Install"}
