"""Consent: who agreed to what. Works over an open vault, on the thread that owns it.

Goes in: names, purposes, and a "yes". Comes out: people, and receipts that the vault binds keys to.

A person is a profile, an opaque id; the name they go by is kept encrypted like everything else. Ids and names are two
namespaces: code that has an id at hand asks ``by_profile``, and only what people type is looked up with ``find``. No
new name may look like an id (``values.person_name``), so that neither is ever taken for the other.

Agreeing has two steps: ``begin`` gives the notice and a token, ``agree_paired`` or ``heard_yes`` settles it within
``ANSWER_S`` seconds, either because a Unix user who is paired with that name in the configuration said so or because
the recogniser heard "yes". Nobody else can, root included: an administrator may erase, never agree.
"""

from __future__ import annotations

import secrets
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from idiolect.errors import RequestError
from idiolect.people import notices
from idiolect.people.receipt import Receipt, parse
from idiolect.trust.vault.change import Change
from idiolect.trust.vault.vault import Vault
from idiolect.values import CATEGORIES, RESERVED_NAMES, RETENTION, is_id, name_key, person_name, visible_text

CONSENT, ADAPTER = "consent", "adapter"
"""Purposes of the vault's own: names and receipts; and what was made from all the others."""
HOUSEHOLD, SHARED = "household_phrases", "shared"
"""The purpose under which is kept which phrases everybody may say, and the kind of its records."""
ANSWER_S = 30.0
MAX_PENDING = 4
MAX_PEOPLE = 20
_NAME_ID = "00"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody the device knows. ``purposes``: each one agreed to, with its receipt."""

    profile: str
    name: str = field(repr=False)
    purposes: Mapping[str, Receipt]


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that was put and not answered yet."""

    token: str
    profile: str
    name: str = field(repr=False)
    purposes: tuple[str, ...]
    language: str
    notice: str
    expires: float


def clean_name(name: object) -> str:
    """Return a person's name in the form in which it is kept.

    Raises:
        RequestError: 422, it is no text, or no new person may have it (``values.person_name``).
    """
    text = _typed(name)
    try:
        return person_name(text)
    except ValueError as error:
        raise RequestError(422, "name", str(error)) from None


def _typed(name: object) -> str:
    if not isinstance(name, str):
        raise RequestError(422, "name", "is needed, and must be text")
    return name.strip()


def may_be_named(name: str) -> bool:
    """Return whether a new person could have this name; those who have it already keep it."""
    try:
        person_name(name)
    except ValueError:
        return False
    return True


class Consents:
    """Looks people up, and keeps what they agree to and withdraw.

    ``paired`` maps names to the Unix users who may agree for them.
    """

    def __init__(
        self,
        vault: Vault,
        paired: Mapping[str, Sequence[str]],
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.vault = vault
        self._paired = {name_key(name): tuple(users) for name, users in paired.items()}
        self._wall, self._monotonic = wall, monotonic
        self._pending: dict[str, Pending] = {}

    # -- looking ------------------------------------------------------------------------------------------------

    def people(self) -> list[Person]:
        """Return everybody, by name."""
        found = [self._person(profile) for profile in self.vault.profiles()]
        return sorted(found, key=lambda person: person.name.casefold())

    def _person(self, profile: str) -> Person:
        name = (self.vault.get(profile, CONSENT, "name", _NAME_ID) or b"?").decode()
        keys = self.vault.purposes(profile)
        granted = {}
        for record in self.vault.items(profile, CONSENT, "receipt"):
            receipt = parse(record.payload)
            if receipt.state == "granted" and keys.get(receipt.purpose) == receipt.ident:
                granted[receipt.purpose] = receipt
        return Person(profile, name, granted)

    def by_profile(self, profile: str) -> Person:
        """Return the person with this id, whatever names there are.

        Raises:
            RequestError: 404, there is nobody with it.
        """
        if profile not in self.vault.profiles():
            raise RequestError(
                404, "profile", "there is nobody with this id: `idiolect consent show` lists who there is"
            )
        return self._person(profile)

    def look(self, typed: object) -> Person | None:
        """Return whom somebody means who typed this: a name in any of its spellings, or an id; None for a stranger.

        Text of the form of an id is an id. Somebody whose name was taken before names were held to that, or who is
        called by a reserved word, is found by id only.

        Raises:
            RequestError: 422, it is no text, or holds what cannot be seen; 409, several people have this name, from
                before spellings were compared.
        """
        text = _typed(typed)
        key = name_key(text)
        people = self.people()
        if is_id(key):
            return next((person for person in people if person.profile == text), None)
        if key in RESERVED_NAMES:
            return None
        try:
            visible_text(text)
        except ValueError as error:
            raise RequestError(422, "name", str(error)) from None
        alike = [person for person in people if name_key(person.name) == key]
        exact = [person for person in alike if person.name == unicodedata.normalize("NFC", text)]
        if len(alike) > 1 and len(exact) != 1:
            fix = "give the id that `idiolect consent show` lists"
            raise RequestError(409, "profile", f"{len(alike)} people have names that differ in nothing visible: {fix}")
        return next(iter(exact or alike), None)

    def find(self, typed: object) -> Person:
        """Return whom somebody means who typed this name or id (``look``).

        Raises:
            RequestError: 404, there is nobody of that name or id; else as ``look``.
        """
        person = self.look(typed)
        if person is None:
            raise RequestError(
                404, "profile", "there is nobody of that name: `idiolect consent show` lists who there is,"
                " `idiolect consent grant NAME` asks somebody new"
            )  # fmt: skip
        return person

    def meant(self, typed: object) -> tuple[str, str]:
        """Return name and id of whom somebody means who typed this; the id is "" for somebody new.

        Raises:
            RequestError: nobody new may have that name (``clean_name``); else as ``look``.
        """
        person = self.look(typed)
        return (person.name, person.profile) if person else (clean_name(typed), "")

    def allowed(self, profile: str, purpose: str) -> Receipt | None:
        """Return the receipt under which something may be kept now; None without consent."""
        if profile not in self.vault.profiles():
            return None
        return self._person(profile).purposes.get(purpose)

    def granted(self, profile: str) -> set[str]:
        """Return the ids of the receipts that hold now."""
        return {receipt.ident for receipt in self._person(profile).purposes.values()}

    def history(self, profile: str) -> list[Receipt]:
        """Return every receipt of a person, withdrawals too, oldest first."""
        found = [parse(record.payload) for record in self.vault.items(profile, CONSENT, "receipt")]
        return sorted(found, key=lambda receipt: (receipt.time, receipt.purpose))

    def users_of(self, name: str) -> tuple[str, ...]:
        """Return the Unix users paired with a name."""
        return self._paired.get(name_key(name), ())

    # -- agreeing -----------------------------------------------------------------------------------------------

    def begin(self, name: object, purposes: Sequence[str], language: str = "en") -> Pending:
        """Put the question to somebody, and return it. Nothing is stored in the vault by it.

        Raises:
            RequestError: the name, a purpose or the language cannot be used; 409, all was agreed to already, or the
                house is full; 429, MAX_PENDING questions are open.
        """
        known, ident = self.meant(name)
        self._check_wish(purposes, language)
        self._forget_old()
        if len(self._pending) >= MAX_PENDING:
            raise RequestError(429, "name", f"{MAX_PENDING} questions are open already: answer them, or wait")
        profile, new = self._still_open(known, ident or secrets.token_hex(8), tuple(dict.fromkeys(purposes)))
        if not new:
            raise RequestError(409, "purposes", "all of these were agreed to already")
        text = notices.notice(new, language, RETENTION)
        pending = Pending(secrets.token_hex(16), profile, known, new, language, text, self._monotonic() + ANSWER_S)
        self._pending[pending.token] = pending
        return pending

    @staticmethod
    def _check_wish(purposes: Sequence[str], language: str) -> None:
        if not purposes:
            raise RequestError(422, "purposes", f"names at least one of {', '.join(RETENTION)}")
        for purpose in purposes:
            if purpose not in RETENTION:
                raise RequestError(422, "purposes", f"must be among {', '.join(RETENTION)}")
        if language not in notices.LANGUAGES:
            raise RequestError(422, "language", f"must be one of {', '.join(notices.LANGUAGES)}")

    def _forget_old(self) -> None:
        now = self._monotonic()
        self._pending = {token: p for token, p in self._pending.items() if p.expires > now}

    def waiting(self, token: str) -> Pending | None:
        """Return the question that a token stands for; None when it is not open any more."""
        self._forget_old()
        return self._pending.get(token)

    def agree_paired(self, token: str, user: str, uid: int) -> list[Receipt]:
        """Settle a question for the caller, a Unix user who must be paired with the name; return the receipts.

        Raises:
            RequestError: 404, the question is not open; 403, the caller is not paired with that name.
        """
        pending = self.waiting(token)
        if pending is None:
            raise RequestError(404, "token", f"unknown, or older than {ANSWER_S:.0f} s: ask again")
        if user not in self.users_of(pending.name):
            raise RequestError(
                403,
                "token",
                'nobody can agree for another, an administrator neither: that person says "yes" to the device, or is'
                " paired with a Unix user under people",
            )
        return self._settle(pending, "paired", uid)

    def heard_yes(self) -> list[Receipt]:
        """Settle the open question aloud, and return the receipts, none where nothing was settled.

        With several questions open a "yes" could mean any of them, and settles none.
        """
        self._forget_old()
        spoken = [p for p in self._pending.values() if not self.users_of(p.name)]
        return self._settle(spoken[0], "spoken", -1) if len(spoken) == 1 else []

    def _still_open(self, name: str, profile: str, purposes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Return the profile that a name has, or a new one would get, and which purposes are not agreed to yet."""
        people = self.people()
        same = next((p for p in people if p.profile == profile), None)
        same = same or next((p for p in people if name_key(p.name) == name_key(name)), None)
        if same is not None:
            return same.profile, tuple(purpose for purpose in purposes if purpose not in same.purposes)
        if len(people) >= MAX_PEOPLE:
            raise RequestError(409, "name", f"{MAX_PEOPLE} people are known already: erase somebody first")
        return profile, purposes

    def _settle(self, asked: Pending, how: str, uid: int) -> list[Receipt]:
        """Store in one transaction the person, if new, a receipt and a key for every purpose, and the audit entries."""
        del self._pending[asked.token]
        # Another question to the same person may have been answered since.
        profile, purposes = self._still_open(asked.name, asked.profile, asked.purposes)
        if not purposes:
            return []
        pending = replace(asked, profile=profile, purposes=purposes)
        known = CONSENT in self.vault.purposes(profile)
        receipts = [self._receipt(pending, purpose, how, uid) for purpose in purposes]
        # A change has one audit entry of its own; those of further purposes are added within it.
        *entries, last = (
            {"profile": profile, "purpose": receipt.purpose, "receipt": receipt.ident, "how": how}
            for receipt in receipts
        )
        with self.vault.change("consent-granted", False, **last) as change:
            if not known:
                self._introduce(change, pending)
            for receipt in receipts:
                change.put(profile, CONSENT, "receipt", receipt.ident, receipt.encode())
                change.add_key(profile, receipt.purpose, receipt.ident)
            for entry in entries:
                change.log("consent-granted", entry, int(self._wall()))
        return receipts

    @staticmethod
    def _introduce(change: Change, pending: Pending) -> None:
        change.add_key(pending.profile, CONSENT, "")
        change.put(pending.profile, CONSENT, "name", _NAME_ID, pending.name.encode())

    def _receipt(self, pending: Pending, purpose: str, how: str, uid: int, state: str = "granted") -> Receipt:
        return Receipt(
            record=secrets.token_hex(16),
            principal=pending.profile,
            purpose=purpose,
            notice=notices.digest(pending.notice),
            notice_version=notices.VERSION,
            language=pending.language,
            state=state,
            time=int(self._wall()),
            how=how,
            agent=uid,
            retention_days=RETENTION[purpose],
            categories=CATEGORIES[purpose],
        )

    # -- withdrawing --------------------------------------------------------------------------------------------

    def may_withdraw(self, person: Person, user: str) -> bool:
        """Return whether this Unix user may withdraw for a person.

        Only their own Unix users may for a person who is paired with some; any user may for a person who has none.
        """
        users = self.users_of(person.name)
        return not users or user in users

    def withdraw(self, person: Person, purpose: str, uid: int = -1) -> int:
        """Delete what the purpose collected and every adapter made from it, in one step; return how many records.

        Household phrases are an exception: no adapter is made from them, so adapters stay. Withdrawing "enrol" takes
        back which phrases are shared, as nobody can say what is not taught any more.

        Raises:
            RequestError: 409, it was not agreed to.
        """
        granted = person.purposes.get(purpose)
        if granted is None:
            raise RequestError(409, "purpose", "was not agreed to, or is withdrawn already")
        taken = Pending("", person.profile, person.name, (purpose,), granted.language, "", 0.0)
        receipt = self._receipt(taken, purpose, "paired" if uid >= 0 else "spoken", uid, "withdrawn")
        fields = {"profile": person.profile, "purpose": purpose, "receipt": granted.ident}
        with self.vault.change("consent-withdrawn", True, **fields) as change:
            count = change.withdraw(person.profile, purpose)
            if purpose != HOUSEHOLD:
                change.withdraw(person.profile, ADAPTER)
            if purpose == "enrol":
                self._take_back(change, person.profile)
            change.put(person.profile, CONSENT, "receipt", receipt.ident, receipt.encode())
            change.note(count=count)
        return count

    def _take_back(self, change: Change, profile: str) -> None:
        """Delete the records of which phrases everybody may say: the phrases are gone."""
        if HOUSEHOLD in self.vault.purposes(profile):
            for ident in self.vault.idents(profile, HOUSEHOLD, SHARED):
                change.delete(profile, HOUSEHOLD, SHARED, ident)
            change.rekey(profile, HOUSEHOLD)

    def erase(self, profile: str) -> int:
        """Delete a person with all keys, and so all that lies under them; return how many records that were."""
        with self.vault.change("erased", rotate=True, profile=profile) as change:
            count = change.erase(profile)
            change.note(count=count)
        return count
