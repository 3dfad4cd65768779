import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.queue_class import BULK_SECONDS
from gateway.routing.balancer import DECLINED, FULL, Decision
from gateway.routing.queue import MAX_ALL_DECLINED, MAX_DECLINED, Queue, Waiter

FOREVER = float("inf")


class FreeSlots:
    """A number of free slots for each model. Each decision takes one."""

    def __init__(self, **free):
        self.free = free

    def __call__(self, waiter):
        if waiter.line not in self.free:
            return None  # no endpoint has the model any more
        if not self.free[waiter.line]:
            return FULL
        self.free[waiter.line] -= 1
        return Decision(waiter.line, "only", ())


class RecordingWaiter(Waiter[Any]):
    """A waiter that records that it was woken."""

    went: list[Any]

    def wake(self):
        self.went.append(self.item)


class World:
    def __init__(self, **free):
        self.places = FreeSlots(**free)
        self.lengths: list[int] = []
        self.changes: list[tuple[int, int]] = []  # bulk requests, and endpoints that the others want
        self.now = 1000.0
        self.queue = Queue(self.places, self.changed, lambda: self.now)
        self.went = []

    def changed(self, length, bulk, wanted):
        self.lengths.append(length)
        self.changes.append((bulk, wanted))

    def come(self, name, key="k", model="m", since=None, until=FOREVER, tried=(), wanted=0, bulk=False):
        since = self.queue.length + 1000 if since is None else since
        waiter = RecordingWaiter(name, key, model, list(tried), since, until, gives_way=bulk)
        waiter.went = self.went
        self.queue.add(waiter, wanted)
        return waiter

    def free(self, model="m", places=1):
        self.places.free[model] += places
        self.queue.dispatch()
        went = list(self.went)
        self.went.clear()
        return went


def test_no_waiter_is_served_while_all_endpoints_are_full():
    world = World(m=0)
    world.come("a")
    assert (world.free(places=0), world.queue.length) == ([], 1)


def test_requests_of_a_key_are_served_in_their_order():
    world = World(m=0)
    for name in "abc":
        world.come(name)
    assert [world.free(), world.free(places=2)] == [["a"], ["b", "c"]]


def test_keys_take_turns_regardless_of_their_queue_lengths():
    world = World(m=0)
    for name in ("a1", "a2", "a3", "a4", "b1", "c1"):
        world.come(name, key=name[0])
    assert [*world.free(places=3), *world.free(places=3)] == ["a1", "b1", "c1", "a2", "a3", "a4"]


def test_the_order_of_keys_continues_at_the_next_key():
    world = World(m=0)
    for name in ("a1", "a2", "b1", "b2"):
        world.come(name, key=name[0])
    assert [world.free() for _ in range(4)] == [["a1"], ["b1"], ["a2"], ["b2"]]


def test_a_new_key_does_not_overtake_waiting_keys():
    world = World(m=0)
    world.come("a1", key="a")
    world.come("b1", key="b")
    world.come("c1", key="c")
    assert world.free() == ["a1"]
    world.come("a2", key="a")
    assert world.free(places=3) == ["b1", "c1", "a2"]


def test_a_waiter_for_a_free_endpoint_passes_waiters_for_others():
    world = World(m=0, n=0)
    world.come("a")
    world.come("b", model="n")
    assert world.free("n") == ["b"]


def test_a_waiter_whose_model_was_removed_gets_an_error():
    world = World()
    waiter = world.come("a", model="gone")
    world.queue.dispatch()
    assert (waiter.decision, world.queue.length) == (None, 0)


def test_a_request_that_waits_again_keeps_its_place():
    world = World(m=0)
    world.come("second", since=2)
    world.come("first", since=1)
    assert world.free() == ["first"]


def test_a_cancelled_waiter_frees_its_place_at_once():
    world = World(m=0)
    gone = world.come("gone")
    world.come("stays")
    world.queue.remove(gone)
    world.queue.remove(gone)
    assert (world.queue.length, world.free()) == (1, ["stays"])


def test_a_waiter_that_waited_too_long_gets_an_error():
    world = World(m=0)
    waiter = world.come("a", until=50.0)
    world.come("b", until=51.0)
    world.queue.dispatch_and_expire(50.0)
    assert (world.went, waiter.decision, world.queue.length) == (["a"], FULL, 1)


def test_a_check_finds_slots_freed_by_other_workers():
    world = World(m=0)
    world.come("a")
    world.places.free["m"] = 1
    world.queue.dispatch_and_expire(0.0)
    assert world.went == ["a"]


def test_the_length_is_published():
    world = World(m=0)
    world.come("a")
    world.come("b", key="other")
    world.free()
    assert world.lengths == [1, 2, 1]


def test_a_waiter_that_tried_the_free_endpoint_does_not_block_the_others():
    world = World(m=1)
    world.queue._decide = lambda waiter: FULL if waiter.tried else world.places(waiter)
    world.come("tried", tried=["a"])
    world.come("fresh")
    world.queue.dispatch()
    assert world.went == ["fresh"]


def test_the_queue_knows_the_models_of_its_waiters():
    world = World(m=0)
    world.come("a")
    assert (world.queue.waits_for("m"), world.queue.waits_for("n")) == (True, False)


def test_the_planned_order_of_waiters():
    world = World(m=0)
    for name in ("a1", "a2", "b1"):
        world.come(name, key=name[0])
    assert [waiter.item for waiter in world.queue] == ["a1", "b1", "a2"]


def test_a_nudge_checks_once_at_the_end_of_the_iteration():
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
        places = FreeSlots(m=0)
        queue = Queue(places)
        waiter = Waiter("a", "k", "m", [], 0.0, FOREVER)
        task = asyncio.ensure_future(waits(queue, waiter))
        await asyncio.sleep(0)
        places.free["m"] = 1
        queue.dispatch()
        await task
        return waiter.decision

    assert asyncio.run(run()) == Decision("m", "only", ())


def test_a_cancelled_waiter_is_removed():
    async def run():
        queue = Queue(FreeSlots(m=0))
        task = asyncio.ensure_future(waits(queue, Waiter("a", "k", "m", [], 0.0, FOREVER)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return queue.length, list(queue)

    assert asyncio.run(run()) == (0, [])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("mn")), max_size=40), st.data())
def test_every_waiter_is_served_once_and_no_key_starves(comers, data):
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


# Requests that decline a free endpoint


def test_a_request_that_declines_does_not_hold_up_others():
    wanted = {"patient": DECLINED, "short": Decision("slow", "only", ())}
    queue: Queue[str] = Queue(lambda waiter: wanted[waiter.item])
    patient, short = (Waiter(item, "key", "line", [], float(number), 100.0) for number, item in enumerate(wanted))
    queue.add(patient)
    queue.add(short)
    queue.dispatch()
    assert (patient.decision, short.decision) == (FULL, wanted["short"])
    assert queue.length == 1


def test_the_first_of_those_that_declined_goes_first():
    free: list[Decision] = []
    queue: Queue[int] = Queue(lambda waiter: free.pop() if free else DECLINED)
    waiters = [Waiter(number, "key", "line", [], float(number), 100.0) for number in range(3)]
    for waiter in waiters:
        queue.add(waiter)
    queue.dispatch()
    free.append(Decision("fast", "waited_for", ()))
    queue.dispatch()
    assert [waiter.decision for waiter in waiters] == [Decision("fast", "waited_for", ()), FULL, FULL]


def test_few_requests_are_looked_at_while_all_decline():
    asked = []

    def decide(waiter):
        asked.append(waiter.item)
        return DECLINED

    queue = Queue(decide)
    for key in range(30):
        for number in range(10):
            queue.add(Waiter((key, number), f"key {key}", "line", [], float(number), 100.0))
    queue.dispatch()
    assert len(asked) <= MAX_ALL_DECLINED + 30
    assert max(position for _, position in asked) == MAX_DECLINED - 1
    assert queue.length == 300


# Bulk requests


def test_bulk_requests_go_after_all_others():
    world = World(m=0)
    world.come("bulk", bulk=True)
    for name in "ab":
        world.come(name)
    assert [waiter.item for waiter in world.queue] == ["a", "b", "bulk"]
    assert [world.free(), world.free(), world.free()] == [["a"], ["b"], ["bulk"]]


def test_a_bulk_request_for_a_free_endpoint_passes_others_for_full_ones():
    world = World(m=0, n=0)
    world.come("a")
    world.come("bulk", model="n", bulk=True)
    assert world.free("n") == ["bulk"]


def test_keys_take_turns_in_both_classes():
    world = World(m=0)
    for name in ("a1", "a2", "a3", "b1"):
        world.come(name, key=name[0])
    for name in ("A1", "A2", "B1"):
        world.come(name, key=name[0].lower(), bulk=True)
    assert world.free(places=7) == ["a1", "b1", "a2", "a3", "A1", "B1", "A2"]


def test_an_interactive_request_does_not_wait_behind_bulk_requests():
    world = World(m=0)
    world.come("bulk", bulk=True)
    assert (world.queue.waits_for("m"), world.queue.waits_for("m", gives_way=True)) == (False, True)


def test_bulk_requests_do_not_starve_under_endless_interactive_load():
    world = World(m=0)
    world.come("bulk", key="patient", since=world.now, bulk=True)
    served = []
    for number in range(70):  # more come than can be served
        world.come(number, key="busy", since=world.now)
        world.come(-number, key="busy", since=world.now)
        world.now += 1.0
        served += world.free()
    assert served.index("bulk") in (BULK_SECONDS, BULK_SECONDS - 1)


def test_an_aged_bulk_request_takes_its_turn_as_an_interactive_one():
    world = World(m=0)
    world.come("a", key="a", since=world.now)
    world.come("bulk", key="b", since=world.now, bulk=True)
    world.now += BULK_SECONDS
    world.come("c", key="c", since=world.now)
    assert [world.free() for _ in range(3)] == [["a"], ["c"], ["bulk"]]


def test_many_bulk_requests_of_one_age_do_not_delay_the_others_of_their_key():
    """They follow one at a time, each at the end of the line."""
    world = World(m=0)
    for number in range(50):
        world.come(f"bulk {number}", since=world.now, bulk=True)
    world.now += BULK_SECONDS
    world.come("a", since=world.now)
    assert world.free() == ["a"]
    for name in "bc":
        world.come(name, since=world.now)
    assert [*world.free(), *world.free(), *world.free()] == ["bulk 0", "b", "c"]
    assert [*world.free(), *world.free()] == ["bulk 1", "bulk 2"]


def test_a_request_that_aged_and_failed_waits_as_an_interactive_one():
    world = World(m=0)
    world.come("other", since=world.now + 1)
    world.come("aged", since=world.now, tried=["x"])  # its request gives way no more
    assert world.free(places=2) == ["aged", "other"]


def test_the_endpoints_that_interactive_requests_want_are_published():
    world = World(m=0, n=0)
    world.come("bulk", since=world.now, wanted=0b100, bulk=True)
    a = world.come("a", wanted=0b001)
    b = world.come("b", model="n", wanted=0b010)
    assert world.changes == [(1, 0), (1, 0b001), (1, 0b011)]
    world.queue.remove(a)
    world.queue.remove(b)
    assert world.changes[3:] == [(1, 0b010), (1, 0)]
    world.now += BULK_SECONDS
    world.queue.dispatch()
    assert world.changes[-1] == (0, 0b100)


def test_a_bulk_request_leaves_when_its_client_does():
    world = World(m=0)
    gone = world.come("gone", bulk=True)
    world.come("stays", bulk=True)
    world.queue.remove(gone)
    assert (world.queue.length, world.free()) == (1, ["stays"])


def test_a_bulk_request_has_its_own_timeout():
    world = World(m=0)
    waiter = world.come("bulk", until=50.0, bulk=True)
    world.queue.dispatch_and_expire(50.0)
    assert (world.went, waiter.decision, world.queue.length) == (["bulk"], FULL, 0)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.sampled_from("mn"), st.integers(0, 30)), max_size=40)
)
def test_whoever_comes_in_whatever_class_goes_once(comers):
    world = World(m=0, n=0)
    went = []
    for number, (key, bulk, model, seconds) in enumerate(comers):
        world.now += seconds
        world.come(number, key=key, model=model, since=world.now, bulk=bulk)
        if seconds % 3 == 0:
            went += world.free(model)
    for _ in comers:
        went += world.free("m") + world.free("n")
    assert sorted(went) == list(range(len(comers)))
    assert (world.queue.length, world.changes[-1:]) in ((0, [(0, 0)]), (0, []))
    assert not world.queue._aged
