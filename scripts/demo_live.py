"""The demo: a real idiolectd hears people through a real ALSA microphone; exit 0 only if it heard them right.

The microphone is an ALSA plugin (tests/alsa) that plays recordings which Debian ships: a woman reading digits and
words (asterisk-core-sounds-en-wav) and a man naming loudspeakers (alsa-utils). Everything behind it is the product.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from idiolect.control.client import Client, UnreachableError  # noqa: E402
from tests.alsa.wavmic import WavMic  # noqa: E402
from tests.speech import DIGITS, SOUNDS, recording  # noqa: E402

CHANNELS = Path("/usr/share/sounds/alsa")
ORDER = (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)
BESIDES = {1: "hello", 3: "Front_Center", 5: "goodbye", 7: "Side_Left"}
"""What else is said, and after how many digits: none of it is a digit, so none of it may be reported."""
PAUSE_S = 0.45
PACE = 1.6
"""The microphone runs so much faster than life, which changes the waiting and not one sample."""
CONFIG = """\
audio: {{device: {device}}}
state_dir: {folder}/state
control: {{socket: {folder}/control.sock}}
listening: {{mode: always, wake_words: [], phrases: [{digits}], always_on: []}}
log_level: warning
"""


@dataclass(frozen=True)
class Said:
    """One recording in the play list, from ``start`` to ``end`` seconds; ``phrase`` is "" where none is expected."""

    what: str
    phrase: str
    start: float
    end: float


def compose() -> tuple[np.ndarray, list[Said]]:
    """The recording that the microphone will play, and what is said in it when."""
    room = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    said: list[Said] = []

    def silence(seconds: float) -> None:
        parts.append(np.rint(room.standard_normal(round(seconds * 16_000)) * 3).astype(np.int16))

    def say(path: Path, what: str, phrase: str) -> None:
        start = sum(map(len, parts)) / 16_000
        parts.append(recording(path))
        said.append(Said(what, phrase, start, start + len(parts[-1]) / 16_000))
        silence(PAUSE_S)

    silence(1.0)
    for count, number in enumerate(ORDER, 1):
        say(SOUNDS / "digits" / f"{number}.wav", f"“{DIGITS[number]}”", DIGITS[number])
        if other := BESIDES.get(count):
            folder = CHANNELS if other[0].isupper() else SOUNDS
            say(folder / f"{other}.wav", f"“{other.replace('_', ' ').lower()}”", "")
    silence(1.0)
    return np.concatenate(parts), said


def start_daemon(folder: Path, mic: WavMic) -> subprocess.Popen[bytes]:
    """Run idiolectd on the microphone and wait until it answers."""
    config = folder / "idiolect.yaml"
    quoted = ", ".join(f'"{digit}"' for digit in DIGITS)
    config.write_text(CONFIG.format(device=mic.device, folder=folder, digits=quoted))
    command = [sys.executable, "-m", "idiolect", "--config", str(config)]
    return subprocess.Popen(command, env=os.environ | mic.environment)


def wait_for(client: Client, daemon: subprocess.Popen[bytes]) -> dict[str, object]:
    """The daemon's status as soon as it serves; SystemExit when it does not within ten seconds."""
    for _ in range(200):
        if daemon.poll() is not None:
            sys.exit(f"idiolectd ended by itself with exit code {daemon.returncode}")
        try:
            return client.get("/v1/status")
        except UnreachableError:
            time.sleep(0.05)
    sys.exit("idiolectd does not answer")


def listen(client: Client, said: list[Said], seconds: float) -> list[str]:
    """Print events as they come in; return the phrases."""
    heard: list[str] = []
    try:
        for event in client.events(seconds=seconds):
            if event.kind not in ("wake", "phrase"):
                continue
            data = event.data
            heard.append(str(data["phrase"]))
            end = float(data["end"]) / 16_000
            then = next((s.what for s in said if s.start < end <= s.end + PAUSE_S), "silence")
            print(
                f"  {end:6.2f} s  {event.kind:6} {data['phrase']!s:8}"
                f" score {float(data['score']):.2f} (needs {float(data['threshold']):.2f})   while playing {then}",
                flush=True,
            )
    except TimeoutError:
        pass
    return heard


def main() -> int:
    """Run the demo; 0 if exactly the expected digits were heard."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    samples, said = compose()
    with tempfile.TemporaryDirectory(prefix="idiolect-demo-") as name:
        folder = Path(name)
        (folder / "talk.raw").write_bytes(samples.astype("<i2").tobytes())
        mic = WavMic(folder, folder / "talk.raw", speed=PACE)
        client = Client(str(folder / "control.sock"))
        daemon = start_daemon(folder, mic)
        try:
            status = wait_for(client, daemon)
            bundle = status["bundle"]
            print(
                f"idiolectd {status['version']} listens for digits with bundle {bundle['name']} v{bundle['version']};"
            )
            print(f"playing {len(said)} recordings through ALSA ({PACE:g} x real time), four of them no digits:")
            heard = listen(client, said, len(samples) / 16_000 / PACE + 1.0)
            status = client.get("/v1/status")
        finally:
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(10)
    expected = [s.phrase for s in said if s.phrase]
    health = status["microphone"]
    print(f"microphone {health['device']}: {health['rate']} Hz, {health['overruns']} overruns; ", end="")
    print(f"daemon: {status['rss_mib']} MiB, first block after {status['first_block_ms']:.0f} ms, exit code {code}")
    if heard == expected and code == 0:
        print(f"OK: {len(expected)} of {len(expected)} digits heard, and nothing else")
        return 0
    print(f"FAILED\n  expected {' '.join(expected)}\n  heard    {' '.join(heard)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
