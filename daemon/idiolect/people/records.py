"""Reads and writes what the vault keeps for learning: examples, usage, versions of adapters, their health.

Every answer but an ``Outline`` is read from the vault anew; nothing here trains, judges or decides. Everything runs on
the thread that owns the vault.

| record (profile, purpose, kind, id) | holds |
| --- | --- |
| enrol, adapt_corrections, adapt_confirmations: example, sequence | one example (``learning.ledger``) |
| usage: count, day | how often what was said on a day |
| household_phrases: shared, number | one phrase that everybody may say (``sharing``) |
| adapter: adapter, number | a version: file, provenance, signature (``learning.provenance``) |
| adapter: state, 00 | the rollout's table (``learning.rollout``) |
| adapter: shelf, bundle's digest | the table of another bundle, set aside (``carryover``) |
| adapter: health, 00 | how the version in use does (``learning.health``) |
| adapter: selftest, 00 | the last self-test (``learning.self_test``) |
| consent: counter, 00 | the number of the newest version there ever was |
| consent: round, 00 | what the last round was made from, and its verdict |
| consent: retired, 00 | why there is no adapter any more |
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from idiolect.errors import LearningError, RequestError
from idiolect.learning import health as healths
from idiolect.learning import ledger as ledgers
from idiolect.learning import rollout
from idiolect.learning.health import Health
from idiolect.learning.ledger import PURPOSES, Example, Ledger, Manner, Source
from idiolect.learning.maps import NOTHING, Earlier, Succession
from idiolect.learning.model import Model
from idiolect.learning.provenance import Sealed, unseal
from idiolect.people.consent import ADAPTER, CONSENT, Consents
from idiolect.trust.device.provisioning import ADAPTER_KEY
from idiolect.trust.vault.change import MAX_DAY
from idiolect.trust.vault.vault import Change, Record
from idiolect.values import RETENTION

log = logging.getLogger(__name__)

DAY_S = 86_400
UNDATED = MAX_DAY
"""The last day of what is not dated yet."""
USAGE_DAYS = 60
"""Days of usage counts that a round looks at; today's are not final and wait until tomorrow."""


@dataclass(frozen=True, slots=True)
class LastRound:
    """The state of a person's records when the newest round looked at them, whether it passed or not.

    ``material`` is ``Ledger.material``, ``day`` the round's day, ``check`` the one that refused (0: none).
    """

    material: str
    bundle: str
    day: int
    check: int
    last: int
    """Number of the newest example at the time."""


@dataclass(frozen=True, slots=True)
class Retired:
    """The reason why a person has no adapter any more: ``why`` is bundle, encoder, expired or disuse."""

    why: str
    day: int
    adapter: int


@dataclass(frozen=True, slots=True)
class Outline:
    """The part of a ledger that tells whether a round is due. ``of``: the profile's root and the day it holds for."""

    of: tuple[bytes, int]
    examples: bool
    usage: bool
    material: str


class Records:
    """A person's records in the vault, and the key that signs adapters. See the module's table for what lies where."""

    def __init__(
        self, consents: Consents, model: Model, encoder: str, clock: Callable[[], float] = time.time,
        succession: Succession = NOTHING,
    ) -> None:  # fmt: skip
        """Take the adapters' key from the vault, or make one where nobody provisioned it.

        Args:
            encoder: digest of the encoder that new examples are bound to.

        Raises:
            LearningError: the vault was provisioned without that key, or what lies there is no such key.
        """
        self.vault, self.consents, self.model = consents.vault, consents, model
        self.encoder, self.clock = encoder, clock
        self.maps, self.earlier = succession.maps, succession.earlier
        self._outlines: dict[str, Outline] = {}
        self.dated: Callable[[], bool] = lambda: True
        """True when the clock can be believed. Records kept while it cannot are dated later (``Learner.expire``)."""
        secret = self.vault.get("", *ADAPTER_KEY) or self._new_key()
        key = serialization.load_der_private_key(secret, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise LearningError("the device's adapter key is none", "provision the device anew: idiolect provision")
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """Return this device's signature over ``data``, by the key of its adapters."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    def _new_key(self) -> bytes:
        """Make and keep a key, for a vault that nobody provisioned (``keystore: file``): at its first start."""
        purpose, kind, item = ADAPTER_KEY
        if purpose in self.vault.purposes(""):
            raise LearningError("the device has no adapter key", "provision the device anew: idiolect provision")
        secret = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with self.vault.change("provisioned", False, generation=self.vault.counts().generation) as change:
            change.add_key("", purpose, "")
            change.put("", purpose, kind, item, secret)
        return secret

    @property
    def day(self) -> int:
        """Return today, in days since the epoch, and never before it."""
        return max(0, int(self.clock() // DAY_S))

    # -- what there is ------------------------------------------------------------------------------------------

    def ledger(
        self, profile: str, *, day: int | None = None, last: int | None = None, of: Earlier | None = None
    ) -> Ledger:
        """Return what a person's adapter is made from.

        Examples of other encoders are there as far as a map brings them over.

        Args:
            day: of its making: usage counts of the USAGE_DAYS before it are taken; None for today.
            last: number of the newest example that counts; None for all.
            of: the earlier model, when the adapter is for that one; None for the bundle's own.
        """
        day = self.day if day is None else day
        kept = tuple(
            carried
            for example, made_by in self.examples(profile)
            if (last is None or example.sequence <= last) and (carried := self._carried(example, made_by, of))
        )
        usage: dict[tuple[str, int], int] = {}
        for record in self.vault.items(profile, "usage", "count"):
            then = int(record.id, 16)
            if day - USAGE_DAYS <= then < day:
                usage |= {(phrase, then): int(count) for phrase, count in json.loads(record.payload).items()}
        voice = self.consents.allowed(profile, "voice_match") is not None
        return Ledger(profile, kept, usage, voice)

    def examples(self, profile: str) -> list[tuple[Example, str]]:
        """Return every example that is kept, by number, as it was recorded, each with the id of its encoder."""
        found = [(ledgers.decode(record.payload), record.encoder) for _, record in self._records(profile)]
        return sorted(found, key=lambda each: each[0].sequence)

    def outline(self, profile: str) -> Outline:
        """Return a person's ``Outline``, from memory where nothing has changed.

        Everybody's is asked for after every change in the vault, so only the records of who has changed are read again.
        """
        of, found = (self.vault.root(profile), self.day), self._outlines.get(profile)
        if found is None or found.of != of:
            known = self.ledger(profile)
            found = self._outlines[profile] = Outline(of, bool(known.examples), bool(known.usage), known.material())
        return found

    def _carried(self, example: Example, made_by: str, of: Earlier | None) -> Example | None:
        """Return an example as the encoder of ``of``, or ours, has it; None where no map brings it over."""
        encoder, maps = (of.encoder, of.maps) if of else (self.encoder, self.maps)
        if made_by == encoder:
            return example
        return maps[made_by].carried(example, made_by) if made_by in maps else None

    def backwards(self, profile: str, of: Earlier | None = None) -> Iterator[Example]:
        """Yield the examples that ``ledger`` has, the newest first, each read from the vault when it is its turn."""
        for _, purpose, ident in sorted(self._numbers(profile), reverse=True):
            record = self.vault.record(profile, purpose, "example", ident)
            carried = self._carried(ledgers.decode(record.payload), record.encoder, of) if record else None
            if carried is not None:
                yield carried

    def used(self, profile: str) -> Sealed | None:
        """Return the version that a person is heard with under this bundle; None for none, or one not believed."""
        version = rollout.in_use(self.versions(profile))
        try:
            sealed = self.sealed(profile, version.number) if version else None
        except (LearningError, RequestError):
            return None
        return sealed if sealed is not None and sealed.provenance.bundle == self.model.digest else None

    def versions(self, profile: str) -> list[rollout.Version]:
        """Return the versions that are kept, by number."""
        raw = self.vault.get(profile, ADAPTER, "state", "00")
        return rollout.read(json.loads(raw)) if raw else []

    def sealed(self, profile: str, number: int) -> Sealed:
        """Return a version, its signature and binding checked.

        Raises:
            RequestError: 404, there is no such version.
            LearningError: the version is another person's or has another number, or its signature does not fit.
        """
        raw = self.vault.get(profile, ADAPTER, "adapter", f"{number:08x}")
        if raw is None:
            raise RequestError(404, "adapter", f"there is no version {number}: see `idiolect history`")
        sealed = unseal(raw)
        record = sealed.provenance
        if (record.profile, record.number) != (profile, number):
            raise LearningError("an adapter is filed under another's name", "erase the profile and enrol again")
        try:
            self._key.public_key().verify(sealed.signature, record.signed_bytes(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise LearningError("an adapter is not signed by this device", "`idiolect rollback`") from None
        return sealed

    def made_on(self, profile: str, number: int) -> int | None:
        """Return the day of a version; None where it cannot be believed, which is for its owner to take back."""
        try:
            return self.sealed(profile, number).provenance.day
        except (LearningError, RequestError):
            return None

    def files(self) -> list[tuple[bytes, str]]:
        """Return everybody's adapters in use, each with its digest; leave out, and log, those that cannot be used."""
        found = []
        for profile in self.vault.profiles():
            used = rollout.in_use(self.versions(profile))
            if used is None:
                continue
            try:
                sealed = self.sealed(profile, used.number)
            except (LearningError, RequestError) as error:
                log.error("an adapter is not used: %s", error)
                continue
            if sealed.provenance.bundle == self.model.digest:
                found.append((sealed.data, sealed.provenance.adapter))
        return found

    def health(self, profile: str) -> Health | None:
        """Return how the version in use does; None where nobody was heard with it yet."""
        raw = self.vault.get(profile, ADAPTER, "health", "00")
        return healths.read(json.loads(raw)) if raw else None

    def selftest(self, profile: str) -> dict[str, Any]:
        """Return the last self-test, {} for none.

        It is {"day", "adapter", "worse", "slices": [[name, total, wrong, lost, won], ...]}.
        """
        raw = self.vault.get(profile, ADAPTER, "selftest", "00")
        return json.loads(raw) if raw else {}

    def last_round(self, profile: str) -> LastRound | None:
        """Return what the newest round looked at; None when there was none."""
        raw = self.vault.get(profile, CONSENT, "round", "00")
        return LastRound(**json.loads(raw)) if raw else None

    def retired(self, profile: str) -> Retired | None:
        """Return why a person has no adapter any more; None where that was not noted."""
        raw = self.vault.get(profile, CONSENT, "retired", "00")
        return Retired(**json.loads(raw)) if raw else None

    # -- what comes in ------------------------------------------------------------------------------------------

    def add(  # noqa: PLR0917 - what an example consists of
        self,
        profile: str,
        source: Source,
        phrase: str,
        spans: Iterable[NDArray[np.float32]],
        session: str,
        heard: str = "",
        encoder: str = "",
        said: Sequence[Manner] = (),
    ) -> list[int]:
        """Keep examples, all or none, and return their numbers.

        Args:
            spans: each (copies, 18, 96).
            heard: the phrase that was understood instead, for a correction.
            encoder: id of the encoder that made the spans; "" for the one that runs.
            said: how each was said, as far as that is known.

        Raises:
            RequestError: 403, without consent; 409, there are as many examples as one may have.
        """
        purpose = PURPOSES[source]
        receipt = self.consents.allowed(profile, purpose)
        if receipt is None:
            raise RequestError(
                403, "profile", f"has not agreed to {purpose}: idiolect consent grant NAME --purpose {purpose}"
            )
        first = self._next_sequence(profile)
        made = [
            Example(
                first + i, phrase, source, session, self.day, receipt.ident, np.asarray(s, np.float32), heard,
                length=how.length, clear=how.clear, whole=how.whole,
            )
            for i, (s, how) in enumerate(zip_longest(spans, said, fillvalue=Manner()))
        ]  # fmt: skip
        # While numbers stay below the cap so does the count, and need not be taken.
        if first + len(made) > ledgers.MAX_EXAMPLES and self.count(profile) + len(made) > ledgers.MAX_EXAMPLES:
            raise RequestError(409, "profile", "has as many examples as one may have: forget some first")
        expires = self.expires(purpose)
        fields: dict[str, int | str] = {"profile": profile, "purpose": purpose, "sequence": first}
        with self.vault.change("example-kept", False, count=len(made), **fields) as change:
            for example in made:
                record = example.encode()
                change.put(profile, purpose, "example", example.ident, record, encoder or self.encoder, expires)
        return [example.sequence for example in made]

    def _records(self, profile: str) -> list[tuple[str, Record]]:
        """Return every example, of other encoders too, with the purpose it is kept for."""
        purposes = sorted(PURPOSES.values())
        return [(purpose, record) for purpose in purposes for record in self.vault.items(profile, purpose, "example")]

    def _numbers(self, profile: str) -> list[tuple[int, str, str]]:
        """Return number, purpose and id of every example, of other encoders too, without reading any."""
        idents = ((purpose, self.vault.idents(profile, purpose, "example")) for purpose in PURPOSES.values())
        return [(int(ident, 16), purpose, ident) for purpose, each in idents for ident in each]

    def count(self, profile: str) -> int:
        """Return how many examples are kept, of other encoders too."""
        return len(self._numbers(profile))

    def _next_sequence(self, profile: str) -> int:
        return 1 + max((number for number, _, _ in self._numbers(profile)), default=0)

    def count_usage(self, change: Change, profile: str, said: dict[str, int]) -> None:
        """Add to today's counts, phrase -> how often, within a change; do nothing without consent."""
        if self.consents.allowed(profile, "usage") is None:
            return
        ident = f"{self.day:08x}"
        raw = self.vault.get(profile, "usage", "count", ident)
        total: dict[str, int] = json.loads(raw) if raw else {}
        for phrase, count in said.items():
            total[phrase] = total.get(phrase, 0) + count
        change.put(profile, "usage", "count", ident, json.dumps(total).encode(), "", self.expires("usage"))

    def expires(self, purpose: str) -> int:
        """Return the last day on which something of today's is kept; UNDATED while the clock cannot be believed."""
        return self.day + RETENTION[purpose] if self.dated() else UNDATED

    def last_day(self, purpose: str, expires: int) -> int:
        """Return a record's last day; of one that is not dated yet, as if it were kept from today."""
        return expires if expires < UNDATED else self.day + RETENTION[purpose]

    def kept_until(self, profile: str) -> dict[int, int]:
        """Return the last day of every example, by number."""
        return {int(r.id, 16): self.last_day(purpose, r.expires) for purpose, r in self._records(profile)}

    def undated(self) -> list[tuple[str, str, str, str]]:
        """Return (profile, purpose, kind, id) of every record that was kept while nobody knew the day."""
        return self.vault.expired(UNDATED + 1, since=UNDATED)
