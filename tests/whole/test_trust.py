"""The daemon as a process with a TPM in software: what `status`, `doctor` and the proofs say, and what falls back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idiolect.client import Client, UnreachableError
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.bundle.slots import Slots
from idiolect.trust.device.provisioning import fleet_record
from tests.support import bundles
from tests.support.devices import TestDevice, needs_tpm, policy_pem
from tests.support.swtpm import Swtpm

ROOT = Path(__file__).parents[2]
NONCE = "00112233445566778899aabbccddeeff"


class Board:
    """A provisioned board; ``start`` runs idiolectd on it, ``cli`` the command line."""

    def __init__(self, folder: Path, tpm: Swtpm | None) -> None:
        self.folder, self.tpm = folder, tpm
        self.device = TestDevice(folder, tpm)
        self.config = folder / "idiolect.yaml"
        self.process = None
        self.log = ""
        self.configure("installed" if tpm else "builtin")
        (folder / "keys.d").mkdir()
        (folder / "keys.d" / "bundle.pem").write_bytes(public_pem(bundles.key("bundle").public_key()))

    def configure(self, bundle):
        trust = {"keys_dir": str(self.folder / "keys.d"), "tcti": self.tpm.tcti if self.tpm else "device:/dev/none"}
        settings = {
            "audio": {"device": "null"},
            "bundle": str(bundle),
            "keystore": "tpm" if self.tpm else "file",
            "trust": trust,
            "state_dir": str(self.folder / "state"),
            "control": {"socket": str(self.folder / "control.sock")},
        }
        self.config.write_text(json.dumps(settings))

    def install(self, verified):
        Slots(self.folder / "state" / "bundles").install(verified.files, verified.digest[:16])

    def start(self):
        self.errors = (self.folder / "stderr").open("wb+")
        command = [sys.executable, "-m", "idiolect", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stderr=self.errors)
        client = Client(str(self.folder / "control.sock"))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                status = client.get("/v1/status")
            except UnreachableError:
                status = None
            if status and status["keys"]["state"] != "waiting":
                return status
            time.sleep(0.02)
        pytest.fail(f"no status, exit code {self.process.poll()}:\n{self.stop()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) is not None
        self.errors.seek(0)
        self.log = self.errors.read().decode()
        self.errors.close()
        return self.log

    def cli(self, *arguments, code=0):
        command = [sys.executable, "-m", "idiolect.cli.main", "--socket", str(self.folder / "control.sock"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def board(tmp_path):
    with Swtpm() as tpm:
        made = Board(tmp_path, tpm)
        yield made
        made.close()


@pytest.fixture
def plain_board(tmp_path):
    made = Board(tmp_path, None)
    yield made
    made.close()


@needs_tpm
def test_a_measured_daemon_shows_and_proves_its_keys(board):
    board.install(bundles.signed(3))
    record = fleet_record(board.device.provision().device)
    status = board.start()
    assert status["keys"]["text"] == "released (PCR 14 matches bundle test v3)"
    assert status["keystore"] == "tpm"
    assert status["bundle"]["signed"]
    assert "keys        released (PCR 14 matches bundle test v3)" in board.cli("status")
    checks = {
        check["check"]: check["level"]
        for check in Client(str(board.folder / "control.sock")).get("/v1/doctor")["checks"]
    }
    assert (checks["keys"], checks["vault"], checks["tpm"]) == ("ok", "ok", "ok")

    assert "keys-released" in board.cli("audit", "show")
    assert board.cli("audit", "verify").startswith("OK: 2 entries")
    (board.folder / "ak.pem").write_text(str(record["attestation_key"]))
    (board.folder / "export.json").write_text(board.cli("audit", "export", "--nonce", NONCE))
    (board.folder / "attest.json").write_text(board.cli("attest", "--nonce", NONCE))
    said = board.cli("audit", "verify", "export.json", "--ak", "ak.pem", "--nonce", NONCE)
    assert "quoted by the device's TPM" in said
    for name in ("export.json", "attest.json"):
        assert verifier(board.folder, name, NONCE).returncode == 0
        late = verifier(board.folder, name, NONCE[::-1])
        assert late.returncode == 1
        assert "refused (4)" in late.stderr
    assert json.loads(board.cli("bundle", "mark-good", "--json"))["minimum"] == 3
    assert Slots(board.folder / "state" / "bundles").state().minimum == 3
    board.stop()
    assert "Traceback" not in board.log


def verifier(folder, name, nonce):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "verify_attestation.py"),
        name,
        "--ak",
        "ak.pem",
        "--nonce",
        nonce,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def by_hand() -> tuple[list[list[str]], dict[str, str], list[list[str]]]:
    """README, "By hand, as root": the commands before the configuration is changed, what it is then, and the rest."""
    text = (ROOT / "README.md").read_text().partition("By hand, as root:\n")[2].partition("`idiolect status`")[0]
    lines = [line.partition("#")[0].strip() for line in text.splitlines() if line.strip()]
    set_ = [number for number, line in enumerate(lines) if line.partition(" ")[0].endswith(":")]
    settings = dict(lines[number].split(": ") for number in set_)
    before, after = lines[: set_[0]], lines[set_[-1] + 1 :]
    return [line.split() for line in before], settings, [line.split() for line in after]


@needs_tpm
def test_the_readmes_order_by_hand_leads_to_keys(board):
    """On a board whose first start, as a package's, made keys in a file."""
    (board.folder / "policy.pem").write_bytes(policy_pem())
    (board.folder / "bundle.pem").write_bytes((board.folder / "keys.d" / "bundle.pem").read_bytes())
    (board.folder / "keys.d" / "bundle.pem").unlink()
    bundles.write(bundles.signed(1).files, board.folder / "acme-1")
    settings = json.loads(board.config.read_text()) | {"keystore": "file", "bundle": "builtin"}
    board.config.write_text(json.dumps(settings))
    assert board.start()["keystore"] == "file (not hardware protected)"
    board.stop()
    early = board.cli("provision", "--config", str(board.config), "--policy-key", "policy.pem", "--yes", code=74)
    assert "the configuration says keystore: file, and a start with it has made keys in a file by itself" in early
    assert "set keystore: tpm first" in early

    def type_(words: list[str]) -> None:
        if words[0] == "idiolect":
            board.cli(*words[1:], "--config", str(board.config), *(["--yes"] if words[1] == "provision" else []))
        else:
            place = words[-1].replace("/etc/idiolect", str(board.folder))
            subprocess.run([*words[:-1], place], check=True, cwd=board.folder)

    before, changed, after = by_hand()
    assert ["install", "-D"] in [words[:2] for words in before]
    for words in before:
        type_(words)
    board.config.write_text(json.dumps(settings | changed))
    for words in after:
        type_(words)
    assert board.start()["keys"]["text"] == "released (PCR 14 matches bundle test v1)"
    board.stop()


def test_a_policy_key_without_a_tpm_is_refused_before_anything_is_made(plain_board):
    (plain_board.folder / "policy.pem").write_bytes(policy_pem())
    command = ("provision", "--config", str(plain_board.config), "--policy-key", "policy.pem", "--yes")
    said = plain_board.cli(*command, code=74)
    assert "set keystore: tpm first" in said
    assert "by itself" not in said
    assert not (plain_board.folder / "state" / "keystore.json").exists()


@needs_tpm
def test_a_flipped_byte_leaves_the_previous_bundle_without_keys_until_it_is_mended_and_rebooted(board):
    board.install(bundles.signed(1))
    board.install(bundles.signed(2, after=(1,)))
    board.device.provision()
    slots = Slots(board.folder / "state" / "bundles")
    model = slots.directory(slots.state().current) / "head.bin"
    good = model.read_bytes()
    model.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    status = board.start()
    assert (status["bundle"]["version"], status["keys"]["state"]) == (1, "fallback")
    assert "head.bin: refused (6)" in status["keys"]["detail"]
    assert "cannot be marked good without keys" in board.cli("bundle", "mark-good", code=70)
    board.stop()
    assert "keys: fallback" in board.log
    model.write_bytes(good)
    board.tpm.power_cycle()
    assert board.start()["keys"]["text"] == "released (PCR 14 matches bundle test v2)"
    board.stop()


@needs_tpm
def test_without_any_good_bundle_it_ends_with_78_and_the_number(board):
    board.install(bundles.signed(1))
    board.device.provision()
    slots = Slots(board.folder / "state" / "bundles")
    (slots.directory(slots.state().current) / "extra").write_bytes(b"")
    command = [sys.executable, "-m", "idiolect", "--config", str(board.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert "bundle file extra: refused (5)" in done.stderr


@needs_tpm
def test_a_tpm_wants_a_signed_bundle(board):
    board.configure("builtin")
    command = [sys.executable, "-m", "idiolect", "--config", str(board.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert "model.sig: refused (3): is missing: this bundle is unsigned" in done.stderr


def test_a_file_keystore_says_so_everywhere(plain_board):
    status = plain_board.start()
    assert status["keystore"] == "file (not hardware protected)"
    assert status["keys"]["state"] == "released"
    assert "no TPM" in plain_board.cli("attest", "--nonce", NONCE, code=70)
    said = plain_board.cli("doctor", "--config", str(plain_board.config), code=0)
    assert "not hardware protected" in said
    plain_board.stop()
    assert "not hardware protected" in plain_board.log


def test_the_process_cannot_be_dumped(plain_board):
    """The kernel gives /proc/PID of an undumpable process to root, and its memory to nobody but root."""
    plain_board.start()
    limits = Path(f"/proc/{plain_board.process.pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    if os.geteuid() == 0:
        drop = "import os,sys; os.setgid(65534); os.setuid(65534); open(sys.argv[1], 'rb')"
        path = f"/proc/{plain_board.process.pid}/mem"
        assert subprocess.run([sys.executable, "-c", drop, path], capture_output=True, check=False).returncode
    plain_board.stop()


@pytest.mark.parametrize(
    ("target", "code", "field"),
    [
        ("/v1/audit?limit=0", 422, "limit"),
        ("/v1/audit?lines=1", 422, "lines"),
        ("/v1/attest", 422, "nonce"),
        ("/v1/attest?nonce=zz", 422, "nonce"),
        ("/v1/attest?nonce=00", 422, "nonce"),
        ("/v1/audit/export?nonce=" + "00" * 65, 422, "nonce"),
        ("/v1/audit/verify?deep=1", 422, "deep"),
    ],
)
def test_bad_questions_about_trust_are_named(run, target, code, field):
    status, answer, _ = run.ask("GET", target)
    assert (status, answer["error"]["field"]) == (code, field)
