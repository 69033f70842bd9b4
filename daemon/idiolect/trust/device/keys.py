"""Decides whether this boot has the keys, and does what is done with them. One instance, used by one thread.

``open`` measures the boot, gets the secrets from the keystore and opens the vault; whatever goes wrong becomes the
state that ``view`` tells, in one sentence and a next step, and never an exception: the base model serves on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idiolect.errors import KeystoreError, RequestError, TrustError, VaultError
from idiolect.host.files import DISK_STATES, remove_draft
from idiolect.trust.bundle.approvals import DEFAULT_PCR
from idiolect.trust.bundle.choose import Model
from idiolect.trust.bundle.slots import FOLDER, Slots
from idiolect.trust.device import provisioning
from idiolect.trust.device.identity import Device
from idiolect.trust.device.key_file import FileKeystore
from idiolect.trust.device.provisioning import ADAPTER_KEY, KEYFILE, VAULT
from idiolect.trust.vault import audit
from idiolect.trust.vault.keystore import Keystore, Released, too_old
from idiolect.trust.vault.vault import Vault
from idiolect.values import counted

if TYPE_CHECKING:
    from idiolect.config.schema import Config

log = logging.getLogger(__name__)

PASSING = {"absent", "busy", "lockout", "full", "readonly", "failed"}
"""States that may end by themselves, as when a disk is well again: they are tried again."""
_PROVISION = "run idiolect provision"
CHECKPOINT_SCHEMA = "idiolect/checkpoint/v1"
_CHECKPOINT = (ADAPTER_KEY[0], "checkpoint", "00")
"""Purpose, kind and id of the record of the last one, the device's own."""


@dataclass(frozen=True, slots=True)
class View:
    """How keys and vault are, for people and programs.

    ``state``: waiting, released, fallback, or that of the ``TrustError`` which keeps the keys away; ``detail`` says it
    in one sentence and ``fix`` the next step; ``protected`` whether hardware keeps the keys.
    """

    keystore: str
    state: str = "waiting"
    detail: str = "asking for the keys"
    fix: str = ""
    protected: bool = False
    pcr: int | None = None

    @property
    def released(self) -> bool:
        """Return True if personal data can be read and stored."""
        return self.state == "released"

    @property
    def passing(self) -> bool:
        """Return True if the keys may come back by themselves, so that trying again is worth it."""
        return self.state in PASSING


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor` tells: ``level`` is ok, warn or fail."""

    about: str
    level: str
    detail: str
    fix: str = ""


class DeviceKeys:
    """Keys and vault of one running daemon. ``view`` may be read by any thread, all else belongs to one."""

    def __init__(self, config: Config, model: Model, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._model = model
        self._clock = clock
        self._state_dir = Path(config.state_dir)
        self._keystore: Keystore | None = None
        self._vault: Vault | None = None
        self._device: Device | None = None
        self._lock = threading.Lock()
        self._view = View(config.keystore)

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """Return the latest view of keys and vault."""
        with self._lock:
            return self._view

    @property
    def vault(self) -> Vault:
        """Return the open vault. Raises ``VaultError`` while there is none."""
        if self._vault is None:
            view = self.view
            raise VaultError(f"the vault is closed: {view.detail}", view.fix, view.state)
        return self._vault

    def _set(self, view: View) -> None:
        with self._lock:
            changed, self._view = (view.state, view.detail) != (self._view.state, self._view.detail), view
        if changed:
            log.log(logging.INFO if view.released else logging.WARNING, "keys: %s", sentence(view))

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self) -> View:
        """Get the keys and open the vault, unless that is done already; return the view."""
        if self._vault is None:
            try:
                self._open()
            except TrustError as error:
                self.close()
                self._set(View(self._config.keystore, error.state, str(error), error.fix))
            except OSError as error:
                self.close()
                detail = f"{self._state_dir} cannot be used: {error.strerror}: nothing is stored"
                fix = f"create {self._state_dir} and give it to the user that runs idiolectd"
                state = DISK_STATES.get(error.errno or 0, "")
                self._set(View(self._config.keystore, state or "readonly", detail, _DISK_FIXES.get(state, fix)))
            except Exception as error:  # a bug: no keys, and the base model serves on
                self.close()
                detail = f"an internal error ({type(error).__name__}) while asking for the keys"
                self._set(View(self._config.keystore, "failed", detail, "restart idiolectd, and report it"))
        return self.view

    def _open(self) -> None:
        if self._model.fallback:
            detail = f"{self._model.fallback}; the previous bundle serves without keys"
            fix = "restore or install a good bundle, then reboot to release keys"
            self._set(View(self._config.keystore, "fallback", detail, fix))
            return
        self._device = self._known_device()
        self._keystore, released, view = self._release(self._device)
        try:
            path = self._state_dir / VAULT
            self._vault = Vault.open(path, released, self._keystore, self._device.device, clock=self._clock)
        except BaseException:
            released.wipe()  # else the vault has taken it over
            raise
        with contextlib.suppress(OSError):  # the vault's lock is ours: nobody is writing it
            remove_draft(self._state_dir / KEYFILE)
        self._note("keys-released", **({} if view.pcr is None else {"pcr": view.pcr}))
        self._set(view)

    def _note(self, kind: str, **fields: int) -> None:
        """Write an entry about the running bundle into the audit log."""
        self.vault.log(kind, bundle=self._model.digest, version=self._model.version, **fields)

    def _known_device(self) -> Device:
        device = provisioning.read_record(self._state_dir)
        # Begun and not completed, as the power went or the disk was full: nothing depends on what is there.
        if (device is None or not device.complete) and self._config.keystore == "file":
            steps = provisioning.Provisioning(self._config)
            for step in steps.steps():
                step.run()
            device = steps.device
            log.info("keystore: file provisioned itself: for development, not hardware protected")
        if device is None or not device.complete:
            raise KeystoreError("this device is not provisioned: there are no keys yet", _PROVISION, "unprovisioned")
        if device.uses_tpm != (self._config.keystore == "tpm"):
            kind = "tpm" if device.uses_tpm else "file"
            message = f"the configuration asks for keystore: {self._config.keystore}, the device has keystore: {kind}"
            raise KeystoreError(message, f"set keystore: {kind}, or factory-reset and provision", "refused")
        return device

    def _release(self, device: Device) -> tuple[Keystore, Released, View]:
        model = self._model
        if self._config.keystore == "file":
            keystore: Keystore
            keystore, released = FileKeystore.open(self._state_dir / KEYFILE)
            minimum = keystore.minimum_version()
            if model.version < minimum:
                released.wipe()
                raise too_old(model.version, minimum)
            view = View("file", "released", "released from a file: not hardware protected", _FOR_DEVELOPMENT)
            return keystore, released, view
        from idiolect.trust.device.tpm_keystore import TpmKeystore

        digest = bytes.fromhex(model.digest)
        keystore, released, measured = TpmKeystore.open(
            self._config.trust.tcti, device, digest, model.approvals, model.version
        )
        detail = f"released (PCR {measured.pcr} matches bundle {model.name} v{model.version})"
        return keystore, released, View("tpm", "released", detail, protected=True, pcr=measured.pcr)

    # -- running ------------------------------------------------------------------------------------------------

    def tend(self) -> View:
        """Do a rotation that had to wait, or try again for keys that may come back; return the view."""
        if self._vault is not None:
            try:
                self._vault.rotate_if_due()
            except TrustError as error:
                log.warning("keys: a rotation has to wait: %s; %s", error, error.fix)
        elif self.view.passing:
            self.open()
        return self.view

    def examine(self) -> list[Finding]:
        """Return what `doctor` is to show of vault and TPM."""
        found = []
        if self._vault is not None:
            counts = self._vault.counts()
            trouble = self._vault.trouble
            kept = counted(counts.profiles, "profile"), counted(counts.records, "record")
            detail = f"{kept[0]}, {kept[1]}, rotation {counts.generation}"
            detail += "; a rotation is owed" if self._vault.owed else ""
            detail += f"; {trouble}" if trouble else ""
            found.append(Finding("vault", "warn" if trouble else "ok", detail, trouble.fix if trouble else ""))
        if self._config.keystore == "tpm":
            found.append(self._examine_tpm())
        return found

    def _examine_tpm(self) -> Finding:
        from idiolect.trust.device.tpm import Tpm

        tcti = self._config.trust.tcti
        try:
            with Tpm(tcti) as tpm:
                said = tpm.properties()
        except KeystoreError as error:
            return Finding("tpm", "fail", str(error), error.fix)
        detail = f"{said.manufacturer}, firmware 0x{said.firmware:08x}"
        if said.in_lockout:
            return Finding("tpm", "warn", f"{detail}, in lockout: ours do not mind, other programs' keys do", _LOCKOUT)
        if "/dev/tpm" in tcti and "/dev/tpmrm" not in tcti:
            return Finding("tpm", "warn", f"{detail}, without a resource manager", "set trust.tcti: device:/dev/tpmrm0")
        return Finding("tpm", "ok", detail)

    def mark_good(self) -> dict[str, object]:
        """Make sure that a bundle older than this one never gets the keys again, and return the new minimum version.

        Raises:
            RequestError: 409, when this bundle has no keys itself.
        """
        if self._keystore is None or self._vault is None:
            raise RequestError(409, "bundle", f"it cannot be marked good without keys: {self.view.detail}")
        self._keystore.raise_minimum(self._model.version)
        self._note("bundle-good")
        slots = self._state_dir / FOLDER
        if slots.is_dir():  # so that an older one is refused before it is loaded, too: a hint, the keystore decides
            with contextlib.suppress(OSError):
                Slots(slots).note_minimum(self._model.version)
        return {"minimum": self._model.version}

    def close(self) -> None:
        """Wipe the keys and close the vault."""
        if self._vault is not None:
            self._vault.close()
            self._vault = None
        if self._keystore is not None:
            self._keystore.wipe()
            self._keystore = None

    # -- proofs -------------------------------------------------------------------------------------------------

    def audit(self, limit: int) -> dict[str, object]:
        """Return the newest entries of the audit log, oldest first."""
        return {"entries": [entry.as_dict() for entry in self.vault.audit_entries(limit)]}

    def audit_verify(self) -> dict[str, object]:
        """Walk the whole chain again, from the file, and return where it ends."""
        mark = self.vault.audit_verify()
        return {"count": mark.count, "head": mark.head.hex()}

    def audit_export(self, nonce: bytes) -> dict[str, object]:
        """Return the audit log with, where a TPM is used, a quote over its head, its count and ``nonce``."""
        export = self.vault.audit_export(nonce)
        extra = audit.qualifying_data(bytes.fromhex(str(export["head"])), int(str(export["count"])), nonce)
        return {"export": export, "quote": self._quote(extra)}

    def checkpoint(self) -> dict[str, object]:
        """Walk the whole log, keep where it ended (with a TPM's quote over that, where one is used), and return it."""
        mark = self.vault.audit_verify()
        quote = self._quote(audit.qualifying_data(mark.head, mark.count, b""))
        now = max(0, int(self._clock()))
        document = {
            "schema": CHECKPOINT_SCHEMA,
            "count": mark.count,
            "head": mark.head.hex(),
            "time": now,
            "quote": quote,
        }
        fields: dict[str, int | str] = {"count": mark.count, "head": mark.head.hex(), "quoted": int(quote is not None)}
        with self.vault.change("checkpoint", False, **fields) as change:
            change.put("", *_CHECKPOINT, json.dumps(document).encode())
        return document

    def last_checkpoint(self) -> int | None:
        """Return the day of the last checkpoint (since the epoch), None before the first."""
        then = self.checkpoint_time()
        return None if then is None else then // 86_400

    def checkpoint_time(self) -> int | None:
        """Return the time of the last checkpoint in whole seconds since the epoch, None before the first."""
        raw = self.vault.get("", *_CHECKPOINT)
        return int(json.loads(raw)["time"]) if raw else None

    def attest(self, nonce: bytes) -> dict[str, object]:
        """Return a TPM's quote over what this boot measured, also where the boot got no keys.

        Raises:
            RequestError: 409, without a TPM.
        """
        from idiolect.trust.device.attestation import attest_data

        if self._config.keystore != "tpm":
            raise RequestError(409, "nonce", "keystore: file has no TPM that could vouch for anything")
        if self._device is None:
            self._device = provisioning.read_record(self._state_dir)
        model = self._model
        return {
            "schema": "idiolect/attestation/v1",
            "nonce": nonce.hex(),
            "bundle": {"name": model.name, "version": model.version, "digest": model.digest},
            "quote": self._quote(attest_data(nonce, bytes.fromhex(model.digest))),
        }

    def _quote(self, extra: bytes) -> dict[str, object] | None:
        if self._config.keystore != "tpm" or self._device is None:
            return None
        from idiolect.trust.device.tpm_keystore import quote

        pcr = next((a.pcr for a in self._model.approvals), DEFAULT_PCR)
        attest, signature, value = quote(self._config.trust.tcti, self._device, pcr, extra)
        return {
            "device": self._device.device,
            "attest": attest.hex(),
            "signature": signature.hex(),
            "pcr": pcr,
            "value": value.hex(),
        }


_DISK_FIXES = {
    "readonly": "mount the file system for writing; if it turned read-only by itself, the disk is failing",
    "full": "free some space on the disk",
    "failed": "see the kernel's log: the disk is failing",
}
_LOCKOUT = "wait, or tpm2_dictionarylockout --clear-lockout"
_FOR_DEVELOPMENT = "for development; on a product set keystore: tpm"


def sentence(view: View) -> str:
    """Return the view in one line: "released (PCR 14 matches ...)", or the state, what happened and what to do."""
    if view.released:
        return view.detail if view.protected else f"{view.detail}; {view.fix}"
    return f"{view.state}: {view.detail}; {view.fix}" if view.fix else f"{view.state}: {view.detail}"
