"""``build_bundle.py --succeeds``: a map from real recordings, judged on other people; one that is no good stays out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("soundfile")
from bundlebuild import base, cli, corpus, succession
from bundlebuild.space import Spoken
from idiolect.listening.recognizer import Recognizer, bundle_directory, read_bundle
from idiolect.people.models import succession_of
from idiolect.trust.bundle.predecessors import Affine
from tests.support import encoders
from tests.support.bundles import builtin, write

OLD = bundle_directory("builtin")


@pytest.fixture(scope="module")
def some(data, tmp_path_factory) -> Path:
    """A few of the recordings: three phrases, and enough of the people who are held out."""
    folder = tmp_path_factory.mktemp("data")
    words = ("computer", "smart_mirror", "snowboy")
    clips = [c for c in corpus.recordings(data) if c.source == "phrases" and c.path.parent.name in words]
    held = [c for c in clips if c.fold == base.HELD_OUT]
    for clip in [*held, *[c for c in clips if c.fold != base.HELD_OUT][::12]]:
        target = folder / clip.path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(clip.path)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """A finished bundle with another encoder."""
    return write(encoders.files(), tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def built(some, new) -> tuple[Path, str]:
    out = new.parent / "built"
    assert cli.main(["--succeeds", str(OLD), "--base", str(new), "--data", str(some), "--out", str(out)]) == 0
    return out, (out / "manifest.json").read_text()


def test_map_and_model_come_into_the_bundle_with_how_good_they_are(built, new):
    out, manifest = built
    made, bare = read_bundle(out), read_bundle(new)
    brought = succession_of(made)
    assert list(brought.maps) == [encoders.old_id()]
    assert brought.earlier is not None
    assert brought.earlier.digest == read_bundle(OLD).digest
    assert (made.encoder_id, made.phrases) == (bare.encoder_id, bare.phrases)
    told = json.loads(manifest)["provenance"]
    assert told["succeeds"] == read_bundle(OLD).digest
    assert told["cosine_permille"] > 900
    assert told["phrases_mapped_permille"] >= told["phrases_native_permille"] - 50
    affine = made.maps[encoders.old_id()]
    assert np.abs(affine.matrix - encoders.rotation().T).mean() < 0.1  # what it was made by


def test_the_same_recordings_give_the_same_bytes(built, some, new, tmp_path):
    out = tmp_path / "again"
    arguments = ["--succeeds", str(OLD), "--base", str(new), "--data", str(some), "--out", str(out), "--jobs", "1"]
    assert cli.main([*arguments, "--carry", "map"]) == 0
    for name in ("maps.json", "maps.bin"):
        assert (out / name).read_bytes() == (built[0] / name).read_bytes()
    assert read_bundle(out).previous is None


def test_the_model_alone_takes_no_map_along(new, some, tmp_path):
    out = tmp_path / "model"
    arguments = ["--succeeds", str(OLD), "--base", str(new), "--data", str(some), "--out", str(out)]
    assert cli.main([*arguments, "--carry", "model"]) == 0
    made = read_bundle(out)
    assert (made.maps, made.previous is not None) == ({}, True)


def test_what_makes_no_sense_is_refused(some, new, tmp_path, capsys):
    arguments = ["--data", str(some), "--out", str(tmp_path / "x")]
    assert cli.main(["--succeeds", str(OLD), "--base", "builtin", *arguments]) == 1
    assert "has the same encoder" in capsys.readouterr().err
    broken = write({**builtin(), "head.bin": b"x"}, tmp_path / "broken")
    assert cli.main(["--succeeds", str(broken), "--base", str(new), *arguments]) == 78
    with pytest.raises(SystemExit):
        cli.main(["--succeeds", str(OLD), "--phrase", "x", "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_a_map_that_loses_phrases_is_not_shipped(some, new, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    wrong = Affine(rng.standard_normal((96, 96)).astype(np.float32) / 10, np.zeros(96, np.float32))
    monkeypatch.setattr(succession, "fit", lambda *_: wrong)
    arguments = ["--succeeds", str(OLD), "--base", str(new), "--data", str(some)]
    assert cli.main([*arguments, "--out", str(tmp_path / "both")]) == 0
    assert "left out" in capsys.readouterr().err
    made = read_bundle(tmp_path / "both")
    assert (made.maps, made.previous is not None) == ({}, True)
    assert cli.main([*arguments, "--carry", "map", "--out", str(tmp_path / "map")]) == 1
    assert not (tmp_path / "map").exists()


def test_a_map_is_found_where_there_is_one():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 20, 96)).astype(np.float32) * 10
    none = np.zeros((0, 16, 96), np.float32)
    names = np.array(["x"] * len(x))
    old = Spoken(x, x[:, None, :16], names, names, names, none)
    turn, shift = encoders.rotation().T * 2, rng.standard_normal(96) * 5
    new = replace(old, spans=(x @ turn + shift).astype(np.float32), passing=(x[:, None, :16] @ turn + shift))
    found = succession.fit(old, new)
    assert np.abs(found.matrix - turn).max() < 0.01
    assert np.abs(found.offset - shift).max() < 0.1
    space = Recognizer.from_bundle(read_bundle(OLD)).space
    assert space is not None
    quality = succession.measure(found, old, new, space)
    assert quality.cosine > 0.999
    assert not quality.good  # without two who say the same, nobody knows
    assert "phrases_native_permille" not in quality.permille()
