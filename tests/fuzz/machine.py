"""Targets for what the machine says: files of /proc and /sys, recordings, the sound cards' names, a TPM's codes.

The readers of the kernel's files never raise: what they cannot have is None, with trouble in words.
"""

from __future__ import annotations

import atexit
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np

from idiolect.errors import SourceEnded
from idiolect.host.sensors.power import read_power
from idiolect.host.sensors.pressure import read_pressure
from idiolect.host.sensors.resources import read_resources
from idiolect.host.sensors.thermal import ThermalReader
from idiolect.listening.audio import microphone
from idiolect.listening.audio.convert import AudioConverter
from idiolect.listening.audio.recording import FileSource
from idiolect.trust.device.tpm_answers import explain
from idiolect.values import BLOCK

_SUPPLY = "sys/class/power_supply"
_PRESSURE = b"some avg10=1.25 avg60=0.50 avg300=0.10 total=12345\n"
_FILES = {
    f"{_SUPPLY}/AC/type": b"Mains\n", f"{_SUPPLY}/AC/online": b"1\n",
    f"{_SUPPLY}/BAT0/type": b"Battery\n", f"{_SUPPLY}/BAT0/scope": b"System\n", f"{_SUPPLY}/BAT0/present": b"1\n",
    f"{_SUPPLY}/BAT0/status": b"Discharging\n", f"{_SUPPLY}/BAT0/capacity": b"71\n",
    "sys/class/thermal/thermal_zone0/type": b"cpu-thermal\n", "sys/class/thermal/thermal_zone0/temp": b"48312\n",
    "sys/class/thermal/thermal_zone0/mode": b"enabled\n",
    "sys/class/thermal/cooling_device0/type": b"cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": b"0\n",
    "sys/class/hwmon/hwmon0/name": b"rpi_volt\n", "sys/class/hwmon/hwmon0/in0_lcrit_alarm": b"0\n",
    "sys/class/hwmon/hwmon1/oc1_event_cnt": b"3\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": b"50005\n",
    **{f"proc/pressure/{name}": _PRESSURE for name in ("cpu", "memory", "io")},
    "proc/meminfo": b"MemTotal:        8000000 kB\nMemAvailable:    4000000 kB\n",
    "proc/loadavg": b"0.25 0.50 0.75 1/234 5678\n",
}  # fmt: skip
_NAMES = sorted(_FILES)


@cache
def folder() -> Path:
    """Of this process, and gone with it."""
    made = Path(tempfile.mkdtemp(prefix="idiolect-fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def _root() -> Path:
    for name, content in _FILES.items():
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder()


@cache
def _thermal() -> ThermalReader:
    return ThermalReader(_root())


def sysfs(data: bytes) -> None:
    """Parts between 0x1E: the first byte of each names a file, the rest is what it says."""
    root, changed = _root(), []
    for part in data.split(b"\x1e")[:8]:
        if part:
            changed.append(_NAMES[part[0] % len(_NAMES)])
            (root / changed[-1]).write_bytes(part[1:])
    try:
        power, thermal = read_power(root), _thermal().read()
        pressure, room = read_pressure(root), read_resources(root, root)
    finally:
        for name in changed:
            (root / name).write_bytes(_FILES[name])
    assert power.battery_percent is None or 0 <= power.battery_percent <= 100
    assert thermal.celsius is None or -40 <= thermal.celsius <= 150
    assert all(each is None or 0 <= each <= 100 for each in (pressure.cpu, pressure.memory, pressure.io))
    assert room.load_per_core is None or room.load_per_core >= 0
    for each in (power, thermal, pressure, room):
        said = each.describe()
        assert len(said) < 4000
        assert "\n" not in said.replace("\\n", ""), "a line of the journal ends where another says so"


def good_sysfs() -> list[bytes]:
    """Each file once, and some at once."""
    each = [bytes([n]) + _FILES[name] for n, name in enumerate(_NAMES)]
    return [*each, b"\x1e".join(each[:5]), b"\x1e".join(each[-8:])]


def recording(data: bytes) -> None:
    """A file played as fast as it is read; the first byte is the channel that is heard."""
    path = folder() / "recording.wav"
    path.write_bytes(data[1:])
    which = data[0] % 4 if data else 0
    with closing(FileSource(path, speed=0.0, channel="mix" if which == 3 else which, gain_db=which * 20.0)) as source:
        heard = 0
        try:
            while (block := source.read()) is not None:
                assert block.samples.shape == (BLOCK,)
                heard += BLOCK
        except SourceEnded:
            pass
        assert heard <= 2 * len(data) + BLOCK, "more than was recorded"


def wav(rate: int = 16_000, channels: int = 1, width: int = 2, frames: int = 4000) -> bytes:
    """A WAV file of a ramp."""
    samples = (np.arange(frames * channels) % 30_000).astype(f"<i{width}" if width in (1, 2, 4) else "<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * width, channels * width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def good_recordings() -> list[bytes]:
    """What microphones record, and what they do not."""
    files = [wav(frames=2600), wav(8_000, 1, 2, 1500), wav(48_000, 2, 2, 1900), wav(16_000, 1, 1, 900)]
    return [b"\3" + file for file in files] + [b"\0" + bytes(5200), b"\1" + wav(44_100, 2, 2, 1900), b"\2" + wav()[:40]]


def conversion(data: bytes) -> None:
    """The same blocks for any chunking of the same samples, and never a sample that is not there."""
    if len(data) < 4:
        return
    rate, channels = (8_000, 16_000, 22_050, 48_000)[data[0] % 4], 1 + data[1] % 4
    size, gain = 1 + data[2] * 4, (data[3] % 80) - 40.0
    sound = (data[4:] * (1 + 6_000 // max(1, len(data) - 4)))[: 6_000 // (2 * channels) * 2 * channels]
    channel = "mix" if data[1] < 128 else data[1] % channels

    def blocks(step: int) -> bytes:
        converter = AudioConverter(rate, channels, channel=channel, gain_db=gain)
        step *= 2 * channels
        cut = [sound[at : at + step] for at in range(0, len(sound), step)]
        made = [each.samples.tobytes() for part in cut for each in converter.feed(part)]
        return b"".join(made + [each.samples.tobytes() for each in converter.flush()])

    whole, cut = blocks(len(sound) or 1), blocks(size)
    assert (
        whole == cut
        or np.abs(np.frombuffer(whole, "<i2").astype(int) - np.frombuffer(cut, "<i2").astype(int)).max() <= 1
    )


def devices(data: bytes) -> None:
    """What ALSA calls a device, and what it says when it refuses one."""
    name, _, said = data.decode("utf-8", "replace").partition("\n")
    assert microphone._describe(name, {"Mic": said})
    assert microphone._as_fault(name, ValueError(said)).fix


def codes(data: bytes) -> None:
    """Any response code of a TPM is a sentence and a next step."""
    error = explain(int.from_bytes(data[:4], "big"))
    assert error.fix
    assert error.state


TARGETS: Sequence[tuple[str, Callable[[bytes], None], Callable[[], list[bytes]]]] = (
    ("sysfs", sysfs, good_sysfs),
    ("recording", recording, good_recordings),
    ("conversion", conversion, lambda: [bytes([n, 16 * n, 40, 40]) + bytes(range(200)) for n in range(16)]),
    ("devices", devices, lambda: [b"plughw:CARD=Mic,DEV=0\nNo such device [x]", b"default\nInvalid argument"]),
    ("tpm-code", codes, lambda: [b"\0\0\x09\x21", b"\0\0\1\x9d", b"\0\x09\0\1", b"\0\x0b\0\x8b"]),
)
