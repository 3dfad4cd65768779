"""Headroom: more users are found until the time to first token fails, and what failed is named."""

from random import Random

import pytest

from gateway.base.config import LEAST_INFLIGHT
from metrics.replay import headroom as limits
from metrics.replay.backtest import record
from metrics.replay.headroom import Headroom, headroom, multiplied
from metrics.replay.history import Past
from metrics.replay.nodes import Node
from metrics.replay.run import RunSetting
from tests.metrics.records import A
from tests.metrics.replay.traffic import FAST, LENGTHS, chats, happened, known, node


def carried(*nodes: Node, seconds: float = 2.0, queue: int = 1000) -> Headroom:
    recording = record(Past(happened(nodes=nodes)), known(nodes))
    return headroom(recording, RunSetting(nodes, LENGTHS, LEAST_INFLIGHT, noise=False, queue=queue), seconds, 0.0)


def test_a_limit_of_slots_is_named() -> None:
    estimate = carried(node(A, slots=4))
    assert (estimate.limit, estimate.endpoint) == (limits.SLOTS, A)
    assert 1.0 < estimate.low < estimate.high < 16.0


def test_slow_reading_is_named() -> None:
    estimate = carried(node(A, FAST._replace(read=0.002)), seconds=3.0)
    assert (estimate.limit, estimate.endpoint) == (limits.PREFILL, A)


def test_slow_writing_is_named() -> None:
    estimate = carried(node(A, FAST._replace(share=0.02)), seconds=0.4)
    assert (estimate.limit, estimate.endpoint) == (limits.DECODE, A)


def test_a_full_queue_is_named() -> None:
    assert carried(node(A, slots=2), seconds=1000.0, queue=1).limit == limits.QUEUE_FULL


def test_more_endpoints_carry_more_users() -> None:
    one, two = carried(node(A, slots=4)), carried(node(A, slots=4), node("second", slots=4))
    assert two.low > one.low


def test_a_stricter_time_leaves_fewer_users() -> None:
    assert carried(node(A, slots=4), seconds=0.3).high < carried(node(A, slots=4), seconds=5.0).high


@pytest.mark.parametrize("users", [0.5, 1.0, 2.0, 3.5])
def test_sessions_are_copied(users: float) -> None:
    sessions = chats(400)
    copies = multiplied(sessions, users, Random(1))
    assert len(copies) == pytest.approx(users * len(sessions), rel=0.1)
    assert [session.start for session in copies] == sorted(session.start for session in copies)
    assert sessions[0].start <= copies[0].start
    assert copies[-1].start <= sessions[-1].start


def test_copies_are_conversations_of_their_own() -> None:
    copies = multiplied(chats(50), 2.0, Random(1))
    assert len({session.turns[0].conversation for session in copies}) == 100
