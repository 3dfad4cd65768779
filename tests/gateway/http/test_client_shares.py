"""Shares of clients in the buffers and in the event loop of a worker."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fast.write_batch import WriteBatch
from gateway.http.client_shares import (
    MAX_STEPS,
    RESUMED_AT_ONCE,
    SLOWED_PER_HIT,
    Buffers,
    Pacer,
    Reservation,
    WaitingReservation,
)

LIMIT = 1024
HALF = LIMIT // 2


def reservation(buffers: Buffers, key: str, address: str = "192.0.2.1") -> Reservation:
    return buffers.open(buffers.key(key), buffers.address(address))


def waiting_for(
    made: Reservation, size: int, results: list[str], name: str = "", until: float = 30.0
) -> WaitingReservation:
    return WaitingReservation(
        made, size, until, lambda: results.append("granted" + name), lambda: results.append("refused" + name)
    )


def test_a_key_has_half_of_the_buffers() -> None:
    buffers = Buffers(LIMIT)
    first, second = reservation(buffers, "a", "192.0.2.1"), reservation(buffers, "a", "192.0.2.2")
    assert buffers.grow(first, HALF - 1)
    assert not buffers.grow(second, 2)
    assert buffers.grow(second, 1)
    assert buffers.grow(reservation(buffers, "b", "192.0.2.3"), HALF)


def test_an_address_has_half_of_the_buffers_with_any_number_of_keys() -> None:
    buffers = Buffers(LIMIT)
    assert buffers.grow(reservation(buffers, "a"), HALF)
    assert not buffers.grow(reservation(buffers, "b"), 1)


def test_pages_of_an_address_have_an_eighth() -> None:
    buffers = Buffers(LIMIT)
    made = buffers.open(buffers.pages("192.0.2.1"), buffers.address("192.0.2.1"))
    assert buffers.grow(made, LIMIT // 8)
    assert not buffers.grow(made, LIMIT // 8 + 1)


def test_all_clients_together_have_a_limit() -> None:
    buffers = Buffers(LIMIT)
    for number in range(2):
        assert buffers.grow(reservation(buffers, str(number), str(number)), HALF)
    assert not buffers.grow(reservation(buffers, "c", "c"), 1)


def test_large_requests_leave_some_room_for_small_ones() -> None:
    buffers = Buffers(LIMIT)
    made = reservation(buffers, "a")
    assert not buffers.grow(made, HALF * 7 // 8 + 1, large=True)
    assert buffers.grow(made, HALF * 7 // 8, large=True)
    assert buffers.grow(reservation(buffers, "a"), HALF // 8)


def test_a_waiting_reservation_is_granted_when_there_is_room() -> None:
    buffers = Buffers(LIMIT)
    first, second, results = reservation(buffers, "a"), reservation(buffers, "a"), []  # type: ignore[var-annotated]
    buffers.grow(first, HALF)
    buffers.wait(waiting_for(second, 100, results))
    buffers.put(first, HALF - 99)
    assert results == []
    buffers.close(first)
    assert (results, second.size, buffers.waiting) == (["granted"], 100, 0)


def test_a_large_reservation_does_not_overtake_a_waiting_one() -> None:
    buffers = Buffers(LIMIT)
    first, results = reservation(buffers, "a"), []  # type: ignore[var-annotated]
    buffers.grow(first, HALF - 10)
    buffers.wait(waiting_for(reservation(buffers, "a"), 100, results))
    assert not buffers.grow(reservation(buffers, "a"), 5, large=True)
    assert buffers.grow(reservation(buffers, "a"), 5)  # a small reservation is granted


def test_the_client_with_the_smallest_share_is_granted_first() -> None:
    buffers, results = Buffers(LIMIT), []  # type: ignore[var-annotated]
    large, small, rest = reservation(buffers, "a", "1"), reservation(buffers, "b", "2"), reservation(buffers, "c", "3")
    buffers.grow(large, 300)
    buffers.grow(small, 200)
    buffers.put(rest, LIMIT - 500)
    buffers.wait(waiting_for(reservation(buffers, "a", "1"), 90, results, " large"))
    buffers.wait(waiting_for(reservation(buffers, "b", "2"), 90, results, " small"))
    buffers.put(rest, LIMIT - 500 - LIMIT // 8 - 90)
    assert results == ["granted small"]


def test_a_reservation_that_waited_too_long_is_refused() -> None:
    buffers, results = Buffers(LIMIT), []  # type: ignore[var-annotated]
    buffers.grow(reservation(buffers, "a"), HALF)
    buffers.wait(waiting_for(reservation(buffers, "a"), 1, results, until=30.0))
    buffers.expire(29.9)
    assert results == []
    buffers.expire(30.0)
    assert (results, buffers.waiting) == (["refused"], 0)


def test_a_cancelled_reservation_is_neither_granted_nor_refused() -> None:
    buffers, results = Buffers(LIMIT), []  # type: ignore[var-annotated]
    first = reservation(buffers, "a")
    buffers.grow(first, HALF)
    waiting = waiting_for(reservation(buffers, "a"), 1, results)
    buffers.wait(waiting)
    buffers.cancel(waiting)
    buffers.cancel(waiting)
    buffers.close(first)
    assert results == []


ACTIONS = st.lists(
    st.tuples(st.sampled_from("grow put close wait cancel expire".split()), st.integers(0, 5), st.integers(0, LIMIT)),
    max_size=60,
)


class Trial:
    """Six requests of two keys and two addresses, with any sequence of actions."""

    def __init__(self) -> None:
        self.buffers = Buffers(LIMIT)
        self.reservations = {
            number: reservation(self.buffers, "ab"[number % 2], "12"[number // 3]) for number in range(6)
        }
        self.waiting: dict[int, WaitingReservation] = {}

    def do(self, action: str, number: int, size: int) -> None:
        if number in self.reservations:
            getattr(self, action)(number, size)

    def grow(self, number: int, size: int) -> None:
        self.buffers.grow(self.reservations[number], size)

    def put(self, number: int, size: int) -> None:
        self.buffers.put(self.reservations[number], size)

    def wait(self, number: int, size: int) -> None:
        if number not in self.waiting:
            self.waiting[number] = waiting_for(self.reservations[number], size, [])
            self.buffers.wait(self.waiting[number])

    def cancel(self, number: int, size: int = 0) -> None:
        if number in self.waiting:
            self.buffers.cancel(self.waiting.pop(number))

    def expire(self, number: int, size: int) -> None:
        self.buffers.expire(31.0)

    def close(self, number: int, size: int = 0) -> None:
        self.cancel(number)
        made = self.reservations.pop(number)
        self.buffers.close(made)
        self.buffers.close(made)

    def check(self) -> None:
        reservations = self.reservations.values()
        assert self.buffers.held == sum(each.size for each in reservations)
        for share in self.buffers.shares.values():
            assert share.held == sum(each.size for each in reservations if share in each.shares)


@given(ACTIONS)
def test_the_accounts_are_the_sums_of_all_reservations(actions: list[tuple[str, int, int]]) -> None:
    tried = Trial()
    for action in actions:
        tried.do(*action)
        tried.check()
    for number in list(tried.reservations):
        tried.close(number)
    assert (tried.buffers.held, tried.buffers.shares, tried.buffers.waiting) == (0, {}, 0)


# Pacer


class Connection:
    def __init__(self) -> None:
        self.read = True

    def hold_back(self) -> bool:
        was, self.read = self.read, False
        return was

    def read_again(self) -> None:
        self.read = True


@pytest.fixture
def loop() -> Any:
    wait_until: list[Any] = []
    return SimpleNamespace(call_soon=wait_until.append, wait_until=wait_until)


def iterate(loop: Any) -> None:
    due, loop.wait_until[:] = list(loop.wait_until), []
    for function in due:
        function()


def test_a_few_connections_of_a_slowed_client_are_read_in_each_iteration(loop: Any) -> None:
    slowed: list[int] = []
    buffers, pacer = Buffers(LIMIT), Pacer(WriteBatch(loop), lambda: slowed.append(1))
    connections: list[Any] = [Connection() for _ in range(2 * RESUMED_AT_ONCE + 1)]
    for each in connections:
        share = buffers.enter("192.0.2.1", each, is_proxy=False)
    other: Any = Connection()
    buffers.enter("192.0.2.2", other, is_proxy=False)
    share.steps = MAX_STEPS + 1
    pacer.slow_down(share, connections[0])
    counts = []
    while loop.wait_until:
        counts.append(sum(each.read for each in connections))
        assert other.read
        iterate(loop)
    assert counts == [0, RESUMED_AT_ONCE, 2 * RESUMED_AT_ONCE]
    assert all(each.read for each in connections)
    assert (share.held_back, slowed) == (None, [])
    for _ in range(SLOWED_PER_HIT - 1):
        pacer.slow_down(share, connections[0])
        while loop.wait_until:
            iterate(loop)
    assert slowed == [1]


def test_two_slowed_clients_take_turns(loop: Any) -> None:
    buffers, pacer = Buffers(LIMIT), Pacer(WriteBatch(loop), lambda: None)
    groups: list[list[Any]] = [[Connection() for _ in range(RESUMED_AT_ONCE)] for _ in range(2)]
    for name, group in zip("ab", groups, strict=True):
        for each in group:
            share = buffers.enter(name, each, is_proxy=False)
        pacer.slow_down(share, group[0])
    iterate(loop)
    assert [sum(each.read for each in group) for group in groups] == [RESUMED_AT_ONCE // 2] * 2
