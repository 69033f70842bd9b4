"""What a bundle brings from earlier ones: good maps and models are taken, all else is refused by its file's name."""

import contextlib
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import BundleError
from idiolect.people.models import succession_of
from idiolect.trust.bundle import bundle as bundles
from idiolect.trust.bundle import canonical, predecessors
from idiolect.trust.bundle.manifest import FILE
from idiolect.trust.bundle.predecessors import MAX_GAIN, NUMBERS, Affine
from idiolect.trust.bundle.source import Memory
from idiolect.trust.bundle.verify import verify
from idiolect.values import EMBEDDING
from tests.support import encoders
from tests.support.bundles import builtin, refit, sign, trusted, unsigned

BOTH = encoders.successor(affine=encoders.exact(), previous=True)
BROUGHT = sorted(set(BOTH) - set(builtin()))
IDENTITY = Affine(np.eye(EMBEDDING, dtype=np.float32), np.zeros(EMBEDDING, np.float32))


def index(*encoders_, **more):
    return canonical.encode({"encoders": list(encoders_), "format": 1, **more})


def numbers(matrix=None, offset=None):
    values = np.concatenate([np.ravel(np.eye(EMBEDDING) if matrix is None else matrix), np.zeros(EMBEDDING)])
    if offset is not None:
        values[-EMBEDDING:] = offset
    return values.astype("<f4").tobytes()


def refused(**changes):
    with pytest.raises(BundleError) as refusal:
        bundles.load(unsigned(refit(BOTH, **changes)))
    assert str(refusal.value).isprintable()
    return refusal.value.file, refusal.value.message


def test_a_bundle_without_any_of_it_is_as_ever():
    loaded = bundles.load(unsigned(builtin()))
    assert (loaded.maps, loaded.previous) == ({}, None)
    assert loaded.digest == hashlib.sha256(builtin()[FILE]).hexdigest()
    assert succession_of(loaded).earlier is None


def test_what_is_carried_is_the_bundle_before_itself():
    loaded, before = bundles.load(unsigned(BOTH)), bundles.load(unsigned(builtin()))
    assert loaded.previous is not None
    assert loaded.previous.digest == before.digest
    assert loaded.previous.encoder == before.encoder
    brought = succession_of(loaded)
    assert brought.earlier is not None
    assert (brought.earlier.digest, brought.earlier.encoder) == (before.digest, encoders.old_id())
    assert brought.earlier.load().digest == before.digest
    assert list(brought.maps) == [encoders.old_id()]
    np.testing.assert_array_equal(brought.maps[encoders.old_id()].matrix, encoders.exact().matrix)
    taken = loaded.maps[encoders.old_id()]
    assert taken.matrix.dtype == taken.offset.dtype == np.float32


def test_the_signature_covers_it_like_everything_else():
    files = sign(BOTH).files
    assert set(BROUGHT) <= set(verify(Memory(files), trusted()).files)
    for name in BROUGHT:
        rest = {n: d for n, d in files.items() if n != name}
        with pytest.raises(BundleError) as refusal:
            verify(Memory(rest), trusted())
        assert (refusal.value.file, refusal.value.check) == (name, 5)
        for other in (files[name][:-1], files[name] + b"x", bytes([files[name][0] ^ 1]) + files[name][1:]):
            with pytest.raises(BundleError) as refusal:
                verify(Memory({**files, name: other}), trusted())
            assert (refusal.value.file, refusal.value.check) == (name, 6)


@pytest.mark.parametrize(
    ("change", "file", "why"),
    [
        ({"maps__json": b"{}"}, "maps.json", "must be"),
        ({"maps__json": index("e" * 64) + b" "}, "maps.json", "not canonical"),
        ({"maps__json": index("e" * 64, more=1)}, "maps.json", "must be"),
        ({"maps__json": index()}, "maps.json", "1 to 4"),
        ({"maps__json": index(*(f"{n:064x}" for n in range(5)))}, "maps.json", "1 to 4"),
        ({"maps__json": index("E" * 64)}, "maps.json", "64 lower-case"),
        ({"maps__json": index("e" * 64, "E" * 64)}, "maps.json", "64 lower-case"),
        ({"maps__json": index("e" * 64 + "\n")}, "maps.json", "64 lower-case"),
        ({"maps__json": index("e" * 64, "e" * 64)}, "maps.json", "twice"),
        ({"maps__json": index(hashlib.sha256(encoders.turned()).hexdigest())}, "maps.json", "the bundle's own"),
        ({"maps__json": index("e" * 64, "f" * 64)}, "maps.bin", f"{NUMBERS} float32 for each of the 2"),
        ({"maps__bin": b""}, "maps.bin", "for each of the 1"),
        ({"maps__bin": numbers()[:-1]}, "maps.bin", "for each of the 1"),
        ({"maps__bin": numbers(np.full((96, 96), np.nan))}, "maps.bin", "not finite"),
        ({"maps__bin": numbers(offset=np.inf)}, "maps.bin", "not finite"),
        ({"maps__bin": numbers(np.eye(96) * (MAX_GAIN + 1))}, "maps.bin", "lengthens"),
        ({"maps__bin": numbers(np.full((96, 96), MAX_GAIN / 10))}, "maps.bin", "lengthens"),
        ({"maps__bin": numbers(np.full((96, 96), 3e38))}, "maps.bin", "lengthens"),
        ({"maps__bin": numbers(offset=1e4)}, "maps.bin", "shifts"),
        ({"previous-manifest__json": b"{}"}, "previous-manifest.json", "fields missing"),
        ({"previous-manifest__json": encoders.files()[FILE]}, "previous-manifest.json", "same encoder"),
        ({"previous-head__bin": builtin()["head.bin"][:-1] + b"x"}, "previous-head.bin", "manifest before"),
        ({"previous-encoder__tflite": encoders.turned()}, "previous-encoder.tflite", "manifest before"),
    ],
)
def test_what_makes_no_sense_is_refused_even_under_a_good_manifest(change, file, why):
    found, message = refused(**change)
    assert found == file
    assert why in message


@pytest.mark.parametrize("name", BROUGHT)
def test_half_of_it_is_none_of_it(name):
    rest = {n: d for n, d in BOTH.items() if n != name}
    fields = canonical.parse(rest[FILE])
    del fields["files"][name]
    with pytest.raises(BundleError, match="is missing") as refusal:
        bundles.load(unsigned({**rest, FILE: canonical.encode(fields)}))
    assert refusal.value.file == name


def test_a_carried_model_whose_contents_make_no_sense_is_refused_by_its_own_name():
    broken = refit(builtin(), phrases__json=b"[]x")
    more = predecessors.previous_files(broken)
    with pytest.raises(BundleError) as refusal:
        bundles.load(unsigned(encoders.with_files(encoders.files(), more)))
    assert refusal.value.file == "previous-phrases.json"
    head = canonical.parse(builtin()["head.json"])
    head["arrays"] = [a for a in head["arrays"] if a["name"] != "scores_bias"]
    more = predecessors.previous_files(refit(builtin(), head__json=canonical.encode(head)))
    with pytest.raises(BundleError) as refusal:
        succession_of(bundles.load(unsigned(encoders.with_files(encoders.files(), more))))
    assert refusal.value.file == "previous-head.bin"


def test_a_map_at_its_bounds_is_taken():
    raw = numbers(np.eye(96) * MAX_GAIN, offset=256.0)
    (found,) = predecessors.maps({"maps.json": index("e" * 64), "maps.bin": raw}, "f" * 64).values()
    assert (found.matrix.max(), found.offset.max()) == (MAX_GAIN, 256.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.integers(0, NUMBERS - 8))
def test_any_numbers_are_a_bounded_map_or_refused(values, place):
    raw = bytearray(numbers())
    raw[4 * place : 4 * (place + len(values))] = struct.pack(f"<{len(values)}f", *values)
    with contextlib.suppress(BundleError):  # anything else that is raised fails the test
        (found,) = predecessors.maps({"maps.json": index("e" * 64), "maps.bin": bytes(raw)}, "f" * 64).values()
        assert np.isfinite(found.matrix).all()
        assert np.linalg.norm(found.matrix, 2) <= MAX_GAIN * 1.001


def test_maps_come_back_as_they_were_written():
    rng = np.random.default_rng(1)
    written = {
        f"{n:064x}": Affine(
            rng.standard_normal((EMBEDDING, EMBEDDING)).astype(np.float32) / 20,
            rng.standard_normal(EMBEDDING).astype(np.float32),
        )
        for n in range(predecessors.MAX_MAPS)
    }
    read = predecessors.maps(predecessors.map_files(written), "f" * 64)
    assert list(read) == list(written)
    assert [each.digest for each in read.values()] == [each.digest for each in written.values()]
    assert predecessors.map_files({}) == {}


def test_a_successor_carries_the_maps_of_the_bundle_before():
    carried = predecessors.previous_files({**builtin(), "maps.json": b"i", "maps.bin": b"n", "other": b""})
    assert (carried["previous-maps.json"], carried["previous-maps.bin"]) == (b"i", b"n")
    assert "previous-other" not in carried
