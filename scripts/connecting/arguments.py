"""Many clients at once: how late are they told, and what does the daemon grow by? Prints JSON, and ends by itself.

Wyoming clients stream speech in real time, each its own, and get a `detection` for the word that they wait for: its
delay counts from when the sample that ends the word was sent. Listeners follow /v1/events: the delay of an event counts
from its time in the daemon to its arrival. Memory is the daemon's resident set before anybody has ever come, and the
most that it is while they are there.
"""

from __future__ import annotations

import argparse


def parse() -> argparse.Namespace:
    """The command line of load_clients, or its help; needs no library."""
    parser = argparse.ArgumentParser(
        "load_clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20, help="Wyoming clients, 1 to 64")
    parser.add_argument("--listeners", type=int, default=50, help="listeners to events, up to 128")
    parser.add_argument("--seconds", type=float, default=30.0, help="of sound from each client")
    parser.add_argument("--rounds", type=int, default=3, help="how often they all come: memory must not go on growing")
    return parser.parse_args()


if __name__ == "__main__":
    parse()
