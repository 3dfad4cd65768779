"""The use of limits, as a process that counts nothing itself reads it."""

from gateway.ipc.counters.counter_file import CELL_SECONDS
from gateway.ipc.counters.limit_use import LimitUse, limit_use
from gateway.ipc.counters.plan import Allowance
from tests.gateway.ipc.counters.conftest import taken

MANY = Allowance(concurrency=100, requests=1000, tokens=10_000)


def use_of(world, subject="a", level="key"):
    """Read it through another mapping of the file."""
    return limit_use(world.open().counters, level, subject)


def test_the_use_is_added_up_over_all_processes(world):
    first, second = world.start(), world.start()
    charges = [taken(counters, MANY, 10) for counters in (first, second, first)]
    assert use_of(world) == LimitUse(3, 3, 30)
    charges[0].settle(25)
    charges[1].cancel()
    assert use_of(world) == LimitUse(1, 2, 35)


def test_others_are_not_counted(world):
    taken(world.start(), MANY, 10)
    assert use_of(world, "b") == use_of(world, "a", "user") == LimitUse()


def test_a_minute_later_only_requests_in_flight_are_left(world):
    taken(world.start(), MANY, 10)
    world.clock.now += 60 + CELL_SECONDS
    assert use_of(world) == LimitUse(1, 0, 0)


def test_a_process_that_ended_has_nothing_in_flight(world):
    taken(world.start(), MANY, 10)
    world.restart()
    assert use_of(world) == LimitUse(0, 1, 10)
