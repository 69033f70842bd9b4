"""Inputs made from good ones at random, for where there is no atheris: nothing is learnt from what was reached."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.fuzz.engine import LONGEST, MARK

PIECES = (
    *b'" { [ } ] null true -1 1e999 NaN \\u0000 \\ud800 \xff [[[[[[[[[[[[[[[[ () {} \r\n \n \0 % / : =  '.split(b" "),
    *(b"9" * 30, b"[" * 1200, b"a" * 64, b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b" "),
    *(MARK.encode(), str(2**63).encode(), b"-0", "\u00e9\ud7ff".encode()),
)


class Mutator:
    """Endless inputs from a seed; the same seed makes the same ones."""

    def __init__(self, goods: Sequence[bytes], tokens: Sequence[bytes], seed: int) -> None:
        self._chance = random.Random(seed)
        self._goods = [good for good in goods if good] or [b"\0"]
        self._pieces = (*PIECES, *tokens, *tokens)

    def next(self) -> bytes:
        """One input."""
        chance = self._chance
        if chance.random() < 0.03:
            return chance.randbytes(chance.randrange(200))
        data = bytearray(chance.choice(self._goods))
        for _ in range(1 + int(chance.expovariate(0.5))):
            self._change(data)
        return bytes(data[:LONGEST])

    def _change(self, data: bytearray) -> None:
        chance = self._chance
        at = chance.randrange(len(data) + 1)
        length = min(int(chance.expovariate(0.1)), len(data) - at)
        match chance.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.randrange(256)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = chance.choice(self._pieces)
            case 4:
                data[at : at + length] = chance.choice(self._pieces)
            case 5:
                data[at:at] = data[at : at + length] * chance.randrange(1, 4)
            case 6:
                other = chance.choice(self._goods)
                begin = chance.randrange(len(other))
                data[at:] = other[begin:]
            case _:
                del data[at:]
                data += chance.randbytes(chance.randrange(8))
