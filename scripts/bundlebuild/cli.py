"""Build a bundle, the default one or an integrator's: what each of the four ways does (``arguments`` explains them)."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from idiolect.errors import IdiolectError
from idiolect.listening.pipeline.space import NAMES
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.models import succession_of
from idiolect.trust.bundle.bundle import Bundle
from idiolect.trust.bundle.manifest import PREVIOUS_CAPS
from idiolect.trust.bundle.phrases import Phrase
from idiolect.trust.bundle.predecessors import Affine, map_files, previous_files

from . import base, corpus, export, finish, inherit, measure, own, space, succession, voices
from .arguments import parse


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
    arrays |= _voiced(arguments, bundle, arrays)
    extra = {"language": described.get("language", "en")}
    files |= export.head_files(arrays, bundle.classes, described["kinds"], extra)
    if not bundle.guard.labels:
        files |= inherit.guard_files(inherit.parts(bundle), [], bundle.encoder, 0)
    files |= finish.trained_on([c.path for c in clips], files.get("trained_on.bin", b""))
    export.write(
        arguments.out, files, name=arguments.name or bundle.name, version=arguments.version,
        provenance=_provenance({"built_from": "a bundle and recordings", "base": bundle.digest}),
    )  # fmt: skip


def _voiced(arguments: argparse.Namespace, bundle: Bundle, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Prototypes for phrases that nobody says in the recordings, from synthetic voices where there are any."""
    rows = dict(zip(bundle.classes, arrays[inherit.PROTOTYPE], strict=True))
    bare = [phrase.name for phrase in bundle.phrases if not rows[phrase.name].any()]
    found = inherit.Parts(
        {name: arrays[name] for name in NAMES}, {n: r for n, r in rows.items() if r.any()}, bundle.guard
    )
    if not bare:
        return {}
    plan = [(p.text, p.name, inherit.TAUGHT_BY, False) for p in bundle.phrases if p.name in bare]
    try:
        clips = voices.library(arguments.cache / "voices", plan, neural=not arguments.no_neural)
    except RuntimeError as error:  # without a voice; the end says what is missing
        base.say(str(error))
        return {}
    more = inherit.prototypes(found, clips, bundle.encoder, arguments.jobs)
    return inherit.space_arrays(found, bundle.classes, more)


def _own(arguments: argparse.Namespace) -> None:
    folder = bundle_directory(arguments.base)
    bundle = read_bundle(folder)
    wishes = [_wish(phrase, arguments) for phrase in arguments.phrase]
    effort = own.Effort(processes=arguments.jobs, neural=not arguments.no_neural)
    changes = {k: v for k, v in (("rounds", arguments.rounds), ("voices", arguments.voices)) if v}
    effort = base.replace(effort, **changes)
    _say_voices(effort.neural)
    shipped = finish.from_arrays(bundle.classes, bundle.arrays)
    result = own.add(shipped, wishes, bundle.encoder, arguments.cache, effort)
    arrays = finish.arrays(result.model, result.data, np.random.default_rng(effort.seed))
    # The base head's own: in what was loaded they are folded into the convolution.
    arrays |= finish.statistics(bundle.arrays["embedding_mean"], bundle.arrays["embedding_std"])
    learning = inherit.parts(bundle)
    new = inherit.prototypes(learning, result.learnt, bundle.encoder, arguments.jobs)
    arrays |= inherit.space_arrays(learning, result.model.classes, new)
    limits = result.thresholds
    phrases = [*bundle.phrases, *(Phrase(w.text, w.text, w.kind, limits[w.text], limits[w.text]) for w in wishes)]
    files = _payload(folder)  # with what leads over from earlier encoders
    files |= export.head_files(arrays, result.model.classes, {p.name: p.kind for p in phrases}, {"language": "en"})
    files |= export.phrase_file(phrases)
    files |= inherit.guard_files(learning, result.apart, bundle.encoder, effort.seed)
    files |= finish.trained_on(result.recorded, files.get("trained_on.bin", b""))
    provenance = {"built_from": "a bundle, synthetic voices and own recordings", "base": bundle.digest}
    export.write(
        arguments.out, files, name=arguments.name or "own", version=arguments.version,
        provenance=_provenance({**provenance, "recordings": len(result.recorded), "voices": effort.voices}),
    )  # fmt: skip
    if not arguments.no_figures:
        _show_figures(arguments.out, result.unheard, [wish.text for wish in wishes])


def _wish(phrase: str, arguments: argparse.Namespace) -> own.Wish:
    text = " ".join(phrase.lower().split())
    recordings = arguments.recordings / text.replace(" ", "_") if arguments.recordings else None
    return own.Wish(text, arguments.kind, recordings)


def _say_voices(neural: bool) -> None:
    """Who speaks, and who could."""
    base.say(f"voices: {', '.join(voices.available(neural=neural))}")
    if absent := voices.missing():
        base.say(
            f"not installed: {', '.join(absent)}. With fewer kinds of voices more people are missed;"
            " ./scripts/setup --voices brings them"
        )


def _show_figures(folder: Path, clips: Sequence[corpus.Clip], names: Sequence[str]) -> None:
    base.say("measuring: new utterances, then music and recorded speech")
    recognizer = Recognizer.from_bundle(read_bundle(folder))
    for found in measure.figures(recognizer, clips, names):
        print("\n".join(found.lines()))
    print("\n".join(measure.CAUTION))


def _show_lacks(folder: Path) -> None:
    """What the finished bundle lacks. ``BundleError`` where what it carries along makes no head."""
    bundle = read_bundle(folder)
    succession_of(bundle)
    if not bundle.lacks:
        print("it has all that is needed to learn from people: statistics, cohort and guard set")
    for lack in bundle.lacks:
        print(f"build_bundle: WARNING: {lack}", file=sys.stderr)


def main(given: list[str] | None = None) -> int:
    """Exit status 0; 1 when something is missing or wrong with the request; 78 when the base bundle is refused."""
    arguments = parse(given)
    try:
        if arguments.succeeds:
            _succession(arguments)
        elif arguments.space:
            _space(arguments)
        elif arguments.data:
            _default(arguments)
        else:
            _own(arguments)
        print(f"wrote {arguments.out}")
        _show_lacks(arguments.out)
    except IdiolectError as error:
        print(f"build_bundle: {error}", file=sys.stderr)
        return 78
    except (ValueError, RuntimeError, OSError) as error:
        print(f"build_bundle: {error}", file=sys.stderr)
        return 1
    return 0
