"""Hearing: embeddings in, detections out, for whoever is taken to speak; a chain's part behind its encoder.

Each embedding is scored (``head``), in a turn followed along the takes of taught phrases (``aligned``), and decided on
(``decoder``); a detection is then said to be somebody's. All of it counts blocks and holds no sound, so what was kept
of an utterance can be heard again (``learning.lived``) as the stream heard it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.pipeline.aligned import Aligned
from idiolect.listening.pipeline.alignment import resampled
from idiolect.listening.pipeline.decoder import UTTERANCE_LEAST, Decoder, Listening, State
from idiolect.listening.pipeline.earlier import Beside, EarlierModel
from idiolect.listening.pipeline.encoder import WARM_UP
from idiolect.listening.pipeline.head import Head, Scorer
from idiolect.listening.pipeline.household import Household
from idiolect.values import BLOCK, EMBEDDING, GUEST, WINDOW, Detection

UNSETTLED = WARM_UP + WINDOW - 1
"""Steps after a fresh start whose window still reaches back before it."""
LONGEST = 50
"""Embeddings (4 s) of an utterance that are resampled to one window."""
BACKGROUND = "_background_"
"""The head's class for sound that is no speech."""
CLEAR_DB = 26.0
"""Clearness from which on the level tells whether speech goes on; also the one taken where no gate measures it."""
AFTERGLOW = 2
"""Blocks behind the last one with sound whose embeddings still belong to a phrase (``listening.attempt.AFTER``)."""
FRESH = 6
"""Blocks from the begin of an utterance in which somebody else's phrase may begin: takes leave out the first two."""
MARGIN = 8
"""Embeddings behind it that are kept besides: one knows that it has ended only then."""


class Room(Protocol):
    """The measure of how somebody stands out from the room; a ``Gate`` has it."""

    def clearness(self) -> float:
        """Return by how many dB speech stands out from the room."""

    def loud(self) -> bool:
        """Return whether the newest block is as loud as speech is."""


class Still:
    """A room of which nothing is measured: whoever speaks there is heard clearly."""

    def __init__(self, clearness: float = CLEAR_DB) -> None:
        """Make a room in which speech stands out by ``clearness`` dB."""
        self.stands_out = clearness

    def clearness(self) -> float:
        """Return the dB by which speech was said to stand out."""
        return self.stands_out

    def loud(self) -> bool:
        """Return True: any sound counts as loud."""
        return True


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one processed block. ``position`` is the sample behind the block's last."""

    position: int
    embedding: NDArray[np.float32]
    posteriors: NDArray[np.float32]
    detection: Detection | None


def resample_window(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a sequence, float32 (n >= 2, 96), stretched or squeezed linearly in time to one window, (16, 96)."""
    return resampled(embeddings, WINDOW)


class Hearing:
    """One stream of embeddings, and who is taken to speak in it."""

    def __init__(self, head: Head, listening: Listening, room: Room) -> None:
        self._scorer = Scorer(head)
        self._background = head.classes.index(BACKGROUND) if BACKGROUND in head.classes else None
        self._room = room
        self._addressed = GUEST
        self._more = 0.0
        self._known_until = 0  # position up to which whoever was known by voice is taken to speak
        self.beside: Beside | None = None
        self._along: Aligned | None = None
        self._along_for: tuple[Household | None, str, str | None] = (None, "", None)
        self._in_turn = False
        self._unheard = 0
        self._embeddings: deque[NDArray[np.float32]] = deque(maxlen=LONGEST + MARGIN)
        self.position = 0
        """The sample behind the newest block, whether it was processed or not."""
        self.last_speech = 0
        """Position behind the newest block in which somebody seemed to speak: a few in a row, not just any sound."""
        self.decoder = Decoder(listening)
        self.listen_for(listening)
        self.reset()

    def reset(self) -> None:
        """Forget all that was heard. ``position`` goes on."""
        self._scorer.reset()
        self.decoder.reset(self.position)
        if self.beside:
            self.beside.reset()
        self._embeddings.clear()
        self._speaking = 0
        self._in_turn = False

    def begin_turn(self, embedding: NDArray[np.float32]) -> None:
        """Forget all that was heard, and open a turn in a room that has sounded like this, (96,), for long."""
        self.reset()
        self._embeddings.extend([embedding] * WINDOW)
        self.decoder.begin_turn()

    def step_scored(self, embedding: NDArray[np.float32], posteriors: NDArray[np.float32], *, active: bool) -> Step:
        """Take a block of which the posteriors of its window, (classes,), are known already; they are changed."""
        self.position += BLOCK
        self._embeddings.append(embedding)
        posteriors = self.go_along(posteriors, embedding, active=active)
        return self.decide(embedding, posteriors, self.position, active=active)

    def step(self, embedding: NDArray[np.float32], *, active: bool) -> Step:
        """Take the newest block's embedding, (96,); ``active`` whether it holds sound."""
        posteriors = self.go_along(self.score(embedding), embedding, active=active)
        return self.decide(embedding, posteriors, self.position, active=active)

    def listen_for(
        self, listening: Listening, household: Household | None = None, carried: EarlierModel | None = None
    ) -> None:
        """Change what is listened for, and for whom; an open turn ends, the audio goes on unbroken.

        ``listening`` has the classes of ``household``, or without one the head's; then, in any order, those phrases of
        ``carried`` that are not among them.
        """
        before, self.decoder = self.decoder, Decoder(listening)
        self.decoder.take_over(before, self.position)
        self._scorer.household = household
        self._along_for = (None, "", None)  # so that the takes are laid out anew
        self._serve(self._addressed)
        self._listen_beside(listening, carried)
        at_any_time = listening.wake | listening.always_on
        base = len(self._scorer.head.classes)
        self._scorer.suspects = np.flatnonzero(at_any_time[:base]).tolist()
        self._taught_at_any_time = bool(at_any_time[base:].any())

    def _listen_beside(self, listening: Listening, carried: EarlierModel | None) -> None:
        """Begin, go on or end with an earlier encoder beside this one."""
        self._heard = np.zeros(len(listening.classes), np.float32)
        if carried is None:
            self.beside = None
            return
        if self.beside is not None and self.beside.serves(carried):
            self.beside.carried = carried
        else:
            self.beside = Beside(carried, keep=LONGEST + MARGIN, settle=UNSETTLED + 1)
        self._places = np.array([listening.classes.index(name) for name in carried.phrases], np.intp)

    @property
    def profile(self) -> str:
        """Return who is taken to speak: between turns, or where no voice is known, whom ``address`` named."""
        return self._scorer.profile

    def address(self, profile: str) -> None:
        """Take ``profile`` to be the one who speaks, from now on."""
        self._addressed = profile
        self._serve(profile)

    def demand(self, more: float) -> None:
        """Raise what scores must reach by so many log-odds, from now on; an open turn goes on."""
        self._more = more
        self._serve(self._scorer.profile, self._scorer.also)

    def _serve(self, profile: str, also: str | None = None) -> None:
        """Hear with what ``profile`` has of its own, and with what ``also`` has, beside it."""
        household, self._scorer.profile, self._scorer.also = self._scorer.household, profile, also
        if self._along_for != (household, profile, also):
            self._along = household.aligned(profile, also) if household else None
            self._along_for, self._in_turn = (household, profile, also), False
        self.decoder.serve(profile, self._more, also)

    def knows(self, phrase: str) -> bool:
        """Return whether a phrase is the bundle's, and not one that somebody taught."""
        return phrase in self._scorer.head.classes

    def recent(self, count: int) -> NDArray[np.float32] | None:
        """Return the newest embeddings, (count, 96); None when there are not so many yet."""
        if len(self._embeddings) < count:
            return None
        return np.array(list(self._embeddings)[-count:], np.float32)

    def score(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the posteriors, (classes,), of the window that ends with an embedding, (96,)."""
        self._embeddings.append(embedding)
        attentive = self._scorer.attentive = self._taught_at_any_time or self.decoder.state is not State.IDLE
        own = self._scorer.push(embedding)
        if self.beside is None:
            return own
        return self._joined(own, self.beside.scores(self._scorer.profile, self._scorer.also, attentive=attentive))

    def _joined(self, own: NDArray[np.float32], beside: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return the scores of all classes that are listened for, the phrases of an earlier model among them."""
        if beside is None:
            beside = np.zeros(len(self._places), np.float32)
        heard = self._heard.copy()
        heard[: len(own)] = own
        heard[self._places] = np.maximum(heard[self._places], beside)  # two people may have taught it, one of them anew
        return heard

    def go_along(
        self, posteriors: NDArray[np.float32], embedding: NDArray[np.float32], *, active: bool
    ) -> NDArray[np.float32]:
        """Put aligned scores in the place of those that windows gave the phrases that have takes, in a turn.

        In a pause nothing is aligned: what is said after it goes on where the phrase was.
        """
        along = self._along
        if along is None or self.decoder.state is not State.TURN:
            self._in_turn = False
            return posteriors
        if not self._in_turn:
            along.reset()
            self._in_turn, self._unheard = True, 0
        if active and self._unheard > AFTERGLOW:
            along.resume()
        self._unheard = 0 if active else self._unheard + 1
        clearness = self._room.clearness()
        along.clear = clearness >= CLEAR_DB
        along.goes_on = active and along.clear and self._room.loud()
        if self._unheard <= AFTERGLOW:
            begun = (self.position - self.decoder.utterance[0]) // BLOCK
            fresh = not along.clear or begun <= FRESH
            posteriors[along.columns] = along.push(embedding, clearness, posteriors[along.columns], fresh=fresh)
        else:
            posteriors[along.columns] = along.rest()
        return posteriors

    def decide(
        self, embedding: NDArray[np.float32], posteriors: NDArray[np.float32], position: int, *, active: bool
    ) -> Step:
        """Decide on the posteriors of a block: the newest one, or one that is caught up with, up to ``position``."""
        detection, weigh = None, self._along is not None
        if self.decoder.ending(weigh=weigh) and not active:
            detection = self._whole_utterance(position)
        detection = detection or self.decoder.push(posteriors, active=active, position=position, whole=self._along)
        self._speaking = self._speaking + 1 if active and self._is_speech(posteriors) else 0
        if detection or self._speaking >= UTTERANCE_LEAST:
            self.last_speech = position
        if not detection:
            self.lead_back(position)
        return Step(position, embedding, posteriors, self._attributed(detection) if detection else None)

    def _is_speech(self, posteriors: NDArray[np.float32]) -> bool:
        if len(self._embeddings) <= UNSETTLED:  # after a fresh start scores are of what nobody heard
            return False
        return self._background is None or posteriors.item(self._background) < 0.5

    def lead_back(self, position: int) -> None:
        """Go back to whom ``address`` named when the turn of whoever was known by voice is over.

        Where no wake word is needed there is no turn: then when the time of one is over.
        """
        if self._scorer.also is None:
            return
        state = self.decoder.state
        if state is State.IDLE or (state is State.OPEN and position >= self._known_until):
            self._serve(self._addressed)

    def _attributed(self, detection: Detection) -> Detection:
        """Say for whom the detection was made. A wake word tells who speaks in its turn, where voices are known."""
        household = self._scorer.household
        if household is None:  # nobody has an adapter yet, but whoever is addressed may want to correct this
            return replace(detection, profile=self._addressed, adapter=self._beside_of(self._addressed, detection))
        if detection.kind == "wake" and household.voices:
            self._recognise(household, detection.phrase)
        profile = self._whose(household, detection)
        if self._scorer.also is not None and detection.kind != "wake" and self.decoder.state is not State.TURN:
            self._serve(self._addressed)
        number = self._beside_of(profile, detection)
        if not number and not self._lent(household, profile, detection.phrase):
            adapter = household.adapters.get(profile)
            number = adapter.number if adapter else 0
        return replace(detection, profile=profile, adapter=number)

    def _lent(self, household: Household, profile: str, phrase: str) -> bool:
        """Return whether ``profile`` is heard to say this with what somebody else taught."""
        homes = [household, *([self.beside.carried.household] if self.beside else [])]
        return any(home.lent(profile, phrase) for home in homes) and not household.taught_by(profile, phrase)

    def _recognise(self, household: Household, wake_word: str) -> None:
        """Take whose voice said ``wake_word`` to be the one who speaks, for this turn.

        Where that is not clear it is whom ``address`` named, and whoever that is stays heard beside the other: a wrong
        guess costs nobody anything. Who is named and cannot be told by voice, because of not having agreed to it above
        all, is not compared with those who can: somebody else's consent is nothing to them.
        """
        self._serve(self._addressed)
        if self._addressed != GUEST and not household.has_voice(self._addressed):
            return
        profile = self._scorer.who(wake_word)
        if profile not in (GUEST, self._addressed):
            self._serve(profile, self._addressed)
            self._known_until = self.position + self.decoder.timeout

    def _whose(self, household: Household, detection: Detection) -> str:
        """Return who said it: of two, the one known by voice, but for what only the other has taught."""
        phrase, profile, also = detection.phrase, self._scorer.profile, self._scorer.also
        if also is None or detection.kind != "phrase" or self.knows(phrase):
            return profile
        taught = [who for who in (profile, also) if household.taught_by(who, phrase) or self._beside_of(who, detection)]
        return taught[0] if taught else profile

    def _beside_of(self, profile: str, detection: Detection) -> int:
        """Return the version of the earlier model's adapter by which this was detected for ``profile``, 0 for none."""
        return self.beside.carried.number(profile, detection.phrase) if self.beside else 0

    def _whole_utterance(self, position: int) -> Detection | None:
        """Judge an utterance that ends unanswered and was longer than a window, resampled to one."""
        start, end = self.decoder.utterance
        newest = (position - end) // BLOCK
        length = (end - start) // BLOCK
        if not WINDOW < length <= LONGEST - newest:
            return None
        every = np.array(self._embeddings, np.float32).reshape(-1, EMBEDDING)
        if len(every) < length + newest:
            return None
        spoken = every[len(every) - newest - length : len(every) - newest]
        scores = self._scorer.window(resample_window(spoken))
        if self.beside:
            scores = self._joined(scores, self.beside.whole(length, newest, resample_window))
        if self._along is not None:
            scores[self._along.columns] = 0.0  # aligned, at whatever pace
        return self.decoder.hear_whole(scores, weigh=self._along is not None)
