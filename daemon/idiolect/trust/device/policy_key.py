"""Replaces the policy key: the secrets move from the old integrator's key to the new one, and the vault stays.

Needs a boot that has the keys, and a bundle whose approvals are signed by both policy keys: with it every instant of
the replacement, and every crash in it, leaves a device that starts with keys.

1. S is sealed once more, under the new key, and both sealed copies are in the record;
2. the slot that a rotation writes first is undefined, defined under the new policy, and written;
3. the same for the other slot: at any instant one of the two is whole, under one of the two policies;
4. the old copy leaves the record.

The key in force may be given too: that mends a slot that somebody redefined.

An old disk still holds S under the old key, but no M: what was written before stays out of reach as after a rotation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.errors import KeystoreError
from idiolect.host.files import write_durably
from idiolect.trust.bundle import approvals
from idiolect.trust.bundle.public_keys import fingerprint, load_public
from idiolect.trust.device import tpm_keystore as scheme
from idiolect.trust.device.identity import RECORD, Device, SealedKey
from idiolect.trust.device.provisioning import VAULT, Step
from idiolect.trust.device.tpm_answers import TpmError
from idiolect.trust.vault.envelope import derive
from idiolect.trust.vault.keystore import CURRENT, NEXT, Released, Slot
from idiolect.trust.vault.vault import Vault

if TYPE_CHECKING:
    from idiolect.config.schema import Config
    from idiolect.trust.bundle.choose import Model
    from idiolect.trust.device.tpm import Tpm


class PolicyKeyReplacement:
    """Moves a provisioned device to another policy key; safe to run again after a crash at any step."""

    def __init__(self, config: Config, device: Device, model: Model, new: bytes, *, owner: bytes = b"") -> None:
        """Prepare the replacement.

        Args:
            new: the new public policy key in PEM.
            owner: the owner hierarchy's auth value, if it has one.
        """
        self._config, self._device, self._model, self._new = config, device, model, new
        self._owner = owner
        self._fingerprint = fingerprint(load_public("policy key", new))
        self._opened: Released | None = None
        self._generation = 0

    @property
    def device(self) -> Device:
        """Return the record as far as it has come."""
        return self._device

    def steps(self) -> Iterator[Step]:
        """Yield each step, to be run in order."""
        yield Step("keys", "get the keys by the policy key in force: only a good boot may hand them on", self._open)
        yield Step("seal", "seal the root secret under the new policy key, beside the old one", self._seal)
        for index in (NEXT, CURRENT):
            why = f"put NV slot {index + 1} of 2 under the new policy key"
            yield Step("nv", why, lambda index=index: self._move(index))  # type: ignore[misc]
        yield Step("done", "remove the copy under the old policy key", self._finish)

    def _open(self) -> str:
        model = self._model
        if len(self._device.sealed) > 1 and self._new not in [sealed.policy_key for sealed in self._device.sealed]:
            fix = "finish it first: run it again with the key that it was begun with"
            raise KeystoreError("another replacement of the policy key is under way", fix, "refused")
        keystore, released, _ = self._keys()
        try:  # opening the vault ends a rotation that was cut off: after it both slots hold the same
            with Vault.open(Path(self._config.state_dir) / VAULT, released, keystore, self._device.device) as vault:
                self._generation = vault.counts().generation
        finally:
            released.wipe()
        _, self._opened, measured = self._keys()
        if not approvals.for_boot(model.approvals, self._fingerprint, measured.value, pcr=measured.pcr):
            message = "this bundle carries no approval by the new policy key: the next start would be without keys"
            raise KeystoreError(
                message, "sign it with both keys (bundle sign --policy-key OLD --policy-key NEW)", "refused"
            )
        return "released"

    @property
    def _released(self) -> Released:
        if self._opened is None:
            raise RuntimeError("the steps are run in order")
        return self._opened

    def _keys(self) -> tuple[scheme.TpmKeystore, Released, scheme.Measured]:
        model = self._model
        digest = bytes.fromhex(model.digest)
        return scheme.TpmKeystore.open(self._config.trust.tcti, self._device, digest, model.approvals, model.version)

    def _seal(self) -> str:
        if self._new not in [sealed.policy_key for sealed in self._device.sealed]:
            with self._connect() as tpm:
                made = tpm.seal(self._released.root, scheme.slot_policy(self._new))
            entry = SealedKey(self._new, made.public, made.private)
            self._record((*self._device.sealed[:1], entry))
        return f"policy key {self._fingerprint}"

    def _move(self, index: int) -> str:
        policy, nv = scheme.slot_policy(self._new), scheme.SLOTS[index]
        auth = derive([self._released.root], scheme.WRITE_LABEL)
        with self._connect() as tpm, auth:
            with contextlib.suppress(TpmError):
                tpm.check_index(nv, scheme.SLOT_BYTES, [policy])
                if self._released.slots[index] == self._good():
                    return f"0x{nv:08x} was already"
            if tpm.exists(nv):
                tpm.undefine(nv)
            tpm.define(nv, scheme.SLOT_BYTES, policy, auth)
            tpm.write(nv, scheme.encode_slot(self._good()), auth)
        return f"0x{nv:08x}"

    def _good(self) -> Slot:
        """Return the copy of M to keep: of the rotation that the vault is in, or has begun.

        That a slot can be read says nothing: one that somebody redefined alike reads as garbage.
        """
        in_force = (self._generation, self._generation + 1)
        slots = [self._released.slots[index] for index in (CURRENT, NEXT)]
        slot = next((slot for slot in slots if slot and slot.generation in in_force), None)
        if slot is None:
            raise KeystoreError("neither NV slot can be read", "idiolect factory-reset, then provision", "damaged")
        return slot

    def _finish(self) -> str:
        self._released.wipe()
        self._record(tuple(sealed for sealed in self._device.sealed if sealed.policy_key == self._new))
        return "the old policy key approves nothing on this device any more"

    def _record(self, sealed: tuple[SealedKey, ...]) -> None:
        self._device = replace(self._device, sealed=sealed)
        write_durably(Path(self._config.state_dir) / RECORD, self._device.encode(), 0o644)

    def _connect(self) -> Tpm:
        return scheme.connect(self._config.trust.tcti, self._device, owner=self._owner)
