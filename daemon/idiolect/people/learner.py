"""Learning on the device: turns the vault's examples into adapters, through the worker and the gate, and into use.

Goes in: what ``records`` finds in the vault. Comes out: versions in the vault, and entries in its audit log. Training
itself runs in the worker, a confined process of its own. Everything here runs on the thread that owns the vault. Round,
gate, shadow and the carried, or earlier, model are explained in the glossary of docs/architecture.md.

How a crash is survived: each step is one transaction, so that a crash leaves the old state or the new, and a step that
was interrupted is simply due again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from idiolect.errors import LearningError, Preempted, WorkerFailed
from idiolect.learning import adapter_file, messages, rollout, self_test
from idiolect.learning import round as rounds
from idiolect.learning.admission import Verdict
from idiolect.learning.ledger import Ledger
from idiolect.learning.lived import Wish
from idiolect.learning.maps import NOTHING, Succession
from idiolect.learning.model import Model
from idiolect.learning.rollout import Signal
from idiolect.learning.trainer import When, prepare
from idiolect.learning.worker.process import Backend
from idiolect.people import carryover, sharing
from idiolect.people.consent import ADAPTER, CONSENT, Consents
from idiolect.people.others import others
from idiolect.people.records import LastRound, Records
from idiolect.people.versions import filled, move, retire, seal, store
from idiolect.trust.vault.vault import Change
from idiolect.values import RETENTION

log = logging.getLogger(__name__)

USAGE_ROUND_DAYS = 7
"""A prior that nothing else changed is made anew this rarely."""
SHADOW_DAYS = 3
"""A version that is tried out in the shadow is not replaced sooner: it would never be heard often enough."""
DISUSE_DAYS = 180
"""After so long unheard nobody's adapter is listened for any more; who comes back is learnt anew from what is kept."""


@dataclass(frozen=True, slots=True)
class Made:
    """The outcome of a round: ``number`` of the new version, 0 when the gate refused, and the ``state`` it entered."""

    number: int
    state: str
    outcome: rounds.Outcome | None


class Learner(Records):
    """A person's records with what changes them: rounds, self-tests, expiry and retirement."""

    def __init__(  # noqa: PLR0917 - all of it is needed, and none of it optional but the last two
        self, consents: Consents, model: Model, encoder: str, backend: Backend, clock: Callable[[], float] = time.time,
        succession: Succession = NOTHING,
    ) -> None:  # fmt: skip
        super().__init__(consents, model, encoder, clock, succession)
        self.backend = backend
        self.wishes: Callable[[str], Wish | None] = lambda _: None
        """Returns the phrases that count in a turn of a profile's; None: all that the bundle has."""
        self.recalled: set[str] = set()
        """Profiles that somebody asked for since the start: their disuse has ended."""

    def ask(self, request: messages.Request, *, patient: bool = False) -> dict[str, object]:
        """Return the worker's answer to a request.

        Raises:
            Preempted: the worker gave way to something more urgent.
            WorkerFailed: there was no answer; that goes into the audit log.
        """
        try:
            answer = self.backend.run(messages.ask(request), messages.ANSWER_CAP, patient=patient)
        except Preempted:
            raise
        except WorkerFailed as failure:
            self.vault.log("round-failed", profile=request.ledger.profile, cause=failure.cause)
            raise
        return messages.unpack(answer, messages.ANSWER_CAP)

    # -- rounds -------------------------------------------------------------------------------------------------

    def due(self, profile: str, *, asked: bool = False) -> bool:
        """Return whether a round would find something new.

        Args:
            asked: somebody asked to learn now, and does not want to wait for a trial to end.
        """
        if self._owed(profile):
            return True
        known, last, day = self.outline(profile), self.last_round(profile), self.day
        if not known.examples and not known.usage:
            return last is not None  # what the last one looked at is gone, and so must be its digest
        retired = self.retired(profile)
        if retired and retired.why == "disuse" and profile not in self.recalled and not asked:
            return False
        if last is None or last.bundle != self.model.digest:
            return True
        if last.material != known.material:
            return asked or not self._shadowed(profile, day)
        return known.usage and not 0 <= day - last.day < USAGE_ROUND_DAYS

    def _shadowed(self, profile: str, day: int) -> bool:
        """Return whether a version is still being tried out beside one that is in use."""
        shadows = [v for v in self.versions(profile) if v.state is rollout.State.SHADOW]
        made = [self.made_on(profile, v.number) for v in shadows]
        return any(then is not None and 0 <= day - then < SHADOW_DAYS for then in made)

    def round(self, profile: str, *, at_once: bool = False, owed: bool = False, patient: bool = False) -> Made:
        """Train, judge, and let what passed into the rollout.

        Args:
            at_once: what passed is used at once, on trial, not first in the shadow (``learning.rollout``).
            owed: something had to be deleted, so that there is no version to fall back to.
            patient: give way to whatever needs the machine (``learning.worker.process``).

        Raises:
            WorkerFailed: the worker did not answer; nothing is changed then.
        """
        known = self.ledger(profile)
        if not known.examples and not known.usage:
            if self.last_round(profile):
                with self.vault.change("put", False, profile=profile, count=0) as change:
                    change.delete(profile, CONSENT, "round", "00")
            return Made(0, "base", None)
        used = rollout.in_use(self.versions(profile))
        active = self.sealed(profile, used.number).data if used and not owed else b""
        number = self.counter(profile) + 1
        when = When(self.day, number)
        request = messages.Request(self.model, known, when, active, others(self, known), owed, wish=self._wish(profile))
        outcome = messages.read_answer(self.ask(request, patient=patient), request)
        if not outcome.verdict.passed:
            check, count = outcome.verdict.check, len(known.examples)
            with self.vault.change("adapter-refused", False, profile=profile, check=check, examples=count) as change:
                self._note_round(change, known, outcome)
            return Made(0, "base" if owed or used is None else used.state.value, outcome)
        return self._enter(known, outcome, number, at_once or owed)

    def _wish(self, profile: str) -> Wish | None:
        """Return what counts in a turn of this person's, with what others let everybody say."""
        wish = self.wishes(profile)
        if wish is None:
            return None
        used = ((self.used(other), names) for other, names in sharing.everybody(self).items() if other != profile)
        lent = ((adapter_file.decode(sealed.data), names) for sealed, names in used if sealed)
        return replace(wish, lent=tuple(lent))

    def round_owed(self, profile: str) -> Made:
        """Run a round after something was deleted, and make the carried model's adapter anew where it is owed.

        What was deleted stays deleted when the round fails: it is made up for later.
        """
        made = Made(0, "base", None)
        try:
            made = self.round(profile, owed=True)
        except LearningError as error:
            log.warning("no adapter is made of what is left yet: %s", error)
        self._rebuild_owed(profile)
        return made

    def _rebuild_owed(self, profile: str) -> None:
        """Make the adapter under the earlier model, which the bundle carries, anew where it is owed; log a failure."""
        try:
            self.rebuild(profile)
        except LearningError as error:
            log.warning("no adapter of the earlier model is made of what is left yet: %s", error)

    def weigh(self, profile: str) -> Verdict | None:
        """Return what admission says of the newest example, as the next round will; None without examples."""
        known = self.ledger(profile)
        return prepare(self.model, known)[1][-1] if known.examples else None

    def counter(self, profile: str) -> int:
        """Return the number of the newest version that there ever was."""
        raw = self.vault.get(profile, CONSENT, "counter", "00")
        return int(raw) if raw else 0

    def _note_round(self, change: Change, known: Ledger, outcome: rounds.Outcome) -> None:
        """Write down what this round looked at, and log the examples it left out that no earlier round had seen."""
        profile, before = known.profile, self.last_round(known.profile)
        seen = before.last if before else 0
        for example, verdict in zip(known.examples, outcome.admissions, strict=True):
            if example.sequence > seen and not verdict.admitted:
                fields: dict[str, int | str] = {
                    "profile": profile, "sequence": example.sequence, "check": verdict.check,
                }  # fmt: skip
                change.log("quarantined", fields, int(self.clock()))
        last = max((e.sequence for e in known.examples), default=0)
        now = LastRound(known.material(), self.model.digest, self.day, outcome.verdict.check, last)
        change.put(profile, CONSENT, "round", "00", json.dumps(asdict(now)).encode())

    def _enter(self, known: Ledger, outcome: rounds.Outcome, number: int, at_once: bool) -> Made:
        """Store what passed the gate, in one transaction: the signed version, the table, the audit entry.

        Where it is in use at once, the vault's keys are rotated with it.
        """
        profile = known.profile
        sealed = seal(self, known, outcome, number, self.model.digest)
        versions = rollout.enter(self.versions(profile), number, at_once=at_once)
        state = next(v.state for v in versions if v.number == number)
        fields = sealed.provenance.audited(state.value)
        with self.vault.change("adapter-made", state in rollout.IN_USE, **fields) as change:
            # The first version, or the first since all were deleted with their key.
            if ADAPTER not in change.shelf(profile).keys:
                change.add_key(profile, ADAPTER, "")
            change.put(profile, ADAPTER, "adapter", f"{number:08x}", sealed.encode(), self.encoder)
            change.put(profile, CONSENT, "counter", "00", str(number).encode())
            change.delete(profile, CONSENT, "retired", "00")
            store(self, change, profile, versions)
            self._note_round(change, known, outcome)
        return Made(number, state.value, outcome)

    def _owed(self, profile: str) -> bool:
        return carryover.owed(self, profile, recalled=profile in self.recalled)

    def rebuild(self, profile: str, *, patient: bool = False) -> bool:
        """Make a person's adapter under the carried model anew where it is owed; return whether it is in use now.

        It passes the gate of that model or is not used.

        Raises:
            WorkerFailed: the worker did not answer.
        """
        before = self.earlier
        if before is None or not self._owed(profile):
            return False
        rows, number = self.ledger(profile, of=before), self.counter(profile) + 1
        rest = others(self, rows, before)  # before the model is there: it takes some MiB of its own while it looks
        request = messages.Request(before.load(), rows, When(self.day, number), b"", rest, owed=True)
        outcome = messages.read_answer(self.ask(request, patient=patient), request)
        passed = outcome.verdict.passed
        versions = (rollout.Version(number, rollout.State.ACTIVE),) if passed else ()
        shelf = filled(self, profile, before.digest, versions)
        sealed = seal(self, rows, outcome, number, before.digest)
        refusal = {"profile": profile, "check": outcome.verdict.check, "examples": len(rows.examples)}
        kind, fields = ("adapter-made", sealed.provenance.audited("active")) if passed else ("adapter-refused", refusal)
        with self.vault.change(kind, False, **fields) as change:
            if ADAPTER not in change.shelf(profile).keys:
                change.add_key(profile, ADAPTER, "")
            change.put(profile, ADAPTER, "shelf", before.digest, shelf.encode())
            if passed:
                change.put(profile, ADAPTER, "adapter", f"{number:08x}", sealed.encode(), before.encoder)
                change.put(profile, CONSENT, "counter", "00", str(number).encode())
        return passed

    # -- upkeep -------------------------------------------------------------------------------------------------

    def test(self, profile: str, *, patient: bool = False) -> bool:
        """Self-test the version in use, keep the result, and take back one that is worse; return whether it was."""
        used = rollout.in_use(self.versions(profile))
        if used is None:
            return False
        sealed = self.sealed(profile, used.number)
        known, record = self.ledger(profile), sealed.provenance
        request = messages.Request(
            self.model, known, When(self.day), sealed.data, task="selftest", last=record.last,
            wish=self._wish(profile),
        )  # fmt: skip
        slices = messages.read_selftest(self.ask(request, patient=patient))
        worse = self_test.worse(slices)
        result = {
            "day": self.day,
            "adapter": used.number,
            "worse": worse,
            "slices": [list(asdict(s).values()) for s in slices],
        }
        own = [s for s in slices if s.name == self_test.UNSEEN]
        others = [s for s in slices if s.name == f"{self_test.GUARD}all"]
        fields: dict[str, int | str] = {
            "profile": profile, "adapter": used.number, "passed": int(not worse),
            "unseen": sum(s.total for s in own), "lost": sum(s.lost for s in own), "won": sum(s.won for s in own),
            "guard_lost": sum(s.lost for s in others), "guard_won": sum(s.won for s in others),
        }  # fmt: skip
        with self.vault.change("self-tested", False, **fields) as change:
            change.put(profile, ADAPTER, "selftest", "00", json.dumps(result).encode())
        if worse:
            move(self, profile, used.next(Signal.TROUBLE))
        return bool(worse)

    def refresh(self) -> int:
        """Make anew what was made from another bundle or from examples that are gone; return for how many people."""
        stale = 0
        for profile in self.vault.profiles():
            carryover.tidy(self, profile)
            why = self._stale(profile)
            stale += bool(why)
            if why == "expired":
                retire(self, profile, why)
            # ``turn`` brings this bundle's own table back where there is one; otherwise a round is owed.
            gone = why == "expired" or (bool(why) and not carryover.turn(self, profile, why))
            if gone or carryover.waiting(self, profile):
                self.round_owed(profile)
            else:
                self._rebuild_owed(profile)
        return stale

    def _stale(self, profile: str) -> str:
        if why := carryover.stale(self, profile):
            return why
        used = rollout.in_use(self.versions(profile))
        if used is None:
            return ""
        try:
            record = self.sealed(profile, used.number).provenance
        except LearningError:
            return ""  # nobody is heard with it, and what is left of it can be looked at
        kept = len(self.ledger(profile, last=record.last).examples)
        return "" if kept == record.examples else "expired"

    def expire(self, day: int) -> int:
        """Delete what nobody agreed to have kept beyond ``day``; return how many records were deleted.

        Adapters that were made from deleted examples, and those that nobody was heard with for long, are retired. What
        is left is due for a round then. What was kept while nobody knew the day is kept from today on.
        """
        self._date(max(day, self.day))
        gone = self.vault.sweep(day)
        for profile in self.vault.profiles() if gone else ():
            if why := self._stale(profile):
                retire(self, profile, why)
            carryover.tidy(self, profile)
            sharing.tidy(self, profile)
        for profile in self.unheard(day):
            retire(self, profile, "disuse")
        return gone

    def _date(self, day: int) -> None:
        """Give today's date to records that were made before the clock was known.

        A board without a battery clock starts in 1970; what is taught then would carry a last day in 1971, and be
        deleted at the first expiry after the clock is set.
        """
        if self.dated() and (found := self.undated()):
            with self.vault.change("put", False, count=len(found)) as change:
                for profile, purpose, kind, ident in found:
                    record = change.read(profile, (purpose, kind, ident))
                    last = day + RETENTION[purpose]
                    change.put(profile, purpose, kind, ident, record.payload, record.encoder, last)

    def unheard(self, day: int) -> list[str]:
        """Return the profiles whose adapter nobody was heard with for more than DISUSE_DAYS."""
        found = []
        for profile in self.vault.profiles():
            used = rollout.in_use(self.versions(profile))
            if used is not None and profile not in self.recalled:
                health = self.health(profile)
                last = health.day if health else self.made_on(profile, used.number)
                if last is not None and day - last > DISUSE_DAYS:
                    found.append(profile)
        return found

    def verify(self, profile: str, number: int) -> dict[str, object]:
        """Check a version: signed here, from this bundle, from exactly these examples with their consents, made alike.

        Returns:
            "checks" by name, "ok" when all hold, and what the version was made from.

        Raises:
            RequestError: 404, there is no such version.
            LearningError: its signature or binding does not fit.
        """
        sealed = self.sealed(profile, number)
        record = sealed.provenance
        of = self.earlier if self.earlier and record.bundle == self.earlier.digest else None
        model = of.load() if of else self.model
        known = self.ledger(profile, day=record.day, last=record.last, of=of)
        granted = self.consents.granted(profile)
        same = known.digest() == record.ledger
        remade = b""
        if same and record.bundle == model.digest:
            when = When(record.day, record.number)
            request = messages.Request(model, known, when, task="replay", step=record.step)
            remade = messages.read_replay(self.ask(request))
        checks = {
            "signed": True,
            "bundle": record.bundle == model.digest,
            "ledger": same,
            "consent": set(known.receipts()) == set(record.receipts) and set(record.receipts) <= granted,
            "replayed": remade == sealed.data,
        }
        return {"adapter": number, "ok": all(checks.values()), "checks": checks, "examples": record.examples,
                "receipts": list(record.receipts), "ledger": record.ledger, "digest": record.adapter}  # fmt: skip
