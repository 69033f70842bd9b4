"""How good a bundle is on recordings it has never heard.

    scripts/evaluate --data DIR --json FILE [--plots DIR] [--bundle DIR] [--no-cache] [--jobs N]

DIR is laid out as the recordings' README says: speech_commands/, digits/, phrases/, coffee_orders/, noise/; any part
may be missing (its figures are null, with the reason). Nothing is trained or calibrated here. A clip that the head was
trained on (the bundle lists the digests of all of them) is left out of every figure, and the report says how many were.
A further phrase under phrases/ counts as speech that is no wake word. music/ and radio/ may hold long recordings for
the false accepts of a room where nobody speaks to the device; without them Debian's music on hold and the spoken
orders, back to back, stand in.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bundlebuild import corpus
from bundlebuild.audio import read
from bundlebuild.finish import DIGEST
from evaluation import ambient, plots
from evaluation.conditions import kitchen_for_tests
from evaluation.embed import Heard, Job, embed_all
from evaluation.personal import people
from evaluation.report import Figures
from idiolect.assembly import Recognizer, bundle_directory, read_bundle
from idiolect.errors import IdiolectError

ROOT = Path(__file__).resolve().parents[2]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plots", type=Path, help="folder for confusion matrices (needs matplotlib)")
    parser.add_argument("--bundle", default="builtin", help="folder of the bundle to judge (default: the one shipped)")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write .cache/embeddings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args()


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
    lines = [f"  {key:52s} {value}" for key, value in sorted(values.items()) if not isinstance(value, dict)]
    return "\n".join(lines)


def main() -> int:
    """Exit status 0; 1 without any recording under DIR; 78 when the bundle is refused."""
    arguments = _arguments()
    since = time.monotonic()
    try:
        folder = bundle_directory(arguments.bundle)
        recognizer = Recognizer.from_bundle(read_bundle(folder))
    except IdiolectError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 78
    heard = _hear(arguments, recognizer.bundle.encoder)
    if not heard:
        print(f"evaluate: no recordings under {arguments.data}", file=sys.stderr)
        return 1
    known = _trained_on(folder)
    unseen = [h for h in heard if h.digest[:DIGEST] not in known]
    figures = Figures(recognizer.bundle, recognizer.head, unseen)
    figures.accuracies()
    figures.wake_words()
    orders = [h.clip.path for h in unseen if h.clip.source == "coffee_orders"]
    report = {
        **figures.values,
        **ambient.figures(recognizer, arguments.data, orders),
        "reasons": figures.reasons,
        "bundle": recognizer.bundle.digest,
        "clips": len(heard),
        "clips_left_out_as_trained_on": len(heard) - len(unseen),
        "seconds": round(time.monotonic() - since, 1),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(_summary(report))
    for key, reason in figures.reasons.items():
        print(f"  {key}: {reason}")
    if arguments.plots:
        try:
            plots.draw(arguments.plots, figures.confusions)
        except ImportError:
            print(f"evaluate: {plots.HINT}", file=sys.stderr)
    return 0
