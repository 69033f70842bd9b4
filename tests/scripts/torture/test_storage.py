"""A disk that fails, in short: a sample of what ``scripts/torture/storage.py`` does in full, and that it would find it.

And what was found by it: what a start makes of a device that was half made, and of a disk that was away for a while.
"""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from idiolect.errors import VaultError
from idiolect.people.adapters import Adapters
from idiolect.trust.device import keys as custodies
from idiolect.trust.device.identity import RECORD, Device
from idiolect.trust.device.provisioning import KEYFILE, VAULT
from tests.support import bundles
from tests.support.devices import TestDevice, contents, forget, recall, remember
from tests.support.homes import Home, story
from torture.disk import shim

PROGRAM = Path(__file__).parents[3] / "scripts/torture/storage.py"


def tortured(tmp_path, *options):
    if why := shim.missing():
        pytest.skip(why)
    out = tmp_path / "summary.json"
    command = [sys.executable, str(PROGRAM), "--seed", "5", "--json", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    return done.returncode, json.loads(out.read_text())


def test_a_sample_of_faults_and_power_cuts(tmp_path):
    names = "create,correct,mark good,pause,install,factory reset"
    code, told = tortured(tmp_path, "--only", names, "--every", "16", "--several", "1")
    assert (code, told["found"]) == (0, [])
    assert set(told["by_fault"]) == {fault.name for fault in shim.FAULTS} | {"power cut"}
    assert told["points"] > 80
    assert any(reason.startswith("full") for reason in told["refused"])


def test_a_product_that_is_broken_is_found(tmp_path):
    code, told = tortured(tmp_path, "--controls")
    assert (code, told["found"]) == (0, [])
    assert all(told["controls"].values())


# -- starts -----------------------------------------------------------------------------------------------------------


def test_a_first_start_that_was_cut_short_begins_anew_by_itself(tmp_path):
    device = TestDevice(tmp_path, None)
    device.state.mkdir()
    (device.state / RECORD).write_bytes(Device("ab" * 16).encode())
    (device.state / KEYFILE).write_bytes(b"{")
    assert device.view(bundles.signed()).released


def test_a_disk_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    device = TestDevice(tmp_path, None)
    with device.boot(bundles.signed()) as opened:
        remember(opened.vault, "01")
    with closing(device.custody(bundles.signed())) as custody, monkeypatch.context() as patch:

        def broken(*_, **__):
            raise VaultError("the disk does not read or write the vault", "see the kernel's log", "failed")

        patch.setattr(custodies.Vault, "open", broken)
        assert (custody.open().state, custody.view.passing) == ("failed", True)
        patch.undo()
        assert custody.tend().released
        assert set(recall(custody.vault)) == {"01"}


@story
async def test_what_was_learnt_is_taken_up_again_when_the_disk_is_well(tmp_path, monkeypatch):
    real, left = Adapters._open, [2]

    def opening(personal, *known):
        if left[0]:
            left[0] -= 1
            raise VaultError("the disk is full", "free some space", "full")
        return real(personal, *known)

    monkeypatch.setattr(Adapters, "_open", opening)
    home = Home(tmp_path)
    monkeypatch.setattr(Home, "learner", property(lambda self: self.personal._learner or self.keys))
    async with home:
        assert not home.personal.open
        await home.windows.look()
        assert not home.personal.open
        await home.windows.look()
        assert home.personal.open


# -- from the future --------------------------------------------------------------------------------------------------


def furnished(tmp_path, **more):
    device = TestDevice(tmp_path, None)
    with closing(device.custody(bundles.signed(), **more)) as custody:
        custody.open()
        remember(custody.vault, "01")
        remember(custody.vault, "02")
    return device


@pytest.mark.parametrize(
    ("file", "change", "state", "telling"),
    [
        (VAULT, lambda raw: raw[:60] + (2).to_bytes(4, "big") + raw[64:], "newer", "a newer version (schema 2)"),
        (RECORD, lambda raw: raw.replace(b'"schema":1', b'"schema":2'), "damaged", "device.json"),
        (KEYFILE, lambda raw: raw.replace(b"/v1", b"/v3"), "damaged", "keystore.json"),
        (KEYFILE, lambda raw: raw.replace(b'"generation": 2', b'"generation": 3'), "older", "an old copy was put back"),
        (KEYFILE, lambda raw: raw.replace(b'"generation": 2', b'"generation": 1'), "foreign", "an old keystore"),
        (KEYFILE, lambda raw: raw.replace(b'"minimum_version": 0', b'"minimum_version": 7'), "refused", "7"),
    ],
)
def test_what_a_later_version_or_a_later_time_wrote_is_refused_and_kept(tmp_path, file, change, state, telling):
    device = furnished(tmp_path)
    good = (device.state / file).read_bytes()
    assert change(good) != good
    (device.state / file).write_bytes(change(good))
    device.refused(bundles.signed(), state, telling)
    (device.state / file).write_bytes(good)
    assert set(device.opens(bundles.signed())) == {"01", "02"}


def test_a_vault_that_was_written_in_the_year_2100_opens_today(tmp_path):
    device = furnished(tmp_path, clock=lambda: 4_102_444_800.0)
    with device.boot(bundles.signed()) as custody:
        before = custody.vault.counts().generation
        forget(custody.vault, "01")
        assert custody.vault.counts().generation == before + 1
        times = [entry.time for entry in custody.vault.audit_entries(20)]
        assert max(times) > times[-1]  # the log is in the order in which things were done, whatever the clock said
        custody.audit_verify()
    assert set(device.opens(bundles.signed())) == {"02"}


# -- a real file system -----------------------------------------------------------------------------------------------


@pytest.fixture
def failing_disk(tmp_path):
    """An ext4 of its own, and what makes the kernel give it up as after a write error: read-only from then on."""
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    image.write_bytes(bytes(1))
    os.truncate(image, 8 << 20)

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        made = run("mkfs.ext4", "-q", "-F", str(image))
    except FileNotFoundError:
        pytest.skip("needs mkfs.ext4")
    made = made if made.returncode else run("mount", "-o", "loop,errors=remount-ro", str(image), str(mount))
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")

    def again():
        run("umount", "-l", str(mount))
        assert run("mount", "-o", "loop,errors=remount-ro", str(image), str(mount)).returncode == 0

    try:
        yield mount, lambda: run("mount", "-o", "remount,abort", str(mount)), again
    finally:
        run("umount", "-l", str(mount))


def test_a_file_system_that_the_kernel_gives_up_under_an_open_vault(failing_disk):
    disk, give_up, again = failing_disk
    device = furnished(disk)
    custody = device.custody(bundles.signed())
    custody.open()
    give_up()
    with pytest.raises(VaultError) as refusal:
        remember(custody.vault, "03")
    assert refusal.value.state in ("readonly", "failed")
    assert set(recall(custody.vault)) == {"01", "02"}
    custody.close()
    before = contents(device.state)
    custody.open()
    assert not custody.view.released
    assert custody.view.passing
    assert contents(device.state) == before
    again()
    assert custody.tend().released
    remember(custody.vault, "03")
    custody.close()
    assert set(device.opens(bundles.signed())) == {"01", "02", "03"}
