"""scripts/evaluate: the decision rules, the conditions, and the whole program on a handful of recordings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("soundfile")
from evaluation import conditions, tasks  # noqa: E402
from evaluation.conditions import CONDITIONS, Condition  # noqa: E402

CLASSES = (
    "alexa",
    "yes",
    "no",
    "up",
    "down",
    "left",
    "right",
    "on",
    "off",
    "stop",
    "go",
    "one",
    "_unknown_",
    "_background_",
)


def clip(**spoken: float) -> np.ndarray:
    """Posteriors of twenty steps: background, and in the middle five steps of what was spoken."""
    rows = np.zeros((20, len(CLASSES)), np.float32)
    rows[:, -1] = 1.0
    rows[8:13] = 0.0
    for name, value in spoken.items():
        rows[8:13, CLASSES.index(name)] = value
    rows[8:13, -1] = 1.0 - rows[8:13].sum(1)
    return rows


@pytest.mark.parametrize(
    ("spoken", "heard"),
    [
        ({"yes": 0.97}, "yes"),
        ({"yes": 0.6, "no": 0.38}, "yes"),
        ({"_unknown_": 0.5, "one": 0.3, "yes": 0.17}, "_unknown_"),
        ({"one": 0.95}, "_unknown_"),
        ({"alexa": 0.95}, "_unknown_"),
        ({"yes": 0.5}, "_background_"),
        ({}, "_background_"),
    ],
)
def test_a_clip_gets_one_of_twelve_labels(spoken: dict[str, float], heard: str) -> None:
    assert tasks.decide_sc12(clip(**spoken), CLASSES) == heard


def test_a_digit_is_chosen_among_digits_only() -> None:
    scores = clip(yes=0.8, one=0.1)
    assert tasks.decide_digit(scores, CLASSES, among=("one",)) == "one"
    assert tasks.decide_digit(scores, CLASSES, among=("yes", "one")) == "yes"


def test_a_flash_of_one_step_does_not_outweigh_a_word() -> None:
    scores = clip(no=0.7)
    scores[3] = 0.0
    scores[3, CLASSES.index("yes")] = 1.0
    scores[8:13, -1], scores[8:13, CLASSES.index("_unknown_")] = 0.0, 0.3
    assert tasks.decide_sc12(scores, CLASSES) == "no"


def test_conditions_have_the_level_and_noise_they_say() -> None:
    rng = np.random.default_rng(1)
    audio = np.zeros(16_000, np.float32)
    audio[4_000:12_000] = rng.standard_normal(8_000) * 0.1
    kitchen = (rng.standard_normal(160_000) * 0.03).astype(np.float32)
    by_name = {c.name: c for c in CONDITIONS}
    lead = conditions.LEAD

    def heard(condition: Condition) -> np.ndarray:
        return conditions.present(audio, b"0123456789abcdef", condition, kitchen) / 32768.0

    clean = heard(by_name["clean"])
    assert len(clean) % 1280 == 0
    np.testing.assert_allclose(clean[lead + 4_000 : lead + 12_000], audio[4_000:12_000], atol=5e-4)
    quiet = heard(by_name["quiet"])[lead + 4_000 : lead + 12_000]
    assert 20 * np.log10(quiet.std()) == pytest.approx(-50.0, abs=0.7)
    noise = heard(by_name["snr10"])[:lead]
    assert 20 * np.log10(0.1 / noise.std()) == pytest.approx(10.0, abs=0.7)


def test_the_whole_program_on_a_part_of_the_data(data: Path, tmp_path: Path) -> None:
    part = tmp_path / "data"
    chosen = (
        sorted((data / "speech_commands" / "yes").glob("*.flac"))[:3]
        + sorted((data / "phrases" / "alexa").glob("*.flac"))[:2]
    )
    for path in chosen:
        target = part / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    report = tmp_path / "out" / "report.json"
    command = [sys.executable, str(ROOT / "scripts" / "evaluate"), "--data", str(part), "--json", str(report)]
    parts = ["--only", "base,adapt,taught,poison,household"]  # tests/scripts/test_lived.py plays what is left
    done = subprocess.run([*command, *parts, "--no-cache", "--jobs", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads(report.read_text())
    assert values["clips"] == 5
    assert values["base.digits_accuracy"] is None
    assert "digits" in "".join(values["reasons"])
    assert {f"base.wake.{w}.miss_rate" for w in ("alexa", "computer", "jarvis")} <= set(values)
    assert "base.sc12_accuracy" in values
    assert "int8_loss_points" in values


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "evaluate"),
        "--data",
        str(tmp_path),
        "--json",
        str(tmp_path / "r"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no recordings" in done.stderr
    assert not (tmp_path / "r").exists()
