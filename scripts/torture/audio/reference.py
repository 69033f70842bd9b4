"""What the daemon should have told: the same samples through a chain here, and both lists side by side.

A stretch is sound without a hole: from where the device started, or samples were lost, to where that happens again.
Each begins with a chain and a converter that never heard anything, so an event that rests on sound from before a fault
is one that the daemon tells and the reference does not. Nor may it reach back, or be of a word that was cut: see
``compare``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from idiolect.listening.audio.convert import AudioConverter
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.decoder import UTTERANCE_GAP, Listening
from idiolect.listening.recognizer import Recognizer
from idiolect.values import BLOCK, SAMPLE_RATE, Captured, Detection

CLOCK_S = 0.005
"""The daemon rounds wall time to milliseconds."""


@dataclass(frozen=True)
class Expected:
    """A detection of the reference: ``decided`` is the position at which it was certain, both within the stretch."""

    detection: Detection
    decided: int
    span: tuple[float, float] = (0.0, 0.0)
    """Wall time between which the daemon decided: when the sound was told, and when it was processed."""


@dataclass
class Stretch:
    """One stretch, as it should be and as it was told; ``span`` in wall time, ``length`` in samples."""

    number: int
    expected: list[Expected] = field(default_factory=list)
    told: list[Mapping[str, object]] = field(default_factory=list)
    span: tuple[float, float] = (0.0, 0.0)
    length: int = 0
    loss: int = -1
    """Samples that are known to be missing before it; -1: the daemon estimates them."""


class Reference:
    """Hears what the daemon hears."""

    def __init__(self, recognizer: Recognizer, wish: Listening, *, gated: bool) -> None:
        self._recognizer, self._wish, self._gated = recognizer, wish, gated
        self._chain: Chain | None = None
        self.blocks = 0
        """Complete blocks so far, in all stretches."""

    def begin(self, rate: int, channels: int, *, gain_db: float = 0.0) -> None:
        """A new stretch, from a device that gives this."""
        self._converter = AudioConverter(rate, channels, gain_db=gain_db)
        self._anew()

    def _anew(self) -> None:
        """A chain that never heard anything, but for the noise of the room; it knows that something is missing."""
        before = self._chain
        self._chain = self._recognizer.chain(self._wish, gated=self._gated)
        if before is not None:
            if self._chain._gate and before._gate:
                self._chain._gate._floor = before._gate._floor
            self._chain.lose(0)

    def relisten(self, wish: Listening, *, at_once: bool = True) -> None:
        """Listen for something else, as after a reload; or only from the next stretch on."""
        self._wish = wish
        if at_once:
            self._chain.listen_for(wish)

    def hear(self, data: bytes) -> list[Expected]:
        """What has to be told about these frames."""
        return self._process(self._converter.feed(data))

    def hear_late(self, data: bytes, kept: int) -> tuple[list[Expected], int]:
        """The same where a queue forgot all but the last ``kept`` blocks; and how many it forgot."""
        blocks = self._converter.feed(data)
        lost = max(0, len(blocks) - kept)
        if lost:
            self._anew()
        self.blocks += lost
        return self._process(blocks[lost:]), lost

    def _process(self, blocks: Sequence[Captured]) -> list[Expected]:
        found = []
        for block in blocks:
            heard = self._chain.process(block.samples)
            found += [Expected(each, self._chain.position) for each in heard]
        self.blocks += len(blocks)
        return found

    @property
    def position(self) -> int:
        """Samples of this stretch so far."""
        return self._chain.position


_Key = tuple[object, ...]


def _wanted(each: Expected) -> _Key:
    d = each.detection
    return d.kind, d.phrase, round(d.score, 4), round(d.margin, 4), round(d.threshold, 4), d.end - d.start


def _told(event: Mapping[str, object]) -> _Key:
    numbers = (event["score"], event["margin"], event["threshold"])
    return event["kind"], event["phrase"], *numbers, int(str(event["end"])) - int(str(event["start"]))


def compare(stretch: Stretch) -> list[str]:
    """What is missed, doubled, invented, in disorder, out of place, or not of its time. No phrase is named."""
    wanted, told = [_wanted(each) for each in stretch.expected], [_told(event) for event in stretch.told]
    where = f"stretch {stretch.number}"
    if wanted != told:
        return _differing(where, wanted, told)
    found = []
    offset = offset_of(stretch)
    for expected, event in zip(stretch.expected, stretch.told, strict=True):
        what = f"{where}: the {expected.detection.kind} event at {expected.detection.end}"
        if int(str(event["start"])) - expected.detection.start != offset:
            found.append(f"{what} is {int(str(event['start'])) - expected.detection.start - (offset or 0)} samples off")
        if expected.detection.start < 0 or expected.detection.end > expected.decided:
            found.append(f"{what} rests on sound from before or behind it")
        if stretch.number and expected.decided <= UTTERANCE_GAP * BLOCK:
            found.append(f"{what} is of a word that was cut")
        first, last = expected.span
        at = float(str(event["time"]))
        if not first - CLOCK_S <= at <= last + CLOCK_S:
            late = at - last if at > last else at - first
            found.append(f"{what} was told {late:.3f} s away from when its sound was there")
    return found


def _differing(where: str, wanted: Sequence[_Key], told: Sequence[_Key]) -> list[str]:
    missed, more = Counter(wanted) - Counter(told), Counter(told) - Counter(wanted)
    doubled = sum(count for key, count in more.items() if key in wanted)
    invented = more.total() - doubled
    counts = {"missed": missed.total(), "doubled": doubled, "invented or different": invented}
    found = [f"{where}: {count} of {len(wanted)} events {what}" for what, count in counts.items() if count]
    return found or [f"{where}: events came in another order"]


def offset_of(stretch: Stretch) -> int | None:
    """Where the stretch begins by the daemon's count; None where nothing told it."""
    if not (stretch.expected and stretch.told):
        return None
    return int(str(stretch.told[0]["start"])) - stretch.expected[0].detection.start


class Positions:
    """The daemon's count of samples over all stretches: it goes on by what was heard and by what it says was lost."""

    def __init__(self) -> None:
        self._at: int | None = None  # behind the last stretch of which that is known
        self._least = self._most = 0  # and what lies between that and the next
        self.lost = 0
        """Samples that the daemon counted as lost, as far as stretches with events tell."""
        self.exact = 0
        """Losses that are known to a sample, and were counted so."""

    def check(self, stretch: Stretch, before: Stretch | None) -> list[str]:
        """Whether the stretch begins where it may: at least a sample, at most the wall time between, was lost."""
        gap = max(0.0, stretch.span[0] - before.span[1]) if before else 0.0
        self._least += stretch.loss if stretch.loss >= 0 else 1
        self._most += stretch.loss if stretch.loss >= 0 else round(gap * SAMPLE_RATE) + 2 * BLOCK
        offset, found = offset_of(stretch), []
        if offset is not None:
            if self._at is not None:
                lost = offset - self._at
                self.lost += lost
                self.exact += self._least == self._most
                if not self._least <= lost <= self._most:
                    expected = f"{self._least} to {self._most}"
                    found.append(f"stretch {stretch.number}: {lost} samples were counted as lost, not {expected}")
            self._at, self._least, self._most = offset, 0, 0
        if self._at is not None:
            self._at += stretch.length
        return found


class Order:
    """Ids of all that the stream told: of one run, rising, none twice."""

    def __init__(self) -> None:
        self._run, self._last = "", 0

    def check(self, ident: str) -> list[str]:
        """The next one."""
        run, _, number = ident.rpartition("-")
        wrong = not number.isdigit() or (self._run and run != self._run) or int(number) <= self._last
        if wrong:
            return [f"an id does not follow the one before it ({number} after {self._last})"]
        self._run, self._last = run, int(number)
        return []
