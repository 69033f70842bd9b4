"""Bundles: contents that make sense load, everything else is refused with the file's name."""

import contextlib
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.errors import BundleError
from idiolect.listening.pipeline.head import Head, Scorer
from idiolect.listening.recognizer import Recognizer, listening, read_bundle, thresholds
from idiolect.trust.bundle import bundle as bundles
from idiolect.trust.bundle import canonical
from tests.support.bundles import BUILTIN, builtin, refit, signed, trusted, unsigned, write

FILES = builtin()


def test_the_default_bundle_is_what_the_issue_promised():
    loaded = read_bundle(BUILTIN)
    assert loaded.wake_words == ("computer", "jarvis", "alexa")
    assert not set(loaded.commands) & set(loaded.wake_words)
    assert [(p.name, p.text) for p in loaded.phrases] == [
        (p["name"], p["text"]) for p in json.loads(FILES["phrases.json"])
    ]
    assert {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"} <= set(loaded.commands)
    assert {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"} <= set(loaded.commands)
    assert sum(map(len, FILES.values())) < 2 << 20
    guard = json.loads(FILES["guard.json"])
    assert guard["shape"][1:] == [16, 96]
    assert guard["shape"][0] >= 300
    assert len(FILES["guard.bin"]) == np.prod(guard["shape"])


def test_a_signed_bundle_says_by_whom_and_what_it_approves(tmp_path):
    folder = write(signed(3, after=(2,)).files, tmp_path / "bundle")
    loaded = read_bundle(folder, trusted(), minimum=3, allow_unsigned=False)
    assert (loaded.name, loaded.version, loaded.signer) == ("test", 3, trusted().keys[0].fingerprint)
    assert [approval.pcr for approval in loaded.approvals] == [14, 14]
    assert loaded.digest == signed(3, after=(2,)).digest
    for_development = read_bundle(folder)
    assert (for_development.signer, for_development.approvals) == ("", ())


def test_refusals_of_the_checks_come_through_with_their_number(tmp_path):
    folder = write(signed(3).files, tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"manifest\.json: refused \(4\): version 3 is below the minimum 4"):
        read_bundle(folder, trusted(), minimum=4)
    with pytest.raises(BundleError, match=r"model\.sig: refused \(3\): is missing"):
        read_bundle(BUILTIN, trusted(), allow_unsigned=False)


def test_a_directory_that_is_not_there_or_is_a_file(tmp_path):
    for path, why in ((tmp_path / "none", "No such file"), (BUILTIN / "head.bin", "Not a directory")):
        with pytest.raises(BundleError, match=why):
            read_bundle(path)


def test_verifying_the_default_bundle_takes_no_time(tmp_path):
    folder, keys, taken = write(signed().files, tmp_path / "bundle"), trusted(), []
    for _ in range(5):
        start = time.perf_counter()
        read_bundle(folder, keys, allow_unsigned=False)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.020


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
        bundles.load(unsigned(refit(FILES, **change)))
    assert refusal.value.file == file


@pytest.mark.parametrize(("said", "language"), [("pt-BR", "pt-BR"), ("de", "de"), (None, "en")])
def test_the_language_of_its_phrases_is_in_there(said, language):
    head = json.loads(FILES["head.json"])
    head.pop("language")
    head |= {"language": said} if said else {}
    assert bundles.load(unsigned(refit(FILES, head__json=canonical.encode(head)))).language == language


@pytest.mark.parametrize("said", ["", "e", "en_US", "../en", 7, ["en"], "en-" + "x" * 40])
def test_a_language_that_is_none_is_refused(said):
    head = json.loads(FILES["head.json"]) | {"language": said}
    with pytest.raises(BundleError, match="language must be a language tag"):
        bundles.load(unsigned(refit(FILES, head__json=canonical.encode(head))))


def test_arrays_that_do_not_fit_together_make_no_head():
    head = json.loads(FILES["head.json"])
    head["classes"] = head["classes"][:-1]
    loaded = bundles.load(unsigned(refit(FILES, head__json=canonical.encode(head))))
    with pytest.raises(BundleError, match=r"head\.bin: does not make a head: array scores"):
        Recognizer.from_bundle(loaded)


def test_numbers_that_are_not_finite_make_no_head():
    loaded = read_bundle(BUILTIN)
    arrays = {name: np.array(array, np.float32) for name, array in loaded.arrays.items()}
    arrays["scores_bias"][0] = np.nan
    with pytest.raises(ValueError, match="scores_bias holds numbers that are not finite"):
        Head.from_arrays(loaded.classes, arrays)


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
        assert bundles.load(unsigned(refit(FILES, head__json=raw, phrases__json=b"[]"))).arrays == {}


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
