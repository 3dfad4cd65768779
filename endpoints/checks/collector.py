"""Collector of health checks: stores the results of a moment together, in one transaction."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from endpoints.checks.result import Check
from endpoints.registry import Entry

log = logging.getLogger(__name__)

COLLECT_SECONDS = 0.2  # a result that changes no status waits so long for others
SPACING_SECONDS = 0.1  # between the starts of two transactions, so that many changes of status share them
MAX_RESULTS = 500  # in one transaction, so that no other writer waits long

Results = list[tuple[Entry, Check]]


class Collector:
    """Results that wait to be stored. It belongs to one event loop; `store` runs in a thread of the executor."""

    def __init__(self, store: Callable[[Results], None], executor: Executor) -> None:
        self._store = store
        self._executor = executor
        self._waiting: Results = []
        self._stored: asyncio.Future[None] | None = None  # set when the waiting results are stored
        self._due = asyncio.Event()

    async def put(self, entry: Entry, result: Check, *, urgent: bool) -> None:
        """Return when the result is stored. An urgent one is stored with all that wait, within SPACING_SECONDS."""
        loop = asyncio.get_running_loop()
        if self._stored is None:
            self._stored = loop.create_future()
            loop.call_later(COLLECT_SECONDS, self._due.set)
        self._waiting.append((entry, result))
        stored = self._stored
        if urgent or len(self._waiting) >= MAX_RESULTS:
            self._due.set()
        await asyncio.shield(stored)  # others wait for it too

    async def run(self) -> None:
        """Store results until cancelled. While a batch is stored, the next one collects."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            await self._due.wait()
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            next_at = loop.time() + SPACING_SECONDS
            self._due.clear()
            if self._stored is None:
                continue  # the timer of a batch that an urgent result has completed
            results, stored = self._waiting, self._stored
            self._waiting, self._stored = [], None
            try:
                for start in range(0, len(results), MAX_RESULTS):
                    await loop.run_in_executor(self._executor, self._store, results[start : start + MAX_RESULTS])
            except Exception:
                log.exception("internal error while health checks were stored")
            finally:
                stored.set_result(None)
