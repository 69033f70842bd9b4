"""Attacks on the measured start: PCRs moved, approvals forged, NV indices redefined, the TPM filled up or locked."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import replace

import pytest

from idiolect.errors import KeystoreError
from idiolect.trust.bundle import approvals
from idiolect.trust.device import tpm_keystore as scheme
from idiolect.trust.device.provisioning import read_record
from idiolect.trust.device.tpm import PCR_TRIES, SLOT_ATTRIBUTES, Tpm
from idiolect.trust.device.tpm_answers import SIGNATURE, TpmError
from idiolect.trust.device.tpm_values import Authorization, Sealed
from idiolect.trust.vault.secret import Secret
from tests.support import bundles
from tests.support.devices import TestDevice, contents, forget, model_of, needs_tpm, policy_pem, recall, remember

pytestmark = needs_tpm
BOTH = {"01", "02"}
PARAMETER_2 = 0x240
"""Of TPM2_VerifySignature: the TPM says which parameter it means."""


@pytest.fixture
def device(tmp_path, tpm):
    made = TestDevice(tmp_path, tpm)
    made.provision()
    with made.boot(bundles.signed()) as custody:
        remember(custody.vault, "01")
        remember(custody.vault, "02")
    tpm.power_cycle()
    return made


@contextmanager
def raw(tpm):
    """A TPM as any other program may use it."""
    from tpm2_pytss import ESAPI

    with ESAPI(tpm.tcti) as esys:
        yield esys


def with_approvals(bundle, *forged):
    """The model that a bundle would be with other approvals."""
    return replace(model_of(bundle), approvals=forged)


def view_of(device, model):
    """What a start with that model leads to, and that it writes nothing."""
    from idiolect.trust.device.keys import DeviceKeys

    before = contents(device.state)
    custody = DeviceKeys(device.config, model)
    view = custody.open()
    custody.close()
    assert contents(device.state) == before
    return view


# -- PCRs -------------------------------------------------------------------------------------------------------------


def test_whoever_extends_the_pcr_first_gets_nothing_and_gives_nothing(device, tpm):
    with Tpm(tpm.tcti) as chip:
        chip.extend_pcr(14, b"somebody was here first.........")
        held = chip.read_pcr(14)
    view = device.refused(
        bundles.signed(), "refused", f"no approval of this bundle fits this boot: PCR 14 holds {held.hex()[:16]}"
    )
    assert view.fix.startswith("reboot")
    with Tpm(tpm.tcti) as chip:
        assert chip.read_pcr(14) == held  # nothing was added
    tpm.power_cycle()
    assert set(device.opens(bundles.signed())) == BOTH


def test_whoever_extends_the_pcr_after_us_ends_this_boots_keys(device, tpm):
    assert set(device.opens(bundles.signed())) == BOTH
    with Tpm(tpm.tcti) as chip:
        chip.extend_pcr(14, bytes(32))
    device.refused(bundles.signed(), "refused", "no approval of this bundle fits this boot")
    tpm.power_cycle()
    assert set(device.opens(bundles.signed())) == BOTH


@pytest.fixture
def moving(monkeypatch):
    """Another PCR moves between PolicyPCR and Unseal, as under IMA; set ``times``."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
    from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

    class Moving:
        times = 0
        seen = 0

    unseal = ESAPI.unseal
    value = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"m" * 32))

    def moved(esys, *args, **named):
        Moving.seen += 1
        if Moving.seen <= Moving.times:  # through the same connection: swtpm serves one at a time
            esys.pcr_extend(ESYS_TR.PCR10, TPML_DIGEST_VALUES([value]))
        return unseal(esys, *args, **named)

    monkeypatch.setattr(ESAPI, "unseal", moved)
    return Moving


@pytest.mark.parametrize("times", [1, PCR_TRIES - 1, PCR_TRIES])
def test_another_pcr_that_moves_meanwhile_is_waited_for(device, moving, times):
    moving.times = times
    assert set(device.opens(bundles.signed())) == BOTH
    assert moving.seen == times + 1


def test_another_pcr_that_never_rests_is_given_up_for_now(device, moving):
    moving.times = 10**6
    view = device.refused(bundles.signed(), "busy", "PCRs kept changing while the keys were asked for (0x128)")
    assert view.passing
    assert moving.seen == PCR_TRIES + 1
    moving.times = 0
    assert set(device.opens(bundles.signed())) == BOTH


# -- approvals --------------------------------------------------------------------------------------------------------


def test_approvals_of_another_bundle_are_refused(device, tpm):
    """They are for another measurement: this one is extended, and then fits nothing."""
    other = bundles.signed(5, name="other")
    view = view_of(device, with_approvals(bundles.signed(), *other.approvals))
    assert (view.state, view.released) == ("refused", False), view
    assert "what this boot measured is not what the integrator approved" in view.detail
    tpm.power_cycle()
    assert set(device.opens(bundles.signed())) == BOTH


def test_an_approval_by_another_policy_key_is_refused(device, tpm):
    bundle = bundles.signed()
    (mine,) = bundle.approvals
    digest = bytes.fromhex(bundle.digest)
    theirs = approvals.approve(bundles.key("stranger"), 14, bytes(32), digest)
    view = view_of(device, with_approvals(bundle, theirs))
    assert (view.state, "no approval of this bundle fits this boot" in view.detail) == ("refused", True), view
    view = view_of(device, with_approvals(bundle, replace(theirs, key=mine.key)))  # under our key's name
    assert view.state == "refused"
    assert view.detail == "the approval is not signed by the pinned policy key"
    assert set(device.opens(bundle)) == BOTH  # nothing was measured in vain


def flipped(approval):
    """The approval with one bit of its signature's last byte changed."""
    raw_signature = bytearray(approval.signature)
    raw_signature[-1] ^= 1
    return replace(approval, signature=bytes(raw_signature))


def test_a_flipped_bit_in_an_approval_is_found_by_us_and_by_the_tpm(device, tpm, monkeypatch):
    bundle = bundles.signed()
    forged = with_approvals(bundle, *map(flipped, bundle.approvals))
    view = view_of(device, forged)
    assert (view.state, view.detail) == ("refused", "the approval is not signed by the pinned policy key")
    with Tpm(tpm.tcti) as chip:
        assert chip.read_pcr(14) == bytes(32)
    monkeypatch.setattr(approvals, "check", lambda *_: True)  # who has changed our program
    view = view_of(device, forged)
    assert (view.state, view.released) == ("refused", False)
    assert view.detail == f"the approval is not signed by the pinned policy key (0x{SIGNATURE | PARAMETER_2:x})"
    monkeypatch.undo()
    assert set(device.opens(bundle)) == BOTH  # a restart in the same boot, with the true approval


def test_the_tpm_itself_holds_the_pcr_against_a_program_without_checks(device, tpm):
    """Unseal and NV read with a good approval, and a PCR that is not what it approves."""
    bundle, record = bundles.signed(), read_record(device.state)
    (sealed,), (approval,) = record.sealed, bundle.approvals
    how = Authorization(sealed.policy_key, approval, approvals.POLICY_REF)
    with scheme.connect(tpm.tcti, record) as chip:
        for attempt in (
            lambda: chip.unseal(Sealed(sealed.public, sealed.private), how),
            lambda: chip.read(scheme.SLOTS[0], scheme.SLOT_BYTES, how, Secret(bytes(32))),
        ):
            with pytest.raises(TpmError, match="not what the integrator approved"):
                attempt()
        chip.extend_pcr(14, bytes.fromhex(bundle.digest))
        assert len(chip.unseal(Sealed(sealed.public, sealed.private), how)) == 32


# -- NV ---------------------------------------------------------------------------------------------------------------


def redefine(tpm, index, size, attributes, *, policy=b"", auth=b"", content=None):
    """What anybody may do while the owner hierarchy has no auth value: remove an index, and define another there."""
    from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

    public = TPMS_NV_PUBLIC(nvIndex=index, nameAlg=0x0B, attributes=attributes, authPolicy=policy, dataSize=size)
    with raw(tpm) as esys:
        esys.nv_undefine_space(esys.tr_from_tpmpublic(index))
        item = esys.nv_define_space(auth, TPM2B_NV_PUBLIC(public))
        if content is not None:
            esys.nv_write(item, content)


def generations(device, bundle):
    """The generations in the two slots, None where one cannot be read."""
    digest = bytes.fromhex(bundle.digest)
    keystore, released, _ = scheme.TpmKeystore.open(
        device.tpm.tcti, read_record(device.state), digest, bundle.approvals, bundle.manifest.version
    )
    keystore.wipe()
    found = [slot and slot.generation for slot in released.slots]
    released.wipe()
    return found


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("attribute", ["AUTHREAD", "OWNERREAD"])
def test_a_slot_that_anybody_could_read_is_not_written(device, tpm, index, attribute):
    from tpm2_pytss.constants import TPMA_NV

    bundle = bundles.signed()
    policy = scheme.slot_policy(policy_pem())
    readable = TPMA_NV.AUTHWRITE | TPMA_NV.POLICYREAD | TPMA_NV.NO_DA | getattr(TPMA_NV, attribute)
    redefine(tpm, scheme.SLOTS[index], scheme.SLOT_BYTES, readable, policy=policy, content=b"x" * scheme.SLOT_BYTES)
    with device.boot(bundle) as custody:
        assert custody.view.released, custody.view  # the other copy is whole
        first, second = custody.vault.trouble, [f for f in custody.examine() if f.about == "vault"]
        assert first.state == "damaged"
        assert "is not as it was provisioned: somebody redefined it" in str(first)
        assert (second[0].level, str(first) in second[0].detail, bool(second[0].fix)) == ("warn", True, True)
        forget(custody.vault, "01")
        assert (custody.vault.owed, custody.vault.trouble.state) == (True, "damaged")
        assert set(recall(custody.vault)) == {"02"}
    with raw(tpm) as esys:  # what the attacker can read now
        item = esys.tr_from_tpmpublic(scheme.SLOTS[index])
        content = bytes(esys.nv_read(item, scheme.SLOT_BYTES, 0, *([] if attribute == "AUTHREAD" else [_owner()])))
        assert content == b"x" * scheme.SLOT_BYTES
    assert set(device.opens(bundle)) == {"02"}


def _owner():
    from tpm2_pytss.constants import ESYS_TR

    return ESYS_TR.OWNER


def test_a_redefined_slot_is_mended_without_a_factory_reset(device, tpm):
    """Replacing the policy key by itself defines both slots anew, from the copy that is whole."""
    from tpm2_pytss.constants import TPMA_NV

    bundle, readable = bundles.signed(), TPMA_NV.AUTHWRITE | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA
    redefine(tpm, scheme.SLOTS[1], scheme.SLOT_BYTES, readable, content=b"x" * scheme.SLOT_BYTES)
    device.replace_policy_key(bundle, "policy")
    with device.boot(bundle) as custody:
        assert custody.view.released, custody.view
        assert (custody.vault.owed, custody.vault.trouble) == (False, None)
        assert set(recall(custody.vault)) == BOTH
    assert len(set(generations(device, bundle))) == 1


def test_a_slot_defined_anew_just_alike_but_for_its_auth_value_opens_nothing_and_takes_nothing(device, tpm):
    """Its attributes and policy are right, so what tells is that only S gives the right to write."""
    bundle, policy = bundles.signed(), scheme.slot_policy(policy_pem())
    redefine(tpm, scheme.SLOTS[0], scheme.SLOT_BYTES, int(SLOT_ATTRIBUTES), policy=policy, content=bytes(40))
    with device.boot(bundle) as custody:
        assert custody.view.released, custody.view
        assert custody.vault.owed
        assert custody.vault.trouble.state == "damaged"
        assert set(recall(custody.vault)) == BOTH


@pytest.mark.parametrize("index", [0, 1])
def test_a_replacement_of_the_policy_key_never_copies_what_somebody_put_into_a_slot(device, tpm, index):
    """Of the two slots the one that opened the vault is moved, and the other is made from it."""
    both = bundles.sign(bundles.builtin(), version=2, name="test", policy=("policy", "next"))
    policy = scheme.slot_policy(policy_pem())
    redefine(tpm, scheme.SLOTS[index], scheme.SLOT_BYTES, int(SLOT_ATTRIBUTES), policy=policy, content=bytes(40))
    device.replace_policy_key(both)
    with device.boot(both) as custody:
        assert custody.view.released, custody.view
        assert set(recall(custody.vault)) == BOTH
        assert (custody.vault.owed, custody.vault.trouble) == (False, None)


def test_both_slots_destroyed_is_told_and_nothing_is_made_anew(device, tpm):
    with raw(tpm) as esys:
        for index in scheme.SLOTS:
            esys.nv_undefine_space(esys.tr_from_tpmpublic(index))
    for _ in range(2):
        device.refused(bundles.signed(), "older", "neither NV slot is as this disk remembers it")


def test_who_may_use_the_owner_hierarchy_can_lower_the_minimum_version_a_documented_limit(device, tpm):
    """The owner's auth is empty, so root can remove the index and define one alike; only its shape can be checked.

    An older bundle, signed and approved, then gets the keys; the program notices when it next marks one good.
    """
    a, b = bundles.signed(1), bundles.signed(2, after=(1,))
    with device.boot(b) as custody:
        custody.mark_good()
    tpm.power_cycle()
    device.refused(a, "refused", "refused (4): the bundle has version 1, this device asks for 2 or later")
    policy = scheme.read_only_policy()
    redefine(tpm, scheme.MINIMUM, scheme.MINIMUM_BYTES, int(SLOT_ATTRIBUTES), policy=policy, content=bytes(8))
    assert set(device.opens(a)) == BOTH
    with device.boot(b) as custody, pytest.raises(KeystoreError) as refusal:
        custody.mark_good()
    assert refusal.value.state == "damaged"


def test_a_minimum_version_of_another_shape_or_none_at_all_is_refused(device, tpm):
    from tpm2_pytss.constants import TPMA_NV

    redefine(tpm, scheme.MINIMUM, scheme.MINIMUM_BYTES, TPMA_NV.AUTHWRITE | TPMA_NV.AUTHREAD, content=bytes(8))
    device.refused(bundles.signed(), "damaged", "NV index 0x01801d02 is not as it was provisioned")
    with raw(tpm) as esys:
        esys.nv_undefine_space(esys.tr_from_tpmpublic(scheme.MINIMUM))
    device.refused(bundles.signed(), "cleared", "the TPM no longer holds what it was provisioned with")


# -- a TPM that is full, or locked ------------------------------------------------------------------------------------


def sessions(esys):
    """Take every session."""
    from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE
    from tpm2_pytss.types import TPMT_SYM_DEF

    none = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    while True:
        esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, none, TPM2_ALG.SHA256)


def objects(esys):
    """Take every place for an object."""
    while True:
        esys.create_primary(None, "ecc256")


@pytest.mark.parametrize("full", [(sessions, 0x02000000, "0x903"), (objects, 0x80000000, "0x902")], ids=["s", "o"])
def test_a_tpm_filled_up_by_another_program_is_busy_and_nothing_is_lost(device, tpm, monkeypatch, full):
    from tpm2_pytss import ESAPI, TSS2_Exception
    from tpm2_pytss.constants import TPM2_CAP

    fill, kind, code = full
    monkeypatch.setattr("idiolect.trust.device.tpm.PATIENCE", (0.01, 0.01))
    with ESAPI(tpm.tcti) as esys, pytest.raises(TSS2_Exception):
        fill(esys)  # and leave them behind, as a program does that crashed
    view = device.refused(bundles.signed(), "busy", f"other programs fill it ({code})")
    assert view.passing
    custody = device.custody(bundles.signed())
    assert custody.open().state == "busy"
    with raw(tpm) as esys:
        _, data = esys.get_capability(TPM2_CAP.HANDLES, kind, 16)
        listed = data.data.handles
        for handle in list(listed):
            esys.flush_context(esys.tr_from_tpmpublic(handle))
    assert custody.tend().released
    assert set(recall(custody.vault)) == BOTH
    custody.close()


def test_a_tpm_in_lockout_gives_our_keys_all_the_same(device, tpm):
    from tpm2_pytss import TSS2_Exception

    with raw(tpm) as esys:
        _lock(esys, TSS2_Exception)
    with Tpm(tpm.tcti) as chip:
        assert chip.properties().in_lockout
    with device.boot(bundles.signed()) as custody:
        assert custody.view.released, custody.view
        remember(custody.vault, "03", rotate=True)
        assert not custody.vault.owed
        (told,) = [found for found in custody.examine() if found.about == "tpm"]
        assert (told.level, "in lockout" in told.detail, bool(told.fix)) == ("warn", True, True)


def _lock(esys, refusal):
    """Guess the auth value of a key that is protected against guessing, until the TPM has had enough."""
    from tpm2_pytss.constants import ESYS_TR, TPMA_OBJECT
    from tpm2_pytss.types import (
        TPM2B_PUBLIC,
        TPM2B_SENSITIVE_CREATE,
        TPMS_SENSITIVE_CREATE,
        TPMT_SIG_SCHEME,
        TPMT_TK_HASHCHECK,
    )

    esys.dictionary_attack_parameters(2, 1000, 1000)
    attributes = (
        TPMA_OBJECT.SIGN_ENCRYPT
        | TPMA_OBJECT.USERWITHAUTH
        | TPMA_OBJECT.SENSITIVEDATAORIGIN
        | TPMA_OBJECT.FIXEDTPM
        | TPMA_OBJECT.FIXEDPARENT
    )
    template = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256", objectAttributes=attributes)
    key = esys.create_primary(TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=b"right")), template)[0]
    esys.tr_set_auth(key, b"wrong")
    digest = hashlib.sha256(b"").digest()
    ticket = TPMT_TK_HASHCHECK(tag=0x8024, hierarchy=ESYS_TR.NULL)
    for _ in range(3):
        with pytest.raises(refusal):
            esys.sign(key, digest, TPMT_SIG_SCHEME(scheme=0x10), ticket)
    esys.flush_context(key)


def test_power_losses_do_not_count_as_guesses(device, tpm):
    for _ in range(30):
        custody = device.custody(bundles.signed())
        assert custody.open().released
        tpm.power_cycle()  # without an orderly shutdown, while our objects are in use
        custody.close()
    with Tpm(tpm.tcti) as chip:
        found = chip.properties()
    assert (found.in_lockout, found.failed_tries) == (False, 0)
    assert set(device.opens(bundles.signed())) == BOTH
