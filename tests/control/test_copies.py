"""Whose turn it is to bring or take megabytes."""

from __future__ import annotations

import asyncio
import json

import pytest

from idiolect.control import copies
from idiolect.control.copies import Copies
from idiolect.control.server import Limits
from idiolect.errors import RequestError
from idiolect.host.structure import Source
from tests.support.fake_daemon import running

HALF = (
    b"POST /v1/import HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    + b'{"profile": "ann"'
)


def test_turns_come_in_the_order_of_coming_and_each_caller_has_one_place() -> None:
    async def story() -> None:
        turns, served = Copies(60.0), []

        async def come(who: str, times: int) -> None:
            for _ in range(times):
                async with turns.turn(who):
                    served.append(who)
                    await asyncio.sleep(0)

        await asyncio.gather(come("greedy", 5), come("ann", 1), come("ben", 1))
        assert served[:3] == ["greedy", "ann", "ben"]
        async with turns.turn("ann"):
            with pytest.raises(RequestError, match="another copy"):
                async with turns.turn("ann"):
                    pytest.fail("two at once")
            waiting = [asyncio.ensure_future(come(f"{number}", 1)) for number in range(copies.PLACES - 1)]
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="another copy"):
                async with turns.turn("one more"):
                    pytest.fail("too many")
            waiting[0].cancel()  # who hangs up leaves its place
            await asyncio.sleep(0)
            late = asyncio.ensure_future(come("late", 1))
        await asyncio.gather(*waiting[1:], late)
        assert served[-1] == "late"

    asyncio.run(story())


def test_who_waits_too_long_is_told_so_and_what_was_brought_is_given_back() -> None:
    async def story() -> None:
        turns, raw = Copies(0.05), bytearray(1000)
        async with turns.turn("ann"):
            turns.holds(Source(raw))
            with pytest.raises(RequestError, match="another copy"):
                async with turns.turn("ben"):
                    pytest.fail("two at once")
            assert len(raw) == 1000
        assert len(raw) == 0
        async with turns.turn("ben"):  # nobody holds it
            pass

    asyncio.run(story())


def test_who_opens_half_a_copy_has_others_wait_and_not_turned_away(path) -> None:
    """On the socket: one Unix user's second request is refused while its first is half said; the next one is served."""
    with running(path, limits=Limits(request_s=0.3)) as run:
        with run.connect() as half:
            half.sendall(HALF)
            while not run.server.bringing:
                pass
            head = HALF.partition(b"Content-Length")[0]
            body = json.dumps({"profile": "ann", "document": {}}).encode()
            whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            assert run.send(whole)[0] == 503
            answer = b""
            while piece := half.recv(65_536):
                answer += piece
            assert answer.startswith(b"HTTP/1.1 408 ")
        assert run.send(whole)[0] != 503
