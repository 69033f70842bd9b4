"""The manifest: exactly its fields, or a refusal that says which one is wrong."""

from __future__ import annotations

import hashlib

import pytest

from idiolect.errors import BundleError
from idiolect.trust.bundle import canonical, manifest
from tests.support.bundles import builtin

RAW = builtin()["manifest.json"]


def changed(change):
    fields = canonical.parse(RAW)
    change(fields)
    return canonical.encode(fields)


def entry(name, **values):
    return lambda m: m["files"][name].update(values)


def test_the_default_bundles_manifest():
    read = manifest.parse(RAW)
    assert (read.name, read.version) == ("default", 2)
    assert read.digest == hashlib.sha256(RAW).hexdigest()
    assert read.files["head.bin"].size == len(builtin()["head.bin"])
    assert set(read.files) == {*manifest.CAPS, *manifest.OPTIONAL_CAPS}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(extra=1), "missing or unknown: extra"),
        (lambda m: m.update({"\x1b[31m": 1}), r"unknown: \\x1b\[31m"),
        (lambda m: m.pop("audio"), "missing or unknown: audio"),
        (lambda m: m["audio"].update(rate=8000), "audio is not"),
        (lambda m: m["audio"].update(channels=True), "audio is not"),
        (lambda m: m.update(version=True), "whole number"),
        (lambda m: m.update(version="1"), "whole number"),
        (lambda m: m.update(version=0), "whole number"),
        (lambda m: m.update(name=7), "name must be text"),
        (lambda m: m.update(name=""), "name must be text"),
        (lambda m: m.update(name="a\nb"), "name must be text"),
        (lambda m: m.update(name="x" * 65), "name must be text"),
        (lambda m: m.update(provenance=[]), "provenance must be an object"),
        (lambda m: m.update(files=[]), "files must list"),
        (lambda m: m["files"].pop("head.bin"), "files must list"),
        (lambda m: m["files"].update({"../evil": {"sha256": "0" * 64, "size": 1}}), "files must list"),
        (lambda m: m["files"].update({"model.sig": {"sha256": "0" * 64, "size": 1}}), "files must list"),
        (lambda m: m["files"].update({"head.bin": 7}), "must have sha256 and size"),
        (entry("head.bin", mode=1), "must have sha256 and size"),
        (entry("head.bin", size=-1), "size of head.bin"),
        (entry("head.bin", size=True), "size of head.bin"),
        (entry("head.bin", size=(2 << 20) + 1), "size of head.bin"),
        (entry("head.bin", sha256="A" * 64), "sha256 of head.bin"),
        (entry("head.bin", sha256="0" * 64 + "\n"), "sha256 of head.bin"),
        (entry("head.bin", sha256=None), "sha256 of head.bin"),
        (lambda m: m.update(encoder="0" * 64), "encoder is not the digest"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(change, reason):
    with pytest.raises(BundleError, match=reason) as refusal:
        manifest.parse(changed(change))
    assert (refusal.value.file, refusal.value.check) == ("manifest.json", 2)


def test_floats_are_refused_even_in_provenance():
    with pytest.raises(BundleError, match="not whole"):
        manifest.parse(changed(lambda m: m["provenance"].update(rate=0.5)))


def test_a_manifest_above_its_cap_is_refused_for_its_size():
    with pytest.raises(BundleError) as refusal:
        manifest.parse(changed(lambda m: m["provenance"].update(note="x" * manifest.CAP)))
    assert refusal.value.check == 1


def test_another_label_changes_nothing_else():
    again = manifest.parse(manifest.with_label(RAW, "acme", 7))
    assert (again.name, again.version) == ("acme", 7)
    assert again.files == manifest.parse(RAW).files
    assert manifest.with_label(RAW, None, None) == RAW
    with pytest.raises(BundleError, match="name must be text"):
        manifest.with_label(RAW, "\0", None)
