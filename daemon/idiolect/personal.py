"""The event loop's side of everything personal: who is known, who speaks, what is learnt. All vault work goes to the
keys thread; what comes back is what the control API answers, and what inference listens for.

Nothing here outlives the vault: without keys there is nobody but guests, and every question is answered with why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from idiolect.consent import Consents, Person, clean_name
from idiolect.control.hub import Hub, StateChange
from idiolect.errors import LearningError, RequestError, TrustError
from idiolect.host.files import read_capped, write_durably
from idiolect.host.worker import Worker
from idiolect.inference import Heard, Inference
from idiolect.keysthread import Keys
from idiolect.learner import Learner
from idiolect.learning import adapterfile, guard, rollout
from idiolect.learning.model import Model
from idiolect.pipeline.personal import Adapter, Household
from idiolect.pipeline.space import offset_windows
from idiolect.rights import Rights, told
from idiolect.values import GUEST, Event

log = logging.getLogger(__name__)

FLUSH_S = 600.0
"""Counts of what was said are written this rarely: flash wears out."""
STATE_FILE = "personal.json"
PHRASE_LENGTH = 64
MAX_PHRASES = 100
T = TypeVar("T")


class Personal:
    """See the module. All methods belong to the event loop but ``heard``, which any thread may call."""

    def __init__(
        self, keys: Keys, inference: Inference, hub: Hub, model: Model | None, encoder: str,
        *, people: Mapping[str, Sequence[str]], state_dir: Path, names: Callable[[], str],
        listen: Callable[[Household | None, str, bool], None],
    ) -> None:  # fmt: skip
        """``listen`` tells inference what to listen for: whose adapters, who is addressed, and whether for a "yes"."""
        self._keys, self._inference, self._hub, self._model = keys, inference, hub, model
        self._encoder, self._people, self._names, self._listen = encoder, people, names, listen
        self._file = state_dir / STATE_FILE
        self.worker = Worker()
        self._learner: Learner | None = None
        self._household: Household | None = None
        self._asking = False
        self.active = GUEST
        self.paused_until: float | None = None
        self._counts: dict[str, dict[str, int]] = {}
        self._said: list[Heard] = []
        self._restore()

    # -- state --------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        try:
            state: dict[str, Any] = json.loads(read_capped(self._file, 1024))
            self.active = str(state["profile"])
            until = state["paused_until"]
            self.paused_until = None if until is None else float(until)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("%s is damaged: nobody is addressed, and learning is paused until resumed", self._file.name)
            self.active, self.paused_until = GUEST, float("inf")

    def _save(self) -> None:
        state = {"profile": self.active, "paused_until": self.paused_until}
        try:
            write_durably(self._file, json.dumps(state).encode())
        except OSError as error:
            log.warning("%s cannot be written (%s): it will not survive a restart", self._file.name, error.strerror)

    @property
    def learning(self) -> bool:
        """Whether anything may be learnt now."""
        return self.paused_until is None or time.time() >= self.paused_until

    def status(self) -> dict[str, object]:
        """For ``status``: ids and counts, no names."""
        if self._model is None:
            return {"state": "off", "detail": "the bundle has no statistics to learn with"}
        if self._learner is None:
            return {"state": "off", "detail": "the keys are not released: everybody gets the base model"}
        adapters = self._household.adapters if self._household else {}
        return {
            "state": "on" if self.learning else "paused",
            "paused_until": self.paused_until if not self.learning and self.paused_until != float("inf") else None,
            "profile": self.active,
            "adapters": {profile: adapter.number for profile, adapter in adapters.items()},
            "phrases": list(self._household.taught) if self._household else [],
        }

    async def opened(self) -> None:
        """The keys are here: bring everybody's adapters into use, made anew where they are stale."""
        if self._model is None or self._learner is not None:
            return
        try:
            self._learner = await self._keys.ask(self._open)
            await self._reload()
        except (LearningError, RequestError) as error:
            log.error("nothing is learnt or used of what was: %s", error)

    def _open(self) -> Learner:
        if self._model is None:
            raise LearningError("the bundle has no personal space", "install a bundle that has one")
        consents = Consents(self._keys.vault, self._people)
        learner = Learner(consents, self._model, self._encoder, self.worker)
        try:
            learner.refresh()
        except LearningError as error:
            log.warning("adapters are not made anew yet: %s", error)
        return learner

    async def _reload(self) -> None:
        """What is in use, into use."""
        learner = self._learner
        if learner is None or self._model is None:
            return
        adapters: list[Adapter] = await self._keys.ask(learner.household)
        self._household = Household(self._model.space, self._model.classes, adapters) if adapters else None
        if self.active != GUEST and self.active not in await self._keys.ask(learner.vault.profiles):
            self.active = GUEST
            self._save()
        self.relisten()

    def relisten(self) -> None:
        """Tell inference, after a change here or of the configuration."""
        self._listen(self._household, self.active, self._asking)

    async def tend(self) -> None:
        """Now and then: write what was counted, move versions along, drop what expired twice over."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except RequestError as error:
                log.warning("counts wait: %s", error)

    async def flush(self) -> None:
        """Write counts and let shadow and canary take the steps that they earned."""
        learner, counts, said = self._learner, self._counts, self._said
        if learner is None or not (counts or said):
            return
        self._counts, self._said = {}, []
        if await self._keys.ask(lambda: _count(learner, counts, said)):
            await self._reload()

    async def _do(self, work: Callable[[Learner], T]) -> T:
        """Run something over the learner on the keys thread."""
        learner = self._learner
        if learner is None:
            view = self._keys.view
            raise RequestError(503, "keys", f"nothing personal without keys: {view.detail}; {view.fix}")
        try:
            return await self._keys.ask(lambda: work(learner))
        except LearningError as error:
            raise RequestError(503, "learning", f"{error}; {error.fix}") from None

    async def _changed(self, work: Callable[[Learner], T]) -> T:
        """The same, and bring into use what came of it."""

        async def whole() -> T:
            result = await self._do(work)
            await self._reload()
            return result

        return await asyncio.shield(whole())  # a caller who hangs up changes nothing about it

    def _publish(self, what: Mapping[str, object]) -> None:
        self._hub.publish(StateChange(self._names(), time.time(), what))

    # -- what inference hears -----------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """An event, on the event loop."""
        detection = event.detection
        if self._asking and detection.phrase == "yes":
            asyncio.ensure_future(self._heard_yes())  # noqa: RUF006 - it ends by itself
        if detection.kind != "phrase" or detection.profile == GUEST or not self.learning:
            return
        said = self._counts.setdefault(detection.profile, {})
        said[detection.phrase] = said.get(detection.phrase, 0) + 1
        kept = self._inference.recent.look(event.id)
        if kept is not None and len(self._said) < 256:
            self._said.append(kept)

    async def _heard_yes(self) -> None:
        receipts = await self._changed(lambda learner: learner.consents.heard_yes())
        if receipts:
            self._ask(False)
            self._publish({"consent": {"state": "granted", "purposes": len(receipts)}})

    def _ask(self, asking: bool) -> None:
        if self._asking != asking:
            self._asking = asking
            self.relisten()

    # -- consent ------------------------------------------------------------------------------------------------

    async def people(self) -> dict[str, object]:
        """GET /v1/consent."""
        people = await self._do(lambda learner: learner.consents.people())
        rows = [
            {
                "profile": p.profile,
                "name": p.name,
                "purposes": {k: {"since": r.time, "how": r.how, "receipt": r.ident} for k, r in p.purposes.items()},
            }
            for p in people
        ]
        return {"people": rows, "active": self.active}

    async def ask_consent(self, name: object, purposes: Sequence[str], language: str) -> dict[str, object]:
        """POST /v1/consent: put the question."""
        pending = await self._do(lambda learner: learner.consents.begin(name, purposes, language))
        users = await self._do(lambda learner: learner.consents.users_of(pending.name))
        if not users:
            self._ask(True)
            asyncio.get_running_loop().call_later(31.0, self._ask, False)
        return {
            "token": pending.token,
            "profile": pending.profile,
            "notice": pending.notice,
            "purposes": list(pending.purposes),
            "how": "paired" if users else "spoken",
            "expires_s": 30,
        }

    async def agree(self, token: str, user: str, uid: int) -> dict[str, object]:
        """POST /v1/consent/agree: by a paired Unix user."""
        receipts = await self._changed(lambda learner: learner.consents.agree_paired(token, user, uid))
        return {"granted": [r.purpose for r in receipts], "receipts": [r.ident for r in receipts]}

    async def consent_state(self, token: str) -> dict[str, object]:
        """GET /v1/consent/wait: whether the question is still open."""
        pending = await self._do(lambda learner: learner.consents.waiting(token))
        return {"state": "open" if pending else "closed"}

    async def withdraw(self, name: object, purpose: str, user: str, uid: int) -> dict[str, object]:
        """POST /v1/consent/withdraw."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            _own(learner, person, user)
            count = learner.consents.withdraw(person, purpose, uid)
            made = learner.round(person.profile, owed=True)
            return {"deleted": count, **told(made)}

        self._inference.recent.clear()
        return await self._changed(work)

    async def erase(self, name: object, user: str, admin: bool) -> dict[str, object]:
        """POST /v1/erase."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            if not admin:
                _own(learner, person, user)
            return {"erased": learner.consents.erase(person.profile)}

        self._inference.recent.clear()
        return await self._changed(work)

    # -- who speaks, and whether anything is learnt -------------------------------------------------------------

    async def address(self, name: object) -> dict[str, object]:
        """POST /v1/profile: take somebody to be the one who speaks, until somebody else is."""
        if name == GUEST:
            self.active = GUEST
        else:
            self.active = (await self._do(lambda learner: learner.consents.find(name))).profile
        self._save()
        self.relisten()
        return {"active": self.active}

    async def pause(self, seconds: float | None, active: bool) -> dict[str, object]:
        """POST /v1/learning."""
        self.paused_until = None if active else (float("inf") if seconds is None else time.time() + seconds)
        self._save()
        if self._learner is not None:
            kind = "learning-resumed" if active else "learning-paused"
            fields: dict[str, int | str] = {} if active else {"seconds": int(seconds or 0)}
            await self._do(lambda learner: learner.vault.log(kind, **fields))
        self._publish({"learning": {"active": active}})
        return {"learning": self.status()}

    def _check_learning(self) -> None:
        if not self.learning:
            raise RequestError(409, "learning", "is paused: idiolect resume learning")

    # -- corrections --------------------------------------------------------------------------------------------

    async def correct(self, event: str, phrase: object, user: str) -> dict[str, object]:
        """POST /v1/correct: what was meant by an event of the last minutes."""
        self._check_learning()
        meant = clean_phrase(phrase)
        heard = self._take(event)
        understood = heard.event.detection.phrase

        def work(learner: Learner) -> dict[str, object]:
            profile = heard.event.detection.profile
            _own(learner, learner.consents.find(profile), user)
            known = self._known(learner, profile)
            if meant not in known:
                raise RequestError(
                    422, "phrase", "is not known: teach it with `idiolect enroll`, or see `idiolect status`"
                )
            session = f"{int(heard.event.time // 3600):x}"
            (number,) = learner.add(profile, "correction", meant, [heard.span[None]], session, understood)
            used = rollout.in_use(learner.versions(profile))
            back = used is not None and understood != meant and learner.move(profile, used.corrected())
            made = learner.round(profile)
            counts = made.outcome.admissions[-1] if made.outcome else None
            return {
                "example": number, "counts": bool(counts and counts.admitted), "why": counts.reason if counts else "",
                "rolled_back": back, **told(made),
            }  # fmt: skip

        self._counts.pop(heard.event.detection.profile, None)
        return await self._changed(work)

    async def confirm(self, event: str, user: str) -> dict[str, object]:
        """POST /v1/confirm: an event of the last minutes was understood as it was meant."""
        self._check_learning()
        heard = self._take(event)
        detection = heard.event.detection
        if detection.kind == "rejected":
            raise RequestError(422, "event", "was not understood: correct it instead")

        def work(learner: Learner) -> dict[str, object]:
            _own(learner, learner.consents.find(detection.profile), user)
            session = f"{int(heard.event.time // 3600):x}"
            spans = [heard.span[None]]
            (number,) = learner.add(detection.profile, "confirmation", detection.phrase, spans, session)
            made = learner.round(detection.profile)
            counts = made.outcome.admissions[-1] if made.outcome else None
            return {
                "example": number, "counts": bool(counts and counts.admitted), "why": counts.reason if counts else "",
                **told(made),
            }  # fmt: skip

        return await self._changed(work)

    def _take(self, event: str) -> Heard:
        heard = self._inference.recent.take(event)
        if heard is None:
            raise RequestError(404, "event", "is not in memory: only the last ten minutes are, and each only once")
        if heard.event.detection.profile == GUEST:
            raise RequestError(409, "event", "was a guest's, from whom nothing is learnt: idiolect profile NAME")
        return heard

    @staticmethod
    def _known(learner: Learner, profile: str) -> set[str]:
        taught = {e.phrase for e in learner.ledger(profile).examples if e.source == "enrolment"}
        return {*learner.model.phrases, *taught}

    # -- rights: each a person and a question -------------------------------------------------------------------

    async def _about(self, name: object, work: Callable[[Rights, Person], T], user: str) -> T:
        """Something about somebody, for who may ask."""

        def asked(learner: Learner) -> T:
            person = learner.consents.find(name)
            _own(learner, person, user)
            return work(Rights(learner), person)

        return await self._do(asked)

    async def see(self, what: str, name: object, adapter: int | None, user: str) -> dict[str, object]:
        """GET /v1/review, history, report, explain."""
        questions: dict[str, Callable[[Rights, Person], dict[str, object]]] = {
            "review": Rights.review,
            "history": Rights.history,
            "report": Rights.report,
            "explain": lambda rights, person: rights.explain(person, adapter),
        }
        return await self._about(name, questions[what], user)

    async def forget(self, name: object, what: Mapping[str, object], user: str) -> dict[str, object]:
        """POST /v1/forget."""
        self._inference.recent.clear()
        return await self._changed_about(name, lambda rights, person: rights.forget(person, what), user)

    async def export(self, name: object, passphrase: str, user: str) -> dict[str, object]:
        """POST /v1/export."""
        return await self._about(name, lambda rights, person: rights.export(person, passphrase), user)

    async def bring(self, name: object, document: Mapping[str, Any], passphrase: str, user: str) -> dict[str, object]:
        """POST /v1/import."""
        return await self._changed_about(name, lambda rights, person: rights.bring(person, document, passphrase), user)

    async def _changed_about(
        self, name: object, work: Callable[[Rights, Person], dict[str, object]], user: str
    ) -> dict[str, object]:
        async def whole() -> dict[str, object]:
            answer = await self._about(name, work, user)
            await self._reload()
            return answer

        return await asyncio.shield(whole())

    async def rollback(self, name: object, user: str = "") -> dict[str, object]:
        """POST /v1/rollback."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            _own(learner, person, user)
            return {"in_use": learner.rollback(person.profile)}

        return await self._changed(work)

    async def verify(self, name: object, number: int) -> dict[str, object]:
        """GET /v1/adapters/verify."""
        return await self._do(lambda learner: learner.verify(learner.consents.find(name).profile, number))

    async def may_teach(self, name: object, phrase: str, user: str) -> None:
        """Raise ``RequestError`` unless this person agreed to be taught from, and may have the phrase."""

        def work(learner: Learner) -> None:
            person = learner.consents.find(name)
            _own(learner, person, user)
            if "enrol" not in person.purposes:
                raise RequestError(
                    403, "profile", "has not agreed to enrol: idiolect consent grant NAME --purpose enrol"
                )
            if phrase in learner.model.wake_words:
                raise RequestError(422, "phrase", "is a wake word, which is the same for everybody: teach another")
            taught = {e.phrase for e in learner.ledger(person.profile).examples}
            if phrase not in taught and len(taught) >= MAX_PHRASES:
                raise RequestError(409, "phrase", f"{MAX_PHRASES} phrases are taught already: forget one first")

        await self._do(work)

    async def centres(self, name: object, phrase: str) -> list[np.ndarray]:
        """Where the person's other taught phrases lie, each (D,)."""

        def work(learner: Learner) -> list[np.ndarray]:
            known = learner.ledger(learner.consents.find(name).profile)
            rows: dict[str, list[np.ndarray]] = {}
            for example in known.examples:
                if example.phrase not in (phrase, *learner.model.phrases):
                    z = learner.model.space.features(offset_windows(example.spans[0]))
                    rows.setdefault(example.phrase, []).append(z.mean(0))
            return [np.mean(each, axis=0) for each in rows.values()]

        return await self._do(work)

    async def taught(self, name: object, phrase: str, spans: Sequence[np.ndarray]) -> dict[str, object]:
        """Keep what was enrolled, and use it at once; who taught is from now on taken to be the one who speaks."""

        def work(learner: Learner) -> dict[str, object]:
            person = learner.consents.find(name)
            session = secrets.token_hex(4)
            numbers = learner.add(person.profile, "enrolment", phrase, spans, session)
            made = learner.round(person.profile, at_once=True)
            return {"profile": person.profile, "examples": numbers, **told(made)}

        answer = await self._do(work)
        self.active = str(answer["profile"])
        self._save()
        await self._reload()
        return answer


def clean_phrase(phrase: object) -> str:
    """A phrase in its one form; ``RequestError`` 422 when it is none."""
    try:
        return clean_name(phrase).lower()
    except RequestError:
        raise RequestError(422, "phrase", f"must be text of 1 to {PHRASE_LENGTH} visible characters") from None


def _own(learner: Learner, person: Person, user: str) -> None:
    if not learner.consents.may_withdraw(person, user):
        raise RequestError(403, "profile", "is somebody else's: only that person's Unix user may ask")


def _count(learner: Learner, counts: dict[str, dict[str, int]], said: Sequence[Heard]) -> bool:
    """On the keys thread: usage, and one step for every version that is on trial. Whether what is in use changed."""
    learner.used(counts)
    changed = False
    for heard in said:
        profile = heard.event.detection.profile
        scored = learner.model.hear(offset_windows(heard.span)[None])
        base = guard.spoken(learner.model, None, scored)[0]
        for version in learner.versions(profile):
            if version.state in (rollout.State.SHADOW, rollout.State.CANARY):
                adapter = _adapter(learner, profile, version.number)
                answer = guard.spoken(learner.model, adapter, scored)[0] if adapter else ""
                understood = heard.event.detection.phrase
                drifted = bool(base) and answer != base and understood == base
                changed |= learner.move(profile, version.heard(agreed=answer == understood, drifted=drifted))
    return changed


def _adapter(learner: Learner, profile: str, number: int) -> Adapter | None:
    try:
        return adapterfile.decode(learner.sealed(profile, number).data)
    except (LearningError, TrustError):
        return None
