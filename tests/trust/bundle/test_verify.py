"""The seven checks, each alone: what is refused, with which number, and what `passed` hears."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from idiolect.errors import BundleError
from idiolect.trust.bundle import approvals, canonical, manifest, signature
from idiolect.trust.bundle import verify as verify_
from idiolect.trust.bundle.public_keys import TrustedKeys, fingerprint
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import CHECKS, verify
from tests.support.bundles import builtin, key, refit, sign, signed, trusted

FILES = signed(2, after=(1,)).files


def refused(files, keys=None, **options):
    with pytest.raises(BundleError) as refusal:
        verify(Memory(files), keys or trusted(), **options)
    return refusal.value.file, refusal.value.check


def vouched(files, by="bundle"):
    """The files under a good signature, whatever they hold."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != signature.FILE}
    return {**files, signature.FILE: signature.sign(key(by), "x", digests)}


def test_a_good_bundle_passes_every_check():
    heard = []
    verified = verify(Memory(FILES), trusted("other", "bundle"), minimum=2, passed=heard.append)
    assert sorted(heard) == list(CHECKS) == list(range(1, 8))
    assert verified.files == FILES
    assert verified.digest == hashlib.sha256(FILES["manifest.json"]).hexdigest() == verified.manifest.digest
    assert verified.signer == fingerprint(key("bundle").public_key())
    assert verified.approvals == approvals.parse(FILES["approvals.json"])
    assert len(verified.approvals) == 2


def test_what_passes_is_told_in_order():
    heard, unsigned = [], []
    verify(Memory(FILES), trusted(), passed=heard.append)
    verify(Memory(builtin()), None, allow_unsigned=True, passed=unsigned.append)
    assert (heard, unsigned) == ([2, 3, 4, 1, 5, 6, 7], [2, 4, 1, 5, 6])
    heard.clear()
    with pytest.raises(BundleError):
        verify(Memory(FILES), trusted(), minimum=3, passed=heard.append)
    assert heard == [2, 3]


# -- 1: sizes


@pytest.mark.parametrize("name", FILES)
def test_1_a_file_above_its_cap(name):
    caps = {"manifest.json": manifest.CAP, "approvals.json": approvals.CAP, "model.sig": signature.CAP}
    cap = {**caps, **manifest.PAYLOAD_CAPS}[name]
    assert refused({**FILES, name: bytes(cap + 1)}) == (name, 1)


def test_1_too_many_files():
    assert refused({**FILES, **{f"x{n}": b"" for n in range(40)}})[1] == 1


# -- 2: form


def test_2_another_spelling_of_manifest_or_approvals_even_under_a_good_signature():
    for name in ("manifest.json", "approvals.json"):
        assert refused(vouched({**FILES, name: FILES[name] + b"\n"})) == (name, 2)
        assert refused(vouched({**FILES, name: b""})) == (name, 2)


# -- 3: who signed


def test_3_no_signature():
    assert refused({n: d for n, d in FILES.items() if n != "model.sig"}) == ("model.sig", 3)
    assert refused(builtin()) == ("model.sig", 3)


def test_3_no_keys():
    assert refused(FILES, TrustedKeys.parse({})) == ("model.sig", 3)
    with pytest.raises(BundleError) as refusal:
        verify(Memory(FILES), None)
    assert refusal.value.check == 3


def test_3_a_revoked_key_and_a_signature_by_another_under_its_hint():
    mine = key("bundle").public_key()
    revoked = TrustedKeys(TrustedKeys.of(mine).keys, frozenset({fingerprint(mine)}))
    assert refused(FILES, revoked) == ("model.sig", 3)
    with pytest.raises(BundleError, match="revoked"):
        verify(Memory(FILES), revoked)
    named = TrustedKeys.of(mine).keys[0]
    crossed = TrustedKeys((replace(named, key=key("other").public_key()),), frozenset())
    assert refused(FILES, crossed) == ("model.sig", 3)
    assert refused(FILES, TrustedKeys.of(key("other").public_key())) == ("model.sig", 3)


def test_3_manifest_or_approvals_are_not_what_was_signed():
    other = signed(3)
    for name in ("manifest.json", "approvals.json"):
        assert refused({**FILES, name: other.files[name]}) == (name, 3)
    assert refused({**FILES, "model.sig": other.files["model.sig"]}) == ("manifest.json", 3)


def test_3_a_signature_that_leaves_out_manifest_or_approvals():
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items() if name != signature.FILE}
    for name in ("manifest.json", "approvals.json"):
        rest = {n: d for n, d in digests.items() if n != name}
        assert refused({**FILES, signature.FILE: signature.sign(key("bundle"), "x", rest)}) == (name, 3)


# -- 4: version


def test_4_a_version_below_the_minimum():
    assert refused(FILES, minimum=3) == ("manifest.json", 4)
    with pytest.raises(BundleError) as refusal:
        verify(Memory(builtin()), None, minimum=3, allow_unsigned=True)
    assert refusal.value.check == 4


# -- 5: paths


@pytest.mark.parametrize(
    "name", ["extra", "../evil", "/etc/passwd", "..", ".", "", "a/b", "nul\0", "\x1b[31m", ".git", "é\udcff"]
)
def test_5_anything_extra(name):
    with pytest.raises(BundleError) as refusal:
        verify(Memory({**FILES, name: b"x"}), trusted())
    assert refusal.value.check == 5
    assert str(refusal.value).isprintable()
    assert refused(vouched({**FILES, name or "x": b"x"}))[1] in (3, 5)  # 3: an empty name or half a letter


@pytest.mark.parametrize("name", sorted({**manifest.CAPS, **manifest.OPTIONAL_CAPS}))
def test_5_anything_missing(name):
    rest = {n: d for n, d in FILES.items() if n != name}
    assert refused(rest) == (name, 5)
    assert refused(vouched(rest)) == (name, 5)


def test_5_manifest_or_approvals_missing():
    for name in ("manifest.json", "approvals.json"):
        assert refused({n: d for n, d in FILES.items() if n != name}) == (name, 5)


def test_5_a_signature_that_covers_more_than_the_manifest():
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items() if name != signature.FILE}
    more = signature.sign(key("bundle"), "x", {**digests, "extra": "0" * 64})
    assert refused({**FILES, signature.FILE: more}) == ("extra", 5)


# -- 6: digests


@pytest.mark.parametrize("name", sorted({**manifest.CAPS, **manifest.OPTIONAL_CAPS}))
def test_6_other_bytes(name):
    data = FILES[name]
    for other in (data[:-1], data + b"x", b"", data[:-1] + bytes([data[-1] ^ 1]), bytes(len(data))):
        assert refused({**FILES, name: other}) == (name, 6)
        assert refused(vouched({**FILES, name: other})) == (name, 6)  # the manifest says otherwise


def test_6_what_the_manifest_gives_and_the_signature_does_not():
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items() if name != signature.FILE}
    raw = signature.sign(key("bundle"), "x", digests | {"head.bin": "0" * 64})
    assert refused({**FILES, signature.FILE: raw}) == ("head.bin", 6)


def test_6_two_files_swapped():
    files = {**FILES, "guard.bin": FILES["encoder.tflite"], "encoder.tflite": FILES["guard.bin"]}
    assert refused(files)[1] == 6


# -- 7: approvals


def test_7_approvals_of_another_manifest_under_a_good_signature():
    assert refused(vouched({**FILES, "approvals.json": signed(3).files["approvals.json"]})) == ("approvals.json", 7)


@pytest.mark.parametrize("field", ["to", "policy", "pcr", "from"])
def test_7_one_approval_that_does_not_follow(field):
    fields = canonical.parse(FILES["approvals.json"])
    fields["approvals"][-1][field] = 13 if field == "pcr" else "f" * 64
    fields["approvals"].sort(key=lambda entry: (entry["key"], entry["pcr"], entry["from"]))
    assert refused(vouched({**FILES, "approvals.json": canonical.encode(fields)})) == ("approvals.json", 7)


def test_no_approvals_at_all_is_a_bundle_that_gets_no_keys():
    files = vouched({**FILES, "approvals.json": approvals.encode([])})
    assert verify(Memory(files), trusted()).approvals == ()


# -- unsigned


def test_an_unsigned_bundle_passes_only_where_that_is_allowed():
    heard = []
    verified = verify(Memory(builtin()), trusted(), allow_unsigned=True, passed=heard.append)
    assert (verified.signer, verified.approvals) == ("", ())
    assert sorted(heard) == [1, 2, 4, 5, 6]
    assert verify(Memory(builtin()), None, allow_unsigned=True).files == builtin()


def test_with_keys_a_bad_signature_is_refused_even_where_unsigned_is_allowed():
    bad = {**FILES, "model.sig": FILES["model.sig"][:-1]}
    assert refused(bad, allow_unsigned=True) == ("model.sig", 3)
    assert refused(FILES, trusted("other"), allow_unsigned=True) == ("model.sig", 3)


def test_without_keys_a_signature_and_its_approvals_count_for_nothing():
    bad = {**FILES, "model.sig": b"x", "approvals.json": b"x"}
    verified = verify(Memory(bad), None, allow_unsigned=True)
    assert (verified.signer, verified.approvals) == ("", ())
    assert not {"model.sig", "approvals.json"} & set(verified.files)


def test_every_payload_file_of_an_unsigned_bundle_is_digested():
    for name in (*manifest.CAPS, *manifest.OPTIONAL_CAPS):
        with pytest.raises(BundleError) as refusal:
            verify(Memory({**builtin(), name: builtin()[name] + b"x"}), None, allow_unsigned=True)
        assert refusal.value.check in (1, 6)


def test_no_file_is_read_twice_and_none_without_a_cap():
    reads = []

    class Counting(Memory):
        def read(self, name, cap):
            reads.append(name)
            assert 0 < cap <= 4 << 20
            return super().read(name, cap)

    verify(Counting(FILES), trusted())
    assert sorted(reads) == sorted(FILES)


def test_an_optional_file_may_be_absent():
    fields = canonical.parse(builtin()["manifest.json"])
    del fields["files"]["trained_on.bin"]
    files = {n: d for n, d in builtin().items() if n != "trained_on.bin"} | {"manifest.json": canonical.encode(fields)}
    assert "trained_on.bin" not in verify(Memory(sign(files).files), trusted()).files


def test_refitted_contents_verify_as_unsigned_only():
    files = refit(FILES, phrases__json=b"[]")
    assert refused(files) == ("manifest.json", 3)
    assert verify(Memory(files), None, allow_unsigned=True).files["phrases.json"] == b"[]"


def test_the_docstring_lists_the_checks():
    assert [line[0] for line in verify_.__doc__.splitlines() if line[:1].isdigit()] == list("1234567")
