"""Admission decides which examples may move anything. The others stay in quarantine, where the owner sees them.

A ledger goes in, with its examples after the base model; a verdict for each example comes out.

What a person recorded on purpose, prompted and counted, is admitted as it is (its own checks: ``attempt``), but for 3
and 8. A correction or confirmation comes by the way, perhaps from somebody else, and must pass all of these, in order:

1. source: a confirmation counts only with the consent ``voice_match``; a correction came from its owner's client;
2. caps: its session and its day have weight left (``ledger.weights``);
3. fresh: it is not one of the earlier examples again (a recording played twice has the same embeddings);
4. neighbours: the phrase it is said to be is among what it sounds like, by prototype and own examples. Who was misheard
   did not clearly say what was heard; where the device made no mistake, it was said clearly. Where something was heard,
   two things speak against another phrase: by how much the similarity to it is below the best of all phrases, and, at
   HEAD for each, the log-odds with which the base head hears its best phrase rather than this one. Their sum is at most
   ROOM times what that similarity is above FAINT: a voice like no prototype (a made-up one) is as near to one as to
   another, so that what the head hears is all that is known of it. Where nothing was heard, the similarity is below the
   best by no more than REACH, and than itself. For a phrase that the head does not know, and for a confirmation, which
   contradicts nothing, it is within ALONE of the best;
5. speaker, with ``voice_match`` only: it sounds like its owner's enrolment;
6. direction: it does not draw the phrase towards another one: the update it would bring does not point along the way
   from the phrase's prototype to the one that the device heard, unless the person's enrolment lies there already: it
   sounds more like that than like the prototype;
7. pattern: no more than SUSPECTS of the same kind (this phrase said, that one heard) stand in quarantine; then the
   rest of the kind follows them, until the owner releases them;
8. carried over, for enrolments that were mapped from an earlier encoder only: they are as alike as ``attempt`` asked
   of them when they were spoken.

All is decided anew in every round from the ledger alone, in order of arrival.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idiolect.learning.ledger import WEIGHTS, Example, Ledger, weights
from idiolect.listening.attempt import alike

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.model import Model

SAME = 0.995
"""Cosine above which two windows are one recording: takes of a word by one speaker stay below 0.97."""
HEAD = 0.1
ROOM = 1.5
FAINT = 0.08
REACH = 0.2
AGAINST = 0.35
"""These were chosen on every second speaker (``evaluation.personal.poison.tuning``), with models that never heard them:
of 101 ordinary corrections 94 % count, of words that were understood 5 % pass as any one of the 22 other phrases (8 %
where she who corrects has enrolled), and none of 320 attacks moved anything. By similarity alone, with no word from the
head and without own takes in check 6, 72 % counted at 7 %, or 75 % at 20 %.
"""
ALONE = 0.12
"""Chosen on words that no bundle knows, two takes enrolled of each: 97 % of further takes count, and of other words
that are said to be one of them 19 %; at 0.2 99 % and 34 %."""
SPEAKER_LEAST = 0.05
SUSPECTS = 2

REASONS = {
    0: "admitted",
    1: "needs the consent voice_match: it was not said on purpose",
    2: "enough was learnt in this sitting, or on this day",
    3: "the same recording as before",
    4: "does not sound like the phrase it is said to be",
    5: "does not sound like the person it is said to be from",
    6: "would draw the phrase towards another one",
    7: "one of several that looked wrong in the same way",
    8: "cannot be carried over from the earlier encoder: teach the phrase again",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one example: ``check`` 0 admits it, else it is the number of the check that it did not pass."""

    check: int
    weight: float

    @property
    def admitted(self) -> bool:
        """Return True if the example counts."""
        return self.check == 0

    @property
    def reason(self) -> str:
        """Return the verdict in plain words."""
        return REASONS[self.check]


class Admission:
    """Goes once over a ledger, in order of arrival, and keeps what was admitted so far: later verdicts depend on it."""

    def __init__(
        self, model: Model, ledger: Ledger, z: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> None:  # fmt: skip
        """Prepare to judge the examples of ``ledger``.

        Args:
            z: one row for each example, the mean over its windows, (n, D).
            logits: the base head's for each example, the mean over its windows, (n, C).
        """
        self._model, self._ledger, self._logits = model, ledger, logits
        self._unit = z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-9)
        self._weights = weights(ledger.examples)
        self._admitted: list[int] = []
        self._suspects: Counter[tuple[str, str]] = Counter()
        self._index = {name: i for i, name in enumerate(model.classes) if np.any(model.space.prototypes[i])}

    def run(self, count: int | None = None) -> list[Verdict]:
        """Return a verdict for every example, or for the first ``count``."""
        found = []
        for i, example in enumerate(self._ledger.examples[:count]):
            check = self.check(i, example)
            if check == 0:
                self._admitted.append(i)
            elif check in (4, 6):
                self._suspects[example.phrase, example.heard] += 1
            found.append(Verdict(check, float(self._weights[i]) if check == 0 else 0.0))
        return found

    def check(self, i: int, example: Example) -> int:
        """Return the first check that example ``i`` does not pass after what was admitted so far, 0 for none."""
        if example.source == "enrolment":
            return 3 if self._seen(i) else 0 if not example.origin or self._carried(i, example) else 8
        checks: dict[int, Callable[[], bool]] = {
            1: lambda: example.source == "correction" or self._ledger.voice,
            2: lambda: self._weights[i] >= WEIGHTS[example.source] / 2,
            3: lambda: not self._seen(i),
            4: lambda: self._near(i, example),
            5: lambda: not self._ledger.voice or self._own_voice(i, example),
            6: lambda: not self._drawn(i, example),
            7: lambda: self._suspects[example.phrase, example.heard] < SUSPECTS,
        }
        return next((number for number, passes in checks.items() if not passes()), 0)

    def _carried(self, i: int, example: Example) -> bool:
        same = ("enrolment", example.phrase)
        takes = [j for j, e in enumerate(self._ledger.examples) if j != i and (e.source, e.phrase) == same]
        return alike(self._unit[i], [self._unit[j] for j in takes])

    def _seen(self, i: int) -> bool:
        """Return True if example ``i`` is one of the earlier ones again, whether these were admitted or not."""
        return bool(i and (self._unit[:i] @ self._unit[i]).max() > SAME)

    def _to_prototype(self, i: int, phrase: str) -> float:
        """Return the cosine of example ``i`` to the phrase's prototype, -1 for a phrase without one."""
        if phrase not in self._index:
            return -1.0
        mu = self._model.space.prototypes[self._index[phrase]]
        return float(self._unit[i] @ mu) / (float(np.linalg.norm(mu)) + 1e-9)

    def _to_own(self, i: int, phrase: str, *, enrolled: bool = False) -> float:
        """Return the cosine to the centre of the person's own examples of the phrase; -1 without any.

        With ``enrolled`` only examples of an enrolment count.
        """
        examples = self._ledger.examples
        own = [j for j in self._admitted if examples[j].phrase == phrase]
        own = [j for j in own if examples[j].source == "enrolment"] if enrolled else own
        if not own:
            return -1.0
        centre = self._unit[own].mean(0)
        return float(self._unit[i] @ centre) / (float(np.linalg.norm(centre)) + 1e-9)

    def _similarity(self, i: int, phrase: str) -> float:
        """Return the similarity to the phrase's prototype or to the centre of the person's own examples, the nearer."""
        return max(self._to_prototype(i, phrase), self._to_own(i, phrase))

    def _near(self, i: int, example: Example) -> bool:
        names = {*self._index, *(e.phrase for e in self._ledger.examples if e.source == "enrolment")}
        if example.phrase not in names:
            return False
        best = max(self._similarity(i, name) for name in sorted(names))
        like = self._similarity(i, example.phrase)
        if example.source != "correction" or example.phrase not in self._model.classes:
            return best - like <= ALONE
        if not example.heard:
            return best - like <= min(REACH, like)
        return best - like + HEAD * self._contradicted(i, example.phrase) <= ROOM * (like - FAINT)

    def _contradicted(self, i: int, phrase: str) -> float:
        """Return the log-odds, at least 0, with which the base head hears its best phrase rather than this one."""
        logits = self._logits[i]
        known = [self._model.classes.index(name) for name in (*self._model.phrases, phrase)]
        return float(logits[known].max() - logits[self._model.classes.index(phrase)])

    def _own_voice(self, i: int, example: Example) -> bool:
        """Compare the residual from the phrase's prototype with the mean residual of the person's enrolment."""
        enrolled = [j for j in self._admitted if self._ledger.examples[j].source == "enrolment"]
        known = [j for j in enrolled if self._ledger.examples[j].phrase in self._index]
        if len(known) < 3 or example.phrase not in self._index:
            return True
        mean = np.mean([self._residual(j) for j in known], axis=0)
        mine = self._residual(i)
        return float(mine @ mean) >= SPEAKER_LEAST * float(np.linalg.norm(mine) * np.linalg.norm(mean))

    def _residual(self, i: int) -> NDArray[np.float32]:
        mu = self._model.space.prototypes[self._index[self._ledger.examples[i].phrase]]
        return np.asarray(self._unit[i] - mu, np.float32)

    def _drawn(self, i: int, example: Example) -> bool:
        """Compare the cosine of (z - mu_said) with (mu_heard - mu_said), against AGAINST."""
        if example.heard not in self._index or example.phrase not in self._index:
            return False
        if self._to_own(i, example.phrase, enrolled=True) > self._to_prototype(i, example.phrase):
            return False
        way = self._model.space.prototypes[self._index[example.heard]]
        way = way - self._model.space.prototypes[self._index[example.phrase]]
        mine = self._residual(i)
        return float(mine @ way) > AGAINST * float(np.linalg.norm(mine) * np.linalg.norm(way))


def admit(
    model: Model, ledger: Ledger, z: Sequence[NDArray[np.float32]], logits: NDArray[np.float32]
) -> list[Verdict]:  # fmt: skip
    """Return a verdict for every example of a ledger.

    Args:
        z: of each example, (n of (D,)).
        logits: the base head's of each example, (n, C).
    """
    if not ledger.examples:
        return []
    return Admission(model, ledger, np.stack(z), logits).run()
