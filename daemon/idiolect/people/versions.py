"""The versions of a person's adapter: signed, kept in a table, moved, taken back; and tables set aside.

Goes in: what a round made, or what was counted of a version. Comes out: rows in the vault, each group of them in one
transaction. A table set aside (``SetAside``, in the vault "shelf") is that of another bundle (``carryover``). Nothing
is trained or judged here. Everything here runs on the thread that owns the vault. The states that a version goes
through (shadow, canary, active) are in ``learning.rollout``; docs/architecture.md has a glossary.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from idiolect.errors import RequestError
from idiolect.learning import rollout
from idiolect.learning.provenance import Provenance, Sealed
from idiolect.learning.rollout import Signal, Version
from idiolect.people.consent import ADAPTER, CONSENT
from idiolect.people.records import Retired

if TYPE_CHECKING:
    from idiolect.learning.health import Health
    from idiolect.learning.ledger import Ledger
    from idiolect.learning.round import Outcome
    from idiolect.people.records import Records
    from idiolect.trust.vault.vault import Change


@dataclass(frozen=True, slots=True)
class SetAside:
    """A table of versions set aside for another bundle.

    ``examples`` is the digest of all examples kept at the time, up to number ``last``.
    """

    bundle: str
    versions: tuple[Version, ...]
    examples: str
    last: int

    def encode(self) -> bytes:
        """Return the bytes that the vault keeps, under the digest of the bundle."""
        rows = [asdict(version) for version in self.versions]
        return json.dumps({"versions": rows, "examples": self.examples, "last": self.last}).encode()

    def holds(self, records: Records, profile: str) -> bool:
        """Return whether exactly these examples are still there; newer ones do not matter.

        The numbers alone would not tell, as the number of a deleted example is given again.
        """
        return _examples(records, profile, self.last) == self.examples


def every(records: Records, profile: str) -> list[SetAside]:
    """Return a person's tables set aside, oldest first, whether they still hold or not."""
    found = []
    for record in records.vault.items(profile, ADAPTER, "shelf"):
        kept = json.loads(record.payload)
        versions = tuple(rollout.read(kept["versions"]))
        found.append(SetAside(record.id, versions, str(kept["examples"]), int(kept["last"])))
    return sorted(found, key=_newest)


def _newest(shelf: SetAside) -> int:
    return max((version.number for version in shelf.versions), default=0)


def filled(records: Records, profile: str, bundle: str, versions: Iterable[Version]) -> SetAside:
    """Return a table set aside for ``bundle``, with the digest of all examples that are kept now."""
    last = max((example.sequence for example, _ in records.examples(profile)), default=0)
    return SetAside(bundle, tuple(versions), _examples(records, profile, last), last)


def _examples(records: Records, profile: str, last: int) -> str:
    digest = hashlib.sha256()
    for example, _ in records.examples(profile):
        if example.sequence <= last:
            digest.update(example.digest())
    return digest.hexdigest()


def seal(records: Records, known: Ledger, outcome: Outcome, number: int, bundle: str) -> Sealed:
    """Return a version with its provenance and this device's signature.

    Args:
        known: the ledger that the round made it from.
        number: the number of the new version.
        bundle: the digest of the bundle it was made under.
    """
    numbers, mapped = outcome.verdict.numbers, Counter(e.origin for e in known.examples if e.origin)
    record = Provenance(
        profile=known.profile, number=number, bundle=bundle, ledger=known.digest(), day=records.day,
        step=int(numbers["step"]), adapter=outcome.digest, examples=len(known.examples),
        last=max((e.sequence for e in known.examples), default=0), receipts=known.receipts(), gate=dict(numbers),
        mapped=dict(mapped),
    )  # fmt: skip
    return Sealed(record, records.sign(record.signed_bytes()), outcome.data)


def store(records: Records, change: Change, profile: str, versions: list[rollout.Version]) -> None:
    """Write the table, and delete the versions that neither it nor one set aside names any more."""
    rows = json.dumps([asdict(v) for v in versions]).encode()
    change.put(profile, ADAPTER, "state", "00", rows)
    shelved = [v for shelf in every(records, profile) for v in shelf.versions]
    keep_only(change, profile, [*versions, *shelved])


def keep_only(change: Change, profile: str, versions: Sequence[rollout.Version]) -> None:
    """Delete the records of all versions but these."""
    numbers = {f"{v.number:08x}" for v in versions}
    for purpose, kind, ident in list(change.shelf(profile).records):
        if (purpose, kind) == (ADAPTER, "adapter") and ident not in numbers:
            change.delete(profile, purpose, kind, ident)


def settle(  # noqa: PLR0917 - what is kept together
    records: Records, profile: str, after: list[rollout.Version], stepped: Sequence[rollout.Version] = (),
    health: Health | None = None, usage: dict[str, int] | None = None,
) -> bool:  # fmt: skip
    """Keep a table and what was counted beside it, in one transaction; return whether another version is in use now.

    Args:
        after: the table.
        stepped: the versions that changed their state, in order: each is an entry in the log.
        usage: phrase -> how often it was said, to be added to today's counts.
    """
    now, then = rollout.in_use(after), rollout.in_use(records.versions(profile))
    other = (now.number if now else 0) != (then.number if then else 0)
    entries: list[dict[str, int | str]] = [
        {"profile": profile, "adapter": v.number, "state": v.state.value} for v in stepped
    ]
    if entries and health is not None:
        entries[-1] |= {"lost": round(health.lost), "won": round(health.won)}
    # A change has one audit entry of its own: the last step, or, without a step, that something was kept.
    kind, last = ("adapter-moved", entries.pop()) if entries else ("put", {"profile": profile, "count": 1})
    with records.vault.change(kind, other, **last) as change:
        for entry in entries:
            change.log(kind, entry, int(records.clock()))
        # Somebody without any version has no key for them: then only usage is counted.
        if ADAPTER in change.shelf(profile).keys:
            store(records, change, profile, after)
            if health is not None:
                change.put(profile, ADAPTER, "health", "00", json.dumps(health.as_dict()).encode())
        if usage:
            records.count_usage(change, profile, usage)
    return other


def move(records: Records, profile: str, changed: rollout.Version) -> bool:
    """Store one version's new state; return whether another version is in use now."""
    return settle(records, profile, rollout.update(records.versions(profile), changed), [changed])


def rollback(records: Records, profile: str) -> str:
    """Take back the version in use; the one before it, or the base model, takes over. Return what is in use then.

    Raises:
        RequestError: 409, the base model is in use.
    """
    used = rollout.in_use(records.versions(profile))
    if used is None:
        raise RequestError(409, "profile", "uses the base model already: there is nothing to take back")
    move(records, profile, used.next(Signal.TAKEN_BACK))
    now = rollout.in_use(records.versions(profile))
    return f"version {now.number}" if now else "the base model"


def retire(records: Records, profile: str, why: str) -> None:
    """Delete every version of a person's adapter, beyond recovery, and keep a note why."""
    used = rollout.in_use(records.versions(profile))
    number = used.number if used else 0
    fields: dict[str, int | str] = {"profile": profile, "adapter": number, "why": why}
    with records.vault.change("adapter-retired", why == "expired", **fields) as change:
        change.withdraw(profile, ADAPTER)
        change.put(profile, CONSENT, "retired", "00", retirement(records, why, number))
        change.delete(profile, CONSENT, "round", "00")


def retirement(records: Records, why: str, number: int) -> bytes:
    """Return the note that tells why there is no adapter any more."""
    return json.dumps(asdict(Retired(why, records.day, number))).encode()
