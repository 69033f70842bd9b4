"""The demo's board: a TPM in software, signed bundles in two slots, and a daemon that is measured at its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idiolect.client import Client, UnreachableError
from idiolect.config.schema import load
from idiolect.trust.bundle.choose import slots
from tests.support import boards
from tests.support.speech import DIGITS
from tests.support.swtpm import Swtpm

CONFIG = """\
audio: {{device: "{device}"}}
bundle: installed
keystore: tpm
trust: {{keys_dir: {folder}/keys.d, tcti: "{tcti}"}}
state_dir: {folder}/state
control: {{socket: {folder}/control.sock}}
people: {{{people}}}
idle: {{machine: {folder}/board}}
listening: {{mode: always, wake_words: [{wake}], phrases: [{digits}], always_on: []}}
log_level: error
"""
NAME, WAKE = "demo", "computer"
_PATIENCE_S = 120.0


@dataclass
class Daemon:
    """A running idiolectd."""

    process: subprocess.Popen[bytes]
    client: Client

    def status(self) -> dict[str, Any]:
        """As soon as it serves; SystemExit when it does not."""
        ends = time.monotonic() + _PATIENCE_S
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                sys.exit(f"idiolectd ended by itself with exit code {self.process.returncode}")
            try:
                return self.client.get("/v1/status")
            except UnreachableError:
                time.sleep(0.05)
        sys.exit("idiolectd does not answer")

    def with_keys(self) -> dict[str, Any]:
        """Its status once it knows whether it gets the keys: it listens meanwhile."""
        while (status := self.status())["keys"]["state"] == "waiting":
            time.sleep(0.02)
        return status


class Board:
    """A device in a folder. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tpm = Swtpm()
        self._config = folder / "idiolect.yaml"
        self._people = ""
        boards.Board(
            folder / "board"
        )  # its sensors: files that say cool, on mains and idle, whatever this machine does
        self._configure("null")

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._tpm.remove()

    def pair(self, name: str, user: str) -> None:
        """In the configuration: ``user`` may agree for ``name``."""
        self._people = f'{name}: {{users: ["{user}"]}}'

    def sign(self) -> None:
        """Keys, and versions 1 and 2 of the default bundle."""
        self._idiolect("bundle", "keygen", "keys")
        keys = ("--bundle-key", "keys/bundle.key", "--policy-key", "keys/policy.key")
        for version, after in ((1, ()), (2, ("--upgrade-from", "v1"))):
            label = ("--name", NAME, "--version", str(version), "--out", f"v{version}")
            self._idiolect("bundle", "sign", "builtin", *keys, *label, *after)
        (self.folder / "keys.d").mkdir()
        (self.folder / "keys.d" / "bundle.pem").write_bytes((self.folder / "keys" / "bundle.pem").read_bytes())

    def provision(self) -> None:
        """The TPM, and both slots."""
        said = self._idiolect("provision", "--yes", "--config", str(self._config), "--policy-key", "keys/policy.pem")
        print("\n".join(f"   {line}" for line in said.partition("\nFor the fleet")[0].splitlines()))
        for version in (1, 2):
            self._idiolect("bundle", "install", f"v{version}", "--config", str(self._config))

    @contextmanager
    def daemon(self, device: str = "null", environment: Mapping[str, str] = {}) -> Iterator[Daemon]:
        """Run idiolectd on a microphone; it must end well."""
        self._configure(device)
        command = [sys.executable, "-m", "idiolect", "--config", str(self._config)]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE)
        try:
            yield Daemon(process, Client(str(self.folder / "control.sock")))
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=120)
        if process.returncode != 0:
            sys.exit(f"idiolectd ended with exit code {process.returncode}:\n{said.decode(errors='replace')}")

    def tampered(self) -> bool:
        """Flip a byte of the current encoder, and see what a start makes of it."""
        self._flip()
        with self.daemon() as daemon:
            status = daemon.with_keys()
        keys, bundle = status["keys"], status["bundle"]
        print(f"   {keys['detail']}")
        print(f"   {bundle['name']} v{bundle['version']} listens; keys: {keys['state']}; {keys['fix']}")
        return "refused (6)" in keys["detail"] and keys["state"] == "fallback" and bundle["version"] == 1

    def restored(self) -> bool:
        """The same byte again, off and on."""
        self._flip()
        self._tpm.power_cycle()
        with self.daemon() as daemon:
            status = daemon.with_keys()
        print(f"   keys: {status['keys']['text']}")
        return bool(status["keys"]["state"] == "released")

    def _flip(self) -> None:
        installed = slots(load([self._config]))
        current = installed.directory(str(installed.state().current))
        with (current / "encoder.tflite").open("r+b") as model:
            model.seek(100_000)
            byte = model.read(1)[0]
            model.seek(100_000)
            model.write(bytes([byte ^ 1]))

    def _configure(self, device: str) -> None:
        digits = ", ".join(f'"{digit}"' for digit in DIGITS)
        text = CONFIG.format(device=device, folder=self.folder, tcti=self._tpm.tcti, digits=digits,
            people=self._people, wake=WAKE,
        )  # fmt: skip
        self._config.write_text(text)

    def _idiolect(self, *arguments: str) -> str:
        """Run the command line as a person would, in the board's folder."""
        command = [sys.executable, "-m", "idiolect.cli.main", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"idiolect {' '.join(arguments[:2])} failed: {done.stderr}")
        return done.stdout
