"""The figures, under the keys that ``--json`` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bundlebuild.words import BACKGROUND, DIGITS, UNKNOWN
from idiolect.listening.pipeline.head import Head
from idiolect.listening.recognizer import listening
from idiolect.trust.bundle.bundle import Bundle

from .embed import Heard
from .tasks import SC12, Confusion, decide_digit, decide_sc12, posteriors, wake_events

PAIRS = (("clean", "float"), ("snr10", "snr10_float"), ("snr5", "snr5_float"), ("quiet", "quiet_float"))
"""Conditions that differ only in the encoder's graph."""
LABELLED = ("speech_commands", "silence")
UNHEARD = "no clips of this task that the head was not trained on"


class Figures:
    """Collects figures and, for each that cannot be had, the reason."""

    def __init__(self, bundle: Bundle, head: Head, heard: Sequence[Heard]) -> None:
        self._bundle, self._head, self.heard = bundle, head, heard
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.confusions: dict[str, Confusion] = {}

    def _put(self, key: str, value: float | None, reason: str) -> None:
        self.values[key] = None if value is None else round(value, 5)
        if value is None:
            self.reasons[key] = reason

    def _task(
        self, sources: Sequence[str], labels: Sequence[str], condition: str, decide: Callable[[Any], str]
    ) -> Confusion:
        clips = [h for h in self.heard if h.clip.source in sources and condition in h.embeddings]
        said = [h.clip.label for h in clips]
        answers = [decide(posteriors(self._head, h.embeddings[condition])) for h in clips]
        return Confusion.of(labels, [s if s in labels else UNKNOWN for s in said], answers)

    def accuracies(self) -> None:
        """Both closed tasks in every condition, and what int8 costs against float through the same head."""
        for condition, twin in PAIRS:
            suffix = "" if condition == "clean" else f"_{condition}"
            quantized, exact = self._tasks(condition, suffix), self._tasks(twin, f"{suffix}_float")
            loss = None if quantized is None or exact is None else 100.0 * (exact - quantized)
            self._put(f"int8_loss_points{suffix}", loss, "needs both graphs, and labelled clips")
        classes = self._bundle.classes
        if all(word in classes for word in DIGITS):
            among = [c for c in classes if c != BACKGROUND]
            open_set = self._task(("digits",), among, "clean", lambda p: decide_digit(p, classes, among=among))
            self._put("base.digits_accuracy_any_class", open_set.accuracy, UNHEARD)

    def _tasks(self, condition: str, suffix: str) -> float | None:
        """Run the tasks whose words the bundle has; return the accuracy over all their clips together."""
        classes = self._bundle.classes
        tasks: list[tuple[str, Confusion]] = []
        if all(word in classes for word in SC12):
            tasks.append(("sc12", self._task(LABELLED, SC12, condition, lambda p: decide_sc12(p, classes))))
        if all(word in classes for word in DIGITS):
            tasks.append(("digits", self._task(("digits",), DIGITS, condition, lambda p: decide_digit(p, classes))))
        for task, confusion in tasks:
            self._put(f"base.{task}_accuracy{suffix}", confusion.accuracy, UNHEARD)
            self.confusions[f"{task}{suffix}"] = confusion
        total = sum(int(c.counts.sum()) for _, c in tasks)
        return sum(int(c.counts.trace()) for _, c in tasks) / total if total else None

    def wake_words(self) -> None:
        """Misses and false accepts per wake word, by the events of the device's own decoder."""
        wished = listening(self._bundle, phrases=[])
        said = [h for h in self.heard if "clean" in h.embeddings]
        scores = {id(h): posteriors(self._head, h.embeddings["clean"]) for h in said}
        events = {id(h): wake_events(scores[id(h)], wished) for h in said}
        for phrase in self._bundle.wake_words:
            own = [h for h in said if h.clip.label == phrase]
            other = [h for h in said if h.clip.label not in (phrase, BACKGROUND)]
            hours = sum(h.seconds for h in other) / 3600.0
            missed = sum(phrase not in events[id(h)] for h in own)
            accepted = sum(events[id(h)].count(phrase) for h in other)
            key = f"base.wake.{phrase}"
            self._put(f"{key}.miss_rate", missed / len(own) if own else None, f"no unseen clips of {phrase!r}")
            rate = accepted / hours if hours else None
            self._put(f"{key}.false_accepts_per_hour", rate, "no unseen speech other than the phrase")
            self.values[f"{key}.clips"], self.values[f"{key}.false_accepts"] = len(own), accepted
            for condition in ("snr10", "snr5", "quiet"):
                rows = [h for h in own if condition in h.embeddings]
                gone = sum(
                    phrase not in wake_events(posteriors(self._head, h.embeddings[condition]), wished) for h in rows
                )
                self._put(
                    f"{key}.miss_rate_{condition}", gone / len(rows) if rows else None, "no clips in this condition"
                )
        speech = [h for h in said if h.clip.label not in (*self._bundle.wake_words, BACKGROUND)]
        self.values["base.negative_hours"] = round(sum(h.seconds for h in speech) / 3600.0, 4)
        by_source: dict[str, float] = {}
        for h in speech:
            by_source[h.clip.source] = by_source.get(h.clip.source, 0.0) + h.seconds / 3600.0
        self.values["base.negative_hours_by_source"] = {k: round(v, 4) for k, v in sorted(by_source.items())}
