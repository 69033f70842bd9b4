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

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from idiolect.errors import LearningError, RequestError
from idiolect.learning import adapter_file, messages, rollout
from idiolect.learning.rollout import State, Version
from idiolect.learning.trainer import When
from idiolect.people.consent import ADAPTER, CONSENT

if TYPE_CHECKING:
    from idiolect.learning.provenance import Sealed
    from idiolect.listening.pipeline.adapter import Adapter
    from idiolect.people.learner import Learner
    from idiolect.people.records import Records
    from idiolect.trust.vault.vault import Change

log = logging.getLogger(__name__)

CAPACITY = 2
"""Tables of other bundles that are kept of a person, beside the carried model's."""
AGAIN = ("bundle", "encoder")
"""Reasons to retire after which a round is owed at once."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A table set aside. ``examples`` is the digest of all those kept at the time, up to number ``last``."""

    bundle: str
    versions: tuple[Version, ...]
    examples: str
    last: int

    def encode(self) -> bytes:
        """As it is kept, under its bundle's digest."""
        rows = [asdict(version) for version in self.versions]
        return json.dumps({"versions": rows, "examples": self.examples, "last": self.last}).encode()

    def holds(self, records: Records, profile: str) -> bool:
        """Whether exactly these examples are still there; newer ones do not matter. Numbers alone are given anew."""
        return _examples(records, profile, self.last) == self.examples


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version was made with: its bundle's digest, and its encoder's id."""

    bundle: str
    encoder: str


def every(records: Records, profile: str) -> list[SetAside]:
    """A person's shelves, oldest first, whether they hold or not."""
    found = []
    for record in records.vault.items(profile, ADAPTER, "shelf"):
        kept = json.loads(record.payload)
        versions = tuple(rollout.read(kept["versions"]))
        found.append(SetAside(record.id, versions, str(kept["examples"]), int(kept["last"])))
    return sorted(found, key=_newest)


def _newest(shelf: SetAside) -> int:
    return max((version.number for version in shelf.versions), default=0)


def _filled(records: Records, profile: str, bundle: str, versions: Iterable[Version]) -> SetAside:
    """A shelf as of now."""
    last = max((example.sequence for example, _ in records.examples(profile)), default=0)
    return SetAside(bundle, tuple(versions), _examples(records, profile, last), last)


def _examples(records: Records, profile: str, last: int) -> str:
    digest = hashlib.sha256()
    for example, _ in records.examples(profile):
        if example.sequence <= last:
            digest.update(example.digest())
    return digest.hexdigest()


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


def turn(learner: Learner, profile: str, why: str) -> bool:
    """Another bundle runs: set its predecessor's table aside and bring this one's back, in one transaction.

    Whether there was one to bring back.
    """
    before, versions = origin(learner, profile), learner.versions(profile)
    used = rollout.in_use(versions)
    number = used.number if used else 0
    shelved = [shelf for shelf in every(learner, profile) if shelf.holds(learner, profile)]
    back = next((shelf for shelf in shelved if shelf.bundle == learner.model.digest), None)
    if before is not None:
        aside = _filled(learner, profile, before.bundle, versions)
        shelved = [*(s for s in shelved if s.bundle != before.bundle), aside]
    kept = _kept(learner, [s for s in shelved if s is not back])
    with learner.vault.change("adapter-retired", False, profile=profile, adapter=number, why=why) as change:
        for old in every(learner, profile):
            change.delete(profile, ADAPTER, "shelf", old.bundle)
        for each in kept:
            change.put(profile, ADAPTER, "shelf", each.bundle, each.encode())
        if before is not None and before.encoder != learner.encoder:
            _log_encoder(learner, change, profile, before.encoder)
        _bring_back(learner, change, profile, back, why, number)
        learner.keep_only(change, profile, [v for s in (*kept, *([back] if back else [])) for v in s.versions])
    return back is not None


def _kept(records: Records, shelved: list[SetAside]) -> list[SetAside]:
    """The carried model's, and of the others as many as there is room for."""
    carried = records.earlier.digest if records.earlier else ""
    return [s for s in shelved if s.bundle == carried] + [s for s in shelved if s.bundle != carried][-CAPACITY:]


def _log_encoder(learner: Learner, change: Change, profile: str, before: str) -> None:
    """How many examples go on counting under another encoder, and by which map."""
    made_by = Counter(encoder for _, encoder in learner.examples(profile) if encoder != learner.encoder)
    mapped = sum(count for encoder, count in made_by.items() if encoder in learner.maps)
    fields: dict[str, int | str] = {
        "profile": profile, "encoder": before, "mapped": mapped, "unmapped": sum(made_by.values()) - mapped,
    }  # fmt: skip
    if before in learner.maps:
        fields["map"] = learner.maps[before].digest
    change.log("encoder-changed", fields, int(learner.clock()))


def _bring_back(  # noqa: PLR0917 - the parts of one transaction
    learner: Learner, change: Change, profile: str, back: SetAside | None, why: str, number: int
) -> None:
    change.delete(profile, CONSENT, "round", "00")
    if back is None:
        change.delete(profile, ADAPTER, "state", "00")
        change.put(profile, CONSENT, "retired", "00", learner.retirement(why, number))
        return
    change.put(profile, ADAPTER, "state", "00", json.dumps([asdict(v) for v in back.versions]).encode())
    change.delete(profile, CONSENT, "retired", "00")
    used = rollout.in_use(back.versions)
    if used is not None:
        fields: dict[str, int | str] = {"profile": profile, "adapter": used.number, "state": used.state.value}
        change.log("adapter-moved", fields, int(learner.clock()))


def waiting(learner: Learner, profile: str) -> bool:
    """Whether something that was taught waits for the first round under this bundle, also after a crash before it."""
    retired, last, versions = learner.retired(profile), learner.last_round(profile), learner.versions(profile)
    if (retired is not None and retired.why not in AGAIN) or (last is not None and last.bundle == learner.model.digest):
        return False
    used = rollout.in_use(versions)
    if versions and used is None:
        return False  # taken back by somebody
    try:
        newest = learner.sealed(profile, used.number).provenance.last if used else 0
    except (LearningError, RequestError):
        return False
    return any(e.source == "enrolment" and e.sequence > newest for e in learner.ledger(profile).examples)


def tidy(learner: Learner, profile: str) -> None:
    """Empty the shelves whose examples are not all there any more."""
    shelved = every(learner, profile)
    gone = [shelf for shelf in shelved if not shelf.holds(learner, profile)]
    if not gone:
        return
    rest = [v for shelf in shelved if shelf not in gone for v in shelf.versions]
    with learner.vault.change("adapters-purged", True, profile=profile, count=len(gone)) as change:
        for shelf in gone:
            change.delete(profile, ADAPTER, "shelf", shelf.bundle)
        learner.keep_only(change, profile, [*learner.versions(profile), *rest])
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


def owed(learner: Learner, profile: str) -> bool:
    """Whether there are phrases for the carried model, and no adapter was tried to be made of them."""
    before, retired = learner.earlier, learner.retired(profile)
    if before is None or any(shelf.bundle == before.digest for shelf in every(learner, profile)):
        return False
    if retired is not None and retired.why == "disuse" and profile not in learner.recalled:
        return False
    heard = {*learner.model.classes, *before.classes, *known(learner, profile)}
    rows = learner.ledger(profile, of=before).examples
    return any(example.source == "enrolment" and example.phrase not in heard for example in rows)


def rebuild(learner: Learner, profile: str, *, patient: bool = False) -> bool:
    """Make a person's adapter under the carried model anew where it is owed; whether it is in use now.

    It passes the gate of that model or is not used. ``WorkerFailed`` when the worker did not answer.
    """
    before = learner.earlier
    if before is None or not owed(learner, profile):
        return False
    rows, number = learner.ledger(profile, of=before), learner.counter(profile) + 1
    others = learner.others(rows, before)  # before the model is there: it takes some MiB of its own while it looks
    request = messages.Request(before.load(), rows, When(learner.day, number), b"", others, owed=True)
    outcome = messages.read_answer(learner.ask(request, patient=patient), request)
    passed = outcome.verdict.passed
    versions = (Version(number, State.ACTIVE),) if passed else ()
    shelf = _filled(learner, profile, before.digest, versions)
    sealed = learner.seal(rows, outcome, number, before.digest)
    refusal = {"profile": profile, "check": outcome.verdict.check, "examples": len(rows.examples)}
    kind, fields = ("adapter-made", sealed.provenance.audited("active")) if passed else ("adapter-refused", refusal)
    with learner.vault.change(kind, False, **fields) as change:
        if ADAPTER not in change.shelf(profile).keys:
            change.add_key(profile, ADAPTER, "")
        change.put(profile, ADAPTER, "shelf", before.digest, shelf.encode())
        if passed:
            change.put(profile, ADAPTER, "adapter", f"{number:08x}", sealed.encode(), before.encoder)
            change.put(profile, CONSENT, "counter", "00", str(number).encode())
    return passed
