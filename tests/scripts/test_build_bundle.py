"""The bundle builder: gradients, exactness of its re-parametrisations, reproducibility, an integrator's own phrase."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from idiolect.listening.pipeline.head import Head
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

soundfile = pytest.importorskip("soundfile")
from bundlebuild import (  # noqa: E402
    augment,
    cli,
    corpus,
    export,
    features,
    finish,
    harvest,
    head,
    measure,
    own,
    train,
    voices,
    whiten,
)

CLASSES = ("yes", "no", "_unknown_", "_background_")


def small_weights(rng: np.random.Generator) -> head.Weights:
    w = head.create(rng, steps=6, width=5, hidden=4, dim=3, classes=4)
    return head.Weights(*(a.astype(np.float64) + 0.05 for a in w.arrays().values()))


def test_gradients_agree_with_finite_differences() -> None:
    rng = np.random.default_rng(3)
    w = small_weights(rng)
    x = rng.standard_normal((7, 6, 5))
    targets = np.eye(4)[rng.integers(0, 4, 7)] * 0.9 + 0.025
    weights = rng.uniform(0.5, 2.0, 7)

    def value() -> float:
        return head.loss(head.forward(w, x)[0], targets, weights)[0]

    scores, trace = head.forward(w, x)
    gradients = head.backward(w, trace, head.loss(scores, targets, weights)[1])
    for (name, array), gradient in zip(w.arrays().items(), gradients, strict=True):
        for at in rng.choice(array.size, min(12, array.size), replace=False):
            flat = array.reshape(-1)
            kept = flat[at]
            flat[at] = kept + 1e-5
            above = value()
            flat[at] = kept - 1e-5
            below = value()
            flat[at] = kept
            assert gradient.reshape(-1)[at] == pytest.approx((above - below) / 2e-5, abs=1e-6), name


def test_dropout_gradients_follow_the_same_masks() -> None:
    rng = np.random.default_rng(4)
    w = small_weights(rng)
    x = rng.standard_normal((5, 6, 5))
    targets, weights = np.eye(4)[rng.integers(0, 4, 5)], np.ones(5)

    def value() -> float:
        return head.loss(head.forward(w, x, np.random.default_rng(9), 0.4)[0], targets, weights)[0]

    scores, trace = head.forward(w, x, np.random.default_rng(9), 0.4)
    gradient = head.backward(w, trace, head.loss(scores, targets, weights)[1])[2]
    kept = w.projection[3, 1]
    w.projection[3, 1] = kept + 1e-5
    above = value()
    w.projection[3, 1] = kept - 1e-5
    assert gradient[3, 1] == pytest.approx((above - value()) / 2e-5, abs=1e-6)


def labelled(seed: int, steps: int = 400) -> features.Labelled:
    """Embeddings in which every class has a direction of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 4, steps // 8), 8).astype(np.int16)
    labels[:15] = features.IGNORE
    directions = np.random.default_rng(0).standard_normal((4, 96))
    embeddings = rng.standard_normal((steps, 96)) + 2.0 * directions[np.maximum(labels, 0)]
    return features.Labelled(embeddings.astype(np.float16), labels, np.ones(steps, np.float32))


RECIPE = train.Recipe(hidden=8, dim=6, passes=40.0, batch=32)


def test_training_twice_gives_the_same_bytes_and_learns() -> None:
    data = labelled(1)
    models = [train.fit(data, CLASSES, RECIPE, progress=False) for _ in range(2)]
    files = [
        export.head_files(finish.arrays(m, data, np.random.default_rng(2)), CLASSES, {}, {"language": "en"})
        for m in models
    ]
    assert files[0] == files[1]
    fresh = labelled(2)
    chosen = np.flatnonzero(fresh.labels >= 0)
    answers = train.logits(models[0], features.windows(fresh.embeddings, chosen).astype(np.float32)).argmax(1)
    assert np.mean(answers == fresh.labels[chosen]) > 0.8


def test_training_names_the_class_without_data() -> None:
    data = labelled(1)
    data.labels[data.labels == 1] = features.IGNORE
    with pytest.raises(ValueError, match="'no'"):
        train.fit(data, CLASSES, RECIPE, progress=False)


def test_whitening_changes_the_features_but_not_the_scores() -> None:
    data = labelled(1)
    model = train.fit(data, CLASSES, RECIPE, progress=False)
    x, labels = finish.sample(data, np.random.default_rng(0))
    before = train.logits(model, x)
    model.weights = whiten.whiten(model.weights, finish.project(model, x), labels, shrink=0.0)
    np.testing.assert_allclose(train.logits(model, x), before, atol=2e-3)
    z = finish.project(model, x)
    residual = np.concatenate([z[labels == c] - z[labels == c].mean(0) for c in range(4)])
    np.testing.assert_allclose(residual.T @ residual / len(residual), np.eye(6), atol=0.02)


def test_exported_head_scores_as_the_trained_one_does() -> None:
    data = labelled(1)
    model = train.fit(data, CLASSES, RECIPE, progress=False)
    files = export.head_files(finish.arrays(model, data, np.random.default_rng(2)), CLASSES, {}, {})
    described = json.loads(files["head.json"])
    arrays = {
        a["name"]: np.frombuffer(files["head.bin"], a["dtype"], int(np.prod(a["shape"])), a["offset"]).reshape(
            a["shape"]
        )
        for a in described["arrays"]
    }
    x, _ = finish.sample(data, np.random.default_rng(0))
    device = Head.from_arrays(CLASSES, arrays).posteriors(x)
    np.testing.assert_allclose(device, head.softmax(train.logits(model, x)), atol=0.02)  # float16 in between


def test_a_phrase_of_ones_own_leaves_all_other_scores_alone() -> None:
    data = labelled(1)
    model = train.fit(data, CLASSES, RECIPE, progress=False)
    classes = ("yes", "no", "hey acme", "_unknown_", "_background_")
    wider = own.extend(model, classes, [(np.ones(14 * 8, np.float32), -1.0)])
    x, _ = finish.sample(data, np.random.default_rng(0))
    np.testing.assert_allclose(train.logits(wider, x)[:, [0, 1, 3, 4]], train.logits(model, x), atol=1e-5)


def test_labels_say_the_phrase_when_its_event_is_due() -> None:
    place = augment.Placed(start=32_000, end=40_000, label=0, running=False)
    labels, weights = features.label_steps(60, [place], background=3)
    newest = (np.arange(60) + 1) * 1280
    assert set(newest[labels == 0]) == {n for n in newest if 40_000 - 640 <= n <= 40_000 + 5_440}
    assert (labels[(newest > 32_000) & (newest < 39_000)] == features.IGNORE).all()
    assert (labels[newest > 51_000] == 3).all()
    assert (labels[:15] == features.IGNORE).all()
    assert (weights > 0).all()


def test_streams_are_pure_functions_of_their_seed() -> None:
    tone = np.sin(np.arange(8_000) / 7.0).astype(np.float32)
    item = augment.Utterance(tone, 500, 7_500, 0, running=False)
    made = [augment.stream(np.random.default_rng(5), [item] * 3, [], [tone], augment.Settings()) for _ in range(2)]
    assert made[0][0].tobytes() == made[1][0].tobytes()
    assert made[0][1] == made[1][1]
    assert all(p.end <= len(made[0][0]) for p in made[0][1])


def test_speakers_never_straddle_folds(data: Path) -> None:
    folds: dict[str, set[int]] = {}
    for clip in corpus.recordings(data):
        folds.setdefault(clip.speaker, set()).add(clip.fold)
    assert len(folds) > 500
    assert all(len(found) == 1 for found in folds.values())


def test_speech_span_finds_the_word_in_a_quiet_clip() -> None:
    rng = np.random.default_rng(1)
    audio = (rng.standard_normal(32_000) * 0.001).astype(np.float32)
    audio[12_000:20_000] += np.sin(np.arange(8_000) / 5.0).astype(np.float32) * 0.3
    start, end = corpus.speech_span(audio)
    assert abs(start - 12_000) < 800
    assert abs(end - 20_000) < 800


def test_harvest_does_not_depend_on_the_number_of_processes(shipped_encoder: bytes) -> None:
    tone = np.sin(np.arange(8_000) / 7.0).astype(np.float32) * 0.2
    items = [augment.Utterance(tone, 0, 8_000, label, running=False) for label in (0, 1, 2)] * 5
    material = harvest.Material(items, np.ones(len(items)), classes=CLASSES)
    one, two = (
        harvest.harvest(material, shipped_encoder, rounds=1, seed=3, processes=n, progress=False) for n in (1, 2)
    )
    assert one.embeddings.tobytes() == two.embeddings.tobytes()
    assert one.labels.tobytes() == two.labels.tobytes()


@pytest.fixture(scope="session")
def shipped_encoder() -> bytes:
    return (bundle_directory("builtin") / "encoder.tflite").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_integrators_phrase_end_to_end(tmp_path: Path) -> None:
    if not shutil.which("espeak-ng"):
        pytest.skip("no espeak-ng: run scripts/setup")
    common = ["--phrase", "Hey  Acme", "--no-neural", "--voices", "15", "--rounds", "1", "--cache", str(tmp_path / "c")]
    common.append("--no-figures")
    for name in ("one", "two"):
        assert cli.main([*common, "--jobs", "1", "--out", str(tmp_path / name)]) == 0
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    bundle = read_bundle(tmp_path / "one")
    assert "hey acme" in bundle.wake_words
    before = read_bundle(bundle_directory("builtin"))
    assert set(before.wake_words) < set(bundle.wake_words)
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((50, 16, 96)).astype(np.float32) * 10.0
    old = Head.from_arrays(before.classes, before.arrays)
    new = Head.from_arrays(bundle.classes, bundle.arrays)
    z = new.features(windows) @ new.scores + new.scores_bias
    kept = z[:, [bundle.classes.index(c) for c in before.classes]]
    then = old.features(windows) @ old.scores + old.scores_bias
    assert np.mean(kept.argmax(1) == then.argmax(1)) > 0.95


def test_a_phrase_that_cannot_be_spoken_is_refused(tmp_path: Path) -> None:
    for phrase in ("", "12", "a b c d e f g", "né"):
        assert cli.main(["--phrase", phrase or " ", "--out", str(tmp_path / "x")]) == 1
    assert not (tmp_path / "x").exists()


def test_the_shipped_bundle_is_small_and_complete() -> None:
    folder = bundle_directory("builtin")
    bundle = read_bundle(folder)
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2 << 20
    described = json.loads((folder / "guard.json").read_text())
    assert described["shape"][0] >= 300
    assert set(described["strata"]) == {"noise", "pace", "channel"}
    assert (folder / "head.bin").stat().st_size < 1_100_000
    kinds = {p.kind for p in bundle.phrases}
    assert kinds == {"wake", "phrase"}
    assert len(bundle.arrays["prototypes"]) == len(bundle.classes)


def test_the_shipped_guard_set_knows_nobody_from_training(data: Path) -> None:
    from bundlebuild import base
    from bundlebuild.audio import digest

    raw = (bundle_directory("builtin") / "trained_on.bin").read_bytes()
    known = {raw[i : i + finish.DIGEST] for i in range(0, len(raw), finish.DIGEST)}
    _, _, held = base.split(corpus.recordings(data))
    told = {digest(clip.path)[: finish.DIGEST] for clip in held[::7]}
    assert len(told) > 50
    assert not told & known


def test_help_and_mistakes_need_no_environment(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "build_bundle.py"

    def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
        """Without any package, as before scripts/setup."""
        command = [sys.executable, "-S", str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)

    shown = bare("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--phrase" in shown.stdout
    assert f"(default: {own.Effort().voices})" in " ".join(shown.stdout.split())
    assert "top of this file" not in shown.stdout
    for wrong in ((), ("--space", "--phrase", "x"), ("--phrase", "x", "--recordings", "y", "--voices", "0")):
        refused = bare(*wrong, "--out", str(tmp_path / "x"))
        assert refused.returncode == 2, refused
        assert "Traceback" not in refused.stderr


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="no espeak-ng: run scripts/setup")
def test_what_another_engine_said_before_is_not_taken_for_what_this_one_says(tmp_path: Path) -> None:
    (tmp_path / "hey_acme-0.hibari.flac").write_bytes(b"of an environment that had neural voices")
    (clip,) = voices.library(tmp_path, [("hey acme", "hey acme", 1, False)], neural=False)
    assert clip.path.name.split(".")[1] in ("espeak-ng", "flite")
    assert soundfile.info(clip.path).samplerate == 16_000
    assert voices.number(clip) == 0


def test_bounds_of_what_was_counted() -> None:
    assert measure.share_at_most(0, 60) == pytest.approx(1.0 - 0.05 ** (1 / 60), abs=1e-6)
    assert measure.share_at_most(3, 3) == 1.0
    assert measure.count_at_most(0) == pytest.approx(2.9957, abs=1e-3)
    assert measure.count_at_most(10) == pytest.approx(16.962, abs=1e-3)  # half the 95 % point of chi-square with 22
    lines = "\n".join(measure.Figures("hey acme", 0.8, 60, 3, 0.5, 2).lines())
    assert "missed 3 of 60" in lines
    assert "2 times in 0.50 hours" in lines
    assert "4.0 an hour" in lines
    assert "not measured" in "\n".join(measure.Figures("hey acme", 0.8, 60, 3, 0.0, 0).lines())


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="no espeak-ng: run scripts/setup")
def test_what_is_heard_of_a_phrase_is_counted_through_the_whole_chain(tmp_path: Path, sounds: Path) -> None:
    names = ("computer", "stop")
    clips = voices.library(tmp_path, [(n, n, 6, False) for n in (*names, "banana")], neural=False)
    mixed = [corpus.Clip(c.path, "computer" if c.label == "banana" else c.label, c.speaker, c.source) for c in clips]
    recognizer = Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))
    found = {each.phrase: each for each in measure.figures(recognizer, mixed, names)}
    assert (found["computer"].said, found["stop"].said) == (12, 6)
    assert 6 <= found["computer"].missed < 12  # a banana is none
    assert found["stop"].missed < 6
    assert found["stop"].hours > 0.2
