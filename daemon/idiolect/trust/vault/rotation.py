"""Rotations replace the key over all keys: here are the keys of one in course, and the credit that limits them.

A rotation from M (number g) to M' (g + 1):

1. one SQLite transaction holds the event itself, its audit entry, and every wrap for g + 1 beside that for g;
2. M' goes to slot NEXT of the keystore;
3. M' goes to slot CURRENT;
4. a transaction deletes the wraps for g; the WAL is cut.

Whatever is interrupted where, one slot opens the wraps in the file. If one opens those for g + 1, 3 and 4 are done
again at the next opening; else M' is lost, its wraps are dropped, and the rotation begins anew with another M'. Where
a slot is found torn, a rotation mends it, and writes that one first: the last whole copy is never written over.

A security event during a rotation in course is not covered by it (a copy of the disk from in between has its keys
wrapped for M' too): it owes another one.

**How often.** An NV slot of a TPM wears out. A rotation writes two, and costs 4 hours of credit; credit grows with time
up to 24 hours. So no 24 hours see more than 6 + 6 rotations, that is 24 writes. Credit grows with the monotonic clock
while the vault is open, and across a restart with the wall clock where it is beyond the latest time seen: setting it
back gives nothing, setting it forward a full credit at most, and each stretch of time counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from idiolect.trust.vault.keystore import CURRENT, NEXT, Keystore, Slot
from idiolect.trust.vault.roots import State, kek
from idiolect.trust.vault.secret import Secret

COST = 4 * 3600
"""Seconds of credit for one rotation."""
FULL_CREDIT = 6 * COST


class Meter:
    """Keeps the credit for rotations. ``clock`` is wall time in seconds, ``monotonic`` never goes back."""

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._since = self._reckoned = monotonic()

    def resume(self, state: State) -> State:
        """Return the state with credit for the time that the vault was closed."""
        self._since = self._monotonic()
        return replace(state, credit=min(FULL_CREDIT, state.credit + max(0, self.wall() - state.high)))

    def wall(self) -> int:
        """Return the time in whole seconds since the epoch."""
        return max(0, int(self._clock()))

    def _earned(self) -> int:
        return max(0, int(self._monotonic() - self._since))

    def due(self, state: State) -> bool:
        """Return True if the credit is enough for a rotation now."""
        return min(FULL_CREDIT, state.credit + self._earned()) >= COST

    def reckon(self, state: State) -> State:
        """Return the state with what was earned until now; call ``settle`` once it is committed."""
        earned = self._earned()
        self._reckoned = self._since + earned
        credit = min(FULL_CREDIT, state.credit + earned)
        return replace(state, credit=credit, high=max(state.high, self.wall()))

    def settle(self) -> None:
        """Count from here on: what was reckoned is on the disk."""
        self._since = self._reckoned


class Ring:
    """S, and the keys that wrap at this moment: of one rotation at rest, of two while one is in course."""

    def __init__(self, root: Secret, keks: dict[int, Secret], keystore: Keystore, holding: set[int]) -> None:
        """Take over the secrets; ``holding`` are the slots that hold the M in force."""
        self.root = root
        self._holding = set(holding)
        self.keks = keks
        self._keystore = keystore
        self._fresh: Slot | None = None
        self._written: set[int] = set()

    def begin(self, generation: int) -> None:
        """Make M' and its key. ``abandon`` undoes it."""
        self._fresh = Slot(generation, Secret.random())
        self._written = set()
        self.keks[generation] = kek(self.root, self._fresh.secret, generation)

    def resume(self, slot: Slot, written: set[int]) -> None:
        """Go on with the M' that a slot already held when the vault was opened."""
        self._fresh = Slot(slot.generation, Secret(slot.secret.view))
        self._written = set(written)

    def abandon(self, generation: int) -> None:
        """Forget an M' whose wraps did not get into the file."""
        self._forget_fresh()
        if generation in self.keks:
            self.keks.pop(generation).wipe()

    def write(self) -> None:
        """Make steps 2 and 3, without the slots that hold M' already. ``KeystoreError`` leaves the rest for later.

        A slot that was found torn comes before the one that alone holds M: a torn write must never hit the last copy.
        """
        if self._fresh is None:
            raise RuntimeError("no rotation is in course")
        for index in sorted((NEXT, CURRENT), key=lambda index: index in self._holding):
            if index not in self._written:
                self._keystore.write_slot(index, self._fresh)
                self._written.add(index)

    def finish(self, generation: int) -> None:
        """Keep only the new key, after step 4."""
        self._forget_fresh()
        self._holding = {NEXT, CURRENT}
        for old in [g for g in self.keks if g != generation]:
            self.keks.pop(old).wipe()

    def _forget_fresh(self) -> None:
        if self._fresh:
            self._fresh.secret.wipe()
        self._fresh = None

    def wipe(self) -> None:
        """Overwrite S, every key that wraps, and an M' that is not in force yet."""
        self._forget_fresh()
        self.root.wipe()
        for key in self.keks.values():
            key.wipe()
        self.keks.clear()
