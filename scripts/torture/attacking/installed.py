"""A whole idiolectd as the package installs it, for an attacker to stand beside: own user, modes, umask, no network.

As the unit does it: an unprivileged user with a group for its clients, umask 0077, a state directory of mode 0750, a
runtime directory of mode 0755, a network namespace without interfaces, no further privileges. What the unit forbids by
itself is left out where the daemon must not rely on it: the limit on cores is raised, so that a core that the daemon
does not prevent would be written.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from idiolect.client import Client
from idiolect.trust.bundle.public_keys import public_pem
from idiolect.trust.bundle.slots import Slots
from tests.support import bundles, speech
from tests.support.alsa.wavmic import PluginError, WavMic, build
from tests.support.devices import TestDevice
from tests.support.swtpm import Swtpm
from tests.support.talk import Talker
from torture import harness

USER, GROUP = "daemon", "daemon"
"""Who runs it, and whose members may talk to it: accounts that every system has and that own nothing here."""
HANDOFF, STRANGER = "games", "nobody"
SPEED = 3.0
ROOM = 30.0
"""RMS of the room's noise in S16 steps: quiet, and no 16 samples of it come twice."""
PERSON, PHRASE = "Wilhelmine", "do not disturb"
START_S = 60.0
_NEWNET, _NO_NEW_PRIVS = 0x40000000, 38
_libc = ctypes.CDLL(None, use_errno=True)


class Lacking(Exception):
    """This machine cannot show it; the text says why."""


def uid_of(user: str) -> int:
    """``Lacking`` where there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Lacking(f"there is no user {user}") from None


def needs() -> str:
    """Why there can be none here; "" when there can."""
    if os.geteuid() != 0:
        return "needs root, to run the daemon as another user"
    try:
        interpreter(uid_of(USER))
        build()
    except (Lacking, PluginError) as error:
        return str(error)
    return "" if speech.SOUNDS.is_dir() else "no /usr/share/asterisk/sounds: run scripts/setup"


def interpreter(uid: int) -> list[str]:
    """A Python of this version that another user may execute: ours, or the system's with our libraries."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            command = [path, "-c", "import idiolect, numpy, alsaaudio"]
            done = subprocess.run(
                command,
                user=uid,
                group=uid,
                extra_groups=[],
                cwd="/",
                env=environment(),
                capture_output=True,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0:
            return [path]
    raise Lacking(f"no Python {version} that another user may run, with the daemon's libraries")


def environment() -> dict[str, str]:
    """What the daemon gets: libraries and nothing of ours."""
    places = [str(harness.ROOT / "daemon"), *(place for place in sys.path if place.endswith("site-packages"))]
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"}


def become(uid: int, gid: int, groups: tuple[int, ...] = (), *, netless: bool = False, cores: bool = True) -> None:
    """Turn this (forked) process into that user; for ``preexec_fn`` and children."""
    if netless and _libc.unshare(_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    if cores:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.umask(0o077)
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)


class Installed:
    """``with Installed() as home``: it runs, has its keys and hears; ``home.talker`` speaks to it.

    ``tpm`` holds its keys in a TPM in software. ``before`` is put in front of the command (a tracer), ``more`` into
    the environment, ``paths`` in front of the libraries: for the positive controls, which break something.
    """

    def __init__(
        self, *, tpm: bool = False, before: tuple[str, ...] = (), more: Mapping[str, str] | None = None,
        paths: tuple[Path, ...] = (),
    ) -> None:  # fmt: skip
        self.root = Path(tempfile.mkdtemp(prefix="adversary-"))
        self.root.chmod(0o755)
        self.uid, self.gid = uid_of(USER), pwd.getpwnam(USER).pw_gid
        self.state, self.run, self.etc = self.root / "state", self.root / "run", self.root / "etc"
        self.work, self.log_file = self.root / "work", self.root / "log"
        self.tpm = Swtpm() if tpm else None
        self._before, self._more, self._paths = before, dict(more or {}), paths
        self.client = Client(str(self.run / "control.sock"), timeout=30)
        self.process: subprocess.Popen[bytes] | None = None
        self._lay_out()

    # -- as the package does it -------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Directories with their owners and modes; ``work`` is where a core would land, ``mic`` the world outside."""
        mine = {self.state: 0o750, self.run: 0o755, self.work: 0o700, self.root / "mic": 0o700}
        for path, mode in {**mine, self.etc: 0o755, self.etc / "keys.d": 0o755}.items():
            path.mkdir()
            path.chmod(mode)
        recording = self.root / "mic" / "audio.raw"
        recording.write_bytes(np.zeros(16, "<i2").tobytes())
        self.mic = WavMic(self.root / "mic", recording, speed=SPEED)
        self.talker = Talker(recording, SPEED, minutes=6.0)
        noise = np.random.default_rng(1).standard_normal(6 * 60 * 16_000) * ROOM
        recording.write_bytes(np.rint(noise).astype("<i2").tobytes())
        self.recording = recording
        if self.tpm is not None:
            self._provision()
        self.config = self.etc / "idiolect.yaml"
        self.config.write_text(json.dumps(self._settings()))
        self.config.chmod(0o644)
        for path in mine:
            _own(path, self.uid, self.gid)

    def _provision(self) -> None:
        """A device with a signed bundle, as an integrator makes it."""
        if self.tpm is None:
            return
        self.device = TestDevice(self.root, self.tpm)
        self.device.provision()
        verified = bundles.signed()
        Slots(self.state / "bundles").install(verified.files, verified.digest[:16])
        (self.etc / "keys.d" / "bundle.pem").write_bytes(public_pem(bundles.key("bundle").public_key()))
        _own(self.tpm.folder, self.uid, self.gid)

    def _settings(self) -> dict[str, object]:
        sockets = {
            name: str(self.run / f"{name}.sock") for name in ("control", "page", "wyoming", "metrics", "handoff")
        }
        return {
            "audio": {"device": self.mic.device},
            "state_dir": str(self.state),
            "bundle": "installed" if self.tpm else "builtin",
            "keystore": "tpm" if self.tpm else "file",
            "trust": {"keys_dir": str(self.etc / "keys.d"), **({"tcti": self.tpm.tcti} if self.tpm else {})},
            "listening": {"mode": "always", "wake_words": "all", "phrases": "all"},
            "control": {"socket": sockets["control"], "roles": {"observer": [], "user": [GROUP], "admin": []}},
            "page": {"enabled": True, "socket": sockets["page"]},
            "wyoming": {"enabled": True, "socket": sockets["wyoming"], "microphone": True},
            "metrics": {"enabled": True, "socket": sockets["metrics"]},
            "handoff": {"user": HANDOFF, "socket": sockets["handoff"]},
            "people": {PERSON: {"users": [getpass.getuser()]}},
        }

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self) -> Installed:
        """Run it until it serves, has its keys and hears."""
        given = environment() | self.mic.environment | self._more
        given["PYTHONPATH"] = os.pathsep.join([*map(str, self._paths), given["PYTHONPATH"]])
        command = [*self._before, *interpreter(self.uid), "-m", "idiolect", "--config", str(self.config)]
        # A tracer stays root, and makes the daemon of it with setpriv; without one, it is made before it is executed.
        preexec: Callable[[], None] = (
            (lambda: _libc.unshare(_NEWNET) and None) if self._before
            else lambda: become(self.uid, self.gid, netless=True)
        )  # fmt: skip
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=given,
                cwd=self.work,
                stderr=log,
                preexec_fn=preexec,  # noqa: PLW1509 - it calls the kernel and nothing else
                start_new_session=True,
            )
        self.wait(self._up, START_S)
        self.talker.follow(self.client)
        return self

    def _up(self) -> bool:
        with contextlib.suppress(Exception):
            status = self.client.get("/v1/status")
            return status["personalization"]["state"] == "on" and status["microphone"]["state"] == "running"
        return False

    def wait(self, condition: Callable[[], bool], seconds: float = START_S) -> None:
        """``Lacking`` when it does not come true: there is nothing to attack then."""
        ends = time.monotonic() + seconds
        while not condition():
            if self.process is None or self.process.poll() is not None or time.monotonic() > ends:
                raise Lacking(f"idiolectd does not run as it should: {self.log[-600:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The daemon's own, also behind a tracer."""
        if self.process is None:
            raise Lacking("it was not started")
        return daemon_under(self.process.pid) if self._before else self.process.pid

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def stop(self) -> None:
        """As SIGTERM does."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, Lacking):
                os.kill(self.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self) -> None:
        """Stop it, and leave nothing behind."""
        self.stop()
        if self.tpm is not None:
            self.tpm.remove()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Installed:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what was played -----------------------------------------------------------------------------------------------

    def heard(self) -> NDArray[np.int16]:
        """All that the microphone has played so far, and half a second more."""
        samples = np.fromfile(self.recording, "<i2")
        return samples[: self.position() + 8_000 * round(SPEED)]

    def position(self) -> int:
        """The sample that is played now."""
        return self.talker.heard


def _own(folder: Path, uid: int, gid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid)


def children(pid: int) -> Iterator[int]:
    """Processes whose parent is ``pid``, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from children(child)


def daemon_under(pid: int) -> int:
    """The process under a tracer that runs idiolectd."""
    for child in children(pid):
        with contextlib.suppress(OSError):
            if b"\0idiolect\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    raise Lacking("the tracer has no daemon")
