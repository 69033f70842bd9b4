"""Turns utterances that were heard into usage counts, steps of versions on trial, and the health of the one in use.

Goes in: counts and utterances that the event loop has gathered. Comes out: whether another version is in use now. Runs
on the thread that owns the vault, seldom and for many utterances together: one transaction for each person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idiolect.errors import LearningError, RequestError, TrustError
from idiolect.learning import adapter_file, gate, rollout
from idiolect.learning.health import Health
from idiolect.learning.rollout import Signal, State
from idiolect.listening.pipeline.space import offset_windows
from idiolect.people.versions import settle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idiolect.learning.model import Heard
    from idiolect.listening.pipeline.adapter import Adapter
    from idiolect.people.learner import Learner


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance of somebody: ``understood`` is "" where it was rejected, ``meant`` a correction."""

    profile: str
    understood: str
    span: NDArray[np.float32]
    meant: str | None = None


def observe(learner: Learner, counts: Mapping[str, dict[str, int]], said: Sequence[Said]) -> bool:
    """Count utterances and let versions take the steps they earned; return whether anybody's version in use changed.

    Args:
        counts: by profile and phrase, how often it was said.
        said: the utterances; profiles that are not known any more are passed over.
    """
    changed = False
    known = set(learner.vault.profiles())
    for profile in sorted({*counts, *(s.profile for s in said)} & known):
        mine = [s for s in said if s.profile == profile]
        changed |= _observe(learner, profile, mine, counts.get(profile, {}))
    return changed


def _observe(learner: Learner, profile: str, said: Sequence[Said], usage: dict[str, int]) -> bool:
    if not usage and not said:
        return False
    versions, stepped = learner.versions(profile), []
    health = learner.health(profile)
    if said and versions:
        heard = learner.model.hear(offset_windows(np.stack([s.span for s in said])))
        base = gate.understood(learner.model, None, heard)
        answers = {v.number: _answers(learner, profile, v, heard) for v in versions if _watched(v)}
        for i, each in enumerate(said):
            # Each utterance counts for the versions as the one before it has left them.
            used = rollout.in_use(versions)
            if used is not None and used.number in answers:
                if health is None or health.number != used.number:
                    health = _of(learner, profile, used.number)
                health = _health(learner.day, health, each, answers[used.number][i], base[i])
            for version in [v for v in versions if v.number in answers]:
                after = _stepped(version, each, answers[version.number][i][0], base[i][0])
                if used is not None and version.number == used.number and health is not None and health.worse:
                    after = version.next(Signal.TROUBLE)
                versions = rollout.update(versions, after)
                if after.state is not version.state:
                    stepped.append(after)
    return settle(learner, profile, versions, stepped, health, usage)


def _watched(version: rollout.Version) -> bool:
    return version.in_use or version.state is State.SHADOW


Answer = tuple[str, float]
"""The phrase that is understood, "" for none, and how sure that is."""


def _answers(learner: Learner, profile: str, version: rollout.Version, heard: Heard) -> list[Answer]:
    return gate.understood(learner.model, _adapter(learner, profile, version.number), heard)


def _adapter(learner: Learner, profile: str, number: int) -> Adapter | None:
    try:
        return adapter_file.decode(learner.sealed(profile, number).data)
    except (LearningError, RequestError, TrustError):
        return None


def _health(day: int, before: Health, said: Said, own: Answer, base: Answer) -> Health:
    return before.heard(
        day, understood=said.understood, base=base[0], meant=said.meant, sure=own[1], base_sure=base[1]
    )  # fmt: skip


def _of(learner: Learner, profile: str, number: int) -> Health:
    """Return the figures of a version; they begin anew with each version."""
    kept = learner.health(profile)
    return kept if kept is not None and kept.number == number else Health(number, learner.day)


def _stepped(version: rollout.Version, said: Said, answer: str, base: str) -> rollout.Version:
    """Return a version on trial after an utterance that was understood and not corrected (table in ``rollout``)."""
    if version.state is State.ACTIVE or not said.understood or said.meant is not None:
        return version
    drifted = bool(base) and answer != base and said.understood == base
    return version.heard(agreed=answer == said.understood, drifted=drifted)


def corrected(learner: Learner, said: Said) -> bool:
    """Count that something else was meant than was understood; return whether the version in use was taken back."""
    used = rollout.in_use(learner.versions(said.profile))
    if used is None or said.meant == said.understood:
        return False
    heard = learner.model.hear(offset_windows(said.span)[None])
    base = gate.understood(learner.model, None, heard)[0]
    own = _answers(learner, said.profile, used, heard)[0]
    health = _health(learner.day, _of(learner, said.profile, used.number), said, own, base)
    after = used.corrected()
    if after.state is used.state and health.worse:
        after = used.next(Signal.TROUBLE)
    table = rollout.update(learner.versions(said.profile), after)
    return settle(learner, said.profile, table, [after] if after.state is not used.state else [], health)
