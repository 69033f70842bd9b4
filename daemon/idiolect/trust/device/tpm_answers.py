"""Turns a TPM's response codes into a state, one sentence and a next step (TPM 2.0 Library part 2, 6.6)."""

from __future__ import annotations

from idiolect.errors import KeystoreError

_FORMAT_1 = 0x80
_TPM_LAYERS = (0, 11, 12)
"""Layers of a TSS2_RC that carry a TPM's own code: the TPM, and resource managers that speak for it."""

_MARSHALLING = 9
"""The layer of TSS2_MU."""

_MARSHAL_LAYER = 9
"""TSS2_MU: what was read from disk is no TPM structure."""

PCR_CHANGED = 0x128
NV_UNINITIALIZED = 0x14A
NV_DEFINED = 0x14C
HANDLE = 0x8B
POLICY_FAIL = 0x9D
INTEGRITY = 0x9F
SIGNATURE = 0x9B
VALUE = 0x84
AUTH_FAIL, BAD_AUTH = 0x8E, 0xA2
SIZE = 0x95
LOCKOUT = 0x921
UNREACHABLE = 0x1_0000
"""Ours, for a TPM that did not answer at all."""
UNREADABLE = 0x2_0000
"""Ours, for bytes that are no TPM structure."""
TRANSIENT = {0x901, 0x902, 0x903, 0x904, 0x905, 0x906, 0x908, 0x909, 0x90A, 0x920, 0x922, 0x923}
"""Memory and handles of objects and sessions used up by others, yielded, testing, NV rate limit, retry."""

_RESET = "if that was on purpose: idiolect factory-reset, then idiolect provision"
_NOT_APPROVED = (
    "refused",
    "the TPM refuses: what this boot measured is not what the integrator approved",
    "reboot; if it stays, install a bundle that was signed for this device",
)
_DAMAGED = (
    "damaged",
    "the sealed key in the device record is damaged",
    "restore device.json from a backup, or factory-reset and provision",
)
_TABLE: dict[int, tuple[str, str, str]] = {
    HANDLE: ("cleared", "the TPM no longer holds what it was provisioned with", _RESET),
    NV_UNINITIALIZED: ("damaged", "an NV index was never written", "run idiolect provision again"),
    POLICY_FAIL: _NOT_APPROVED,
    VALUE: _NOT_APPROVED,  # PolicyAuthorize: the session's PolicyPCR is not the approved one
    SIZE: _DAMAGED,
    INTEGRITY: ("replaced", "the sealed key belongs to another TPM", _RESET),
    PCR_CHANGED: ("busy", "PCRs kept changing while the keys were asked for", "it is tried again"),
    SIGNATURE: ("refused", "the approval is not signed by the pinned policy key", "install a bundle signed by it"),
    LOCKOUT: ("lockout", "the TPM is in lockout after failed authorizations", "wait, or tpm2_dictionarylockout -c"),
    AUTH_FAIL: ("refused", "the TPM refuses the auth value", "give the hierarchy's auth value (--owner-auth-file)"),
    BAD_AUTH: ("refused", "the TPM refuses the auth value", "give the hierarchy's auth value (--owner-auth-file)"),
    0x12F: ("refused", "the TPM's policy forbids this use", "run idiolect doctor"),
    0x14B: ("failed", "the TPM has no NV space left", "remove NV indices of other programs (tpm2_nvundefine)"),
    0x101: ("failed", "the TPM is in failure mode", "power the device off and on"),
}


class TpmError(KeystoreError):
    """A TPM did not do what was asked. ``code`` is its response code without handle, session or parameter number."""

    def __init__(self, message: str, fix: str, state: str = "replaced", code: int = 0) -> None:
        super().__init__(message, fix, state)
        self.code = code


def explain(rc: int) -> TpmError:
    """Return the error, ready to be raised, for a TSS2_RC."""
    if rc >> 16 == _MARSHAL_LAYER:
        state, message, fix = _DAMAGED
        return TpmError(f"{message} (0x{rc:x})", fix, state, SIZE)
    if rc >> 16 == _MARSHALLING:
        fix = "restore device.json from a backup, or factory-reset and provision"
        return TpmError("the sealed key in device.json is damaged", fix, "damaged", UNREADABLE)
    if rc >> 16 not in _TPM_LAYERS:
        message = "the TPM cannot be reached, or went away"
        fix = "is it there (ls /dev/tpm*), may this user open it (group tss), is trust.tcti right?"
        return TpmError(f"{message} (0x{rc:x})", fix, "absent", UNREACHABLE)
    code = rc & 0xFFFF
    if code & _FORMAT_1:
        code = _FORMAT_1 | code & 0x3F
    if code in TRANSIENT:
        fix = "it is tried again; a resource manager (device:/dev/tpmrm0) keeps programs apart"
        return TpmError(f"the TPM is busy, or other programs fill it (0x{rc & 0xFFFF:x})", fix, "busy", code)
    state, message, fix = _TABLE.get(code, ("failed", "the TPM failed", "run idiolect doctor"))
    return TpmError(f"{message} (0x{rc & 0xFFFF:x})", fix, state, code)
