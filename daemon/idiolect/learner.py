"""Learning on the device: the vault's examples into adapters, through the worker and the gate, and into use.

Everything here runs on the thread that owns the vault. What a person's adapter is made of is read from the vault anew
each time; each step is one transaction, so that a crash leaves the old state or the new.

| record (profile, purpose, kind, id) | holds |
| --- | --- |
| enrol, adapt_corrections, adapt_confirmations: example, sequence | one example (``learning.ledger``) |
| usage: count, day | how often what was said on a day |
| adapter: adapter, number | a version: file, provenance, signature (``learning.provenance``) |
| adapter: state, 00 | the rollout's table (``learning.rollout``) |
| consent: counter, 00 | the number of the newest version there ever was |
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from idiolect.consent import ADAPTER, CONSENT, Consents
from idiolect.errors import LearningError, RequestError
from idiolect.host.worker import Worker
from idiolect.learning import adapterfile, protocol, rollout, rounds
from idiolect.learning import ledger as ledgers
from idiolect.learning.ledger import PURPOSES, Example, Ledger, Source
from idiolect.learning.model import Model
from idiolect.learning.provenance import Provenance, Sealed, unseal
from idiolect.learning.trainer import When
from idiolect.pipeline.personal import Adapter
from idiolect.provisioning import ADAPTER_KEY
from idiolect.trust.receipt import RETENTION
from idiolect.trust.vault import Change

log = logging.getLogger(__name__)

DAY_S = 86_400
USAGE_DAYS = 60
"""Days of usage counts that a round looks at; today's are not final and wait until tomorrow."""
OTHERS_CAP = 200
"""Examples of the rest of the household that a candidate is tried on."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a round led to: ``number`` 0 when the gate refused, ``state`` of the version otherwise."""

    number: int
    state: str
    outcome: rounds.Outcome | None


class Learner:
    """See the module."""

    def __init__(
        self, consents: Consents, model: Model, encoder: str, worker: Worker, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``encoder``: digest of the encoder that examples are bound to."""
        self.vault, self.consents, self.model = consents.vault, consents, model
        self._encoder, self._worker, self._clock = encoder, worker, clock
        secret = self.vault.get("", *ADAPTER_KEY) or self._new_key()
        key = serialization.load_der_private_key(secret, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise LearningError("the device's adapter key is none", "provision the device anew: idiolect provision")
        self._key = key

    def _new_key(self) -> bytes:
        """For a vault that nobody provisioned (``keystore: file``): made at the first start."""
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
        """Today, in days since the epoch."""
        return int(self._clock() // DAY_S)

    # -- what there is ------------------------------------------------------------------------------------------

    def ledger(self, profile: str, *, day: int | None = None, last: int | None = None) -> Ledger:
        """What a person's adapter is made from on ``day``, up to example ``last``."""
        day = self.day if day is None else day
        examples = []
        for purpose in sorted(PURPOSES.values()):
            for record in self.vault.items(profile, purpose, "example"):
                if record.encoder == self._encoder:
                    examples.append(ledgers.decode(record.payload))
        examples.sort(key=lambda e: e.sequence)
        kept = tuple(e for e in examples if last is None or e.sequence <= last)
        usage: dict[tuple[str, int], int] = {}
        for record in self.vault.items(profile, "usage", "count"):
            then = int(record.id, 16)
            if day - USAGE_DAYS <= then < day:
                usage |= {(phrase, then): int(count) for phrase, count in json.loads(record.payload).items()}
        voice = self.consents.allowed(profile, "voice_match") is not None
        return Ledger(profile, kept, usage, voice)

    def versions(self, profile: str) -> list[rollout.Version]:
        """The versions that are kept, by number."""
        raw = self.vault.get(profile, ADAPTER, "state", "00")
        rows = json.loads(raw) if raw else []
        return [rollout.Version(**{**row, "state": rollout.State(row["state"])}) for row in rows]

    def sealed(self, profile: str, number: int) -> Sealed:
        """A version, its signature and binding checked. ``LearningError`` says what does not fit."""
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

    def household(self) -> list[Adapter]:
        """The adapters in use, of everybody; what cannot be used is left out and said."""
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
                found.append(adapterfile.decode(sealed.data))
        return found

    # -- what comes in ------------------------------------------------------------------------------------------

    def add(  # noqa: PLR0917 - what an example consists of
        self,
        profile: str,
        source: Source,
        phrase: str,
        spans: Iterable[NDArray[np.float32]],
        session: str,
        heard: str = "",
    ) -> list[int]:
        """Keep examples (each (copies, 18, 96)), all or none; their numbers. ``RequestError`` 403 without consent."""
        purpose = PURPOSES[source]
        receipt = self.consents.allowed(profile, purpose)
        if receipt is None:
            raise RequestError(
                403, "profile", f"has not agreed to {purpose}: idiolect consent grant NAME --purpose {purpose}"
            )
        first = self._next_sequence(profile)
        made = [
            Example(first + i, phrase, source, session, self.day, receipt.ident, np.asarray(s, np.float32), heard)
            for i, s in enumerate(spans)
        ]
        if first + len(made) > ledgers.MAX_EXAMPLES and self._count(profile) + len(made) > ledgers.MAX_EXAMPLES:
            raise RequestError(409, "profile", "has as many examples as one may have: forget some first")
        expires = self.day + RETENTION[purpose]
        fields: dict[str, int | str] = {"profile": profile, "purpose": purpose, "sequence": first}
        with self.vault.change("example-kept", False, count=len(made), **fields) as change:
            for example in made:
                change.put(profile, purpose, "example", example.ident, example.encode(), self._encoder, expires)
        return [example.sequence for example in made]

    def _records(self, profile: str) -> list[tuple[str, str]]:
        """(purpose, id) of every example, of other encoders too."""
        return [
            (purpose, record.id)
            for purpose in sorted(PURPOSES.values())
            for record in self.vault.items(profile, purpose, "example")
        ]

    def _count(self, profile: str) -> int:
        return len(self._records(profile))

    def _next_sequence(self, profile: str) -> int:
        return 1 + max((int(ident, 16) for _, ident in self._records(profile)), default=0)

    def used(self, counts: dict[str, dict[str, int]]) -> None:
        """Add usage counts of today, (profile -> phrase -> how often): written once in a while, not at every word."""
        for profile, said in counts.items():
            if self.consents.allowed(profile, "usage") is None:
                continue
            ident = f"{self.day:08x}"
            raw = self.vault.get(profile, "usage", "count", ident)
            total: dict[str, int] = json.loads(raw) if raw else {}
            for phrase, count in said.items():
                total[phrase] = total.get(phrase, 0) + count
            expires = self.day + RETENTION["usage"]
            with self.vault.change("put", False, profile=profile, purpose="usage", count=1) as change:
                change.put(profile, "usage", "count", ident, json.dumps(total).encode(), "", expires)

    # -- rounds -------------------------------------------------------------------------------------------------

    def round(self, profile: str, *, at_once: bool = False, owed: bool = False) -> Made:
        """Train, judge, and let what passed into the rollout; see ``learning.rollout`` for ``at_once``."""
        known = self.ledger(profile)
        if not known.examples and not known.usage:
            return Made(0, "base", None)
        versions = self.versions(profile)
        used = rollout.in_use(versions)
        active = self.sealed(profile, used.number).data if used and not owed else b""
        number = self._counter(profile) + 1
        when = When(self.day, number)
        request = protocol.Request(self.model, known, when, active, self._others(known), owed)
        answer = self._worker.run(protocol.ask(request), protocol.ANSWER_CAP)
        outcome = protocol.read_answer(self._message(answer), len(known.examples))
        if not outcome.verdict.passed:
            self.vault.log(
                "adapter-refused", profile=profile, check=outcome.verdict.check, examples=len(known.examples)
            )
            for fields in _set_aside(known, outcome):
                self.vault.log("quarantined", **fields)
            return Made(0, "base" if owed or used is None else used.state.value, outcome)
        return self._enter(known, outcome, number, at_once or owed)

    @staticmethod
    def _message(answer: bytes) -> dict[str, Any]:
        size = protocol.length(answer[:4], protocol.ANSWER_CAP)
        if len(answer) != 4 + size:
            raise LearningError("the training worker's answer was cut short", "it is tried again later")
        return protocol.unpack(answer[4:], protocol.ANSWER_CAP)

    def _others(self, known: Ledger) -> NDArray[np.float32] | None:
        """What the rest of the household said, but for phrases that this person has too: those may sound alike."""
        own = {example.phrase for example in known.examples}
        spans = [
            example.spans[0]
            for other in self.vault.profiles()
            if other != known.profile
            for example in self.ledger(other).examples
            if example.phrase not in own
        ]
        return np.stack(spans[-OTHERS_CAP:]) if spans else None

    def _counter(self, profile: str) -> int:
        raw = self.vault.get(profile, CONSENT, "counter", "00")
        return int(raw) if raw else 0

    def _enter(self, known: Ledger, outcome: rounds.Outcome, number: int, at_once: bool) -> Made:
        """One transaction: the signed version, the table, the audit entry; what is in use now rotates the keys."""
        profile, numbers = known.profile, outcome.verdict.numbers
        record = Provenance(
            profile=profile, number=number, bundle=self.model.digest, ledger=known.digest(), day=self.day,
            step=int(numbers["step"]), adapter=outcome.digest, examples=len(known.examples),
            last=max((e.sequence for e in known.examples), default=0), receipts=known.receipts(), gate=dict(numbers),
        )  # fmt: skip
        signature = self._key.sign(record.signed_bytes(), ec.ECDSA(hashes.SHA256()))
        versions = rollout.enter(self.versions(profile), number, at_once=at_once)
        state = next(v.state for v in versions if v.number == number)
        fields: dict[str, int | str] = {
            "profile": profile, "adapter": number, "digest": outcome.digest, "examples": len(known.examples),
            "state": state.value, "held_out": int(numbers["own_held_out"]), "wrong": int(numbers["own_wrong"]),
            "wrong_before": int(numbers["own_wrong_before"]), "guard_lost": int(numbers.get("guard_lost", 0)),
            "guard_won": int(numbers.get("guard_won", 0)),
        }  # fmt: skip
        with self.vault.change("adapter-made", state in rollout.IN_USE, **fields) as change:
            if ADAPTER not in change.shelf(profile).keys:
                change.add_key(profile, ADAPTER, "")
            sealed = Sealed(record, signature, outcome.data).encode()
            change.put(profile, ADAPTER, "adapter", f"{number:08x}", sealed, self._encoder)
            change.put(profile, CONSENT, "counter", "00", str(number).encode())
            self._store(change, profile, versions)
            for entry in _set_aside(known, outcome):
                change.log("quarantined", entry, int(self._clock()))
        return Made(number, state.value, outcome)

    def _store(self, change: Change, profile: str, versions: list[rollout.Version]) -> None:
        """Write the table, and drop the versions that it does not name any more."""
        rows = json.dumps([asdict(v) for v in versions]).encode()
        change.put(profile, ADAPTER, "state", "00", rows)
        numbers = {f"{v.number:08x}" for v in versions}
        for purpose, kind, ident in list(change.shelf(profile).records):
            if (purpose, kind) == (ADAPTER, "adapter") and ident not in numbers:
                change.delete(profile, purpose, kind, ident)

    # -- the rollout --------------------------------------------------------------------------------------------

    def move(self, profile: str, changed: rollout.Version) -> bool:
        """Store a version's counts; whether what is in use changed with them."""
        before = self.versions(profile)
        after = rollout.update(before, changed)
        now, then = rollout.in_use(after), rollout.in_use(before)
        other = (now.number if now else 0) != (then.number if then else 0)
        stepped = {v.number: v.state for v in after} != {v.number: v.state for v in before}
        if not stepped:
            with self.vault.change("put", False, profile=profile, purpose=ADAPTER, count=1) as change:
                self._store(change, profile, after)
            return False
        fields: dict[str, int | str] = {
            "profile": profile, "adapter": changed.number, "state": changed.state.value, "uses": changed.uses,
            "corrections": changed.corrections,
        }  # fmt: skip
        with self.vault.change("adapter-moved", other, **fields) as change:
            self._store(change, profile, after)
        return other

    def rollback(self, profile: str) -> str:
        """Take back what is in use; the version before it, or the base model, takes over. What is in use then."""
        versions = self.versions(profile)
        used = rollout.in_use(versions)
        if used is None:
            raise RequestError(409, "profile", "uses the base model already: there is nothing to take back")
        self.move(profile, used.next(rollout.Signal.TAKEN_BACK))
        now = rollout.in_use(self.versions(profile))
        return f"version {now.number}" if now else "the base model"

    def refresh(self) -> int:
        """Make anew what was made from another bundle or from examples that are gone; how many profiles that was."""
        stale = 0
        for profile in self.vault.profiles():
            used = rollout.in_use(self.versions(profile))
            if used is None:
                continue
            record = self.sealed(profile, used.number).provenance
            same = record.bundle == self.model.digest
            if same and len(self.ledger(profile, last=record.last).examples) == record.examples:
                continue
            stale += 1
            self.purge(profile)
            self.round(profile, owed=True)
        return stale

    def expire(self, day: int) -> int:
        """Delete what nobody agreed to have kept beyond ``day``, and make adapters anew; how many records went."""
        gone = self.vault.sweep(day)
        if gone:
            self.refresh()
        return gone

    def purge(self, profile: str) -> None:
        """Remove every version of a person's adapter, beyond recovery."""
        if ADAPTER in self.vault.purposes(profile):
            with self.vault.change("adapters-purged", True, profile=profile) as change:
                change.note(count=change.withdraw(profile, ADAPTER))

    def verify(self, profile: str, number: int) -> dict[str, object]:
        """Prove a version: signed here, from this bundle, from exactly these examples, each with its consent."""
        sealed = self.sealed(profile, number)
        record = sealed.provenance
        known = self.ledger(profile, day=record.day, last=record.last)
        granted = self.consents.granted(profile)
        same = known.digest() == record.ledger
        remade = b""
        if same and record.bundle == self.model.digest:
            when = When(record.day, record.number)
            request = protocol.Request(self.model, known, when, replay=record.step)
            remade = bytes(self._message(self._worker.run(protocol.ask(request), protocol.ANSWER_CAP)).get("data", b""))
        checks = {
            "signed": True,
            "bundle": record.bundle == self.model.digest,
            "ledger": same,
            "consent": set(known.receipts()) == set(record.receipts) and set(record.receipts) <= granted,
            "replayed": remade == sealed.data,
        }
        return {"adapter": number, "ok": all(checks.values()), "checks": checks, "examples": record.examples,
                "receipts": list(record.receipts), "ledger": record.ledger, "digest": record.adapter}  # fmt: skip


def _set_aside(known: Ledger, outcome: rounds.Outcome) -> list[dict[str, int | str]]:
    """For the audit log: the newest example, if it was not admitted. Older ones were told of when they came."""
    if not known.examples or outcome.admissions[-1].admitted:
        return []
    newest = known.examples[-1].sequence
    return [{"profile": known.profile, "sequence": newest, "check": outcome.admissions[-1].check}]
