"""Answers what people ask about themselves: consent, teaching, corrections, and their rights over what is kept.

Each method answers a request of the control API, or raises ``RequestError`` for who may not ask it and for what cannot
be done. The vault's work runs on the keys thread (``Adapters.do``); what came of it is in use with the answer.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from idiolect.errors import RequestError
from idiolect.learning import aligning
from idiolect.learning.advice import Neighbour
from idiolect.learning.ledger import Manner, Source
from idiolect.listening.inference import Heard, Inference
from idiolect.people import feedback, refusals, sharing
from idiolect.people.adapters import Adapters
from idiolect.people.consent import HOUSEHOLD, Consents, Pending, Person
from idiolect.people.learner import Learner, Made
from idiolect.people.review import Rights, in_use, told
from idiolect.people.versions import rollback
from idiolect.trust.bundle.lacking import YES
from idiolect.values import GUEST, NAME_LENGTH, NOBODY, name_key, visible_text

MAX_PHRASES = 100
T = TypeVar("T")


class People:
    """The requests about people, one method each. All methods belong to the event loop."""

    def __init__(self, personal: Adapters, inference: Inference) -> None:
        self._personal, self._inference = personal, inference

    # -- consent ------------------------------------------------------------------------------------------------

    async def people(self) -> dict[str, object]:
        """Return everybody, what they agreed to, and what everybody may say (GET /v1/consent)."""
        people = await self._personal.keep(lambda consents: consents.people())
        rows = [
            {
                "profile": p.profile,
                "name": p.name,
                "purposes": {k: {"since": r.time, "how": r.how, "receipt": r.ident} for k, r in p.purposes.items()},
                **self._personal.voice(p.profile),
            }
            for p in people
        ]
        return {"people": rows, "active": self._personal.active, "household": list(self._personal.shared)}

    async def share(self, name: object, phrase: object, wanted: bool, user: str) -> dict[str, object]:
        """Let everybody say a phrase of somebody's, or nobody else any more (POST /v1/share)."""
        said = clean_phrase(phrase)

        def work(rights: Rights, person: Person) -> dict[str, object]:
            return {"profile": person.profile, "shared": rights.share(person, said, wanted)}

        return await self._changed_about(name, work, user)

    async def ask_consent(self, name: object, purposes: Sequence[str], language: str) -> dict[str, object]:
        """Put the question whether somebody agrees, and listen for a "yes" if it is to be said (POST /v1/consent)."""

        def work(learner: Learner) -> tuple[Pending, bool]:
            paired = bool(learner.consents.users_of(learner.consents.meant(name)[0]))
            if not paired and YES not in learner.model.phrases:
                raise refusals.no_yes()
            return learner.consents.begin(name, purposes, language), paired

        pending, paired = await self._personal.do(work)
        if not paired:
            self._personal.ask(True)
            asyncio.get_running_loop().call_later(31.0, self._personal.ask, False)
        return {
            "token": pending.token,
            "profile": pending.profile,
            "notice": pending.notice,
            "purposes": list(pending.purposes),
            "how": "paired" if paired else "spoken",
            "expires_s": 30,
        }

    async def agree(self, token: str, user: str, uid: int) -> dict[str, object]:
        """Settle a question for the Unix user who is paired with the person (POST /v1/consent/agree)."""
        receipts = await self._personal.changed(lambda learner: learner.consents.agree_paired(token, user, uid))
        return {"granted": [r.purpose for r in receipts], "receipts": [r.ident for r in receipts]}

    async def consent_state(self, token: str) -> dict[str, object]:
        """Return whether the question is still open (GET /v1/consent/wait)."""
        pending = await self._personal.do(lambda learner: learner.consents.waiting(token))
        return {"state": "open" if pending else "closed"}

    async def withdraw(self, name: object, purpose: str, user: str, uid: int) -> dict[str, object]:
        """Delete what a purpose collected, and make an adapter of what is left (POST /v1/consent/withdraw)."""

        def work(consents: Consents) -> tuple[int, str]:
            person = consents.find(name)
            _own(consents, person, user)
            return consents.withdraw(person, purpose, uid), person.profile

        def made_up_for(learner: Learner) -> dict[str, object]:
            count, profile = work(learner.consents)
            made = learner.round_owed(profile) if purpose != HOUSEHOLD else Made(0, "base", None)
            return {"deleted": count, **told(made), **in_use(learner, profile)}

        if self._personal.able:
            return await self._forgetting(self._personal.changed(made_up_for))
        count, _ = await self._forgetting(self._personal.keep(work))
        return {"deleted": count, **told(Made(0, "base", None))}

    async def erase(self, name: object, user: str, admin: bool) -> dict[str, object]:
        """Delete a person altogether; an administrator may ask it for anybody (POST /v1/erase)."""

        def work(consents: Consents) -> dict[str, object]:
            person = consents.find(name)
            if not admin:
                _own(consents, person, user)
            return {"erased": consents.erase(person.profile)}

        if self._personal.able:
            return await self._forgetting(self._personal.changed(lambda learner: work(learner.consents)))
        answer = await self._forgetting(self._personal.keep(work))
        await self._personal.unaddress()
        return answer

    async def _forgetting(self, work: Awaitable[T]) -> T:
        """Return the outcome of ``work``; what was heard of anybody is forgotten with it, unless it was refused."""
        try:
            done = await work
        except RequestError:
            raise
        except BaseException:  # whoever asked hung up: it is done all the same
            self._inference.forget()
            raise
        self._inference.forget()
        return done

    # -- who speaks, and whether anything is learnt -------------------------------------------------------------

    async def address(self, name: object) -> dict[str, object]:
        """Take somebody to be the one who speaks, until somebody else is (POST /v1/profile)."""
        nobody = isinstance(name, str) and name_key(name) in NOBODY
        profile = GUEST if nobody else (await self._personal.do(lambda x: x.consents.find(name))).profile
        self._personal.address(profile)
        return {"active": profile}

    async def pause(self, seconds: float | None, active: bool) -> dict[str, object]:
        """Stop learning, for ``seconds`` or until told to go on (None), or go on with it (POST /v1/learning)."""
        until = None if active else (float("inf") if seconds is None else time.time() + seconds)
        self._personal.pause(until)
        if self._personal.open:
            kind = "learning-resumed" if active else "learning-paused"
            fields: dict[str, int | str] = {} if active else {"seconds": int(seconds or 0)}
            await self._personal.do(lambda learner: learner.vault.log(kind, **fields))
        return {"learning": self._personal.status()}

    def _check_learning(self) -> None:
        if not self._personal.learning:
            raise RequestError(409, "learning", "is paused: idiolect resume learning")

    # -- corrections --------------------------------------------------------------------------------------------

    async def correct(self, event: str, phrase: object, user: str) -> dict[str, object]:
        """Learn that an event of the last minutes was meant as another phrase (POST /v1/correct)."""
        self._check_learning()
        meant = clean_phrase(phrase)
        heard = self._look(event)
        understood, earlier = heard.event.detection.phrase, self._personal.of_earlier(heard.event.detection)
        if self._personal.lent(heard.event.detection):  # which says nothing of this person's own versions
            understood, earlier = "", True

        def work(learner: Learner) -> dict[str, object]:
            profile = heard.event.detection.profile
            _own(learner.consents, learner.consents.by_profile(profile), user)
            known = self._known(learner, profile)
            if meant not in known:
                raise RequestError(
                    422, "phrase", "is not known: teach it with `idiolect enroll`, or see `idiolect status`"
                )
            number = self._learn_of(learner, heard, "correction", meant, understood)
            said = feedback.Said(profile, understood, heard.span, meant)
            back = not earlier and feedback.corrected(learner, said)
            return {**_kept(learner, profile, number), "rolled_back": back}

        answer = await self._personal.changed(work)
        self._personal.uncount(heard)
        return answer

    async def confirm(self, event: str, user: str) -> dict[str, object]:
        """Learn that an event of the last minutes was understood as it was meant (POST /v1/confirm)."""
        self._check_learning()
        heard = self._look(event)
        detection = heard.event.detection
        if self._personal.lent(detection):
            raise RequestError(409, "event", "is of a phrase that somebody else taught: teach it, too, as you say it")
        if detection.kind == "rejected":
            raise RequestError(422, "event", "was not understood: correct it instead")

        def work(learner: Learner) -> dict[str, object]:
            _own(learner.consents, learner.consents.by_profile(detection.profile), user)
            number = self._learn_of(learner, heard, "confirmation", detection.phrase)
            return _kept(learner, detection.profile, number)

        return await self._personal.changed(work)

    def _look(self, event: str) -> Heard:
        """Return an event that may be learnt from; it is used up only when something is (``_learn_of``)."""
        heard = self._inference.recent.look(event)
        if heard is None:
            raise _used_up()
        if heard.played:
            raise RequestError(409, "playback", "was on then: nothing is learnt of what was heard meanwhile")
        if heard.event.detection.profile == GUEST:
            raise RequestError(409, "event", "was a guest's, from whom nothing is learnt: idiolect profile NAME")
        return heard

    def _learn_of(self, learner: Learner, heard: Heard, source: Source, phrase: str, understood: str = "") -> int:
        """Keep an event as an example and return its number. That uses the event up: nothing is learnt from twice."""
        event, recent = heard.event, self._inference.recent
        if recent.look(event.id) is None:  # somebody was faster
            raise _used_up()
        session = f"{int(event.time // 3600):x}"
        (number,) = learner.add(event.detection.profile, source, phrase, [heard.span[None]], session, understood)
        recent.take(event.id)
        return number

    @staticmethod
    def _known(learner: Learner, profile: str) -> set[str]:
        taught = {e.phrase for e in learner.ledger(profile).examples if e.source == "enrolment"}
        return {*learner.model.phrases, *taught}

    # -- rights: each a person and a question -------------------------------------------------------------------

    async def _about(self, name: object, work: Callable[[Rights, Person], T], user: str) -> T:
        """Ask something about somebody, for the Unix user who may."""

        def asked(learner: Learner) -> T:
            person = learner.consents.find(name)
            _own(learner.consents, person, user)
            return work(Rights(learner), person)

        return await self._personal.do(asked)

    async def see(self, what: str, name: object, adapter: int | None, user: str) -> dict[str, object]:
        """Return what ``what`` names of a person (GET /v1/review, history, report, explain)."""
        questions: dict[str, Callable[[Rights, Person], dict[str, object]]] = {
            "review": Rights.review,
            "history": Rights.history,
            "report": Rights.report,
            "explain": lambda rights, person: rights.explain(person, adapter),
        }
        return await self._about(name, questions[what], user)

    async def forget(self, name: object, what: Mapping[str, object], user: str) -> dict[str, object]:
        """Delete examples, or everything, of a person (POST /v1/forget)."""
        work = self._changed_about(name, lambda rights, person: rights.forget(person, what), user)
        return await self._forgetting(work)

    async def export(self, name: object, passphrase: str, user: str) -> dict[str, object]:
        """Return a person's own copy of what is kept, sealed where there is a passphrase (POST /v1/export)."""
        return await self._about(name, lambda rights, person: rights.export(person, passphrase), user)

    async def bring(self, name: object, document: Mapping[str, Any], passphrase: str, user: str) -> dict[str, object]:
        """Take over the examples of an export (POST /v1/import)."""
        return await self._changed_about(name, lambda rights, person: rights.bring(person, document, passphrase), user)

    async def _changed_about(
        self, name: object, work: Callable[[Rights, Person], dict[str, object]], user: str
    ) -> dict[str, object]:
        def asked(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            _own(learner.consents, person, user)
            return work(Rights(learner), person)

        return await self._personal.changed(asked)

    async def rollback(self, name: object, user: str = "") -> dict[str, object]:
        """Take back the version in use (POST /v1/rollback)."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            _own(learner.consents, person, user)
            return {"in_use": rollback(learner, person.profile)}

        return await self._personal.changed(work)

    async def verify(self, name: object, number: int, user: str) -> dict[str, object]:
        """Check a version and return what was found (GET /v1/adapters/verify)."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            _own(learner.consents, person, user)
            return learner.verify(person.profile, number)

        return await self._personal.do(work)

    async def may_teach(self, name: object, phrase: str, user: str) -> str:
        """Return the id of this person; ``RequestError`` unless they agreed to enrol, and may have the phrase."""

        def work(learner: Learner) -> str:
            person = learner.consents.find(name)
            _own(learner.consents, person, user)
            _agreed_to_enrol(person)
            if phrase in learner.model.wake_words:
                raise RequestError(422, "phrase", "is a wake word, which is the same for everybody: teach another")
            if phrase in learner.model.classes and phrase not in learner.model.phrases:
                raise RequestError(422, "phrase", "is a word that the model uses for itself: choose another")
            taught = {e.phrase for e in learner.ledger(person.profile).examples}
            if phrase not in taught and len(taught) >= MAX_PHRASES:
                raise RequestError(
                    409, "phrase", f"{MAX_PHRASES} are taught already: idiolect forget NAME --phrase PHRASE frees one"
                )
            return person.profile

        return await self._personal.do(work)

    async def may_go_on(self, profile: str) -> None:
        """Raise ``RequestError`` when the person being taught from has withdrawn that meanwhile, or is erased."""
        await self._personal.do(lambda learner: _agreed_to_enrol(learner.consents.by_profile(profile)))

    async def takes(self, profile: str, phrase: str) -> list[list[np.ndarray]]:
        """Return the newest takes of each of the person's other phrases, as they are aligned."""

        def work(learner: Learner) -> list[list[np.ndarray]]:
            known = learner.ledger(learner.consents.by_profile(profile).profile)
            return aligning.takes_beside(learner.model, known.examples, phrase)

        return await self._personal.do(work)

    async def neighbours(self, profile: str, phrase: str) -> list[Neighbour]:
        """Return everybody's other phrases with their takes, named only where this person may see the name."""

        def work(learner: Learner) -> list[Neighbour]:
            shared, found = sharing.everybody(learner), []
            for each in learner.vault.profiles():
                known = aligning.takes_by_phrase(learner.model, learner.ledger(each).examples, phrase)
                named = known if each == profile else shared.get(each, frozenset())
                found += [Neighbour(name if name in named else "", takes) for name, takes in known.items()]
            return found

        return await self._personal.do(work)

    async def taught(
        self, profile: str, phrase: str, spans: Sequence[np.ndarray], said: Sequence[Manner] = ()
    ) -> dict[str, object]:
        """Keep what was enrolled, and use it at once; who taught is from now on taken to be the one who speaks."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.by_profile(profile)
            session = secrets.token_hex(4)
            numbers = learner.add(person.profile, "enrolment", phrase, spans, session, said=said)
            made = learner.round(person.profile, at_once=True)
            return {"profile": person.profile, "examples": numbers, **told(made)}

        answer = await self._personal.changed(work)
        self._personal.address(str(answer["profile"]))
        return answer


def _used_up() -> RequestError:
    return RequestError(404, "event", "is not in memory: only the last ten minutes are, and each only once")


def _kept(learner: Learner, profile: str, number: int) -> dict[str, object]:
    """Return whether an example that came by the way will count, what is in use meanwhile, and when it is learnt."""
    verdict = learner.weigh(profile)
    counts = verdict is not None and verdict.admitted
    return {
        "example": number,
        "counts": counts,
        "why": verdict.reason if verdict and not counts else "",
        **in_use(learner, profile),
        "learnt": "in the next idle window",
    }


def clean_phrase(phrase: object) -> str:
    """Return a phrase in its one form; raise ``RequestError`` 422 when it is none."""
    try:
        return visible_text(phrase if isinstance(phrase, str) else "").lower()
    except ValueError:
        raise RequestError(422, "phrase", f"must be text of 1 to {NAME_LENGTH} visible characters") from None


def _agreed_to_enrol(person: Person) -> None:
    if "enrol" not in person.purposes:
        raise RequestError(403, "profile", "has not agreed to enrol: idiolect consent grant NAME --purpose enrol")


def _own(consents: Consents, person: Person, user: str) -> None:
    if not consents.may_withdraw(person, user):
        raise RequestError(403, "profile", "is somebody else's: only that person's Unix user may ask")
