#!/bin/sh
""":" # sh reads this first, and tells a machine without python3 what to do; for Python it is a text and nothing more
command -v python3 >/dev/null || {
    echo "same_events: python3 is missing; run ./scripts/setup --demo-only first" >&2
    exit 1
}
exec python3 "$0" "$@"
":"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

__doc__ = """\
Does the pipeline hear the same everywhere? Runs it on fixed samples and compares what it heard in two places.

  same_events.py record SAMPLES        compose the samples from recordings that Debian ships
  same_events.py hear SAMPLES HEARD    run the pipeline on them, with the TFLite runtime that is installed here
  same_events.py compare HEARD...      each against the first; exit 1 unless all events are the same

Only ``record`` resamples, so that what is compared is the pipeline; the others need numpy and a runtime, no more.
"""

if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):  # before what needs a library
    print(__doc__)
    sys.exit(0)

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "daemon")]

from idiolect.learning import trainer  # noqa: E402
from idiolect.learning.ledger import Example, Ledger  # noqa: E402
from idiolect.listening.pipeline.space import as_span  # noqa: E402
from idiolect.listening.recognizer import Recognizer, bundle_directory, listening, read_bundle  # noqa: E402
from idiolect.people.models import model_of  # noqa: E402
from idiolect.values import BLOCK  # noqa: E402

SCORE_TOLERANCE = 0.05
LEARNT_TOLERANCE = 1e-6
TAUGHT = 60
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCENES: dict[str, tuple[float, dict[str, Any]]] = {
    "digits": (4.0, {"always": True, "phrases": DIGITS, "wake_words": ()}),
    "digits, noise": (60.0, {"always": True, "phrases": DIGITS, "wake_words": ()}),
    "everything": (4.0, {"always": True}),
    "everything, noise": (300.0, {"always": True}),
    # A digit as the wake word, so that turns open, close, reject and time out.
    "turns": (20.0, {"wake_words": ("three", "seven"), "timeout_s": 3.0}),
}
"""Name -> noise in S16 steps RMS, and what is listened for. "digits" are words only, the others sentences too."""
Arrays = dict[str, NDArray[Any]]


def compose() -> Arrays:
    """Every scene's samples, int16 at 16 kHz."""
    from tests.support import speech  # resamples, with a library that not every environment has

    words = [speech.silence(2.0, 0.0)]
    for number in (3, 1, 4, 5, 9, 2, 6, 8, 7, 0):
        words += [speech.digit(number), speech.silence(1.2, 0.0)]
    talk = list(words)
    for i, path in enumerate(sorted(p for p in speech.SOUNDS.glob("*.wav") if 20_000 < p.stat().st_size < 70_000)[::9]):
        talk += [speech.recording(path), speech.silence(0.9, 0.0), speech.digit(i % 10), speech.silence(1.8, 0.0)]
    rng, scenes = np.random.default_rng(5), {}
    for name, (level, _) in SCENES.items():
        samples = np.concatenate(words if name.startswith("digits") else talk)
        noisy = np.rint(samples + rng.standard_normal(len(samples)) * level)
        scenes[name] = np.clip(noisy, -32768, 32767).astype(np.int16)
    return scenes


def hear(samples: Arrays) -> Arrays:
    """Run the pipeline on every scene; what came out, in arrays that a .npz file holds."""
    recognizer = Recognizer.from_bundle(read_bundle(bundle_directory("builtin")))
    heard: Arrays = {}
    for name, (_, wishes) in SCENES.items():
        chain = recognizer.chain(listening(recognizer.bundle, **wishes))
        steps = chain.steps(samples[name])
        heard[f"{name}/events"] = np.array(json.dumps([asdict(s.detection) for s in steps if s.detection]))
        heard[f"{name}/positions"] = np.array([s.position for s in steps])
        heard[f"{name}/embeddings"] = np.array([s.embedding for s in steps])
        heard[f"{name}/posteriors"] = np.array([s.posteriors for s in steps])
        heard["learnt"] = learnt(recognizer)
        heard["where"] = np.array(f"{platform.machine()}, {chain.runtime}, numpy {np.__version__}")
    return heard


def learnt(recognizer: Recognizer) -> NDArray[np.float64]:
    """What the trainer makes of utterances after the guard set, in one row: shifts, taught phrases, thresholds."""
    model = model_of(recognizer)
    if model is None:
        return np.zeros(0)
    rng, windows, examples = np.random.default_rng(9), model.guard_windows, []
    for number in range(TAUGHT):
        row = (7 * number // 3) % len(windows)
        span = as_span(windows[row])
        span = span + 0.15 * windows[row].std() * rng.standard_normal(span.shape)
        label = model.guard_labels[row]
        phrase = f"phrase {number // 3}" if label.startswith("_") or number % 2 else label
        made = span.astype(np.float32)[None]
        examples.append(Example(number, phrase, "enrolment", "0", 20_000, "00" * 32, made))
    ledger = Ledger("aa" * 8, tuple(examples))
    material, _ = trainer.prepare(model, ledger)
    adapter = trainer.build(model, ledger, material, trainer.When(20_000, 1), trainer.LADDER[0])
    rows = [s.vector for _, s in sorted(adapter.shifts.items())] + [t.direction for t in adapter.taught]
    return np.concatenate([*rows, [t.threshold for t in adapter.taught]]).astype(np.float64)


def events(heard: Arrays, scene: str) -> list[dict[str, Any]]:
    """The detections of one scene, in order."""
    return list(json.loads(str(heard[f"{scene}/events"])))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two events are one: kind and phrase, positions to a block."""
    near = all(abs(a[place] - b[place]) <= BLOCK for place in ("start", "end"))
    return near and (a["kind"], a["phrase"]) == (b["kind"], b["phrase"])


def faults(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """What differs, in words: events that only one heard, and scores further apart than SCORE_TOLERANCE."""
    found = []
    for who, some, others in (("first", ours, theirs), ("second", theirs, ours)):
        for e in some:
            if not any(same(e, other) for other in others):
                found.append(f"only the {who} hears {e['kind']} {e['phrase']} at {e['end']}, score {e['score']:.3f}")
    for a, b in ((a, b) for a in ours for b in theirs if same(a, b)):
        if abs(a["score"] - b["score"]) > SCORE_TOLERANCE:
            found.append(f"{a['kind']} {a['phrase']} at {a['end']} scores {a['score']:.3f} and {b['score']:.3f}")
    return found


def compare(ours: Arrays, theirs: Arrays) -> bool:
    """Print a table of the largest differences in each scene; return whether all events are the same."""
    print("  scene              events  faults   score  posterior  embedding: LSB  unequal  least cosine")
    found = []
    for name in SCENES:
        mine, other = events(ours, name), events(theirs, name)
        _, here, there = np.intersect1d(ours[f"{name}/positions"], theirs[f"{name}/positions"], return_indices=True)
        a, b = ours[f"{name}/embeddings"][here], theirs[f"{name}/embeddings"][there]
        lsb = np.diff(np.unique(a)).min()  # every number from an int8 graph is a multiple of it
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        posterior = np.abs(ours[f"{name}/posteriors"][here] - theirs[f"{name}/posteriors"][there]).max()
        score = max((abs(x["score"] - y["score"]) for x in mine for y in other if same(x, y)), default=0.0)
        differing = faults(mine, other)
        print(
            f"  {name:18} {len(mine):6}  {len(differing):6}  {score:.4f}     {posterior:.4f}  "
            f"{np.abs(a - b).max() / lsb:14.1f}  {(a != b).mean():7.2%}      {cosine.min():.6f}"
        )
        found += [f"  {name}: {fault}" for fault in differing]
    apart = float(np.abs(ours["learnt"] - theirs["learnt"]).max(initial=0.0))
    print(f"  {len(ours['learnt'])} learnt numbers, at most {apart:.1e} apart")
    if apart > LEARNT_TOLERANCE:
        found.append(f"  what is learnt differs by {apart:.1e}, more than {LEARNT_TOLERANCE:.0e}")
    print("\n".join(found or ["  all events are the same"]))
    return not found


def main(arguments: list[str]) -> int:
    """Run one of the three commands."""
    match arguments:
        case ["record", target]:
            np.savez(target, **compose())
        case ["hear", source, target]:
            np.savez(target, **hear(dict(np.load(source))))
        case ["compare", first, *others] if others:
            ours, status = dict(np.load(first)), 0
            for other in others:
                theirs = dict(np.load(other))
                print(f"{ours['where']} ({Path(first).stem}) against {theirs['where']} ({Path(other).stem})")
                status |= not compare(ours, theirs)
            return status
        case _:
            print(__doc__, file=sys.stderr)
            return 64
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
