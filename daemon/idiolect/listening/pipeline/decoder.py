"""The decoder: posteriors in, one detection per utterance out.

Theory of operation. Each step brings the posterior of every class for the window that ends now. Two things are
decided apart:

* ``Peaks`` smooths posteriors and decides *that a phrase was spoken*: a class that is listened for crosses its
  threshold, its peak is waited for (two steps at most, none when the lead is clear), and it is reported once. It is
  then disarmed until its score has fallen to half the threshold and the refractory period is over; every other phrase
  must wait a third of a second.
* ``Decoder`` decides *what that means now*, by the table ``TURNS``: a wake word opens a turn, a phrase closes it,
  speech that was no phrase is rejected, and a turn in which nothing is said times out. Some phrases ("stop") need
  no turn, and with ``always`` none does.

In the turn of somebody who taught phrases a peak is not the end: what has been heard is held, and the best phrase of
the whole utterance wins (``weighing``). Wake words stay at once, and what needs no turn where it cannot be a part of
a taught phrase.

Everything is counted in blocks of 80 ms and in sample positions; there is no clock in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from idiolect.listening.pipeline.weighing import PAUSE, Peak, Weighing, Whole
from idiolect.values import BLOCK, SAMPLE_RATE, Detection, EventKind

SMOOTHING = 2
"""Steps over which posteriors are averaged."""
PEAK_WAIT = 2
"""Steps that a score above its threshold may go on rising before it is reported."""
CLEAR = 0.5
"""Margin over every other class at which nothing is worth waiting for."""
SEPARATION = 4
"""Blocks (0.32 s) between two events of different phrases."""
RELEASE = 0.5
"""Part of its threshold to which a phrase's score must fall before it can be reported again."""
UTTERANCE_GAP = 7
"""Blocks (0.56 s) without sound that end an utterance."""
UTTERANCE_LEAST = 3
"""Active blocks (0.24 s) that make an utterance worth rejecting; less is a click."""


class State(Enum):
    """The places in a conversation where the decoder can be."""

    IDLE = "idle"
    """Waiting for a wake word; only always-on phrases count besides."""
    TURN = "listening"
    """A wake word was heard: any phrase counts, until one is heard or time is up."""
    OPEN = "always"
    """Every phrase counts at any time."""


class Signal(Enum):
    """The things that can happen to a conversation."""

    WAKE = "wake"
    PHRASE = "phrase"
    UNKNOWN_SPEECH = "unknown speech"
    TIME_OUT = "time-out"


TURNS: dict[tuple[State, Signal], tuple[State, EventKind | None]] = {
    (State.IDLE, Signal.WAKE): (State.TURN, "wake"),
    (State.IDLE, Signal.PHRASE): (State.IDLE, "phrase"),
    (State.TURN, Signal.WAKE): (State.TURN, "wake"),
    (State.TURN, Signal.PHRASE): (State.IDLE, "phrase"),
    # The person may try again until the turn's time is up.
    (State.TURN, Signal.UNKNOWN_SPEECH): (State.TURN, "rejected"),
    (State.TURN, Signal.TIME_OUT): (State.IDLE, None),
    (State.OPEN, Signal.WAKE): (State.OPEN, "wake"),
    (State.OPEN, Signal.PHRASE): (State.OPEN, "phrase"),
}
"""(state, signal) -> (next state, event to report). What is not listed changes nothing."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores that must be reached, each (classes,), 0..1: at any time, and in a turn."""

    free: NDArray[np.float32]
    turn: NDArray[np.float32]


def raised(thresholds: NDArray[np.floating], by: float) -> NDArray[np.float32]:
    """Return thresholds with ``by`` more in log-odds, so that none reaches 0 or 1; a 1 is no phrase's, and stays."""
    odds = thresholds / np.maximum(1.0 - thresholds, 1e-7) * np.exp(by)
    return np.where(thresholds < 1.0, odds / (1.0 + odds), thresholds).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Listening:
    """The classes listened for: masks and thresholds in the order of ``classes``, which begin with the head's."""

    classes: tuple[str, ...]
    wake: NDArray[np.bool_]
    """True for classes that are enabled wake words."""
    phrases: NDArray[np.bool_]
    """True for classes that are enabled phrases."""
    always_on: NDArray[np.bool_]
    """True for enabled phrases that need no wake word."""
    thresholds: NDArray[np.float32]
    """Per class, 0..1; for classes that are no phrase the value is never looked at."""
    turn_thresholds: NDArray[np.float32]
    """Per class in a turn, in which somebody is known to speak to us: lower, as a miss costs more than a slip."""
    mode: State = State.IDLE
    """Where a conversation rests: ``IDLE`` or ``OPEN``."""
    timeout: int = 75
    """Blocks that a turn lasts."""
    refractory: int = 10
    """Blocks until the same phrase can be heard again."""
    pause: int = PAUSE
    """Blocks without sound that end an utterance in which something longer was possible."""
    by_profile: Mapping[str, Thresholds] = field(default_factory=dict)
    """Thresholds of those who have their own, while they are taken to be the one who speaks."""


class Peaks:
    """Turns posteriors into peaks, each reported once."""

    def __init__(self, listening: Listening) -> None:
        self._l = listening
        count = len(listening.classes)
        self._recent = np.zeros((SMOOTHING, count), np.float32)
        self.hold(Thresholds(listening.thresholds, listening.turn_thresholds))
        self._high = np.zeros(count, np.bool_)  # up since the last report: part of the same utterance
        self._until = np.zeros(count, np.int64)  # step before which a class is not reported again
        self.reset()

    def reset(self) -> None:
        """Forget all scores and all reports."""
        self._recent[:] = 0.0
        self._scores = self._recent[0]
        self._best: Peak | None = None
        self._waited = 0
        self._step = 0
        self._until[:] = 0
        self._high[:] = False

    def hold(self, limits: Thresholds) -> None:
        """Let phrases be reported again below half of these thresholds."""
        self._release = np.minimum(limits.free, limits.turn) * RELEASE

    def push(
        self, posteriors: NDArray[np.float32], eligible: NDArray[np.bool_], thresholds: NDArray[np.float32]
    ) -> Peak | None:
        """Take one step's posteriors, float32 (classes,); return the peak that is certain now, if any."""
        self._step += 1
        self._recent[self._step % SMOOTHING] = posteriors
        self._scores = scores = self._recent.mean(axis=0)
        self._high &= scores > self._release
        over = self.over(eligible, thresholds)
        if not over.any():
            # The score has fallen below the threshold again: what was seen was the peak.
            return self._report() if self._best else None
        index = int(np.argmax(np.where(over, scores, -1.0)))
        score = float(scores[index])
        if self._best is None or score > self._best.score:
            others = np.delete(scores, index)
            self._best = Peak(index, score, score - float(others.max(initial=0.0)))
            self._waited += 1
            if self._waited <= PEAK_WAIT and self._best.margin < CLEAR:
                return None
        return self._report()

    def over(self, eligible: NDArray[np.bool_], thresholds: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which classes have reached their thresholds with the newest step and may be reported."""
        reached: NDArray[np.bool_] = self._scores >= thresholds
        return reached & self.may(eligible)

    def may(self, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of these classes have not just been reported."""
        free: NDArray[np.bool_] = eligible & ~self._high & (self._until <= self._step)
        return free

    @property
    def scores(self) -> NDArray[np.float32]:
        """Return the smoothed posteriors, (classes,)."""
        scores: NDArray[np.float32] = self._scores
        return scores

    def pass_over(self, posteriors: NDArray[np.float32]) -> None:
        """Take one step's posteriors and report nothing: a phrase that is up now counts only after it has fallen."""
        self._step += 1
        self._recent[self._step % SMOOTHING] = posteriors
        self._scores = self._recent.mean(axis=0)
        np.greater(self._scores, self._release, out=self._high)

    def take_over(self, before: Peaks, same: list[tuple[int, int]]) -> None:
        """Report nothing again that ``before`` has reported. ``same`` pairs a class's number here with that there."""
        self._step = before._step
        self._until[:] = before._until.min(initial=0)  # of every phrase: the moment after another one's report
        for mine, theirs in same:
            self._recent[:, mine] = before._recent[:, theirs]
            self._until[mine] = before._until[theirs]
            self._high[mine] = before._high[theirs]

    def skip(self, steps: int) -> None:
        """Let time pass in silence."""
        self._step += steps

    def suppress(self, index: int) -> None:
        """Hold a class back as if it had been reported just now, and for a moment all others."""
        np.maximum(self._until, self._step + SEPARATION, out=self._until)
        self._until[index] = self._step + self._l.refractory
        np.greater(self._scores, self._release, out=self._high)
        self._high[index] = True

    def _report(self) -> Peak | None:
        best, self._best, self._waited = self._best, None, 0
        if best:
            self.suppress(best.index)
        return best


class Decoder:
    """One microphone's conversation. Feed it every step; it returns at most one detection a step."""

    def __init__(self, listening: Listening) -> None:
        self._l = listening
        self._peaks = Peaks(listening)
        anything = listening.wake | listening.phrases
        self._eligible = {
            State.IDLE: listening.wake | listening.always_on,
            State.TURN: anything,
            State.OPEN: anything,
        }
        self._at_once = listening.wake | listening.always_on
        self._waits = listening.phrases & ~self._at_once
        self._weighing = Weighing(listening.pause, listening.always_on)
        self._gap = max(UTTERANCE_GAP, listening.pause)
        self.serve("")
        self.reset()

    def serve(self, profile: str, more: float = 0.0, also: str | None = None) -> None:
        """Use the thresholds of who speaks from now on, raised by ``more`` log-odds; an open turn goes on.

        Where ``also`` is heard beside ``profile``, each phrase has the lower of their two. What needs no wake word is
        not raised: that is what one says to a box that plays something.
        """
        base = Thresholds(self._l.thresholds, self._l.turn_thresholds)
        limits = self._l.by_profile.get(profile, base)
        if also is not None:
            theirs = self._l.by_profile.get(also, base)
            limits = Thresholds(np.minimum(limits.free, theirs.free), np.minimum(limits.turn, theirs.turn))
        if more:
            spared = self._l.always_on
            free, turn = (np.where(spared, each, raised(each, more)) for each in (limits.free, limits.turn))
            limits = Thresholds(free, turn)
        self._thresholds = {State.IDLE: limits.free, State.TURN: limits.turn, State.OPEN: limits.free}
        self._peaks.hold(limits)

    def take_over(self, before: Decoder, position: int) -> None:
        """Go on at ``position`` in the place of ``before``, in the same sound: what that has told is not told again.

        A turn that was open is over.
        """
        self.reset(position, cut=before._cut)
        theirs = {name: index for index, name in enumerate(before._l.classes)}
        same = [(mine, theirs[name]) for mine, name in enumerate(self._l.classes) if name in theirs]
        self._peaks.take_over(before._peaks, same)

    def reset(self, position: int = 0, *, cut: int = 0) -> None:
        """Go back to rest at ``position``, as after broken audio: no event may rest on what was heard before.

        With ``cut`` sound is missing there: of what is being said only the end is heard, and no event is made of that.
        It is over with the next pause, and after so many blocks at the latest.
        """
        self.state = self._l.mode
        self._cut = cut
        self._peaks.reset()
        self._turn_left = 0
        self._active = 0  # active blocks in the current utterance
        self._quiet = 0  # blocks since the last active one
        self._start = self._end = position
        self._begun = False  # whether there has been an utterance
        self._answered = True  # whether the current utterance has had its event
        self._settled = False  # whether what follows the next pause is a new utterance
        self._best = 0.0  # best phrase score of the current utterance
        self._weighing.clear()

    def begin_turn(self) -> None:
        """Open a turn as a wake word does."""
        self.state, self._turn_left = State.TURN, self._l.timeout

    def end_turn(self) -> None:
        """End an open turn without an event: what was said in it is not meant for it."""
        if self.state is State.TURN:
            self.state, self._answered = self._l.mode, True
            self._weighing.clear()

    def push(
        self, posteriors: NDArray[np.float32], *, active: bool, position: int, whole: Whole | None = None
    ) -> Detection | None:
        """Take one step.

        Args:
            posteriors: float32 (classes,), each 0..1.
            active: Whether the block holds sound.
            position: The sample behind its last.
            whole: How taught phrases went along with what is being said; None where all are decided on at their peak.

        Returns:
            The detection that became certain with this step.
        """
        ended = self._follow(active, position)
        if self._cut:
            self._pass_over(posteriors, position)
            return None
        if whole is not None and self.state is State.TURN:
            return self._weigh(posteriors, whole, active=active, ended=ended)
        eligible = self._eligible[self.state]
        peak = self._peaks.push(posteriors, eligible, self._thresholds[self.state])
        if peak:
            signal = Signal.WAKE if self._l.wake[peak.index] else Signal.PHRASE
            return self._signal(signal, peak)
        if self.state is not State.TURN:
            return None
        self._best = max(self._best, float(posteriors[eligible].max(initial=0.0)))
        if ended and not self._answered:
            return self._signal(Signal.UNKNOWN_SPEECH, None)
        return self._tick(active)

    def _weigh(self, posteriors: NDArray[np.float32], whole: Whole, *, active: bool, ended: bool) -> Detection | None:
        """Take a step of a turn in which the best phrase of the whole utterance wins."""
        limits = self._thresholds[State.TURN]
        at_once = self._l.wake if whole.inside >= 0.0 else self._at_once
        if peak := self._peaks.push(posteriors, at_once, limits):
            return self._signal(Signal.WAKE if self._l.wake[peak.index] else Signal.PHRASE, peak)
        may = self._peaks.may((self._l.phrases | self._l.always_on) & ~at_once)
        self._weighing.consider(self._peaks.scores, may, limits, whole)
        if self._weighing.due(whole, active=active, quiet=self._quiet, spoken=self._active):
            return self._settle(whole)
        self._best = max(self._best, float(posteriors[self._waits].max(initial=0.0)))
        if ended and not self._answered:
            return self._signal(Signal.UNKNOWN_SPEECH, None)
        return self._tick(active, whole)

    def _settle(self, whole: Whole) -> Detection | None:
        """Report what is held, or that it cannot be told from another phrase: then the turn stays open."""
        peak, rival = self._weighing.best, self._weighing.rival()
        if peak is None or not self._weighing.whole_said(whole):
            return None
        self._peaks.suppress(peak.index)
        if rival < 0:
            return self._signal(Signal.PHRASE, peak)
        between = (self._l.classes[peak.index], self._l.classes[rival])
        self._best = peak.score
        unclear = self._signal(Signal.UNKNOWN_SPEECH, None)
        return replace(unclear, reason="ambiguous", between=between) if unclear else None

    def skip(self, blocks: int) -> None:
        """Let blocks of silence pass that nobody scored."""
        self._peaks.skip(blocks)
        self._quiet += blocks
        self._cut = max(0, self._cut - blocks)

    def hear_whole(self, posteriors: NDArray[np.float32], *, weigh: bool = False) -> Detection | None:
        """Judge a whole utterance that was too long for one window, resampled in time to one.

        Call it when ``utterance`` has just ended, before any further ``push``; wake words are not taken from it. To
        ``weigh`` it is to hold it beside what was heard in windows.
        """
        if self._answered or self.state is State.IDLE:
            return None
        if weigh and self.state is State.TURN:
            limits = self._thresholds[State.TURN]
            self._weighing.consider(posteriors, self._waits, limits, None)
            return None
        over = posteriors >= self._thresholds[self.state]
        scores = np.where(self._l.phrases & over, posteriors, -1.0)
        index = int(np.argmax(scores))
        if scores[index] < 0.0:
            return None
        others = np.delete(posteriors, index)
        peak = Peak(index, float(scores[index]), float(scores[index] - others.max(initial=0.0)))
        self._peaks.suppress(index)
        return self._signal(Signal.PHRASE, peak)

    @property
    def timeout(self) -> int:
        """Return how many samples a turn lasts."""
        return self._l.timeout * BLOCK

    @property
    def utterance(self) -> tuple[int, int]:
        """Return the samples where the current or last utterance begins and, behind its last active block, ends."""
        return self._start, self._end

    def ending(self, *, weigh: bool = False) -> bool:
        """Return whether the next silent block ends an utterance that has had no event, or is to be settled on."""
        last = self._l.pause if weigh and self.state is State.TURN else self._gap
        return self._quiet == last - 1 and not self._answered

    def _pass_over(self, posteriors: NDArray[np.float32], position: int) -> None:
        """Take a step of what was cut: it is heard, and not told."""
        self._peaks.pass_over(posteriors)
        self._cut = 0 if self._quiet >= UTTERANCE_GAP else self._cut - 1
        self._answered, self._active, self._start = True, 0, position

    def _follow(self, active: bool, position: int) -> bool:
        """Keep track of the utterance; return whether it ended with this block."""
        if active:
            # After an event any pause will do: "seven" and "five" are two utterances, however close.
            if self._quiet >= (1 if self._settled else self._gap) or not self._begun:
                self._active = 0 if self._quiet >= SEPARATION else min(self._active, 0)
                self._start, self._best = position - BLOCK, 0.0
                self._settled, self._begun = False, True
            self._active += 1
            self._quiet = 0
            self._end = position
            if self._active == UTTERANCE_LEAST:
                self._answered = False
            return False
        self._quiet += 1
        return self._quiet == self._gap

    def _tick(self, active: bool, whole: Whole | None = None) -> Detection | None:
        self._turn_left -= 1
        if self._turn_left > 0 or active:  # nobody is cut off in mid-word
            return None
        if whole and self._weighing.best:
            if self._quiet < min(self._l.pause, PAUSE):
                return None  # a dip in speech that goes on is not its end
            if told := self._settle(whole):
                return told
        return self._signal(Signal.TIME_OUT, None)

    def _signal(self, signal: Signal, peak: Peak | None) -> Detection | None:
        if (self.state, signal) not in TURNS:
            return None
        thresholds = self._thresholds[self.state]
        self.state, kind = TURNS[self.state, signal]
        if signal is Signal.WAKE and self.state is State.TURN:
            self._turn_left = self._l.timeout
        # What follows in the same breath is an utterance of its own, once the word itself has died away.
        self._answered, self._active = True, -SEPARATION
        self._settled = True
        self._weighing.clear()
        start, self._start = self._start, self._end
        if kind is None:
            return None
        if peak is None:
            return Detection(kind, "", self._best, 0.0, 0.0, start, self._end)
        name, threshold = self._l.classes[peak.index], float(thresholds[peak.index])
        return Detection(kind, name, peak.score, peak.margin, threshold, start, self._end)


def blocks(seconds: float) -> int:
    """Return the whole blocks in a span of time, at least one."""
    return max(1, round(seconds * SAMPLE_RATE / BLOCK))
