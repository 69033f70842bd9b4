"""Somebody listens on the wires to the TPM: everything is recorded there, and no secret may be among it.

The recording is tpm2-tss' own ("pcap" TCTI), of every byte of every command and answer.
"""

from __future__ import annotations

import pytest

from idiolect.trust.device.attestation import attest_data
from idiolect.trust.vault.secret import Secret
from tests.support import bundles
from tests.support.devices import TestDevice, forget, needs_tpm, remember, withdraw
from tests.support.swtpm import Swtpm

pytestmark = needs_tpm
NONCE = bytes(range(32))
PIECE = 12
"""Bytes of a secret that would be told from chance."""


class Recording:
    """A board whose bus is tapped, and every secret that was ever made in this process."""

    def __init__(self, folder, chip, patch):
        self.file = folder / "bus.pcap"
        patch.setenv("TCTI_PCAP_FILE", str(self.file))
        tapped = type("Tapped", (), {"tcti": f"pcap:{chip.tcti}"})
        self.device = TestDevice(folder, tapped)
        self.chip = chip
        self.secrets = set()
        make = Secret.__init__

        def init(secret, value):
            self.secrets.add(bytes(value))
            make(secret, value)

        patch.setattr(Secret, "__init__", init)

    def leaked(self):
        """The secrets of which a piece is in the recording."""
        heard = self.file.read_bytes()
        return {s for s in self.secrets if any(s[i : i + PIECE] in heard for i in range(len(s) - PIECE + 1))}


@pytest.fixture
def recording(tmp_path):
    with Swtpm() as chip, pytest.MonkeyPatch.context() as patch:
        yield Recording(tmp_path, chip, patch)


def whole_life(recording):
    """Provisioning, boots, rotations, an upgrade, marking good, a quote, another policy key."""
    device, both = recording.device, ("policy", "next")
    b = bundles.signed(2, after=(1,))
    c = bundles.sign(bundles.builtin(), version=3, name="test", policy=both, upgrades=b.approvals)
    device.provision()
    with device.boot(bundles.signed()) as custody:
        remember(custody.vault, "01")
        remember(custody.vault, "02")
        forget(custody.vault, "01")
        withdraw(custody.vault)
    with device.boot(b) as custody:
        custody.mark_good()
        custody.attest(NONCE)
        assert custody.vault.counts().generation == 4  # 1, the vault's own, and two rotations
    recording.chip.power_cycle()
    device.replace_policy_key(c)
    assert device.view(c).released
    return b


def test_no_secret_crosses_the_bus_and_what_is_public_does(recording):
    last = whole_life(recording)
    heard = recording.file.read_bytes()
    assert len(heard) > 100_000
    assert len(recording.secrets) >= 15  # S, the right to write, four Ms, all that was derived, data keys
    assert recording.leaked() == set()
    # It hears what is not encrypted:
    assert bytes.fromhex(last.digest) in heard  # a measurement
    assert attest_data(NONCE, bytes.fromhex(last.digest)) in heard  # a quote's nonce
    assert any(approval.policy in heard for approval in last.approvals)


def test_a_value_written_without_encryption_is_heard(recording):
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR, TPMA_NV
    from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

    value = Secret(b"written by somebody careless....")
    attributes = TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD
    public = TPMS_NV_PUBLIC(nvIndex=0x01801F00, nameAlg=0x0B, attributes=attributes, dataSize=32)
    with ESAPI(recording.device.tpm.tcti) as esys:
        index = esys.nv_define_space(b"", TPM2B_NV_PUBLIC(public))
        esys.nv_write(index, bytes(value.view), auth_handle=ESYS_TR.OWNER)
    assert recording.leaked() == {bytes(value.view)}


def test_salted_sessions_alone_would_not_do(recording, monkeypatch):
    """The same life with parameter encryption switched off: S and every M are heard, so the test above can fail."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import TPMA_SESSION

    attributes = ESAPI.trsess_set_attributes

    def careless(esys, session, wanted, *rest):
        attributes(esys, session, wanted & ~int(TPMA_SESSION.ENCRYPT | TPMA_SESSION.DECRYPT), *rest)

    monkeypatch.setattr(ESAPI, "trsess_set_attributes", careless)
    whole_life(recording)
    assert len(recording.leaked()) >= 6  # S, the right to write, and the Ms
