"""The quick part of scripts/torture/crash.py, its positive controls, and what it found."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from idiolect.config.schema import Config
from idiolect.people.consent import CONSENT, Consents
from idiolect.trust.bundle.choose import Model
from idiolect.trust.device.keys import DeviceKeys
from idiolect.trust.device.provisioning import KEYFILE, factory_reset
from tests.support import vault_crashes as crashes
from tests.support.swtpm import missing
from tests.support.vaults import House

CRASH = Path(__file__).parents[3] / "scripts" / "torture" / "crash.py"
ASKED = ("enrol", "adapt_corrections", "usage")


def crash(folder, *options):
    report = folder / "report.json"
    command = [sys.executable, str(CRASH), "--json", str(report), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert report.exists(), done.stderr
    return done.returncode, json.loads(report.read_text())


def test_a_sample_of_the_torture_loses_nothing(tmp_path):
    """Some thirty cycles; the whole has thousands."""
    code, found = crash(tmp_path, "--cycles", "34", "--daemons", "1", "--seed", "8", "--seconds", "600")
    assert (code, found["found"]) == (0, []), found["found"]
    assert found["cycles"] == 34
    assert set(found["kinds"]) == {"file", "daemon", *([] if missing() else ["tpm", "vault"])}
    file = found["kinds"]["file"]
    assert sum(file["deaths"].values()) >= file["cycles"]
    assert sum(count for who, count in file["deaths"].items() if who.startswith("daemon")) > 5
    assert sum(file["operations"].values()) > 10
    assert sum(int(hit.partition("/")[0]) for hit in file["steps hit of steps seen"].values()) > 2


def test_each_invariant_broken_on_purpose_is_reported(tmp_path):
    code, found = crash(tmp_path, "--spoil", "--seed", "1")
    assert (code, found["found"]) == (0, []), found["found"]
    assert len(found["reported"]) == 26
    assert all(found["reported"].values())


# -- what it found -------------------------------------------------------------------------------------------------


def test_who_agrees_to_several_purposes_has_agreed_to_all_or_none_after_a_crash(tmp_path):
    base = House(tmp_path / "base")
    base.create().close()

    def agree(house, keys):
        with house.open(keys) as vault:
            consents = Consents(vault, {}, wall=lambda: house.clock.wall)
            consents.begin("Ann", ASKED)
            assert len(consents.heard_yes()) == 3

    seen = set()
    for house in crashes.every_crash(base, tmp_path / "crashes", agree):
        with house.open() as vault:
            people = Consents(vault, {}).people()
            seen.add(tuple(tuple(sorted(vault.purposes(person.profile))) for person in people))
            granted = [e for e in vault.audit_entries(10) if e.kind == "consent-granted"]
            assert len(granted) == 3 * len(people)
    assert seen == {(), (tuple(sorted((CONSENT, *ASKED))),)}


def device(folder):
    config = replace(Config(), state_dir=folder / "state", keystore="file")
    draft = config.state_dir / f".{KEYFILE}.new"
    custody = DeviceKeys(config, Model("x", 1, "d" * 64))
    assert custody.open().released
    custody.close()
    draft.write_bytes((config.state_dir / KEYFILE).read_bytes())  # as a kill between write and rename leaves it
    return config, draft


def test_a_keystore_that_was_half_written_when_the_process_died_is_gone_after_the_next_start(tmp_path):
    config, draft = device(tmp_path)
    custody = DeviceKeys(config, Model("x", 1, "d" * 64))
    assert custody.open().released
    assert not draft.exists()
    custody.close()


def test_a_factory_reset_leaves_no_half_written_keystore(tmp_path):
    config, _ = device(tmp_path)
    factory_reset(config)
    assert list(config.state_dir.iterdir()) == []
