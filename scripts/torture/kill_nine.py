#!/usr/bin/env python3
"""kill -9 at random instants, of the process or of the TPM, and a look at what is left: nothing may be lost.

On one TPM in software and one state directory a child boots a bundle, changes the vault at random (puts, rotations by
withdrawing and forgetting, marking good, now and then another policy key, upgrades within the boot) and is killed
after a random time; or the TPM's power goes. Then it is opened again, and must give

1. the keys, after at most one power cycle (which a new oldest bundle needs where the PCR holds the one before);
2. an audit log that verifies, and no shorter than when an operation last returned;
3. every change that had returned; of the one in course all or nothing; and nothing back that was withdrawn;
4. two slots that hold the generation in force and nothing else, where no rotation is owed.

    scripts/torture/kill_nine.py --points 2000 --json FILE

Exit code 1 on any loss. The same ``--seed`` makes the same choices; when a kill strikes depends on the machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for part in (ROOT, ROOT / "scripts", ROOT / "daemon"):
    sys.path.insert(0, str(part))

from torture import harness  # noqa: E402


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    return harness.arguments(__doc__ or "", seconds=3600.0, points=(2000, "kills"))


if __name__ == "__main__":
    harness.help_first(arguments)

from idiolect.trust.bundle.verify import Verified  # noqa: E402
from idiolect.trust.device import tpm_keystore as scheme  # noqa: E402
from idiolect.trust.device.provisioning import read_record  # noqa: E402
from tests.support import bundles  # noqa: E402
from tests.support.devices import TestDevice, policy_pem, recall  # noqa: E402
from tests.support.swtpm import Swtpm, missing  # noqa: E402
from torture.crashing.lives import Loss  # noqa: E402
from torture.crashing.vault_victim import Story, Victim  # noqa: E402

DAY = 86_400
POLICIES = ("policy", "next")
GIVE_UP_S = 5.0
"""How long a child may go on without a TPM."""
REPLACE_EVERY, POWER_EVERY, SLOTS_EVERY = 12, 3, 5
"""One run in so many replaces the policy key, one kill hits the TPM, one check looks into the slots."""


@dataclass
class Tally:
    """What happened."""

    points: int = 0
    process: int = 0
    power: int = 0
    finished: int = 0
    power_cycles_needed: Counter[str] = field(default_factory=Counter)
    rotations: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)


class Torture:
    """One board and the story of what it must hold."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - choices, not keys
        self._tpm = Swtpm()
        self._device = TestDevice(folder, self._tpm)
        self._story = Story()
        self._policy = 0
        self._now = time.time()
        self._span = 0.2

        self._base: Verified = self._bundle(1)
        self._next: Verified = self._bundle(2, self._base)
        self.tally = Tally()

    def close(self) -> None:
        """Remove the TPM."""
        self._tpm.remove()

    @staticmethod
    def _bundle(version: int, before: Verified | None = None) -> Verified:
        """A bundle approved by both policy keys, for a fresh boot and after a fresh boot of ``before``."""
        fresh = [each for each in before.approvals if each.from_ == bytes(32)] if before else []
        return bundles.sign(bundles.builtin(), version=version, name="test", policy=POLICIES, upgrades=fresh)

    def begin(self) -> None:
        """Provision, and measure how long a run takes."""
        self._device.provision(POLICIES[0])
        lengths = []
        for _ in range(3):
            began = time.monotonic()
            self._end(*self._victim(self._base).fork())
            lengths.append(time.monotonic() - began)
            self._check(self._base)
        self._span = max(lengths)

    def _victim(self, bundle: Verified) -> Victim:
        self._now += DAY
        return Victim(self._device, bundle, self._story, random.Random(self._chance.random()), self._now)  # noqa: S311

    def point(self) -> None:
        """One run, one kill, one check. ``Loss`` where something is missing."""
        upgrade = self._chance.random() < 0.5
        bundle = self._next if upgrade else self._base
        if not upgrade:
            self._tpm.power_cycle()
        replace = self._chance.randrange(REPLACE_EVERY) == 0
        child, reader = self._victim(bundle).fork(replace=POLICIES[1 - self._policy] if replace else "")
        power = self._chance.randrange(POWER_EVERY) == 0
        ended = self._listen(reader, self._chance.uniform(0, self._span))
        if ended:
            self.tally.finished += 1
        elif power:
            self._tpm.power_off()
            self._listen(reader, self._chance.choice((0.0, 0.01, GIVE_UP_S)))
        self._end(child, reader, kill=not ended)
        if not ended:
            self.tally.points += 1
            self.tally.power += power
            self.tally.process += not power
            self.tally.phases[self._story.phase] += 1
        if power and not ended:
            self._tpm.power_on()
        self._check(bundle)

    def _listen(self, reader: int, seconds: float) -> bool:
        """Hear what the child says for so long; whether it has ended."""
        deadline = time.monotonic() + seconds
        while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            said = os.read(reader, 1 << 16)
            if not said:
                return True
            self._hear(said)
        return False

    def _hear(self, said: bytes) -> None:
        for line in said.decode().splitlines():  # lines are short: a pipe takes and gives them whole
            self._story.hear(line)

    def _end(self, child: int, reader: int, *, kill: bool = False) -> None:
        """Kill the child if it is alive, and hear the rest."""
        if kill:
            os.kill(child, signal.SIGKILL)
        while said := os.read(reader, 1 << 16):
            self._hear(said)
        os.close(reader)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise Loss(f"the child ended by itself with {os.WEXITSTATUS(status)} in phase {self._story.phase}")

    def _check(self, bundle: Verified) -> None:
        """The invariants (see the module)."""
        story = self._story
        self._flush_handles()
        if story.minimum > self._base.manifest.version:
            bundle = self._advance()
        custody = self._device.custody(bundle, clock=lambda: self._now)
        with contextlib.closing(custody):
            if not custody.open().released:  # 1
                self.tally.power_cycles_needed[custody.view.state] += 1
                self._tpm.power_cycle()
                if not custody.open().released:
                    raise Loss(f"no keys: {custody.view.state}: {custody.view.detail}")
            vault = custody.vault
            if vault.audit_verify().count < story.said:  # 2
                raise Loss(f"the audit log has {vault.audit_head().count} entries, {story.said} had been written")
            held = recall(vault)
            if held not in story.possible:  # 3
                raise Loss(f"records {sorted(held)}, expected one of {[sorted(each) for each in story.possible]}")
            story.kept, story.either, story.said = held, None, vault.audit_head().count
            generation, owed = vault.counts().generation, vault.owed
        self.tally.rotations = generation
        record = read_record(self._device.state)
        if record is None or not record.complete:
            raise Loss("the device record is gone")
        # The first of two while a replacement is in course: the next one finishes it.
        self._policy = [policy_pem(name) for name in POLICIES].index(record.sealed[0].policy_key)
        if not owed and self._chance.randrange(SLOTS_EVERY) == 0:
            self._check_slots(bundle, generation)

    def _check_slots(self, bundle: Verified, generation: int) -> None:
        """Invariant 4."""
        record = read_record(self._device.state)
        assert record  # noqa: S101 - was there a moment ago
        digest, version = bytes.fromhex(bundle.digest), bundle.manifest.version
        keystore, released, _ = scheme.TpmKeystore.open(self._tpm.tcti, record, digest, bundle.approvals, version)
        found = [slot and slot.generation for slot in released.slots]
        keystore.wipe()
        released.wipe()
        if found != [generation, generation]:
            raise Loss(f"the slots hold generations {found}, the vault is at {generation}")

    def _advance(self) -> Verified:
        """A bundle was, or may have been, marked good: it is the oldest from here on."""
        self._base = self._next
        self._next = self._bundle(self._base.manifest.version + 1, self._base)
        return self._base

    def _flush_handles(self) -> None:
        """What the kernel's resource manager does when a program dies: free what it had loaded."""
        from tpm2_pytss import ESAPI
        from tpm2_pytss.constants import TPM2_CAP

        with ESAPI(self._tpm.tcti) as esys:
            for first in (0x80000000, 0x02000000):
                _, data = esys.get_capability(TPM2_CAP.HANDLES, first, 16)
                listed = data.data.handles
                for handle in list(listed):
                    esys.flush_context(esys.tr_from_tpmpublic(handle))


def run(points: int, over: Callable[[], bool], seed: int, show: Callable[[str], None]) -> dict[str, object]:
    """Torture a board until so many kills have struck, the time is ``over``, or something is lost."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    torture = Torture(folder, seed)
    tally = torture.tally
    try:
        torture.begin()
        while tally.points < points and not over():
            torture.point()
            show(f"{tally.points} of {points} kills, 0 losses")
    except Loss as loss:
        tally.losses.append(f"after {tally.points} kills: {loss}")
    finally:
        torture.close()
        if not tally.losses:
            shutil.rmtree(folder)
    return {
        "points": tally.points,
        "kills": {"process": tally.process, "power": tally.power},
        "finished": tally.finished,
        "phases": dict(tally.phases.most_common()),
        "power_cycles_needed": dict(tally.power_cycles_needed),
        "rotations": tally.rotations,
        "losses": tally.losses,
    }


def main() -> int:
    """See the module."""
    wish = arguments().parse_args()
    if why := missing():
        return harness.lacking("kill_nine", why)
    logging.getLogger("idiolect").setLevel(logging.ERROR)  # refusals are the point here
    told = harness.Run("kill_nine", wish)
    figures = run(wish.points, lambda: told.over, told.seed, told.show)
    return told.finish(figures, [str(loss) for loss in figures["losses"]])  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
