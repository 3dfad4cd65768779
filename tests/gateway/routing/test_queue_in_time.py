"""The queue beside an endpoint with slots, in virtual time: how long requests of each class wait."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.queue_class import BULK_SECONDS
from gateway.routing.balancer import FULL, Decision
from gateway.routing.queue import Queue, Waiter

FOREVER = float("inf")
GO = Decision("endpoint", "only", ())


class Arrival(NamedTuple):
    moment: float
    seconds: float  # that it runs
    bulk: bool = False
    key: str = "k"


@dataclass
class Gateway:
    """One endpoint with slots. It gives bulk requests a slot as gateway.routing.bulk does."""

    slots: int
    now: float = 0.0
    running: int = 0
    ends: list[float] = field(default_factory=list)
    started: dict[int, float] = field(default_factory=dict)
    wanted: int = 0

    def __post_init__(self) -> None:
        self.arrivals: Sequence[Arrival] = ()
        self.queue: Queue[int] = Queue(self.decide, self.changed, lambda: self.now)

    def changed(self, length: int, bulk: int, wanted: int) -> None:
        self.wanted = wanted

    def is_free(self, *, gives_way: bool) -> bool:
        slots = self.slots - 1 if gives_way and self.slots > 1 else self.slots
        return self.running < slots and not (gives_way and self.wanted)

    def decide(self, waiter: Waiter[int]) -> Decision:
        if not self.is_free(gives_way=waiter.gives_way):
            return FULL
        self.start(waiter.item)
        return GO

    def start(self, number: int) -> None:
        self.running += 1
        self.started[number] = self.now
        heapq.heappush(self.ends, self.now + self.arrivals[number].seconds)

    def run(self, arrivals: Sequence[Arrival]) -> list[float]:
        """Return how long each of them waited."""
        self.arrivals = arrivals
        for number, one in enumerate(arrivals):
            self.end_until(one.moment)
            self.now = one.moment
            if not self.queue.waits_for("m", gives_way=one.bulk) and self.is_free(gives_way=one.bulk):
                self.start(number)
            else:
                waiter = Waiter(number, one.key, "m", [], one.moment, FOREVER, gives_way=one.bulk)
                self.queue.add(waiter, wanted=1)
        self.end_until(FOREVER)
        return [self.started[number] - one.moment for number, one in enumerate(arrivals)]

    def end_until(self, moment: float) -> None:
        while self.ends and self.ends[0] <= moment:
            self.now = heapq.heappop(self.ends)
            self.running -= 1
            self.queue.dispatch()


# Interactive requests run equally long, because another order of different ones would change who waits. All end before
# bulk requests age.
INTERACTIVE_SECONDS = 1.5
arrivals = st.lists(
    st.one_of(
        st.builds(Arrival, st.floats(0, 10), st.just(INTERACTIVE_SECONDS), st.just(False), st.sampled_from("ab")),
        st.builds(Arrival, st.floats(0, 10), st.floats(0.1, 2.0), st.just(True), st.sampled_from("ab")),
    ),
    max_size=24,
)


def starts(waits: list[float], comers: Sequence[Arrival]) -> list[float]:
    """Return when interactive requests begin, sorted: keys may take turns in another order."""
    return sorted(arrival.moment + wait for wait, arrival in zip(waits, comers, strict=True) if not arrival.bulk)


@given(arrivals.map(sorted), st.integers(1, 4))
def test_interactive_requests_wait_for_no_bulk_request_but_those_that_run(comers, slots):
    """The same interactive requests without any bulk requests begin earlier by at most the longest of these."""
    longest = max((arrival.seconds for arrival in comers if arrival.bulk), default=0.0)
    beside, alone = (
        starts(Gateway(slots).run(group), group)
        for group in (comers, [arrival for arrival in comers if not arrival.bulk])
    )
    assert all(start <= before + longest + 1e-6 for start, before in zip(beside, alone, strict=True))


@pytest.mark.parametrize("slots", [1, 3])
def test_bulk_requests_end_under_endless_interactive_load(slots):
    """More interactive requests come than can be served, of two keys; the bulk requests are of a third."""
    random = Random(1)
    comers = [Arrival(random.uniform(0, 400), 1.0 * slots, key=random.choice("ab")) for _ in range(600)]
    bulk = [Arrival(float(number), 1.0 * slots, bulk=True, key="c") for number in range(20)]
    comers = sorted([*comers, *bulk])
    waits = [wait for wait, arrival in zip(Gateway(slots).run(comers), comers, strict=True) if arrival.bulk]
    assert max(waits[1:]) >= BULK_SECONDS - 5  # the load is endless
    assert max(waits) < BULK_SECONDS + 20 * 3 + 5  # every third turn is theirs from then on


def test_the_aged_requests_of_a_key_do_not_stop_its_interactive_ones():
    """A pile of bulk requests, and one interactive request every two seconds of the same key, at one slot."""
    bulk = [Arrival(0.0, 1.0, bulk=True) for _ in range(300)]
    comers = sorted([*bulk, *(Arrival(2.0 * number + 0.5, 1.0) for number in range(1, 100))])
    waits = Gateway(1).run(comers)
    assert max(wait for wait, arrival in zip(waits, comers, strict=True) if not arrival.bulk) <= 2.0
