"""Speaks to the TPM 2.0, as the only file that does, through tpm2-tss (ESAPI). It has verbs, and decides nothing.

Conventions, each of which was learnt the hard way:

* Secrets cross the bus only in sessions salted by the storage root key and with parameter encryption *set*: a salted
  session alone encrypts nothing. Never a PASSWORD session where an auth value is not empty.
* The storage root key's Name is compared with the pinned one before anything is salted with it.
* Everything is noDA: a power loss must not count towards lockout. Objects get no userWithAuth, or an empty auth
  would bypass their policy.
* Policy sessions serve once. Every handle is flushed: a TPM has room for three objects and three sessions.
* Unseal and NV_Read may return TPM_RC_PCR_CHANGED when *any* PCR moved since PolicyPCR (IMA does that): again.
* Elliptic curves only: a discrete chip makes an RSA key in tens of seconds.
* ESAPI, not FAPI: FAPI 3.2's AuthorizePolicy aborts the process for an external key.

Numbers and names of structures: TCG TPM 2.0 Library, parts 2 and 3.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

os.environ.setdefault("TSS2_LOG", "all+NONE")  # it would log to our stderr, and it names what it refuses

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss import constants as c
from tpm2_pytss import types as t

from idiolect.trust.device.tpm_answers import AUTH_FAIL, BAD_AUTH, PCR_CHANGED, TRANSIENT, TpmError, explain
from idiolect.trust.device.tpm_values import Authorization, Properties, Sealed

if TYPE_CHECKING:
    from idiolect.trust.vault.secret import Secret

T = TypeVar("T")

PATIENCE = (0.02, 0.08, 0.3, 0.8)
"""Seconds between tries while the TPM is busy, or other programs hold its few slots."""
PCR_TRIES = 8
"""Tries of a policy session while PCRs move under us."""
SLOT_ATTRIBUTES = c.TPMA_NV.POLICYREAD | c.TPMA_NV.AUTHWRITE | c.TPMA_NV.NO_DA
_STORAGE = (
    c.TPMA_OBJECT.RESTRICTED
    | c.TPMA_OBJECT.DECRYPT
    | c.TPMA_OBJECT.FIXEDTPM
    | c.TPMA_OBJECT.FIXEDPARENT
    | c.TPMA_OBJECT.SENSITIVEDATAORIGIN
    | c.TPMA_OBJECT.USERWITHAUTH
    | c.TPMA_OBJECT.NODA
)
_SIGNING = (_STORAGE ^ c.TPMA_OBJECT.DECRYPT) | c.TPMA_OBJECT.SIGN_ENCRYPT
_EXTERNAL = c.TPMA_OBJECT.SIGN_ENCRYPT | c.TPMA_OBJECT.USERWITHAUTH
_PERMANENT, _LOCKOUT_COUNTER, _MANUFACTURER, _FIRMWARE = 0x200, 0x20E, 0x105, 0x10B
"""TPM_PT_PERMANENT, TPM_PT_LOCKOUT_COUNTER, TPM_PT_MANUFACTURER, TPM_PT_FIRMWARE_VERSION_1 (part 2, 6.13)."""


class Tpm:
    """A connection. Open late, close soon: without a resource manager nobody else gets in meanwhile.

    ``owner`` and ``endorsement`` are the hierarchies' auth values, empty on most devices. Every method raises
    ``TpmError``.
    """

    def __init__(self, tcti: str, *, owner: bytes = b"", endorsement: bytes = b"") -> None:
        self._esys: Any = _patiently(lambda: ESAPI(tcti))
        self._salt: Any = None
        if owner:
            self._esys.tr_set_auth(c.ESYS_TR.OWNER, owner)
        if endorsement:
            self._esys.tr_set_auth(c.ESYS_TR.ENDORSEMENT, endorsement)

    def close(self) -> None:
        """Close the connection, so that other programs can use the TPM."""
        self._esys.close()

    def __enter__(self) -> Tpm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what it is ---------------------------------------------------------------------------------------------

    def properties(self) -> Properties:
        """Ask the TPM for its manufacturer, firmware and lockout, and which hierarchies have an auth value."""
        permanent = self._property(_PERMANENT)
        return Properties(
            manufacturer=self._property(_MANUFACTURER).to_bytes(4, "big").rstrip(b"\0 ").decode("ascii", "replace"),
            firmware=self._property(_FIRMWARE),
            owner_auth=bool(permanent & 1),
            endorsement_auth=bool(permanent & 2),
            in_lockout=bool(permanent & 0x200),
            failed_tries=self._property(_LOCKOUT_COUNTER),
        )

    def _property(self, number: int) -> int:
        _, data = _patiently(lambda: self._esys.get_capability(c.TPM2_CAP.TPM_PROPERTIES, number, 1))
        listed = data.data.tpmProperties  # kept in a variable: its parts point into it
        return int(listed[0].value) if len(listed) and int(listed[0].property) == number else 0

    def exists(self, handle: int) -> bool:
        """Return True if there is a persistent object or an NV index at ``handle``."""
        _, data = _patiently(lambda: self._esys.get_capability(c.TPM2_CAP.HANDLES, handle, 1))
        listed = data.data.handles
        return len(listed) > 0 and int(listed[0]) == handle

    # -- PCRs ---------------------------------------------------------------------------------------------------

    def read_pcr(self, pcr: int) -> bytes:
        """Return the value in the SHA-256 bank, 32 bytes."""
        _, _, digests = _patiently(lambda: self._esys.pcr_read(f"sha256:{pcr}"))
        if not len(digests):
            raise TpmError("the TPM has no SHA-256 bank of PCRs", "enable it in the firmware's TPM settings", "failed")
        return bytes(digests[0])

    def extend_pcr(self, pcr: int, digest: bytes) -> None:
        """Extend a PCR of the SHA-256 bank by a ``digest`` of 32 bytes: it then holds H(PCR | digest)."""
        value = t.TPMT_HA(hashAlg=c.TPM2_ALG.SHA256, digest=t.TPMU_HA(sha256=digest))
        _patiently(lambda: self._esys.pcr_extend(c.ESYS_TR(pcr), t.TPML_DIGEST_VALUES([value])))

    # -- keys ---------------------------------------------------------------------------------------------------

    def create_storage_key(self, handle: int | None) -> bytes:
        """Make the storage root key (same seed, same key), keep it at ``handle`` if one is given; return its Name."""
        return self._create_primary(t.TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=_STORAGE), False, handle)

    def create_attestation_key(self, handle: int | None) -> bytes:
        """Make the attestation key (endorsement hierarchy), keep it at ``handle`` if one is given; return its Name."""
        template = t.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=_SIGNING)
        return self._create_primary(template, True, handle)

    def _create_primary(self, template: Any, endorsement: bool, handle: int | None) -> bytes:
        hierarchy = c.ESYS_TR.ENDORSEMENT if endorsement else c.ESYS_TR.OWNER

        def make() -> bytes:
            with self._session(c.TPM2_SE.HMAC) as session:
                key = self._esys.create_primary(None, template, hierarchy, session1=session)[0]
            try:
                if handle is not None:
                    with self._session(c.TPM2_SE.HMAC) as session:
                        self._esys.evict_control(c.ESYS_TR.OWNER, key, handle, session1=session)
                return bytes(self._esys.tr_get_name(key))
            finally:
                self._esys.flush_context(key)

        return _patiently(make)

    def trust_storage_key(self, handle: int, name: bytes | None) -> None:
        """Salt all further sessions with the key at ``handle``; ``name``, where given, must be its Name."""

        def find() -> Any:
            return self._esys.tr_from_tpmpublic(handle)

        key = _patiently(find)
        if name is not None and bytes(self._esys.tr_get_name(key)) != name:
            message = "the TPM's storage root key is not the one that this device was provisioned with"
            raise TpmError(message, "if the TPM was replaced on purpose: idiolect factory-reset, then provision")
        self._salt = key

    def name_and_pem(self, handle: int) -> tuple[bytes, bytes]:
        """Return Name and public key (PEM) of a persistent key."""

        def read() -> tuple[bytes, bytes]:
            public, name, _ = self._esys.read_public(self._esys.tr_from_tpmpublic(handle))
            return bytes(name), bytes(public.to_pem())

        return _patiently(read)

    def evict(self, handle: int) -> None:
        """Remove the persistent key at ``handle``."""

        def remove() -> None:
            key = self._esys.tr_from_tpmpublic(handle)
            with self._session(c.TPM2_SE.HMAC) as session:
                self._esys.evict_control(c.ESYS_TR.OWNER, key, handle, session1=session)

        _patiently(remove)

    def quote(self, handle: int, pcr: int, qualifying: bytes) -> tuple[bytes, bytes]:
        """Return a TPMS_ATTEST over one PCR and ``qualifying`` (up to 32 bytes) and its TPMT_SIGNATURE, marshalled."""

        def sign() -> tuple[bytes, bytes]:
            key = self._esys.tr_from_tpmpublic(handle)
            with self._session(c.TPM2_SE.HMAC) as session:
                attest, signature = self._esys.quote(key, f"sha256:{pcr}", qualifying, session1=session)
            return bytes(attest), bytes(signature.marshal())

        return _patiently(sign)

    # -- sealed objects -----------------------------------------------------------------------------------------

    def seal(self, secret: Secret, policy: bytes) -> Sealed:
        """Seal ``secret`` under the storage root key; only ``policy`` opens it."""
        public = t.TPM2B_PUBLIC(
            t.TPMT_PUBLIC(
                type=c.TPM2_ALG.KEYEDHASH,
                nameAlg=c.TPM2_ALG.SHA256,
                objectAttributes=c.TPMA_OBJECT.FIXEDTPM | c.TPMA_OBJECT.FIXEDPARENT | c.TPMA_OBJECT.NODA,
                authPolicy=policy,
                parameters=t.TPMU_PUBLIC_PARMS(
                    keyedHashDetail=t.TPMS_KEYEDHASH_PARMS(scheme=t.TPMT_KEYEDHASH_SCHEME(scheme=c.TPM2_ALG.NULL))
                ),
            )
        )
        sensitive = t.TPM2B_SENSITIVE_CREATE(t.TPMS_SENSITIVE_CREATE(data=bytes(secret.view)))

        def make() -> Sealed:
            with self._session(c.TPM2_SE.HMAC, salted=True) as session:
                private, public_out, *_ = self._esys.create(self._salt, sensitive, public, session1=session)
            return Sealed(bytes(public_out.marshal()), bytes(private.marshal()))

        return _patiently(make)

    def unseal(self, sealed: Sealed, how: Authorization) -> bytearray:
        """Return the secret, if the PCR holds what ``how`` approves."""

        def open_() -> bytearray:
            with self._session(c.TPM2_SE.HMAC, salted=True) as session:
                item = self._esys.load(
                    self._salt,
                    t.TPM2B_PRIVATE.unmarshal(sealed.private)[0],
                    t.TPM2B_PUBLIC.unmarshal(sealed.public)[0],
                    session1=session,
                )
            try:
                with self._authorized(how) as session:
                    return bytearray(bytes(self._esys.unseal(item, session1=session)))
            finally:
                self._esys.flush_context(item)

        return _patiently(open_)

    # -- NV -----------------------------------------------------------------------------------------------------

    def define(self, index: int, size: int, policy: bytes, auth: Secret) -> None:
        """Define an ordinary index: read by ``policy``, written by whoever knows ``auth``."""
        self._nv_define(index, size, policy, bytes(auth.view))

    def _nv_define(self, index: int, size: int, policy: bytes, auth: bytes) -> None:
        public = t.TPM2B_NV_PUBLIC(
            t.TPMS_NV_PUBLIC(
                nvIndex=index,
                nameAlg=c.TPM2_ALG.SHA256,
                attributes=SLOT_ATTRIBUTES,
                authPolicy=policy,
                dataSize=size,
            )
        )

        def make() -> None:
            with self._session(c.TPM2_SE.HMAC, salted=True) as session:
                self._esys.nv_define_space(auth, public, c.ESYS_TR.OWNER, session1=session)

        _patiently(make)

    def check_index(self, index: int, size: int, policies: Collection[bytes]) -> None:
        """Raise unless the index is as ``define`` made it: with an empty owner auth anybody may put another there."""

        def read() -> Any:
            return self._esys.nv_read_public(self._esys.tr_from_tpmpublic(index))[0].nvPublic

        public = _patiently(read)
        attributes = int(public.attributes) & ~int(c.TPMA_NV.WRITTEN)
        as_made = (attributes, int(public.dataSize)) == (int(SLOT_ATTRIBUTES), size)
        if not as_made or bytes(public.authPolicy) not in policies:
            raise _redefined(index)

    def undefine(self, index: int) -> None:
        """Remove an index and what it holds."""

        def remove() -> None:
            item = self._esys.tr_from_tpmpublic(index)
            with self._session(c.TPM2_SE.HMAC) as session:
                self._esys.nv_undefine_space(item, c.ESYS_TR.OWNER, session1=session)

        _patiently(remove)

    def write(self, index: int, data: bytes, auth: Secret) -> None:
        """Replace an index's content; an index that does not know ``auth`` is not the one that was provisioned."""

        def put() -> None:
            item = self._esys.tr_from_tpmpublic(index)
            self._esys.tr_set_auth(item, bytes(auth.view))
            with self._session(c.TPM2_SE.HMAC, salted=True) as session:
                self._esys.nv_write(item, data, 0, item, session1=session)

        try:
            _patiently(put)
        except TpmError as error:
            raise _redefined(index) if error.code in (AUTH_FAIL, BAD_AUTH) else error from None

    def read_openly(self, index: int, size: int) -> bytes:
        """Return an index's content, in the clear, by the policy that anybody meets who only reads."""

        def get() -> bytes:
            item = self._esys.tr_from_tpmpublic(index)
            with self._session(c.TPM2_SE.POLICY) as session:
                self._esys.policy_command_code(session, c.TPM2_CC.NV_Read)
                return bytes(self._esys.nv_read(item, size, 0, item, session1=session))

        return _patiently(get)

    def read(self, index: int, size: int, how: Authorization, auth: Secret) -> bytearray:
        """Return an index's content by an approval, encrypted on its way.

        The policy does not ask for ``auth``, but the key that encrypts the answer is made from it too (part 1, 21.2):
        with another one the content is garbage, and no error tells.
        """

        def get() -> bytearray:
            item = self._esys.tr_from_tpmpublic(index)
            self._esys.tr_set_auth(item, bytes(auth.view))
            with self._authorized(how) as session:
                return bytearray(bytes(self._esys.nv_read(item, size, 0, item, session1=session)))

        return _patiently(get)

    # -- sessions -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self, kind: Any, *, salted: bool = False) -> Iterator[Any]:
        """Start an HMAC or policy session; salted ones encrypt the first parameter each way."""
        aes = t.TPMT_SYM_DEF(
            algorithm=c.TPM2_ALG.AES, keyBits=t.TPMU_SYM_KEY_BITS(aes=128), mode=t.TPMU_SYM_MODE(aes=c.TPM2_ALG.CFB)
        )
        symmetric = aes if salted else t.TPMT_SYM_DEF(algorithm=c.TPM2_ALG.NULL)
        salt = self._salt if salted else c.ESYS_TR.NONE
        session = self._esys.start_auth_session(salt, c.ESYS_TR.NONE, kind, symmetric, c.TPM2_ALG.SHA256)
        try:
            encryption = c.TPMA_SESSION.DECRYPT | c.TPMA_SESSION.ENCRYPT if salted else 0
            self._esys.trsess_set_attributes(session, c.TPMA_SESSION.CONTINUESESSION | encryption)
            yield session
        finally:
            with contextlib.suppress(TSS2_Exception):
                self._esys.flush_context(session)

    @contextlib.contextmanager
    def _authorized(self, how: Authorization) -> Iterator[Any]:
        """Start a policy session that meets PolicyAuthorize(key, reference) through the approved PolicyPCR."""
        approval = how.approval
        with self._session(c.TPM2_SE.POLICY, salted=True) as session:
            self._esys.policy_pcr(session, b"", f"sha256:{approval.pcr}")
            key = self._esys.load_external(_external(how.pem), hierarchy=c.ESYS_TR.OWNER)
            try:
                digest = _sha256(approval.policy + how.reference)
                ticket = self._esys.verify_signature(key, digest, _signature(approval.signature))
                self._esys.policy_authorize(
                    session,
                    approved_policy=approval.policy,
                    policy_ref=how.reference,
                    key_sign=self._esys.tr_get_name(key),
                    check_ticket=ticket,
                )
            finally:
                self._esys.flush_context(key)
            yield session


def _redefined(index: int) -> TpmError:
    message = f"NV index 0x{index:08x} is not as it was provisioned: somebody redefined it"
    fix = "with idiolectd stopped: idiolect provision --replace-policy-key, with the key in force, mends a slot"
    return TpmError(message, f"{fix}; else factory-reset", "damaged")


def _external(pem: bytes) -> Any:
    """Return the policy key's public area; its Name depends on every bit of this template (``approvals.tpm_name``)."""
    public = t.TPM2B_PUBLIC.from_pem(pem, objectAttributes=_EXTERNAL, scheme=t.TPMT_ASYM_SCHEME(scheme=c.TPM2_ALG.NULL))
    point = public.publicArea.unique.ecc
    # from_pem drops leading zeros, which one key in 128 has: another Name, and the TPM refuses the point (0x9C).
    point.x, point.y = (bytes(each).rjust(32, b"\0") for each in (point.x, point.y))
    return public


def _signature(der: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = (number.to_bytes(32, "big") for number in decode_dss_signature(der))
    ecc = t.TPMS_SIGNATURE_ECC(hash=c.TPM2_ALG.SHA256, signatureR=r, signatureS=s)
    return t.TPMT_SIGNATURE(sigAlg=c.TPM2_ALG.ECDSA, signature=t.TPMU_SIGNATURE(ecdsa=ecc))


def _sha256(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data).digest()


def _patiently(call: Callable[[], T]) -> T:
    """Run ``call``, again while the TPM is busy or a PCR moved, and translate what it raises."""
    waits, moves = iter(PATIENCE), PCR_TRIES
    while True:
        try:
            return call()
        except TSS2_Exception as error:
            problem = explain(int(error.rc))
        if problem.code == PCR_CHANGED and moves:
            moves -= 1
            continue
        wait = next(waits, None) if problem.code in TRANSIENT else None
        if wait is None:
            raise problem
        time.sleep(wait)
