"""Requests leave no garbage behind, and take little memory."""

import gc
import sys
import tracemalloc
from collections.abc import Iterator

import pytest

from gateway.fast.coroutine_runner import PLAIN_TASKS
from tests.gateway.running import Running, gateway_in_a_thread

pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.skipif(PLAIN_TASKS, reason="a Task refers to itself while it runs"),
]
MOST_BYTES = 10_000  # of a request: 8,264 on Python 3.11


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway_in_a_thread(tmp_path_factory.mktemp("garbage")) as made:
        yield made


def test_a_request_takes_little_memory(running: Running) -> None:
    tracemalloc.start()
    try:
        running.plain(50)
        peaks = []
        for _ in range(5):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            running.plain(50)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert min(peaks) <= MOST_BYTES


def test_requests_leave_no_garbage(running: Running) -> None:
    """Requests leave no reference cycles and no additional objects, and streams no reference cycles."""
    number, streams = 10_000, 100
    gc.collect()
    gc.disable()
    try:
        running.plain(1000)  # the collector has emptied the interpreter's free lists
        running.stream(200)
        blocks = sys.getallocatedblocks()
        running.plain(number)
        running.stream(200)
        grown = sys.getallocatedblocks() - blocks
        for _ in range(streams):
            running.stream(1)
        collected = gc.collect()
    finally:
        gc.enable()
    assert collected < streams / 2
    assert grown < number / 100
