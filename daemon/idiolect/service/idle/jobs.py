"""Finds what there is to do when nobody needs the device, in order of need, and does one piece of it.

| job | due when | what is done |
| --- | --- | --- |
| expire | what is kept is past a day that two looks at the clock agreed on | deleted, what came of it retired |
| rebuild | examples changed, another bundle runs, the usage prior is a week old | a round: train, gate, rollout |
| selftest | a week after the last, for every adapter in use | tested by slices; what is worse is taken back |
| checkpoint | a week after the last | the log walked, quoted by the TPM where there is one, noted |

Jobs are small enough to stop between any two. What is due is found out from the vault alone, so that an interrupted job
is simply due again, and a device that was off for a year does what has gathered. Rollout steps and drift are not here:
they are counted with what people say (``feedback``). Everything runs on the thread that owns the vault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idiolect.learning import rollout

if TYPE_CHECKING:
    from idiolect.people.learner import Learner

SELFTEST_DAYS = 7
CHECKPOINT_DAYS = 7
UNCONDITIONAL = ("expire",)
"""Kinds that wait for nothing: nobody agreed to have it kept until the device is idle."""
WITHOUT_LEARNING = ("expire", "checkpoint")
"""Kinds that are done while learning is paused."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work; ``profile`` is "" where it is nobody's."""

    kind: str
    profile: str = ""


def due(learner: Learner, expired: int | None, checkpoint: int | None, *, asked: bool = False) -> list[Job]:
    """Return the jobs that are due, in order.

    Args:
        expired: the day before which things have expired, None while none is certain.
        checkpoint: the day of the last checkpoint, None for none.
        asked: somebody asked to learn now.
    """
    return list(_due(learner, expired, checkpoint, asked))


def _due(learner: Learner, expired: int | None, checkpoint: int | None, asked: bool) -> Iterator[Job]:
    if expired is not None and (
        learner.vault.expired(expired) or learner.unheard(expired) or (learner.dated() and learner.undated())
    ):
        yield Job("expire")
    profiles = learner.vault.profiles()
    yield from (Job("rebuild", profile) for profile in profiles if learner.due(profile, asked=asked))
    for profile in profiles:
        used = rollout.in_use(learner.versions(profile))
        if used is not None:
            last, made = learner.selftest(profile), learner.made_on(profile, used.number)
            if made is not None and _over(learner.day, int(last["day"]) if last else made, SELFTEST_DAYS):
                yield Job("selftest", profile)
    if checkpoint is None or _over(learner.day, checkpoint, CHECKPOINT_DAYS):
        yield Job("checkpoint")


def _over(today: int, last: int, days: int) -> bool:
    """Return whether so many days have passed; a last time that lies in the future was a wrong clock's."""
    return not 0 <= today - last < days


def run(learner: Learner, job: Job, expired: int | None, checkpoint: Callable[[], object]) -> bool:
    """Do one job; return whether what is in use may have changed by it.

    Raises:
        Preempted: it gave way to somebody who needs the device, with nothing done.
    """
    if job.kind == "expire" and expired is not None:
        learner.expire(expired)
    elif job.kind == "rebuild":
        rebuilt = learner.rebuild(job.profile, patient=True)
        return learner.round(job.profile, patient=True).number > 0 or rebuilt
    elif job.kind == "selftest":
        return learner.test(job.profile, patient=True)
    elif job.kind == "checkpoint":
        checkpoint()
        return False
    return job.kind == "expire"
