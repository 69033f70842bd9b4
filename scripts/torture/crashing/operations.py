"""What is done to a device while somebody is about to be killed: each operation, and what must be there after each of
its steps. It is told before it is begun, so that whoever killed it knows what may be found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from idiolect.learning.ledger import PURPOSES
from idiolect.learning.worker.process import Worker
from idiolect.people import feedback
from idiolect.people.consent import Consents
from idiolect.people.consent import Person as Agreed
from idiolect.people.learner import Learner
from idiolect.people.review import Rights
from idiolect.people.versions import rollback
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.vault import schema
from torture.crashing.check import Boot
from torture.crashing.choosing import Choosing, Doing, in_use
from torture.crashing.story import MARK, TAKES, TURNED, UNKNOWN, WORDS, Example, Person, State, take

PURPOSES_ASKED = ("enrol", "adapt_corrections", "usage")


class Operations(Choosing):
    """Each method looks for somebody it fits, and gives what is to be done, or None. ``vault`` is open."""

    def __init__(self, boot: Boot, custody: DeviceKeys, chance: random.Random, now: float) -> None:
        super().__init__(chance)
        self._boot, self._custody, self._now = boot, custody, now
        self._learner: Learner

    def _agreed(self, profile: str) -> Agreed:
        return self._learner.consents.find(profile)

    def _refresh(self) -> Doing:
        boot, vault, now = self._boot, self._custody.vault, self._now
        consents = Consents(vault, {}, wall=lambda: now)

        def run() -> None:
            self._learner = Learner(consents, boot.model, boot.encoder, Worker(), lambda: now, boot.succession)
            self._learner.refresh()

        after = {profile: person.after_boot() for profile, person in self._state.items()}
        return Doing([after], run)

    def _close(self) -> Doing:
        return Doing([], self._custody.close)

    # -- consent ------------------------------------------------------------------------------------------------

    def _consent(self) -> Doing | None:
        profile = self._pick(lambda p: not p.known(*PURPOSES_ASKED))
        if profile and (len(self._state) > 1 or self._chance.random() < 0.5):
            name = self._state[profile].name
            wish = tuple(p for p in PURPOSES_ASKED if not self._state[profile].known(p))
        else:
            name, wish = f"{MARK}{self._chance.randrange(1 << 40):x}", PURPOSES_ASKED
            if self._chance.random() < 0.3:
                wish = wish[: self._chance.choice((1, 2))]
        pending = self._learner.consents.begin(name, wish)
        person = self._state.get(pending.profile) or Person(name)
        person = replace(person, receipts={**person.receipts, **dict.fromkeys(pending.purposes, UNKNOWN)})
        return Doing(self._changed(pending.profile, person), self._learner.consents.heard_yes)

    def _withdraw(self) -> Doing | None:
        def run(profile: str, purpose: str) -> None:
            self._learner.consents.withdraw(self._agreed(profile), purpose)
            self._learner.round_owed(profile)

        return self._withdrawing(run)

    def _erase(self) -> Doing | None:
        return self._erasing(self._learner.consents.erase)

    # -- learning -----------------------------------------------------------------------------------------------

    def _key(self, what: str, number: int) -> str:
        return f"{what}/{number % TAKES}" + f" {TURNED}" * self._boot.turned

    @property
    def _day(self) -> int:
        return int(self._now // 86_400)

    def _teach(self) -> Doing | None:
        profile = self._pick(lambda p: p.known("enrol"))
        if profile is None:
            return None
        person, number = self._state[profile], self._chance.randint(1, 6)
        phrase, first = f"{MARK} lights {number}", self._chance.randrange(TAKES)
        taken = [self._key(str(number), first + i) for i in range(2)]
        session = f"{self._chance.randrange(1 << 16):x}"
        made = tuple(
            Example(
                person.next_sequence + i, phrase, "enrolment", session, self._day, person.receipts["enrol"], key,
                self._boot.encoder,
            )
            for i, key in enumerate(taken)
        )  # fmt: skip
        after = person.kept([*person.examples, *made])

        def run() -> None:
            self._learner.add(profile, "enrolment", phrase, [take(key) for key in taken], session)
            self._learner.round(profile, at_once=True)

        return Doing(self._changed(profile, after, after.after_round()), run)

    def _correct(self) -> Doing | None:
        profile = self._pick(lambda p: p.known("adapt_corrections"))
        if profile is None:
            return None
        person, session = self._state[profile], f"{self._chance.randrange(1 << 16):x}"
        meant, heard = self._chance.sample(WORDS, 2)
        key, receipt = self._key(meant, self._chance.randrange(TAKES)), person.receipts["adapt_corrections"]
        made = Example(
            person.next_sequence, meant, "correction", session, self._day, receipt, key, self._boot.encoder, heard
        )  # fmt: skip
        after = person.kept([*person.examples, made])

        def run() -> None:
            self._learner.add(profile, "correction", meant, [take(key)], session, heard)
            feedback.corrected(self._learner, feedback.Said(profile, heard, take(key)[0], meant))

        return Doing(self._changed(profile, after, after.after_round(0)), run)

    def _train(self) -> Doing | None:
        profile = self._pick(lambda p: p.examples or p.usage)
        if profile is None:
            return None
        at_once, owed = self._chance.random() < 0.3, self._chance.random() < 0.2
        run = (lambda: self._learner.round_owed(profile)) if owed else (
            lambda: self._learner.round(profile, at_once=at_once))  # fmt: skip
        return Doing(self._changed(profile, self._state[profile].after_round()), run)

    def _said(self, profile: str, utterances: int) -> Doing:
        """Somebody says words, which are counted where they agreed; versions on trial take the steps they earned."""
        person = self._state[profile]
        words = list(WORDS)
        counts = {word: self._chance.randint(1, 9) for word in self._chance.sample(words, 2)}
        said = [
            feedback.Said(profile, word, take(self._key(word, i))[0])
            for i, word in enumerate(self._chance.choices(words, k=utterances))
        ]
        usage = dict(person.usage)
        for word, count in counts.items() if person.known("usage") else ():
            usage[word, self._day] = usage.get((word, self._day), 0) + count
        after = replace(person, usage=usage)
        states = self._changed(profile, after.after_round(0) if utterances else after)
        return Doing(states, lambda: feedback.observe(self._learner, {profile: counts}, said))

    def _usage(self) -> Doing | None:
        profile = self._pick(lambda p: p.known("usage")) or self._pick(lambda _: True)
        return self._said(profile, 0) if profile else None

    def _promote(self) -> Doing | None:
        on_trial = ("shadow", "canary")
        profile = self._pick(lambda p: any(state in on_trial for _, state in p.table or ()))
        return self._said(profile, self._chance.choice((10, 20))) if profile else None

    def _rollback(self) -> Doing | None:
        return self._taking_back(partial(rollback, self._learner))

    def _verify(self) -> Doing | None:
        profile = self._pick(lambda p: p.table)
        if profile is None:
            return None

        def run() -> None:
            for version in self._learner.versions(profile)[-2:]:
                proof = self._learner.verify(profile, version.number)
                if not proof["ok"]:
                    raise AssertionError(f"learner.verify does not prove a version: {proof['checks']}")

        return Doing([], run)

    def _selftest(self) -> Doing | None:
        profile = self._pick(in_use)
        if profile is None:
            return None
        person = self._state[profile]
        return Doing(self._changed(profile, person.after_round(0)), lambda: self._learner.test(profile))

    # -- rights -------------------------------------------------------------------------------------------------

    def _forget(self) -> Doing | None:
        return self._forgetting(lambda profile, what: Rights(self._learner).forget(self._agreed(profile), what))

    def _export(self) -> Doing | None:
        profile = self._pick(lambda p: p.examples)
        if profile is None:
            return None
        return Doing([], lambda: Rights(self._learner).export(self._agreed(profile)))

    def _bring(self) -> Doing | None:
        source, to = self._pick(lambda p: 0 < len(p.examples) < 8), self._pick(lambda p: len(p.examples) < 8)
        if source is None or to is None:
            return None
        states = self._brought(source, to)

        def run() -> None:
            rights = Rights(self._learner)
            rights.bring(self._agreed(to), rights.export(self._agreed(source)))

        return Doing(states, run)

    def _brought(self, source: str, to: str) -> list[State]:
        """One state for each group of rows that go in together."""
        groups: dict[tuple[Any, ...], list[Example]] = {}
        for e in self._state[source].examples:
            groups.setdefault((e.source, e.phrase, e.session, e.heard, e.encoder), []).append(e)
        person, steps = self._state[to], []
        for several in groups.values():
            receipt = person.receipts.get(PURPOSES[several[0].source])
            if receipt is None:
                continue
            fresh = [
                replace(e, sequence=person.next_sequence + i, day=self._day, receipt=receipt)
                for i, e in enumerate(several)
            ]
            person = person.kept([*person.examples, *fresh])
            steps.append(person)
        return self._changed(to, *steps, *([person.after_round()] if steps else []))

    # -- the device ---------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Doing:
        def run() -> None:
            self._custody.checkpoint()
            self._custody.tend()
            schema.flush(self._custody.vault._connection)

        return Doing([], run)

    def _good(self) -> Doing:
        return Doing([], self._custody.mark_good, self._boot.version)


NEEDS: Mapping[str, Callable[[State], bool]] = {
    "consent": lambda s: len(s) < 3 or any(not p.known(*PURPOSES_ASKED) for p in s.values()),
    "withdraw": lambda s: any(p.receipts for p in s.values()),
    "erase": bool,
    "teach": lambda s: any(p.known("enrol") and len(p.examples) < 12 for p in s.values()),
    "correct": lambda s: any(p.known("adapt_corrections") and len(p.examples) < 12 for p in s.values()),
    "train": lambda s: any(p.examples or p.usage for p in s.values()),
    "usage": bool,
    "promote": lambda s: any(x in ("shadow", "canary") for p in s.values() for _, x in p.table or ()),
    "rollback": lambda s: any(in_use(p) for p in s.values()),
    "verify": lambda s: any(p.table for p in s.values()),
    "selftest": lambda s: any(in_use(p) for p in s.values()),
    "forget": lambda s: any(p.examples for p in s.values()),
    "export": lambda s: any(p.examples for p in s.values()),
    "bring": lambda s: any(0 < len(p.examples) < 8 for p in s.values()),
    "checkpoint": lambda _: True,
    "good": lambda _: True,
}
"""What each operation needs to be there."""
OFTEN: Mapping[str, int] = {
    "consent": 7, "teach": 8, "correct": 10, "train": 6, "promote": 10, "usage": 6, "rollback": 8, "forget": 7,
    "withdraw": 5, "erase": 4, "checkpoint": 6, "good": 2, "export": 3, "bring": 2, "verify": 2, "selftest": 2,
}  # fmt: skip
"""How often each is chosen."""
TRAINING = ("refresh", "teach", "train", "forget", "withdraw", "bring", "verify", "selftest")
"""Those that may start a worker."""
