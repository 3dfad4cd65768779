import asyncio

from gateway.loop.rest import Rest
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
