"""The device record holds what provisioning pinned. All of it is public, and a changed record opens nothing.

`device.json` in the state directory, canonical JSON: ``ak`` (PEM of the attestation key), ``adapter_key`` (PEM),
``complete``, ``device`` (an opaque random id), ``schema``, ``sealed`` (one entry per policy key: two while that key is
being replaced) and ``srk`` (the storage root key's TPM Name). The last three are empty for ``keystore: file``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from idiolect.errors import NONSENSE, BundleError, KeystoreError
from idiolect.trust.bundle import canonical
from idiolect.trust.bundle.public_keys import load_public

RECORD = "device.json"
RECORD_CAP = 16 << 10
SCHEMA = 1
_FIELDS = {"ak", "adapter_key", "complete", "device", "schema", "sealed", "srk"}
_SEALED = {"policy_key", "private", "public"}


@dataclass(frozen=True, slots=True)
class SealedKey:
    """S, sealed under one policy key (PEM): the two halves of a TPM object, marshalled."""

    policy_key: bytes
    public: bytes
    private: bytes


@dataclass(frozen=True, slots=True)
class Device:
    """The parsed record. ``complete`` is False while provisioning is under way."""

    device: str
    complete: bool = False
    srk: bytes = b""
    ak: bytes = b""
    adapter_key: bytes = b""
    sealed: tuple[SealedKey, ...] = ()

    @property
    def uses_tpm(self) -> bool:
        """Return True if the device was provisioned with a TPM."""
        return bool(self.srk)

    def encode(self) -> bytes:
        """Return the content of `device.json`."""
        return canonical.encode(
            {
                "ak": self.ak.decode(),
                "adapter_key": self.adapter_key.decode(),
                "complete": self.complete,
                "device": self.device,
                "schema": SCHEMA,
                "sealed": [
                    {"policy_key": s.policy_key.decode(), "private": s.private.hex(), "public": s.public.hex()}
                    for s in self.sealed
                ],
                "srk": self.srk.hex(),
            }
        )


def parse(raw: bytes) -> Device:
    """Read a record. Raises ``KeystoreError`` (damaged) when it is not one."""
    try:
        return _device(canonical.parse(raw, RECORD_CAP))
    except (*NONSENSE, BundleError):
        raise damaged(f"{RECORD} is damaged, or was made by a later version") from None


def damaged(message: str) -> KeystoreError:
    """Return the error for a record that cannot be used."""
    return KeystoreError(message, "restore it from a backup, or factory-reset and provision", "damaged")


def _device(fields: Any) -> Device:
    if (
        not isinstance(fields, dict)
        or set(fields) != _FIELDS
        or fields["schema"] != SCHEMA
        or type(fields["complete"]) is not bool
    ):
        raise ValueError
    if len(bytes.fromhex(fields["device"])) != 16 or not 0 <= len(fields["sealed"]) <= 2:
        raise ValueError
    for pem in (fields["ak"], fields["adapter_key"], *(entry["policy_key"] for entry in fields["sealed"])):
        if pem:
            load_public(RECORD, pem.encode("ascii"))
    return Device(
        device=fields["device"],
        complete=fields["complete"],
        srk=bytes.fromhex(fields["srk"]),
        ak=fields["ak"].encode("ascii"),
        adapter_key=fields["adapter_key"].encode("ascii"),
        sealed=tuple(_sealed(entry) for entry in fields["sealed"]),
    )


def _sealed(entry: dict[str, Any]) -> SealedKey:
    if set(entry) != _SEALED:
        raise ValueError
    return SealedKey(
        policy_key=entry["policy_key"].encode("ascii"),
        public=bytes.fromhex(entry["public"]),
        private=bytes.fromhex(entry["private"]),
    )
