"""Targets for what is read back: configuration, small state files, what the vault gives, a person's own copy, and what
the other ends of our pipes and sockets say: the worker, and a daemon to its client.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np

from idiolect.config.rewrite import migrate
from idiolect.config.schema import parse
from idiolect.errors import IdiolectError
from idiolect.host.clock import moment
from idiolect.host.structure import Source
from idiolect.learning import health, provenance, rollout
from idiolect.learning.health import Health
from idiolect.learning.ledger import Example
from idiolect.people import receipt
from idiolect.people.adapters import STATE_FILE, Adapters
from idiolect.people.consent import Person
from idiolect.people.copies import SCHEMA
from idiolect.people.learner import Made
from idiolect.people.review import Rights
from idiolect.service.pause import PAUSE_FILE, Pausing
from idiolect.trust.bundle import bundle, slots
from idiolect.trust.bundle.verify import Verified
from idiolect.trust.device import key_file as keyfile
from idiolect.trust.vault import sealed_copy
from idiolect.trust.vault.passphrase import stretch
from idiolect.values import EMBEDDING
from tests.fuzz import learnt
from tests.fuzz.engine import MARK
from tests.fuzz.machine import folder
from tests.support.bundles import signed

# -- configuration -----------------------------------------------------------------------------------------------------

CONFIG = f"""\
schema: 2
audio: {{device: "plughw:CARD=Mic,DEV=0", gain_db: 3.5, channel: mix}}
listening:
  mode: wake   # a comment
  wake_words: [computer]
  phrases: all
  thresholds: {{computer: 0.7}}
people:
  {MARK}: {{users: [ann]}}
control: {{max_clients: 32, roles: {{user: [audio]}}}}
keystore: file
"""
OUTDATED = f"""\
# a house
schema: 1
control:
  people:  # who
    {MARK}: [ann]   # herself
    bob: [bob, root]
  max_clients: 8
audio: {{gain_db: 1}}
"""
YAML_TOKENS = (
    b"people:\n", b"  users: [", b"control: {", b": ", b"\n  - ", b"? ", b"&", b"*", b"!!python/object:", b"!!binary ",
    b"---\n", b"...\n", b"%YAML 9.9\n", b"|\n", b">-\n", b"''", b"\\x9", b"\\Uffffffff", b"\\ud800", b"#", b"\t",
    b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"schema: ", b"audio.gain_db: 1e999",
)  # fmt: skip


def config(data: bytes) -> None:
    """A configuration is one, or all that is wrong is said."""
    parse(data, "fuzz.yaml")


def migration(data: bytes) -> None:
    """What is rewritten means what it meant, and need not be rewritten again."""
    done = migrate(data, "fuzz.yaml")
    if done is not None:
        before, after = parse(data, "fuzz.yaml"), parse(done.data, "fuzz.yaml")
        assert before == after, "it means something else"
        assert migrate(done.data, "fuzz.yaml") is None


# -- small files -------------------------------------------------------------------------------------------------------


class _Silent:
    """A ``Capture`` as far as a pause goes."""

    paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


@cache
def _quiet_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def pause(data: bytes) -> None:
    """What cannot be understood is a pause; whatever it is, the daemon can say it in JSON."""
    (folder() / PAUSE_FILE).write_bytes(data)
    pausing = Pausing(_Silent(), folder(), lambda: None)  # type: ignore[arg-type]

    async def restored() -> None:
        pausing.restore()
        if pausing._timer:
            pausing._timer.cancel()

    _quiet_loop().run_until_complete(restored())
    assert pausing.until is None or math.isfinite(pausing.until), "no JSON has that"


def personal(data: bytes) -> None:
    """The same for whom is addressed, and for learning's pause."""
    (folder() / STATE_FILE).write_bytes(data)
    made = object.__new__(Adapters)  # all that restoring touches
    made._file, made.active, made.paused_until, made.waiting_since = folder() / STATE_FILE, "", None, None
    made._pause, made._moment = None, moment
    made._restore()
    assert made.waiting_since is None or math.isfinite(made.waiting_since), "no JSON has that"
    assert made.paused_until is None or not math.isnan(made.paused_until), "neither paused nor not"
    assert isinstance(made.learning, bool)


def key_file(data: bytes) -> None:
    """The keystore's file; its content is shown nowhere."""
    path = folder() / "keystore.json"
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        keyfile.FileKeystore.open(path)[1].wipe()
    except IdiolectError as error:
        if MARK in str(error):
            raise AssertionError("it is shown") from None
        raise


def good_key_files() -> list[bytes]:
    slot = {"generation": 3, "secret": "ab" * 32}
    whole = {"schema": keyfile.SCHEMA, "root": "cd" * 32, "next": slot, "current": slot, "minimum_version": 2}
    return [json.dumps(each).encode() for each in (whole, {**whole, "root": MARK})]


def slot_file(data: bytes) -> None:
    """Which bundle is current."""
    (folder() / slots.FILE).write_bytes(data)
    found = slots.Slots(folder()).state()
    assert slots._parse(json.dumps(asdict(found)).encode()) == found


def consent_receipt(data: bytes) -> None:
    """One spelling for one receipt."""
    assert receipt.parse(data).encode() == data


def good_receipt() -> bytes:
    return receipt.Receipt(
        "01" * 8, "aa" * 8, "enrol", "00" * 32, 1, "en", "granted", 1_700_000_000, "paired", 1000, 365
    ).encode()


def sealed_adapter(data: bytes) -> None:
    """An adapter with its provenance and signature, as the vault keeps it."""
    assert provenance.unseal(data).encode() == data


def good_sealed_adapter() -> bytes:
    import hashlib

    file = learnt.good_adapter()
    gate = {"own_held_out": 3.0, "own_wrong": 0.0, "own_wrong_before": 3.0}
    digest = hashlib.sha256(file).hexdigest()
    record = provenance.Provenance("aa" * 8, 1, "b" * 64, "c" * 64, 20_000, 0, digest, 3, 3, ("01",), gate)
    return provenance.Sealed(record, b"0" * 70, file).encode()


def tables(data: bytes) -> None:
    """The table of versions, and how the one in use does; JSON as the vault gives it back."""
    try:
        kept = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    if data[0] % 2:
        assert rollout.read(kept) is not None
    else:
        assert health.read(kept) is not None


def good_tables() -> list[bytes]:
    versions = [asdict(rollout.Version(n, state)) for n, state in enumerate(rollout.State, 1)]
    return [b"\1" + json.dumps(versions).encode(), b"\0" + json.dumps(Health(1, 20_000).as_dict()).encode()]


# -- the bundle's contents, after its signature ------------------------------------------------------------------------

_PARTS = ("head.json", "phrases.json", "guard.json", "maps.json", "previous-manifest.json", "head.bin", "guard.bin")


@cache
def _verified() -> Verified:
    return signed(2, after=(1,))


def contents(data: bytes) -> None:
    """A vendor's own mistake: the first byte says in which file. It is a ``BundleError`` that names it."""
    name = _PARTS[(data[0] if data else 0) % len(_PARTS)]
    files = {**_verified().files, name: data[1:]}
    loaded = bundle.load(replace(_verified(), files=files))
    assert all(0.0 < each.threshold < 1.0 for each in loaded.phrases)
    assert math.isfinite(loaded.guard.scale)


def good_contents() -> list[bytes]:
    files = _verified().files
    return [bytes([n]) + files[name][:8000] for n, name in enumerate(_PARTS) if name in files]


# -- a person's own copy -----------------------------------------------------------------------------------------------


class _Taking:
    """A ``Learner`` as far as bringing a copy goes: what it is given, it writes down as the real one does."""

    def __init__(self) -> None:
        self.vault = self

    def log(self, *_: object, **__: object) -> None:
        """Nothing to tell."""

    def add(self, _profile: str, source: Any, phrase: str, spans: list[Any], session: str, *of: str) -> None:
        for number, each in enumerate(spans, 1):
            span = np.asarray(each, np.float32)
            Example(number, phrase, source, session, 20_000, "00" * 32, span, of[0]).encode()

    def round(self, *_: object, **__: object) -> Made:
        return Made(0, "base", None)

    def versions(self, _profile: str) -> list[Any]:
        return []


PASSPHRASE = "correct horse"  # noqa: S105 - of nothing


def copy(data: bytes) -> None:
    """A copy as POST /v1/import has it: JSON of anybody."""
    from idiolect.control.api import requests

    document = requests.parse_copy(Source(bytearray(data)))
    purposes: Mapping[str, Any] = {"enrol": True, "adapt_corrections": True}
    answer = Rights(_Taking(), stretch).bring(Person("aa" * 8, "ann", purposes), document, PASSPHRASE)  # type: ignore[arg-type]
    assert isinstance(answer["imported"], int)


@cache
def good_copies() -> list[bytes]:
    """Readable, and sealed at the least cost."""
    spans = learnt.request().ledger.examples[0].spans
    row = {
        "phrase": MARK, "source": "enrolment", "day": 20_000, "session": "01", "heard": "", "copies": len(spans),
        "encoder": "", "embeddings_float16": base64.b64encode(np.zeros((1, 18, EMBEDDING), "<f2").tobytes()).decode(),
    } | {"copies": 1}  # fmt: skip
    document = {"schema": SCHEMA, "name": MARK, "examples": [row], "usage": [], "adapters": []}
    sealed = {**_sealed(b'{"schema": "' + SCHEMA.encode() + b'", "examples": []}')}
    broken = [_sealed(text) for text in (b"[]", b"x", b"[" * 5000, b"1e999")]
    return [json.dumps(each).encode() for each in (document, sealed, *broken)]


def _sealed(plain: bytes) -> dict[str, object]:
    before, sealed_copy.COST = sealed_copy.COST, 2
    try:
        return sealed_copy.seal(plain, PASSPHRASE)
    finally:
        sealed_copy.COST = before


COPY_TOKENS = (
    b'"cost": 131072', b'"cost": 1e999', b'"copies": 1e999', b'"copies": true', b'"session"', b"\\ud800", b'"schema": ',
)  # fmt: skip
