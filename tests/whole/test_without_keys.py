"""The real service without keys: the base model hears on, status and doctor say why, and nothing is written over."""

from __future__ import annotations

import pytest

from idiolect.trust.bundle import last_good
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.device.identity import RECORD
from idiolect.trust.device.provisioning import VAULT
from tests.support import bundles
from tests.support.alsa import require_wavmic
from tests.support.devices import TestDevice, contents, needs_tpm, remember
from tests.support.swtpm import Swtpm
from tests.whole.test_service import Daemon, room

BOTH = {"01", "02"}


def furnished(made):
    """A provisioned device with two records."""
    if made.tpm:
        made.provision()
    with made.boot(bundles.signed()) as custody:
        for ident in BOTH:
            remember(custody.vault, ident)
    return made


def vaulted(device):
    """What the device keeps, but for the note of which configuration works."""
    return {name: found for name, found in contents(device.state).items() if name != last_good.FILE}


@pytest.fixture
def served(tmp_path):
    """A real idiolectd with that keystore, hearing digits."""
    require_wavmic()
    running = []

    def start(made):
        bundle = bundles.write(bundles.signed().files, tmp_path / "bundle")
        pem = public_pem(bundles.key("bundle").public_key())
        keys = bundles.write({"bundle.pem": pem}, tmp_path / "keys.d")
        daemon = Daemon(tmp_path, room(4, 2, 7), bundle=bundle, eof="loop")
        trust = f"trust: {{tcti: '{made.config.trust.tcti}', keys_dir: {keys}}}\n"
        with daemon.config.open("a") as file:
            file.write(f"keystore: {made.config.keystore}\n{trust}")
        running.append(daemon)
        return daemon.start().ready()

    yield start
    for one in running:
        one.stop()


def hears_on(daemon, state):
    """The base model serves although the keys are in that state."""
    daemon.wait(lambda: daemon.status()["keys"]["state"] == state)
    count = len(daemon.heard())
    daemon.wait(lambda: len(daemon.heard()) >= count + 3)
    assert set(daemon.heard()) <= {"two", "four", "seven"}
    keys = daemon.status()["keys"]
    assert keys["detail"]
    assert keys["fix"]
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.log
    assert f"keys: {state}: " in daemon.log


@needs_tpm
def test_without_a_tpm_the_service_hears_and_says_why_it_has_no_keys(served, tmp_path):
    with Swtpm() as tpm:
        without_a_tpm(furnished(TestDevice(tmp_path, tpm)), tpm, served)


def without_a_tpm(device, tpm, served):
    """The test above, while there is a TPM to lose."""
    tpm.power_off()
    before = vaulted(device)
    daemon = served(device)
    hears_on(daemon, "absent")
    checks = {check["check"]: check for check in daemon.client.get("/v1/doctor")["checks"]}
    assert (checks["keys"]["level"], "base model" in checks["keys"]["detail"]) == ("fail", True)
    daemon.stop()
    assert vaulted(device) == before
    tpm.power_on()
    assert set(device.opens(bundles.signed())) == BOTH


@pytest.mark.parametrize("damage", ["vault", "record"])
def test_with_a_damaged_vault_or_record_the_service_hears_and_overwrites_nothing(served, tmp_path, damage):
    filed = furnished(TestDevice(tmp_path, None))
    path = filed.state / (VAULT if damage == "vault" else RECORD)
    good = path.read_bytes()
    path.write_bytes(good + bytes(32 << 10))
    before = vaulted(filed)
    daemon = served(filed)
    hears_on(daemon, "damaged")
    daemon.stop()
    assert vaulted(filed) == before
    path.write_bytes(good)
    assert set(filed.opens(bundles.signed())) == BOTH
