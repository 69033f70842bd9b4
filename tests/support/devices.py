"""A device for tests: a TPM in software, a state directory, a configuration, and bundles to boot."""

from __future__ import annotations

import shutil
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from idiolect.config.schema import Config, Trust
from idiolect.trust.bundle.choose import Model
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.bundle.verify import Verified
from idiolect.trust.device.keys import DeviceKeys, View
from idiolect.trust.device.policy_key import PolicyKeyReplacement
from idiolect.trust.device.provisioning import Provisioning, read_record
from idiolect.trust.vault.vault import Vault
from tests.support import bundles
from tests.support.swtpm import Swtpm, missing

PROFILE, PURPOSE, KIND = "ab" * 16, "enrol", "example"
"""Whose records the helpers write."""


def model_of(verified: Verified, fallback: str = "") -> Model:
    """What the keystore is told of a bundle."""
    manifest = verified.manifest
    return Model(manifest.name, manifest.version, verified.digest, verified.approvals, bool(verified.signer), fallback)


def policy_pem(name: str = "policy") -> bytes:
    """The public half of a policy key of ``tests.support.bundles``."""
    return public_pem(bundles.key(name).public_key())


class TestDevice:
    """One board: ``boot`` opens custody as a start of the daemon does."""

    __test__ = False

    def __init__(self, folder: Path, tpm: Swtpm | None) -> None:
        self.tpm = tpm
        self.state = folder / "state"
        trust = Trust(keys_dir=folder / "keys.d", tcti=tpm.tcti if tpm else "device:/nonexistent")
        self.config: Config = replace(Config(), state_dir=self.state, keystore="tpm" if tpm else "file", trust=trust)

    def provision(self, policy: str = "policy", **auths: bytes) -> Provisioning:
        """All steps of it."""
        job = Provisioning(self.config, policy_key=policy_pem(policy) if self.tpm else b"", **auths)
        for step in job.steps():
            step.run()
        return job

    def custody(self, verified: Verified, fallback: str = "", **more: object) -> DeviceKeys:
        """Custody for a bundle, not yet opened."""
        return DeviceKeys(self.config, model_of(verified, fallback), **more)

    @contextmanager
    def boot(self, verified: Verified, fallback: str = ""):
        """Opened custody; closed at the end."""
        with closing(self.custody(verified, fallback)) as custody:
            custody.open()
            yield custody

    def view(self, verified: Verified, fallback: str = ""):
        """What a start with that bundle leads to."""
        with self.boot(verified, fallback) as custody:
            return custody.view

    def image(self, folder: Path) -> Path:
        """A copy of the disk."""
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(self.state, folder)

    def restore(self, image: Path) -> None:
        """Put a copy back."""
        shutil.rmtree(self.state)
        shutil.copytree(image, self.state)

    def replace_policy_key(self, verified: Verified, name: str = "next") -> None:
        """All steps of a replacement; ``verified`` must carry approvals by both keys."""
        device = read_record(self.state)
        assert device
        for step in PolicyKeyReplacement(self.config, device, model_of(verified), policy_pem(name)).steps():
            step.run()

    def refused(self, verified: Verified, state: str, telling: str) -> View:
        """A start that must get no keys: the state, words of the sentence, a next step, and not a byte written."""
        before = contents(self.state)
        view = self.view(verified)
        assert (view.state, view.released, view.protected) == (state, False, False), view
        assert telling in view.detail, view
        assert view.fix
        assert contents(self.state) == before
        return view

    def opens(self, verified: Verified) -> dict[str, bytes]:
        """A start that must get the keys; checks the audit log, and returns the records by id."""
        with self.boot(verified) as custody:
            assert custody.view.released, custody.view
            assert custody.audit_verify()["count"]
            return recall(custody.vault)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below ``folder``: mode and bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes()) for path in files}


def remember(vault: Vault, ident: str, payload: bytes = b"a voice", *, rotate: bool = False) -> None:
    """Put a record, with its key where there is none yet."""
    if PURPOSE not in vault.purposes(PROFILE):
        with vault.change("key-added", profile=PROFILE, purpose=PURPOSE) as change:
            change.add_key(PROFILE, PURPOSE, "")
    with vault.change("put", rotate, profile=PROFILE, purpose=PURPOSE, count=1) as change:
        change.put(PROFILE, PURPOSE, KIND, ident, payload)


def forget(vault: Vault, ident: str) -> None:
    """Delete a record, seal the rest under a fresh key, rotate."""
    with vault.change("forgot", True, profile=PROFILE, purpose=PURPOSE, count=1) as change:
        change.delete(PROFILE, PURPOSE, KIND, ident)
        change.rekey(PROFILE, PURPOSE)


def withdraw(vault: Vault) -> None:
    """Withdraw the purpose with all its records, rotate."""
    with vault.change("key-withdrawn", True, profile=PROFILE, purpose=PURPOSE) as change:
        change.note(count=change.withdraw(PROFILE, PURPOSE))


def erase(vault: Vault) -> None:
    """Erase the profile, rotate."""
    with vault.change("erased", True, profile=PROFILE) as change:
        change.note(count=change.erase(PROFILE))


def recall(vault: Vault) -> dict[str, bytes]:
    """The records by id."""
    return {record.id: record.payload for record in vault.items(PROFILE, PURPOSE, KIND)}


needs_tpm = pytest.mark.skipif(bool(missing()), reason=missing())
