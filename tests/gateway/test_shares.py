"""Who holds how much of a worker."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.outbox import Outbox
from gateway.shares import MOST_STEPS, RESUMED_AT_ONCE, TURNS_OF_A_HIT, Buffers, Claim, Hold, Pacer

LIMIT = 1024
HALF = LIMIT // 2


def hold(buffers: Buffers, key: str, address: str = "192.0.2.1") -> Hold:
    return buffers.open(buffers.key(key), buffers.address(address))


def claim(made: Hold, size: int, told: list[str], name: str = "", until: float = 30.0) -> Claim:
    return Claim(made, size, until, lambda: told.append("granted" + name), lambda: told.append("refused" + name))


def test_a_key_has_half_of_the_worker_and_no_more() -> None:
    buffers = Buffers(LIMIT)
    first, second = hold(buffers, "a", "192.0.2.1"), hold(buffers, "a", "192.0.2.2")
    assert buffers.grow(first, HALF - 1)
    assert not buffers.grow(second, 2)
    assert buffers.grow(second, 1)
    assert buffers.grow(hold(buffers, "b", "192.0.2.3"), HALF)


def test_an_address_has_half_of_the_worker_whatever_keys_it_uses() -> None:
    buffers = Buffers(LIMIT)
    assert buffers.grow(hold(buffers, "a"), HALF)
    assert not buffers.grow(hold(buffers, "b"), 1)


def test_pages_of_an_address_have_an_eighth() -> None:
    buffers = Buffers(LIMIT)
    made = buffers.open(buffers.pages("192.0.2.1"), buffers.address("192.0.2.1"))
    assert buffers.grow(made, LIMIT // 8)
    assert not buffers.grow(made, LIMIT // 8 + 1)


def test_all_together_have_no_more_than_the_worker() -> None:
    buffers = Buffers(LIMIT)
    for number in range(2):
        assert buffers.grow(hold(buffers, str(number), str(number)), HALF)
    assert not buffers.grow(hold(buffers, "c", "c"), 1)


def test_large_requests_leave_some_room_for_small_ones() -> None:
    buffers = Buffers(LIMIT)
    made = hold(buffers, "a")
    assert not buffers.grow(made, HALF * 7 // 8 + 1, large=True)
    assert buffers.grow(made, HALF * 7 // 8, large=True)
    assert buffers.grow(hold(buffers, "a"), HALF // 8)


def test_who_waits_goes_on_when_there_is_room() -> None:
    buffers = Buffers(LIMIT)
    first, second, told = hold(buffers, "a"), hold(buffers, "a"), []  # type: ignore[var-annotated]
    buffers.grow(first, HALF)
    buffers.wait(claim(second, 100, told))
    buffers.put(first, HALF - 99)
    assert told == []
    buffers.close(first)
    assert (told, second.size, buffers.waiting) == (["granted"], 100, 0)


def test_who_comes_later_does_not_go_before_those_who_wait() -> None:
    buffers = Buffers(LIMIT)
    first, told = hold(buffers, "a"), []  # type: ignore[var-annotated]
    buffers.grow(first, HALF - 10)
    buffers.wait(claim(hold(buffers, "a"), 100, told))
    assert not buffers.grow(hold(buffers, "a"), 5, large=True)
    assert buffers.grow(hold(buffers, "a"), 5)  # what has begun goes on


def test_among_clients_who_holds_least_goes_first() -> None:
    buffers, told = Buffers(LIMIT), []  # type: ignore[var-annotated]
    large, small, rest = hold(buffers, "a", "1"), hold(buffers, "b", "2"), hold(buffers, "c", "3")
    buffers.grow(large, 300)
    buffers.grow(small, 200)
    buffers.put(rest, LIMIT - 500)
    buffers.wait(claim(hold(buffers, "a", "1"), 90, told, " large"))
    buffers.wait(claim(hold(buffers, "b", "2"), 90, told, " small"))
    buffers.put(rest, LIMIT - 500 - LIMIT // 8 - 90)
    assert told == ["granted small"]


def test_who_waited_too_long_is_refused() -> None:
    buffers, told = Buffers(LIMIT), []  # type: ignore[var-annotated]
    buffers.grow(hold(buffers, "a"), HALF)
    buffers.wait(claim(hold(buffers, "a"), 1, told, until=30.0))
    buffers.expire(29.9)
    assert told == []
    buffers.expire(30.0)
    assert (told, buffers.waiting) == (["refused"], 0)


def test_who_leaves_does_not_wait() -> None:
    buffers, told = Buffers(LIMIT), []  # type: ignore[var-annotated]
    first = hold(buffers, "a")
    buffers.grow(first, HALF)
    waiting = claim(hold(buffers, "a"), 1, told)
    buffers.wait(waiting)
    buffers.leave(waiting)
    buffers.leave(waiting)
    buffers.close(first)
    assert told == []


ACTIONS = st.lists(
    st.tuples(st.sampled_from("grow put close wait leave expire".split()), st.integers(0, 5), st.integers(0, LIMIT)),
    max_size=60,
)


class Tried:
    """Six requests of two keys and two addresses, to which anything happens."""

    def __init__(self) -> None:
        self.buffers = Buffers(LIMIT)
        self.holds = {number: hold(self.buffers, "ab"[number % 2], "12"[number // 3]) for number in range(6)}
        self.claims: dict[int, Claim] = {}

    def do(self, action: str, number: int, size: int) -> None:
        if number in self.holds:
            getattr(self, action)(number, size)

    def grow(self, number: int, size: int) -> None:
        self.buffers.grow(self.holds[number], size)

    def put(self, number: int, size: int) -> None:
        self.buffers.put(self.holds[number], size)

    def wait(self, number: int, size: int) -> None:
        if number not in self.claims:
            self.claims[number] = claim(self.holds[number], size, [])
            self.buffers.wait(self.claims[number])

    def leave(self, number: int, size: int = 0) -> None:
        if number in self.claims:
            self.buffers.leave(self.claims.pop(number))

    def expire(self, number: int, size: int) -> None:
        self.buffers.expire(31.0)

    def close(self, number: int, size: int = 0) -> None:
        self.leave(number)
        made = self.holds.pop(number)
        self.buffers.close(made)
        self.buffers.close(made)

    def check(self) -> None:
        holds = self.holds.values()
        assert self.buffers.held == sum(it.size for it in holds)
        for share in self.buffers.shares.values():
            assert share.held == sum(it.size for it in holds if share in it.shares)


@given(ACTIONS)
def test_what_is_held_is_the_sum_of_all_holds_and_nothing_at_the_end(actions: list[tuple[str, int, int]]) -> None:
    tried = Tried()
    for action in actions:
        tried.do(*action)
        tried.check()
    for number in list(tried.holds):
        tried.close(number)
    assert (tried.buffers.held, tried.buffers.shares, tried.buffers.waiting) == (0, {}, 0)


# Turns


class Connection:
    def __init__(self) -> None:
        self.read = True

    def hold_back(self) -> bool:
        was, self.read = self.read, False
        return was

    def go_on(self) -> None:
        self.read = True


@pytest.fixture
def loop() -> Any:
    soon: list[Any] = []
    return SimpleNamespace(call_soon=soon.append, soon=soon)


def turn(loop: Any) -> None:
    due, loop.soon[:] = list(loop.soon), []
    for function in due:
        function()


def test_a_slowed_client_is_read_a_few_connections_a_turn_until_all_were(loop: Any) -> None:
    slowed: list[int] = []
    buffers, turns = Buffers(LIMIT), Pacer(Outbox(loop), lambda: slowed.append(1))
    connections: list[Any] = [Connection() for _ in range(2 * RESUMED_AT_ONCE + 1)]
    for it in connections:
        share = buffers.enter("192.0.2.1", it, many=False)
    other: Any = Connection()
    buffers.enter("192.0.2.2", other, many=False)
    share.steps = MOST_STEPS + 1
    turns.slow_down(share, connections[0])
    counts = []
    while loop.soon:
        counts.append(sum(it.read for it in connections))
        assert other.read
        turn(loop)
    assert counts == [0, RESUMED_AT_ONCE, 2 * RESUMED_AT_ONCE]
    assert all(it.read for it in connections)
    assert (share.line, slowed) == (None, [])
    for _ in range(TURNS_OF_A_HIT - 1):
        turns.slow_down(share, connections[0])
        while loop.soon:
            turn(loop)
    assert slowed == [1]


def test_two_slowed_clients_take_turns(loop: Any) -> None:
    buffers, turns = Buffers(LIMIT), Pacer(Outbox(loop), lambda: None)
    groups: list[list[Any]] = [[Connection() for _ in range(RESUMED_AT_ONCE)] for _ in range(2)]
    for name, group in zip("ab", groups, strict=True):
        for it in group:
            share = buffers.enter(name, it, many=False)
        turns.slow_down(share, group[0])
    turn(loop)
    assert [sum(it.read for it in group) for group in groups] == [RESUMED_AT_ONCE // 2] * 2
