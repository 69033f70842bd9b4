"""The keystore as the vault sees it: it keeps the two secrets that open the vault, and a TPM and a file look alike.

* **S**, the root secret, 32 bytes, never changes. It alone opens nothing.
* **M**, 32 bytes with a generation number, is replaced at every rotation. It lies in two slots: a rotation writes
  ``NEXT`` and then ``CURRENT``, so that one of the two is whole at any instant, and both hold the same at rest.

The vault's key is derived from both. Who holds an old copy of the disk lacks the M that it was written under.

A keystore hands its secrets out once, when it is opened (``device.tpm_keystore`` after the boot was measured,
``device.key_file`` without more ado); what the vault then needs of it is the ``Keystore`` below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from idiolect.errors import KeystoreError
from idiolect.trust.vault.secret import Secret

NEXT, CURRENT = 0, 1
"""The slots of M, in the order in which a rotation writes them."""
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Slot:
    """One copy of M; ``generation`` counts rotations, from 1."""

    generation: int
    secret: Secret


@dataclass(frozen=True, slots=True)
class Released:
    """The secrets of an opened keystore. ``slots`` holds None where a copy cannot be read or is torn."""

    root: Secret
    slots: tuple[Slot | None, Slot | None]

    def wipe(self) -> None:
        """Overwrite all of them: nothing can be derived from this any more."""
        self.root.wipe()
        for slot in self.slots:
            if slot:
                slot.secret.wipe()


class Keystore(Protocol):
    """An opened keystore. Errors are ``KeystoreError``: the keys are out of reach now, and nothing else is lost."""

    @property
    def kind(self) -> str:
        """Return "tpm" or "file", as in the configuration."""

    @property
    def protected(self) -> bool:
        """Return True if hardware protects the secrets."""

    def write_slot(self, index: int, slot: Slot) -> None:
        """Replace one copy of M, durably before this returns; the other stays as it is."""

    def minimum_version(self) -> int:
        """Return the lowest version of a bundle that may get the keys, from 0."""

    def raise_minimum(self, version: int) -> None:
        """Raise the minimum version; a lower ``version`` than before changes nothing."""

    def wipe(self) -> None:
        """Forget the secret that it takes to write."""


def too_old(version: int, minimum: int) -> KeystoreError:
    """Return the refusal of check 4, for an older bundle than this device has marked good."""
    message = f"refused (4): the bundle has version {version}, this device asks for {minimum} or later"
    return KeystoreError(message, "install a newer bundle", "refused")
