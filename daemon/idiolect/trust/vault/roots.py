"""The contents of a vault as kept in memory, and the MACs that bind them together.

Per profile an authenticated *root* covers the names and GCM tags of all its records and the names of its keys; one *top
root* covers all of these, the counters, the rotation and the ends of the audit log. Both are keyed from the vault's own
key and change in every transaction. So a row that is missing, older, foreign or in another place is seen when the vault
is opened. A whole file put back, from since the last rotation, is not.

The *origin* is a MAC under a key from S alone. It tells an old copy of this device's vault, whose keys are gone, from
another device's vault.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from idiolect.trust.vault import envelope
from idiolect.trust.vault.audit import Mark
from idiolect.trust.vault.envelope import fields
from idiolect.trust.vault.secret import Secret

ROOTS_LABEL = b"idiolect/vault/roots/v1"
ORIGIN_LABEL = b"idiolect/vault/origin/v1"
KEK_LABEL = b"idiolect/vault/kek/v1"
VAULT_PURPOSE = "vault"
"""The purpose, of profile "", under which the vault's own key is wrapped."""

RecordName = tuple[str, str, str]
"""Purpose, kind, id; unique within a profile."""


@dataclass(frozen=True, slots=True)
class State:
    """The vault's counters. ``counter`` counts transactions; times are whole seconds."""

    device: str
    """An opaque id, in which the audit chain begins."""
    counter: int
    generation: int
    """The rotation whose key opens the wraps."""
    pending: int
    """The rotation in course, whose wraps lie beside the others; 0 at rest."""
    owed: bool
    """True while a security event waits for a rotation that begins after it."""
    credit: int
    """Seconds that count towards the next rotations (see ``rotation``)."""
    high: int
    """The latest wall time seen."""
    anchor: Mark
    end: Mark


@dataclass(frozen=True, slots=True)
class DataKey:
    """The key of one profile and purpose; ``generation`` is the number of the transaction that made it."""

    purpose: str
    receipt: str
    generation: int
    secret: Secret

    @property
    def line(self) -> bytes:
        """Return the key as the root sees it."""
        return fields(self.purpose, self.receipt, self.generation)


@dataclass(frozen=True, slots=True)
class Head:
    """A record without its payload: enough to find, open and authenticate it; ``line`` is what the root sees."""

    encoder: str
    key_generation: int
    expires: int
    tag: bytes
    line: bytes


def head(name: RecordName, encoder: str, key_generation: int, expires: int, tag: bytes) -> Head:
    """Return the head of a record, with the line that goes under the root."""
    return Head(encoder, key_generation, expires, tag, fields(*name, encoder, key_generation, expires, tag))


@dataclass(slots=True)
class ProfileContents:
    """The contents of one profile: its keys by purpose, its records by name."""

    keys: dict[str, DataKey] = field(default_factory=dict)
    records: dict[RecordName, Head] = field(default_factory=dict)

    def copy(self) -> ProfileContents:
        """Return a copy whose changes do not show in this one."""
        return ProfileContents(dict(self.keys), dict(self.records))


@dataclass(slots=True)
class VaultContents:
    """Everything but payloads, as it stands after the last transaction. ``macs`` are the profiles' roots."""

    state: State
    shelves: dict[str, ProfileContents]
    macs: dict[str, bytes]


def kek(root: Secret, m: Secret, generation: int) -> Secret:
    """Return the key that wraps all others at a rotation: from S, M and the number of the rotation."""
    return envelope.derive([root, m], KEK_LABEL + generation.to_bytes(8, "big"))


def profile_root(key: Secret, profile: str, shelf: ProfileContents) -> bytes:
    """Return the MAC over a profile's keys and records. Lines are self-delimiting and sorted: order is no choice."""
    keys = sorted(k.line for k in shelf.keys.values())
    records = sorted(r.line for r in shelf.records.values())
    start = fields("idiolect/vault/profile/v1", profile, len(keys), len(records))
    return envelope.mac(key, b"".join([start, *keys, *records]))


def top_root(key: Secret, state: State, macs: dict[str, bytes]) -> bytes:
    """Return the MAC over all the rest: counters, rotation, ends of the audit log, every profile's root."""
    s = state
    counters = (s.device, s.counter, s.generation, s.pending, int(s.owed), s.credit, s.high)
    ends = (s.anchor.count, s.anchor.head, s.end.count, s.end.head)
    profiles = [part for profile in sorted(macs) for part in (profile, macs[profile])]
    return envelope.mac(key, fields("idiolect/vault/top/v1", *counters, *ends, len(macs), *profiles))


def origin(root: Secret, state: State) -> bytes:
    """Return the MAC that only this device's S makes over the numbers of the rotation."""
    with envelope.derive(root, ORIGIN_LABEL) as key:
        return envelope.mac(key, fields(state.device, state.generation, state.pending))


def wrap_aad(profile: str, purpose: str, receipt: str, key_generation: int, generation: int) -> bytes:
    """Return the associated data that a wrapped key is bound to: consent receipt and rotation included."""
    return fields("idiolect/vault/wrap/v1", profile, purpose, receipt, key_generation, generation)


def record_aad(profile: str, name: RecordName, encoder: str, key_generation: int, expires: int) -> bytes:
    """Return the associated data that a record is bound to: its place, encoder, key and last day."""
    purpose, kind, ident = name
    return fields("idiolect/vault/record/v1", kind, profile, purpose, ident, encoder, key_generation, expires)
