"""The package over time: again, newer, older, away and back, gone for good. Runs last."""

import pytest
from household import PEOPLE, kept, moves_in, personal, verdict
from machines import REMOTE_DEB, repacked
from product import CREDENTIAL, PACKAGE, SETTINGS, SOCKET, STATE, UNIT

pytestmark = pytest.mark.destructive
NEWER, OLDER = "9.0", "0.0.1"


@pytest.fixture(scope="module")
def packages(installed, deb, tmp_path_factory):
    """The package as it is, and under a higher and a lower version; on the machine."""
    folder = tmp_path_factory.mktemp("packages")
    installed.target.put(deb, REMOTE_DEB)
    for version in (NEWER, OLDER):
        installed.target.put(repacked(deb, version, folder), f"/root/{version}.deb")
    return {"same": REMOTE_DEB, "newer": f"/root/{NEWER}.deb", "older": f"/root/{OLDER}.deb"}


@pytest.fixture
def inhabited(product):
    """With somebody whose data must survive."""
    product.configure(product.baseline(people=PEOPLE))
    product.restart()
    personal(product)
    moves_in(product)
    assert kept(product) == 12
    return product


def whole(product, version):
    """That version, up, and nothing lost."""
    assert product.version == version
    product.running(120 if product.emulated else 20)
    personal(product, 60)
    assert kept(product) == 12
    assert product.target.check(f"systemctl is-enabled {UNIT} {SOCKET}").split() == ["enabled", "enabled"]
    assert product.target.run("systemctl is-active idiolectd.socket").out.strip() == "active"
    assert product.idiolect("audit verify").rc == 0
    product.understands(4)


@pytest.mark.quick
@pytest.mark.anywhere
def test_again(inhabited, packages):
    version, pid = inhabited.version, inhabited.pid
    inhabited.dpkg(f"-i {packages['same']}").checked()
    assert inhabited.pid != pid, "the new files are in use"
    whole(inhabited, version)


@pytest.mark.arm64
@pytest.mark.quick
@pytest.mark.anywhere
def test_newer_and_older_again(inhabited, packages):
    """Data and settings stay; a client that asks in between is answered."""
    version = inhabited.version
    note = "# of the administrator"
    inhabited.target.check(
        f"grep -q '{note}' /etc/idiolect/idiolect.yaml || echo '{note}' >> /etc/idiolect/idiolect.yaml"
    )
    asking = (
        "#!/bin/sh\nwhile :; do idiolect --json status > /dev/null || echo unanswered >> /run/hw-unanswered; done\n"
    )
    inhabited.target.put(asking, "/usr/local/lib/hw-asking", 0o755)
    inhabited.target.check("rm -f /run/hw-unanswered; systemd-run -q --unit=hw-asking /usr/local/lib/hw-asking")
    inhabited.dpkg(f"-i --force-confold {packages['newer']}").checked()
    whole(inhabited, NEWER)
    inhabited.target.check("systemctl stop hw-asking")
    assert inhabited.target.run("cat /run/hw-unanswered").out == "", "while the package's files are replaced, too"
    done = inhabited.dpkg(f"-i --force-confold {packages['older']}")
    assert done.rc == 0, done.said
    whole(inhabited, OLDER)
    inhabited.dpkg(f"-i --force-confold {packages['same']}").checked()
    whole(inhabited, version)
    assert note in inhabited.target.check("cat /etc/idiolect/idiolect.yaml")


@pytest.mark.anywhere
def test_a_stopped_and_disabled_service_stays_so(inhabited, packages):
    inhabited.target.check(f"systemctl disable --now {SOCKET} {UNIT}")
    inhabited.dpkg(f"-i --force-confold {packages['same']}").checked()
    assert inhabited.show("ActiveState") == "inactive"
    assert inhabited.target.run(f"systemctl is-enabled {UNIT}").out.strip() == "disabled"
    inhabited.target.check(f"systemctl enable --now {SOCKET} {UNIT}")
    inhabited.running()


@pytest.mark.anywhere
def test_an_upgrade_that_was_interrupted_is_finished(inhabited, packages):
    """Unpacked, not configured: the old process still serves; dpkg --configure ends it."""
    version = inhabited.version
    inhabited.dpkg(f"--unpack --force-confold {packages['newer']}").checked()
    assert inhabited.status()["version"]
    inhabited.dpkg("--configure -a --force-confold").checked()
    whole(inhabited, NEWER)
    inhabited.dpkg(f"-i --force-confold {packages['same']}").checked()
    whole(inhabited, version)


@pytest.mark.quick
@pytest.mark.anywhere
def test_removed_and_installed_again(inhabited, packages):
    version = inhabited.version
    inhabited.dpkg(f"-r {PACKAGE}").checked()
    target = inhabited.target
    assert target.run(f"systemctl is-active {UNIT}").out.strip() != "active"
    assert target.run("test -S /run/idiolect/control.sock").rc, "no socket is left that nobody serves"
    assert target.run("command -v idiolect idiolectd").rc
    assert target.run(f"test -e {STATE}/vault.db -a -e {CREDENTIAL}").rc == 0
    assert target.run("systemctl --failed --no-legend --plain").out.strip() == ""
    inhabited.dpkg(f"-i {packages['same']}").checked()
    whole(inhabited, version)


@pytest.mark.arm64
@pytest.mark.quick
def test_purged_it_leaves_nothing_and_a_copy_of_its_state_opens_no_more(inhabited, packages):
    target = inhabited.target
    inhabited.stop(socket=True)
    target.check(f"rm -rf /root/hw-copy; cp -a {STATE} /root/hw-copy")
    inhabited.dpkg(f"-P {PACKAGE}").checked()
    for path in (STATE, "/etc/idiolect", "/run/idiolect", CREDENTIAL, "/usr/lib/idiolect"):
        assert target.run(f"test -e {path}").rc, f"{path} is left"
    others = (
        "/usr/local/*",
        "*/idiolectd.service.d*",
        "/var/log/*",
        "/run/systemd/*",
        "/run/udev/links/virtio-ports*",  # the agent's own port
        "/var/lib/systemd/*",
        "/var/cache/*",
    )
    but = " ".join(f"! -path '{path}'" for path in others)
    left = target.check(f"find /etc /usr /var /run -xdev -iname '*idiolect*' {but}; true")
    assert left == ""
    inhabited.dpkg(f"-i {packages['same']}").checked()
    target.put(inhabited.baseline(people=PEOPLE), SETTINGS)
    inhabited.restart()
    personal(inhabited)
    assert kept(inhabited) is None, "a new beginning"
    # the thief's copy
    inhabited.stop(socket=True)
    target.check(f"rm -rf {STATE}; cp -a /root/hw-copy {STATE}; rm -rf /root/hw-copy")
    inhabited.start()
    status = verdict(inhabited)
    assert status["keys"]["state"] != "released", status["keys"]
    assert inhabited.idiolect("review ann").rc != 0
    inhabited.running()
    inhabited.understands(3)
    inhabited.stop(socket=True)
    inhabited.dpkg(f"-P {PACKAGE}").checked()
    inhabited.dpkg(f"-i {packages['same']}").checked()
    inhabited.touched()
