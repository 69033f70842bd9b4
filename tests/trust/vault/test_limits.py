"""The numbers and labels that are promises: what devices in the field accept, and what their vaults are bound to.

Written out here a second time on purpose: a cap that moved, or a label that changed, is a change of the format.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from dataclasses import fields, replace

import numpy as np
import pytest

from idiolect.errors import BundleError
from idiolect.trust.bundle import (
    approvals,
    bundle,
    canonical,
    manifest,
    phrases,
    predecessors,
    signature,
    signing,
    source,
    verify,  # fmt: skip
)
from idiolect.trust.bundle import public_keys as keys
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.device import attestation, documents, identity
from idiolect.trust.vault import audit, envelope, keystore, roots, rotation, schema, sealed_copy
from idiolect.trust.vault.audit import Mark
from idiolect.trust.vault.roots import DataKey, ProfileContents, State
from idiolect.trust.vault.secret import Secret
from tests.support.bundles import builtin, key

KIB, MIB = 1024, 1024 * 1024


def test_sizes():
    assert {
        "manifest": manifest.CAP, "approvals": approvals.CAP, "signature": signature.CAP, "json": canonical.CAP,
        "key": keys.FILE_CAP, "revoked": keys.REVOKED_CAP, "device": identity.RECORD_CAP, "audit": audit.EXPORT_CAP,
        "attestation": documents.ATTESTATION_CAP, "sealed": sealed_copy.CAP, "payload": schema.PAYLOAD_CAP,
        "vault": schema.FILE_CAP, "body": audit.BODY_CAP, "nonce": audit.NONCE_CAP,
    } == {
        "manifest": 64 * KIB, "approvals": 192 * KIB, "signature": 64 * KIB, "json": 64 * KIB,
        "key": 8 * KIB, "revoked": 64 * KIB, "device": 16 * KIB, "audit": 8 * MIB,
        "attestation": 16 * KIB, "sealed": 32 * MIB, "payload": MIB,
        "vault": 256 * MIB, "body": 512, "nonce": 64,
    }  # fmt: skip
    assert dict(manifest.CAPS) == {
        "encoder.tflite": 4 * MIB, "head.json": 64 * KIB, "head.bin": 2 * MIB, "phrases.json": 64 * KIB,
        "guard.json": 256 * KIB, "guard.bin": 4 * MIB,
    }  # fmt: skip
    assert dict(manifest.OPTIONAL_CAPS) == {"trained_on.bin": MIB}
    assert dict(manifest.MAP_CAPS) == {"maps.json": 4 * KIB, "maps.bin": 256 * KIB}
    ours = {"manifest.json": 64 * KIB, **manifest.CAPS, **manifest.MAP_CAPS}
    assert dict(manifest.PREVIOUS_CAPS) == {f"previous-{name}": cap for name, cap in ours.items()}


def test_counts():
    assert (verify.MAX_FILES, keys.MAX_FILES, signature.MAX_RESOURCES, approvals.MAX_APPROVALS) == (32, 64, 64, 256)
    assert (canonical.MAX_DEPTH, canonical.MAX_ENTRIES, canonical.MAX_INTEGER) == (8, 4096, 2**63 - 1)
    assert (manifest.MAX_NAME, predecessors.MAX_MAPS, predecessors.NUMBERS) == (64, 4, 9312)
    assert (predecessors.MAX_GAIN, predecessors.MAX_OFFSET) == (16.0, 256.0)
    assert (audit.SEGMENT, audit.MAX_SEGMENTS, audit.MAX_ENTRIES, audit.MAX_NUMBER) == (256, 16, 4352, 2**53 - 1)
    assert (schema.MAX_RECORDS, schema.MAX_WRAPS) == (20_000, 2048)
    assert (rotation.COST, rotation.FULL_CREDIT) == (14_400, 86_400)  # one in four hours, six at once
    assert (sealed_copy.COST, sealed_copy.MOST, sealed_copy.SHORTEST) == (32_768, 32_768, 8)
    assert range(8, 65) == attestation.NONCE_BYTES


def test_formats():
    assert (envelope.KEY, envelope.NONCE, envelope.TAG, envelope.OVERHEAD) == (32, 12, 16, 28)
    assert (keystore.SECRET_BYTES, keystore.NEXT, keystore.CURRENT) == (32, 0, 1)
    assert (approvals.DEFAULT_PCR, approvals.LAST_PCR, approvals.SCHEMA, identity.SCHEMA) == (14, 15, 1, 1)
    assert bytes(32) == signing.FRESH_BOOT
    assert approvals.POLICY_REF == b"idiolect/v1"
    assert manifest.AUDIO == {"block": 1280, "channels": 1, "format": "S16_LE", "rate": 16000}
    names = (source.SIZE, source.FORM, source.SIGNER, source.VERSION, source.PATHS, source.DIGEST, source.APPROVED)
    assert names == (1, 2, 3, 4, 5, 6, 7)
    assert list(verify.CHECKS) == list(names)
    assert (audit.SCHEMA, documents.ATTESTATION) == ("idiolect/audit/export/v1", "idiolect/attestation/v1")
    assert sealed_copy.SCHEMA == "idiolect/sealed/v1"
    assert schema.APPLICATION_ID == 0x49644C56
    assert schema.SIDE_FILES == ("-wal", "-shm", "-journal")
    assert (attestation.GENERATED, attestation.QUOTE, attestation.AK_ATTRIBUTES) == (0xFF544347, 0x8018, 0x50472)


# -- the limits themselves are allowed, one more is not


def test_a_number_of_bytes_at_the_cap_is_allowed_and_refused_for_its_form():
    raw = b"[" + b" " * 98 + b"]"
    for cap, check in ((100, 2), (99, 1)):
        with pytest.raises(BundleError) as refusal:
            canonical.parse_object("f.json", raw, cap)
        assert refusal.value.check == check
    text = canonical.encode({"a": "x" * 90})
    assert canonical.parse_object("f.json", text, len(text)) == {"a": "x" * 90}
    with pytest.raises(BundleError) as refusal:
        canonical.parse_object("f.json", text, len(text) - 1)
    assert refusal.value.check == 1


def test_brackets_after_a_backslash_and_a_line_feed_in_text_are_counted_all_the_same():
    with pytest.raises(canonical.NotCanonicalError, match="nested deeper"):
        canonical.strict(b'"\\\n"' + b"[" * 60)


def test_names_and_sizes_at_their_limits():
    fields_ = canonical.parse(builtin()["manifest.json"])
    fields_["name"] = "x" * 64
    fields_["files"]["head.bin"]["size"] = 2 * MIB
    fields_["files"]["guard.bin"]["size"] = 0
    read = manifest.parse(canonical.encode(fields_))
    assert (read.name, read.files["head.bin"].size, read.files["guard.bin"].size) == ("x" * 64, 2 * MIB, 0)


def test_as_many_files_as_may_be_and_one_more():
    rest = 32 - len(builtin())
    for more, check in ((rest, 5), (rest + 1, 1)):
        files = {**builtin(), **{f"x{n}": b"" for n in range(more)}}
        with pytest.raises(BundleError) as refusal:
            verify.verify(source.Memory(files), None, allow_unsigned=True)
        assert refusal.value.check == check
        assert refusal.value.file == ("x0" if check == 5 else "manifest.json")


def test_what_is_missing_is_said_before_any_payload_is_read():
    read = []

    class Watched(source.Memory):
        def read(self, name, cap):
            read.append(name)
            return super().read(name, cap)

    files = {name: data for name, data in builtin().items() if name != "phrases.json"}
    with pytest.raises(BundleError) as refusal:
        verify.verify(Watched(files), None, allow_unsigned=True)
    assert (refusal.value.file, refusal.value.check) == ("phrases.json", 5)
    assert read == ["manifest.json"]


def test_a_file_in_memory_is_read_up_to_its_cap():
    held = source.Memory({"a": b"xxx"})
    assert held.read("a", 3) == b"xxx"
    for name, cap, check in (("a", 2, 1), ("b", 3, 5)):
        with pytest.raises(BundleError) as refusal:
            held.read(name, cap)
        assert (refusal.value.file, refusal.value.check) == (name, check)
        assert check == 5 or "2 bytes" in refusal.value.message


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (source.missing, 5),
        (lambda name: source.too_large(name, 7), 1),
        (lambda name: source.irregular(name, "is a link"), 5),
        (lambda name: source.unreadable(name, "no"), 5),
    ],
)
def test_a_files_name_in_a_refusal_is_short_and_harmless(make, check):
    for name, shown in (("x" * 64, "x" * 64), ("x" * 65, repr("x" * 64)), ("\x1b[31m", r"'\x1b[31m'")):
        refusal = make(name)
        assert (refusal.file, refusal.check) == (shown, check)


def test_a_quote_binds_the_length_of_the_nonce_too():
    bundle = b"b" * 32
    expected = hashlib.sha256(b"idiolect/attest/v1" + struct.pack(">H", 8) + b"n" * 8 + bundle).digest()
    assert attestation.attest_data(b"n" * 8, bundle) == expected
    assert audit.qualifying_data(b"h" * 32, 7, b"n") == (
        hashlib.sha256(b"idiolect/audit/quote/v1" + b"h" * 32 + (7).to_bytes(8, "big") + b"n").digest()
    )


# -- what a vault is bound to


@pytest.fixture
def one():
    """S, say."""
    return Secret(b"k" * 32)


@pytest.fixture
def other():
    """M, say."""
    return Secret(b"m" * 32)


STATE = State("d" * 16, 1, 2, 3, True, 5, 6, Mark(7, b"a" * 32), Mark(8, b"e" * 32))


def framed(*parts):
    """Type, length and bytes of each part, worked out here."""
    out = b""
    for part in parts:
        kind = {str: b"s", bytes: b"b", int: b"n"}[type(part)]
        raw = part.encode() if kind == b"s" else part.to_bytes(8, "big") if kind == b"n" else part
        out += kind + struct.pack(">I", len(raw)) + raw
    return out


def hkdf(material, label):
    return hmac.digest(hmac.digest(bytes(32), material, "sha256"), label + b"\x01", "sha256")


def test_the_frame_of_fields():
    assert envelope.fields("ä", b"\0", 258) == framed("ä", b"\0", 258)


def test_the_key_of_a_rotation_is_from_both_secrets_and_its_number(one, other):
    expected = hkdf(b"k" * 32 + b"m" * 32, b"idiolect/vault/kek/v1" + (9).to_bytes(8, "big"))
    assert roots.kek(one, other, 9).view == expected


def test_a_wrapped_key_is_bound_to_all_of_its_place():
    assert roots.wrap_aad("p", "enrol", "r" * 64, 4, 5) == (
        framed("idiolect/vault/wrap/v1", "p", "enrol", "r" * 64, 4, 5)
    )


def test_a_record_is_bound_to_all_of_its_place():
    assert roots.record_aad("p", ("enrol", "example", "7"), "e" * 64, 4, 5) == (
        framed("idiolect/vault/record/v1", "example", "p", "enrol", "7", "e" * 64, 4, 5)
    )
    head = roots.head(("enrol", "example", "7"), "e" * 64, 4, 5, b"t" * 16)
    assert head.line == framed("enrol", "example", "7", "e" * 64, 4, 5, b"t" * 16)
    assert (head.encoder, head.key_generation, head.expires, head.tag) == ("e" * 64, 4, 5, b"t" * 16)


def test_a_profiles_root_covers_its_keys_and_records(one, other):
    first, second = (DataKey(p, "r" * 64, n, other) for p, n in (("usage", 1), ("enrol", 2)))
    assert first.line == framed("usage", "r" * 64, 1)
    heads = {(p, "example", "7"): roots.head((p, "example", "7"), "e", 1, 0, b"t" * 16) for p in ("usage", "enrol")}
    shelf = ProfileContents({"usage": first, "enrol": second}, heads)
    lines = [*sorted([first.line, second.line]), *sorted(h.line for h in heads.values())]
    expected = hmac.digest(b"k" * 32, framed("idiolect/vault/profile/v1", "p", 2, 2) + b"".join(lines), "sha256")
    assert roots.profile_root(one, "p", shelf) == expected
    copy = shelf.copy()
    copy.keys.clear()
    copy.records.clear()
    assert (len(shelf.keys), len(shelf.records)) == (2, 2)


def test_the_top_root_covers_every_counter_and_every_profile(one):
    macs = {"q": b"2" * 32, "p": b"1" * 32}
    message = framed(
        "idiolect/vault/top/v1",
        "d" * 16,
        1,
        2,
        3,
        1,
        5,
        6,
        7,
        b"a" * 32,
        8,
        b"e" * 32,
        2,
        "p",
        b"1" * 32,
        "q",
        b"2" * 32,
    )
    assert roots.top_root(one, STATE, macs) == hmac.digest(b"k" * 32, message, "sha256")
    others = {
        "device": "f" * 16, "counter": 9, "generation": 9, "pending": 9, "owed": False, "credit": 9, "high": 9,
        "anchor": Mark(9, b"a" * 32), "end": Mark(8, b"f" * 32),
    }  # fmt: skip
    assert set(others) == {f.name for f in fields(State)}
    seen = {roots.top_root(one, replace(STATE, **{name: value}), macs) for name, value in others.items()}
    assert len(seen | {roots.top_root(one, STATE, macs)}) == len(others) + 1


def test_the_origin_is_of_this_devices_secret_and_rotation(one):
    inner = hkdf(b"k" * 32, b"idiolect/vault/origin/v1")
    assert roots.origin(one, STATE) == hmac.digest(inner, framed("d" * 16, 2, 3), "sha256")
    assert (roots.ROOTS_LABEL, roots.VAULT_PURPOSE) == (b"idiolect/vault/roots/v1", "vault")


def test_a_pcr_policy_and_a_keys_name_as_a_tpm_has_them():
    """Part 3, 23.7 and 23.16; part 1, 16: worked out from the structures."""
    value = b"v" * 32
    selection = bytes.fromhex("00000001000b03004000")  # one bank, SHA-256, three bytes: bit 14
    policy = hashlib.sha256(bytes(32) + bytes.fromhex("0000017f") + selection + hashlib.sha256(value).digest()).digest()
    assert approvals.policy_pcr(14, value) == policy
    assert approvals.extended(value, b"m" * 32) == hashlib.sha256(value + b"m" * 32).digest()
    numbers = key("policy").public_key().public_numbers()
    area = bytes.fromhex("0023000b0004004000000010001000030010")
    for number in (numbers.x, numbers.y):
        area += bytes.fromhex("0020") + number.to_bytes(32, "big")
    name = bytes.fromhex("000b") + hashlib.sha256(area).digest()
    assert approvals.tpm_name(key("policy").public_key()) == name
    inner = hashlib.sha256(bytes(32) + bytes.fromhex("0000016a") + name).digest()
    assert approvals.policy_authorize(name) == hashlib.sha256(inner + b"idiolect/v1").digest()


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True), ({"shape": [1]}, True), ({"shape": [2, 3], "offset": 2}, True),
        ({"shape": [2, 3], "offset": 3}, False),
        ({"shape": [9]}, False), ({"shape": [1e999]}, False), ({"offset": 1e999}, False),
        ({"shape": [-1]}, False), ({"shape": [0]}, False), ({"shape": []}, False), ({"offset": -1}, False),
        ({"shape": [2, -1]}, False), ({"dtype": "float64"}, False), ({"dtype": "float32", "shape": [2]}, True),
        ({"dtype": "float32", "shape": [3]}, False), ({"dtype": "float16", "shape": [4]}, True),
        ({"dtype": "float16", "shape": [5]}, False),
    ],
)  # fmt: skip
def test_an_array_lies_within_its_file(change, good):
    entry = {"name": "a", "shape": [8], "dtype": "int8", "offset": 0, **change}
    if good:
        assert bundle._arrays({"arrays": [entry]}, bytes(8))["a"].shape == tuple(entry["shape"])
    else:
        with pytest.raises(BundleError) as refusal:
            bundle._arrays({"arrays": [entry]}, bytes(8))
        assert refusal.value.file == "head.json"


def guard_set(**changes):
    described = {
        "classes": ["on", "off"], "shape": [2, 16, 96], "scale": 0.5, "labels": [0, 1],
        "strata": {"pace": {"values": ["slow", "fast"], "index": [1, 0]}}, **changes,
    }  # fmt: skip
    return {"guard.json": _json(described), "guard.bin": bytes(range(256)) * 12}


def _json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_a_guard_set_is_read_as_it_is_described():
    read = bundle._guard(guard_set())
    assert read.stored.shape == (2, 16, 96)
    assert read.windows().dtype == np.float32
    assert np.array_equal(read.windows(), read.stored * 0.5)
    assert np.array_equal(read.stored.ravel(), np.frombuffer(guard_set()["guard.bin"], np.int8))
    assert (read.scale, read.labels, read.strata) == (0.5, ("on", "off"), {"pace": ("fast", "slow")})
    nothing = bundle._guard({})
    assert (nothing.stored.shape, nothing.scale, nothing.labels, nothing.strata) == ((0, 16, 96), 1.0, (), {})


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [0]}, {"labels": [0, 1, 1]}, {"labels": [0, 2]}, {"scale": 0}, {"scale": -1}, {"shape": [1, 32, 96]},
        {"shape": [2, 16, 95]}, {"shape": [3, 16, 96]}, {"strata": {"pace": {"values": ["slow"], "index": [0]}}},
        {"strata": {"pace": {"values": ["slow"], "index": [0, 1]}}}, {"strata": []}, {"classes": None},
    ],
)  # fmt: skip
def test_a_guard_set_that_does_not_fit_is_refused(change):
    with pytest.raises(BundleError, match=r"does not fit guard\.bin") as refusal:
        bundle._guard(guard_set(**change))
    assert refusal.value.file == "guard.json"


@pytest.mark.parametrize("name", ["guard.json", "guard.bin"])
def test_half_a_guard_set_is_refused(name):
    with pytest.raises(BundleError):
        bundle._guard({n: data for n, data in guard_set().items() if n != name})


@pytest.mark.parametrize(
    ("classes", "good"),
    [
        (["a", "b"], True), (["a"], False), (["a", "a"], False), (["a", 1], False), ("ab", False), (None, False),
        ([f"c{n}" for n in range(512)], True), ([f"c{n}" for n in range(513)], False),
    ],
)  # fmt: skip
def test_classes_are_2_to_512_different_names(classes, good):
    if good:
        assert phrases.read_classes({"classes": classes}) == tuple(classes)
    else:
        with pytest.raises(BundleError) as refusal:
            phrases.read_classes({"classes": classes})
        assert refusal.value.file == "head.json"


def test_an_attestation_keys_name_as_a_tpm_has_it():
    numbers = key("policy").public_key().public_numbers()
    area = bytes.fromhex("0023000b000504720000" + "00100018000b00030010")
    for number in (numbers.x, numbers.y):
        area += bytes.fromhex("0020") + number.to_bytes(32, "big")
    name = bytes.fromhex("000b") + hashlib.sha256(area).digest()
    assert attestation.key_name(public_pem(key("policy").public_key())) == name


def test_what_is_refused_ends_a_program_with_its_own_code():
    assert attestation.AttestationError(3, "x").exit_code == 1
    assert (attestation.AttestationError(3, "x").check, str(attestation.AttestationError(3, "x"))) == (
        3,
        "refused (3): x",
    )
    error = audit.AuditError(4, "is x", 7)
    assert (error.exit_code, error.state, error.check, error.entry) == (65, "damaged", 4, 7)
    assert str(error) == "audit log refused (4): entry 7 is x"
    assert str(audit.AuditError(1, "is x")) == "audit log refused (1): is x"
