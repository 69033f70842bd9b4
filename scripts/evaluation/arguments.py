"""How good a bundle is on recordings it has never heard.

    scripts/evaluate --data DIR --json FILE [--plots DIR] [--only PARTS] [--size SIZE] [--bundle DIR] [--no-cache]
                     [--jobs N]

DIR holds recordings, none of which are part of the repository; any part may be missing (its figures are null, with the
reason):

    speech_commands/WORD/SPEAKER_nohash_N.flac    digits/DIGIT/DIGIT_SPEAKER_N.flac    phrases/PHRASE/N.flac
    coffee_orders/clean/N.flac                    noise/kitchen.flac

The base model's figures leave out every clip that its head was trained on (the bundle lists the digests of all of
them), and the report says how many that were. People and phrases that the bundle has heard are adapted to and taught
with models trained here without them (evaluation/personal/). A further phrase under phrases/ counts as speech that is
no wake word. music/ and radio/ may hold long recordings for the false accepts of a room where nobody speaks to the
device; without them Debian's music on hold and the spoken orders, back to back, stand in.

The part lived plays households through the device's own chain (docs/measuring.md), with the people of digits/,
speech_commands/ and arabic_words/WORD/SPEAKER_NO_N.opus, Debian's prompts and synthetic voices.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from options import some_of

PERSONAL = ("adapt", "taught", "poison", "household")
"""Parts that are about one person's speech."""
PARTS = ("base", *PERSONAL, "lived")
SIZES = ("quick", "default", "large")


def parse() -> argparse.Namespace:
    """The command line, or its help; needs no library."""
    parser = argparse.ArgumentParser(
        "evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plots", type=Path, help="folder for confusion matrices (needs matplotlib)")
    parser.add_argument("--bundle", default="builtin", help="folder of the bundle to judge (default: the one shipped)")
    parser.add_argument(
        "--only", default=",".join(PARTS), type=some_of(PARTS), help=f"some of {','.join(PARTS)} (default: all of them)"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="neither read nor write .cache/embeddings, models and lived"
    )
    parser.add_argument(
        "--size", choices=SIZES, default="default", help="how many households the part lived plays (default: default)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args()
