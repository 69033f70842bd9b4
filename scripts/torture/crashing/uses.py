"""What is done to a whole `idiolectd` over its socket, and what it must hold after each step of it."""

from __future__ import annotations

import base64
import random
import time
from dataclasses import replace

from idiolect.client import Client
from idiolect.copies import SCHEMA
from idiolect.learning.ledger import PURPOSES
from torture.crashing.choosing import Choosing, Doing
from torture.crashing.story import MARK, TAKES, UNKNOWN, WORDS, Example, Person, take

NAMES = (f"{MARK}ann", f"{MARK}eve")
"""Who is paired with the user that runs this."""
CAN = {"consent", "withdraw", "erase", "train", "rollback", "verify", "forget", "bring", "checkpoint", "good", "usage"}
ASK = ("enrol", "adapt_corrections", "usage")


class Uses(Choosing):
    """Each method looks for somebody it fits, and gives what is to be done, or None."""

    def __init__(self, client: Client, encoder: str, chance: random.Random) -> None:
        super().__init__(chance)
        self.client, self._encoder = client, encoder

    def _consent(self) -> Doing | None:
        there = {person.name: person for person in self._state.values()}
        wish = [n for n in NAMES if n not in there or not there[n].known(*ASK)]
        if not wish:
            return None
        name = self._chance.choice(wish)
        asked = self.client.ask_consent(name, ASK)
        person = self._state.get(asked["profile"]) or Person(name)
        receipts = {**person.receipts, **dict.fromkeys(asked["purposes"], UNKNOWN)}
        after = self._changed(asked["profile"], replace(person, receipts=receipts))
        return Doing(after, lambda: self.client.agree(asked["token"]))

    def _bring(self) -> Doing | None:
        profile = self._pick(lambda p: len(p.examples) < 10 and p.known("enrol"))
        if profile is None:
            return None
        person, rows = self._state[profile], self._rows()
        steps, sources = [], {str(row.source): row.source for row in rows}
        for source in sources.values():
            receipt = person.receipts.get(PURPOSES[source])
            mine = [row for row in rows if row.source == source] if receipt else []
            fresh = [
                replace(row, sequence=person.next_sequence + i, receipt=receipt or "") for i, row in enumerate(mine)
            ]
            if fresh:
                person = person.kept([*person.examples, *fresh])
                steps.append(person)
        document = {"schema": SCHEMA, "name": "", "examples": [_row(row) for row in rows]}
        states = self._changed(profile, *steps, person.after_round())
        return Doing(states, lambda: self.client.import_copy(profile, document))

    def _rows(self) -> list[Example]:
        """Two takes of a phrase, and perhaps a correction."""
        number, first, day = self._chance.randint(1, 6), self._chance.randrange(TAKES), int(time.time() // 86_400)
        session, encoder = f"{self._chance.randrange(1 << 16):x}", self._encoder
        taken = [f"{number}/{(first + i) % TAKES}" for i in range(2)]
        rows = [Example(0, f"{MARK} lights {number}", "enrolment", session, day, "", key, encoder) for key in taken]
        if self._chance.random() < 0.5:
            meant, heard = self._chance.sample(WORDS, 2)
            rows.append(Example(0, meant, "correction", session, day, "", f"{meant}/{first}", encoder, heard))
        return rows

    def _forget(self) -> Doing | None:
        return self._forgetting(lambda profile, what: self.client.forget(profile, **what))

    def _withdraw(self) -> Doing | None:
        return self._withdrawing(self.client.withdraw)

    def _erase(self) -> Doing | None:
        return self._erasing(self.client.erase)

    def _rollback(self) -> Doing | None:
        return self._taking_back(self.client.rollback)

    def _train(self) -> Doing:
        """Learn now, in a window: with the patient worker."""

        def run() -> None:
            self.client.learn()
            ends = time.monotonic() + 3.0  # whatever stands in the way on this machine
            while self.client.learning()["state"] != "nothing due" and time.monotonic() < ends:
                time.sleep(0.02)

        return Doing([{profile: person.after_round(2) for profile, person in self._state.items()}], run)

    def _usage(self) -> Doing | None:
        """Who speaks, and whether anything is learnt: state beside the vault."""
        profile = self._pick(lambda _: True)

        def run() -> None:
            self.client.address(profile or "guest")
            self.client.pause_learning(60)
            self.client.resume_learning()

        return Doing([], run)

    def _verify(self) -> Doing | None:
        profile = self._pick(lambda p: p.table)
        if profile is None:
            return None
        number = (self._state[profile].table or ())[-1][0]
        return Doing([], lambda: self.client.verify_adapter(profile, number))

    def _checkpoint(self) -> Doing:
        return Doing([], self.client.verify_audit)

    def _good(self) -> Doing:
        return Doing([], self.client.mark_good)


def _row(example: Example) -> dict[str, object]:
    """An example as an export has it."""
    data = base64.b64encode(take(example.take).astype("<f2").tobytes()).decode()
    return {
        "phrase": example.phrase, "source": example.source, "day": example.day, "session": example.session,
        "heard": example.heard, "copies": 1, "encoder": example.encoder, "embeddings_float16": data,
    }  # fmt: skip
