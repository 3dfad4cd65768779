"""Coroutines that run without a Task."""

import asyncio
import gc
from typing import Any

import pytest

from gateway.fast.coroutine_runner import CoroutineRunner, waiter
from tests.gateway.client import in_loop, wait_until


class Completion:
    """Something that a coroutine awaits and a test completes, as a connection does for its request."""

    def __init__(self):
        self.waiter: Any = None

    async def wait(self):
        self.waiter = waiter()
        await self.waiter

    def complete(self):
        if not self.waiter.done():
            self.waiter.set_result(None)


def start(coroutine):
    """Start a runner. Return it, and the list to which it is added at its end."""
    ended: list[CoroutineRunner] = []
    made = CoroutineRunner(coroutine, asyncio.get_running_loop(), ended.append)
    made.start()
    return made, ended


async def several_iterations() -> None:
    """Let the event loop run all callbacks that are due, and those that these add."""
    for _ in range(5):
        await asyncio.sleep(0)


@in_loop
async def test_it_starts_at_once():
    steps = []

    async def work():
        steps.append("here")

    made, ended = start(work())
    assert (steps, ended, made.exception) == (["here"], [made], None)


@in_loop
async def test_it_resumes_in_the_call_that_completes_its_wait():
    bell, steps = Completion(), []

    async def work():
        await bell.wait()
        steps.append("on")

    _, ended = start(work())
    assert (steps, ended) == ([], [])
    bell.complete()
    assert steps == ["on"]
    assert ended


@in_loop
async def test_it_may_await_any_future():
    future = asyncio.get_running_loop().create_future()
    results = []

    async def work():
        results.append(await future)

    _, ended = start(work())
    future.set_result("brought")
    await wait_until(lambda: ended)
    assert results == ["brought"]


@in_loop
async def test_a_failed_future_raises_where_it_is_awaited():
    future = asyncio.get_running_loop().create_future()

    async def work():
        await future

    made, ended = start(work())
    future.set_exception(KeyError("lost"))
    await wait_until(lambda: ended)
    assert repr(made.exception) == "KeyError('lost')"


@in_loop
async def test_an_exception_ends_it_and_holds_no_frames():
    async def work():
        raise OSError("broken")

    made, ended = start(work())
    assert ended == [made]
    assert (str(made.exception), made.exception.__traceback__) == ("broken", None)


@in_loop
async def test_cancelled_while_it_waits():
    bell, steps = Completion(), []

    async def work():
        try:
            await bell.wait()
        finally:
            steps.append("cleared up")

    made, ended = start(work())
    made.cancel()
    assert not steps  # not within the call: the caller may iterate over all runners
    await wait_until(lambda: ended)
    assert (steps, type(made.exception)) == (["cleared up"], asyncio.CancelledError)


@in_loop
async def test_cancelled_while_it_awaits_a_task():
    async def inner():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            steps.append("inner")
            raise

    async def work():
        task = asyncio.ensure_future(inner())
        try:
            await task
        finally:
            task.cancel()

    steps: list[str] = []
    made, ended = start(work())
    await asyncio.sleep(0)
    made.cancel()
    await wait_until(lambda: ended and steps)


@in_loop
async def test_cancelling_an_ended_runner_does_nothing():
    async def work():
        pass

    made, ended = start(work())
    made.cancel()
    await several_iterations()
    assert (ended, made.exception) == ([made], None)


@in_loop
async def test_a_future_that_is_done_after_the_cancellation_resumes_nothing():
    future, bell, steps = asyncio.get_running_loop().create_future(), Completion(), []

    async def work():
        try:
            await future
        except asyncio.CancelledError:
            await bell.wait()
            steps.append("rung")

    made, ended = start(work())
    future.set_result(None)  # its callback is scheduled
    made._cancel()
    await several_iterations()
    assert (steps, ended) == ([], [])
    bell.complete()
    assert ended


@in_loop
async def test_one_may_run_within_another():
    bells, steps = (Completion(), Completion()), []

    async def inner():
        await bells[1].wait()
        steps.append("inner")

    async def outer():
        start(inner())
        await bells[0].wait()
        steps.append("outer")

    start(outer())
    bells[0].complete()
    bells[1].complete()
    assert steps == ["outer", "inner"]


@in_loop
async def test_a_task_waits_by_a_future():
    bell = Completion()
    task = asyncio.ensure_future(bell.wait())
    await asyncio.sleep(0)
    bell.complete()
    assert await task is None


@in_loop
async def test_it_leaves_no_reference_cycle():
    bell = Completion()

    async def work(failing):
        await bell.wait()
        if failing:
            raise ValueError

    gc.collect()
    for failing in (False, True) * 50:
        start(work(failing))
        bell.complete()
    bell.waiter = None
    assert gc.collect() == 0


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
@in_loop
async def test_exceptions_that_end_the_process_pass_through(ending):
    async def work():
        raise ending

    with pytest.raises(ending):
        start(work())
