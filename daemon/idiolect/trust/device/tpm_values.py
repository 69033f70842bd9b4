"""What goes into a TPM and comes out of it, as frozen values: for those who need no TPM library to handle them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idiolect.trust.bundle.approvals import Approval


@dataclass(frozen=True, slots=True)
class Properties:
    """What a TPM says of itself; ``*_auth`` tells whether that hierarchy has an auth value."""

    manufacturer: str
    firmware: int
    owner_auth: bool
    endorsement_auth: bool
    in_lockout: bool
    failed_tries: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed object as it lies on disk: only the TPM that made it can load it, only its policy opens it."""

    public: bytes
    private: bytes


@dataclass(frozen=True, slots=True)
class Authorization:
    """How a PolicyAuthorize policy is met: an approval, by the key in ``pem``, under ``reference``."""

    pem: bytes
    approval: Approval
    reference: bytes
