"""Requests of several processes that wait for one limit: the oldest one goes first, and its process is woken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ipc.counters.counter_file import WAITS_UNTIL
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.other_waits import HEAD_START, PATIENCE, OtherWaits
from gateway.ipc.counters.plan import Allowance, Charge
from gateway.ipc.counters.subject import FRESH
from gateway.ipc.live_page import LivePage
from gateway.ipc.wake import BY_GATEWAY, WakePipe

CALLED, NOT_CALLED = bytes([BY_GATEWAY]), b""


class Process:
    """A gateway that takes from the limit on the concurrency of one key."""

    def __init__(self, page: LivePage, concurrency: int) -> None:
        self.page = page
        self.row = page.claim_row()
        self.pipe = WakePipe(self.row.wake_path)
        self.counters = LimitCounters(page, self.row)
        self.subject = self.counters.subject("key", "a")
        self.plan = self.counters.plan((self.subject, Allowance(concurrency=concurrency, kept=(1, 0, 0))))
        self.others = OtherWaits(self.plan, self.counters.waker)
        self.plan.look()

    def take(self) -> Charge:
        taken = self.plan.take()
        assert isinstance(taken, Charge)
        return taken

    def waits(self, since: float, *, gives_way: bool = False) -> None:
        self.plan.look()
        self.subject.wait_since(since, gives_way=gives_way)

    def first_before(self, since: float, *, gives_way: bool = False) -> bool:
        self.plan.look()
        return self.others.first_before(since, gives_way=gives_way) is not None

    def close(self) -> None:
        self.pipe.close()
        self.counters.waker.close()
        self.row.release()


class World:
    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.page = LivePage(directory / "page")
        self.page.counters.clock = lambda: self.now
        self.processes = [Process(self.page, 2) for _ in range(3)]

    def called(self) -> list[int]:
        """Return the processes that have been called."""
        return [number for number, process in enumerate(self.processes) if process.pipe.drain() == CALLED]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for process in made.processes:
        process.close()


def test_what_is_given_back_goes_to_the_process_whose_request_waits_longest(world: World) -> None:
    first, second, third = world.processes
    charges = [first.take(), first.take()]
    second.waits(world.now - 2)
    third.waits(world.now - 3)
    first.others.pass_on()
    assert world.called() == [], "there is no room"
    charges[0].settle()
    first.others.pass_on()
    assert world.called() == [2]


def test_a_younger_request_lets_the_oldest_one_go_first_and_calls_its_process(world: World) -> None:
    first, second, third = world.processes
    second.waits(world.now - 2)
    third.waits(world.now - 3)
    assert first.first_before(world.now)
    assert world.called() == [2]
    assert second.first_before(world.now - 2)
    assert world.called() == [2]
    assert not third.first_before(world.now - 3)
    assert not first.first_before(world.now - 3 - HEAD_START / 1000), "a small difference does not count"
    assert not first.first_before(world.now - 4)
    assert world.called() == []


def test_a_process_that_does_not_come_is_left_out_and_the_next_one_called(world: World) -> None:
    first, second, third = world.processes
    second.waits(world.now - 2)
    third.waits(world.now - 3)
    assert first.first_before(world.now)
    world.now += PATIENCE / 1000
    assert first.first_before(world.now)
    assert world.called() == [1, 2]
    world.now += PATIENCE / 1000
    assert not first.first_before(world.now)
    third.subject.wait_no_more(997.0)
    third.waits(world.now - 0.4)  # another request of it
    assert first.first_before(world.now)


def test_patience_begins_again_for_each_request_of_a_process(world: World) -> None:
    first, second, _ = world.processes
    for number in range(4):
        second.waits(world.now - 1)
        assert first.first_before(world.now), number
        second.subject.wait_no_more(world.now - 1)
        world.now += PATIENCE / 1000


def test_the_process_of_a_stopped_wait_is_not_called(world: World) -> None:
    first, second, _ = world.processes
    second.waits(world.now - 2)
    world.now += (FRESH + 2) / 1000
    assert not first.first_before(world.now)
    first.others.pass_on()
    assert world.called() == []
    assert world.page.counters.words[WAITS_UNTIL] == 0, "nobody need look at each subject any more"


def test_a_process_with_requests_of_its_own_serves_them_before_it_calls_others(world: World) -> None:
    first, second, _ = world.processes
    second.waits(world.now - 2)
    first.waits(world.now - 1)
    first.others.pass_on()
    assert world.called() == []
    assert first.first_before(world.now - 1)
    assert world.called() == [1]


def test_bulk_requests_go_last(world: World) -> None:
    first, second, third = world.processes
    second.waits(world.now - 9, gives_way=True)
    third.waits(world.now - 1)
    first.others.pass_on()
    assert world.called() == [2]
    assert first.first_before(world.now - 20, gives_way=True)
    assert world.called() == [2]
    assert second.first_before(world.now - 9, gives_way=True)
    third.subject.wait_no_more(world.now - 1)
    assert not first.first_before(world.now)
    assert first.first_before(world.now, gives_way=True)


def test_room_that_is_kept_from_bulk_requests_goes_to_an_interactive_one(world: World) -> None:
    first, second, third = world.processes
    charges = [first.take(), first.take()]
    first.waits(world.now - 8, gives_way=True)
    second.waits(world.now - 9, gives_way=True)
    charges[0].settle()
    first.others.pass_on()
    assert world.called() == [], "one of two is kept"
    third.waits(world.now - 1)
    first.others.pass_on()
    assert world.called() == [2], "although the process has a bulk request of its own"
    third.subject.wait_no_more(world.now - 1)
    first.subject.wait_no_more(world.now - 8)
    charges[1].settle()
    first.others.pass_on()
    assert world.called() == [1]


def test_a_bulk_request_lets_an_interactive_one_go_first_for_as_long_as_that_waits(world: World) -> None:
    first, second, _ = world.processes
    second.waits(world.now - 2)
    for _ in range(3):
        assert first.first_before(world.now - 9, gives_way=True)
        world.now += PATIENCE / 1000
    assert second.subject.has_interactive_wait()
    assert not first.subject.has_interactive_wait()
    world.now += FRESH / 1000
    assert not first.first_before(world.now - 9, gives_way=True)
    assert not second.subject.has_interactive_wait()


def test_only_the_published_wait_is_withdrawn(world: World) -> None:
    _, second, third = world.processes
    second.waits(world.now - 2)
    second.waits(world.now - 1)
    assert not second.subject.wait_no_more(world.now - 1)
    assert third.first_before(world.now - 1.5)
    assert second.subject.wait_no_more(world.now - 2)
    assert not third.first_before(world.now)


def test_a_killed_process_waits_no_more(world: World) -> None:
    first, second, _ = world.processes
    second.waits(world.now - 2)
    assert first.first_before(world.now)
    world.page.counters.clear(second.row.number)
    assert not first.first_before(world.now)
