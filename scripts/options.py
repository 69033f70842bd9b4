"""What the command lines of several programs here share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """For argparse: a list with commas between its names, each of which has to be ``known``."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if wrong := [each for each in chosen if each not in known]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
        return chosen

    return parse
