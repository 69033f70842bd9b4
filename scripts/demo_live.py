"""The demo: a measured idiolectd hears people through a real ALSA microphone; exit 0 only if all went right.

The microphone is an ALSA plugin (tests/support/alsa) that plays recordings of Debian's: a woman reading digits and
words (asterisk-core-sounds-en-wav) and a man naming loudspeakers (alsa-utils). The wake word, which none of them says,
comes from a synthetic voice (espeak-ng). The TPM is one in software (swtpm).
Everything between them is the product, driven by its own command line. What she teaches is in demo_learn.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo_learn import learn  # noqa: E402
from demo_trust import WAKE, Board  # noqa: E402
from idiolect.client import Client  # noqa: E402
from tests.support.alsa.wavmic import WavMic  # noqa: E402
from tests.support.speech import DIGITS, SOUNDS, recording, synthetic  # noqa: E402

CHANNELS = Path("/usr/share/sounds/alsa")
ORDER = (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)
BESIDES = {1: "hello", 3: "Front_Center", 5: "goodbye", 7: "Side_Left"}
"""What else is said, and after how many digits: none of it is a digit, so none of it may be reported."""
PAUSE_S = 0.45
PACE = 1.6
"""The microphone runs so much faster than life, which changes the waiting and not one sample."""


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

    def say(samples: np.ndarray, what: str, phrase: str) -> None:
        start = sum(map(len, parts)) / 16_000
        parts.append(samples)
        said.append(Said(what, phrase, start, start + len(parts[-1]) / 16_000))
        silence(PAUSE_S)

    silence(1.0)
    for count, number in enumerate(ORDER, 1):
        say(recording(SOUNDS / "digits" / f"{number}.wav"), f"“{DIGITS[number]}”", DIGITS[number])
        if other := BESIDES.get(count):
            folder = CHANNELS if other[0].isupper() else SOUNDS
            say(recording(folder / f"{other}.wav"), f"“{other.replace('_', ' ').lower()}”", "")
    say(synthetic(WAKE), f"“{WAKE}” (synthetic)", WAKE)
    silence(1.0)
    return np.concatenate(parts), said


def tell(event: dict[str, Any], said: list[Said]) -> None:
    """One line for an event."""
    end = float(event["end"]) / 16_000
    then = next((s.what for s in said if s.start < end <= s.end + PAUSE_S), "silence")
    print(
        f"     {end:6.2f} s  {event['kind']:6} {event['phrase']!s:8}"
        f" score {float(event['score']):.2f} (needs {float(event['threshold']):.2f})   while playing {then}",
        flush=True,
    )


def listen(client: Client, mic: WavMic, said: list[Said], samples: int) -> list[str]:
    """Print events as they come in, until the microphone has played so many samples; return the phrases."""
    told: set[str] = set()
    with contextlib.suppress(TimeoutError):
        for event in client.events(seconds=samples / 16_000 / PACE + 1.0):
            if event.kind in ("wake", "phrase"):
                told.add(str(event.data["id"]))
                tell({"kind": event.kind, **event.data}, said)
    while mic.heard < samples:  # on a busy machine it plays more slowly
        time.sleep(0.1)
    time.sleep(0.1)  # from the microphone to the event
    recent = [event for event in client.get("/v1/events/recent")["events"] if event["kind"] in ("wake", "phrase")]
    for event in recent:
        if str(event["id"]) not in told:
            tell(event, said)
    return [str(event["phrase"]) for event in recent]


def hear(board: Board, samples: np.ndarray, said: list[Said]) -> bool:
    """Let a measured daemon hear the recordings; whether it heard exactly the wake word and the digits."""
    (board.folder / "talk.raw").write_bytes(samples.astype("<i2").tobytes())
    mic = WavMic(board.folder, board.folder / "talk.raw", speed=PACE)
    with board.daemon(mic.device, mic.environment) as daemon:
        status = daemon.with_keys()
        print(f"   keys: {status['keys']['text']}")
        print(f"   playing {len(said)} recordings through ALSA ({PACE:g} x real time): digits, others, a wake word:")
        heard = listen(daemon.client, mic, said, len(samples))
        status = daemon.client.get("/v1/status")
    expected = [s.phrase for s in said if s.phrase]
    health = status["microphone"]
    print(f"   microphone {health['device']}: {health['rate']} Hz, {health['overruns']} overruns; ", end="")
    print(f"daemon: {status['rss_mib']} MiB, first block after {status['first_block_ms']:.0f} ms")
    if heard == expected and status["keys"]["state"] == "released":
        return True
    print(f"FAILED\n  expected {' '.join(expected)}\n  heard    {' '.join(heard)}")
    return False


def main() -> int:
    """Run the demo; 0 if what was said was heard and no more, and the keys went to nobody but the signed model."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="idiolect-demo-") as name, Board(Path(name)) as board:
        print("1. An integrator makes keys and signs two versions of the model")
        board.sign()
        print("2. A board with a TPM (swtpm) is provisioned, and both versions are installed")
        board.provision()
        print("3. idiolectd starts, measures the model, and listens")
        samples, said = compose()
        if not hear(board, samples, said):
            return 1
        print("4. Somebody flips one byte of the model on the disk")
        if not board.tampered():
            return 1
        print("5. The byte is put back, and the power cycled")
        if not board.restored():
            return 1
        print("6. Somebody agrees, and teaches the board a phrase of her own")
        if not learn(board):
            return 1
    print(
        f"OK: the wake word and {len(ORDER)} of {len(ORDER)} digits heard and nothing else; "
        "keys for the signed model only; a phrase taught, corrected, learnt from, proven and forgotten"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
