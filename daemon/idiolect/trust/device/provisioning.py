"""Provisions a device: gives it its keys in steps, each explained before it is done, and takes them away again.

The record (`device.json`) is written first, marked incomplete, and completed last. What lies between starts over after
a crash: nobody gets keys from an incomplete device, so nothing can be lost. Hierarchies are left as found: no auth
value is set, and nothing that another program made is touched.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.errors import KeystoreError, TrustError
from idiolect.host.files import TooLarge, read_capped, remove_draft, sync_directory, write_durably
from idiolect.trust.bundle.public_keys import fingerprint, load_public
from idiolect.trust.device.identity import RECORD, RECORD_CAP, Device, SealedKey, damaged, parse
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.vault.envelope import derive
from idiolect.trust.vault.keystore import CURRENT, NEXT, Keystore, Released, Slot
from idiolect.trust.vault.secret import Secret
from idiolect.trust.vault.vault import Vault, discard

if TYPE_CHECKING:
    from idiolect.config.schema import Config
    from idiolect.trust.device.tpm import Tpm

KEYFILE, VAULT = "keystore.json", "vault.db"
"""Files in the state directory, beside the record."""
ADAPTER_KEY = ("device", "adapter-key", "0")
"""Purpose, kind and id of the record that holds the key which signs adapters."""
_STARTED_FIX = "run idiolect provision again"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``why`` is said before ``run`` is called, which returns what was done."""

    title: str
    why: str
    run: Callable[[], str]


def read_record(state_dir: Path) -> Device | None:
    """Return the device record, None where there is none yet. Raises ``KeystoreError`` when it cannot be read."""
    try:
        return parse(read_capped(state_dir / RECORD, RECORD_CAP))
    except FileNotFoundError:
        return None
    except TooLarge as error:
        raise damaged(str(error)) from None
    except OSError as error:
        message = f"{RECORD} cannot be read: {error.strerror}"
        raise KeystoreError(message, f"check the permissions of {state_dir}", "failed") from None


def fleet_record(device: Device) -> dict[str, object]:
    """Return the public facts that the fleet's records keep of a device, to check its quotes and adapters later."""
    return {
        "device": device.device,
        "attestation_key": device.ak.decode(),
        "adapter_key": device.adapter_key.decode(),
        "storage_key_name": device.srk.hex(),
        "policy_keys": [fingerprint(load_public("policy key", s.policy_key)) for s in device.sealed],
    }


class Provisioning:
    """Makes one device. ``steps`` yields what is left to do; secrets live here until the last one is done."""

    def __init__(
        self, config: Config, *, policy_key: bytes = b"", owner: bytes = b"", endorsement: bytes = b""
    ) -> None:
        """Prepare to provision a device.

        Args:
            policy_key: the integrator's public key in PEM.
            owner: the owner hierarchy's auth value, if it has one.
            endorsement: the endorsement hierarchy's, if it has one.
        """
        self._config = config
        self._state = Path(config.state_dir)
        self._tcti = config.trust.tcti
        self._uses_tpm = config.keystore == "tpm"
        self._policy_key = policy_key
        self._auths = {"owner": owner, "endorsement": endorsement}
        self._root, self._first = Secret.random(), Slot(1, Secret.random())
        self._device = Device(os.urandom(16).hex())
        self._keystore: Keystore | None = None

    @property
    def device(self) -> Device:
        """Return the record as far as it has come."""
        return self._device

    def steps(self) -> Iterator[Step]:
        """Check what is there, then yield each step, to be run in order.

        Raises:
            KeystoreError: going on could destroy keys.
        """
        known = read_record(self._state)
        if self._policy_key and not self._uses_tpm and not (known and known.complete and known.uses_tpm):
            self._refuse_policy_key(known)
        if self._uses_tpm and known and known.complete and not known.uses_tpm and self._unused(known):
            self._check_policy_key()
            why = "remove the keys that a start with keystore: file made by itself: nothing of anybody is under them"
            yield Step("file keys", why, self._drop_file_keys)
            known = None
        if known and known.complete:
            self._device = known
            yield self._nothing_to_do(known)
            return
        if self._uses_tpm:
            self._check_policy_key()
        if known is None:
            self._refuse_leftovers()
        yield Step("record", f"note in {RECORD} that provisioning has begun, so that it can be resumed", self._begin)
        yield from self._tpm_steps() if self._uses_tpm else self._file_steps()
        yield Step("vault", "create the encrypted vault, and in it the key that signs adapters", self._create_vault)
        yield Step("done", "mark the record complete; from now on the daemon asks for these keys", self._complete)

    def _refuse_policy_key(self, known: Device | None) -> None:
        """Refuse a policy key without a TPM: the configuration was not changed first, and the key would be useless."""
        made = ", and a start with it has made keys in a file by itself" if known and known.complete else ""
        message = f"a policy key is for a TPM, and the configuration says keystore: file{made}"
        fix = "set keystore: tpm first, then run idiolect provision again; it removes keys in a file that nobody uses"
        raise KeystoreError(message, fix, "refused")

    def _unused(self, known: Device) -> bool:
        """Return True if a file keystore's vault holds nobody's data; one that cannot be opened may hold some."""
        try:
            keystore, released = FileKeystore.open(self._state / KEYFILE)
            with Vault.open(self._state / VAULT, released, keystore, known.device) as vault:
                return not vault.counts().profiles
        except TrustError:
            return False

    def _drop_file_keys(self) -> str:
        return "removed " + ", ".join(factory_reset(replace(self._config, keystore="file")))

    def _nothing_to_do(self, known: Device) -> Step:
        if known.uses_tpm != self._uses_tpm:
            kind = "tpm" if known.uses_tpm else "file"
            message = f"this device was provisioned with keystore: {kind}"
            raise KeystoreError(message, "idiolect factory-reset first: what was stored will be gone", "refused")
        pinned = {fingerprint(load_public("policy key", s.policy_key)) for s in known.sealed}
        if self._policy_key and fingerprint(load_public("policy key", self._policy_key)) not in pinned:
            fix = "to replace it: idiolect provision --replace-policy-key"
            raise KeystoreError("this device is provisioned with another policy key", fix, "refused")
        return Step("check", "this device is provisioned already: look whether its keys are in place", self._check)

    def _refuse_leftovers(self) -> None:
        """Refuse to begin where traces of a lost record are: somebody's vault may depend on what we would overwrite."""
        left = [name for name in (VAULT, KEYFILE) if (self._state / name).exists()]
        if self._uses_tpm:
            with self._connect() as tpm:
                left += [f"NV index 0x{index:08x}" for index in _indices() if tpm.exists(index)]
        if left:
            message = f"{RECORD} is missing, but there is {', '.join(left)}: this may be a provisioned device"
            raise KeystoreError(message, f"restore {RECORD} from a backup, or idiolect factory-reset", "refused")

    # -- steps for every keystore -------------------------------------------------------------------------------

    def _begin(self) -> str:
        self._write()
        discard(self._state / VAULT)  # of an earlier attempt; without leftovers there is none
        (self._state / KEYFILE).unlink(missing_ok=True)
        return f"device {self._device.device}"

    def _create_vault(self) -> str:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        if self._keystore is None:
            raise RuntimeError("the steps are run in order")
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        released = Released(self._root, (self._first, self._first))  # the vault takes it over, and wipes it
        purpose, kind, item = ADAPTER_KEY
        with Vault.create(self._state / VAULT, released, self._keystore, self._device.device) as vault:  # noqa: SIM117
            with vault.change("provisioned", generation=vault.counts().generation) as change:
                change.add_key("", purpose, "")
                change.put("", purpose, kind, item, private)
        self._device = replace(self._device, adapter_key=public)
        return f"adapter key {fingerprint(load_public('adapter key', public))}"

    def _complete(self) -> str:
        self._device = replace(self._device, complete=True)
        self._write()
        self._hand_over()
        return "provisioned"

    def _hand_over(self) -> None:
        """Give the files that root made to the owner of the state directory: the daemon may run as another user."""
        owner = self._state.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            for name in (RECORD, KEYFILE, VAULT):
                if (self._state / name).exists():
                    os.chown(self._state / name, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _write(self) -> None:
        write_durably(self._state / RECORD, self._device.encode(), 0o644)

    # -- keystore: file -----------------------------------------------------------------------------------------

    def _file_steps(self) -> Iterator[Step]:
        why = "write the secrets into a file: for development, NOT protected by hardware"
        yield Step("keystore", why, self._create_file)

    def _create_file(self) -> str:
        self._keystore, released = FileKeystore.create(self._state / KEYFILE)
        self._root, self._first = released.root, released.slots[CURRENT] or self._first
        return str(self._state / KEYFILE)

    # -- keystore: tpm ------------------------------------------------------------------------------------------

    def _check_policy_key(self) -> None:
        if not self._policy_key:
            fix = "give the integrator's public policy key: --policy-key policy.pem (idiolect bundle keygen)"
            raise KeystoreError("a TPM needs to know who approves models", fix, "refused")
        load_public("policy key", self._policy_key)

    def _tpm_steps(self) -> Iterator[Step]:
        yield Step("tpm", f"look at the TPM ({self._tcti}): is it there, does it want auth values?", self._look)
        yield Step("storage key", "make a storage root key and pin its Name, against another TPM", self._storage_key)
        yield Step("attestation key", "make the key that signs quotes, for the fleet's records", self._attestation_key)
        yield Step("seal", "seal the root secret: opened only by a boot that your policy key approved", self._seal)
        yield Step("nv", "define two NV slots for the rotating secret and one for the minimum version", self._define)

    def _connect(self) -> Tpm:
        from idiolect.trust.device.tpm import Tpm

        return Tpm(self._tcti, **self._auths)

    def _look(self) -> str:
        with self._connect() as tpm:
            found = tpm.properties()
        for name, is_set in (("owner", found.owner_auth), ("endorsement", found.endorsement_auth)):
            if is_set and not self._auths[name]:
                message = f"the TPM's {name} hierarchy has an auth value"
                raise KeystoreError(message, f"give it with --{name}-auth-file; it is used and never kept", "refused")
        lockout = "; IN LOCKOUT, which our keys do not mind" if found.in_lockout else ""
        return f"{found.manufacturer}, firmware 0x{found.firmware:08x}{lockout}"

    def _storage_key(self) -> str:
        from idiolect.trust.device.tpm_keystore import STORAGE_KEY

        with self._connect() as tpm:
            if tpm.exists(STORAGE_KEY):  # of an earlier attempt, or a key of ours: the template decides
                name, _ = tpm.name_and_pem(STORAGE_KEY)
                if tpm.create_storage_key(None) != name:
                    raise _occupied(STORAGE_KEY)
            else:
                name = tpm.create_storage_key(STORAGE_KEY)
        self._device = replace(self._device, srk=name)
        return f"0x{STORAGE_KEY:08x}, Name {name.hex()[:20]}..."

    def _attestation_key(self) -> str:
        from idiolect.trust.device.tpm_keystore import ATTESTATION_KEY

        with self._connect() as tpm:
            name = tpm.create_attestation_key(None if tpm.exists(ATTESTATION_KEY) else ATTESTATION_KEY)
            there, pem = tpm.name_and_pem(ATTESTATION_KEY)
        if there != name:
            raise _occupied(ATTESTATION_KEY)
        self._device = replace(self._device, ak=pem)
        return f"0x{ATTESTATION_KEY:08x}, {fingerprint(load_public('attestation key', pem))}"

    def _seal(self) -> str:
        from idiolect.trust.device.tpm_keystore import STORAGE_KEY, slot_policy

        with self._connect() as tpm:
            tpm.trust_storage_key(STORAGE_KEY, self._device.srk)
            sealed = tpm.seal(self._root, slot_policy(self._policy_key))
        entry = SealedKey(self._policy_key, sealed.public, sealed.private)
        self._device = replace(self._device, sealed=(entry,))
        return f"policy key {fingerprint(load_public('policy key', self._policy_key))}"

    def _define(self) -> str:
        from idiolect.trust.device import tpm_keystore as scheme

        policy, auth = scheme.slot_policy(self._policy_key), derive([self._root], scheme.WRITE_LABEL)
        content = [scheme.encode_slot(self._first)] * 2 + [struct.pack(">Q", 0)]
        with self._connect() as tpm:
            tpm.trust_storage_key(scheme.STORAGE_KEY, self._device.srk)
            for index, data in zip(_indices(), content, strict=True):
                if tpm.exists(index):  # of an attempt that was never completed: nothing depends on it
                    tpm.undefine(index)
                tpm.define(index, len(data), scheme.read_only_policy() if index == scheme.MINIMUM else policy, auth)
                tpm.write(index, data, auth)
        self._keystore = scheme.TpmKeystore(self._tcti, self._device, auth)
        return ", ".join(f"0x{index:08x}" for index in _indices())

    def _check(self) -> str:
        if not self._uses_tpm:
            FileKeystore.open(self._state / KEYFILE)[1].wipe()
            return "all there; nothing was changed"
        from idiolect.trust.device import tpm_keystore as scheme

        with self._connect() as tpm:
            tpm.trust_storage_key(scheme.STORAGE_KEY, self._device.srk)
            missing = [f"0x{index:08x}" for index in _indices() if not tpm.exists(index)]
        if missing:
            fix = "the keys are gone: idiolect factory-reset, then provision"
            raise KeystoreError(f"the TPM lacks {', '.join(missing)}", fix, "cleared")
        return "all there; nothing was changed"


def factory_reset(config: Config, *, owner: bytes = b"") -> list[str]:
    """Remove the keys and all that they protected; bundles stay. Works without keys.

    The TPM comes first: without M every copy of the vault, wherever it is, is unreadable. Returns what was removed.
    """
    removed = []
    if config.keystore == "tpm":
        from idiolect.trust.device.tpm import Tpm
        from idiolect.trust.device.tpm_keystore import ATTESTATION_KEY, STORAGE_KEY

        with Tpm(config.trust.tcti, owner=owner) as tpm:
            for index in filter(tpm.exists, _indices()):
                tpm.undefine(index)
                removed.append(f"NV index 0x{index:08x}")
            for handle in filter(tpm.exists, (STORAGE_KEY, ATTESTATION_KEY)):
                tpm.evict(handle)
                removed.append(f"persistent key 0x{handle:08x}")
    state = Path(config.state_dir)
    for name in (KEYFILE, VAULT, RECORD):
        if (state / name).exists():
            discard(state / name) if name == VAULT else (state / name).unlink()
            removed.append(str(state / name))
        remove_draft(state / name)  # it would hold the keys to old copies of the disk
    if state.is_dir():
        sync_directory(state)  # what is gone stays gone when the power goes
    return removed


def _indices() -> tuple[int, int, int]:
    from idiolect.trust.device.tpm_keystore import MINIMUM, SLOTS

    return SLOTS[NEXT], SLOTS[CURRENT], MINIMUM


def _occupied(handle: int) -> KeystoreError:
    message = f"the TPM's persistent handle 0x{handle:08x} holds another program's key"
    return KeystoreError(message, f"free it if nobody needs it: tpm2_evictcontrol -c 0x{handle:08x}", "refused")
