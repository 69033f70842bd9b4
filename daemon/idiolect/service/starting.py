"""Gets from the configuration files to parts that listen, and falls back where the files cannot be used.

| what is wrong | what happens |
| --- | --- |
| a mistake that lies in `audio`, `listening` or `bundle` for certain | that section falls back to what worked last |
| a name in `listening` that the bundle does not have | `listening` falls back; where that does not help, the bundle |
| a bundle that is missing, not trusted, damaged or of no use | the choice of `bundle` falls back, without keys |
| anything else: YAML, an unknown key, a file, any other section, a key in `trust.keys_dir` | no start |
| nothing is kept, or that does not start either | no start |

The fallback is what worked on this device (``last_good``), never a default, which nobody chose. A bundle in whose place
another one serves must pass the same checks with the same keys, and the one that serves gets no keys of the vault.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from idiolect.config.schema import MAY_FALL_BACK, Config, replaced
from idiolect.errors import BundleError, ConfigError, IdiolectError, reason
from idiolect.learning.maps import Succession
from idiolect.listening.audio import quiet
from idiolect.listening.pipeline.chain import Chain
from idiolect.listening.pipeline.decoder import Listening
from idiolect.listening.recognizer import Recognizer, listening_for
from idiolect.people.models import succession_of
from idiolect.trust.bundle import bundle, choose, last_good
from idiolect.trust.bundle.bundle import Bundle
from idiolect.trust.bundle.choose import Chosen, Model
from idiolect.trust.bundle.last_good import LastGood

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ears:
    """The parts that listen: a bundle, the head and encoder made of it, and the wishes of the configuration."""

    bundle: Bundle
    model: Model
    recognizer: Recognizer
    wish: Listening
    chain: Chain
    succession: Succession


@dataclass(frozen=True)
class Start:
    """A start's outcome: ``config`` in force; ``fallen`` says for each section that fell back what is wrong with it."""

    config: Config
    ears: Ears
    fallen: Mapping[str, str] = field(default_factory=dict)


def begin(load: Callable[[Collection[str]], Config]) -> Start:
    """Start from the configuration, or from what worked last of it.

    Args:
        load: reads the configuration without the sections that it is given.

    Raises:
        ConfigError, BundleError: what is wrong with the new one, where nothing may or can fall back.
    """
    refused: IdiolectError | None = None
    wrong: dict[str, IdiolectError] = {}
    try:
        config = load(())
    except ConfigError as error:
        refused, wrong = error, _sections(error)
        config = load(wrong)
    kept = last_good.read(Path(config.state_dir))
    for sections in _trials(tuple(wrong), config, kept):
        if "bundle" in wrong and "bundle" not in sections:
            continue  # it would fail for the same reason
        try:
            return _start(config, kept, sections, {name: reason(wrong.get(name, refused)) for name in sections})
        except (ConfigError, BundleError) as error:
            if sections:
                log.error("what worked last cannot be used either: %s", error)
            refused = refused or error
            wrong.setdefault("bundle" if isinstance(error, BundleError) else "listening", error)
    if refused is None:
        raise RuntimeError("a start is tried at least once")
    raise refused


def ears(config: Config, chosen: Chosen[Bundle]) -> Ears:
    """Make everything that listens.

    Raises:
        BundleError: the bundle is of no use.
        ConfigError: the configuration names phrases that the bundle does not have.
    """
    content = chosen.content
    recognizer = Recognizer.from_bundle(content)
    wish = listening_for(config, content)
    with quiet.without():
        chain = recognizer.chain(wish, gated=config.listening.gate)
    return Ears(content, chosen.model, recognizer, wish, chain, succession_of(content))


def _sections(error: ConfigError) -> dict[str, IdiolectError]:
    """Return the sections that hold all mistakes, each with its own; raise the error where one may not fall back."""
    if any(problem.section not in MAY_FALL_BACK for problem in error.problems):
        raise error
    found = {name: tuple(each for each in error.problems if each.section == name) for name in MAY_FALL_BACK}
    return {name: ConfigError(problems) for name, problems in found.items() if problems}


def _trials(broken: Sequence[str], config: Config, kept: LastGood | None) -> Iterator[tuple[str, ...]]:
    """Yield which sections to take from what is kept, in the order to be tried; ``broken`` ones in any case."""
    if not broken:
        yield ()
    if kept is None or ("audio" in broken and not kept.heard):
        return
    another = kept.config.bundle != config.bundle or config.bundle == choose.INSTALLED
    for more in ((), ("listening",), ("bundle",), ("listening", "bundle")):
        if (broken or more) and not set(broken) & set(more) and (another or "bundle" not in more):
            yield (*broken, *more)


def _start(config: Config, kept: LastGood | None, sections: Collection[str], fallen: Mapping[str, str]) -> Start:
    if kept is None or not sections:
        return Start(config, ears(config, choose.choose(config, bundle.load)))
    config = replaced(config, kept.config, sections)
    if "bundle" in sections:
        chosen = choose.choose_again(config, kept.digest, bundle.load, fallen["bundle"])
    else:
        chosen = choose.choose(config, bundle.load)
    return Start(config, ears(config, chosen), fallen)
