"""A microphone that plays a recording through the real libasound, with switches for every fault.

Builds the ALSA plugin beside this file once, writes an ``asound.conf`` for one recording and flips the fault switches.
It needs gcc, the headers of libasound and the standard library only, so that scripts can load it by path.

    mic = WavMic(folder, recording, speed=20.0)
    subprocess.run(["arecord", "-D", mic.device, ...], env=os.environ | mic.environment)
    mic.gone(); ...; mic.gone(False)
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
import wave
from pathlib import Path
from typing import Literal

SOURCE = Path(__file__).with_name("pcm_wavmic.c")
CACHE = SOURCE.parents[2] / ".cache" / "wavmic"

HEARD = "heard"
"""Among the switches: up to which frame of the recording the device was read, an int64 that is mapped."""
EndOfFile = Literal["silence", "loop", "gone"]
SampleFormat = Literal["S16_LE", "S32_LE"]
Clock = Literal["wall", "told"]

# ALSA_CONFIG_PATH replaces the whole configuration, so what a desktop or a container has set up cannot leak into a
# test; what ordinary names need (the conversion plugin) is defined here again.
_CONFIG = """\
pcm_type.wavmic {{ lib "{plugin}" }}
pcm.null {{ type null }}
pcm.plug {{
    @args [ SLAVE ]
    @args.SLAVE {{ type string }}
    type plug
    slave.pcm $SLAVE
}}
pcm.{name} {{
    type wavmic
    file "{file}"
    rate {rate}
    channels {channels}
    format "{sample_format}"
    speed {speed}
    eof "{eof}"
    ctl "{ctl}"
    clock "{clock}"
    hint {{ show on description "a recording played as a microphone" }}
}}
"""


class PluginError(Exception):
    """The plugin cannot be built here; the message says what is missing."""


def build(cache: Path = CACHE) -> Path:
    """The compiled plugin, built unless this very source was built before. Raises ``PluginError``."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    plugin = cache / f"libasound_module_pcm_wavmic-{digest}.so"
    if plugin.exists():
        return plugin
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f".{os.getpid()}.so"  # renamed when complete: two test runs may build at once
    command = ["gcc", "-shared", "-fPIC", "-DPIC", "-O2", "-Wall", "-Wextra", "-o", partial, SOURCE, "-lasound"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PluginError("no gcc: apt install gcc libasound2-dev") from error
    except subprocess.CalledProcessError as error:
        raise PluginError(f"gcc failed (apt install libasound2-dev?): {error.stderr.strip()[:400]}") from error
    partial.replace(plugin)
    return plugin


class WavMic:
    """One simulated microphone: its recording, its ALSA configuration and its fault switches.

    ``audio`` is a 16-bit WAV file, whose rate and channels become the hardware's, or raw S16_LE frames.
    ``speed`` is 1 for real time, N for N times faster, 0 for as fast as it is read.
    ``eof`` says what comes after the recording: silence, the recording again, or an unplugged device.
    ``clock`` "told": time passes as ``switches``/clock says (see the plugin); who tells makes that file and the FIFO.
    """

    def __init__(
        self,
        folder: Path,
        audio: Path,
        *,
        name: str = "wavmic",
        rate: int = 16_000,
        channels: int = 1,
        sample_format: SampleFormat = "S16_LE",
        speed: float = 1.0,
        eof: EndOfFile = "silence",
        clock: Clock = "wall",
    ) -> None:
        folder = folder.resolve()
        self.device = name
        self.switches = folder / f"{name}.ctl"
        self.switches.mkdir(parents=True, exist_ok=True)
        self._heard = self.switches / HEARD
        self._heard.write_bytes(bytes(8))
        self._heard.chmod(0o666)  # a daemon under a user of its own writes it
        self.config = folder / f"{name}.conf"
        file = audio.resolve()
        with audio.open("rb") as head:
            is_wav = head.read(4) == b"RIFF"
        if is_wav:
            file = folder / f"{name}.raw"
            rate, channels = _unwrap(audio, file)
        partial = self.config.with_suffix(".new")  # replaced: libasound knows a changed file by its inode
        partial.write_text(
            _CONFIG.format(
                plugin=build(),
                name=name,
                file=file,
                rate=rate,
                channels=channels,
                sample_format=sample_format,
                speed=float(speed),
                eof=eof,
                ctl=self.switches,
                clock=clock,
            )
        )
        partial.replace(self.config)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment so that its libasound knows this microphone and no other.

        For several microphones at once join their ``config`` paths with ":".
        """
        return {"ALSA_CONFIG_PATH": str(self.config)}

    @property
    def started_at(self) -> float | None:
        """``time.monotonic`` of frame 0, None before the first start: frame n is spoken n/rate/speed seconds later.

        A stall moves what comes after it, and so does a slow reader of a recording that is played faster.
        """
        claim = self.switches / "claim"
        at = claim.stat().st_mtime_ns * 1e-9 if claim.exists() else float("inf")
        return at if at <= time.monotonic() else None  # until then it is an ordinary date, decades from the boot

    @property
    def heard(self) -> int:
        """Up to which frame of the recording it was read."""
        return int.from_bytes(self._heard.read_bytes(), "little")

    def install(self) -> None:
        """Make the microphone known to this process: libasound reads its environment at every open."""
        os.environ.update(self.environment)

    def xrun(self) -> None:
        """Cause one overrun."""
        (self.switches / "xrun").touch()

    def stall(self, on: bool = True) -> None:
        """Deliver nothing and stay open, as long as it is on; then go on where it stopped."""
        self._switch("stall", on)

    def gone(self, on: bool = True) -> None:
        """Unplug it, or plug it in again."""
        self._switch("gone", on)

    def busy(self, on: bool = True) -> None:
        """Let somebody else hold it: opens are refused, a stream already open goes on."""
        self._switch("busy", on)

    def _switch(self, name: str, on: bool) -> None:
        path = self.switches / name
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)


def _unwrap(audio: Path, raw: Path) -> tuple[int, int]:
    """Copy the frames of a 16-bit WAV file; returns its rate and channels."""
    with wave.open(str(audio), "rb") as reader:
        if reader.getsampwidth() != 2:
            raise ValueError(f"{audio.name}: needs 16-bit samples, has {8 * reader.getsampwidth()}-bit ones")
        raw.write_bytes(reader.readframes(reader.getnframes()))
        return reader.getframerate(), reader.getnchannels()
