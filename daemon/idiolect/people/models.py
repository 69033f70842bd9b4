"""Builds what learning needs from a bundle and the configuration: models, maps between encoders, and wishes.

A wish says what counts in a turn of one person's. Nothing here reads the vault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idiolect.errors import BundleError
from idiolect.learning.lived import Wish
from idiolect.learning.maps import Earlier, EmbeddingMap, Maps, Succession
from idiolect.learning.model import Model
from idiolect.listening.recognizer import Recognizer, for_people, listening_for, with_taught
from idiolect.trust.bundle.bundle import Bundle
from idiolect.trust.bundle.manifest import PREVIOUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idiolect.config.schema import Config


def wish_of(config: Config, bundle: Bundle, profiles: Mapping[str, str], profile: str) -> Wish:
    """Return what counts in a turn of ``profile``'s besides phrases that people taught; rounds are judged by it.

    Args:
        profiles: ids of people by the key of their name (``values.name_key``).
    """
    some_phrase = ("",)
    wanted = with_taught(listening_for(config, bundle), some_phrase, config.listening.sensitivity)
    wanted = for_people(wanted, config, profiles)
    turn = wanted.by_profile[profile].turn if profile in wanted.by_profile else wanted.turn_thresholds
    limits = dict(zip(wanted.classes, map(float, turn), strict=True))
    heard = [name for name in bundle.classes if (wanted.wake | wanted.phrases)[bundle.classes.index(name)]]
    always_on = [name for name in heard if wanted.always_on[bundle.classes.index(name)]]
    return Wish({name: limits[name] for name in heard}, limits[""], always_on, wanted.pause)


def model_of(recognizer: Recognizer) -> Model | None:
    """Return what learning needs of a bundle; None when it ships no personal space."""
    bundle = recognizer.bundle
    if recognizer.space is None:
        return None
    return Model(
        digest=bundle.digest,
        head=recognizer.head,
        space=recognizer.space,
        wake_words=bundle.wake_words,
        thresholds={p.name: p.turn_threshold for p in bundle.phrases},
        guard_stored=bundle.guard.stored,
        guard_scale=bundle.guard.scale,
        guard_labels=bundle.guard.labels,
        guard_strata=bundle.guard.strata,
    )


def succession_of(bundle: Bundle) -> Succession:
    """Return the maps, and the earlier model, that a bundle brings for what was taught under earlier bundles.

    The earlier model is built once here as a trial, so that a damaged one is found at the start and not only when it is
    needed.

    Raises:
        BundleError: no head can be made of the model that it carries; the error names the file.
    """
    before = bundle.previous
    if before is None:
        return Succession(_maps(bundle))
    _carried_model(before)
    earlier = Earlier(
        digest=before.digest, encoder=before.encoder_id, classes=before.classes, graph=before.encoder,
        load=lambda: _carried_model(before), maps=_maps(before),
    )  # fmt: skip
    return Succession(_maps(bundle), earlier)


def _maps(bundle: Bundle) -> Maps:
    return {name: EmbeddingMap(each.matrix, each.offset, each.digest) for name, each in bundle.maps.items()}


def _carried_model(before: Bundle) -> Model:
    try:
        model = model_of(Recognizer.from_bundle(before))
    except BundleError as error:
        raise BundleError(PREVIOUS + error.file, error.message) from None
    if model is None:
        raise BundleError(f"{PREVIOUS}head.json", "has no statistics to learn with: nobody was taught anything with it")
    return model
