"""What is fuzzed: every parser that reads bytes of a stranger. A target may only return or raise what it promises.

`tests/fuzz/test_targets.py` feeds them with Hypothesis, `scripts/fuzz` with atheris.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from idiolect.errors import IdiolectError
from idiolect.trust import approvals, canonical, keys, manifest, oms, succession
from idiolect.trust.source import Memory
from idiolect.trust.verify import verify
from tests.bundles import key, signed, trusted
from tests.fuzz import learnt, stored

GOOD = signed(2, after=(1,)).files
_TRUSTED = trusted()


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
    read = oms.parse(data)
    # What is around the payload may be spelled in other ways; the payload may not be another.
    if read.verify(key("bundle").public_key()) and read.payload != oms.parse(GOOD["model.sig"]).payload:
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
    found = succession.maps({"maps.json": data, "maps.bin": bytes(4 * succession.NUMBERS)}, "f" * 64)
    if succession.map_files(found)["maps.json"] != data:
        raise AssertionError("two spellings of the same encoders")


TARGETS: Mapping[str, tuple[Callable[[bytes], None], bytes]] = {
    "canonical": (_canonical, GOOD["manifest.json"]),
    "manifest": (_manifest, GOOD["manifest.json"]),
    "approvals": (_approvals, GOOD["approvals.json"]),
    "signature": (_signature, GOOD["model.sig"]),
    "pem": (_pem, keys.public_pem(key("bundle").public_key())),
    "revoked": (_revoked, b"# lost\n" + b"a" * 64 + b"\n"),
    "maps": (_maps, canonical.encode({"encoders": ["e" * 64], "format": 1})),
    "bundle": (_bundle, b"\2" + GOOD["model.sig"]),
    "vault-row": (stored.vault_row, stored.good_vault_row()),
    "vault-file": (stored.vault_file, b"\0\0SQLite format 3\0"),
    "audit": (stored.audit_export, stored.good_export()),
    "device": (stored.device_record, stored.good_record()),
    "document": (stored.document, b'{"bundle":{},"nonce":"","quote":{},"schema":""}'),
    "frame": (learnt.framed, learnt.good_selftest()),
    "worker-answer": (learnt.answer, learnt.good_answer()),
    "worker-selftest": (learnt.tested, learnt.good_selftest()),
    "adapter": (learnt.adapter, learnt.good_adapter()),
    "example": (learnt.example, learnt.good_example()),
    "quote": (stored.quote, b"\xff\x54\x43\x47\x80\x18\0\x22"),
}
"""Name -> the target and a good input to start from."""


def feed(name: str, data: bytes) -> None:
    """Run one target: refusals are fine, anything else comes through."""
    with contextlib.suppress(IdiolectError):
        TARGETS[name][0](data)
