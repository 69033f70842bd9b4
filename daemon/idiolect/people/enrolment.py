"""Teaches a phrase, live: prompt, listen, judge, and again; then train at once.

Goes in: a person's name, a phrase, how many samples. Comes out: a new version of that person's adapter, and on the way
a state that whoever shows the enrolment asks for (`idiolect enroll`, the page); it is published as an event without the
phrase. One enrolment goes on at a time, as there is one microphone. The sound of takes is in RAM until the enrolment
ends, to be compared with the next ones, and is never written anywhere.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from idiolect.errors import IdiolectError, RequestError
from idiolect.events import EventStream, StateChange
from idiolect.host import prompt
from idiolect.learning.advice import Advice, Neighbour, advise
from idiolect.learning.ledger import Manner
from idiolect.learning.lesson import Lesson
from idiolect.learning.model import Model
from idiolect.listening.attempt import Reason, Taken
from idiolect.listening.inference import Inference
from idiolect.people.adapters import Adapters
from idiolect.people.people import People, clean_phrase

MOST_SAMPLES = 10
TRIES = 4
"""Attempts per sample, in the mean, before it is given up."""
SILENT_TRIES = 4
"""So many in a row in which nobody says anything, and nobody is there: meanwhile the device does nothing else."""
_ENDED = ("done", "failed", "cancelled")
PAUSE_S = 0.6
"""Between two prompts: long enough to breathe."""
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {"say": "Please say the phrase", "again": "Once more", "done": "Thank you"},
    "de": {"say": "Bitte sprechen Sie den Satz", "again": "Noch einmal", "done": "Danke"},
}


@dataclass(slots=True)
class State:
    """The state of an enrolment; ``reason`` is why the last attempt was refused, "" when it was not."""

    id: str
    profile: str
    wanted: int
    phrase: str = field(repr=False)
    state: str = "prompt"
    taken: int = 0
    attempts: int = 0
    reason: str = ""
    result: dict[str, object] = field(default_factory=dict)
    user: str = field(default="", repr=False)
    session: str = field(default="", repr=False)
    """``user``: the Unix user who began it; ``session``: the person of the browser's session in which it was begun."""
    takes: list[int] = field(default_factory=list)
    keepable: bool = False
    advice: list[Advice] = field(default_factory=list)

    def of(self, user: str, session: str) -> bool:
        """Return whether the asker is who began it, or the person taught when asked from a browser's session."""
        return session == self.profile if session else not self.session and user == self.user

    def public(self, *, named: bool = False) -> dict[str, object]:
        """Return what observers may know; the advice names phrases only where they may be ``named``."""
        return {
            "id": self.id, "state": self.state, "taken": self.taken, "wanted": self.wanted,
            "attempts": self.attempts, "reason": self.reason, "takes": list(self.takes), "keepable": self.keepable,
            "advice": [each.told(named) for each in self.advice],
        }  # fmt: skip


class Enrolment:
    """Runs one enrolment at a time. All methods belong to the event loop."""

    def __init__(
        self, personal: Adapters, people: People, inference: Inference, hub: EventStream, model: Model | None, *,
        names: Callable[[], str], ready: Callable[[], str], listened: Callable[[], Collection[str]] = tuple,
    ) -> None:  # fmt: skip
        """Take the parts it works with.

        Args:
            model: None when the bundle cannot learn.
            names: makes ids of events.
            ready: says why nobody can be heard now, "" when all is well.
            listened: the model's phrases that are listened for, which advice compares with.
        """
        self._personal, self._people, self._inference, self._hub = personal, people, inference, hub
        self._model, self._names, self._ready, self._listened = model, names, ready, listened
        self._state: State | None = None
        self._task: asyncio.Task[None] | None = None
        self._beginning = False
        self._lesson: Lesson | None = None
        self._waiting: asyncio.Future[Taken | Reason | None] | None = None
        self._neighbours: list[Neighbour] = []

    async def start(
        self, name: object, phrase: object, samples: int, speak: str, user: str, *, session: str = ""
    ) -> dict[str, object]:
        """Begin an enrolment (POST /v1/enrol).

        Args:
            samples: takes wanted, 1 to MOST_SAMPLES.
            speak: the language in which to prompt aloud, "" for silence.

        Raises:
            RequestError: nothing can be taught now, or not by this person, or not this phrase.
        """
        if self._beginning or (self._task is not None and not self._task.done()):
            raise RequestError(
                409, "enrol", "somebody is teaching a phrase already: wait, or `idiolect enroll --cancel`"
            )
        if self._model is None:
            raise self._personal.closed()
        if not self._personal.learning:
            raise RequestError(409, "learning", "is paused: idiolect resume learning")
        if self._inference.playing:
            raise RequestError(409, "playback", "is on, and nothing is learnt meanwhile: idiolect playback off")
        if why := self._ready():
            raise RequestError(409, "microphone", why)
        if not 1 <= samples <= MOST_SAMPLES:
            raise RequestError(422, "samples", f"must be from 1 to {MOST_SAMPLES}")
        if speak and speak not in WORDS:
            raise RequestError(422, "speak", f"must be one of {', '.join(WORDS)}")
        text = clean_phrase(phrase)
        self._beginning = True  # two may ask at once
        try:
            profile = await self._people.may_teach(name, text, user)
        finally:
            self._beginning = False
        self._state = State(secrets.token_hex(4), profile, samples, text, user=user, session=session)
        self._lesson = None
        self._task = asyncio.create_task(self._run(self._state, speak))
        return self._state.public()

    def state(self, user: str = "", session: str = "") -> dict[str, object]:
        """Return where the enrolment stands, with the level at the microphone for a meter (GET /v1/enrol).

        Raises:
            RequestError: 404, there was none since the start.
        """
        if self._state is None:
            raise RequestError(404, "enrol", "nobody is teaching a phrase: idiolect enroll NAME PHRASE")
        level = round(self._inference.level_dbfs, 1)
        named = self._state.of(user, session)
        return {**self._state.public(named=named), "level_dbfs": level, "result": self._state.result}

    def cancel(self) -> dict[str, object]:
        """End the enrolment and keep nothing of it (DELETE /v1/enrol).

        Raises:
            RequestError: 409, none goes on, or it is learnt from already.
        """
        if self._task is None or self._task.done() or self._state is None:
            raise RequestError(409, "enrol", "nobody is teaching a phrase")
        if self._state.state == "training":
            raise _too_late()
        self._inference.attempt(None)
        self._task.cancel()
        self._state.keepable = False
        self._move(self._state, "cancelled")
        return self._state.public()

    async def take_back(self, number: int, ident: str, user: str, session: str) -> dict[str, object]:
        """Count a take no more, and ask for another in its place (POST /v1/enrol/take-back).

        Raises:
            RequestError: 404, there is no such take; else as ``_open``.
        """
        state, lesson = self._open(ident, user, session)
        if not lesson.take_back(number):
            there = ", ".join(map(str, state.takes)) or "none"
            raise RequestError(404, "take", f"no take has this number; there are: {there}")
        await self._changed(state, lesson)
        return state.public(named=True)

    async def keep(self, ident: str, user: str, session: str) -> dict[str, object]:
        """Count the take that was just refused, as its speaker says that it is right (POST /v1/enrol/keep).

        Raises:
            RequestError: 409, the last take was not refused in a way that allows this; else as ``_open``.
        """
        state, lesson = self._open(ident, user, session)
        costs = lesson.keep()
        if not costs:
            raise RequestError(
                409, "take", "only a take that was just refused as unlike the others, or as too close, can be kept"
            )
        if self._waiting is not None and len(lesson.takes) >= state.wanted:
            self._inference.attempt(None)
            _settle(self._waiting, None)
        await self._changed(state, lesson)
        return {**state.public(named=True), "costs": costs}

    def _open(self, ident: str, user: str, session: str) -> tuple[State, Lesson]:
        """Return the enrolment whose takes are to be changed.

        Raises:
            RequestError: 409, none goes on, another does, or it is learnt from already; 403, somebody else began it.
        """
        state, lesson = self._state, self._lesson
        if state is None or lesson is None or self._task is None or self._task.done():
            raise RequestError(409, "enrol", "nobody is teaching a phrase")
        if not state.of(user, session):
            raise RequestError(403, "profile", "somebody else is teaching: who began it may change its takes")
        if ident and ident != state.id:
            raise RequestError(409, "id", "is of another enrolment than the one that goes on now")
        if state.state == "training":
            raise _too_late()
        return state, lesson

    async def _changed(self, state: State, lesson: Lesson) -> None:
        """Update the state after a take was added or taken back, and advise on the takes there are now."""
        state.taken, state.takes = len(lesson.takes), [each.number for each in lesson.takes]
        state.keepable = lesson.keepable
        takes, listened = lesson.advised_on, set(self._listened()) - {state.phrase}
        if self._model is not None:
            advice = await asyncio.to_thread(advise, self._model, takes, self._neighbours, listened)
            if takes == lesson.advised_on:  # else whoever changed them advises
                state.advice = advice
        if self._state is state and state.state not in _ENDED:
            self._move(state, state.state, state.reason)

    def _move(self, state: State, to: str, reason: str = "") -> None:
        state.state, state.reason = to, reason
        self._hub.publish(StateChange(self._names(), time.time(), {"enrolment": state.public()}))

    async def _run(self, state: State, speak: str) -> None:
        try:
            lesson = await self._collect(state, speak)
            if lesson is None:
                return
            state.keepable = False
            self._move(state, "training")
            taken = [each.taken for each in lesson.takes]
            spans = [each.span[None] for each in taken]
            said = [Manner(each.length, each.clear, each.whole) for each in taken]
            state.result = await self._people.taught(state.profile, state.phrase, spans, said)
            used = bool(state.result.get("adapter"))
            self._move(state, "done", "" if used else str(_gate(state.result).get("reason", "")))
            if speak:
                await asyncio.to_thread(prompt.say, WORDS[speak]["done"], speak)
        except IdiolectError as error:
            self._move(state, "failed", str(error))
        finally:
            self._inference.attempt(None)
            self._lesson, self._neighbours = None, []  # with the sound of the takes
            state.keepable = False

    async def _collect(self, state: State, speak: str) -> Lesson | None:
        """Return good samples, as many as wanted; None when it is given up."""
        if self._model is None:
            return None
        others = await self._people.takes(state.profile, state.phrase)
        self._neighbours = await self._people.neighbours(state.profile, state.phrase)
        lesson, silent = Lesson(self._model.standard, others), 0
        self._lesson = lesson
        while len(lesson.takes) < state.wanted:
            if state.attempts >= TRIES * state.wanted or silent >= SILENT_TRIES:
                self._move(state, "failed", f"given up after {state.attempts} attempts: {state.reason}")
                return None
            await self._people.may_go_on(state.profile)
            state.attempts += 1
            if speak:
                self._move(state, "speaking", state.reason)
                await asyncio.to_thread(prompt.say, WORDS[speak]["again" if lesson.takes else "say"], speak)
                if len(lesson.takes) >= state.wanted:  # one was kept on request meanwhile
                    continue
            self._move(state, "listening", state.reason)
            outcome = await self._attempt()
            if outcome is None:
                continue
            silent = silent + 1 if outcome is Reason.SILENCE else 0
            refused = lesson.hear(outcome, state.attempts)
            state.state, state.reason = ("refused", refused.value) if refused else ("taken", "")
            await self._changed(state, lesson)
            await asyncio.sleep(PAUSE_S)
        return lesson

    async def _attempt(self) -> Taken | Reason | None:
        """Return the next utterance, or why it is refused; None when no more is wanted."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Taken | Reason | None] = loop.create_future()
        self._waiting = future

        def done(outcome: Taken | Reason) -> None:
            loop.call_soon_threadsafe(_settle, future, outcome)

        self._inference.attempt(done)
        try:
            return await asyncio.wait_for(future, 30.0)
        except TimeoutError:
            return Reason.SILENCE  # the microphone went away meanwhile
        finally:
            self._waiting = None


def _too_late() -> RequestError:
    again = "forget the phrase (idiolect forget NAME --phrase PHRASE), and teach it again"
    return RequestError(409, "take", f"all takes are learnt from already: {again}")


def _settle(future: asyncio.Future[Taken | Reason | None], outcome: Taken | Reason | None) -> None:
    if not future.done():
        future.set_result(outcome)


def _gate(result: Mapping[str, object]) -> Mapping[str, object]:
    gate = result.get("gate")
    return gate if isinstance(gate, Mapping) else {}
