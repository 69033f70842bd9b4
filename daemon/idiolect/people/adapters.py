"""The event loop's side of everything personal: who is known, who speaks, and which adapters are loaded.

Goes in: what the control API asks and what inference hears. Comes out: answers, and what inference is to listen for.
All vault work goes to the keys thread. Without keys everybody is a guest, and every request is refused with the reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from idiolect.errors import NONSENSE, BundleError, LearningError, RequestError
from idiolect.events import EventStream, StateChange
from idiolect.host import clock
from idiolect.host.clock import Moment, Stretch
from idiolect.host.files import TooLarge, read_capped, write_durably
from idiolect.learning import adapter_file
from idiolect.learning.lived import Wish
from idiolect.learning.maps import NOTHING, Earlier, Succession
from idiolect.learning.model import Model
from idiolect.learning.worker.process import Backend
from idiolect.listening.inference import Heard, Inference
from idiolect.listening.pipeline.adapter import Adapter
from idiolect.listening.pipeline.earlier import EarlierModel
from idiolect.listening.pipeline.encoder import Encoder
from idiolect.listening.pipeline.household import Household
from idiolect.people import carryover, refusals, sharing, standing, voices
from idiolect.people.consent import Consents, may_be_named
from idiolect.people.feedback import Said, observe
from idiolect.people.learner import Learner
from idiolect.people.records import DAY_S
from idiolect.trust.device.vault_thread import VaultThread
from idiolect.values import GUEST, Detection, Event, counted, name_key

log = logging.getLogger(__name__)

SAID_CAP = 256
"""Utterances that are kept in RAM until they are counted."""
FOLLOWS_DAYS = 7
"""How far two looks at the calendar may lie apart to confirm each other."""
LEAP_S = 3600.0
"""By how much the wall clock may be set between them."""
STATE_FILE = "personal.json"
T = TypeVar("T")


class Adapters:
    """Everybody's adapters as they are loaded now. All methods belong to the event loop."""

    def __init__(
        self, keys: VaultThread, inference: Inference, hub: EventStream, model: Model | None, encoder: str,
        *, people: Mapping[str, Sequence[str]], state_dir: Path, names: Callable[[], str],
        listen: Callable[[Household | None, str, bool, EarlierModel | None], None], backend: Backend,
        wishes: Callable[[str], Wish | None] = lambda _: None,
        synchronized: Callable[[], bool] = clock.synchronized, succession: Succession = NOTHING,
        moment: Callable[[], Moment] = clock.moment,
    ) -> None:  # fmt: skip
        """Restore who speaks and the pause. ``listen`` tells inference whose adapters to listen with, who is addressed,
        whether for a "yes", and the earlier model for those who need it; ``wishes``: see ``Learner.wishes``.
        """
        self._keys, self._inference, self._hub, self._model = keys, inference, hub, model
        self._encoder, self._people, self._names, self._listen = encoder, people, names, listen
        self._wishes = wishes
        self._synchronized, self._succession, self._moment = synchronized, succession, moment
        self._file = state_dir / STATE_FILE
        self._backend = backend
        self._learner: Learner | None = None
        self._consents: Consents | None = None
        self._opening, self._trouble = False, ""
        self._household: Household | None = None
        self._carried: EarlierModel | None = None
        self.standing: dict[str, dict[str, int]] = {}
        """By profile, how many phrases of an earlier encoder stand how (``standing``)."""
        self.voices: dict[str, voices.Lack] = {}
        """By profile of who agreed to be told by voice, what that still lacks (``voices``)."""
        self._watched: voices.Voices | None = None
        self._asking = False
        self.active = GUEST
        self._paused = False
        self._pause: Stretch | None = None  # how long; None while paused until resumed
        self._seen: Moment | None = None
        self.expired_day: int | None = None
        self.waiting_since: float | None = None
        self.profiles: dict[str, str] = {}
        """Ids by the key of their person's name."""
        self.refused_names: tuple[str, ...] = ()
        """Ids of people whose name would be refused today."""
        self._counts: dict[str, dict[str, int]] = {}
        self._said: list[Said] = []
        self.altered: Callable[[], None] = lambda: None
        """Called when what is kept has changed: something may be due now."""
        self._restore()

    # -- state --------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        try:
            state: dict[str, Any] = json.loads(read_capped(self._file, 1024))
            active, until = str(state["profile"]), state["paused_until"]
            endless, seen = until is None or until == math.inf, state.get("seen")
            pause = None if endless else clock.read_pause(state.get("pause"), float(until), self._moment())
            self._seen = clock.read_moment(seen) if seen else None
            self.waiting_since = _seconds(state.get("waiting_since"))
            self.active, self._paused, self._pause = active, until is not None, pause
        except FileNotFoundError:
            return
        except OSError as error:
            name, what = self._file.name, error.strerror
            log.warning("%s cannot be read (%s): nobody is addressed, and learning is paused until resumed", name, what)
            self.active, self._paused = GUEST, True
        except (TooLarge, *NONSENSE):
            log.warning("%s is damaged: nobody is addressed, and learning is paused until resumed", self._file.name)
            self.active, self._paused = GUEST, True

    def _save(self) -> None:
        until = None
        if self._paused:
            until = self._pause.ends(self._moment()) if self._pause else math.inf
        state = {
            "profile": self.active, "paused_until": until, "waiting_since": self.waiting_since,
            "pause": self._pause and self._pause.as_dict(), "seen": self._seen and self._seen.as_dict(),
        }  # fmt: skip
        try:
            write_durably(self._file, json.dumps(state).encode())
        except OSError as error:
            log.warning("%s cannot be written (%s): it will not survive a restart", self._file.name, error.strerror)

    @property
    def open(self) -> bool:
        """Return whether the keys are released and what was learnt is at hand."""
        return self._learner is not None

    @property
    def keyed(self) -> bool:
        """Return whether the vault is open, which it is with a bundle that cannot learn too."""
        return self._consents is not None

    @property
    def able(self) -> bool:
        """Return whether the bundle can learn at all."""
        return self._model is not None

    def closed(self) -> RequestError:
        """Return the error that says why nothing can be learnt, or asked of what was."""
        return refusals.closed(self._keys.view, self._trouble, able=self.able)

    @property
    def learning(self) -> bool:
        """Return whether anything may be learnt now."""
        return not self._paused or (self._pause is not None and self._pause.left(self._moment()) <= 0)

    def _pause_ends(self) -> float | None:
        """Return the pause's end by the wall clock as it is now; None without a pause, or without an end of it."""
        return None if self.learning or self._pause is None else self._pause.ends(self._moment())

    def status(self) -> dict[str, object]:
        """Return the state of everything personal for ``status``: ids and counts, no names."""
        if self._model is None:
            return {"state": "off", "detail": f"the bundle {refusals.NO_SPACE}"}
        if self._learner is None:
            keyless = "the keys are not released: everybody gets the base model"
            return {"state": "off", "detail": str(self.closed()) if self._keys.view.released else keyless}
        adapters = self._household.adapters if self._household else {}
        return {
            "state": "on" if self.learning else "paused",
            "paused_until": self._pause_ends(),
            "profile": self.active,
            "adapters": {profile: adapter.number for profile, adapter in adapters.items()},
            "taught": len(self.taught),
            "earlier_encoder": {profile: dict(counts) for profile, counts in self.standing.items()},
            "voices": {profile: dict(lack) for profile, lack in self.voices.items()},
        }

    def voice(self, profile: str) -> dict[str, object]:
        """Return what telling this person's voice still lacks, for its owner; empty without that consent."""
        return voices.shown(self.voices.get(profile, {}), self._model) if self._model else {}

    @property
    def taught(self) -> tuple[str, ...]:
        """Return the phrases that somebody taught, under whichever model they are heard."""
        own = self._household.taught if self._household else ()
        return tuple(dict.fromkeys((*own, *(self._carried.phrases if self._carried else ()))))

    @property
    def shared(self) -> tuple[str, ...]:
        """Return the phrases that everybody may say, by name."""
        return tuple(sorted({phrase for home in self._homes for phrase in home.shared}))

    @property
    def _homes(self) -> tuple[Household, ...]:
        homes = (self._household, self._carried.household if self._carried else None)
        return tuple(home for home in homes if home is not None)

    def lent(self, detection: Detection) -> bool:
        """Return whether it was heard with what somebody else taught: of that nothing is learnt of who said it."""
        profile, phrase = detection.profile, detection.phrase
        homes = self._homes
        return any(home.lent(profile, phrase) for home in homes) and not any(
            home.taught_by(profile, phrase) for home in homes
        )

    async def opened(self) -> None:
        """Bring everybody's adapters into use, made anew where they are stale, after the keys were released.

        To be called again where it failed, as on a disk that was full for a while.
        """
        if self._learner is not None or self._opening or not self._keys.view.released:
            return
        self._opening = True
        try:
            if self._consents is None:
                self._consents = await self._keys.ask(lambda: Consents(self._keys.vault, self._people))
            consents, model = self._consents, self._model
            if model is None:
                return
            learner = await self._keys.ask(lambda: self._open(consents, model))
            self._learner, self._watched = learner, voices.Voices(learner)
            self._trouble = ""
            await self.reload()
            self.altered()
            self._say_standing()
        except (LearningError, RequestError) as error:
            self._trouble = f"nothing is learnt or used of what was: {error}"
            log.error("nothing is learnt or used of what was: %s", error)
        finally:
            self._opening = False

    def _open(self, consents: Consents, model: Model) -> Learner:
        learner = Learner(consents, model, self._encoder, self._backend, succession=self._succession)
        learner.dated, learner.wishes = self._synchronized, self._wishes
        learner.recalled.add(self.active)
        learner.refresh()
        return learner

    async def reload(self) -> None:
        """Read from the vault who is known and what is in use of each, and have inference listen with it."""
        learner = self._learner
        if learner is None or self._model is None:
            return
        files = await self._keys.ask(learner.files)
        people = await self._keys.ask(learner.consents.people)
        self.profiles = {name_key(person.name): person.profile for person in people}
        self.refused_names = tuple(person.profile for person in people if not may_be_named(person.name))
        adapters = [adapter for file in files if (adapter := _accepted(*file))]
        shared = await self._keys.ask(lambda: sharing.everybody(learner))
        self._household = Household(self._model.space, self._model.classes, adapters, shared) if adapters else None
        await self._carry(learner, shared)
        if self._watched is not None:
            self.voices = await self._keys.ask(self._watched.every)
        await self.unaddress()
        self.relisten()

    async def unaddress(self) -> None:
        """Take nobody to be the one who speaks where that was somebody who is not known any more."""
        consents = self._consents
        if consents is None or self.active == GUEST:
            return
        if self.active not in await self._keys.ask(consents.vault.profiles):
            self.active = GUEST
            self._save()

    def _say_standing(self) -> None:
        """Log how many phrases rest on an earlier encoder, or on none."""
        for name, text in ((standing.EARLIER, "on the earlier model"), (standing.AGAIN, "not heard any more")):
            if count := sum(mine.get(name, 0) for mine in self.standing.values()):
                what = counted(count, "phrase")
                log.warning("taught under another encoder: %s %s; see `idiolect explain NAME`", what, text)

    async def _carry(self, learner: Learner, shared: Mapping[str, Collection[str]]) -> None:
        """Listen with the earlier model for what nothing else hears; without anybody who needs it, let it go."""
        self.standing = await self._keys.ask(lambda: standing.counts(learner))
        adapters = await self._keys.ask(lambda: carryover.adapters(learner))
        earlier, before = self._succession.earlier, self._carried
        if earlier is None or not adapters:
            self._carried = None
            return
        try:
            if before is None:
                self._carried = await asyncio.to_thread(_carried, earlier, adapters, shared)
            else:
                household = Household(before.household.space, earlier.classes, adapters, shared)
                self._carried = EarlierModel(before.encoder, before.head, household)
        except BundleError as error:
            log.error("what was taught under the earlier model is not heard: %s", error)
            self._carried = None

    def of_earlier(self, detection: Detection) -> bool:
        """Return whether the earlier model heard it: nothing is learnt of that, nor told of other versions."""
        carried = self._carried
        return carried is not None and carried.number(detection.profile, detection.phrase) == detection.adapter > 0

    def relisten(self) -> None:
        """Tell inference what to listen for, after a change here or of the configuration."""
        self._listen(self._household, self.active, self._asking, self._carried)

    async def flush(self) -> None:
        """Write what was counted, and let versions on trial take the steps that they earned."""
        learner, counts, said = self._learner, self._counts, self._said
        if learner is None or not (counts or said):
            return
        self._counts, self._said = {}, []
        if await asyncio.shield(self._keys.ask(lambda: observe(learner, counts, said))):  # it is nowhere else now
            await self.reload()

    # -- the calendar -------------------------------------------------------------------------------------------

    def glance(self) -> None:
        """Look at the calendar: what a synchronized clock says counts once it says so a day later.

        A clock that leaps makes nothing expire, however often it does: what it says is only remembered. ``expired_day``
        is then the day before which things have expired.
        """
        if self._learner is None or not self._synchronized():
            return
        now, before = self._moment(), self._seen
        passed = now.wall - before.wall if before else 0.0
        leapt = before is None or not 0 <= passed <= FOLLOWS_DAYS * DAY_S
        if before and now.boot_id == before.boot_id:  # within a boot there is another clock to ask
            leapt = leapt or abs(now.boot - before.boot - passed) > LEAP_S
        if not leapt and passed < DAY_S:
            return
        self._seen = now
        self.expired_day = int(before.wall // DAY_S) if before and not leapt else None
        self._save()

    @property
    def waited_s(self) -> float:
        """Return how long something has waited for an idle window, in seconds by the wall clock."""
        return 0.0 if self.waiting_since is None else self._moment().wall - self.waiting_since

    def note_waiting(self, waiting: bool) -> None:
        """Remember since when something waits for an idle window, over restarts too."""
        if not waiting and self.waiting_since is not None:
            self.waiting_since = None
            self._save()
        elif waiting and self._synchronized() and not (self.waiting_since or math.inf) <= self._moment().wall:
            self.waiting_since = self._moment().wall  # anew where the last one was a wrong clock's, of the future
            self._save()

    async def do(self, work: Callable[[Learner], T]) -> T:
        """Run work over the learner on the keys thread. ``RequestError`` (``closed``) where there is none."""
        learner = self._learner
        if learner is None:
            raise self.closed()
        return await self._ask(lambda: work(learner))

    async def keep(self, work: Callable[[Consents], T]) -> T:
        """Run work over consents and their vault, for which keys are enough; ``RequestError`` without these."""
        consents = self._consents
        if consents is None:
            raise refusals.closed(self._keys.view, self._trouble, able=True)
        return await self._ask(lambda: work(consents))

    async def _ask(self, work: Callable[[], T]) -> T:
        try:
            return await self._keys.ask(work)
        except LearningError as error:
            raise RequestError(503, "learning", f"{error}; {error.fix}") from None

    async def idle(self, work: Callable[[Learner], T]) -> T:
        """Run work of an idle window: ``LearningError`` stays what it is, and a caller who is cancelled waits."""
        learner = self._learner
        if learner is None:
            raise self.closed()
        return await asyncio.shield(self._keys.ask(lambda: work(learner)))

    async def changed(self, work: Callable[[Learner], T]) -> T:
        """Run work as ``do``, and bring into use what came of it, even for a caller who hangs up."""

        async def whole() -> T:
            result = await self.do(work)
            await self.reload()
            self.altered()
            return result

        return await asyncio.shield(whole())

    def publish(self, what: Mapping[str, object]) -> None:
        """Publish a change of state to who follows events."""
        self._hub.publish(StateChange(self._names(), time.time(), what))

    # -- what inference hears -----------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """Take in an event: count it, keep what was said until it is counted, and settle a "yes" that is waited for."""
        detection = event.detection
        if self._inference.played(detection):  # it may have been the box itself, and a "yes" nobody's
            return
        if self._asking and detection.phrase == "yes":
            asyncio.ensure_future(self._heard_yes())  # noqa: RUF006 - it ends by itself
        if detection.kind not in ("phrase", "rejected") or detection.profile == GUEST or not self.learning:
            return
        if self.lent(detection):
            return
        if detection.kind == "phrase":
            said = self._counts.setdefault(detection.profile, {})
            said[detection.phrase] = said.get(detection.phrase, 0) + 1
        kept = self._inference.recent.look(event.id)
        if kept is not None and len(self._said) < SAID_CAP and not self.of_earlier(detection):
            self._said.append(Said(detection.profile, detection.phrase, kept.span))

    def uncount(self, heard: Heard) -> None:
        """Count an utterance for nothing, as it was something else than it was taken for."""
        detection = heard.event.detection
        self._said = [said for said in self._said if said.span is not heard.span]
        counts = self._counts.get(detection.profile, {})
        if counts.get(detection.phrase, 0) > 0:
            counts[detection.phrase] -= 1

    async def _heard_yes(self) -> None:
        try:
            receipts = await self.changed(lambda learner: learner.consents.heard_yes())
        except (LearningError, RequestError):  # no keys just now, or the house is full: it was no agreement
            return
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
        if self._learner is not None:
            self._learner.recalled.add(profile)
        self.relisten()
        self.altered()

    def pause(self, until: float | None) -> None:
        """Learn nothing until then (seconds since the epoch; inf: until told to), or again from now on (None)."""
        now = self._moment()
        self._paused = until is not None
        self._pause = Stretch(max(0.0, until - now.wall), now, now) if until is not None and until < math.inf else None
        self._save()
        self.altered()
        self.publish({"learning": {"active": until is None}})


def _carried(earlier: Earlier, adapters: Sequence[Adapter], shared: Mapping[str, Collection[str]]) -> EarlierModel:
    """Load the earlier model and its encoder, with these adapters."""
    model = earlier.load()
    encoder = Encoder(earlier.graph, name="previous-encoder.tflite")
    return EarlierModel(encoder, model.head, Household(model.space, earlier.classes, adapters, shared))


def _accepted(data: bytes, digest: str) -> Adapter | None:
    """Return an adapter from its file; None for a damaged one, which is not used: its owner gets the base model."""
    try:
        return adapter_file.accept(data, digest)
    except LearningError as error:
        log.error("an adapter came damaged: %s; %s", error, error.fix)
        return None


def _seconds(value: Any) -> float | None:
    """Return a time as it was kept in the state file; ``ValueError`` for what is none."""
    seconds = None if value is None else float(value)
    if seconds is not None and not math.isfinite(seconds):
        raise ValueError
    return seconds
