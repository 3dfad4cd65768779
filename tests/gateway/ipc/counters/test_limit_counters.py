"""Limits of several processes, with a fake clock."""

from array import array

import pytest

from gateway.ipc.counters import places
from gateway.ipc.counters import plan as plans
from gateway.ipc.counters.counter_file import CELL_SECONDS, MAX_REQUESTS_IN_CELL, PLACE_WORDS, REQUEST_CELLS
from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.plan import CONCURRENCY, REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, Allowance, Charge, Excess
from gateway.ipc.live_page import memory_barrier
from tests.gateway.ipc.counters.conftest import most, take, taken

ONE = Allowance(concurrency=1)
FOUR = Allowance(concurrency=4)
TEN_REQUESTS = Allowance(requests=10)
TOKENS_100 = Allowance(tokens=100)


@pytest.fixture
def two(world):
    """Two processes."""
    return world.start(), world.start()


# Requests in flight


def test_concurrency_holds_over_all_processes(two):
    first, second = two
    charges = [taken(counters, FOUR) for counters in (first, second, first, second)]
    assert [take(first, FOUR), take(second, FOUR)] == [CONCURRENCY, CONCURRENCY]
    charges[0].settle()
    assert isinstance(take(second, FOUR), Charge)
    assert take(first, FOUR) == CONCURRENCY


def test_without_a_limit_nothing_is_left(two):
    plan = two[0].plan()
    assert (plan.left(), plan.with_room(), plan.look(5)) == ([], {}, None)
    charge = plan.take(5)
    assert isinstance(charge, Charge)
    charge.settle(3)


def test_subjects_do_not_share_a_limit(two):
    first, second = two
    taken(first, ONE, subject="a")
    taken(second, ONE, subject="b")
    assert take(first, ONE, subject="b") == take(second, ONE, subject="a") == CONCURRENCY


def test_limits_of_the_same_amount_are_different_limits(two):
    both = Allowance(requests=3, tokens=3)
    assert most(two[0], both, tokens=1) == 3
    assert take(two[1], both) == REQUESTS_PER_MINUTE
    assert take(two[1], Allowance(requests=5, tokens=5), tokens=3) == TOKENS_PER_MINUTE


def test_levels_do_not_share_a_limit(two):
    for level in ("key", "user"):
        assert isinstance(two[0].plan((two[0].subject(level, "a"), ONE)).take(), Charge)


def test_a_charge_ends_once(two):
    first, second = two
    charge = taken(first, FOUR)
    for end in (charge.settle, charge.settle, charge.cancel):
        end()
    assert most(second, FOUR) == 4


def test_a_limit_lowered_below_its_use_admits_none_until_it_fits(two):
    first, second = two
    charges = [taken(first, FOUR) for _ in range(3)]
    assert take(second, Allowance(concurrency=2)) == CONCURRENCY
    for charge in charges[:2]:
        charge.settle()
    assert most(second, Allowance(concurrency=2)) == 1


def test_a_limit_of_zero_admits_none(two):
    assert take(two[0], Allowance(concurrency=0)) == CONCURRENCY
    assert take(two[0], Allowance(requests=0)) == REQUESTS_PER_MINUTE


def test_requests_of_a_dead_process_are_void(two, world):
    first, second = two
    for _ in range(4):
        taken(first, FOUR)
    assert take(second, FOUR) == CONCURRENCY
    world.page.counters.clear(0)  # as the supervisor does
    assert most(second, FOUR) == 4


def test_a_place_found_before_another_process_counts_is_not_the_last_word(two):
    """A process looks for a subject again when another one gets a place for it."""
    first, second = two
    assert most(first, ONE) == 1
    plan = second.plan((second.subject("key", "b"), ONE))
    plan.take().settle()
    taken(first, ONE, subject="b")
    assert plan.take().limit == CONCURRENCY


# The last minute


def test_requests_of_any_minute_are_limited(two, world):
    """Three times the allowed load for five minutes: no minute has more, and the limit is nearly used."""
    times = []
    for step in range(3 * 50):
        world.clock.now = 30_000.0 + step * 2.0
        charge = take(two[step % 2], TEN_REQUESTS)
        if isinstance(charge, Charge):
            times.append(world.clock.now)
            charge.settle()
    assert all(sum(start <= time < start + 60 for time in times) <= 10 for start in times)
    assert 45 <= len(times) <= 50


def test_counts_leave_after_a_minute(two, world):
    first, second = two
    assert most(first, TEN_REQUESTS) == 10
    world.clock.now += 60.0
    assert take(second, TEN_REQUESTS) == REQUESTS_PER_MINUTE
    world.clock.now += CELL_SECONDS
    assert most(second, TEN_REQUESTS) == 10


def test_counts_that_were_added_since_the_cells_were_added_up_are_seen(two):
    plans = [counters.plan((counters.subject("key", "a"), TEN_REQUESTS)) for counters in two]
    for _ in range(5):
        for plan in plans:
            plan.take().settle()
    assert [plan.take().limit for plan in plans] == [REQUESTS_PER_MINUTE] * 2


def test_cells_are_used_again_and_again(two, world):
    for _ in range(100):
        assert most(two[0], TEN_REQUESTS) == 10
        world.clock.now += 63.0


def test_a_refused_request_consumes_nothing(two, world):
    first, second = two
    both = Allowance(concurrency=1, requests=10, tokens=100)
    charge = taken(first, both, 10)
    for _ in range(50):
        assert take(second, both, 10) == CONCURRENCY
    charge.settle(10)
    for _ in range(9):
        taken(second, both, 10).settle(10)
    assert take(first, both, 10) == REQUESTS_PER_MINUTE


def test_a_cancelled_request_consumes_nothing_once_cells_are_added_up(two, world):
    first, second = two
    for _ in range(10):
        taken(first, TEN_REQUESTS, 7).cancel()
    assert most(second, Allowance(requests=10, tokens=10), 1) == 10


def test_the_counts_of_a_dead_process_remain_in_the_minute(two, world):
    first, second = two
    assert most(first, TEN_REQUESTS) == 10
    world.page.counters.clear(0)
    assert take(second, TEN_REQUESTS) == REQUESTS_PER_MINUTE
    world.clock.now += 63.0
    assert most(second, TEN_REQUESTS) == 10


def test_the_successor_in_a_row_continues_its_counts(two, world):
    first, second = two
    assert most(first, TEN_REQUESTS) == 10
    world.clock.now += 30.0
    again = world.restart()
    assert take(again, TEN_REQUESTS) == take(second, TEN_REQUESTS) == REQUESTS_PER_MINUTE
    world.clock.now += 33.0
    assert most(again, TEN_REQUESTS) == 10
    assert take(second, TEN_REQUESTS) == REQUESTS_PER_MINUTE


def test_counts_survive_a_restart_of_everything(two, world):
    assert most(two[0], TEN_REQUESTS) == 10
    for row in world.rows:
        row.release()
    world.page = world.open()
    world.rows = []
    assert take(world.start(), TEN_REQUESTS) == REQUESTS_PER_MINUTE


# Tokens


def test_tokens_are_reserved_and_corrected(two, world):
    first, second = two
    charge = taken(first, TOKENS_100, 60)
    assert take(second, TOKENS_100, 41) == TOKENS_PER_MINUTE
    charge.settle(10)
    world.clock.now += CELL_SECONDS  # cells are added up again
    assert most(second, TOKENS_100, 30) == 3


def test_more_tokens_than_reserved_are_counted_in_the_present_cell(two, world):
    first, second = two
    charge = taken(first, TOKENS_100, 10)
    taken(second, TOKENS_100, 1)
    world.clock.now += 30.0
    charge.settle(100)
    assert take(second, TOKENS_100, 1) == TOKENS_PER_MINUTE
    world.clock.now += 33.0
    assert take(second, TOKENS_100, 11) == TOKENS_PER_MINUTE  # the first 10 have left, the other 90 have not
    assert isinstance(take(second, TOKENS_100, 10), Charge)


def test_a_request_that_outlives_the_minute_gives_nothing_back(two, world):
    first, second = two
    charge = taken(first, TOKENS_100, 90)
    world.clock.now += 63.0
    taken(first, TOKENS_100, 50)  # may be in the cell in which the 90 were
    charge.settle(1)
    world.clock.now += CELL_SECONDS
    assert take(second, TOKENS_100, 51) == TOKENS_PER_MINUTE
    assert isinstance(take(second, TOKENS_100, 50), Charge)


def test_a_request_larger_than_the_limit_is_refused(two):
    assert take(two[0], TOKENS_100, 101) == TOKENS_PER_MINUTE
    assert take(two[0], TOKENS_100, 1 << 70) == TOKENS_PER_MINUTE
    assert isinstance(take(two[1], TOKENS_100, 100), Charge)


# Several subjects at once


def test_all_limits_are_taken_or_none(two):
    first, second = two

    def both(counters, allowance):
        return [(counters.subject("key", "a"), FOUR), (counters.subject("user", "u"), allowance)]

    demands = both(first, Allowance(requests=1))
    plan = first.plan(*demands)
    assert isinstance(plan.take(), Charge)
    refused = plan.take()
    assert (refused.limit, refused.subject) == (REQUESTS_PER_MINUTE, demands[1][0])
    assert most(second, FOUR) == 3  # nothing of the refused one is in flight


def test_nothing_is_taken_if_one_subject_has_no_place(two, monkeypatch):
    first, second = two
    monkeypatch.setattr(places, "MAX_SUBJECTS", 1)
    plan = first.plan((first.subject("key", "a"), Allowance(concurrency=4, requests=4)), (first.subject("b", ""), FOUR))
    with pytest.raises(NoPlace):
        plan.take()
    assert most(second, Allowance(concurrency=4, requests=4)) == 4


def test_plans_share_a_subject(two, world):
    """Its own place and its last minute are found once, whatever plan counts for it."""
    first, second = two
    everyone = first.subject("everyone", "")
    allowance = Allowance(concurrency=100, requests=20, tokens=200)
    plans = [first.plan((first.subject("key", str(key)), FOUR), (everyone, allowance)) for key in range(10)]
    for _ in range(5):
        for plan in plans[:4]:
            plan.take(10).settle(8)
        world.clock.now += 1.0
    assert {plan.take().limit for plan in plans} == {REQUESTS_PER_MINUTE}
    other = second.plan((second.subject("everyone", ""), Allowance(tokens=160 + 10)))
    assert isinstance(other.take(10), Charge)
    assert isinstance(other.take(1), Excess)


# Bounds


def test_a_full_cell_is_an_error(two, world):
    """16 bits count the requests of one subject in one process within 3 seconds."""
    much = Allowance(requests=1 << 40)
    taken(two[0], much).settle()
    counters = world.page.counters
    subject = counters.tag("key", "a")
    place = counters.find(0, subject)
    counters.shorts[4 * place + REQUEST_CELLS + 10_000 % 21] = MAX_REQUESTS_IN_CELL - 1
    again = world.restart()  # a process loads what the one before it has counted
    taken(again, much).settle()
    with pytest.raises(NoPlace, match="a cell has 65,535 requests or"):
        take(again, much)
    assert most(two[1], Allowance(concurrency=2)) == 2  # nothing is in flight
    world.clock.now += CELL_SECONDS
    taken(again, much)


def test_of_two_that_collide_one_wins(two, monkeypatch):
    """Both claim the last one and give it back; the second try of the first succeeds."""
    first, second = two
    other = second.plan((second.subject("key", "a"), ONE))
    other.take().settle()
    collisions: list[str] = []
    undo = plans.Plan._undo

    def collide():
        if not collisions:  # the other one claims too, between the own claim and the check
            other._claim(0)
            collisions.append("claimed")
        memory_barrier()

    def undo_both(plan):
        if collisions == ["claimed"]:
            undo(other)
            collisions.append("undone")
        undo(plan)

    monkeypatch.setattr(plans, "memory_barrier", collide)
    monkeypatch.setattr(plans.Plan, "_undo", undo_both)
    taken(first, ONE)
    assert collisions == ["claimed", "undone"]


ALL_THREE = Allowance(concurrency=6, requests=30, tokens=300)


def kept_plan(counters, allowance=ALL_THREE):
    """Return a plan that has found its places."""
    plan = counters.plan((counters.subject("key", "a"), allowance))
    plan.take().cancel()
    return plan


def test_each_taking_leaves_less(world):
    """One process alone, then beside another one that counts, too."""
    plan = kept_plan(world.start())
    world.clock.now += 63.0  # what was cancelled counts until cells are added up
    charges = [plan.take(7) for _ in range(3)]
    assert [charge.left for charge in charges] == [[5, 29, 293], [4, 28, 286], [3, 27, 279]]
    other = kept_plan(world.start())
    assert other.take(20).left == [2, 25, 259]
    assert plan.take(7).left == [1, 25, 252]
    charges[0].settle(7)
    assert plan.take(1).left == [1, 24, 251]
    assert plan.left() == [1, 24, 251]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("allowance", "tokens", "limit"),
    [
        (Allowance(concurrency=4, requests=100), 0, CONCURRENCY),
        (Allowance(requests=4), 0, REQUESTS_PER_MINUTE),
        (Allowance(tokens=40), 10, TOKENS_PER_MINUTE),
    ],
)
def test_plans_that_know_their_places_take_all_and_no_more(world, alone, allowance, tokens, limit):
    plans = [kept_plan(world.start(), allowance) for _ in range(1 if alone else 2)]
    world.clock.now += 63.0
    for turn in range(4):
        assert isinstance(plans[turn % len(plans)].take(tokens), Charge)
    assert [plan.take(tokens).limit for plan in plans] == [limit] * len(plans)


def test_a_process_that_begins_to_count_in_the_middle_of_a_taking_is_seen(world, monkeypatch):
    """It has taken the last one before the barrier of a process that has been alone so far."""
    one_a_minute = Allowance(requests=1)
    plan = kept_plan(world.start(), one_a_minute)
    world.clock.now += 63.0
    plan.look()
    counters = world.page.counters
    first = counters.find(0, counters.tag("key", "a"))
    own = slice(first, first + PLACE_WORDS)
    before = counters.words[own].tolist()
    barrier = memory_barrier

    def another_takes():
        monkeypatch.setattr(plans, "memory_barrier", barrier)
        stored = counters.words[own].tolist()
        counters.words[own] = memoryview(array("Q", before))  # others do not see the stores yet
        taken(world.start(), one_a_minute).settle()
        counters.words[own] = memoryview(array("Q", stored))
        barrier()

    monkeypatch.setattr(plans, "memory_barrier", another_takes)
    assert plan.take().limit == REQUESTS_PER_MINUTE
    assert most(world.start(), Allowance(concurrency=2)) == 2  # nothing is in flight


def test_of_two_that_know_their_places_and_collide_one_wins(two, world, monkeypatch):
    first, second = two
    last = Allowance(requests=1)
    plan, other = kept_plan(first, last), kept_plan(second, last)
    world.clock.now += 63.0
    assert plan.look() is None
    assert other.look() is None
    barrier, outcomes = memory_barrier, []

    def collide():
        monkeypatch.setattr(plans, "memory_barrier", barrier)
        outcomes.append(other.take())  # it sees the claim of the first
        barrier()

    monkeypatch.setattr(plans, "memory_barrier", collide)
    outcomes.append(plan.take())
    assert [isinstance(outcome, Charge) for outcome in outcomes].count(True) == 1
