"""The event loop's side of everything personal: who is known, who speaks, what is learnt. All vault work goes to the
keys thread; what comes back is what the control API answers, and what inference listens for.

Nothing here outlives the vault: without keys there is nobody but guests, and every question is answered with why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from idiolect.consent import Consents
from idiolect.control.hub import Hub, StateChange
from idiolect.errors import LearningError, RequestError, TrustError
from idiolect.host import clock
from idiolect.host.files import read_capped, write_durably
from idiolect.host.worker import Worker
from idiolect.inference import Heard, Inference
from idiolect.keysthread import Keys
from idiolect.learner import Learner
from idiolect.learning import adapterfile, guard, rollout
from idiolect.learning.model import Model
from idiolect.pipeline.personal import Adapter, Household
from idiolect.pipeline.space import offset_windows
from idiolect.values import GUEST, Event

log = logging.getLogger(__name__)

FLUSH_S = 600.0
"""Counts of what was said are written this rarely: flash wears out."""
FOLLOWS_DAYS = 7
"""How far two looks at the calendar may lie apart to confirm each other."""
STATE_FILE = "personal.json"
T = TypeVar("T")


class Personal:
    """See the module. All methods belong to the event loop but ``heard``, which any thread may call."""

    def __init__(
        self, keys: Keys, inference: Inference, hub: Hub, model: Model | None, encoder: str,
        *, people: Mapping[str, Sequence[str]], state_dir: Path, names: Callable[[], str],
        listen: Callable[[Household | None, str, bool], None], synchronized: Callable[[], bool] = clock.synchronized,
    ) -> None:  # fmt: skip
        """``listen`` tells inference what to listen for: whose adapters, who is addressed, and whether for a "yes"."""
        self._keys, self._inference, self._hub, self._model = keys, inference, hub, model
        self._encoder, self._people, self._names, self._listen = encoder, people, names, listen
        self._synchronized = synchronized
        self._file = state_dir / STATE_FILE
        self.worker = Worker()
        self._learner: Learner | None = None
        self._household: Household | None = None
        self._asking = False
        self.active = GUEST
        self.paused_until: float | None = None
        self._seen_day: int | None = None
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
            day = state.get("day")
            self._seen_day = None if day is None else int(day)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("%s is damaged: nobody is addressed, and learning is paused until resumed", self._file.name)
            self.active, self.paused_until = GUEST, float("inf")

    def _save(self) -> None:
        state = {"profile": self.active, "paused_until": self.paused_until, "day": self._seen_day}
        try:
            write_durably(self._file, json.dumps(state).encode())
        except OSError as error:
            log.warning("%s cannot be written (%s): it will not survive a restart", self._file.name, error.strerror)

    @property
    def open(self) -> bool:
        """Whether the keys are here."""
        return self._learner is not None

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
            await self.reload()
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

    async def reload(self) -> None:
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
                await self.expire()
            except RequestError as error:
                log.warning("counts and expiry wait: %s", error)

    async def flush(self) -> None:
        """Write counts and let shadow and canary take the steps that they earned."""
        learner, counts, said = self._learner, self._counts, self._said
        if learner is None or not (counts or said):
            return
        self._counts, self._said = {}, []
        if await self._keys.ask(lambda: _count(learner, counts, said)):
            await self.reload()

    async def expire(self) -> None:
        """Delete what has expired, on the word of a synchronized clock that was a day earlier the day before.

        A clock that leaps for once deletes nothing: what it says is remembered, and counts if the next day follows.
        """
        if self._learner is None or not self._synchronized():
            return
        today = self._learner.day
        before, self._seen_day = self._seen_day, today
        if before == today:
            return
        self._save()
        if before is not None and 0 < today - before <= FOLLOWS_DAYS:
            gone = await self.changed(lambda learner: learner.expire(before))
            if gone:
                log.info("%d records expired and are deleted", gone)

    async def do(self, work: Callable[[Learner], T]) -> T:
        """Run something over the learner on the keys thread. ``RequestError`` 503 without keys."""
        learner = self._learner
        if learner is None:
            view = self._keys.view
            raise RequestError(503, "keys", f"nothing personal without keys: {view.detail}; {view.fix}")
        try:
            return await self._keys.ask(lambda: work(learner))
        except LearningError as error:
            raise RequestError(503, "learning", f"{error}; {error.fix}") from None

    async def changed(self, work: Callable[[Learner], T]) -> T:
        """The same, and bring into use what came of it, even for a caller who hangs up."""

        async def whole() -> T:
            result = await self.do(work)
            await self.reload()
            return result

        return await asyncio.shield(whole())

    def publish(self, what: Mapping[str, object]) -> None:
        """A change of state, for who follows events."""
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

    def uncount(self, event: Event) -> None:
        """Forget how often things were said since the last flush: one of them was something else."""
        self._counts.pop(event.detection.profile, None)

    async def _heard_yes(self) -> None:
        receipts = await self.changed(lambda learner: learner.consents.heard_yes())
        if receipts:
            self.ask(False)
            self.publish({"consent": {"state": "granted", "purposes": len(receipts)}})

    def ask(self, asking: bool) -> None:
        """Listen for a spoken "yes", or not any more."""
        if self._asking != asking:
            self._asking = asking
            self.relisten()

    # -- who speaks, and whether anything is learnt -------------------------------------------------------------

    def address(self, profile: str) -> None:
        """Take somebody to be the one who speaks, until somebody else is."""
        self.active = profile
        self._save()
        self.relisten()

    def pause(self, until: float | None) -> None:
        """Learn nothing until then (inf: until told to), or again from now on (None)."""
        self.paused_until = until
        self._save()
        self.publish({"learning": {"active": until is None}})


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
