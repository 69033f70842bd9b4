"""How good a bundle is on recordings it has never heard: from the command line (``arguments``) to the report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bundlebuild import corpus
from bundlebuild.audio import read
from bundlebuild.finish import DIGEST
from evaluation import ambient, plots
from evaluation.arguments import parse
from evaluation.conditions import kitchen_for_tests
from evaluation.embed import Heard, Job, embed_all
from evaluation.lived import figures as lived_figures
from evaluation.lived import run as lived
from evaluation.personal import people, pictures, run
from evaluation.report import Figures
from idiolect.errors import IdiolectError
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle

ROOT = Path(__file__).resolve().parents[2]


def _trained_on(folder: Path) -> set[bytes]:
    path = folder / "trained_on.bin"
    data = path.read_bytes() if path.is_file() else b""
    return {data[i : i + DIGEST] for i in range(0, len(data), DIGEST)}


def _hear(arguments: argparse.Namespace, encoder: bytes) -> list[Heard]:
    clips = corpus.recordings(arguments.data)
    noise = arguments.data / "noise" / "kitchen.flac"
    kitchen = kitchen_for_tests(read(noise)) if noise.is_file() else None
    models = {"int8": encoder}
    twin = ROOT / "scripts" / "bundlebuild" / "encoder_float.tflite"
    if twin.is_file():
        models["float"] = twin.read_bytes()
    cache = None if arguments.no_cache else ROOT / ".cache" / "embeddings"
    return list(embed_all(clips, Job(models, kitchen, cache, people.persons(clips)), arguments.jobs))


def _summary(values: dict[str, Any]) -> str:
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    households = {key: value for key, value in plain.items() if key.startswith("lived.")}
    lines = [f"  {key:52s} {value}" for key, value in sorted(plain.items()) if key not in households]
    return "\n".join([*lines, *(lived_figures.table(households) if households else [])])


def _base(figures: Figures, recognizer: Recognizer, data: Path) -> dict[str, Any]:
    figures.accuracies()
    figures.wake_words()
    orders = [h.clip.path for h in figures.heard if h.clip.source == "coffee_orders"]
    return {**figures.values, **ambient.figures(recognizer, data, orders)}


def _personal(
    arguments: argparse.Namespace, recognizer: Recognizer, heard: Sequence[Heard], known: set[bytes]
) -> run.Result:
    parts = [part for part in run.PARTS if part in arguments.only]
    if not parts:
        return run.Result()
    if recognizer.space is None:
        reason = "the bundle has no personal space: build it with build_bundle.py --space"
        return run.Result(reasons=dict.fromkeys(parts, reason))
    bench = run.Bench(recognizer, heard, known, None if arguments.no_cache else ROOT / ".cache" / "models")
    return run.run(bench, parts, arguments.jobs)


def _lived(arguments: argparse.Namespace, recognizer: Recognizer) -> lived.Result:
    if "lived" not in arguments.only:
        return lived.Result()
    cache = None if arguments.no_cache else ROOT / ".cache" / "lived"
    return lived.run(recognizer, arguments.data, lived.SIZES[arguments.size], cache, arguments.jobs)


def main() -> int:
    """Exit status 0; 1 without any recording under DIR; 78 when the bundle is refused."""
    arguments = parse()
    if arguments.plots and find_spec("matplotlib") is None:
        print(f"evaluate: {plots.HINT}", file=sys.stderr)  # now, and not after an hour
        return 1
    since = time.monotonic()
    try:
        folder = bundle_directory(arguments.bundle)
        recognizer = Recognizer.from_bundle(read_bundle(folder))
    except IdiolectError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 78
    heard = _hear(arguments, recognizer.bundle.encoder) if set(arguments.only) != {"lived"} else []
    if not heard and not corpus.recordings(arguments.data):
        print(f"evaluate: no recordings under {arguments.data}", file=sys.stderr)
        return 1
    known = _trained_on(folder)
    figures = Figures(recognizer.bundle, recognizer.head, [h for h in heard if h.digest[:DIGEST] not in known])
    values = _base(figures, recognizer, arguments.data) if "base" in arguments.only else {}
    personal = _personal(arguments, recognizer, heard, known)
    as_lived = _lived(arguments, recognizer)
    report = {
        **values,
        **personal.values,
        **as_lived.values,
        "reasons": {**figures.reasons, **personal.reasons, **as_lived.reasons},
        "bundle": recognizer.bundle.digest,
        "clips": len(heard),
        "clips_left_out_as_trained_on": sum(h.digest[:DIGEST] in known for h in heard),
        "seconds": round(time.monotonic() - since, 1),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(_summary(report))
    for key, reason in report["reasons"].items():
        print(f"  {key}: {reason}")
    if arguments.plots:
        try:
            plots.draw(arguments.plots, figures.confusions)
            pictures.draw(arguments.plots, personal)
        except ImportError:
            print(f"evaluate: {plots.HINT}", file=sys.stderr)
    return 0
