"""A bundle with a wake word of one's own, built with the README's command, and a daemon that learns on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bundlebuild import corpus, inherit, space
from bundlebuild.audio import RATE, read_wav_bytes, to_int16
from bundlebuild.features import Embedder
from idiolect.learning import gate, trainer
from idiolect.learning.ledger import Example, Ledger
from idiolect.listening.pipeline.adapter import Adapter, Taught
from idiolect.listening.pipeline.space import NAMES
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.models import model_of
from tests.support.alsa import require_wavmic
from tests.whole.test_people import Home

ROOT = Path(__file__).parents[2]
WORD = "hey acme"
PHRASE = "purple elephant"
LONG = 900
"""Seconds that the machine may take: three other suites may share it."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LONG),
    pytest.mark.skipif(not shutil.which("espeak-ng"), reason="no espeak-ng: run scripts/setup"),
]


def build(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`./scripts/build_bundle.py`, as one types it."""
    command = [sys.executable, ROOT / "scripts" / "build_bundle.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("own")
    words = ["--phrase", "Hey  Acme", "--no-neural", "--voices", 40, "--rounds", 1, "--no-figures"]
    return folder / "acme", build(*words, "--cache", folder / "cache", "--out", folder / "acme")


def said(text: str, voice: str = "en-us+m3", speed: int = 150, pitch: int = 45) -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    return to_int16(read_wav_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout) * 0.6)


class Own(Home):
    """Home's daemon with that bundle."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        super().__init__(folder)
        self.config.write_text(self.config.read_text().replace("bundle: builtin", f"bundle: {bundle}"))


@pytest.fixture
def home(own, tmp_path):
    require_wavmic()
    one = Own(tmp_path, own[0]).begin()
    yield one
    one.stop()


def test_what_the_base_bundle_learns_with_is_there_and_the_end_says_so(own):
    folder, done = own
    assert "it has all that is needed to learn from people" in done.stdout
    assert "espeak-ng" in done.stderr
    base, made = read_bundle(bundle_directory("builtin")), read_bundle(folder)
    assert made.lacks == ()
    for name in NAMES:
        if name != inherit.PROTOTYPE:
            assert made.arrays[name].tobytes() == base.arrays[name].tobytes(), name
    for name in (*base.classes, WORD):
        row = made.arrays[inherit.PROTOTYPE][made.classes.index(name)]
        if name in base.classes:
            assert row.tobytes() == base.arrays[inherit.PROTOTYPE][base.classes.index(name)].tobytes(), name
        else:
            assert 0.2 < np.linalg.norm(row.astype(np.float32)) <= 1.0
    count = len(base.guard.labels)
    assert made.guard.stored[:count].tobytes() == base.guard.stored.tobytes()
    assert made.guard.labels[:count] == base.guard.labels
    assert set(made.guard.labels[count:]) == {WORD}
    assert {kind: len(values) for kind, values in made.guard.strata.items()} == dict.fromkeys(
        base.guard.strata, len(made.guard.labels)
    )


def test_somebody_agrees_teaches_a_phrase_and_has_it_forgotten(home):
    assert "agreed to" in home.agree("enrol", "adapt_corrections")
    state, seen = home.teach([said(PHRASE, speed=s, pitch=p) for s, p in ((135, 40), (150, 47), (165, 52))], PHRASE)
    assert state["state"] == "done", seen
    assert state["result"]["adapter"] == 1, state
    assert PHRASE in [e["phrase"] for e in home.say(said(PHRASE, speed=143, pitch=44))]
    assert len(json.loads(home.idiolect("review", "ann", "--json"))["examples"]) == 3
    assert home.idiolect("audit", "verify", "--adapter", "1", "--of", "ann").count("ok") == 5
    home.idiolect("forget", "ann", "--phrase", PHRASE)
    assert json.loads(home.idiolect("review", "ann", "--json"))["examples"] == []
    assert PHRASE not in [e["phrase"] for e in home.say(said(PHRASE, speed=143, pitch=44))]


def test_a_poisoned_correction_does_not_count(home):
    home.agree("enrol", "adapt_corrections")
    home.idiolect("profile", "ann")
    events = home.say(said("seven", speed=120))
    assert [e["phrase"] for e in events] == ["seven"], events
    answer = home.client.post("/v1/correct", {"event": events[0]["id"], "phrase": WORD})
    assert not answer["counts"]
    # which of the two is said depends on how the sound falls into blocks
    assert any(
        why in answer["why"] for why in ("does not sound like the phrase", "would draw the phrase towards another one")
    ), answer
    assert "XNNPACK" not in home.log


@pytest.mark.parametrize("word", ["seven", "yes", "zero"])
@pytest.mark.parametrize("meant", [WORD, "nine", "on"])
def test_what_was_clearly_said_does_not_count_as_another_phrase(own, word, meant):
    """However fast and high: the head has heard what it was, though a made-up voice sounds like no prototype."""
    bundle = read_bundle(own[0])
    known = model_of(Recognizer.from_bundle(bundle))
    assert known is not None
    embed, silence = Embedder(bundle.encoder), np.zeros(2 * RATE, np.int16)
    for speed, pitch in ((120, 45), (105, 40), (120, 60), (135, 50), (150, 35), (160, 55)):
        sound = said(word, speed=speed, pitch=pitch)
        end = len(silence) + corpus.speech_span(sound.astype(np.float32) / 32_768)[1]
        span = space.span_of(embed(np.concatenate([silence, sound, silence])).astype(np.float32), end)[1:-1]
        lie = Example(0, meant, "correction", "s", 1, "00" * 32, span[None], heard=word)
        assert gate.spoken(known, None, known.hear_examples(span[None])) == [word], (speed, pitch)
        _, (verdict,) = trainer.prepare(known, Ledger("aa" * 8, (lie,)))
        assert verdict.check == 4, (speed, pitch, verdict)


def test_statistics_of_other_people_keep_the_own_phrase_learnable(own, data, tmp_path):
    folder, _ = own
    few = tmp_path / "data"
    for clip in [c for c in corpus.recordings(data) if c.source in ("digits", "speech_commands")][::9]:
        target = few / clip.path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(clip.path)
    cache = folder.parent / "cache"
    done = build(
        "--space", "--data", few, "--base", folder, "--no-neural", "--cache", cache, "--out", tmp_path / "out"
    )  # fmt: skip
    assert "it has all that is needed to learn" in done.stdout, done.stderr
    made, before = read_bundle(tmp_path / "out"), read_bundle(folder)
    assert made.arrays["space_projection"].tobytes() != before.arrays["space_projection"].tobytes()
    assert made.guard.labels == before.guard.labels
    assert made.arrays[inherit.PROTOTYPE][made.classes.index(WORD)].any()


def test_the_gate_has_other_people_to_try_an_adapter_on(own):
    known = model_of(Recognizer.from_bundle(read_bundle(own[0])))
    assert known is not None
    towards = known.guard.z[[label == "no" for label in known.guard_labels]].mean(0)
    taken = Taught("purple elephant", towards / np.linalg.norm(towards), -0.3, 3.0)
    _, accepted = gate._guard_set(known, Adapter("a" * 16, taught=(taken,)), numbers := {})
    assert not accepted, numbers
    assert numbers["guard_taught"] > 10
