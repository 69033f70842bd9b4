"""`idiolect provision | factory-reset | audit | attest`, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.devices import needs_tpm, policy_pem
from tests.support.swtpm import Swtpm


def idiolect(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the command line; what it said."""
    command = [sys.executable, "-m", "idiolect.cli.main", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def config(tmp_path):
    """A configuration with a file keystore."""
    path = tmp_path / "c.yaml"
    settings = {"state_dir": str(tmp_path / "state"), "control": {"socket": str(tmp_path / "s.sock")}}
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def tpm_config(tmp_path, config):
    """The same with a TPM."""
    with Swtpm() as tpm:
        settings = json.loads(config.read_text()) | {"keystore": "tpm", "trust": {"tcti": tpm.tcti}}
        config.write_text(json.dumps(settings))
        (tmp_path / "policy.pem").write_bytes(policy_pem())
        yield config


@needs_tpm
def test_provision_says_why_before_what_and_prints_the_fleet_record(tmp_path, tpm_config):
    said = idiolect(tmp_path, "provision", "--config", str(tpm_config), "--policy-key", "policy.pem", "--yes")
    steps, _, record = said.partition("\nFor the fleet's records (all of it public):\n")
    assert [line.split(":")[0] for line in steps.splitlines() if line[0].isdigit()] == [
        *("1. record", "2. tpm", "3. storage key", "4. attestation key", "5. seal", "6. nv", "7. vault", "8. done")
    ]
    assert json.loads(record)["attestation_key"].startswith("-----BEGIN PUBLIC KEY-----")
    again = idiolect(tmp_path, "provision", "--config", str(tpm_config), "--policy-key", "policy.pem", "--json")
    assert "nothing was changed" in again
    assert json.loads(again[again.index("{") :].partition("\n}")[0] + "\n}")["device"] == json.loads(record)["device"]


@needs_tpm
def test_provision_without_or_with_a_wrong_policy_key_names_the_fix(tmp_path, tpm_config):
    common = ("provision", "--config", str(tpm_config), "--yes")
    assert "--policy-key policy.pem" in idiolect(tmp_path, *common, code=74)
    assert "policy.key" in idiolect(tmp_path, *common, "--policy-key", "policy.key", code=74)
    (tmp_path / "broken.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    assert "policy key" in idiolect(tmp_path, *common, "--policy-key", "broken.pem", code=78)
    assert not (tmp_path / "state" / "vault.db").exists()


@needs_tpm
def test_replacing_a_policy_key_needs_one(tmp_path, tpm_config):
    common = ("provision", "--config", str(tpm_config), "--replace-policy-key")
    assert "needs --policy-key" in idiolect(tmp_path, *common, code=2)
    assert "no policy key to replace" in idiolect(tmp_path, *common, "--policy-key", "policy.pem", code=74)


def test_a_factory_reset_wants_to_be_meant(tmp_path, config):
    idiolect(tmp_path, "provision", "--config", str(config), "--yes")
    assert "say --yes" in idiolect(tmp_path, "factory-reset", "--config", str(config), code=2)
    assert (tmp_path / "state" / "vault.db").exists()
    said = json.loads(idiolect(tmp_path, "factory-reset", "--config", str(config), "--yes", "--json"))
    assert [Path(each).name for each in said["removed"]] == ["keystore.json", "vault.db", "device.json"]
    assert "nothing to remove" in idiolect(tmp_path, "factory-reset", "--config", str(config), "--yes")


@pytest.mark.parametrize("nonce", ["", "00", "zz" * 16, "00" * 65])
def test_a_nonce_is_checked_before_anybody_is_asked(tmp_path, nonce):
    assert "8 to 64 bytes in hex" in idiolect(tmp_path, "attest", "--nonce", nonce, code=2)


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        (b"", 65, "refused (1)"),
        (b"[]", 1, "not an audit export"),
        (b'{"export": 1, "export": 2, "quote": null}', 65, "refused (1)"),
        (b'{"export": {}, "quote": null}', 65, "refused (1)"),
        (b"[" * 100_000, 65, "refused (1)"),
    ],
)
def test_what_is_no_export_is_refused_by_number(tmp_path, content, code, word):
    (tmp_path / "export.json").write_bytes(content)
    assert word in idiolect(tmp_path, "audit", "verify", "export.json", code=code)


def test_a_key_without_a_nonce_would_prove_nothing(tmp_path):
    (tmp_path / "export.json").write_bytes(b"{}")
    assert "without it an old one would pass" in idiolect(
        tmp_path, "audit", "verify", "export.json", "--ak", "ak.pem", code=2
    )
    assert "No such file" in idiolect(tmp_path, "audit", "verify", "nowhere.json", code=74)
