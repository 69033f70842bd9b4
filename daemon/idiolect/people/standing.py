"""Tells how the phrases stand that somebody taught under an earlier encoder, in numbers and in plain words.

| standing | means |
| --- | --- |
| kept | in use under this model, from examples that its map brought over |
| earlier | heard with the earlier model, which the bundle carries |
| again | not heard any more: to be taught again |

A phrase that was taught anew under this encoder, and is in use, is left out. Runs on the thread of the vault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idiolect.people import carryover

if TYPE_CHECKING:
    from idiolect.people.consent import Person
    from idiolect.people.records import Records

KEPT, EARLIER, AGAIN = "kept", "earlier", "again"


def phrases(records: Records, profile: str) -> dict[str, str]:
    """Return the standing of each phrase of a person, in order of name."""
    if records.earlier is None and records.vault.encoders(profile, "example") <= {records.encoder}:
        return {}  # the usual case, for which nothing need be read
    taught = [(e.phrase, encoder) for e, encoder in records.examples(profile) if e.source == "enrolment"]
    fresh = {phrase for phrase, encoder in taught if encoder == records.encoder}
    used, beside = carryover.known(records, profile), carryover.adapter(records, profile)
    heard = {each.name for each in beside.taught} if beside else set()
    found = {}
    for phrase in sorted({phrase for phrase, _ in taught} - (fresh & used) - set(records.model.phrases)):
        if phrase in fresh and phrase not in heard:
            continue  # taught anew, and refused: that is no matter of the encoder
        found[phrase] = KEPT if phrase in used else EARLIER if phrase in heard else AGAIN
    return found


def counts(records: Records) -> dict[str, dict[str, int]]:
    """Return how many phrases stand how, by profile and standing; only profiles and standings that there are."""
    found: dict[str, dict[str, int]] = {}
    for profile in records.vault.profiles():
        for standing in phrases(records, profile).values():
            mine = found.setdefault(profile, {})
            mine[standing] = mine.get(standing, 0) + 1
    return found


def told(records: Records, person: Person) -> list[str]:
    """Return sentences for the person whose phrases they are, one for each standing that occurs."""
    mine = phrases(records, person.profile)
    names = {s: [phrase for phrase, standing in mine.items() if standing == s] for s in (KEPT, EARLIER, AGAIN)}
    said = {s: f"{_count(len(them))} of {person.name}" for s, them in names.items()}
    lines = []
    if names[KEPT]:
        verb = "is" if len(names[KEPT]) == 1 else "are"
        lines.append(f"{said[KEPT]} taught under an earlier encoder {verb} kept: {_listed(names[KEPT])}.")
    if names[EARLIER]:
        verb, them = ("uses", "it") if len(names[EARLIER]) == 1 else ("use", "them")
        lines.append(f"{said[EARLIER]} still {verb} the earlier model: teach {them} again: {_listed(names[EARLIER])}.")
    if names[AGAIN]:
        lines.append(f"{said[AGAIN]} could not be kept under the new encoder: teach again {_listed(names[AGAIN])}.")
    return lines


def _count(number: int) -> str:
    return f"{number} phrase" + ("" if number == 1 else "s")


def _listed(names: list[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)
