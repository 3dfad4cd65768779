import asyncio
from typing import Any

import pytest

from gateway.fast.coroutine_runner import CoroutineRunner
from gateway.loop.time_slices import TimeSlices, run_unsliced
from tests.gateway.client import in_loop

Log = list[Any]  # all steps, in their order


def slices(name, count, log):
    for number in range(count):
        log.append((name, number))
        yield
    return name


@in_loop
async def test_long_computations_alternate_by_slice():
    scheduler = TimeSlices(asyncio.get_running_loop())
    log: Log = []
    results = list(await asyncio.gather(scheduler.run(slices("a", 2, log)), scheduler.run(slices("b", 2, log))))
    assert results == ["a", "b"]
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


@in_loop
async def test_other_callbacks_run_between_two_slices():
    loop = asyncio.get_running_loop()
    scheduler = TimeSlices(loop)
    log: Log = []

    def tick():
        log.append("tick")
        if ("a", 4) not in log:
            loop.call_soon(tick)

    loop.call_soon(tick)
    await scheduler.run(slices("a", 5, log))
    for number in range(4):
        assert "tick" in log[log.index(("a", number)) : log.index(("a", number + 1))]


@in_loop
async def test_a_coroutine_runner_can_run_slices():
    loop = asyncio.get_running_loop()
    scheduler, ended = TimeSlices(loop), asyncio.Event()
    log: Log = []

    def note_end(_: CoroutineRunner) -> None:
        if len(log) >= 4:
            ended.set()

    runners = [CoroutineRunner(scheduler.run(slices(name, 2, log)), loop, note_end) for name in "ab"]
    for runner in runners:
        runner.start()
    await ended.wait()
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


@in_loop
async def test_cancelled_work_blocks_no_other():
    loop = asyncio.get_running_loop()
    scheduler = TimeSlices(loop)
    log: Log = []
    first = CoroutineRunner(scheduler.run(slices("a", 3, log)), loop, lambda _: None)
    first.start()
    first.throw(asyncio.CancelledError())
    assert await scheduler.run(slices("b", 2, log)) == "b"
    assert log == [("b", 0), ("b", 1)]
    assert isinstance(first.exception, asyncio.CancelledError)


@in_loop
async def test_an_error_of_one_work_does_not_affect_others():
    def failing():
        yield
        raise ValueError

    scheduler = TimeSlices(asyncio.get_running_loop())
    log: Log = []
    results = await asyncio.gather(scheduler.run(failing()), scheduler.run(slices("b", 2, log)), return_exceptions=True)
    assert isinstance(results[0], ValueError)
    assert results[1] == "b"


def test_work_can_be_done_at_once():
    log: Log = []
    assert run_unsliced(slices("a", 2, log)) == "a"
    assert log == [("a", 0), ("a", 1)]


@pytest.mark.parametrize("count", [0, 1])
@in_loop
async def test_the_first_slice_may_run_at_once(count):
    scheduler = TimeSlices(asyncio.get_running_loop())
    log: Log = []
    assert await scheduler.start_now(slices("a", count, log)) == "a"
    assert len(log) == count
