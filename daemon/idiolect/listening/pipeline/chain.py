"""The chain: samples in, detections out. Every stage is streaming, deterministic and free of I/O.

Samples are cut into blocks of 1280 whatever sizes they come in, so the same samples give the same detections.
While the gate is shut only the last 27 blocks are kept; at the next onset they are replayed, which is as long as
the encoder (10 steps), the window (16 embeddings) and the smoothing remember. So a gated chain goes on in the very
state that an ungated one has, and makes the same detections. What is made of the embeddings is ``hearing``'s.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.pipeline.decoder import SMOOTHING, Listening, State
from idiolect.listening.pipeline.earlier import EarlierModel
from idiolect.listening.pipeline.encoder import Embedder
from idiolect.listening.pipeline.frontend import Frontend
from idiolect.listening.pipeline.gate import Gate
from idiolect.listening.pipeline.head import Head
from idiolect.listening.pipeline.hearing import UNSETTLED, Hearing, Step, Still
from idiolect.listening.pipeline.household import Household
from idiolect.values import BLOCK, Detection

MEMORY = UNSETTLED + SMOOTHING
"""Blocks after which nothing of the past is left in the encoder, the window or the smoothed scores."""


class Chain:
    """One audio stream from samples to detections."""

    def __init__(self, encoder: Embedder, head: Head, listening: Listening, *, gated: bool = True) -> None:
        self._frontend = Frontend()
        self._encoder = encoder
        self._gate = Gate() if gated else None
        self._rest = np.empty(BLOCK, np.int16)  # samples that do not fill a block yet
        self._held: deque[NDArray[np.int16]] = deque(maxlen=MEMORY)
        self._hearing = Hearing(head, listening, self._gate or Still())
        self.reset()

    @property
    def position(self) -> int:
        """Return the sample behind the newest block's last."""
        return self._hearing.position

    @property
    def last_speech(self) -> int:
        """Return the position behind the newest block in which somebody seemed to speak: a few in a row count."""
        return self._hearing.last_speech

    @property
    def profile(self) -> str:
        """Return who is taken to speak: between turns, or where no voice is known, whom ``address`` named."""
        return self._hearing.profile

    @property
    def state(self) -> State:
        """Return where the conversation stands: whether a turn is open, and whether it needs one."""
        return self._hearing.decoder.state

    @property
    def awake(self) -> bool:
        """Return whether the encoder is running, that is, whether there is sound."""
        return self._awake

    @property
    def runtime(self) -> str:
        """Return the name of the TFLite runtime in use."""
        return self._encoder.runtime

    def listen_for(
        self, listening: Listening, household: Household | None = None, carried: EarlierModel | None = None
    ) -> None:
        """Change what is listened for, and for whom (``Hearing.listen_for``)."""
        self._hearing.listen_for(listening, household, carried)

    def end_turn(self) -> None:
        """End an open turn without an event."""
        self._hearing.decoder.end_turn()

    def address(self, profile: str) -> None:
        """Take ``profile`` to be the one who speaks, from now on."""
        self._hearing.address(profile)

    def demand(self, more: float) -> None:
        """Raise what scores must reach by so many log-odds, from now on; an open turn goes on."""
        self._hearing.demand(more)

    def knows(self, phrase: str) -> bool:
        """Return whether a phrase is the bundle's, and not one that somebody taught."""
        return self._hearing.knows(phrase)

    def recent(self, count: int) -> NDArray[np.float32] | None:
        """Return the newest embeddings, (count, 96); None when there are not so many yet."""
        return self._hearing.recent(count)

    def reset(self, *, same_room: bool = False) -> None:
        """Forget all audio, as after a gap: nothing heard before can be part of an event. ``position`` goes on.

        In the ``same_room`` its noise is known still, so that it is told from speech at once and not after seconds.
        """
        self._frontend.reset()
        self._encoder.reset()
        self._hearing.reset()
        if self._gate:
            self._gate.reset(same_room=same_room)
        for block in self._held:  # memory that is given back keeps what lies in it
            block[:] = 0
        self._rest[:] = 0
        self._held.clear()
        self._filled = 0
        self._skipped = 0
        self._awake = True

    def lose(self, samples: int) -> None:
        """Say that ``samples`` are missing here, after an overrun or while the microphone was away.

        Of a word that was cut there is no event: its end may sound like another.
        """
        self._hearing.position += samples + self._filled
        self.reset(same_room=True)
        self._hearing.decoder.reset(self.position, cut=UNSETTLED)

    def process(self, samples: NDArray[np.int16]) -> list[Detection]:
        """Take any number of samples, int16 mono at 16 kHz; return what became certain, in order."""
        steps = self.steps(samples)
        return [step.detection for step in steps if step.detection]

    def steps(self, samples: NDArray[np.int16]) -> list[Step]:
        """Take samples as ``process`` does; return what each processed block brought (one skipped in silence: none)."""
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
        self._hearing.position += BLOCK
        if self._gate is None:
            return [self._hearing.step(self._encode(block), active=True)]
        opened = self._gate.hear(block)
        self._hold(block)
        if not opened and self._hearing.decoder.state is not State.TURN:
            self._skipped += 1
            self._awake = False
            self._hearing.lead_back(self.position)
            if self._skipped == MEMORY:  # from here on a replay is a fresh start
                self._frontend.reset()
            return []
        self._awake = True
        if self._skipped:
            return self._replay()
        return [self._hearing.step(self._encode(block), active=self._gate.active)]

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
            self._hearing.decoder.skip(missed - MEMORY + settle)
        steps = []
        for i, block in enumerate(blocks):
            behind = len(blocks) - 1 - i
            embedding = self._encode(block)
            posteriors = self._hearing.score(embedding)
            if i >= settle:  # no turn is open: in one the gate stays open
                active = behind == 0 and self._gate is not None and self._gate.active
                position = self.position - BLOCK * behind
                steps.append(self._hearing.decide(embedding, posteriors, position, active=active))
        return steps

    def _encode(self, block: NDArray[np.int16]) -> NDArray[np.float32]:
        frames = self._frontend.frames(block)
        embedding = self._encoder.step(frames)
        if self._hearing.beside:
            self._hearing.beside.encode(frames)
        return embedding
