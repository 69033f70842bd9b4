"""What a TPM's answers mean for people, and when it is asked again."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.trust.bundle.approvals import POLICY_REF, approve, policy_authorize, tpm_name
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.device.keys import PASSING
from idiolect.trust.vault.secret import Secret
from tests.support.devices import needs_tpm

pytestmark = needs_tpm
STATES = {"absent", "busy", "lockout", "refused", "replaced", "cleared", "damaged", "failed"}
"""Those of ``KeystoreError`` that come from a TPM."""
RESOURCE_MANAGERS = (0, 11 << 16, 12 << 16)


@pytest.mark.parametrize("layer", RESOURCE_MANAGERS)
@pytest.mark.parametrize(
    ("rc", "state", "telling"),
    [
        (0x18B, "cleared", "no longer holds"),  # handle 1
        (0x28B, "cleared", "no longer holds"),  # handle 2
        (0x14A, "damaged", "never written"),
        (0x99D, "refused", "not what the integrator approved"),  # session 1: policy
        (0x1C4, "refused", "not what the integrator approved"),  # parameter 1: value
        (0x1DF, "replaced", "another TPM"),
        (0x2DB, "refused", "not signed by the pinned policy key"),
        (0x921, "lockout", "lockout"),
        (0x98E, "refused", "auth value"),
        (0x9A2, "refused", "auth value"),
        (0x12F, "refused", "policy forbids"),
        (0x14B, "failed", "no NV space"),
        (0x101, "failed", "failure mode"),
        (0x128, "busy", "PCRs kept changing"),
        (0x902, "busy", "busy"),
        (0x903, "busy", "busy"),
        (0x908, "busy", "busy"),
        (0x922, "busy", "busy"),
        (0x923, "busy", "busy"),
        (0x1D5, "damaged", "the sealed key in the device record is damaged"),  # parameter 1: size
        (0x18A, "failed", "the TPM failed (0x18a)"),  # one that nobody foresaw
    ],
)
def test_every_code_has_a_state_a_sentence_and_a_next_step(layer, rc, state, telling):
    from idiolect.trust.device.tpm_answers import explain

    error = explain(layer | rc)
    assert (error.state, telling in str(error), bool(error.fix)) == (state, True, True), str(error)
    assert f"0x{rc:x}" in str(error)


@pytest.mark.parametrize("rc", [0xA000A, 0xA0008, 0x60001, 0x7000C])
def test_what_does_not_come_from_a_tpm_means_that_there_is_none(rc):
    from idiolect.trust.device.tpm_answers import UNREACHABLE, explain

    error = explain(rc)
    assert (error.state, error.code) == ("absent", UNREACHABLE)
    assert f"0x{rc:x}" in str(error)


def test_what_is_no_structure_of_a_tpm_was_damaged_on_the_disk():
    from idiolect.trust.device.tpm_answers import explain

    error = explain(0x9000B)
    assert (error.state, "device record is damaged" in str(error)) == ("damaged", True)


def test_no_code_at_all_leads_to_an_unknown_state():
    from idiolect.trust.device.tpm_answers import explain

    found = {explain(rc).state for rc in range(1, 1 << 12)}
    assert found <= STATES
    assert {"absent", "busy", "lockout"} <= PASSING


class Stubborn:
    """Fails so often with a code, then answers."""

    def __init__(self, code, times):
        self.code, self.left, self.calls = code, times, 0

    def __call__(self):
        from tpm2_pytss import TSS2_Exception

        self.calls += 1
        if self.left:
            self.left -= 1
            raise TSS2_Exception(self.code)
        return "answer"


@pytest.fixture
def slept(monkeypatch):
    """How long it waited, instead of waiting."""
    waits = []
    monkeypatch.setattr("idiolect.trust.device.tpm.time.sleep", waits.append)
    return waits


def test_a_busy_tpm_is_asked_again_with_growing_waits(slept):
    from idiolect.trust.device.tpm import PATIENCE, TpmError, _patiently

    call = Stubborn(0x922, len(PATIENCE))
    assert _patiently(call) == "answer"
    assert slept == list(PATIENCE) == sorted(PATIENCE)
    with pytest.raises(TpmError, match="busy"):
        _patiently(Stubborn(0x922, len(PATIENCE) + 1))


def test_what_will_not_pass_is_not_asked_again(slept):
    from idiolect.trust.device.tpm import TpmError, _patiently

    call = Stubborn(0x18B, 1)
    with pytest.raises(TpmError) as refusal:
        _patiently(call)
    assert (call.calls, slept, refusal.value.code) == (1, [], 0x8B)


def test_moving_pcrs_cost_no_waiting_and_have_an_end(slept):
    from idiolect.trust.device.tpm import PCR_TRIES, TpmError, _patiently

    assert _patiently(Stubborn(0x128, PCR_TRIES)) == "answer"
    call = Stubborn(0x128, 10**6)
    with pytest.raises(TpmError, match="PCRs kept changing"):
        _patiently(call)
    assert (call.calls, slept) == (PCR_TRIES + 1, [])


def short(coordinate):
    """A key of which that coordinate begins with a zero byte: one in 128 has one."""
    while True:
        key = ec.generate_private_key(ec.SECP256R1())
        if getattr(key.public_key().public_numbers(), coordinate) < 1 << 248:
            return key


@pytest.mark.parametrize("coordinate", ["x", "y"])
def test_a_policy_key_with_a_leading_zero_opens_too(tpm, coordinate):
    from idiolect.trust.device.tpm import Tpm
    from idiolect.trust.device.tpm_values import Authorization

    key = short(coordinate)
    approval = approve(key, 14, bytes(32), b"m" * 32)
    policy = policy_authorize(tpm_name(key.public_key()))
    with Tpm(tpm.tcti) as chip:
        chip.trust_storage_key(0x81001D00, chip.create_storage_key(0x81001D00))
        sealed = chip.seal(Secret(b"s" * 32), policy)
        chip.extend_pcr(14, b"m" * 32)
        assert chip.unseal(sealed, Authorization(public_pem(key.public_key()), approval, POLICY_REF)) == b"s" * 32


def test_every_handle_is_given_back(tmp_path, tpm):
    """A TPM has room for three objects and three sessions: what is left behind keeps the next one out."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import TPM2_CAP

    from tests.support import bundles
    from tests.support.devices import TestDevice, remember

    device = TestDevice(tmp_path, tpm)
    device.provision()
    with device.boot(bundles.signed()) as custody:
        remember(custody.vault, "01", rotate=True)
        custody.mark_good()
        custody.attest(bytes(32))
    device.refused(bundles.sign(bundles.builtin(), version=7, policy=("stranger",)), "refused", "no approval")
    with ESAPI(tpm.tcti) as esys:
        for first in (0x80000000, 0x02000000, 0x03000000):
            _, data = esys.get_capability(TPM2_CAP.HANDLES, first, 16)
            listed = data.data.handles
            assert list(listed) == []
