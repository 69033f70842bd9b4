"""The chain: samples in, detections out. Every stage is streaming, deterministic and free of I/O.

Samples are cut into blocks of 1280 whatever sizes they come in, so the same samples give the same detections.
While the gate is shut only the last 27 blocks are kept; at the next onset they are replayed, which is as long as
the encoder (10 steps), the window (16 embeddings) and the smoothing remember. So a gated chain goes on in the very
state that an ungated one has, and makes the same detections.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from idiolect.pipeline.adapter import Head, Scorer
from idiolect.pipeline.aligned import Aligned
from idiolect.pipeline.beside import Beside, Carried
from idiolect.pipeline.decoder import SMOOTHING, UTTERANCE_LEAST, Decoder, Listening, State
from idiolect.pipeline.encoder import WARM_UP, Embedder
from idiolect.pipeline.frontend import Frontend
from idiolect.pipeline.gate import Gate
from idiolect.pipeline.personal import Household
from idiolect.values import BLOCK, EMBEDDING, GUEST, WINDOW, Detection

UNSETTLED = WARM_UP + WINDOW - 1
"""Steps after a fresh start whose window still reaches back before it."""
MEMORY = UNSETTLED + SMOOTHING
"""Blocks after which nothing of the past is left in the encoder, the window or the smoothed scores."""
LONGEST = 50
"""Embeddings (4 s) of an utterance that are resampled to one window."""
BACKGROUND = "_background_"
"""The head's class for sound that is no speech."""
CLEAR_DB = 26.0
"""How clearly somebody is heard where the level tells whether speech goes on; and where no gate measures it."""
AFTERGLOW = 2
"""Blocks behind the last one with sound whose embeddings still belong to a phrase (``learning.attempt.AFTER``)."""
FRESH = 6
"""Blocks from the begin of an utterance in which somebody else's phrase may begin: takes leave out the first two."""
MARGIN = 8
"""Embeddings behind it that are kept besides: one knows that it has ended only then."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one processed block brought. ``position`` is the sample behind the block's last."""

    position: int
    embedding: NDArray[np.float32]
    posteriors: NDArray[np.float32]
    detection: Detection | None


def resample_window(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch or squeeze a sequence, float32 (n >= 2, 96), linearly in time to one window, (16, 96)."""
    place = np.linspace(0.0, len(embeddings) - 1.0, WINDOW)
    low = np.minimum(place.astype(np.intp), len(embeddings) - 2)
    part = (place - low).astype(np.float32)[:, None]
    window: NDArray[np.float32] = embeddings[low] * (1 - part) + embeddings[low + 1] * part
    return window


class Chain:
    """One audio stream from samples to detections."""

    def __init__(self, encoder: Embedder, head: Head, listening: Listening, *, gated: bool = True) -> None:
        self._frontend = Frontend()
        self._encoder = encoder
        self._scorer = Scorer(head)
        self._background = head.classes.index(BACKGROUND) if BACKGROUND in head.classes else None
        self._addressed = GUEST
        self._more = 0.0
        self._known_until = 0  # position up to which whoever was known by voice is taken to speak
        self._beside: Beside | None = None
        self._along: Aligned | None = None
        self._along_for: tuple[Household | None, str, str | None] = (None, "", None)
        self._in_turn = False
        self._unheard = 0
        self._gate = Gate() if gated else None
        self._rest = np.empty(BLOCK, np.int16)  # samples that do not fill a block yet
        self._held: deque[NDArray[np.int16]] = deque(maxlen=MEMORY)
        self._embeddings: deque[NDArray[np.float32]] = deque(maxlen=LONGEST + MARGIN)
        self.position = 0
        self.last_speech = 0
        """Position behind the newest block in which somebody seemed to speak: a few in a row, not just any sound."""
        self._decoder = Decoder(listening)
        self.listen_for(listening)
        self.reset()

    @property
    def state(self) -> State:
        """Whether a turn is open."""
        return self._decoder.state

    @property
    def awake(self) -> bool:
        """Whether the encoder is running, that is, whether there is sound."""
        return self._awake

    @property
    def runtime(self) -> str:
        """The TFLite runtime in use."""
        return self._encoder.runtime

    def listen_for(
        self, listening: Listening, household: Household | None = None, carried: Carried | None = None
    ) -> None:
        """Change what is listened for, and for whom; an open turn ends, the audio goes on unbroken.

        ``listening`` has the classes of ``household``, or without one the head's; then, in any order, those phrases of
        ``carried`` that are not among them.
        """
        before, self._decoder = self._decoder, Decoder(listening)
        self._decoder.take_over(before, self.position)
        self._scorer.household = household
        self._along_for = (None, "", None)
        self._serve(self._addressed)
        self._listen_beside(listening, carried)
        at_any_time = listening.wake | listening.always_on
        base = len(self._scorer.head.classes)
        self._scorer.suspects = np.flatnonzero(at_any_time[:base]).tolist()
        self._taught_at_any_time = bool(at_any_time[base:].any())

    def _listen_beside(self, listening: Listening, carried: Carried | None) -> None:
        """Begin, go on or end with an earlier encoder beside this one."""
        self._heard = np.zeros(len(listening.classes), np.float32)
        if carried is None:
            self._beside = None
            return
        if self._beside is not None and self._beside.serves(carried):
            self._beside.carried = carried
        else:
            self._beside = Beside(carried, keep=LONGEST + MARGIN, settle=UNSETTLED + 1)
        self._places = np.array([listening.classes.index(name) for name in carried.phrases], np.intp)

    @property
    def profile(self) -> str:
        """Who is taken to speak: between turns, or where nobody's voice is known, whom ``address`` named."""
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
        self._decoder.serve(profile, self._more, also)

    def knows(self, phrase: str) -> bool:
        """Whether a phrase is the bundle's, and not one that somebody taught."""
        return phrase in self._scorer.head.classes

    def recent(self, count: int) -> NDArray[np.float32] | None:
        """The newest embeddings, (count, 96); None when there are not so many yet."""
        if len(self._embeddings) < count:
            return None
        return np.array(list(self._embeddings)[-count:], np.float32)

    def reset(self, *, same_room: bool = False) -> None:
        """Forget all audio, as after a gap: nothing heard before can be part of an event. ``position`` goes on.

        In the ``same_room`` its noise is known still, so that it is told from speech at once and not after seconds.
        """
        self._frontend.reset()
        self._encoder.reset()
        self._scorer.reset()
        self._decoder.reset(self.position)
        if self._beside:
            self._beside.reset()
        if self._gate:
            self._gate.reset(same_room=same_room)
        for block in self._held:  # memory that is given back keeps what lies in it
            block[:] = 0
        self._rest[:] = 0
        self._held.clear()
        self._embeddings.clear()
        self._filled = 0
        self._skipped = 0
        self._speaking = 0
        self._in_turn = False
        self._awake = True

    def lose(self, samples: int) -> None:
        """Say that ``samples`` are missing here, after an overrun or while the microphone was away.

        Of a word that was cut there is no event: its end may sound like another.
        """
        self.position += samples + self._filled
        self.reset(same_room=True)
        self._decoder.reset(self.position, cut=UNSETTLED)

    def process(self, samples: NDArray[np.int16]) -> list[Detection]:
        """Take any number of samples, int16 mono at 16 kHz; return what became certain, in order."""
        steps = self.steps(samples)
        return [step.detection for step in steps if step.detection]

    def steps(self, samples: NDArray[np.int16]) -> list[Step]:
        """Like ``process``, with what every processed block brought (none for a block skipped in silence)."""
        if not self._filled and len(samples) == BLOCK:  # what a microphone brings: no copies
            return self._block(samples)
        steps: list[Step] = []
        while len(samples):
            part = samples[: BLOCK - self._filled]
            self._rest[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            samples = samples[len(part) :]
            if self._filled == BLOCK:
                self._filled = 0
                steps += self._block(self._rest)
        return steps

    def _block(self, block: NDArray[np.int16]) -> list[Step]:
        self.position += BLOCK
        if self._gate is None:
            return [self._step(block, self.position, active=True)]
        opened = self._gate.hear(block)
        self._hold(block)
        if not opened and self._decoder.state is not State.TURN:
            self._skipped += 1
            self._awake = False
            self._lead_back(self.position)
            if self._skipped == MEMORY:  # from here on a replay is a fresh start
                self._frontend.reset()
            return []
        self._awake = True
        if self._skipped:
            return self._replay()
        return [self._step(block, self.position, active=self._gate.active)]

    def _hold(self, block: NDArray[np.int16]) -> None:
        """Keep a copy of the newest block, over the oldest one when there are enough: no sound is left behind."""
        if len(self._held) < MEMORY:
            self._held.append(block.copy())
            return
        oldest = self._held.popleft()
        oldest[:] = block
        self._held.append(oldest)

    def _replay(self) -> list[Step]:
        """Catch up with the blocks that were held in silence, the newest included."""
        missed, self._skipped = self._skipped + 1, 0
        blocks = list(self._held)[-missed:]
        settle = 0
        if missed > MEMORY:  # longer than anything remembers: a fresh start from the oldest held
            self._frontend.reset()
            self._encoder.reset()
            settle = UNSETTLED  # which is as long as an encoder beside remembers, too
            self._decoder.skip(missed - MEMORY + settle)
        steps = []
        for i, block in enumerate(blocks):
            behind = len(blocks) - 1 - i
            embedding = self._encode(block)
            posteriors = self._score(embedding)
            if i >= settle:  # no turn is open: in one the gate stays open
                active = behind == 0 and self._gate is not None and self._gate.active
                steps.append(self._decide(embedding, posteriors, self.position - BLOCK * behind, active=active))
        return steps

    def _step(self, block: NDArray[np.int16], position: int, *, active: bool) -> Step:
        embedding = self._encode(block)
        posteriors = self._go_along(self._score(embedding), embedding, active=active)
        return self._decide(embedding, posteriors, position, active=active)

    def _go_along(
        self, posteriors: NDArray[np.float32], embedding: NDArray[np.float32], *, active: bool
    ) -> NDArray[np.float32]:
        """In a turn, put the scores of phrases that have takes in the place of those that windows gave them.

        In a pause nothing is aligned: what is said after it goes on where the phrase was.
        """
        along = self._along
        if along is None or self._decoder.state is not State.TURN:
            self._in_turn = False
            return posteriors
        if not self._in_turn:
            along.reset()
            self._in_turn, self._unheard = True, 0
        if active and self._unheard > AFTERGLOW:
            along.resume()
        self._unheard = 0 if active else self._unheard + 1
        clearness = self._gate.clearness() if self._gate else CLEAR_DB
        along.clear = clearness >= CLEAR_DB
        along.goes_on = active and along.clear and (self._gate is None or self._gate.loud())
        if self._unheard <= AFTERGLOW:
            begun = (self.position - self._decoder.utterance[0]) // BLOCK
            fresh = not along.clear or begun <= FRESH
            posteriors[along.columns] = along.push(embedding, clearness, posteriors[along.columns], fresh=fresh)
        else:
            posteriors[along.columns] = along.rest()
        return posteriors

    def _score(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        attentive = self._scorer.attentive = self._taught_at_any_time or self._decoder.state is not State.IDLE
        own = self._scorer.push(embedding)
        if self._beside is None:
            return own
        return self._joined(own, self._beside.scores(self._scorer.profile, self._scorer.also, attentive=attentive))

    def _joined(self, own: NDArray[np.float32], beside: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The scores of all classes that are listened for, the phrases of an earlier model among them."""
        if beside is None:
            beside = np.zeros(len(self._places), np.float32)
        heard = self._heard.copy()
        heard[: len(own)] = own
        heard[self._places] = np.maximum(heard[self._places], beside)  # two people may have taught it, one of them anew
        return heard

    def _encode(self, block: NDArray[np.int16]) -> NDArray[np.float32]:
        frames = self._frontend.frames(block)
        embedding = self._encoder.step(frames)
        if self._beside:
            self._beside.encode(frames)
        self._embeddings.append(embedding)
        return embedding

    def _decide(
        self, embedding: NDArray[np.float32], posteriors: NDArray[np.float32], position: int, *, active: bool
    ) -> Step:
        detection, weigh = None, self._along is not None
        if self._decoder.ending(weigh=weigh) and not active:
            detection = self._whole_utterance(position)
        detection = detection or self._decoder.push(posteriors, active=active, position=position, whole=self._along)
        self._speaking = self._speaking + 1 if active and self._is_speech(posteriors) else 0
        if detection or self._speaking >= UTTERANCE_LEAST:
            self.last_speech = position
        if not detection:
            self._lead_back(position)
        return Step(position, embedding, posteriors, self._attributed(detection) if detection else None)

    def _is_speech(self, posteriors: NDArray[np.float32]) -> bool:
        if len(self._embeddings) <= UNSETTLED:  # after a fresh start scores are of what nobody heard
            return False
        return self._background is None or posteriors.item(self._background) < 0.5

    def _lead_back(self, position: int) -> None:
        """Go back to whom ``address`` named when the turn of whoever was known by voice is over.

        Where no wake word is needed there is no turn: then when the time of one is over.
        """
        if self._scorer.also is None:
            return
        state = self._decoder.state
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
        if self._scorer.also is not None and detection.kind != "wake" and self._decoder.state is not State.TURN:
            self._serve(self._addressed)
        number = self._beside_of(profile, detection)
        if not number and not self._lent(household, profile, detection.phrase):
            adapter = household.adapters.get(profile)
            number = adapter.number if adapter else 0
        return replace(detection, profile=profile, adapter=number)

    def _lent(self, household: Household, profile: str, phrase: str) -> bool:
        """Whether ``profile`` is heard to say this with what somebody else taught."""
        homes = [household, *([self._beside.carried.household] if self._beside else [])]
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
            self._known_until = self.position + self._decoder.timeout

    def _whose(self, household: Household, detection: Detection) -> str:
        """Who said it: of two who are heard, whoever is known by voice, but for what only the other has taught."""
        phrase, profile, also = detection.phrase, self._scorer.profile, self._scorer.also
        if also is None or detection.kind != "phrase" or self.knows(phrase):
            return profile
        taught = [who for who in (profile, also) if household.taught_by(who, phrase) or self._beside_of(who, detection)]
        return taught[0] if taught else profile

    def _beside_of(self, profile: str, detection: Detection) -> int:
        """The version of the earlier model's adapter by which the detection was made for ``profile``, 0 for none."""
        return self._beside.carried.number(profile, detection.phrase) if self._beside else 0

    def _whole_utterance(self, position: int) -> Detection | None:
        """Judge an utterance that ends unanswered and was longer than a window, resampled to one."""
        start, end = self._decoder.utterance
        newest = (position - end) // BLOCK
        length = (end - start) // BLOCK
        if not WINDOW < length <= LONGEST - newest:
            return None
        every = np.array(self._embeddings, np.float32).reshape(-1, EMBEDDING)
        if len(every) < length + newest:
            return None
        spoken = every[len(every) - newest - length : len(every) - newest]
        scores = self._scorer.window(resample_window(spoken))
        if self._beside:
            scores = self._joined(scores, self._beside.whole(length, newest, resample_window))
        if self._along is not None:
            scores[self._along.columns] = 0.0  # aligned, at whatever pace
        return self._decoder.hear_whole(scores, weigh=self._along is not None)
