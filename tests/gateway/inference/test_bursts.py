"""Bursts of long prompts spread before any response has begun (sglang#27547)."""

import contextlib
import json

from gateway.registry.schema import Speeds
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import CHAT, add_equals
from tests.gateway.process import KEY, GatewayProcess
from tests.router import until

MEASURED = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.001, completions=256)
ENDPOINTS, EACH = 3, 4


def send_long(stack, gateway, model):
    body = json.dumps({"model": model, "messages": [], "max_tokens": 1, "user": "x" * 40_000}).encode()
    connection = stack.enter_context(gateway.connect())
    head = gateway.head(f"POST {CHAT}", f"Authorization: Bearer {KEY}", f"Content-Length: {len(body)}")
    connection.sendall(head + body)


def publish(gateway, sim):
    """Publish a model at equal endpoints that were measured, and never respond."""
    servers = [sim.add(fault="hang") for _ in range(ENDPOINTS)]
    model = add_equals(gateway, *servers)
    speeds: dict[tuple[str, str, str], Speeds | None] = {
        (endpoint.id, model, "chat_completions"): MEASURED for endpoint in gateway.endpoints_of(model)
    }
    gateway.registry.writer.apply(Changes(speeds=speeds))
    return model, servers


def test_a_burst_spreads_before_any_response_has_begun(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_BALANCER="adaptive").start()
    model, servers = publish(gateway, sim)
    gateway.wait_until_followed()
    with contextlib.ExitStack() as stack:
        for _ in range(ENDPOINTS * EACH):
            send_long(stack, gateway, model)
        until(lambda: sum(server.seen.running for server in servers) == ENDPOINTS * EACH)
        assert [server.seen.running for server in servers] == [EACH] * ENDPOINTS


def test_a_burst_over_two_gateways_spreads_as_over_one(tmp_path, sim):
    """Each counts what the other has sent (dynamo#589)."""
    settings = {"ROUTERDASH_WORKERS": "2", "ROUTERDASH_BALANCER": "adaptive"}
    one, two = GatewayProcess(tmp_path, **settings), GatewayProcess(tmp_path, **settings)
    two.worker = 1
    with contextlib.ExitStack() as stack:
        stack.callback(one.end)
        stack.callback(two.end)
        model, servers = publish(one, sim)
        one.start(published=False)
        two.start(published=False)
        for number in range(ENDPOINTS * EACH):
            send_long(stack, (one, two)[number % 2], model)
            until(lambda number=number: one.in_flight(model) == number + 1)
        until(lambda: sum(server.seen.running for server in servers) == ENDPOINTS * EACH)
        assert [server.seen.running for server in servers] == [EACH] * ENDPOINTS
