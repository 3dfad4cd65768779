"""A request is taken from its limits once, and ends there once, on every path."""

import contextlib
import socket
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gateway.registry import schema
from tests.gateway.inference.helpers import add_equals, busy, change, closes, refuses
from tests.gateway.limits.helpers import LimitedKey, at_once
from tests.gateway.scripted import DONE, LAST, always, chunk, each_time, http_response, stream, upstream
from tests.router import until

LIMITS: dict[str, Any] = {"concurrency": 3, "requests": 1000, "tokens": 1_000_000}
WITH_USAGE = b'{"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":8,"total_tokens":13}}'


@pytest.fixture
def key(gateway):
    return LimitedKey(gateway, **LIMITS)


@pytest.mark.parametrize("fields", [{}, {"stream": True}], ids=["whole", "stream"])
@pytest.mark.parametrize("limit", [LIMITS, {"concurrency": 1}, {"requests": 10}, {"tokens": 10_000}])
def test_a_response(gateway, sim, key, fields, limit):
    key.limit(**limit)
    assert key.chat(gateway.add(sim.add(tokens=8, prompt_tokens=5)), **fields).status == 200
    counts = "requests" in limit or "tokens" in limit
    assert key.counted() == (0, 1 if counts else 0, 13 if counts else 0)


def test_a_refusal_of_the_endpoint(gateway, key):
    with upstream(refuses(400)) as server:
        assert key.chat(gateway.add(server)).status == 400
    assert key.counted() == (0, 1, 0)


def test_a_failover_is_one_request(gateway, sim, key):
    with upstream(refuses(500)) as first, upstream(closes) as second:
        model = gateway.add(first, second, sim.add(tokens=8, prompt_tokens=5))
        assert key.chat(model).headers["x-routerdash-attempts"] == "3"
    assert key.counted() == (0, 1, 13)


def test_a_failure_of_all_endpoints(gateway, key):
    with upstream(closes) as first, upstream(refuses(503)) as second:
        assert key.chat(gateway.add(first, second)).status >= 500
    assert key.counted() == (0, 1, 0)


def test_a_failover_that_has_to_wait_keeps_its_place(gateway, sim, key):
    """The second attempt waits for a slot: the request is in flight meanwhile, and waits for none of its limits."""
    key.limit(concurrency=1)
    simulated = sim.add(ttft=0.5)
    with busy(gateway, simulated) as taken, upstream(refuses(500)) as server:
        endpoint = gateway.endpoints_of(taken)[0]
        model = gateway.add(server)
        other = schema.Model(model)
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(
            endpoint, models=(*endpoint.models, other), status=schema.PENDING
        )
        gateway.publish()
        given = at_once(*[lambda: key.chat(model)] * 3)
    assert [response.status for response in given] == [200] * 3
    assert key.counted()[0] == 0


def test_a_stream_that_breaks_off_has_its_expected_input_and_its_output(gateway, key):
    with upstream(each_time(stream(chunk("a"), chunk("b"), chunk("c"), end=False))) as server:
        key.chat(gateway.add(server), stream=True)
    record = gateway.record()
    assert (record.outcome, record.estimated, record.output_tokens) == ("truncated", True, 3)
    assert key.counted() == (0, 1, record.input_tokens + 3)
    assert 3 < record.input_tokens + 3 < record.reserved_tokens


def test_a_stream_without_usage(gateway, key):
    with upstream(always(stream(chunk("a"), chunk("b"), LAST, DONE))) as server:
        key.chat(gateway.add(server), stream=True)
    record = gateway.record()
    assert record.estimated
    assert key.counted()[2] == record.input_tokens + record.output_tokens > record.output_tokens


def test_a_client_that_leaves_a_stream(gateway, sim, key):
    model = gateway.add(sim.add(tokens=1000, tokens_per_second=100))
    with gateway.connect() as connection:
        connection.sendall(key.chat_bytes(model, stream=True))
        received = b""
        while received.count(b"data: {") < 6:
            received += connection.recv(1 << 16)
    record = gateway.record_soon()
    in_flight, requests, tokens = key.counted()
    assert (in_flight, requests) == (0, 1)
    assert record.output_tokens < tokens < 1000


def test_a_client_that_leaves_the_queue_counts_nothing(gateway, sim, key):
    with busy(gateway, sim.add(fault="hang")) as model:
        with gateway.connect() as connection:
            connection.sendall(key.chat_bytes(model))
            until(lambda: gateway.page.waiting == 1)
            assert key.counted() == (0, 0, 0)
        until(lambda: gateway.page.waiting == 0)
    assert key.counted() == (0, 0, 0)


def test_a_client_that_leaves_while_its_limit_holds_it(gateway, sim, key):
    key.limit(concurrency=1)
    simulated = sim.add(fault="hang")
    model = gateway.add(simulated)
    with gateway.connect() as running:
        running.sendall(key.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        with gateway.connect() as connection:
            connection.sendall(key.chat_bytes(model))
            until(lambda: gateway.page.waiting == 1)
        until(lambda: gateway.page.waiting == 0)
        assert key.counted() == (1, 0, 0)
    until(lambda: key.counted() == (0, 0, 0))
    simulated.set(fault="")
    assert key.chat(model).status == 200


def test_unknown_models_and_missing_endpoints_count_nothing(gateway, sim, key):
    assert key.chat("no such model").status == 404
    model = gateway.add(sim.add())
    change(gateway, model, status=schema.OFFLINE)
    assert key.chat(model).status == 503
    assert key.post("/v1/embeddings", {"model": model, "input": 5, "x": "y"}).status >= 400
    assert key.post("/v1/chat/completions", {"model": 7}).status == 400
    assert key.counted() == (0, 0, 0)


def test_the_queue_timeout_counts_nothing(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_TIMEOUT_SECS="1").start()
    key = LimitedKey(gateway, **LIMITS)
    with busy(gateway, sim.add(fault="hang")) as model:
        assert key.chat(model).status == 503
    assert key.counted() == (0, 0, 0)


def test_an_endpoint_that_is_withdrawn_at_the_last_moment(gateway, key):
    """It is deleted while a chat waits for a connection. Nothing was sent, so that nothing counts."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        for _ in range(4):  # the system's queue of connections is full
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(address)
        model = gateway.add(SimpleNamespace(url=f"http://127.0.0.1:{address[1]}"), connect_timeout_secs=20.0)
        connection = stack.enter_context(gateway.connect())
        connection.sendall(key.chat_bytes(model))
        until(lambda: key.counted()[0] == 1)
        for endpoint in gateway.endpoints_of(model):
            del gateway.endpoints[endpoint.id]
        gateway.publish()
        listening.settimeout(0.1)
        until(lambda: accept(listening, stack) and key.counted() == (0, 0, 0))
    assert gateway.record_soon().attempts == ()


def accept(listening: socket.socket, stack: contextlib.ExitStack) -> bool:
    """Accept a connection, if there is one."""
    with contextlib.suppress(TimeoutError):
        stack.enter_context(listening.accept()[0])
    return True


def test_a_key_that_is_revoked_while_its_requests_run_and_wait(gateway, sim, key):
    key.limit(concurrency=1)
    simulated = sim.add(fault="hang")
    model = gateway.add(simulated)
    with contextlib.ExitStack() as stack:
        for place in range(2):
            connection = stack.enter_context(gateway.connect())
            connection.sendall(key.chat_bytes(model))
            until(lambda place=place: (simulated.seen.running, gateway.page.waiting) == (1, place))
        del gateway.keys[key.id]
        gateway.publish()
        until(lambda: key.counted() == (0, 0, 0) and gateway.page.waiting == 0)


def test_a_stop_of_the_gateway_gives_everything_back(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_DRAIN_SECS="1").start()
    key, simulated = LimitedKey(gateway, **LIMITS), sim.add(fault="hang")
    model = gateway.add(simulated)
    with gateway.connect() as connection:
        connection.sendall(key.chat_bytes(model))
        until(lambda: simulated.seen.running == 1)
        gateway.signal(15)
        assert gateway.wait() == 0
    assert key.counted()[0] == 0


def test_stored_responses_are_requests(gateway, sim, key):
    model = gateway.add(sim.add())
    made = key.post("/v1/responses", {"model": model, "input": "Hi", "store": True}).json()
    before = key.counted()
    gateway.request("GET", f"/v1/responses/{made['id']}", key=key.secret)
    assert key.counted() == (0, before[1] + 1, before[2])


def test_an_internal_error_ends_it(gateway, key):
    """A response in a shape that nothing expects fails its attempt."""
    with upstream(always(http_response(b"\xff\xfe not json"))) as server:
        key.chat(gateway.add(server))
    assert key.counted()[:2] == (0, 1)


def test_many_at_once_end_with_nothing_in_flight(gateway, sim, key):
    first, second = sim.add(ttft=0.02), sim.add(ttft=0.02)
    model = add_equals(gateway, first, second, max_concurrency=2)
    given = at_once(*[lambda: key.chat(model)] * 30)
    assert {response.status for response in given} == {200}
    assert first.seen.peak + second.seen.peak <= 4
    assert key.counted() == (0, 30, 30 * 13)
