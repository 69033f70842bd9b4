"""The thread that owns the vault: whom it works for, and for whom no more."""

from __future__ import annotations

import asyncio
import threading

from idiolect.trust.device.vault_thread import KeysThread


def run(scenario):
    """In an event loop beside a thread of keys."""
    keys = KeysThread()
    thread = threading.Thread(target=keys.run)
    thread.start()
    try:
        return asyncio.run(asyncio.wait_for(scenario(keys), 60))
    finally:
        keys.stop()
        thread.join(60)


def test_what_nobody_waits_for_any_more_is_not_begun():
    """Else clients that ask for much and hang up keep everybody else from the vault."""
    free, done = threading.Event(), []

    async def scenario(keys):
        first = asyncio.ensure_future(keys.call(lambda: free.wait(10)))
        gone = [asyncio.ensure_future(keys.call(lambda: done.append("gone"))) for _ in range(3)]
        shielded = asyncio.ensure_future(asyncio.shield(keys.call(lambda: done.append("shielded"))))
        await asyncio.sleep(0)
        for task in (*gone, shielded):
            task.cancel()
        await asyncio.gather(*gone, shielded, return_exceptions=True)
        free.set()
        assert await first
        return await keys.call(lambda: "the next")

    assert run(scenario) == "the next"
    assert done == ["shielded"]


def test_what_has_begun_is_brought_to_its_end():
    begun, free, done = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        free.wait(10)
        done.append("all of it")

    async def scenario(keys):
        call = asyncio.ensure_future(keys.call(work))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        free.set()
        await keys.call(lambda: None)

    run(scenario)
    assert done == ["all of it"]
