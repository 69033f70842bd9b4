"""A PipeWire of one's own, with a session manager and one microphone: a recording that libasound plays (wavmic).

PipeWire and WirePlumber are the installed ones with the configuration that they come with. What is added makes the
microphone known, and does without a session bus, as a system-wide PipeWire has to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .wavmic import WavMic

PACKAGES = ("pipewire", "pipewire-bin", "pipewire-alsa", "wireplumber")
"""Debian's, without what they recommend."""

_MICROPHONE = """\
context.objects = [
  { factory = adapter
    args = {
      factory.name = api.alsa.pcm.source
      node.name = "%s"
      media.class = Audio/Source
      api.alsa.path = "%s"
      api.alsa.use-chmap = false
      api.alsa.disable-mmap = true
      audio.format = S16LE
      audio.rate = 16000
      audio.channels = 1
      audio.position = [ MONO ]
    } }
]
"""
_FILES = {
    "wireplumber/main.lua.d/51-no-session-bus.lua": """\
alsa_monitor.properties["alsa.reserve"] = false
default_access.properties["enable-flatpak-portal"] = false
""",
    "wireplumber/bluetooth.lua.d/51-off.lua": "bluez_monitor.enabled = false\n",
    # for WirePlumber 0.5, which reads no Lua any more
    "wireplumber/wireplumber.conf.d/51-no-session-bus.conf": """\
wireplumber.profiles = {
  main = {
    support.dbus = disabled
    support.reserve-device = disabled
    support.portal-permissionstore = disabled
    monitor.bluez = disabled
  }
}
""",
}


def missing() -> str:
    """Why there can be no PipeWire here, or nothing."""
    absent = [name for name in ("pipewire", "wireplumber", "wpctl", "pw-record") if not shutil.which(name)]
    plugin = "alsa-lib/libasound_module_pcm_pipewire.so"
    if not any(list(Path("/usr").glob(f"lib*/{place}{plugin}")) for place in ("", "*/")):
        absent.append("its ALSA plugin")
    return f"no {', '.join(absent)}: apt install --no-install-recommends {' '.join(PACKAGES)}" if absent else ""


class PipeWire:
    """Its sockets, configuration and state lie in ``folder``; ``node`` is what it calls the microphone."""

    node = "tests.microphone"

    def __init__(self, folder: Path, mic: WavMic) -> None:
        self._mic = mic
        self._folder = folder / "pipewire"
        self._runtime = self._folder / "run"
        self._runtime.mkdir(parents=True)
        self._runtime.chmod(0o700)
        files = _FILES | {"pipewire/pipewire.conf.d/10-microphone.conf": _MICROPHONE % (self.node, mic.device)}
        for name, text in files.items():
            path = self._folder / "config" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment so that ``pipewire`` is a PCM of this one."""
        places = {"XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "XDG_RUNTIME_DIR": "run"}
        own = {name: str(self._folder / place) for name, place in places.items()}
        return own | {"PIPEWIRE_RUNTIME_DIR": str(self._runtime), "ALSA_CONFIG_PATH": "/usr/share/alsa/alsa.conf"}

    @property
    def log(self) -> str:
        """What both wrote."""
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start both; returns when the microphone is there for clients."""
        self._spawn("pipewire", self._mic.environment)
        self._wait((self._runtime / "pipewire-0").exists)
        self._spawn("wireplumber", {})
        self._wait(self._ready)

    def stop(self) -> None:
        """Stop both, the way systemd would."""
        while self._running:
            one = self._running.pop()
            one.terminate()
            try:
                one.wait(60)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()

    def _spawn(self, program: str, more: dict[str, str]) -> None:
        environment = os.environ | self.environment | more
        environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
        with (self._folder / "log").open("ab") as log:
            self._running.append(subprocess.Popen([program], env=environment, stdout=log, stderr=log))

    def _ready(self) -> bool:
        environment = os.environ | self.environment
        done = subprocess.run(["wpctl", "status"], env=environment, capture_output=True, text=True, check=False)
        sources = done.stdout.partition("Sources:")[2].partition("Streams:")[0]
        return "*" in sources and self.node in sources  # the star: WirePlumber has chosen it

    def _wait(self, condition: Callable[[], bool], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or any(one.poll() is not None for one in self._running):
                log = self.log
                self.stop()
                raise RuntimeError(f"PipeWire does not start:\n{log[-2000:]}")
            time.sleep(0.05)
