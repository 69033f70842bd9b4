"""The bundles that a device runs one after the other: every next version, some with another encoder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from idiolect.learning.maps import Succession
from idiolect.listening.recognizer import Recognizer
from idiolect.people.models import model_of, succession_of
from idiolect.trust.bundle import bundle as bundle_files
from idiolect.trust.bundle.verify import Verified
from tests.support import bundles, encoders
from torture.crashing.check import Boot

ENCODERS = ("old", "old", "map", "old", "model")
"""What every next bundle brings: the shipped encoder, or another one with a map to it, or with the model before."""


@cache
def boot(version: int) -> tuple[Verified, Boot]:
    """The bundle of a version, approved for a fresh boot and after a fresh boot of the one before."""
    kind = ENCODERS[version % len(ENCODERS)]
    before = boot(version - 1)[0] if version > 1 else None
    fresh = [each for each in before.approvals if each.from_ == bytes(32)] if before else []
    files: Mapping[str, bytes] = bundles.builtin()
    if kind != "old":
        files = encoders.successor(affine=encoders.exact() if kind == "map" else None, previous=kind == "model")
    verified = bundles.sign(files, version=version, name="test", upgrades=fresh)
    loaded = bundle_files.load(verified)
    model = model_of(Recognizer.from_bundle(loaded))
    assert model is not None  # noqa: S101 - the shipped bundle has a space
    assert model.guard is not None and model.cohort_rivals is not None  # noqa: PT018, S101 - once, for all victims
    return verified, Boot(loaded.digest, version, loaded.encoder_id, model, kind != "old", succession_of(loaded))


@cache
def carried(version: int) -> Boot | None:
    """The model before, which a bundle brings along."""
    mine = boot(version)[1]
    earlier = mine.succession.earlier
    if earlier is None:
        return None
    return Boot(earlier.digest, version, earlier.encoder, earlier.load(), succession=Succession(earlier.maps))
