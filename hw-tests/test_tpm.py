"""The TPM: provisioning, keys in every kind of restart, a tampered model, an upgrade, and an old disk.

The model is signed on the machine itself, with keys made for this run. On a real device this destroys what it has
provisioned and learnt, and so wants --destructive.
"""

import json
import re
import threading
import time

import pytest
from household import PEOPLE, kept, moves_in, personal, verdict
from machines import REMOTE_DEB
from product import PACKAGE, SETTINGS, STATE, UNIT
from targets.base import Unavailable

KEYS = "/root/hw-keys"
BUNDLES = f"{STATE}/bundles"
PAUSE, RESUME = "pause learning", "resume learning"
GRANT, WITHDRAW = "consent grant ann --purpose usage", "consent withdraw ann usage"
CUTS = (3, GRANT)
"""After so many seconds of one change after the other; and at once when that one was answered."""
pytestmark = pytest.mark.destructive


@pytest.fixture(scope="module")
def provisioned(installed):
    """The service on keys from the TPM, with somebody in its vault; how long the steps took."""
    target = installed.target
    if not target.facts.has_tpm:
        raise Unavailable(target.facts.lacks.get("kernel tpm", "this machine has no TPM"))
    installed.begin()
    target.check(f"rm -rf {KEYS}; mkdir -m 700 {KEYS}")
    keys = f"--bundle-key {KEYS}/k/bundle.key --policy-key {KEYS}/k/policy.key --name hw"
    target.check(f"idiolect bundle keygen {KEYS}/k", timeout=60)
    target.check(f"idiolect bundle sign builtin {keys} --version 1 --out {KEYS}/v1", timeout=60)
    target.check(
        f"idiolect bundle sign builtin {keys} --version 2 --upgrade-from {KEYS}/v1 --out {KEYS}/v2", timeout=60
    )
    target.check(f"install -m 644 {KEYS}/k/bundle.pem /etc/idiolect/keys.d/hw.pem; sync /etc/idiolect/keys.d/hw.pem")
    installed.usual = {
        "bundle": "installed", "keystore": "tpm", "trust": {"tcti": target.chip.tcti}, "people": PEOPLE,
    }  # fmt: skip
    installed.stop(socket=True)
    target.check("idiolect factory-reset --yes", timeout=60)
    target.put(installed.baseline(), SETTINGS)
    steps = {}
    began = time.monotonic()
    said = target.check(f"idiolect provision --policy-key {KEYS}/k/policy.pem --yes", timeout=120)
    steps["provision"] = time.monotonic() - began
    target.check(f"idiolect bundle install {KEYS}/v1", timeout=60)
    installed.start()
    installed.story |= steps
    released(installed)
    moves_in(installed)
    yield said
    installed.stop(socket=True)
    target.run("idiolect factory-reset --yes", timeout=60)
    target.unlink(KEYS, "/etc/idiolect/keys.d/hw.pem", BUNDLES)
    installed.usual = {}
    installed.touched()


def released(product, seconds=30):
    """Wait for the keys; `status` then."""
    status = verdict(product, seconds)
    assert status["keys"]["state"] == "released", status["keys"]
    assert status["keys"]["protected"]
    return status


def still_there(product, examples=12):
    """Keys, the person, ears."""
    released(product, 60)
    personal(product, 60)
    assert kept(product) == examples
    product.running(60)
    product.understands(4)


def after_start(product, measure, name):
    """How long from the unit's start to the keys, by the journal."""
    lines = product.target.run(f"journalctl --sync; journalctl -b -q -o short-unix -u {UNIT}").out.splitlines()
    begin = [float(line.split()[0]) for line in lines if "Starting " in line][-1]
    keys = [float(line.split()[0]) for line in lines if "keys: released" in line]
    assert keys, lines
    measure(name, keys[-1] - begin, "s", 5.0)


@pytest.mark.quick
def test_one_command_provisions_it_and_the_signed_model_gets_the_keys(provisioned, product, measure):
    status = released(product)
    measure("provision: one command", product.story["provision"], "s", 30)
    assert status["bundle"]["name"] == "hw"
    assert status["bundle"]["signed"]
    assert status["keystore"] == "tpm"
    assert "keys released" in product.line, product.line
    assert "not hardware protected" not in product.told
    assert "hw v1" in status["keys"]["text"] or "hw" in status["keys"]["text"]
    assert "device" in provisioned.lower()


@pytest.mark.quick
def test_a_restart_in_the_same_boot_gets_them_again(provisioned, product, measure):
    product.restart()
    product.running(30)
    still_there(product)
    after_start(product, measure, "start to keys, same boot")


@pytest.mark.quick
def test_a_tampered_model_gets_none_says_so_and_the_earlier_one_serves(provisioned, product):
    target = product.target
    target.check(f"idiolect bundle install {KEYS}/v2", timeout=60)
    newest = f"$(ls -t {BUNDLES}/*/encoder.tflite | head -1)"
    target.check(f"printf '\\377' | dd of={newest} bs=1 seek=100000 conv=notrunc status=none")
    product.restart()
    product.running(60)
    status = verdict(product)
    assert status["keys"]["state"] == "fallback", status["keys"]
    assert "refused (6)" in status["keys"]["detail"]
    assert status["keys"]["fix"]
    assert "base model only" in product.line, product.line
    product.understands(2)
    assert product.idiolect("review ann").rc != 0, "nobody's data without keys"
    # the previous slot's model again, and a reboot: keys
    target.check("idiolect bundle rollback", timeout=60)
    product.stop()
    target.reboot()
    product.mark()
    product.start()
    still_there(product)


def test_an_upgrade_that_was_signed_for_it_gets_them_without_a_reboot(provisioned, product, measure):
    target = product.target
    target.check(f"idiolect bundle install {KEYS}/v2", timeout=60)
    product.restart()
    product.running(60)
    assert released(product)["bundle"]["version"] == 2
    still_there(product)
    after_start(product, measure, "start to keys, upgraded in the same boot")


@pytest.mark.quick
def test_after_a_power_cut_they_are_back(provisioned, product, measure):
    product.target.power_cut()
    product.mark()
    product.start()
    still_there(product)
    after_start(product, measure, "start to keys, fresh boot")


def test_after_a_warm_reboot_they_are_back(provisioned, product):
    product.target.reboot()
    product.start()
    still_there(product)


def test_asleep_and_awake_again_it_has_them_and_hears(provisioned, product):
    pid = product.pid
    product.target.suspend()
    product.running(30)
    assert product.pid == pid
    still_there(product)
    product.restart()
    still_there(product)


@pytest.mark.parametrize("how", ["no such device", "taken out"])
def test_without_its_tpm_it_serves_the_base_model_and_stores_nothing(provisioned, product, how):
    if how == "taken out":
        product.target.chip.take()
    else:
        product.configure(product.baseline(trust={"tcti": "device:/dev/hw-none"}))
    product.stop()
    before = product.target.check(f"ls -l --time-style=full-iso {STATE}")
    try:
        product.start()
        product.running(60)
        status = verdict(product)
        assert status["keys"]["state"] == "absent", status["keys"]
        assert "base model only" in product.line, product.line
        assert status["keys"]["fix"]
        product.understands(6)
        assert product.idiolect("review ann").rc != 0
        assert product.idiolect("consent grant bob", typed="yes\n").rc != 0, "nothing can be agreed to without keys"
        assert product.target.check(f"ls -l --time-style=full-iso {STATE}") == before, "nothing is written"
    finally:
        if how == "taken out":
            product.target.chip.give()
    product.configure(product.baseline())
    product.restart()
    still_there(product)


def test_an_old_disk_does_not_open_after_something_was_forgotten(provisioned, product, measure):
    target = product.target
    product.stop(socket=True)
    target.check(f"rm -rf /root/hw-old; cp -a {STATE} /root/hw-old")
    product.start()
    released(product)
    personal(product)
    began = time.monotonic()
    product.idiolect("forget ann --phrase 'phrase 0'", typed="yes\n").checked()
    measure("forgetting a phrase, with its rotation in the TPM", time.monotonic() - began, "s", 5.0)
    assert kept(product) == 9
    product.stop(socket=True)
    target.check(f"mv {STATE} /root/hw-new; cp -a /root/hw-old {STATE}")
    product.start()
    product.running(60)
    status = verdict(product)
    assert status["keys"]["state"] == "older", status["keys"]
    assert "base model only" in product.line
    product.stop(socket=True)
    target.check(f"rm -rf {STATE}; mv /root/hw-new {STATE}; rm -rf /root/hw-old")
    product.start()
    released(product)
    personal(product)
    assert kept(product) == 9


def test_a_quote_over_what_was_measured_can_be_had(provisioned, product, measure):
    nonce = "00112233445566778899aabbccddeeff"
    began = time.monotonic()
    proof = product.idiolect(f"attest --nonce {nonce}")
    measure("a quote", time.monotonic() - began, "s", 5.0)
    assert proof.rc == 0, proof.said
    assert re.search(r"[0-9a-fA-F]{64}", proof.out)
    assert product.idiolect("audit verify").rc == 0


def test_the_tpm_is_open_to_the_service_and_to_nobody_else(provisioned, product):
    product.target.need("kernel tpm")
    assert product.target.check("stat -c '%a %G' /dev/tpmrm0") == "660 tss"
    assert product.show("ActiveState", UNIT) == "active"


class Changes(threading.Thread):
    """Somebody who changes one thing after the other until the power is cut, or ``last`` was answered.

    Noted here, as a note on the machine's own disk would put everything before it on the disk, too.
    """

    def __init__(self, product, last):
        super().__init__(daemon=True)
        self.product, self.last, self.over = product, last, threading.Event()
        self.story = []  # of (step, whether it was answered): each begins, and is answered or not

    def run(self):
        while True:
            for step in (PAUSE, RESUME, GRANT, WITHDRAW):
                if self.over.is_set():
                    return
                self.story.append((step, False))
                done = self.product.idiolect(step, typed="yes\n" if step == GRANT else "")
                if done.rc:
                    return  # no power, or a mistake: the test sees which
                self.story.append((step, True))
                if step == self.last:
                    return

    def left(self, on, off):
        """What there may be after it: the last change that was answered, or the one that was under way."""
        states = {False}
        for step, answered in self.story:
            if step in (on, off):
                states = {step == on} if answered else states | {step == on}
        return states


def agreed(product):
    """Whether ann agrees to `usage`."""
    (person,) = json.loads(product.idiolect("consent show ann --json").checked().out)["people"]
    return "usage" in person["purposes"]


def paused(product):
    """Whether learning is paused, once the vault is open."""

    def state():
        found = product.status()["personalization"]["state"]
        return found if found != "off" else None

    return product.target.wait(state, 60, "the vault is open") == "paused"


def test_power_cuts_in_the_middle_of_changes_lose_nothing(provisioned, product):
    """While consent is given and withdrawn, which rotates the secret each time: old or new state, never none.

    What was answered before the cut is there after it. Last here: a TPM's memory wears, and so the rotations of a day
    are numbered.
    """
    before = kept(product)
    assert before, "somebody lives here"
    for when in CUTS:
        changes = Changes(product, when)
        changes.start()
        if when in (PAUSE, RESUME, GRANT, WITHDRAW):
            changes.join(60 * product.target.patience)
            assert changes.story[-1:] == [(when, True)]
        else:
            time.sleep(when * product.target.patience)
            assert changes.is_alive(), changes.story
        changes.over.set()
        product.target.power_cut()
        changes.story = [*changes.story]  # what is answered late belongs to the time after
        product.start()
        released(product, 60)
        found = {"paused": paused(product), "agreed": agreed(product)}
        print(found, "after", changes.story)
        assert found["agreed"] in changes.left(GRANT, WITHDRAW), changes.story
        assert found["paused"] in changes.left(PAUSE, RESUME), changes.story
        product.idiolect(RESUME).checked()
        if found["agreed"]:
            product.idiolect(WITHDRAW).checked()
        still_there(product, before)
        assert product.idiolect("audit verify").rc == 0


def test_purged_even_the_whole_disk_from_before_opens_no_more(provisioned, product, deb):
    """`apt purge` deletes the secret in the TPM: a thief with a copy of everything has nothing."""
    target = product.target
    target.need("kernel tpm")
    target.put(deb, REMOTE_DEB)
    product.stop(socket=True)
    everything = f"{STATE} /etc/idiolect /etc/credstore"
    target.check(f"tar -C / -cf /root/hw-disk.tar {everything}", timeout=60)
    said = product.dpkg(f"-P {PACKAGE}").checked()
    assert "still in it" not in said.said
    assert "did not delete" not in said.said
    product.dpkg(f"-i {REMOTE_DEB}").checked()
    product.stop(socket=True)
    target.check(f"rm -rf {STATE}; tar -C / -xpf /root/hw-disk.tar; rm /root/hw-disk.tar", timeout=60)
    product.start()
    product.running(60)
    status = verdict(product)
    assert status["keys"]["state"] not in ("released", "waiting"), status["keys"]
    assert status["keys"]["fix"]
    assert product.idiolect("review ann").rc != 0
    product.understands(7)
