"""Tells what the consent ``voice_match`` still lacks to have an effect, by person.

| state | means |
| --- | --- |
| waiting | too few examples that count are of phrases that the base model knows: only those can be compared |
| learning | there are enough, and the version that is made from them is not in use yet |
| ready | this voice can be told from others, though not always |

Runs on the thread of the vault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from idiolect.errors import LearningError, RequestError
from idiolect.learning import adapter_file, prototypes, rollout, trainer

if TYPE_CHECKING:
    from idiolect.learning.model import Model
    from idiolect.people.learner import Learner

PURPOSE = "voice_match"
NEEDED = prototypes.VOICE_EXAMPLES
WAITING, LEARNING, READY = "waiting", "learning", "ready"
SUCH_AS = 3
"""Phrases that are named where somebody is to say one."""
Lack = Mapping[str, object]


class Voices:
    """Looks up what each voice lacks, and remembers it until that person's records change.

    Everybody is asked about after every change, and a look may compute much.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._found: dict[str, tuple[bytes, Lack]] = {}

    def every(self) -> dict[str, Lack]:
        """Return what each voice lacks, by profile, only of people who agreed.

        It is ``examples`` that count of those ``needed``, and the ``state``.
        """
        profiles = self._learner.vault.profiles()
        self._found = {profile: found for profile, found in self._found.items() if profile in profiles}
        return {profile: lack for profile in profiles if (lack := self.of(profile))}

    def of(self, profile: str) -> Lack:
        """Return what one person's voice lacks; empty without consent."""
        if self._learner.consents.allowed(profile, PURPOSE) is None:
            return {}
        root, (then, known) = self._learner.vault.root(profile), self._found.get(profile, (b"", {}))
        if root != then:
            known = self._look(profile)
            self._found[profile] = root, known
        return known

    def _look(self, profile: str) -> Lack:
        examples, state = NEEDED, READY
        if not _in_use(self._learner, profile):
            examples = min(NEEDED, _counting(self._learner, profile))
            state = WAITING if examples < NEEDED else LEARNING
        return {"examples": examples, "needed": NEEDED, "state": state}


def _in_use(learner: Learner, profile: str) -> bool:
    """Return whether the version in use can tell this person's voice."""
    used = rollout.in_use(learner.versions(profile))
    if used is None:
        return False
    try:
        sealed = learner.sealed(profile, used.number)
        return sealed.provenance.bundle == learner.model.digest and adapter_file.decode(sealed.data).voice is not None
    except (LearningError, RequestError):  # which is told where it is brought into use
        return False


def _counting(learner: Learner, profile: str) -> int:
    """Return how many examples a voice would be made from."""
    known, space, classes = learner.ledger(profile), learner.model.space, learner.model.classes
    if not prototypes.of_base(space, classes, [example.phrase for example in known.examples]):
        return 0  # so that nothing need be computed where somebody has only taught
    material, _ = trainer.prepare(learner.model, known)
    return len(prototypes.of_base(space, classes, material.phrases))


def shown(lack: Lack, model: Model) -> dict[str, object]:
    """Return what a voice lacks as its owner is told it, with phrases to be said on purpose for it (``such_as``)."""
    spoken = [phrase for phrase in model.phrases if phrase not in model.wake_words]
    such = [spoken[i] for i in prototypes.of_base(model.space, model.classes, spoken)][:SUCH_AS]
    return {"voice": {**lack, "such_as": such}} if lack else {}
