"""Results of health checks are stored together, and transitions at once."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.utils import timezone

from endpoints.checks import collector
from endpoints.checks.collector import Collector, Results
from endpoints.checks.result import Check
from endpoints.models import Kind
from endpoints.registry import Entry

LONG = 3600.0

Put = Callable[..., Awaitable[None]]


def some(name: str) -> Entry:
    return Entry(id=name, name=name, base_url="http://x.invalid", kind=Kind.VLLM)


class Store:
    """Remembers the names of each batch. The first batch can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, results: Results) -> None:
        self.started.set()
        assert self.go.wait(10)
        self.batches.append([entry.name for entry, _ in results])


def collect(store: Callable[[Results], None], story: Callable[[Put], Awaitable[None]]) -> None:
    """Run a story, which gets a function that puts a result: `put(name, urgent)`."""

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            collected = Collector(store, executor)
            task = asyncio.create_task(collected.run())

            async def put(name: str, urgent: bool = False) -> None:
                await collected.put(some(name), Check(True, 1, None, timezone.now()), urgent=urgent)

            try:
                async with asyncio.timeout(10):
                    await story(put)
            finally:
                task.cancel()

    asyncio.run(run())


def test_results_of_a_moment_are_stored_together() -> None:
    store = Store()

    async def story(put: Put) -> None:
        await asyncio.gather(put("a"), put("b"), put("c"))
        await put("d")

    collect(store, story)
    assert store.batches == [["a", "b", "c"], ["d"]]


def test_a_transition_is_stored_at_once_with_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "COLLECT_SECONDS", LONG)
    store = Store()

    async def story(put: Put) -> None:
        await asyncio.gather(put("a"), put("b", True))

    collect(store, story)
    assert store.batches == [["a", "b"]]


def test_the_next_batch_collects_while_one_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "COLLECT_SECONDS", LONG)
    store = Store()
    store.go.clear()

    async def story(put: Put) -> None:
        first = asyncio.ensure_future(put("a", True))
        await asyncio.to_thread(store.started.wait, 10)
        others = [asyncio.ensure_future(put(name, True)) for name in ("b", "c")]
        await asyncio.sleep(0)
        store.go.set()
        await asyncio.gather(first, *others)

    collect(store, story)
    assert store.batches == [["a"], ["b", "c"]]


def test_no_transaction_has_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_RESULTS", 2)
    monkeypatch.setattr(collector, "COLLECT_SECONDS", LONG)
    store = Store()

    async def story(put: Put) -> None:
        await asyncio.gather(*map(put, "abcdef"))

    collect(store, story)
    assert sorted(name for batch in store.batches for name in batch) == list("abcdef")
    assert max(map(len, store.batches)) == 2


def test_results_after_an_error_are_stored(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()

    def fails_once(results: Results) -> None:
        store(results)
        if len(store.batches) == 1:
            raise ZeroDivisionError

    async def story(put: Put) -> None:
        await put("a", True)
        await put("b", True)

    with caplog.at_level(logging.ERROR, "endpoints.checks"):
        collect(fails_once, story)
    assert store.batches == [["a"], ["b"]]
    assert "internal error" in caplog.text
