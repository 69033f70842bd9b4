"""The rights over what is kept of a person: see it, have it explained, take it along, bring it back, forget it.

Forgetting is exact: the examples and every kept version of the adapter go in one transaction, the keys over them are
replaced, and a new adapter is made from what is left, with the same bytes as if the rest had never been there.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

from idiolect.errors import RequestError, TrustError
from idiolect.host import structure
from idiolect.learning import adapter_file, rollout, trainer
from idiolect.learning.admission import REASONS
from idiolect.learning.ledger import PURPOSES, Example
from idiolect.people import copies, sharing, standing, voices
from idiolect.people.consent import ADAPTER, Person
from idiolect.people.learner import Learner, Made
from idiolect.people.records import DAY_S
from idiolect.people.stretch import stretch
from idiolect.people.versions import every
from idiolect.trust.vault import sealed_copy
from idiolect.values import counted

PARTS, AROUND = 1 << 16, 5 << 19
"""Caps on a sealed copy's plain text: brackets and commas, and bytes beside the embeddings. The most examples
with the longest phrases are 2.2 MB, spelt as escapes of six bytes a character; read, no text takes more than 10 MiB."""
AT_ONCE = 32
"""Examples that are unpacked together: 55 KB each at most."""
RETIRED = {
    "bundle": "another version of the model runs; it is learnt anew from what is kept",
    "encoder": "the model hears with another encoder, which what is kept does not fit: teach the phrases again; what is"
    " kept of them stays until it expires, for going back to the earlier model",
    "expired": "examples that it was made from were kept as long as was agreed; it is learnt anew from the others",
    "disuse": "nobody was heard with it for half a year; it is learnt anew when its owner comes back",
}
"""Why an adapter was retired, in words."""
FOREIGN = "it is of another encoder, and the model brings no map from that: it waits for a model that knows it"


def date(day: int) -> str:
    """Return a day since the epoch as text, like 2026-11-24."""
    return datetime.datetime.fromtimestamp(day * DAY_S, datetime.UTC).date().isoformat()


class Rights:
    """A person's rights over their own records, on the vault's thread; ``RequestError`` for what is not there."""

    def __init__(self, learner: Learner, stretch: sealed_copy.Stretch = stretch) -> None:
        """Work on a learner's vault; ``stretch`` makes a key of a passphrase."""
        self._learner = learner
        self._vault = learner.vault
        self._stretch = stretch

    # -- seeing -------------------------------------------------------------------------------------------------

    def review(self, person: Person) -> dict[str, object]:
        """Return everything that is kept about a person, and until when."""
        learner, profile = self._learner, person.profile
        known = learner.ledger(profile)
        verdicts = trainer.prepare(learner.model, known)[1]
        judged = {e.sequence: v for e, v in zip(known.examples, verdicts, strict=True)}
        until = learner.kept_until(profile)
        examples = [
            {
                "id": e.sequence,
                "phrase": e.phrase,
                "source": e.source,
                "heard": e.heard,
                "day": date(e.day),
                "expires": date(until[e.sequence]),
                "counts": e.sequence in judged and judged[e.sequence].admitted,
                "why": judged[e.sequence].reason if e.sequence in judged else FOREIGN,
                "encoder": encoder,
                "mapped": encoder in learner.maps,
            }
            for e, encoder in learner.examples(profile)
        ]
        usage = [
            {
                "day": date(int(r.id, 16)),
                "said": json.loads(r.payload),
                "expires": date(learner.last_day("usage", r.expires)),
            }
            for r in self._vault.items(profile, "usage", "count")
        ]
        purposes = {
            purpose: {
                "since": date(r.time // DAY_S),
                "how": r.how,
                "retention_days": r.retention_days,
                "receipt": r.ident,
            }
            for purpose, r in sorted(person.purposes.items())
        }
        return {
            "profile": profile,
            "name": person.name,
            "purposes": purposes,
            "examples": examples,
            "usage": usage,
            "adapters": self.history(person)["versions"],
            "upkeep": self._upkeep(profile),
            "shared": sorted(sharing.phrases(learner, profile)),
            **voices.shown(voices.Voices(learner).of(profile), learner.model),
        }

    def _upkeep(self, profile: str) -> dict[str, str]:
        """Return the days of what is kept besides, by which learning knows where it stands."""
        last, health = self._learner.last_round(profile), self._learner.health(profile)
        tested, retired = self._learner.selftest(profile), self._learner.retired(profile)
        found = {
            "last_round": date(last.day) if last else "",
            "last_heard": date(health.day) if health else "",
            "last_tested": date(tested["day"]) if tested else "",
            "retired": f"{date(retired.day)}: {RETIRED[retired.why]}" if retired else "",
        }
        return {name: value for name, value in found.items() if value}

    def history(self, person: Person) -> dict[str, object]:
        """Return the versions of an adapter, those set aside for another bundle first, each table's oldest first."""
        rows = []
        aside = [v for shelf in every(self._learner, person.profile) for v in shelf.versions]
        for version in [*aside, *self._learner.versions(person.profile)]:
            record = self._learner.sealed(person.profile, version.number).provenance
            rows.append(
                {
                    "adapter": version.number,
                    "state": version.state.value,
                    "day": date(record.day),
                    "examples": record.examples,
                    "uses": version.uses,
                    "corrections": version.corrections,
                    **_counts(record.gate),
                    "bundle": record.bundle,
                    "set_aside": version in aside,
                    "mapped": sum(record.mapped.values()),
                }
            )
        return {"profile": person.profile, "name": person.name, "versions": rows}

    def explain(self, person: Person, number: int | None = None) -> dict[str, object]:
        """Return in plain words what a version is (without ``number`` the one in use), and why it is used or not."""
        versions = self._learner.versions(person.profile)
        chosen = [v for v in versions if v.number == number] if number else [v for v in versions if v.in_use]
        if not chosen and number:
            raise RequestError(404, "adapter", f"there is no version {number}: see `idiolect history`")
        text = [f"{person.name} is understood with the base model: nothing learnt is in use."]
        if retired := self._learner.retired(person.profile):
            text.append(f"What was learnt was retired on {date(retired.day)}: {RETIRED[retired.why]}.")
        if chosen:
            text = self._told(person, chosen[0])
        text += self._quarantine(person) + standing.told(self._learner, person)
        return {"profile": person.profile, "adapter": chosen[0].number if chosen else 0, "text": text}

    def _told(self, person: Person, version: rollout.Version) -> list[str]:
        sealed = self._learner.sealed(person.profile, version.number)
        record, adapter = sealed.provenance, adapter_file.decode(sealed.data)
        gate, strength = record.gate, trainer.LADDER[record.step]
        said = {
            "shadow": "is tried out silently: it answers beside what is in use, and nobody hears it",
            "canary": "is in use on trial: two corrections take it back by themselves",
            "active": "is in use",
            "superseded": "was replaced by a later one, and is kept for going back",
            "rolled-back": "was taken back, and is not used again",
        }[version.state.value]
        counts = _counts(gate)
        lines = [
            f"Version {version.number} of {date(record.day)} {said}.",
            f"It was made from {counted(record.examples, 'example')}, each kept under a consent of yours.",
        ]
        if mapped := sum(record.mapped.values()):
            lines.append(f"Mapped from an earlier encoder to this one's by the model's map: {mapped} of them.")
        if counts["held_out"]:
            unseen = counted(counts["held_out"], "utterance")
            lines.append(f"Of {unseen} that it had not seen, it misunderstood {counts['wrong']}.")
        if counts["known"]:
            known = f"{counts['known']} of these {'was' if counts['known'] == 1 else 'were'} of the model's own phrases"
            lines.append(f"{known}: without what was learnt it misunderstands {counts['wrong_before']} of them.")
        if adapter.shifts:
            lines.append(
                "It moves how phrases are expected to sound towards how you say them"
                f" (strength {strength.gain:g}; silent on {strength.floor:.0%} of what others say)."
            )
        if adapter.taught:
            known = counted(len(adapter.taught), "phrase")
            lines.append(f"It knows {known} that the base model does not, or that you say otherwise.")
        lost, won = int(gate.get("guard_lost", 0)), int(gate.get("guard_won", 0))
        lines.append(
            f"On recordings of other people it lost {counted(lost, 'answer')} and gained {won};"
            " the gate allows what chance does."
        )
        lines.append(f"Since then: {counted(version.uses, 'utterance')}, {version.corrections} corrected.")
        health = self._learner.health(person.profile)
        if version.in_use and health and health.number == version.number and health.uses >= 1:
            lines.append(
                f"Lately the base model alone would have understood {health.lost:.0f} of"
                f" {counted(round(health.uses), 'utterance')} that it does not, and missed {health.won:.0f} that it"
                " does; it is taken back when that turns for the worse beyond chance."
            )
        tested = self._learner.selftest(person.profile)
        if tested and tested["adapter"] == version.number:
            verdict = f"worse than the base model on “{tested['worse']}”" if tested["worse"] else "nothing is worse"
            lines.append(f"Tested again on {date(tested['day'])}: {verdict}.")
        return lines

    def _quarantine(self, person: Person) -> list[str]:
        known = self._learner.ledger(person.profile)
        verdicts = trainer.prepare(self._learner.model, known)[1]
        counts: dict[int, int] = {}
        for verdict in verdicts:
            counts[verdict.check] = counts.get(verdict.check, 0) + 1
        return [
            f"{counted(n, 'example')} {'does' if n == 1 else 'do'} not count: {REASONS[check]}."
            for check, n in sorted(counts.items())
            if check
        ]

    def report(self, person: Person) -> dict[str, object]:
        """Return the person's own figures before and after, how they were measured, and what cannot be known."""
        used = rollout.in_use(self._learner.versions(person.profile))
        limits = [
            "Measured on your own examples, each held out in turn; they were said on purpose, in one room, and few.",
            "A device without a connection cannot know how you are understood where you did not correct it.",
            "It cannot compare you with others, except with the recordings of other people in its bundle.",
        ]
        if used is None:
            return {"profile": person.profile, "name": person.name, "adapter": 0, "figures": {}, "limits": limits}
        record = self._learner.sealed(person.profile, used.number).provenance
        gate, counts = record.gate, _counts(record.gate)
        held, of_model = counts["held_out"], counts["known"]
        figures: dict[str, object] = {
            "held_out": held,
            "in_windows": int(gate.get("own_in_windows", held)),
            "known": of_model,
            "error_before": _share(counts["wrong_before"], of_model),
            "error_known": _share(int(gate.get("own_known_wrong", counts["wrong"])), of_model),
            "error_after": _share(counts["wrong"], held),
            "others_lost": int(gate.get("guard_lost", 0)),
            "others_gained": int(gate.get("guard_won", 0)),
            "uses": used.uses,
            "corrections": used.corrections,
            "examples": record.examples,
            "mapped": sum(record.mapped.values()),
        }
        health = self._learner.health(person.profile)
        tested = self._learner.selftest(person.profile)
        rows = ("slice", "total", "wrong", "lost", "won")
        how = (
            "five-fold: a fifth of your examples is held out, the adapter made from the rest, and so on in turn; each"
            " is heard again as in use, beside everything else that is listened for"
        )
        return {
            "profile": person.profile, "name": person.name, "adapter": used.number, "state": used.state.value,
            "figures": figures, "measured": how, "limits": limits,
            "health": health.rates() if health and health.number == used.number else {},
            "selftest": {**tested, "day": date(tested["day"]),
                         "slices": [dict(zip(rows, each, strict=True)) for each in tested["slices"]]} if tested else {},
        }  # fmt: skip

    def share(self, person: Person, phrase: str, wanted: bool) -> list[str]:
        """Let everybody say a phrase, or nobody else any more; return what everybody may say then."""
        return sharing.share(self._learner, person, phrase, wanted)

    # -- forgetting ---------------------------------------------------------------------------------------------

    def forget(self, person: Person, what: Mapping[str, object]) -> dict[str, object]:
        """Delete one example, a phrase, a day or all: {"example": 3}, {"phrase": ..}, {"day": ..}, {"all": true}."""
        chosen = self._choose(person, what)
        profile = person.profile
        numbers = {e.sequence for e in chosen}
        kept = [e for e, _ in self._learner.examples(profile) if e.sequence not in numbers]
        unshared = sharing.orphans(self._learner, profile, {e.phrase for e in kept if e.source == "enrolment"})
        purposes = sorted({e.purpose for e in chosen})
        if what.get("all"):
            purposes = sorted({*purposes, *(["usage"] if self._vault.items(profile, "usage", "count") else [])})
        if not chosen and "usage" not in purposes:
            raise RequestError(404, next(iter(what)), "nothing of that kind is kept: see `idiolect review`")
        with self._vault.change("forgot", True, profile=profile, count=len(chosen)) as change:
            for example in chosen:
                change.delete(profile, example.purpose, "example", example.ident)
            if "usage" in purposes:
                for record in self._vault.items(profile, "usage", "count"):
                    change.delete(profile, "usage", "count", record.id)
            for purpose in purposes:
                change.rekey(profile, purpose)
            sharing.drop(change, profile, unshared)
            change.withdraw(profile, ADAPTER)
        made = self._learner.round_owed(profile)
        return {"forgotten": len(chosen), **told(made), **in_use(self._learner, profile)}

    def _choose(self, person: Person, what: Mapping[str, object]) -> list[Example]:
        if len(what) != 1:
            raise RequestError(422, "what", 'must be one of "example", "phrase", "day" or "all"')
        ((kind, value),) = what.items()
        tests: dict[str, Callable[[Example], bool]] = {
            "example": lambda e: e.sequence == value,
            "phrase": lambda e: str(value).casefold() in (e.phrase.casefold(), e.heard.casefold()),
            "day": lambda e: date(e.day) == value,
            "all": lambda _: value is True,
        }
        if kind not in tests:
            raise RequestError(422, str(kind)[:64], 'must be one of "example", "phrase", "day" or "all"')
        return [e for e, _ in self._learner.examples(person.profile) if tests[kind](e)]

    # -- taking along -------------------------------------------------------------------------------------------

    def export(self, person: Person, passphrase: str = "") -> dict[str, object]:
        """Return the person's own copy: readable, or sealed with a passphrase."""
        known, kept = self._learner.ledger(person.profile), self._learner.examples(person.profile)
        document = {
            "schema": copies.SCHEMA,
            "name": person.name,
            "receipts": [json.loads(r.encode()) for r in self._learner.consents.history(person.profile)],
            "examples": [
                copies.row_of(e, encoder)
                for e, encoder in kept
            ],
            "usage": [[phrase, day, count] for (phrase, day), count in sorted(known.usage.items())],
            "shared": sorted(sharing.phrases(self._learner, person.profile)),
            "adapters": self.history(person)["versions"],
        }  # fmt: skip
        self._vault.log("exported", profile=person.profile, count=len(kept))
        return (
            sealed_copy.seal(json.dumps(document, ensure_ascii=False).encode(), passphrase, self._stretch)
            if passphrase
            else document
        )

    def bring(self, person: Person, document: Mapping[str, Any], passphrase: str = "") -> dict[str, object]:
        """Take an export over, for a person who agreed here; leave out, and count, what no consent covers here."""
        if document.get("schema") == sealed_copy.SCHEMA:
            document = self._opened(document, passphrase)
        if (
            not isinstance(document, Mapping)
            or document.get("schema") != copies.SCHEMA
            or not isinstance(document.get("examples"), list)
        ):
            raise RequestError(422, "document", "is no export of a person: make one with `idiolect export`")
        if len(document["examples"]) > copies.IMPORT_CAP:
            raise RequestError(422, "document", f"holds more than {copies.IMPORT_CAP} examples")
        groups: dict[copies.Group, list[Any]] = {}
        for row in document["examples"]:  # all are looked at before one is taken over
            groups.setdefault(copies.read(row)[0], []).append(row)
        taken = left = 0
        for group, several in groups.items():
            if person.purposes.get(PURPOSES[group.source]) is None:
                left += len(several)
                continue
            for few in (several[at : at + AT_ONCE] for at in range(0, len(several), AT_ONCE)):
                _, spans, said = zip(*map(copies.read, few), strict=True)
                self._learner.add(
                    person.profile, group.source, group.phrase, spans, group.session, group.heard, group.encoder, said
                )
            taken += len(several)
        copies.release(document["examples"])
        self._vault.log("imported", profile=person.profile, count=taken)
        made = self._learner.round(person.profile, at_once=True) if taken else Made(0, "base", None)
        used = in_use(self._learner, person.profile)
        return {"imported": taken, "left_out_without_consent": left, **told(made), **used}

    def _opened(self, document: Mapping[str, Any], passphrase: str) -> Any:
        """Return what was sealed, None where that is no JSON; ``RequestError`` if it does not open, or is too much."""
        try:
            plain = structure.Source(sealed_copy.open_(document, passphrase, self._stretch))
            return structure.load_apart(plain, parts=PARTS, depth=structure.DEPTH, around=AROUND)
        except TrustError as error:
            raise RequestError(422, "passphrase", str(error)) from None
        except structure.StructureError as error:
            raise RequestError(422, "document", str(error)) from None
        except (ValueError, RecursionError):
            return None


def _counts(gate: Mapping[str, float]) -> dict[str, int]:
    """Return how many held-out examples there were, how many of the model's phrases, and how many were misunderstood.

    ``wrong_before`` is of those that the model has: it can understand no other. Of old all were counted as such.
    """
    held = int(gate.get("own_held_out", 0))
    before = gate.get("own_known_wrong_before", gate.get("own_wrong_before", 0))
    return {
        "held_out": held, "wrong": int(gate.get("own_wrong", 0)),
        "known": int(gate.get("own_known", held)), "wrong_before": int(before),
    }  # fmt: skip


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def in_use(learner: Learner, profile: str) -> dict[str, object]:
    """Return the version in use now, whatever came of a round: one refused, or tried out silently, replaces none."""
    used = rollout.in_use(learner.versions(profile))
    return {"adapter": used.number if used else 0, "state": used.state.value if used else "base"}


def told(made: Made) -> dict[str, object]:
    """Return a round's outcome as an answer has it."""
    answer: dict[str, object] = {"adapter": made.number, "state": made.state}
    if made.outcome is not None:
        verdict = made.outcome.verdict
        answer["gate"] = {
            "passed": verdict.passed,
            "check": verdict.check,
            "reason": verdict.reason,
            "numbers": dict(verdict.numbers),
        }
    return answer
