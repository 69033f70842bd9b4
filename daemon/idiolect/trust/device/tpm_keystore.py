"""The keystore in a TPM: S sealed on disk, M in two NV slots, the minimum version in a third index.

What is released, to whom, and what is checked before (`TpmKeystore.open`, numbers as in the code):

1. the TPM answers, and its storage root key has the pinned Name: only then anything is salted with it;
2. the PCR holds a value that an approval of this very bundle names, as where it comes from (a fresh boot, or the
   bundle that it may follow in one boot) or as where it leads (a restart in the same boot);
3. the approval is signed by the pinned policy key (in software; the TPM checks it again);
4. the bundle's version is not below the minimum;
5. where the PCR stands at "from", the measurement is extended: from here on this boot is this bundle's;
6. S is unsealed by the approved policy;
7. the slots are as provisioned (attributes, size, policy), and M is read by the approved policy.

The TPM itself enforces 2, 3, 6 and 7 against whoever talks to it; 1, 4 and the check of the slots are this program's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from idiolect.errors import KeystoreError
from idiolect.trust.bundle import approvals as approvals_
from idiolect.trust.bundle.approvals import Approval
from idiolect.trust.bundle.public_keys import fingerprint, load_public
from idiolect.trust.device.identity import Device, SealedKey
from idiolect.trust.device.tpm import Tpm
from idiolect.trust.device.tpm_answers import HANDLE, NV_UNINITIALIZED, POLICY_FAIL, VALUE, TpmError
from idiolect.trust.device.tpm_values import Authorization, Sealed
from idiolect.trust.vault.envelope import derive
from idiolect.trust.vault.keystore import CURRENT, NEXT, SECRET_BYTES, Released, Slot, too_old
from idiolect.trust.vault.secret import Secret

STORAGE_KEY, ATTESTATION_KEY = 0x81001D00, 0x81011D00
"""Persistent handles, in the ranges that the TCG's registry leaves to an owner (owner and endorsement objects)."""
SLOTS, MINIMUM = (0x01801D00, 0x01801D01), 0x01801D02
"""NV indices, in the owner's range."""
SLOT_BYTES, MINIMUM_BYTES = 8 + SECRET_BYTES, 8
WRITE_LABEL = b"idiolect/nv/write/v1"
_NO_APPROVAL_FIX = (
    "reboot; if it stays, something else extends that PCR before idiolectd (shim does on PCs): sign the bundle with "
    "--pcr-start VALUE or another --pcr"
)


def read_only_policy() -> bytes:
    """Return the digest of PolicyCommandCode(TPM_CC_NV_Read), which anybody meets who only reads (part 3, 23.11)."""
    return hashlib.sha256(bytes(32) + struct.pack(">II", 0x16C, 0x14E)).digest()


@dataclass(frozen=True, slots=True)
class Measured:
    """Says how the boot was measured: in which PCR, and whether this start extended it or found it extended."""

    pcr: int
    value: bytes
    extended: bool


class TpmKeystore:
    """An opened TPM keystore (``vault.keystore.Keystore``). It holds no connection, only the right to write slots."""

    kind = "tpm"
    protected = True

    def __init__(self, tcti: str, device: Device, write_auth: Secret) -> None:
        self._tcti = tcti
        self._device = device
        # Two while the policy key is being replaced.
        self._policies = [slot_policy(sealed.policy_key) for sealed in device.sealed]
        self._write_auth = write_auth

    @classmethod
    def open(
        cls, tcti: str, device: Device, measurement: bytes, approvals: Sequence[Approval], version: int
    ) -> tuple[TpmKeystore, Released, Measured]:
        """Measure the boot and get the secrets (checks above). Raises ``KeystoreError``."""
        with connect(tcti, device) as tpm:  # 1
            sealed, approval, measured = _measure(tpm, device, measurement, approvals, version)  # 2 to 5
            how = authorization(sealed, approval)
            root = Secret(tpm.unseal(Sealed(sealed.public, sealed.private), how))  # 6
            write_auth = derive(root, WRITE_LABEL)
            slots = _Slots(tpm, write_auth, _ways(device, approvals, measured))
            released = Released(root, (slots.read(NEXT), slots.read(CURRENT)))  # 7
        if not any(released.slots):
            raise _unreadable(released, write_auth)
        return cls(tcti, device, write_auth), released, measured

    def write_slot(self, index: int, slot: Slot) -> None:
        """Replace one copy of M, durably before this returns; the other stays as it is.

        Raises:
            KeystoreError: also where the index is not as provisioned: it might be one that anybody can read.
        """
        with self._connected() as tpm:
            tpm.check_index(SLOTS[index], SLOT_BYTES, self._policies)
            tpm.write(SLOTS[index], encode_slot(slot), self._write_auth)

    def minimum_version(self) -> int:
        """Return the lowest version of a bundle that may get the keys, from 0."""
        with self._connected() as tpm:
            return _minimum(tpm)

    def raise_minimum(self, version: int) -> None:
        """Raise the minimum version; a lower ``version`` than before changes nothing."""
        with self._connected() as tpm:
            if version > _minimum(tpm):
                tpm.write(MINIMUM, struct.pack(">Q", version), self._write_auth)

    def wipe(self) -> None:
        """Forget the right to write."""
        self._write_auth.wipe()

    def _connected(self) -> Tpm:
        return connect(self._tcti, self._device)


def connect(tcti: str, device: Device, *, owner: bytes = b"") -> Tpm:
    """Connect to the TPM that ``device`` was provisioned with (check 1), ready for encrypted sessions."""
    tpm = Tpm(tcti, owner=owner)
    try:
        _trust(tpm, device)
    except BaseException:
        tpm.close()
        raise
    return tpm


def quote(tcti: str, device: Device, pcr: int, qualifying: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a quote by the attestation key over ``pcr``: TPMS_ATTEST, TPMT_SIGNATURE, and the PCR's value.

    Needs no keys.
    """
    with connect(tcti, device) as tpm:
        attest, signature = tpm.quote(ATTESTATION_KEY, pcr, qualifying)
        return attest, signature, tpm.read_pcr(pcr)


def _unreadable(released: Released, write_auth: Secret) -> KeystoreError:
    """Return the error for when neither copy of M is under the policy that the record names."""
    released.wipe()
    write_auth.wipe()
    message = "neither NV slot is as this disk remembers it: the disk is from before a new policy key, or they were"
    fix = "put the newest copy of the state directory back; if there is none: idiolect factory-reset, then provision"
    return KeystoreError(f"{message} redefined", fix, "older")


def slot_policy(policy_key: bytes) -> bytes:
    """Return the policy of everything that is released: PolicyAuthorize by that key."""
    name = approvals_.tpm_name(load_public("policy key", policy_key))
    return approvals_.policy_authorize(name, approvals_.POLICY_REF)


def authorization(sealed: SealedKey, approval: Approval) -> Authorization:
    """Return how that policy is met with ``approval``."""
    return Authorization(sealed.policy_key, approval, approvals_.POLICY_REF)


def encode_slot(slot: Slot) -> bytes:
    """Return a slot's bytes: generation (64 bits, big-endian) and M."""
    return struct.pack(">Q", slot.generation) + bytes(slot.secret.view)


def decode_slot(data: bytearray) -> Slot:
    """Return the slot in these bytes, the reverse of ``encode_slot``; ``data`` is zeroed."""
    (generation,) = struct.unpack_from(">Q", data)
    secret = Secret(data[8:])
    data[:] = bytes(len(data))
    return Slot(generation, secret)


def _trust(tpm: Tpm, device: Device) -> None:
    """Check 1, and on failure find out what happened to the TPM."""
    try:
        tpm.trust_storage_key(STORAGE_KEY, device.srk)
    except TpmError as error:
        if error.code != HANDLE:
            raise
        # The endorsement seed survives TPM2_Clear: the same attestation key means the same chip.
        same = tpm.create_attestation_key(None) == _ak_name(device)
        what = "was cleared" if same else "is another one, or this disk comes from another device"
        message = f"the TPM {what}: the keys to what was stored are gone"
        raise TpmError(message, error.fix, "cleared" if same else "replaced", HANDLE) from None


def _ak_name(device: Device) -> bytes:
    """Return the Name of the pinned attestation key: its public area is fixed but for the point."""
    from idiolect.trust.device.attestation import key_name

    return key_name(device.ak)


def _measure(
    tpm: Tpm, device: Device, measurement: bytes, approvals: Sequence[Approval], version: int
) -> tuple[SealedKey, Approval, Measured]:
    values = {pcr: tpm.read_pcr(pcr) for pcr in sorted({a.pcr for a in approvals})}
    found = _approval_for(device, approvals, values)  # 2
    if found is None:
        held = ", ".join(f"PCR {pcr} holds {value.hex()}" for pcr, value in values.items())
        why = held or "it carries no approval at all"
        message = f"no approval of this bundle fits this boot: {why}"
        raise KeystoreError(message, _NO_APPROVAL_FIX, "refused")
    sealed, approval, extend = found
    if not approvals_.check(approval, load_public("policy key", sealed.policy_key)):  # 3
        fix = "install a bundle whose approvals are signed by it"
        raise KeystoreError("the approval is not signed by the pinned policy key", fix, "refused")
    minimum = _minimum(tpm)
    if version < minimum:  # 4
        raise too_old(version, minimum)
    if extend:  # 5
        tpm.extend_pcr(approval.pcr, measurement)
    return sealed, approval, Measured(approval.pcr, approval.to, extend)


def _approval_for(
    device: Device, approvals: Sequence[Approval], values: dict[int, bytes]
) -> tuple[SealedKey, Approval, bool] | None:
    for sealed in device.sealed:
        key = fingerprint(load_public("policy key", sealed.policy_key))
        for pcr, value in values.items():
            fitting = approvals_.for_boot(approvals, key, value, pcr=pcr)
            if fitting:
                return sealed, *fitting
    return None


def _ways(device: Device, approvals: Sequence[Approval], measured: Measured) -> list[tuple[bytes, Authorization]]:
    """Return how a slot may be read now: its policy, and what meets it. Two while the policy key is replaced."""
    ways = []
    for sealed in device.sealed:
        key = fingerprint(load_public("policy key", sealed.policy_key))
        fitting = approvals_.for_boot(approvals, key, measured.value, pcr=measured.pcr)
        if fitting:
            ways.append((slot_policy(sealed.policy_key), authorization(sealed, fitting[0])))
    return ways


@dataclass(frozen=True, slots=True)
class _Slots:
    """Reads the two slots, each only if it is as provisioned (check 7)."""

    tpm: Tpm
    write_auth: Secret
    ways: Sequence[tuple[bytes, Authorization]]

    def read(self, index: int) -> Slot | None:
        for policy, how in self.ways:
            try:
                self.tpm.check_index(SLOTS[index], SLOT_BYTES, [policy])
                return decode_slot(self.tpm.read(SLOTS[index], SLOT_BYTES, how, self.write_auth))
            except TpmError as error:
                # Not there, not written, or under the other policy: the second slot may serve. Else it is passed on.
                if error.code not in (0, HANDLE, NV_UNINITIALIZED, POLICY_FAIL, VALUE):
                    raise
        return None


def _minimum(tpm: Tpm) -> int:
    tpm.check_index(MINIMUM, MINIMUM_BYTES, [read_only_policy()])
    (version,) = struct.unpack(">Q", tpm.read_openly(MINIMUM, MINIMUM_BYTES))
    return int(version)
