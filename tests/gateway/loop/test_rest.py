import asyncio
from functools import partial
from types import SimpleNamespace

import pytest

from gateway.loop.rest import Pauses, Rest, until_next
from tests.gateway.client import in_loop

LONG = 600.0


class Work:
    """Periodic work, and the question whether there may be more of it."""

    def __init__(self):
        self.busy = False
        self.rest = Rest(lambda: self.busy)
        self.runs = 0
        self.found: list[int] = []  # runs at the end of each rest
        self.rest.on_wake(lambda: self.found.append(self.runs))

    async def repeat(self, seconds):
        while True:
            await self.rest.sleep(seconds)
            self.runs += 1


async def started(work, seconds):
    task = asyncio.create_task(work.repeat(seconds))
    await asyncio.sleep(0)
    return task


@in_loop
async def test_busy_work_runs_at_its_own_pace():
    work = Work()
    work.busy = True
    task = await started(work, 0)
    while work.runs < 10:
        await asyncio.sleep(0)
    assert not work.rest.resting
    task.cancel()


@in_loop
async def test_a_rest_ends_when_a_client_connects():
    work = Work()
    task = await started(work, LONG)
    assert work.rest.resting
    work.rest.wake()
    assert (work.rest.resting, work.found) == (False, [0])
    while not work.runs:
        await asyncio.sleep(0)
    task.cancel()


@in_loop
async def test_all_work_ends_its_rest_at_once():
    work = Work()
    tasks = [await started(work, LONG) for _ in range(3)]
    work.rest.wake()
    while work.runs < 3:
        await asyncio.sleep(0)
    assert work.found == [0]
    for task in tasks:
        task.cancel()


@in_loop
async def test_a_rest_has_an_end(monkeypatch):
    monkeypatch.setattr("gateway.loop.rest.REST_SECONDS", 0.01)
    work = Work()
    task = await started(work, 0)
    while work.runs < 2:
        await asyncio.sleep(0.001)
    assert work.rest.resting
    assert not work.found
    task.cancel()


@in_loop
async def test_work_that_has_become_busy_ends_the_rest(monkeypatch):
    monkeypatch.setattr("gateway.loop.rest.REST_SECONDS", 0.01)
    work = Work()
    task = await started(work, 0)
    work.busy = True
    while work.runs < 2:
        await asyncio.sleep(0.001)
    assert (work.rest.resting, len(work.found)) == (False, 1)
    task.cancel()


@in_loop
async def test_waking_without_a_rest_does_nothing():
    work = Work()
    work.rest.wake()
    assert not work.found


# Multiples of a period


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, in seconds."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr("gateway.loop.rest.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.mark.parametrize(
    ("now", "period", "pause"),
    [
        (1000.0, 1.0, 1.0),
        (1000.25, 1.0, 0.75),
        (1000.25, 0.5, 0.25),
        (1000.9999, 1.0, 0.001),
        (1001.0001, 1.0, 1.0),
        (1001.0, 2.0, 1.0),
        (1000.0004, 0.0001, 0.001),
    ],
)
def test_work_waits_for_the_next_multiple_of_its_period(clock, now, period, pause):
    clock.now = now
    assert until_next(period) == pytest.approx(pause, abs=1e-9)


def test_works_that_begin_at_different_moments_run_at_once(clock):
    due = set()
    for clock.now in (1000.1, 1000.3004, 1000.5017, 1000.9999):
        due.add(round(int(clock.now * 1000) + until_next(1.0) * 1000))
    assert due == {1_001_000}


@in_loop
async def test_a_rest_ends_at_a_multiple_of_its_period(clock, monkeypatch):
    clock.now = 1000.25
    work, slept = Work(), list[float]()
    monkeypatch.setattr(work.rest._pauses, "sleep", partial(noted, slept))
    await work.rest.sleep(0.05)
    await work.rest.sleep(0.5)
    await work.rest.sleep(10.0)
    assert slept == [0.75, 0.75, 9.75]


async def noted(slept, seconds):
    slept.append(seconds)


@in_loop
async def test_a_sleep_ends_by_itself_or_is_ended():
    pauses, ended = Pauses(), []

    async def sleep(seconds):
        await pauses.sleep(seconds)
        ended.append(seconds)

    await sleep(0.001)
    tasks = [asyncio.create_task(sleep(LONG)) for _ in range(2)]
    await asyncio.sleep(0)
    pauses.end()
    pauses.end()
    await asyncio.gather(*tasks)
    assert ended == [0.001, LONG, LONG]
    assert not pauses._sleepers


@in_loop
async def test_a_cancelled_sleep_is_forgotten():
    pauses = Pauses()
    task = asyncio.create_task(pauses.sleep(LONG))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not pauses._sleepers
    pauses.end()
