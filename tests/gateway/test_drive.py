"""Coroutines that run without a Task."""

import asyncio
import gc
from typing import Any

import pytest

from gateway.drive import Drive, waiter
from tests.gateway.client import in_loop, soon


class Bell:
    """What a connection is to its request: awaited, and rung by somebody else."""

    def __init__(self):
        self.waiter: Any = None

    async def wait(self):
        self.waiter = waiter()
        await self.waiter

    def ring(self):
        if not self.waiter.done():
            self.waiter.set_result(None)


def drive(coroutine):
    """A running drive, and the list in which it will stand when it has ended."""
    ended: list[Drive] = []
    made = Drive(coroutine, asyncio.get_running_loop(), ended.append)
    made.start()
    return made, ended


@in_loop
async def test_it_begins_at_once():
    steps = []

    async def work():
        steps.append("here")

    made, ended = drive(work())
    assert (steps, ended, made.exception) == (["here"], [made], None)


@in_loop
async def test_it_goes_on_in_the_call_that_brings_what_it_waits_for():
    bell, steps = Bell(), []

    async def work():
        await bell.wait()
        steps.append("on")

    _, ended = drive(work())
    assert (steps, ended) == ([], [])
    bell.ring()
    assert steps == ["on"]
    assert ended


@in_loop
async def test_it_may_await_any_future():
    future = asyncio.get_running_loop().create_future()
    found = []

    async def work():
        found.append(await future)

    _, ended = drive(work())
    future.set_result("brought")
    await soon(lambda: ended)
    assert found == ["brought"]


@in_loop
async def test_a_future_that_failed_fails_where_it_is_awaited():
    future = asyncio.get_running_loop().create_future()

    async def work():
        await future

    made, ended = drive(work())
    future.set_exception(KeyError("lost"))
    await soon(lambda: ended)
    assert repr(made.exception) == "KeyError('lost')"


@in_loop
async def test_an_exception_ends_it_and_holds_no_frames():
    async def work():
        raise OSError("broken")

    made, ended = drive(work())
    assert ended == [made]
    assert (str(made.exception), made.exception.__traceback__) == ("broken", None)


@in_loop
async def test_cancelled_while_it_waits():
    bell, steps = Bell(), []

    async def work():
        try:
            await bell.wait()
        finally:
            steps.append("cleared up")

    made, ended = drive(work())
    made.cancel()
    assert not steps  # soon, not within the call: whoever cancels all may be walking over them
    await soon(lambda: ended)
    assert (steps, type(made.exception)) == (["cleared up"], asyncio.CancelledError)


@in_loop
async def test_cancelled_while_it_awaits_a_task_of_its_own():
    async def inner():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append("inner")
            raise

    async def work():
        task = asyncio.ensure_future(inner())
        try:
            await task
        finally:
            task.cancel()

    told: list[str] = []
    made, ended = drive(work())
    await asyncio.sleep(0)
    made.cancel()
    await soon(lambda: ended and told)


@in_loop
async def test_cancelling_what_has_ended_does_nothing():
    async def work():
        pass

    made, ended = drive(work())
    made.cancel()
    await asyncio.sleep(0.01)
    assert (ended, made.exception) == ([made], None)


@in_loop
async def test_a_future_that_comes_after_the_cancelling_wakes_nobody():
    future, bell, steps = asyncio.get_running_loop().create_future(), Bell(), []

    async def work():
        try:
            await future
        except asyncio.CancelledError:
            await bell.wait()
            steps.append("rung")

    made, ended = drive(work())
    future.set_result(None)  # its callback is on its way
    made._cancel()
    await asyncio.sleep(0.01)
    assert (steps, ended) == ([], [])
    bell.ring()
    assert ended


@in_loop
async def test_one_may_run_within_another():
    bells, steps = (Bell(), Bell()), []

    async def inner():
        await bells[1].wait()
        steps.append("inner")

    async def outer():
        drive(inner())
        await bells[0].wait()
        steps.append("outer")

    drive(outer())
    bells[0].ring()
    bells[1].ring()
    assert steps == ["outer", "inner"]


@in_loop
async def test_without_a_drive_a_task_waits_as_tasks_do():
    bell = Bell()
    task = asyncio.ensure_future(bell.wait())
    await asyncio.sleep(0)
    bell.ring()
    await task


@in_loop
async def test_nothing_is_left_to_the_collector():
    bell = Bell()

    async def work(failing):
        await bell.wait()
        if failing:
            raise ValueError

    gc.collect()
    for failing in (False, True) * 50:
        drive(work(failing))
        bell.ring()
    bell.waiter = None
    assert gc.collect() == 0


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
@in_loop
async def test_what_ends_the_process_is_not_held_up(ending):
    async def work():
        raise ending

    with pytest.raises(ending):
        drive(work())
