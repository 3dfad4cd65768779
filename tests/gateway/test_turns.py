import asyncio
from typing import Any

import pytest

from gateway.drive import Drive
from gateway.turns import Turns, at_once
from tests.gateway.client import in_loop

Log = list[Any]  # what was done, in its order


def slices(name, count, log):
    for number in range(count):
        log.append((name, number))
        yield
    return name


@in_loop
async def test_long_works_take_turns_of_one_slice_each():
    turns = Turns(asyncio.get_running_loop())
    log: Log = []
    found = list(await asyncio.gather(turns.run(slices("a", 2, log)), turns.run(slices("b", 2, log))))
    assert found == ["a", "b"]
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


@in_loop
async def test_other_callbacks_run_between_two_slices():
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    log: Log = []

    def tick():
        log.append("tick")
        if ("a", 4) not in log:
            loop.call_soon(tick)

    loop.call_soon(tick)
    await turns.run(slices("a", 5, log))
    for number in range(4):
        assert "tick" in log[log.index(("a", number)) : log.index(("a", number + 1))]


@in_loop
async def test_work_of_a_drive_has_turns_too():
    loop = asyncio.get_running_loop()
    turns, ended = Turns(loop), asyncio.Event()
    log: Log = []

    def note_end(_: Drive) -> None:
        if len(log) >= 4:
            ended.set()

    drives = [Drive(turns.run(slices(name, 2, log)), loop, note_end) for name in "ab"]
    for drive in drives:
        drive.start()
    await ended.wait()
    assert log == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


@in_loop
async def test_work_that_was_cancelled_keeps_no_other_from_its_turn():
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    log: Log = []
    first = Drive(turns.run(slices("a", 3, log)), loop, lambda _: None)
    first.start()
    first.throw(asyncio.CancelledError())
    assert await turns.run(slices("b", 2, log)) == "b"
    assert log == [("b", 0), ("b", 1)]
    assert isinstance(first.exception, asyncio.CancelledError)


@in_loop
async def test_a_fault_of_one_work_is_its_own():
    def failing():
        yield
        raise ValueError

    turns = Turns(asyncio.get_running_loop())
    log: Log = []
    found = await asyncio.gather(turns.run(failing()), turns.run(slices("b", 2, log)), return_exceptions=True)
    assert isinstance(found[0], ValueError)
    assert found[1] == "b"


def test_work_can_be_done_at_once():
    log: Log = []
    assert at_once(slices("a", 2, log)) == "a"
    assert log == [("a", 0), ("a", 1)]


@pytest.mark.parametrize("count", [0, 1])
@in_loop
async def test_the_first_slice_may_need_no_turn(count):
    turns = Turns(asyncio.get_running_loop())
    log: Log = []
    assert await turns.run_on(slices("a", count, log)) == "a"
    assert len(log) == count
