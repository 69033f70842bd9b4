"""Keeps the configuration in force: how it came about, what a reload changes, and what is kept for the next start.

| state | means |
| --- | --- |
| in-force | what the files say |
| refused | the last reload was refused, and what was in force before still is |
| fallback | a start could not use all of the files: some sections are those that worked last (``starting``) |

What is wrong is shown by `status`, the status line, the journal and `doctor` until it is mended. Belongs to the main
loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from idiolect.config.schema import Audio, Config, check_phrases, load, replaced
from idiolect.errors import ConfigError, Problem, reason
from idiolect.listening import recognizer
from idiolect.service.starting import Start
from idiolect.trust.bundle import choose, last_good
from idiolect.trust.bundle.last_good import LastGood

log = logging.getLogger(__name__)

_AT_START = (
    "bundle", "control", "wyoming", "metrics", "page", "handoff", "keystore", "people", "trust", "idle.machine",
    "state_dir", "listening.gate",
)  # fmt: skip
"""Keys that only a start takes over. Of `people` only whose Unix users they are."""


class Settings:
    """The configuration in force, and what is wrong with the files."""

    def __init__(self, start: Start, files: Callable[[], Sequence[Path]]) -> None:
        """Begin with what the start came to. ``files`` lists what a reload reads."""
        self.config = start.config
        self._started, self._ears, self._files = start.config, start.ears, files
        self._fallen = dict(start.fallen)
        self._refused: tuple[Problem, ...] = ()
        self._state_dir = Path(start.config.state_dir)
        self._kept = last_good.read(self._state_dir)
        for section, why in start.fallen.items():
            log.error("%s fell back to what worked last: %s", section, why)

    # -- reload -------------------------------------------------------------------------------------------------

    def reload(self) -> tuple[str, ...]:
        """Read the files again and take over what can be; return the names of what waits for the next start.

        What the next start could not use either is refused now, so that nobody learns of it only then.

        Raises:
            ConfigError: the files are refused; the configuration in force stays as it is.
        """
        try:
            config = load(self._files())
            if found := choose.obstacles(config):
                raise ConfigError(found)
        except ConfigError as error:
            for problem in error.problems:
                log.error("reload: %s", problem)
            log.error("reload refused: the configuration in force stays as it is")
            self._refused = error.problems
            raise
        waits = [name for name in _AT_START if _value(config, name) != _value(self._started, name)]
        bundle = self._ears.bundle
        if check_phrases(config, bundle.wake_words, bundle.commands):  # names of the bundle that the next start runs
            config = replaced(config, self.config, ("listening",))
            waits.append("listening")
        self.config, self._refused = config, ()
        # Only a start takes a bundle over; the files name one that it could use, or this would have been refused.
        self._fallen = dict.fromkeys(
            {"bundle"} & self._fallen.keys(), "it is mended, and takes effect at the next start"
        )
        waits += [name for name in self._fallen if name not in waits]
        log.info("reloaded%s", f"; takes effect at the next start: {', '.join(waits)}" if waits else "")
        return tuple(waits)

    # -- what is kept -------------------------------------------------------------------------------------------

    def works(self, heard: Audio | None) -> None:
        """Keep what is in force for a start that cannot use the files.

        ``heard``: the audio section with which sound came in, None where none has.
        """
        before = self._kept
        if self._fallen:
            return
        good = replaced(self.config, self._started, ("bundle",))
        hears = heard is not None and heard == good.audio
        if not hears and before is not None and before.heard:
            good, hears = replaced(good, before.config, ("audio",)), True
        now = LastGood(good, self._ears.model.digest, hears)
        if before is not None and before.same(now):
            return
        self._kept = now
        try:
            last_good.write(self._state_dir, now)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else error
            log.warning("%s cannot be written (%s): a start has nothing to fall back to", last_good.FILE, what)

    # -- what others ask ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """Return how the configuration is, for programs."""
        state = "refused" if self._refused else "fallback" if self._fallen else "in-force"
        return {"state": state, "fallen_back": sorted(self._fallen), "text": self.trouble()}

    def trouble(self) -> str:
        """Return the sentence that says what is wrong with the configuration, "" when nothing is."""
        told = []
        if self._refused:
            told.append(f"configuration refused, the old one holds: {reason(ConfigError(self._refused))}")
        reasons: dict[str, list[str]] = {}
        for section, why in self._fallen.items():
            reasons.setdefault(why, []).append(section)
        told += [f"{' and '.join(names)} fell back to what worked last: {why}" for why, names in reasons.items()]
        return "; ".join(told)


def _value(config: Config, name: str) -> object:
    """Return the value that a dotted name stands for; for "people" only their Unix users."""
    if name == "people":
        return recognizer.users(config)
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def as_problems(problems: Sequence[Problem]) -> list[Mapping[str, object]]:
    """Return problems as the API carries them."""
    return [{"file": p.source, "line": p.line, "field": p.field, "message": p.message} for p in problems]
