"""Set aside: what becomes of people's adapters when another bundle runs, and of the phrases that it cannot take over.

An adapter belongs to the bundle that it was made with. When another one starts, the table of versions goes to a shelf,
under the digest of its bundle, and the table that lay there for the bundle which starts comes back: so one can go back
and forth between bundles, and finds everything as it was. What is on a shelf is used only where the bundle carries the
model that it is for (``learning.maps.Earlier``): then phrases that were taught under that model, and that nothing
in use knows, are still heard with it.

A shelf holds as long as all examples do that were kept when it was filled. Forgetting, withdrawing and erasing empty
all of a person's shelves in their own transaction; expiry is found out here. What was set aside of the carried model is
then made anew, from what is left, with that model.

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
    """What a version was made with: its bundle's digest, and its encoder's id."""

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
    """What the table in use was made with; None without one that can be believed."""
    return _origin(records, profile, records.versions(profile))


# -- another bundle ------------------------------------------------------------------------------------------------


def stale(records: Records, profile: str) -> str:
    """Why the table in use is not this bundle's, "" when it is: another bundle made it, or this one's is on a shelf."""
    table = origin(records, profile)
    if table is not None and table.bundle != records.model.digest:
        return "bundle" if table.encoder == records.encoder else "encoder"
    own = [s for s in every(records, profile) if s.bundle == records.model.digest and s.versions]
    return "bundle" if own and own[0].holds(records, profile) and not records.versions(profile) else ""


def turn(records: Records, profile: str, why: str) -> bool:
    """Another bundle runs: set its predecessor's table aside and bring this one's back, in one transaction.

    Whether there was one to bring back.
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
        keep_only(change, profile, [v for s in (*kept, *([back] if back else [])) for v in s.versions])
    return back is not None


def _kept(records: Records, shelved: list[SetAside]) -> list[SetAside]:
    """The carried model's, and of the others as many as there is room for."""
    carried = records.earlier.digest if records.earlier else ""
    return [s for s in shelved if s.bundle == carried] + [s for s in shelved if s.bundle != carried][-CAPACITY:]


def _log_encoder(records: Records, change: Change, profile: str, before: str) -> None:
    """How many examples go on counting under another encoder, and by which map."""
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
    """Whether something that was taught waits for the first round under this bundle, also after a crash before it."""
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
    """Empty the shelves whose examples are not all there any more."""
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
    """What is in use of the carried model; None where nothing is, or where it cannot be believed."""
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
    """The phrases that the adapter in use under this bundle was taught."""
    used = rollout.in_use(records.versions(profile))
    try:
        return (
            {t.name for t in adapter_file.decode(records.sealed(profile, used.number).data).taught} if used else set()
        )
    except (LearningError, RequestError):
        return set()


def adapter(records: Records, profile: str) -> Adapter | None:
    """A person's adapter under the carried model, its taught phrases only those that nothing else would hear.

    That changes no score of those that are left: each has a row of its own (``pipeline.household``).
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
    """Everybody's."""
    if records.earlier is None:
        return []
    return [found for profile in records.vault.profiles() if (found := adapter(records, profile))]


def owed(records: Records, profile: str, *, recalled: bool) -> bool:
    """Whether there are phrases for the carried model, and no adapter was tried to be made of them.

    ``recalled``: somebody asked for this person since the start, so that disuse has ended.
    """
    before, retired = records.earlier, records.retired(profile)
    if before is None or any(shelf.bundle == before.digest for shelf in every(records, profile)):
        return False
    if retired is not None and retired.why == "disuse" and not recalled:
        return False
    heard = {*records.model.classes, *before.classes, *known(records, profile)}
    rows = records.ledger(profile, of=before).examples
    return any(example.source == "enrolment" and example.phrase not in heard for example in rows)
