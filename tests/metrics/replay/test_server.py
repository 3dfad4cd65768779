"""An endpoint in virtual time does what the parameters of a fit say."""

import pytest

from metrics.replay.server import Played, ReplayedServer
from metrics.replay.traffic import PastSession, Turn
from tests.metrics.replay.traffic import FAST, node, turn


def played(of: Turn, arrived: float = 0.0) -> Played:
    return Played(PastSession(0.0, "", (of,)), 0, of, arrived)


def work(server: ReplayedServer) -> None:
    """Let a server work until nothing is left."""
    while (due := server.next_event()) < float("inf"):
        server.step(due)


def test_a_request_alone_takes_as_long_as_the_fit_says() -> None:
    server, one = ReplayedServer(0, node()), played(turn(1000, 50))
    server.submit(one, 0.0)
    work(server)
    assert one.ended == pytest.approx(FAST.setup + 1000 * FAST.read + 50 * (FAST.write + FAST.share))
    assert one.first == pytest.approx(FAST.setup + 1000 * FAST.read + FAST.write + FAST.share)


def test_two_that_write_slow_each_other_down() -> None:
    server = ReplayedServer(0, node())
    both = [played(turn(1, 50)), played(turn(1, 50))]
    for one in both:
        server.submit(one, 0.0)
    work(server)
    assert both[1].ended == pytest.approx(FAST.setup + 2 * FAST.read + 50 * (FAST.write + 2 * FAST.share))


def test_reading_a_prompt_stops_what_is_written() -> None:
    server, first, second = ReplayedServer(0, node()), played(turn(1, 100)), played(turn(5000, 1))
    server.submit(first, 0.0)
    server.step(server.next_event())  # its prompt is read
    server.submit(second, 0.5)
    work(server)
    beside = FAST.share  # for the one token of the second
    assert first.ended == pytest.approx(
        FAST.setup + 5001 * FAST.read + 100 * (FAST.write + FAST.share) + beside, abs=2 * FAST.share
    )


def test_prompts_are_read_one_after_the_other() -> None:
    server = ReplayedServer(0, node())
    both = [played(turn(1000, 1)), played(turn(1000, 1, name="d"))]
    for one in both:
        server.submit(one, 0.0)
    work(server)
    assert both[1].first - both[0].first == pytest.approx(1000 * FAST.read, abs=3 * FAST.write)


def test_beyond_its_places_a_request_waits() -> None:
    server = ReplayedServer(0, node(slots=1))
    both = [played(turn(1, 50)), played(turn(1, 50, name="d"))]
    for one in both:
        server.submit(one, 0.0)
    work(server)
    assert both[1].ended == pytest.approx(2 * both[0].ended - FAST.setup)


def test_a_cached_prefix_is_not_read_again() -> None:
    server = ReplayedServer(0, node())
    first, second = played(turn(1000, 10)), played(turn(1100, 10, prefix=1010))
    server.submit(first, 0.0)
    work(server)
    server.submit(second, 10.0)
    work(server)
    assert second.first - 10.0 == pytest.approx(FAST.setup + 90 * FAST.read + FAST.write + FAST.share)


def test_an_embedding_ends_when_its_prompt_is_read() -> None:
    server, one = ReplayedServer(0, node()), played(turn(1000, 0))
    server.submit(one, 0.0)
    work(server)
    assert one.ended == one.first == pytest.approx(FAST.setup + 1000 * FAST.read)
