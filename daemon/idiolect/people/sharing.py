"""Household phrases: which of the phrases that somebody taught everybody may say, guests included.

They are kept under a purpose of their own, ``household_phrases``, with one record for each phrase, so that each is
shared and taken back alone, and goes with its phrase. When somebody else says such a phrase, the event names that
person, but it is counted for nobody and nothing is learnt from it. Everything runs on the thread of the vault.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from idiolect.errors import RequestError
from idiolect.people.consent import HOUSEHOLD, SHARED

if TYPE_CHECKING:
    from idiolect.people.consent import Person
    from idiolect.people.records import Records
    from idiolect.trust.vault.vault import Change


def phrases(records: Records, profile: str) -> dict[str, str]:
    """Return the phrases that a person lets everybody say, each with the id of its record."""
    return {record.payload.decode(): record.id for record in records.vault.items(profile, HOUSEHOLD, SHARED)}


def everybody(records: Records) -> dict[str, frozenset[str]]:
    """Return the shared phrases by profile, only of people who agreed to sharing and share something."""
    found = {}
    for profile in records.vault.profiles():
        if records.vault.idents(profile, HOUSEHOLD, SHARED) and records.consents.allowed(profile, HOUSEHOLD):
            found[profile] = frozenset(phrases(records, profile))
    return found


def share(records: Records, person: Person, phrase: str, wanted: bool) -> list[str]:
    """Let everybody say a phrase of this person's, or nobody else any more; return what is shared then, by name.

    Args:
        phrase: compared without regard to case.
        wanted: True to share the phrase, False to take it back.

    Raises:
        RequestError: 403, without that consent; 404, this person has not taught it; 422, everybody has it anyway.
    """
    profile, known = person.profile, phrases(records, person.profile)
    key = phrase.casefold()
    if wanted:
        _check(records, person, phrase)
        phrase = next((each for each in _taught(records, profile) if each.casefold() == key), "")
        if not phrase:
            raise RequestError(404, "phrase", "is none that this person taught: see `idiolect review`")
        if phrase not in known:
            _keep(records, profile, phrase, known)
    elif gone := [ident for each, ident in known.items() if each.casefold() == key]:
        with records.vault.change("phrases-shared", False, profile=profile, count=len(known) - len(gone)) as change:
            for ident in gone:
                change.delete(profile, HOUSEHOLD, SHARED, ident)
    return sorted(phrases(records, profile))


def _check(records: Records, person: Person, phrase: str) -> None:
    if HOUSEHOLD not in person.purposes:
        fix = f"idiolect consent grant NAME --purpose {HOUSEHOLD}"
        raise RequestError(403, "profile", f"has not agreed to {HOUSEHOLD}: {fix}")
    if phrase in records.model.classes:
        raise RequestError(422, "phrase", "is the model's own, which everybody may say anyway")


def _keep(records: Records, profile: str, phrase: str, known: dict[str, str]) -> None:
    ident = f"{1 + max((int(each, 16) for each in known.values()), default=0):08x}"
    with records.vault.change("phrases-shared", False, profile=profile, count=len(known) + 1) as change:
        change.put(profile, HOUSEHOLD, SHARED, ident, phrase.encode(), "", records.expires(HOUSEHOLD))


def _taught(records: Records, profile: str) -> set[str]:
    return {example.phrase for example, _ in records.examples(profile) if example.source == "enrolment"}


def orphans(records: Records, profile: str, left: Collection[str]) -> list[str]:
    """Return the records of shared phrases that are not among the taught phrases that are ``left``."""
    return [ident for phrase, ident in phrases(records, profile).items() if phrase not in left]


def drop(change: Change, profile: str, gone: Collection[str]) -> None:
    """Delete these records within a change, beyond recovery: the key over them is replaced."""
    for ident in gone:
        change.delete(profile, HOUSEHOLD, SHARED, ident)
    if gone:
        change.rekey(profile, HOUSEHOLD)


def tidy(records: Records, profile: str) -> None:
    """Delete the records of shared phrases of which no taught example is kept any more."""
    known = records.vault.idents(profile, HOUSEHOLD, SHARED)
    gone = orphans(records, profile, _taught(records, profile)) if known else []
    if gone:
        count = len(known) - len(gone)
        with records.vault.change("phrases-shared", True, profile=profile, count=count) as change:
            drop(change, profile, gone)
