"""What is fuzzed: every parser that reads bytes of a stranger. A target may only return or raise what it promises.

`tests/fuzz/test_targets.py` feeds them with Hypothesis, `scripts/torture/fuzz.py` a million times and with atheris.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from idiolect.errors import IdiolectError
from idiolect.trust.bundle import approvals, canonical, manifest, predecessors, signature
from idiolect.trust.bundle import public_keys as keys
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import verify
from tests.fuzz import ends, fields, kept, learnt, machine, sounds, stored, systembus, web
from tests.fuzz.engine import Target
from tests.support.bundles import key, signed, trusted

GOOD = signed(2, after=(1,)).files
_TRUSTED = trusted()
_JSON = (b"1e999", b"NaN", b"-Infinity", b"1" * 400, b"[" * 1200, b"{}", b"[]", b"null", b"true", b'"\\ud800"')


def _canonical(data: bytes) -> None:
    try:
        value = canonical.parse(data)
    except canonical.NotCanonicalError:
        return
    if canonical.encode(value) != data:
        raise AssertionError("two spellings of one value")


def _manifest(data: bytes) -> None:
    read = manifest.parse(data)
    if not set(manifest.CAPS) <= set(read.files) <= set(manifest.PAYLOAD_CAPS):
        raise AssertionError("files that no bundle has")


def _approvals(data: bytes) -> None:
    if approvals.encode(approvals.parse(data)) != data:
        raise AssertionError("two spellings of the same approvals")


def _signature(data: bytes) -> None:
    read = signature.parse(data)
    # What is around the payload may be spelled in other ways; the payload may not be another.
    if read.verify(key("bundle").public_key()) and read.payload != signature.parse(GOOD["model.sig"]).payload:
        raise AssertionError("a forgery")


def _pem(data: bytes) -> None:
    read = keys.load_public("fuzz.pem", data)
    keys.load_public("again.pem", keys.public_pem(read))


def _revoked(data: bytes) -> None:
    for each in keys.TrustedKeys.parse({}, data).revoked:
        if len(each) != 64:
            raise AssertionError("no fingerprint")


def _bundle(data: bytes) -> None:
    """The first byte says which of the small files is replaced."""
    name = ("manifest.json", "approvals.json", "model.sig")[(data[0] if data else 0) % 3]
    files = {**GOOD, name: data[1:]}
    verified = verify(Memory(files), _TRUSTED)
    if verified.manifest != manifest.parse(GOOD["manifest.json"]):
        raise AssertionError("something else was verified")


def _maps(data: bytes) -> None:
    found = predecessors.maps({"maps.json": data, "maps.bin": bytes(4 * predecessors.NUMBERS)}, "f" * 64)
    if predecessors.map_files(found)["maps.json"] != data:
        raise AssertionError("two spellings of the same encoders")


def _one(good: Callable[[], bytes]) -> Callable[[], Sequence[bytes]]:
    return lambda: [good()]


def _given(*goods: bytes) -> Callable[[], Sequence[bytes]]:
    return lambda: goods


# Of what a full run has, by a target's share; see ``engine.Target``.
TARGETS: Mapping[str, Target] = {
    # the bundle, before its signature is known to be good, and after
    "canonical": Target(_canonical, _given(GOOD["manifest.json"])),
    "manifest": Target(_manifest, _given(GOOD["manifest.json"])),
    "approvals": Target(_approvals, _given(GOOD["approvals.json"])),
    "signature": Target(_signature, _given(GOOD["model.sig"])),
    "pem": Target(_pem, _given(keys.public_pem(key("bundle").public_key()))),
    "revoked": Target(_revoked, _given(b"# lost\n" + b"a" * 64 + b"\n")),
    "maps": Target(_maps, _given(canonical.encode({"encoders": ["e" * 64], "format": 1}))),
    "bundle": Target(_bundle, _given(b"\2" + GOOD["model.sig"]), share=0.5),
    "bundle-contents": Target(kept.contents, kept.good_contents, tokens=_JSON),
    # what lies on the device's disk
    "vault-row": Target(stored.vault_row, _one(stored.good_vault_row), share=0.5),
    "vault-file": Target(stored.vault_file, _given(b"\0\0SQLite format 3\0"), share=0.5),
    "device": Target(stored.device_record, _one(stored.good_record)),
    "config": Target(
        kept.config, _given(kept.CONFIG.encode(), kept.OUTDATED.encode()), tokens=kept.YAML_TOKENS, share=0.5
    ),
    "migration": Target(kept.migration, _given(kept.OUTDATED.encode()), tokens=kept.YAML_TOKENS, share=0.5),
    "keystore-file": Target(kept.key_file, kept.good_key_files),
    "slots": Target(kept.slot_file, _given(b'{"current": "0123456789abcdef", "previous": null, "minimum": 3}')),
    "listening": Target(kept.pause, _given(b'{"paused": true, "until": 1700000000.5}'), tokens=_JSON),
    "personal": Target(
        kept.personal,
        _given(b'{"profile": "guest", "paused_until": null, "day": 20000, "waiting_since": 1.5}'),
        tokens=_JSON,
    ),
    # what the vault gives back
    "receipt": Target(kept.consent_receipt, _one(kept.good_receipt)),
    "adapter": Target(learnt.adapter, _one(learnt.good_adapter), tokens=_JSON),
    "sealed-adapter": Target(kept.sealed_adapter, _one(kept.good_sealed_adapter)),
    "example": Target(learnt.example, _one(learnt.good_example), tokens=_JSON),
    "tables": Target(kept.tables, kept.good_tables, tokens=_JSON),
    # documents
    "audit": Target(stored.audit_export, _one(stored.good_export)),
    "document": Target(stored.document, _given(b'{"bundle":{},"nonce":"","quote":{},"schema":""}')),
    "quote": Target(stored.quote, _given(b"\xff\x54\x43\x47\x80\x18\0\x22")),
    "copy": Target(kept.copy, kept.good_copies, tokens=(*_JSON, *kept.COPY_TOKENS), share=0.5, cap_mib=160),
    # the worker
    "frame": Target(learnt.framed, _one(learnt.good_selftest)),
    "worker-request": Target(ends.request, ends.cut_requests),
    "worker-answer": Target(learnt.answer, _one(learnt.good_answer)),
    "worker-replay": Target(ends.replay, _one(learnt.good_answer)),
    "worker-selftest": Target(learnt.tested, _one(learnt.good_selftest)),
    "worker-pipe": Target(ends.pipe, _one(ends.good_pipe)),
    "worker-child": Target(ends.child, _one(ends.good_pipe), share=0.02, least=1000),
    "worker-confined": Target(ends.worker, _given(b"", b"\1\x80"), share=0.0, least=60, cap_mib=64),
    # all of these by somebody who knows the format
    "fields": Target(fields.fields, fields.goods, share=6, least=60_000, cap_mib=160),
    # the machine
    **{name: Target(run, goods, share=0.3) for name, run, goods in machine.TARGETS},
    # others, over sockets
    "control": Target(web.control, web.requests, tokens=web.HTTP_TOKENS, share=3, least=50_000),
    "page": Target(web.page, web.page_requests, tokens=web.HTTP_TOKENS, share=2, least=30_000),
    "wyoming": Target(sounds.wyoming, sounds.events, tokens=sounds.WYOMING_TOKENS, share=2, least=30_000),
    "wyoming-talk": Target(sounds.wyoming_talk, sounds.talks, share=1),
    "wyoming-ears": Target(sounds.wyoming_ears, sounds.talks, share=0.02, least=500, cap_mib=64),
    "handoff": Target(sounds.handoff, sounds.events, tokens=sounds.WYOMING_TOKENS, share=1),
    "bus": Target(systembus.bus, systembus.messages, tokens=(b"()", b"{}", b"a(yv)", b"aaaaaaay", b"v"), share=1),
    "client": Target(ends.answer, ends.good_answers, tokens=web.HTTP_TOKENS, share=0.5),
    "client-stream": Target(ends.stream, ends.good_answers, tokens=web.HTTP_TOKENS, share=0.5),
}
"""Every parser of what others wrote, by name."""


def feed(name: str, data: bytes) -> None:
    """Run one target: refusals are fine, anything else comes through."""
    with contextlib.suppress(IdiolectError):
        TARGETS[name].run(data)
