"""What goes wrong on a device: for each a clear line in `systemctl status`, and all the work that is still possible."""

import time

import pytest
from household import PEOPLE, kept, moves_in, personal, verdict
from product import CREDENTIAL, DROP_INS, SETTINGS, SOCKET, STATE, UNIT

OLD = """\
schema: 1
audio: {{device: {device}}}
listening: {{mode: always, wake_words: [], phrases: [one, two, three, four], always_on: []}}
control: {{people: {{ann: [root]}}}}
"""


@pytest.mark.quick
@pytest.mark.anywhere
def test_no_sound_card(product):
    product.configure(product.baseline().replace(product.device, "plughw:CARD=Nope,DEV=0"))
    product.restart()
    assert product.show("ActiveState") == "active"
    assert product.line.startswith("no sound (absent): plughw:CARD=Nope,DEV=0"), product.line
    assert "idiolect devices" in product.line
    assert product.idiolect("doctor").rc == 1
    assert product.idiolect("devices").rc == 0


@pytest.mark.quick
@pytest.mark.anywhere
def test_keystore_tpm_and_a_model_that_nobody_signed(product):
    """Not loaded, not even without keys; the status line names the command that helps."""
    product.configure(product.baseline(keystore="tpm", bundle="builtin", trust={"tcti": "device:/dev/hw-none"}))
    product.systemctl(f"restart {UNIT}")
    assert product.show("ExecMainStatus") == "78"
    assert "unsigned" in product.line, product.line
    assert "idiolect bundle sign" in product.line


@pytest.mark.anywhere
def test_a_vault_that_is_damaged(product):
    product.configure(product.baseline(people=PEOPLE))
    product.restart()
    personal(product)
    moves_in(product)
    product.stop(socket=True)
    target = product.target
    target.check(f"cp -a {STATE} /root/hw-state")
    target.check(f"dd if=/dev/urandom of={STATE}/vault.db bs=4096 count=3 conv=notrunc status=none")
    damaged = target.check(f"sha256sum {STATE}/vault.db")
    product.start()
    status = verdict(product)
    assert status["keys"]["state"] not in ("released", "waiting"), status["keys"]
    assert "base model only" in product.line, product.line
    product.running()
    product.understands(1)
    product.stop(socket=True)
    assert target.check(f"sha256sum {STATE}/vault.db") == damaged, "what cannot be read is not overwritten"
    target.check(f"rm -rf {STATE}; mv /root/hw-state {STATE}")
    product.start()
    personal(product)
    assert kept(product) == 12
    product.idiolect("erase ann --yes").checked()


@pytest.mark.anywhere
def test_the_credential_is_missing(product):
    """Half of the file keystore's key: without it nothing opens, and nothing is overwritten."""
    target = product.target
    if target.run(f"test -e {CREDENTIAL}").rc:
        pytest.skip("this device has no credential for the file keystore")
    product.stop(socket=True)
    target.check(f"mv {CREDENTIAL} {CREDENTIAL}.hw")
    try:
        product.start()
        status = verdict(product)
        assert status["keys"]["state"] not in ("released", "waiting"), status["keys"]
        assert "base model only" in product.line, product.line
        assert "idiolect.keystore" in status["keys"]["detail"] + status["keys"]["fix"] + product.line
        product.running()
        product.understands(5)
    finally:
        target.check(f"mv {CREDENTIAL}.hw {CREDENTIAL}")
    product.restart()
    personal(product)


def test_a_full_disk(product):
    """A small file system that is full: it listens; with room again it keeps things again."""
    target = product.target
    product.stop(socket=True)
    target.check(f"mount -t tmpfs -o size=512k,mode=0750,uid=$(id -u idiolect),gid=$(id -g idiolect) none {STATE}")
    try:
        target.run(f"cat /dev/zero > {STATE}/ballast")
        product.start()
        product.running()
        product.understands(2)
        status = verdict(product)
        assert status["keys"]["state"] not in ("released", "waiting"), status["keys"]
        assert "base model only" in product.line, product.line
        words = (product.line + status["keys"]["detail"] + status["keys"]["fix"]).lower()
        assert "space" in words or "full" in words, words
        target.check(f"rm {STATE}/ballast")
        product.restart()
        personal(product)
    finally:
        product.stop(socket=True)
        target.check(f"umount {STATE}")
        product.start()


@pytest.mark.anywhere
def test_a_disk_that_fills_up_while_it_runs(product):
    target = product.target
    product.configure(product.baseline(people=PEOPLE))
    product.stop(socket=True)
    target.check(f"mount -t tmpfs -o size=1m,mode=0750,uid=$(id -u idiolect),gid=$(id -g idiolect) none {STATE}")
    try:
        product.start()
        personal(product)
        target.run(f"cat /dev/zero > {STATE}/ballast")
        done = product.idiolect("consent grant ann", typed="yes\n")
        assert done.rc != 0
        assert "Traceback" not in done.err
        product.understands(8)
        target.check(f"rm {STATE}/ballast")
        target.wait(
            lambda: product.idiolect("consent grant ann", typed="yes\n").rc == 0, 60, "she can agree again", every=2
        )
    finally:
        product.stop(socket=True)
        target.check(f"umount {STATE}")
        product.start()


def test_a_read_only_root(product):
    """/usr and /etc cannot be written; the state can, as docs/integrator.md asks for."""
    target = product.target
    product.drop_in("[Service]\nReadOnlyPaths=/\nReadWritePaths=/var/lib/idiolect /run/idiolect -/hw\n")
    product.restart()
    product.running()
    personal(product)
    product.understands(9)
    if target.run("mount -o remount,ro /", timeout=10).rc:
        return  # somebody writes: the unit has seen a read-only root anyway
    try:
        target.check(f"mount -t tmpfs -o mode=0750,uid=$(id -u idiolect),gid=$(id -g idiolect) none {STATE}")
        product.restart()
        product.running(30)
        personal(product)
        product.understands(6)
    finally:
        target.run(f"systemctl stop {UNIT}; umount {STATE}; mount -o remount,rw /; systemctl start {UNIT}")


@pytest.mark.anywhere
def test_a_state_directory_that_cannot_be_written(product):
    product.drop_in(f"[Service]\nReadOnlyPaths={STATE}\n")
    product.restart()
    product.running()
    status = verdict(product)
    assert status["keys"]["state"] not in ("released", "waiting"), status["keys"]
    assert "base model only" in product.line, product.line
    product.understands(7)


@pytest.mark.destructive
def test_a_clock_of_1970_at_the_boot(product):
    target = product.target
    target.need("own clock")
    product.configure(product.baseline(people=PEOPLE))
    product.restart()
    personal(product)
    moves_in(product)
    now = int(target.check("date +%s"))
    product.stop()
    try:
        target.check("date -s '1970-01-02 00:00:00' && hwclock -w 2>/dev/null; true")
        product.start()
        product.running(30)
        personal(product, 30)
        product.understands(4)
        assert kept(product) == 12, "nothing expires by a clock that nobody synchronized"
    finally:
        product.stop()
        target.check(f"date -s @{now + 30}; hwclock -w 2>/dev/null; true")
    product.start()
    personal(product, 30)
    assert kept(product) == 12
    product.idiolect("erase ann --yes").checked()


@pytest.mark.quick
@pytest.mark.anywhere
def test_an_old_configuration_is_understood_and_said_to_be_old(product):
    product.configure(OLD.format(device=product.device))
    product.restart()
    product.running()
    product.understands(4)
    assert "idiolect config migrate" in product.journal()
    assert product.api("/v1/config")["people"], "people of the old place are known"
    migrated = product.idiolect("config migrate --dry-run")
    assert migrated.rc == 0, migrated.said


@pytest.mark.quick
@pytest.mark.anywhere
def test_a_configuration_of_a_newer_version_is_refused_with_the_reason(product):
    product.configure("schema: 99\naudio: {device: default}\n")
    product.systemctl(f"restart {UNIT}")
    assert product.show("ExecMainStatus") == "78"
    assert "schema" in product.line, product.line
    assert "99" in product.line
    assert SETTINGS in product.line


@pytest.mark.quick
@pytest.mark.parametrize(
    ("group", "device"), [("tss", "/dev/tpmrm0"), ("audio", "/dev/snd/timer")], ids=["tss", "audio"]
)
def test_a_group_that_is_missing_comes_back(product, group, device):
    """With the number that its devices still have: with another they would stay closed to it."""
    target = product.target
    number = target.check(f"getent group {group} | cut -d: -f3")
    target.check(f"sed -i '/^{group}:/d' /etc/group /etc/gshadow")
    try:
        product.restart()
        product.running()
        product.understands(2)
        again = target.check(f"getent group {group} | cut -d: -f3")
        assert target.run(f"stat -c %g {device}").out.strip() in (again, "")
    finally:
        target.run(f"sed -i '/^{group}:/d' /etc/group /etc/gshadow; groupadd -r -g {number} {group}")
        target.run(f"usermod -aG {group} idiolect")
        target.run("udevadm trigger --subsystem-match=sound --subsystem-match=tpmrm --action=change; udevadm settle")


@pytest.mark.anywhere
def test_a_user_that_is_missing_comes_back(product):
    target = product.target
    saved = target.check("grep ^idiolect: /etc/passwd")
    product.stop(socket=True)
    target.check("sed -i '/^idiolect:/d' /etc/passwd /etc/shadow")
    try:
        done = product.systemctl(f"start {SOCKET} {UNIT}")
        assert done.rc == 0, product.told
        product.running()
        personal(product)
    finally:
        if target.run("getent passwd idiolect").rc:
            target.check(f"echo '{saved}' >> /etc/passwd")
            target.check("chown -R idiolect:idiolect /var/lib/idiolect /run/idiolect")


@pytest.mark.quick
@pytest.mark.anywhere
def test_a_masked_socket(product):
    target = product.target
    target.check(f"systemctl mask --now {SOCKET}")
    try:
        product.restart()
        assert product.status()["version"]
        assert "masked" in product.journal()
        product.running()
        product.understands(1)
    finally:
        target.check(f"systemctl unmask {SOCKET}; systemctl stop {UNIT}; systemctl start {SOCKET} {UNIT}")
    product.running()


@pytest.mark.anywhere
def test_a_model_that_is_missing(product):
    """bundle: installed and none is: no model, no service, and the reason."""
    product.configure(product.baseline(bundle="/var/lib/idiolect/nowhere"))
    product.systemctl(f"restart {UNIT}")
    assert product.show("ExecMainStatus") == "78"
    assert "nowhere" in product.line, product.line
    assert product.show("NRestarts") == "0"


@pytest.mark.anywhere
def test_dropped_privileges_hold_with_a_drop_in_of_nonsense(product):
    """A key that systemd does not know is said and ignored; the service is up."""
    product.target.put("[Service]\nNoSuchKey=1\n", f"{DROP_INS}/96-nonsense.conf")
    product.touched(f"{DROP_INS}/96-nonsense.conf")
    product.target.check("systemctl daemon-reload")
    product.restart()
    assert product.show("ActiveState") == "active"
    time.sleep(0.5)
    product.running()
