"""How long a response may take that is not streamed, and that its request is then not sent again."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.base.config import Config
from gateway.http.exchange import Exchange
from gateway.registry import schema
from gateway.upstream import pool as pools
from tests.gateway.inference.helpers import CHAT, HeldServer, add_equals, error_of, outcomes
from tests.gateway.inside import Inside, inside
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import upstream
from tests.router import until

OWN, DEFAULT = 0.5, schema.DEFAULT_TIMEOUT_SECS


class Clock:
    """The time of the sweeper, which ends requests at their deadlines."""

    def __init__(self) -> None:
        self.ahead = 0.0  # seconds

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def ask(gateway: Inside, stream: bool) -> Any:
    """Begin a chat in a thread. Its response is in the returned list, once there is one."""
    given: list[Any] = []
    body = {"model": "m", "messages": [], "user": "u", "stream": stream}
    threading.Thread(target=lambda: given.append(gateway.post(CHAT, body)), daemon=True).start()
    return given


def sweep(gateway: Inside) -> None:
    """Let the sweeper look at all deadlines."""

    def sweep_now() -> None:
        gateway.sweeper.stop()
        gateway.sweeper._sweep()

    gateway.in_loop(sweep_now)


async def unused(exchange: Exchange) -> None:
    """Handle no request."""


class TwoServers:
    """A model at two servers that respond when a test lets them."""

    def __init__(self) -> None:
        self.servers = HeldServer(), HeldServer()

    @contextmanager
    def behind(self, config: Config) -> Iterator[Inside]:
        with ExitStack() as stack:
            urls = [stack.enter_context(upstream(server)).url for server in self.servers]
            made = [
                make_endpoint(f"e{number}", "m", slot=number, base_url=url, status=schema.ONLINE)
                for number, url in enumerate(urls)
            ]
            yield stack.enter_context(inside(config, unused, *made))
            self.respond(100)

    def respond(self, times: int = 1) -> None:
        for server in self.servers:
            server.respond(times)

    @property
    def asked(self) -> int:
        return sum(len(server.users) for server in self.servers)


def test_a_plain_response_may_take_longer_than_the_first_event_of_a_stream(config, clock):
    """150 tokens of a server with one token a second: the client gets them, and no other server gets the request."""
    two = TwoServers()
    with two.behind(config) as gateway:
        given = ask(gateway, stream=False)
        until(lambda: two.asked)
        clock.ahead = 150.0
        sweep(gateway)
        two.respond()
        until(lambda: given)
        assert (given[0].status, two.asked) == (200, 1)


@pytest.mark.parametrize(("stream", "seconds", "attempts"), [(True, DEFAULT + 1, 2), (False, 601.0, 1)])
def test_only_a_stream_is_sent_again_after_a_timeout(config, clock, stream, seconds, attempts):
    two = TwoServers()
    with two.behind(config) as gateway:
        given = ask(gateway, stream)
        for number in range(attempts):
            until(lambda number=number: two.asked == number + 1)
            clock.ahead += seconds
            sweep(gateway)
        until(lambda: given)
        assert error_of(given[0]) == (504, "upstream_timeout")
        assert two.asked == attempts


@pytest.mark.parametrize("facts", [{}, {"timeout_secs": OWN}])
def test_a_plain_request_that_takes_too_long_is_not_sent_again(make_gateway, sim, facts):
    gateway = make_gateway(ROUTERDASH_PLAIN_TIMEOUT_SECS="1").start()
    servers = sim.add(fault="hang"), sim.add(fault="hang")
    given = gateway.chat(add_equals(gateway, *servers, **facts))
    assert error_of(given) == (504, "upstream_timeout")
    assert sum(server.seen.started for server in servers) == 1
    record = gateway.record()
    assert (record.outcome, outcomes(record)) == ("failed", [("failed", 0)])


def test_an_endpoints_own_timeout_is_in_force_for_plain_requests_too(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="hang"), timeout_secs=OWN))
    assert error_of(given) == (504, "upstream_timeout")
    gateway.records()


def test_a_plain_request_whose_connection_fails_is_sent_again(gateway, sim):
    model = add_equals(gateway, sim.add(fault="reset"), sim.add())
    assert {gateway.chat(model).status for _ in range(4)} == {200}
    gateway.records()
