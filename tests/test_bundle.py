"""Bundles: what fits its manifest loads, everything else is refused with the file's name."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.assembly import Recognizer, bundle_directory, listening, read_bundle, thresholds
from idiolect.errors import BundleError
from idiolect.pipeline.adapter import Head, Scorer
from idiolect.trust import bundle as bundles

BUILTIN = bundle_directory("builtin")
FILES = {path.name: path.read_bytes() for path in BUILTIN.iterdir()}


def reader(files):
    def read(name, cap):
        if name not in files:
            raise BundleError(name, "is missing")
        assert len(files[name]) <= cap
        return files[name]

    return read


def remade(**changes):
    """The bundle with other file contents, under a manifest that fits them."""
    files = {**FILES, **{name.replace("__", "."): data for name, data in changes.items()}}
    manifest = json.loads(files["manifest.json"])
    import hashlib

    for name, data in files.items():
        if name in manifest["files"]:
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest["encoder"] = manifest["files"]["encoder.tflite"]["sha256"]
    files["manifest.json"] = bundles.canonical(manifest)
    return files


def with_manifest(change):
    manifest = json.loads(FILES["manifest.json"])
    change(manifest)
    return {**FILES, "manifest.json": bundles.canonical(manifest)}


def test_the_default_bundle_is_what_the_issue_promised():
    loaded = read_bundle(BUILTIN)
    assert loaded.wake_words == ("computer", "jarvis", "alexa")
    assert {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"} <= set(loaded.commands)
    assert {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"} <= set(loaded.commands)
    assert sum(map(len, FILES.values())) < 2 << 20
    guard = json.loads(FILES["guard.json"])
    assert guard["shape"][1:] == [16, 96]
    assert guard["shape"][0] >= 300
    assert len(FILES["guard.bin"]) == np.prod(guard["shape"])


@pytest.mark.parametrize("name", sorted(bundles.CAPS))
def test_one_flipped_bit_in_any_file_is_refused_by_name(name):
    damaged = bytearray(FILES[name])
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BundleError, match=rf"{name}: is not what the manifest says"):
        bundles.load(reader({**FILES, name: bytes(damaged)}))


@pytest.mark.parametrize("name", [*sorted(bundles.CAPS), "manifest.json"])
def test_a_truncated_or_missing_file_is_refused_by_name(name):
    with pytest.raises(BundleError, match=name):
        bundles.load(reader({**FILES, name: FILES[name][:-1]}))
    with pytest.raises(BundleError, match=rf"{name}: is missing"):
        bundles.load(reader({k: v for k, v in FILES.items() if k != name}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(extra=1), "missing or unknown: extra"),
        (lambda m: m.pop("audio"), "missing or unknown: audio"),
        (lambda m: m.update(version=1.0), "whole number"),
        (lambda m: m.update(version=True), "whole number"),
        (lambda m: m.update(version=0), "whole number"),
        (lambda m: m.update(name=7), "name must be text"),
        (lambda m: m.update(files=[]), "files must list"),
        (lambda m: m["files"].update({"../evil": {"sha256": "", "size": 1}}), "files must list"),
        (lambda m: m.update(encoder="0" * 64), "encoder is not the digest"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(change, reason):
    with pytest.raises(BundleError, match=reason) as refusal:
        bundles.load(reader(with_manifest(change)))
    assert refusal.value.file == "manifest.json"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 60_000, FILES["manifest.json"] + b" "])
def test_a_manifest_that_is_no_canonical_object_is_refused(raw):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundles.load(reader({**FILES, "manifest.json": raw}))


@pytest.mark.parametrize(
    ("change", "file"),
    [
        ({"head__json": b"{}"}, "head.json"),
        ({"head__json": b'{"classes":["a","a"]}'}, "head.json"),
        ({"head__bin": FILES["head.bin"][:100]}, "head.json"),
        ({"phrases__json": b"[]x"}, "phrases.json"),
        (
            {"phrases__json": b'[{"name":"nobody","text":"","kind":"wake","threshold":0.5,"turn_threshold":0.5}]'},
            "phrases.json",
        ),
        (
            {"phrases__json": b'[{"name":"stop","text":"","kind":"phrase","threshold":0.3,"turn_threshold":0.4}]'},
            "phrases.json",
        ),
        (
            {"phrases__json": b'[{"name":"stop","text":"","kind":"wake","threshold":NaN,"turn_threshold":0.1}]'},
            "phrases.json",
        ),
    ],
)
def test_contents_that_make_no_sense_are_refused_even_under_a_good_manifest(change, file):
    with pytest.raises(BundleError) as refusal:
        bundles.load(reader(remade(**change)))
    assert refusal.value.file == file


def test_arrays_that_do_not_fit_together_make_no_head():
    head = json.loads(FILES["head.json"])
    head["classes"] = head["classes"][:-1]
    loaded = bundles.load(reader(remade(head__json=bundles.canonical(head))))
    with pytest.raises(BundleError, match=r"head\.bin: does not make a head: array scores"):
        Recognizer.from_bundle(loaded)


def test_numbers_that_are_not_finite_make_no_head():
    loaded = read_bundle(BUILTIN)
    arrays = {name: np.array(array, np.float32) for name, array in loaded.arrays.items()}
    arrays["scores_bias"][0] = np.nan
    with pytest.raises(ValueError, match="scores_bias holds numbers that are not finite"):
        Head.from_arrays(loaded.classes, arrays)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,0123456789abefnrstu\\ ', max_size=300).map(str.encode))
def test_any_manifest_gives_a_bundle_or_a_refusal(raw):
    with pytest.raises(BundleError):
        bundles.load(reader({**FILES, "manifest.json": raw}))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    )
)
def test_any_head_description_gives_a_bundle_or_a_refusal(value):
    described = {"classes": ["a", "b"], "arrays": value}
    raw = json.dumps(described).encode()
    with contextlib.suppress(BundleError):  # anything else that is raised fails the test
        assert bundles.load(reader(remade(head__json=raw, phrases__json=b"[]"))).arrays == {}


def test_the_stream_scores_what_the_batch_scores():
    loaded = read_bundle(BUILTIN)
    head = Recognizer.from_bundle(loaded).head
    embeddings = np.random.default_rng(5).standard_normal((60, 96)).astype(np.float32) * 20
    scorer = Scorer(head)
    streamed = np.array([scorer.push(e) for e in embeddings])[15:]
    windows = np.lib.stride_tricks.sliding_window_view(embeddings, 16, axis=0).transpose(0, 2, 1)
    assert np.abs(streamed - head.posteriors(windows)).max() < 1e-5
    assert streamed.sum(axis=1) == pytest.approx(np.ones(len(streamed)), abs=1e-5)
    assert np.abs(scorer.window(windows[3]) - streamed[3]).max() < 1e-5


def test_sensitivity_moves_every_threshold_and_overrides_win():
    loaded = read_bundle(BUILTIN)
    low, middle, high = (thresholds(loaded, s) for s in (0.0, 0.5, 1.0))
    phrase = [loaded.classes.index(p.name) for p in loaded.phrases]
    assert (low[phrase] > middle[phrase]).all()
    assert (middle[phrase] > high[phrase]).all()
    assert (high[phrase] > 0).all()
    assert (low[phrase] < 1).all()
    assert [middle[i] for i in phrase] == pytest.approx([p.threshold for p in loaded.phrases])
    assert thresholds(loaded, 0.5, {"stop": 0.25})[loaded.classes.index("stop")] == 0.25


def test_thresholds_in_a_turn_are_never_higher_and_wake_words_keep_theirs():
    loaded = read_bundle(BUILTIN)
    wish = listening(loaded)
    assert (wish.turn_thresholds <= wish.thresholds).all()
    assert (wish.turn_thresholds[wish.phrases] < wish.thresholds[wish.phrases]).any()
    assert np.array_equal(wish.turn_thresholds[wish.wake], wish.thresholds[wish.wake])


def test_an_always_on_phrase_is_listened_for_whether_listed_or_not():
    loaded = read_bundle(BUILTIN)
    wish = listening(loaded, phrases=["yes"], always_on=["stop", "not in this bundle"])
    chosen = {c for c, on in zip(wish.classes, wish.phrases, strict=True) if on}
    assert chosen == {"yes", "stop"}
    assert {c for c, on in zip(wish.classes, wish.always_on, strict=True) if on} == {"stop"}
