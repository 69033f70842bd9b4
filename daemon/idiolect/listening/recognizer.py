"""Puts parts together: a bundle's bytes and the integrator's wishes become a chain. Used by service and scripts.

Nothing here listens: ``Recognizer.chain`` makes what does, and the functions below it make what it listens for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from idiolect.errors import BundleError, ConfigError
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.decoder import Listening, State, Thresholds, blocks, raised
from idiolect.listening.pipeline.encoder import Encoder
from idiolect.listening.pipeline.head import Head
from idiolect.listening.pipeline.household import TAUGHT_OPEN, TAUGHT_THRESHOLD
from idiolect.listening.pipeline.space import Space
from idiolect.trust.bundle.bundle import Bundle, load
from idiolect.trust.bundle.choose import BUILTIN, builtin, read_verified
from idiolect.trust.bundle.public_keys import TrustedKeys
from idiolect.values import name_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from idiolect.config.schema import Config

SENSITIVITY_SPAN = 4.0
"""Log-odds by which sensitivity 0 raises and 1 lowers every threshold, half of it each way."""


def bundle_directory(name: str | Path) -> Path:
    """Return where the bundle that ``config.bundle`` names lies."""
    return builtin() if name == BUILTIN else Path(name)


def read_bundle(
    directory: Path, keys: TrustedKeys | None = None, *, minimum: int = 0, allow_unsigned: bool = True
) -> Bundle:
    """Read and verify a bundle: for scripts and tests, as without ``keys`` nobody vouches for anything."""
    return load(read_verified(directory, keys, minimum=minimum, allow_unsigned=allow_unsigned))


def described(bundle: Bundle) -> dict[str, object]:
    """Return a bundle as `status` shows it."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "encoder": bundle.encoder_id[:16],
        "wake_words": list(bundle.wake_words),
        "phrases": list(bundle.commands),
    }


@dataclass(frozen=True, slots=True)
class Recognizer:
    """The parts that are loaded once and serve every stream: a bundle and its head."""

    bundle: Bundle
    head: Head
    space: Space | None
    """None when the bundle ships none: then nobody can be learnt from, and all else works."""

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Recognizer:
        """Build the head and, where the bundle ships one, the personal space.

        Raises:
            BundleError: the arrays of head.bin do not fit together.
        """
        try:
            head = Head.from_arrays(bundle.classes, bundle.arrays)
            return cls(bundle, head, Space.from_arrays(len(bundle.classes), bundle.arrays))
        except (KeyError, ValueError) as error:
            raise BundleError("head.bin", f"does not make a head: {error}") from None

    def chain(self, listening: Listening, *, gated: bool = True, runtime: str = "auto") -> Chain:
        """Return a new stream, with an encoder of its own."""
        encoder = Encoder(self.bundle.encoder, runtime=runtime)
        return Chain(encoder, self.head, listening, gated=gated)


def thresholds(
    bundle: Bundle, sensitivity: float = 0.5, overrides: dict[str, float] | None = None, *, turn: bool = False
) -> NDArray[np.float32]:
    """Return per class of the head the bundle's calibrated threshold moved by ``sensitivity`` 0..1, or the override.

    Sensitivity shifts the log-odds, so that no setting reaches 0 or 1. Classes that are no phrase get 1. In a ``turn``
    phrases have thresholds of their own; an override holds everywhere.
    """
    values = np.ones(len(bundle.classes))
    places = {phrase.name: bundle.classes.index(phrase.name) for phrase in bundle.phrases}
    for phrase in bundle.phrases:
        values[places[phrase.name]] = phrase.turn_threshold if turn else phrase.threshold
    moved = raised(values, (0.5 - sensitivity) * SENSITIVITY_SPAN)
    for name, limit in (overrides or {}).items():
        if name in places:
            moved[places[name]] = limit
    return moved


def listening(
    bundle: Bundle,
    *,
    wake_words: Iterable[str] | None = None,
    phrases: Iterable[str] | None = None,
    always_on: Iterable[str] = (),
    always: bool = False,
    sensitivity: float = 0.5,
    overrides: dict[str, float] | None = None,
    timeout_s: float = 6.0,
    pause_ms: float = 160.0,
    refractory_s: float = 0.8,
) -> Listening:
    """Return what the decoder listens for; ``None`` means everything that the bundle has.

    Names that the bundle lacks count for nothing. A phrase that is always on is listened for whether or not ``phrases``
    lists it.

    Args:
        sensitivity: 0..1.
        overrides: thresholds by phrase, 0..1.
    """

    def mask(names: Iterable[str]) -> NDArray[np.bool_]:
        chosen = set(names)
        return np.array([name in chosen for name in bundle.classes], np.bool_)

    always_mask = mask(set(always_on) & set(bundle.commands))
    commands = mask(bundle.commands if phrases is None else phrases) | always_mask
    return Listening(
        classes=bundle.classes,
        wake=mask(bundle.wake_words if wake_words is None else wake_words),
        phrases=commands,
        always_on=always_mask,
        thresholds=thresholds(bundle, sensitivity, overrides),
        turn_thresholds=thresholds(bundle, sensitivity, overrides, turn=True),
        mode=State.OPEN if always else State.IDLE,
        timeout=blocks(timeout_s),
        pause=blocks(pause_ms / 1000.0),
        refractory=blocks(refractory_s),
    )


def also_always(base: Listening, name: str) -> Listening:
    """Return ``base`` with one more class heard at any time, at its threshold of a turn, after a question was put."""
    mask = np.array([each == name for each in base.classes], np.bool_)
    thresholds = np.where(mask, base.turn_thresholds, base.thresholds).astype(np.float32)
    return replace(base, phrases=base.phrases | mask, always_on=base.always_on | mask, thresholds=thresholds)


def with_taught(base: Listening, taught: Sequence[str], sensitivity: float = 0.5) -> Listening:
    """Return ``base`` with phrases that people taught: heard where any phrase is, whoever of them speaks."""
    if not taught:
        return base
    more = len(taught)
    none = np.zeros(more, np.bool_)
    turn, open_room = (
        raised(np.full(more, limit), (0.5 - sensitivity) * SENSITIVITY_SPAN)
        for limit in (TAUGHT_THRESHOLD, TAUGHT_OPEN)
    )
    return replace(
        base,
        classes=(*base.classes, *taught),
        wake=np.concatenate([base.wake, none]),
        phrases=np.concatenate([base.phrases, ~none]),
        always_on=np.concatenate([base.always_on, none]),
        thresholds=np.concatenate([base.thresholds, open_room]),
        turn_thresholds=np.concatenate([base.turn_thresholds, turn]),
    )


def users(config: Config) -> dict[str, Sequence[str]]:
    """Return the Unix users of each person, by name."""
    return {name: person.users for name, person in config.people.items()}


def for_people(base: Listening, config: Config, profiles: Mapping[str, str]) -> Listening:
    """Return ``base`` with the thresholds of those who have a sensitivity of their own.

    ``profiles`` are by the key of their name (``values.name_key``). A phrase whose threshold the configuration sets has
    that for everybody.
    """
    found: dict[str, Thresholds] = {}
    fixed = np.array([name in config.listening.thresholds for name in base.classes], np.bool_)
    for name, person in config.people.items():
        profile = profiles.get(name_key(name))
        if profile is not None and person.sensitivity != "same":
            more = (config.listening.sensitivity - person.sensitivity) * SENSITIVITY_SPAN
            free, turn = (np.where(fixed, t, raised(t, more)) for t in (base.thresholds, base.turn_thresholds))
            found[profile] = Thresholds(free, turn)
    return replace(base, by_profile=found) if found else base


def listening_for(config: Config, bundle: Bundle) -> Listening:
    """Return what the configuration asks to listen for.

    Raises:
        ConfigError: the bundle does not have some of the phrases; the error names every one.
    """
    from idiolect.config.schema import check_phrases

    if problems := check_phrases(config, bundle.wake_words, bundle.commands):
        raise ConfigError(problems)
    wish = config.listening
    return listening(
        bundle,
        wake_words=None if wish.wake_words == "all" else wish.wake_words,
        phrases=None if wish.phrases == "all" else wish.phrases,
        always_on=wish.always_on,
        always=wish.mode == "always",
        sensitivity=wish.sensitivity,
        overrides=dict(wish.thresholds),
        timeout_s=wish.timeout_s,
        pause_ms=wish.pause_ms,
        refractory_s=wish.refractory_s,
    )
