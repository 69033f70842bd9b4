"""Runs everything that touches keystore or vault on one thread: both may block for as long as a TPM or a disk likes.

On the event loop's side stands ``VaultThread``, which is all that service and control API see of it.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import TypeVar

from idiolect.errors import RequestError, TrustError
from idiolect.trust.device.keys import DeviceKeys, Finding, View
from idiolect.trust.vault.vault import Vault

FIRST_RETRY_S, LAST_RETRY_S = 5.0, 600.0
"""Waits between tries for keys that may come back: doubled each time. With keys, due work is looked for this rarely."""

T = TypeVar("T")


class KeysThread:
    """Runs calls one after the other. ``run`` is the thread's body; ``call`` is for the event loop."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Run calls until ``stop``; what a call raises goes to who awaits it."""
        while (call := self._calls.get()) is not None:
            call()

    def stop(self) -> None:
        """End after the calls that wait already."""
        self._calls.put(None)

    async def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the thread, and return its result or raise its exception.

        A call whose caller is gone before it has begun is not made at all: otherwise somebody who asks and hangs up,
        again and again, would keep the thread from everybody else. A caller that needs it made all the same has to
        shield it (``asyncio.shield``).
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():  # nobody waits any more
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            if future.cancelled():
                return
            try:
                outcome: tuple[T | None, BaseException | None] = (function(), None)
            except Exception as error:
                outcome = (None, error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, *outcome)

        self._calls.put(work)
        return await future


class VaultThread:
    """``DeviceKeys`` for the event loop: it opens it, tends it, and answers what the control API asks."""

    def __init__(self, custody: DeviceKeys, changed: Callable[[View], None]) -> None:
        """Prepare the thread; ``changed`` is told each new view, on the event loop.

        ``custody`` is for calls that ``ask`` runs on the thread.
        """
        self.custody = custody
        self._thread = KeysThread()
        self._changed = changed

    @property
    def view(self) -> View:
        """Return the latest view of keys and vault; any thread may ask."""
        return self.custody.view

    def run(self) -> None:
        """Run the thread's body; it ends with keys wiped and the vault closed."""
        try:
            self._thread.run()
        finally:
            self.custody.close()

    def stop(self) -> None:
        """End the thread after what it does."""
        self._thread.stop()

    async def keep(self) -> None:
        """Get the keys, and then do what is due now and then, for ever."""
        delay, last = FIRST_RETRY_S, self.view
        view = await self._thread.call(self.custody.open)
        while True:
            if view != last:
                last = view
                self._changed(view)
            delay = min(2 * delay, LAST_RETRY_S) if view.passing else LAST_RETRY_S
            await asyncio.sleep(delay)
            view = await self._thread.call(self.custody.tend)

    async def examine(self) -> list[Finding]:
        """Return what `doctor` is to show of vault and TPM."""
        return await self._thread.call(self.custody.examine)

    async def audit(self, limit: int) -> dict[str, object]:
        """Return the newest entries of the audit log, oldest first."""
        return await self.ask(lambda: self.custody.audit(limit))

    async def audit_verify(self) -> dict[str, object]:
        """Walk the whole audit log again, from the file, and return where it ends."""
        return await self.ask(self.custody.audit_verify)

    async def audit_export(self, nonce: bytes) -> dict[str, object]:
        """Return the audit log for others with, where a TPM is used, a quote that carries ``nonce``."""
        return await self.ask(lambda: self.custody.audit_export(nonce))

    async def attest(self, nonce: bytes) -> dict[str, object]:
        """Return a TPM's quote over what this boot measured, bound to ``nonce``."""
        return await self.ask(lambda: self.custody.attest(nonce))

    async def mark_good(self) -> dict[str, object]:
        """Make sure that a bundle older than this one never gets the keys again."""
        return await self.ask(self.custody.mark_good)

    @property
    def vault(self) -> Vault:
        """Return the open vault, for calls that ``ask`` runs. Raises ``VaultError`` while there is none."""
        return self.custody.vault

    async def ask(self, question: Callable[[], T]) -> T:
        """Run ``question`` on the thread, and return its result.

        Raises:
            RequestError: 503, for what the vault refuses.
        """
        try:
            return await self._thread.call(question)
        except TrustError as error:
            raise RequestError(503, "keys", f"{error}; {error.fix}") from None
