"""Chooses the bundle that this start runs: the configured one, the current slot, or the previous slot without keys.

A configuration goes in; the verified bundle comes out, and the description that the keystore asks for (``Model``).
Nothing is changed here, and no keys are touched.

| `bundle:` | what is tried |
| --- | --- |
| `installed` | the current slot, then the previous one: it serves, and gets no keys before a reboot |
| `builtin`, a directory | that one only |

Where the configured choice cannot be used at all, the one that worked last may serve in its place (``starting``): it
gets no keys either.

With `keystore: tpm` a bundle must be signed by a key in `trust.keys_dir`. With `keystore: file` it may be unsigned, and
is checked where there are keys to check it with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from idiolect.config.schema import NOT_SET, Trust, check_phrases, section_of
from idiolect.errors import BundleError, Problem
from idiolect.host import systemd
from idiolect.trust.bundle.approvals import Approval
from idiolect.trust.bundle.directory import Directory, read_keys
from idiolect.trust.bundle.phrases import offered
from idiolect.trust.bundle.public_keys import KeyFileError, TrustedKeys
from idiolect.trust.bundle.slots import FOLDER, Slots, State
from idiolect.trust.bundle.verify import Verified, verify

if TYPE_CHECKING:
    from idiolect.config.schema import Config


T = TypeVar("T")
log = logging.getLogger(__name__)

BUILTIN, INSTALLED = "builtin", "installed"


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """Pairs the bundle that runs with ``content``, which the caller's ``load`` made of its files."""

    content: T
    model: Model


def builtin() -> Path:
    """Return the directory of the bundle that comes with the package."""
    return Path(str(resources.files("idiolect") / "bundles" / "default"))


def slots(config: Config) -> Slots:
    """Return the two slots of this device."""
    return Slots(Path(config.state_dir) / FOLDER)


def trusted_keys(config: Config, *, anew: bool = False) -> TrustedKeys | None:
    """Return the keys that may sign bundles; None where there is no such directory.

    In our unit these are systemd's copies of the standard directory, made by root when the service started. With
    ``anew`` the directory itself is read, where that is allowed: it holds what the next start will be given.
    """
    directory = config.trust.keys_dir
    handed = systemd.credentials()
    if anew and os.access(directory, os.R_OK | os.X_OK):
        handed = None
    if handed is not None and directory == Trust().keys_dir:
        return read_keys(handed, f"{directory.name}_")
    return read_keys(directory) if directory.exists() else None


def _rule(config: Config, *, anew: bool = False) -> _Rule:
    keys, unsigned = trusted_keys(config, anew=anew), config.keystore == "file"
    return _Rule(None if unsigned and keys is not None and not keys.keys else keys, unsigned)


def choose(config: Config, load: Callable[[Verified], T], *, anew: bool = False) -> Chosen[T]:
    """Check bundles in order, and return the first one that passes and that ``load`` takes.

    Args:
        load: makes the contents of a verified bundle; raises ``BundleError`` for contents that make no sense.
        anew: ask for the bundle of the next start, not of this one (``trusted_keys``).

    Raises:
        BundleError: no bundle passes.
    """
    rule = _rule(config, anew=anew)
    if config.bundle != INSTALLED:
        path = builtin() if config.bundle == BUILTIN else Path(config.bundle)
        return _chosen(rule.verify(path), load)
    installed, state = slots(config), _slots_state(config)
    if state.current is None:
        raise BundleError("slots.json", "no bundle is installed: run idiolect bundle install DIR")
    try:
        return _chosen(rule.verify(installed.directory(state.current), state.minimum), load)
    except BundleError as error:
        log.error("the current bundle: %s", error)
        if state.previous is None:
            raise
        # It may be older than the minimum: without keys it can give nothing away, and a speaker that hears beats one
        # that is dead.
        return _chosen(rule.verify(installed.directory(state.previous)), load, f"the current bundle: {error}")


def choose_again(config: Config, digest: str, load: Callable[[Verified], T], why: str) -> Chosen[T]:
    """Return the bundle that worked last, which ``config`` names by now: checked by the same rules, and without keys.

    Args:
        digest: sha256 (hex) of its manifest; of installed bundles, the one with this digest is taken.
        why: says what is wrong with the bundle in whose place it is.

    Raises:
        BundleError: it does not pass, or is not installed any more.
    """
    rule = _rule(config)
    if config.bundle != INSTALLED:
        path = builtin() if config.bundle == BUILTIN else Path(config.bundle)
        return _chosen(rule.verify(path), load, why)
    installed, state = slots(config), _slots_state(config)
    for name, minimum in ((state.current, state.minimum), (state.previous, 0)):
        if name is not None and digest.startswith(name):
            return _chosen(rule.verify(installed.directory(name), minimum), load, why)
    raise BundleError("slots.json", "the bundle that worked last is not installed any more")


def obstacles(config: Config) -> tuple[Problem, ...]:
    """Return what about the bundle would keep a start from this configuration, each with its line; change nothing.

    It is checked that the bundle is there, trusted and whole, and that it has the names which the configuration uses.
    Its arrays are not built, so contents that make no sense are found by the start alone.
    """
    try:
        phrases = choose(config, offered, anew=True).content
    except BundleError as error:
        field = "trust.keys_dir" if isinstance(error, KeyFileError) else "bundle"
        place = config.places.get(field) or config.places.get("keystore", NOT_SET)  # `tpm` demands a signed one
        return (Problem(place.source, place.line, field, str(error), section_of(field)),)
    names = {kind: [phrase.name for phrase in phrases if phrase.kind == kind] for kind in ("wake", "phrase")}
    return check_phrases(config, names["wake"], names["phrase"])


def _slots_state(config: Config) -> State:
    try:
        return slots(config).state()
    except OSError as error:
        message = f"{config.state_dir}/{FOLDER} cannot be read ({error.strerror}): see its owner and mode"
        raise BundleError("slots.json", message) from None


def chosen_model(config: Config) -> Model:
    """Return what ``choose`` chooses without reading its contents, for the command line, which has no numpy."""
    return choose(config, _contents_unread).model


def read_verified(
    directory: Path, keys: TrustedKeys | None, *, minimum: int = 0, allow_unsigned: bool = False
) -> Verified:
    """Return the bundle in a directory, checked (``bundle.verify`` numbers the checks).

    Raises:
        BundleError: names the file that failed.
    """
    try:
        source = Directory(directory)
    except OSError as error:
        message = f"{directory} cannot be read ({error.strerror}): check the path, or install the bundle again"
        raise BundleError("manifest.json", message) from None
    with source:
        return verify(source, keys, minimum=minimum, allow_unsigned=allow_unsigned)


def _contents_unread(_: Verified) -> None:
    """Stand in for ``load`` where nobody needs the contents; the numbered checks are made all the same."""


@dataclass(frozen=True)
class _Rule:
    """The rules by which a bundle is checked here: the trusted keys, and if it may be unsigned."""

    keys: TrustedKeys | None
    allow_unsigned: bool

    def verify(self, path: Path, minimum: int = 0) -> Verified:
        return read_verified(path, self.keys, minimum=minimum, allow_unsigned=self.allow_unsigned)


def _chosen(verified: Verified, load: Callable[[Verified], T], fallback: str = "") -> Chosen[T]:
    model = Model(
        name=verified.manifest.name,
        version=verified.manifest.version,
        digest=verified.digest,
        approvals=verified.approvals,
        signed=bool(verified.signer),
        fallback=fallback,
    )
    return Chosen(load(verified), model)


@dataclass(frozen=True, slots=True)
class Model:
    """Describes the bundle that runs for the keystore. ``fallback`` says why the current one does not run."""

    name: str
    version: int
    digest: str
    approvals: tuple[Approval, ...] = ()
    signed: bool = False
    fallback: str = ""
