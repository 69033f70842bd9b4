"""Set aside: what becomes of people's adapters when another bundle runs, and of the phrases that it cannot take over.

An adapter belongs to the bundle that it was made with. When another one starts, the person's table of versions is set
aside under the digest of its bundle, and the table that was set aside earlier for the bundle that starts now comes
back. So one can go back and forth between bundles and find everything as it was. A table set aside is used only where
the bundle carries the model that it is for (``learning.maps.Earlier``): then phrases that were taught under that model,
and that nothing in use knows, are still heard with it. In the code a table set aside is called a shelf.

A shelf holds as long as all examples are kept that there were when it was filled. Forgetting, withdrawing and erasing
empty all of a person's shelves in their own transaction; expiry is found out here. What was set aside of the carried
model is then made anew, from what is left, with that model.

Everything here runs on the thread that owns the vault.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from idiolect.errors import LearningError, RequestError
from idiolect.learning import adapter_file, rollout
from idiolect.learning.rollout import Version
from idiolect.people.consent import ADAPTER, CONSENT
from idiolect.people.versions import SetAside, every, filled, keep_only, retirement

if TYPE_CHECKING:
    from idiolect.learning.provenance import Sealed
    from idiolect.listening.pipeline.adapter import Adapter
    from idiolect.people.records import Records
    from idiolect.trust.vault.vault import Change

log = logging.getLogger(__name__)

CAPACITY = 2
"""Tables of other bundles that are kept of a person, beside the carried model's."""
AGAIN = ("bundle", "encoder")
"""Reasons to retire after which a round is owed at once."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The bundle and the encoder with which a version was made: a digest and an id."""

    bundle: str
    encoder: str


def _origin(records: Records, profile: str, versions: Iterable[Version]) -> Origin | None:
    encoders = {r.id: r.encoder for r in records.vault.items(profile, ADAPTER, "adapter")}
    for version in versions:
        try:
            bundle = records.sealed(profile, version.number).provenance.bundle
        except (LearningError, RequestError):
            continue  # one that cannot be believed says nothing of the others
        return Origin(bundle, encoders[f"{version.number:08x}"])
    return None


def origin(records: Records, profile: str) -> Origin | None:
    """Return what the table in use was made with; None without a version that can be believed."""
    return _origin(records, profile, records.versions(profile))


# -- another bundle ------------------------------------------------------------------------------------------------


def stale(records: Records, profile: str) -> str:
    """Return why the table in use is not this bundle's, "" when it is.

    "bundle": another bundle with the same encoder made it, or this bundle's own table is set aside while none is in
    use. "encoder": a bundle with another encoder made it.
    """
    table = origin(records, profile)
    if table is not None and table.bundle != records.model.digest:
        return "bundle" if table.encoder == records.encoder else "encoder"
    # Nothing is in use, and the table set aside for this bundle still holds: it is to come back.
    own = [s for s in every(records, profile) if s.bundle == records.model.digest and s.versions]
    return "bundle" if own and own[0].holds(records, profile) and not records.versions(profile) else ""


def turn(records: Records, profile: str, why: str) -> bool:
    """Set the table of the bundle before aside and bring this bundle's one back, in one transaction.

    Args:
        why: the reason for the log, as ``stale`` returns it.

    Returns:
        Whether there was a table to bring back.
    """
    before, versions = origin(records, profile), records.versions(profile)
    used = rollout.in_use(versions)
    number = used.number if used else 0
    shelved = [shelf for shelf in every(records, profile) if shelf.holds(records, profile)]
    back = next((shelf for shelf in shelved if shelf.bundle == records.model.digest), None)
    if before is not None:
        aside = filled(records, profile, before.bundle, versions)
        shelved = [*(s for s in shelved if s.bundle != before.bundle), aside]
    kept = _kept(records, [s for s in shelved if s is not back])
    with records.vault.change("adapter-retired", False, profile=profile, adapter=number, why=why) as change:
        for old in every(records, profile):
            change.delete(profile, ADAPTER, "shelf", old.bundle)
        for each in kept:
            change.put(profile, ADAPTER, "shelf", each.bundle, each.encode())
        if before is not None and before.encoder != records.encoder:
            _log_encoder(records, change, profile, before.encoder)
        _bring_back(records, change, profile, back, why, number)
        # Versions of tables that were pushed out, or do not hold any more, go with these.
        keep_only(change, profile, [v for s in (*kept, *([back] if back else [])) for v in s.versions])
    return back is not None


def _kept(records: Records, shelved: list[SetAside]) -> list[SetAside]:
    """Return the carried model's table, and the newest of the others, as many as there is room for (CAPACITY)."""
    carried = records.earlier.digest if records.earlier else ""
    return [s for s in shelved if s.bundle == carried] + [s for s in shelved if s.bundle != carried][-CAPACITY:]


def _log_encoder(records: Records, change: Change, profile: str, before: str) -> None:
    """Write to the log how many examples go on counting under another encoder, and by which map."""
    made_by = Counter(encoder for _, encoder in records.examples(profile) if encoder != records.encoder)
    mapped = sum(count for encoder, count in made_by.items() if encoder in records.maps)
    fields: dict[str, int | str] = {
        "profile": profile, "encoder": before, "mapped": mapped, "unmapped": sum(made_by.values()) - mapped,
    }  # fmt: skip
    if before in records.maps:
        fields["map"] = records.maps[before].digest
    change.log("encoder-changed", fields, int(records.clock()))


def _bring_back(  # noqa: PLR0917 - the parts of one transaction
    records: Records, change: Change, profile: str, back: SetAside | None, why: str, number: int
) -> None:
    # The last round looked at another bundle: without its note a new round is due.
    change.delete(profile, CONSENT, "round", "00")
    if back is None:
        change.delete(profile, ADAPTER, "state", "00")
        change.put(profile, CONSENT, "retired", "00", retirement(records, why, number))
        return
    change.put(profile, ADAPTER, "state", "00", json.dumps([asdict(v) for v in back.versions]).encode())
    change.delete(profile, CONSENT, "retired", "00")
    used = rollout.in_use(back.versions)
    if used is not None:
        fields: dict[str, int | str] = {"profile": profile, "adapter": used.number, "state": used.state.value}
        change.log("adapter-moved", fields, int(records.clock()))


def waiting(records: Records, profile: str) -> bool:
    """Return whether something that was taught waits for the first round under this bundle.

    It waits still after a crash before that round.
    """
    retired, last, versions = records.retired(profile), records.last_round(profile), records.versions(profile)
    if (retired is not None and retired.why not in AGAIN) or (last is not None and last.bundle == records.model.digest):
        return False
    used = rollout.in_use(versions)
    if versions and used is None:
        return False  # taken back by somebody
    try:
        newest = records.sealed(profile, used.number).provenance.last if used else 0
    except (LearningError, RequestError):
        return False
    return any(e.source == "enrolment" and e.sequence > newest for e in records.ledger(profile).examples)


def tidy(records: Records, profile: str) -> None:
    """Delete the tables set aside whose examples are not all there any more."""
    shelved = every(records, profile)
    gone = [shelf for shelf in shelved if not shelf.holds(records, profile)]
    if not gone:
        return
    rest = [v for shelf in shelved if shelf not in gone for v in shelf.versions]
    with records.vault.change("adapters-purged", True, profile=profile, count=len(gone)) as change:
        for shelf in gone:
            change.delete(profile, ADAPTER, "shelf", shelf.bundle)
        keep_only(change, profile, [*records.versions(profile), *rest])
        change.rekey(profile, ADAPTER)


# -- the carried model ---------------------------------------------------------------------------------------------


def carried(records: Records, profile: str) -> Sealed | None:
    """Return the version in use of the carried model; None where there is none, or where it cannot be believed."""
    before = records.earlier
    shelf = next((s for s in every(records, profile) if before and s.bundle == before.digest), None)
    version = rollout.in_use(shelf.versions) if shelf else None
    if version is None or shelf is None or not shelf.holds(records, profile):
        return None
    try:
        sealed = records.sealed(profile, version.number)
    except (LearningError, RequestError):
        return None
    return sealed if sealed.provenance.bundle == shelf.bundle else None


def known(records: Records, profile: str) -> set[str]:
    """Return the phrases that the adapter in use under this bundle was taught."""
    used = rollout.in_use(records.versions(profile))
    try:
        return (
            {t.name for t in adapter_file.decode(records.sealed(profile, used.number).data).taught} if used else set()
        )
    except (LearningError, RequestError):
        return set()


def adapter(records: Records, profile: str) -> Adapter | None:
    """Return a person's adapter under the carried model, its taught phrases only those that nothing else would hear.

    Leaving phrases out changes no score of the others: each has a row of its own (``pipeline.household``).
    """
    before, sealed = records.earlier, carried(records, profile)
    if before is None or sealed is None:
        return None
    try:
        found = adapter_file.accept(sealed.data, sealed.provenance.adapter)
    except LearningError as error:
        log.error("an adapter is not used: %s", error)
        return None
    heard = {*records.model.classes, *before.classes, *known(records, profile)}
    needed = tuple(taught for taught in found.taught if taught.name not in heard)
    return replace(found, taught=needed) if needed else None


def adapters(records: Records) -> list[Adapter]:
    """Return everybody's adapters under the carried model."""
    if records.earlier is None:
        return []
    return [found for profile in records.vault.profiles() if (found := adapter(records, profile))]


def owed(records: Records, profile: str, *, recalled: bool) -> bool:
    """Return whether an adapter for the carried model is to be made: there are phrases for it, and none was tried.

    Args:
        recalled: somebody asked for this person since the start, so that disuse has ended.
    """
    before, retired = records.earlier, records.retired(profile)
    if before is None or any(shelf.bundle == before.digest for shelf in every(records, profile)):
        return False
    if retired is not None and retired.why == "disuse" and not recalled:
        return False
    heard = {*records.model.classes, *before.classes, *known(records, profile)}
    rows = records.ledger(profile, of=before).examples
    return any(example.source == "enrolment" and example.phrase not in heard for example in rows)
