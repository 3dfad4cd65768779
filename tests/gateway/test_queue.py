import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.balancer import FULL, Decision
from gateway.queue import Queue, Waiter

FOREVER = float("inf")


class Places:
    """So many free places for each model; each decision takes one."""

    def __init__(self, **free):
        self.free = free

    def __call__(self, waiter):
        if waiter.line not in self.free:
            return None  # nothing has it any more
        if not self.free[waiter.line]:
            return FULL
        self.free[waiter.line] -= 1
        return Decision(waiter.line, "only", ())


class Told(Waiter[Any]):
    """Notes that it was woken."""

    went: list[Any]

    def wake(self):
        self.went.append(self.asked)


class World:
    def __init__(self, **free):
        self.places = Places(**free)
        self.lengths: list[int] = []
        self.queue = Queue(self.places, self.lengths.append)
        self.went = []

    def come(self, name, key="k", model="m", since=None, until=FOREVER, tried=()):
        since = self.queue.length + 1000 if since is None else since
        waiter = Told(name, key, model, list(tried), since, until)
        waiter.went = self.went
        self.queue.add(waiter)
        return waiter

    def free(self, model="m", places=1):
        self.places.free[model] += places
        self.queue.dispatch()
        went = list(self.went)
        self.went.clear()
        return went


def test_nobody_goes_while_everything_is_full():
    world = World(m=0)
    world.come("a")
    assert (world.free(places=0), world.queue.length) == ([], 1)


def test_within_a_key_first_come_first_served():
    world = World(m=0)
    for name in "abc":
        world.come(name)
    assert [world.free(), world.free(places=2)] == [["a"], ["b", "c"]]


def test_keys_take_turns_whatever_each_has_waiting():
    world = World(m=0)
    for name in ("a1", "a2", "a3", "a4", "b1", "c1"):
        world.come(name, key=name[0])
    assert [*world.free(places=3), *world.free(places=3)] == ["a1", "b1", "c1", "a2", "a3", "a4"]


def test_the_turn_goes_on_where_it_was():
    world = World(m=0)
    for name in ("a1", "a2", "b1", "b2"):
        world.come(name, key=name[0])
    assert [world.free() for _ in range(4)] == [["a1"], ["b1"], ["a2"], ["b2"]]


def test_a_key_that_comes_late_does_not_go_before_those_who_wait():
    world = World(m=0)
    world.come("a1", key="a")
    world.come("b1", key="b")
    world.come("c1", key="c")
    assert world.free() == ["a1"]
    world.come("a2", key="a")
    assert world.free(places=3) == ["b1", "c1", "a2"]


def test_who_waits_for_what_is_free_passes_who_waits_for_something_else():
    world = World(m=0, n=0)
    world.come("a")
    world.come("b", model="n")
    assert world.free("n") == ["b"]


def test_whose_model_is_gone_is_told_so():
    world = World()
    waiter = world.come("a", model="gone")
    world.queue.dispatch()
    assert (waiter.decision, world.queue.length) == (None, 0)


def test_one_that_comes_again_has_its_old_place():
    world = World(m=0)
    world.come("second", since=2)
    world.come("first", since=1)
    assert world.free() == ["first"]


def test_who_leaves_gives_up_the_place_at_once():
    world = World(m=0)
    gone = world.come("gone")
    world.come("stays")
    world.queue.remove(gone)
    world.queue.remove(gone)
    assert (world.queue.length, world.free()) == (1, ["stays"])


def test_who_waited_too_long_is_told_so():
    world = World(m=0)
    waiter = world.come("a", until=50.0)
    world.come("b", until=51.0)
    world.queue.look_around(50.0)
    assert (world.went, waiter.decision, world.queue.length) == (["a"], FULL, 1)


def test_looking_around_finds_room_that_others_made():
    world = World(m=0)
    world.come("a")
    world.places.free["m"] = 1
    world.queue.look_around(0.0)
    assert world.went == ["a"]


def test_the_length_is_told():
    world = World(m=0)
    world.come("a")
    world.come("b", key="other")
    world.free()
    assert world.lengths == [1, 2, 1]


def test_who_has_been_where_something_is_free_does_not_hold_up_those_behind():
    world = World(m=1)
    world.queue._decide = lambda waiter: FULL if waiter.tried else world.places(waiter)
    world.come("tried", tried=["a"])
    world.come("fresh")
    world.queue.dispatch()
    assert world.went == ["fresh"]


def test_it_knows_what_is_waited_for():
    world = World(m=0)
    world.come("a")
    assert (world.queue.waits_for("m"), world.queue.waits_for("n")) == (True, False)


def test_the_order_in_which_they_would_go():
    world = World(m=0)
    for name in ("a1", "a2", "b1"):
        world.come(name, key=name[0])
    assert [waiter.asked for waiter in world.queue] == ["a1", "b1", "a2"]


def test_a_nudge_looks_once_at_the_end_of_the_turn():
    async def run():
        world = World(m=0)
        world.come("a")
        world.places.free["m"] = 1
        for _ in range(3):
            world.queue.nudge(asyncio.get_running_loop())
        before = list(world.went)
        await asyncio.sleep(0)
        return before, world.went

    assert asyncio.run(run()) == ([], ["a"])


async def waits(queue, waiter):
    queue.add(waiter)
    try:
        await waiter.wait()
    finally:
        queue.remove(waiter)


def test_a_waiter_wakes_with_its_decision():
    async def run():
        places = Places(m=0)
        queue = Queue(places)
        waiter = Waiter("a", "k", "m", [], 0.0, FOREVER)
        task = asyncio.ensure_future(waits(queue, waiter))
        await asyncio.sleep(0)
        places.free["m"] = 1
        queue.dispatch()
        await task
        return waiter.decision

    assert asyncio.run(run()) == Decision("m", "only", ())


def test_a_waiter_that_is_cancelled_is_gone():
    async def run():
        queue = Queue(Places(m=0))
        task = asyncio.ensure_future(waits(queue, Waiter("a", "k", "m", [], 0.0, FOREVER)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return queue.length, list(queue)

    assert asyncio.run(run()) == (0, [])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("mn")), max_size=40), st.data())
def test_everybody_goes_once_and_no_key_starves(comers, data):
    world = World(m=0, n=0)
    for number, (key, model) in enumerate(comers):
        world.come((key, number), key=key, model=model, since=number)
    went = []
    while world.queue.length:
        went += world.free(data.draw(st.sampled_from("mn")))
        if not any(world.queue.waits_for(model) for model in "mn"):
            break
        went += world.free("m") + world.free("n")
    assert sorted(number for _, number in went) == list(range(len(comers)))
    assert world.queue.length == 0
    assert Counter(key for key, _ in went) == Counter(key for key, _ in comers)


@given(st.lists(st.sampled_from("aaaab"), min_size=2, max_size=60))
def test_a_key_waits_for_at_most_one_request_of_each_other_key(comers):
    world = World(m=0)
    for number, key in enumerate(comers):
        world.come((key, number), key=key, since=number)
    went = []
    while world.queue.length:
        went += world.free()
    ahead = [key for key, _ in went]
    if "b" in ahead:
        assert ahead.index("b") <= 1


def test_a_key_has_half_of_the_places_and_one_more():
    world = World(m=0)
    places: list[Any] = []
    while world.queue.has_place("a", world.queue.length, 100, 1):
        places.append(world.come(len(places), "a"))
    assert len(places) == 51
    assert world.queue.has_place("b", world.queue.length, 100, 1)


@given(st.integers(1, 200), st.integers(1, 8), st.data())
def test_no_key_fills_the_queues_of_all_workers(most, workers, data):
    worlds = [World(m=0) for _ in range(workers)]
    for worker in data.draw(st.lists(st.integers(0, workers - 1), max_size=400)):
        waiting = sum(it.queue.length for it in worlds)
        if waiting < most and worlds[worker].queue.has_place("a", waiting, most, workers):
            worlds[worker].come("x", "a")
    waiting = sum(it.queue.length for it in worlds)
    assert waiting < most or most <= 2 * workers + 2
    assert waiting == most or worlds[0].queue.has_place("b", waiting, most, workers)
