"""Each invariant broken on purpose, on a device that was whole a moment ago: the next check must say so.

A check that cannot fail is worth nothing: whoever doubts the ten thousand cycles runs this first.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from idiolect.learning.provenance import Sealed, unseal
from idiolect.people.consent import ADAPTER, CONSENT
from idiolect.trust.device.provisioning import ADAPTER_KEY, KEYFILE, VAULT
from idiolect.trust.vault.vault import Vault
from torture.crashing.board import Board
from torture.crashing.bundles import boot
from torture.crashing.daemons import House
from torture.crashing.lives import Loss
from torture.crashing.steps import WORKER, Target
from torture.crashing.story import MARK, Person, Story, take
from torture.crashing.tally import Tally

FIRST = ("consent", "teach", "forget", "teach", "correct")


@dataclass(frozen=True)
class Whole:
    """A device, its disk at two moments, and what it must hold at the second."""

    board: Board
    earlier: Path
    now: Path
    story: Story

    def renew(self) -> None:
        """Back to the second."""
        self.board.device.restore(self.now)
        self.board.story, self.board.wrong = copy.deepcopy(self.story), []

    @contextlib.contextmanager
    def opened(self) -> Iterator[Vault]:
        """The vault, for whoever may write it."""
        self.board.now += 86_400
        custody = self.board.device.custody(boot(self.board._runs)[0], clock=lambda: self.board.now)
        with contextlib.closing(custody):
            assert custody.open().released  # noqa: S101 - it was whole
            yield custody.vault

    @property
    def profile(self) -> str:
        """Somebody with an adapter."""
        return next(profile for profile, person in self.story.kept.items() if person.table)


def _device(board: Board) -> Whole:
    """People who agreed, taught, forgot and taught again."""
    earlier, now = board.folder / "earlier", board.folder / "now"
    for name in FIRST:
        if name == FIRST[-1]:
            board.device.image(earlier)
        board._run([name], None, None)
        if board.wrong:
            raise Loss("; ".join(board.wrong))
    board.device.image(now)
    return Whole(board, earlier, now, copy.deepcopy(board.story))


def _undone(whole: Whole) -> None:
    """An operation returned, and its write was never on the disk."""
    whole.board.device.restore(whole.earlier)


def _other_log(whole: Whole) -> None:
    """The log has as many entries, but other ones."""
    whole.board.story.head = "00" * 32


def _plain_name(whole: Whole) -> None:
    """Somebody's name in a file."""
    (whole.board.state_dir / "notes").write_text(f"{MARK} was here")


def _plain_example(whole: Whole) -> None:
    """An example behind the end of the WAL."""
    key = whole.story.kept[whole.profile].examples[0].take
    with (whole.board.state_dir / "vault.db-wal").open("ab") as file:
        file.write(take(key).astype("<f2").tobytes())


def _revived(whole: Whole) -> None:
    """A forgotten example is back under another number."""
    example = whole.story.kept[whole.profile].examples[0]
    again = replace(example, sequence=example.sequence + 100).made().encode()
    with whole.opened() as vault, vault.change("put", profile=whole.profile, count=1) as change:
        change.put(whole.profile, "enrol", "example", f"{example.sequence + 100:08x}", again, example.encoder)


def _other_adapter(whole: Whole) -> None:
    """One bit of an adapter is another, and everything was signed again with the device's own key."""
    with whole.opened() as vault:
        (*_, record) = vault.items(whole.profile, ADAPTER, "adapter")
        sealed = unseal(record.payload)
        data = sealed.data[:-1] + bytes([sealed.data[-1] ^ 1])
        said = replace(sealed.provenance, adapter=hashlib.sha256(data).hexdigest())
        key = serialization.load_der_private_key(vault.get("", *ADAPTER_KEY) or b"", None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - it is
        forged = Sealed(said, key.sign(said.signed_bytes(), ec.ECDSA(hashes.SHA256())), data)
        with vault.change("put", profile=whole.profile, count=1) as change:
            change.put(whole.profile, ADAPTER, "adapter", record.id, forged.encode(), record.encoder)


def _unsigned_adapter(whole: Whole) -> None:
    """An adapter with another's signature."""
    with whole.opened() as vault:
        (*_, record) = vault.items(whole.profile, ADAPTER, "adapter")
        sealed = unseal(record.payload)
        forged = replace(sealed, provenance=replace(sealed.provenance, day=sealed.provenance.day + 1))
        with vault.change("put", profile=whole.profile, count=1) as change:
            change.put(whole.profile, ADAPTER, "adapter", record.id, forged.encode(), record.encoder)


def _no_ledger(whole: Whole) -> None:
    """A version that no table lists."""
    with whole.opened() as vault:
        (*_, record) = vault.items(whole.profile, ADAPTER, "adapter")
        with vault.change("put", profile=whole.profile, count=1) as change:
            change.put(whole.profile, ADAPTER, "adapter", f"{0xFFF:08x}", record.payload, record.encoder)


def _no_consent(whole: Whole) -> None:
    """Something is kept for a purpose that nobody granted."""
    with whole.opened() as vault, vault.change("put", profile=whole.profile, count=1) as change:
        change.add_key(whole.profile, "adapt_confirmations", "ab" * 32)


def _no_name(whole: Whole) -> None:
    """Keys of a person of whom nothing else is left."""
    with whole.opened() as vault, vault.change("put", profile=whole.profile, count=1) as change:
        change.delete(whole.profile, CONSENT, "name", "00")


def _left_over(whole: Whole) -> None:
    """A file that no start clears away."""
    (whole.board.state_dir / f".{KEYFILE}.old").write_text("{}")


def _erased(whole: Whole) -> None:
    """Rows of somebody who was erased."""
    whole.board.story.erased.add(whole.profile)


def _no_vault(whole: Whole) -> None:
    """The vault of another moment than its keys'."""
    data = (whole.earlier / KEYFILE).read_bytes()
    (whole.board.state_dir / KEYFILE).write_bytes(data.replace(b'"secret": "', b'"secret": "0')[: len(data)])


def _strange(whole: Whole) -> None:
    """A record of a kind that nobody knows."""
    with whole.opened() as vault, vault.change("put", profile=whole.profile, count=1) as change:
        change.put(whole.profile, "enrol", "strange", "00", b"?")


def _strange_own(whole: Whole) -> None:
    """One of the device's own."""
    with whole.opened() as vault, vault.change("put", count=1) as change:
        change.put("", ADAPTER_KEY[0], "strange", "00", b"?")


def _other_receipt(whole: Whole) -> None:
    """An example under a receipt that its person did not give for it."""
    example = replace(whole.story.kept[whole.profile].examples[0], receipt="ab" * 32)
    with whole.opened() as vault, vault.change("put", profile=whole.profile, count=1) as change:
        change.put(
            whole.profile, "enrol", "example", f"{example.sequence:08x}", example.made().encode(), example.encoder
        )


def _both_in_use(whole: Whole) -> None:
    """Two versions of one adapter in use."""
    with whole.opened() as vault, vault.change("put", profile=whole.profile, count=1) as change:
        rows = json.loads(vault.get(whole.profile, ADAPTER, "state", "00") or b"[]")
        rows = [{**rows[-1], "number": number, "state": "active"} for number in (1, 2)]
        change.put(whole.profile, ADAPTER, "state", "00", json.dumps(rows).encode())


def _rows(statement: str) -> Callable[[Whole], None]:
    """The file itself is changed, as no code of ours would."""

    def spoil(whole: Whole) -> None:
        with contextlib.closing(sqlite3.connect(whole.board.state_dir / VAULT, isolation_level=None)) as connection:
            connection.execute(statement)

    return spoil


SPOILED: Mapping[str, tuple[Callable[[Whole], None], str]] = {
    "a write that was not durable": (_undone, "the audit log has"),
    "another log of the same length": (_other_log, "and not the one numbered"),
    "a name in a file": (_plain_name, "holds plaintext"),
    "an example in the WAL": (_plain_example, "holds plaintext"),
    "a forgotten example is back": (_revived, "examples"),
    "an adapter with another bit": (_other_adapter, "does not come out again"),
    "an adapter that is not signed": (_unsigned_adapter, "signature that is not the device's"),
    "an adapter in no table": (_no_ledger, "tables that list"),
    "a purpose without consent": (_no_consent, "that no receipt covers"),
    "keys of nobody": (_no_name, "without a name"),
    "a file left over": (_left_over, "is left over"),
    "a record that nobody knows": (_strange, "a record enrol/strange"),
    "a record of the device that nobody knows": (_strange_own, "records that nobody knows"),
    "an example under another receipt": (_other_receipt, "under another receipt"),
    "two versions in use": (_both_in_use, "two versions in use"),
    "a root of nobody": (_rows("INSERT INTO roots VALUES ('ff', x'00')"), "roots without a key"),
    "records without a key": (_rows("DELETE FROM wraps WHERE purpose = 'enrol'"), "records without a key"),
    "keys without a root": (_rows("DELETE FROM roots WHERE profile = ''"), "keys without a root"),
    "keys of another rotation": (_rows("UPDATE wraps SET generation = 999"), "neither in force nor in course"),
    "rows of who was erased": (_erased, "somebody who was erased"),
    "keys that do not open the vault": (_no_vault, "no keys"),
}
"""What is broken, and what the check must say."""


def _told(whole: Whole, spoil: Callable[[Whole], None]) -> str:
    """What the next start and the look at the files have to say about it; "" where it is nothing."""
    whole.renew()
    spoil(whole)
    try:
        whole.board._look_at_remains()
        whole.board.check()
    except Loss as loss:
        return str(loss)
    return ""


def _dead_worker(whole: Whole) -> str:
    """A worker dies, and nobody writes it down."""
    whole.renew()
    real = Vault.log

    def log(self: Vault, kind: str, **fields: int | str) -> None:
        if kind != "round-failed":
            real(self, kind, **fields)

    with patch.object(Vault, "log", log):
        whole.board._run(["train"], Target(2, frozenset({"worker has the request#1"}), WORKER), None)
    return "; ".join(whole.board.wrong)


def _left_worker(whole: Whole) -> str:
    """A worker lives on."""
    whole.renew()
    code = "import os, time; os.fork() and os._exit(0); time.sleep(60)"
    subprocess.run([sys.executable, "-c", code], check=True)
    try:
        whole.board._after(0)
        time.sleep(0.05)
        whole.board._await_orphans(0.5, patience=0.01)
    except Loss as loss:
        return str(loss)
    finally:
        for pid in list(whole.board._orphans):
            os.kill(pid, signal.SIGKILL)
    return ""


def _daemon(chance: random.Random) -> dict[str, tuple[str, str]]:
    """What is said of a whole daemon that does not hold what it should."""
    house = House(chance, {})
    try:
        house.start()
        whole = copy.deepcopy(house.story)
        house.ask()

        def told(check: Callable[[], None]) -> str:
            try:
                check()
            except Loss as loss:
                return str(loss)
            finally:
                house.story = copy.deepcopy(whole)
            return ""

        house.story.kept = {"ab" * 8: Person(MARK)}
        said = {"a daemon that knows somebody no more": (told(house.ask), "1 who should")}
        house.story.count = 10_000
        said["a daemon whose log was cut"] = (told(house.ask), "the audit log has")
        house.kill()
        with (house.folder / "log").open("a") as log:
            log.write(MARK)
        said["a name in the journal"] = (told(house.look_at_remains), "the journal names somebody")
        return said
    finally:
        house.close()


def every(chance: random.Random) -> tuple[dict[str, str], list[str]]:
    """All of them: what was said of each, and those of which the right thing was not said."""
    board = Board("file", chance, Tally())
    reported, missed = {}, []
    try:
        whole = _device(board)
        whole.renew()
        board.check()  # a whole one is called whole
        said = {what: (_told(whole, spoil), words) for what, (spoil, words) in SPOILED.items()}
        said["a worker's death that nobody tells"] = (_dead_worker(whole), "the log does not say so")
        said["a worker that lives on"] = (_left_worker(whole), "is alive")
        said |= _daemon(chance)
        for what, (told, words) in said.items():
            reported[what] = told
            if words not in told:
                missed.append(f"{what}: {told or 'nothing was said'}")
    finally:
        board.close()
    return reported, missed
