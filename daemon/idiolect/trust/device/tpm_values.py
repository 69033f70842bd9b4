"""Frozen values that go into a TPM and come out of it, for code that handles them without a TPM library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idiolect.trust.bundle.approvals import Approval


@dataclass(frozen=True, slots=True)
class Properties:
    """The facts that a TPM tells of itself; ``*_auth``: that hierarchy has an auth value."""

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
