"""Tiers and cost weights of endpoints in real gateways, with both balancers."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.registry.schema import Speeds
from gateway.registry.writer import Changes
from gateway.routing.adaptive import FASTEST
from gateway.routing.balancer import ONLY, SPILLED
from tests.gateway.inference.helpers import add_equals, closes
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import Talk, http_response, upstream
from tests.router import until

ADAPTIVE, LEAST_INFLIGHT = "adaptive", "least_inflight"
KNOWN = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.01, completions=256)  # 2 s for each request beside it


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, GatewayProcess]]:
    """A gateway of each balancer."""
    processes = {
        name: GatewayProcess(tmp_path_factory.mktemp(name), ROUTERDASH_BALANCER=name, ROUTERDASH_SPILL_AFTER_SECS="3")
        for name in (ADAPTIVE, LEAST_INFLIGHT)
    }
    for process in processes.values():
        process.start()
    yield processes
    logs = [process.log() for process in processes.values()]
    for process in processes.values():
        process.end()
    assert "Traceback" not in "".join(logs)


@pytest.fixture(params=[ADAPTIVE, LEAST_INFLIGHT])
def gateway(gateways: dict[str, GatewayProcess], request: Any) -> GatewayProcess:
    return gateways[request.param]


@pytest.fixture
def adaptive_gateway(gateways: dict[str, GatewayProcess]) -> GatewayProcess:
    return gateways[ADAPTIVE]


def publish(gateway: GatewayProcess, model: str, *facts: dict[str, Any]) -> list[str]:
    """Publish the endpoints of a model with these facts, in their order, and equal speeds. Return their ids."""
    gateway.records()
    ids = [endpoint.id for endpoint in gateway.endpoints_of(model)]
    for name, changed in zip(ids, facts, strict=True):
        gateway.endpoints[name] = msgspec.structs.replace(gateway.endpoints[name], **changed)
    gateway.publish()
    gateway.apply(Changes(speeds={(endpoint_id, model, "chat_completions"): KNOWN for endpoint_id in ids}))
    return ids


@contextlib.contextmanager
def busy(gateway: GatewayProcess, number: int, spare: Any, *facts: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Two endpoints, of which the first works on so many requests. Yield the model and the endpoints' ids."""
    released = threading.Event()

    def hold(talk: Talk) -> None:
        while talk.request():
            released.wait(30)
            talk.send(http_response(b'{"model":"m","choices":[]}'))

    with upstream(hold) as own, contextlib.ExitStack() as connections:
        model = add_equals(gateway, own, spare)
        ids = publish(gateway, model, *facts)
        for _ in range(number):
            connections.enter_context(gateway.connect()).sendall(gateway.chat_bytes(model))
        until(lambda: gateway.in_flight(model) == number)
        try:
            yield model, ids
        finally:
            released.set()


def chosen(gateway: GatewayProcess, model: str) -> tuple[str, str]:
    """Send a request, and return the endpoint that responded with the reason for its choice."""
    assert gateway.chat(model).status == 200
    attempt = gateway.record().attempts[-1]
    return attempt.endpoint_id, attempt.reason


def test_a_worse_tier_gets_nothing_while_the_better_one_is_free(gateway, sim):
    model = add_equals(gateway, sim.add(), sim.add())
    own, _ = publish(gateway, model, {"tier": 1}, {"tier": 2})
    assert [chosen(gateway, model) for _ in range(3)] == [(own, ONLY)] * 3


def test_a_full_tier_spills_at_once(gateway, sim):
    with busy(gateway, 2, sim.add(), {"max_concurrency": 2}, {"tier": 3}) as (model, (_, spare)):
        assert chosen(gateway, model) == (spare, SPILLED)
        assert gateway.page.waiting == 0


def test_a_failed_attempt_is_repeated_in_the_next_tier(gateway, sim):
    with upstream(closes) as server:
        model = add_equals(gateway, server, sim.add())
        _, spare = publish(gateway, model, {}, {"tier": 2})
        assert chosen(gateway, model) == (spare, SPILLED)


@pytest.mark.parametrize("state", ["disabled", "draining"])
def test_an_excluded_tier_spills(gateway, sim, state):
    model = add_equals(gateway, sim.add(), sim.add())
    _, spare = publish(gateway, model, {"operator_state": state}, {"tier": 2})
    assert chosen(gateway, model) == (spare, SPILLED)


def test_a_long_expected_wait_spills(adaptive_gateway, sim):
    with busy(adaptive_gateway, 2, sim.add(), {}, {"tier": 2}) as (model, (_, spare)):
        assert chosen(adaptive_gateway, model) == (spare, SPILLED)


def test_a_short_expected_wait_does_not_spill(adaptive_gateway, sim):
    with (
        busy(adaptive_gateway, 1, sim.add(), {}, {"tier": 2}) as (model, (own, _)),
        adaptive_gateway.connect() as other,
    ):
        other.sendall(adaptive_gateway.chat_bytes(model))
        until(lambda: adaptive_gateway.in_flight(model) == 2)
        assert adaptive_gateway.page.in_flight(adaptive_gateway.endpoints[own].slot) == 2


def test_a_cost_weight_turns_requests_away(adaptive_gateway, sim):
    model = add_equals(adaptive_gateway, sim.add(), sim.add())
    _, cheap = publish(adaptive_gateway, model, {"cost_weight": 2.0}, {})
    assert {chosen(adaptive_gateway, model) for _ in range(6)} == {(cheap, FASTEST)}
