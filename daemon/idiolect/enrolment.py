"""Teaching a phrase, live: prompt, listen, judge, again; then train at once. One at a time, as there is one microphone.

The state is asked for by whoever shows it (`idiolect enroll`, the page) and published without the phrase. Sound is in
RAM for the length of an attempt, and gone with it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idiolect.control.hub import Hub, StateChange
from idiolect.errors import IdiolectError, RequestError
from idiolect.host import prompt
from idiolect.inference import Inference
from idiolect.learning import aligning
from idiolect.learning.attempt import Reason, Taken, repeated
from idiolect.learning.model import Model
from idiolect.people import People, clean_phrase
from idiolect.personal import Personal

MOST_SAMPLES = 10
TRIES = 4
"""Attempts per sample, in the mean, before it is given up."""
PAUSE_S = 0.6
"""Between two prompts: long enough to breathe."""
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {"say": "Please say the phrase", "again": "Once more", "done": "Thank you"},
    "de": {"say": "Bitte sprechen Sie den Satz", "again": "Noch einmal", "done": "Danke"},
}


@dataclass(slots=True)
class State:
    """Where an enrolment stands; ``reason`` is why the last attempt was refused."""

    id: str
    profile: str
    wanted: int
    phrase: str = field(repr=False)
    state: str = "prompt"
    taken: int = 0
    attempts: int = 0
    reason: str = ""
    result: dict[str, object] = field(default_factory=dict)

    def public(self) -> dict[str, object]:
        """What observers may know."""
        return {
            "id": self.id, "state": self.state, "taken": self.taken, "wanted": self.wanted,
            "attempts": self.attempts, "reason": self.reason,
        }  # fmt: skip


class Enrolment:
    """See the module. Belongs to the event loop."""

    def __init__(
        self, personal: Personal, people: People, inference: Inference, hub: Hub, model: Model | None, *,
        names: Callable[[], str], ready: Callable[[], str],
    ) -> None:  # fmt: skip
        """``ready`` says why nobody can be heard now, "" when all is well."""
        self._personal, self._people, self._inference, self._hub = personal, people, inference, hub
        self._model, self._names, self._ready = model, names, ready
        self._state: State | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, name: object, phrase: object, samples: int, speak: str, user: str) -> dict[str, object]:
        """POST /v1/enrol: begin; ``speak`` is a language in which to prompt aloud, "" for silence."""
        if self._task is not None and not self._task.done():
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
        profile = await self._people.may_teach(name, text, user)
        self._state = State(secrets.token_hex(4), profile, samples, text)
        self._task = asyncio.create_task(self._run(self._state, speak))
        return self._state.public()

    def state(self) -> dict[str, object]:
        """GET /v1/enrol: where it stands, with the level at the microphone for a meter."""
        if self._state is None:
            raise RequestError(404, "enrol", "nobody is teaching a phrase: idiolect enroll NAME PHRASE")
        level = round(self._inference.level_dbfs, 1)
        return {**self._state.public(), "level_dbfs": level, "result": self._state.result}

    def cancel(self) -> dict[str, object]:
        """DELETE /v1/enrol: nothing is kept of it."""
        if self._task is None or self._task.done() or self._state is None:
            raise RequestError(409, "enrol", "nobody is teaching a phrase")
        self._inference.attempt(None)
        self._task.cancel()
        self._move(self._state, "cancelled")
        return self._state.public()

    def _move(self, state: State, to: str, reason: str = "") -> None:
        state.state, state.reason = to, reason
        self._hub.publish(StateChange(self._names(), time.time(), {"enrolment": state.public()}))

    async def _run(self, state: State, speak: str) -> None:
        try:
            taken = await self._collect(state, speak)
            if taken is None:
                return
            self._move(state, "training")
            spans, lengths = [each.span[None] for each in taken], [each.length for each in taken]
            state.result = await self._people.taught(state.profile, state.phrase, spans, lengths)
            used = bool(state.result.get("adapter"))
            self._move(state, "done", "" if used else str(_gate(state.result).get("reason", "")))
            if speak:
                await asyncio.to_thread(prompt.say, WORDS[speak]["done"], speak)
        except IdiolectError as error:
            self._move(state, "failed", str(error))
        finally:
            self._inference.attempt(None)

    async def _collect(self, state: State, speak: str) -> list[Taken] | None:
        """Good samples, as many as wanted; None when it is given up."""
        taken: list[Taken] = []
        frames: list[NDArray[np.float32]] = []
        others = await self._people.takes(state.profile, state.phrase)
        unlike = 0
        while len(taken) < state.wanted:
            if state.attempts >= TRIES * state.wanted:
                self._move(state, "failed", f"given up after {state.attempts} attempts: {state.reason}")
                return None
            state.attempts += 1
            if speak:
                self._move(state, "speaking", state.reason)
                await asyncio.to_thread(prompt.say, WORDS[speak]["again" if taken else "say"], speak)
            self._move(state, "listening", state.reason)
            outcome = await self._attempt()
            if isinstance(outcome, Taken) and repeated(outcome.samples, [t.samples for t in taken]):
                outcome = Reason.SAME
            if isinstance(outcome, Taken):
                outcome, mine = self._judge(outcome, frames, others)
                unlike = unlike + 1 if outcome is Reason.UNLIKE else 0
                if isinstance(outcome, Taken):
                    taken.append(outcome)
                    frames.append(mine)
                elif unlike >= 2:  # the odd one out may well have been the first
                    taken, frames, unlike = [], [], 0
            state.taken = len(taken)
            refused = outcome if isinstance(outcome, Reason) else None
            self._move(state, "refused" if refused else "taken", refused.value if refused else "")
            await asyncio.sleep(PAUSE_S)
        return taken

    def _judge(
        self, taken: Taken, before: Sequence[NDArray[np.float32]], others: Sequence[Sequence[NDArray[np.float32]]]
    ) -> tuple[Taken | Reason, NDArray[np.float32]]:
        """The take or why it is refused, and its frames."""
        nothing = np.zeros((0, 0), np.float32)
        if self._model is None:
            return taken, nothing
        frames = aligning.frames_of(self._model.standard, taken.span, taken.length)
        if frames is None:
            return Reason.SHORT, nothing
        return aligning.compared(frames, before, others) or taken, frames

    async def _attempt(self) -> Taken | Reason:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Taken | Reason] = loop.create_future()

        def done(outcome: Taken | Reason) -> None:
            loop.call_soon_threadsafe(_settle, future, outcome)

        self._inference.attempt(done)
        try:
            return await asyncio.wait_for(future, 30.0)
        except TimeoutError:
            return Reason.SILENCE  # the microphone went away meanwhile


def _settle(future: asyncio.Future[Taken | Reason], outcome: Taken | Reason) -> None:
    if not future.done():
        future.set_result(outcome)


def _gate(result: Mapping[str, object]) -> Mapping[str, object]:
    gate = result.get("gate")
    return gate if isinstance(gate, Mapping) else {}
