"""The same samples give the same events on both TFLite runtimes; scripts/arm64 asks the same of arm64."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import same_events

ROOT = Path(__file__).parents[2]
TFLITE = ROOT / ".venv-tflite" / "bin" / "python"
EVENT = {"kind": "phrase", "phrase": "two", "start": 1280, "end": 12_800, "score": 0.8}


@pytest.mark.skipif(not TFLITE.exists(), reason="no .venv-tflite: scripts/setup --tflite makes it where it can")
def test_tflite_runtime_hears_what_litert_hears(sounds, tmp_path):
    source, target = tmp_path / "samples.npz", tmp_path / "heard.npz"
    samples = same_events.compose()
    np.savez(source, **samples)
    command = [TFLITE, ROOT / "scripts" / "same_events.py", "hear", source, target]
    subprocess.run(command, check=True, timeout=100, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    ours, theirs = same_events.hear(samples), dict(np.load(target))
    assert "tflite-runtime" in str(theirs["where"])
    gaps, count, shared = [], 0, 0
    for scene in same_events.SCENES:
        mine, other = same_events.events(ours, scene), same_events.events(theirs, scene)
        pairs = [(a, b) for a in mine for b in other if same_events.same(a, b)]
        if scene.startswith("digits"):
            assert len(pairs) == len(mine) == len(other) == 10
        gaps += [abs(a["score"] - b["score"]) for a, b in pairs]
        count, shared = count + len(mine) + len(other), shared + 2 * len(pairs)
    # Their int8 kernels round differently. Where a score lies at its threshold, that decides; in words it does not.
    assert shared > 0.9 * count
    assert np.median(gaps) < same_events.SCORE_TOLERANCE


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"start": 0, "end": 14_080, "score": 0.84}, None),
        ({"end": 14_081}, "only the first hears phrase two at 12800, score 0.800"),
        ({"kind": "wake"}, "only the second hears wake two at 12800, score 0.800"),
        ({"phrase": "no"}, "only the second hears phrase no at 12800, score 0.800"),
        ({"score": 0.86}, "phrase two at 12800 scores 0.800 and 0.860"),
    ],
)
def test_every_kind_of_difference_is_named(change, fault):
    found = same_events.faults([EVENT], [EVENT | change])
    assert fault in found if fault else not found


def test_an_event_too_few_or_too_many_is_named():
    assert same_events.faults([EVENT], []) == ["only the first hears phrase two at 12800, score 0.800"]
    assert same_events.faults([], [EVENT]) == ["only the second hears phrase two at 12800, score 0.800"]
