"""Keep-alive comments, drains, and the list of running requests."""

import json
import threading
import time

import msgspec
import pytest

from gateway.ipc import running_requests
from gateway.registry import schema
from tests.gateway.inference.helpers import (
    change,
    events,
    outcomes,
)
from tests.gateway.process import read_until
from tests.gateway.scripted import DONE, Talk, http_response, upstream
from tests.router import until

# Silence


def test_a_silent_stream_gets_keep_alive_comments(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    given = gateway.chat(gateway.add(sim.add(ttft=1.0)), stream=True)
    assert given.body.startswith(b": waiting\n\n")
    assert given.headers["content-type"] == "text/event-stream"
    assert given.body.endswith(DONE)
    record = gateway.record()
    assert (record.outcome, record.status) == ("ok", 200)
    assert record.first_token_us > 900_000


def test_after_a_comment_failover_is_still_possible(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    given = gateway.chat(gateway.add(sim.add(fault="hang"), sim.add(), timeout_secs=1), stream=True)
    assert given.body.startswith(b": waiting\n\n")
    assert given.body.endswith(DONE)
    assert outcomes(gateway.record()) == [("failed", 0), ("ok", 200)]


def test_after_a_comment_a_failure_is_an_event_of_the_stream(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    given = gateway.chat(gateway.add(sim.add(fault="hang"), timeout_secs=1), stream=True)
    assert given.status == 200
    assert json.loads(events(given)[-1].removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    assert gateway.record().outcome == "failed"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_after_a_comment_a_refusal_is_an_event_of_the_stream(make_gateway, path):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()

    commented = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        assert commented.wait(10)
        talk.send(http_response(b'{"error":{"message":"too long"}}', 400))

    with upstream(script) as server, gateway.connect() as connection:
        fields = {"messages": [], "input": "", "max_tokens": 1, "stream": True}
        body = json.dumps({"model": gateway.add(server), **fields}).encode()
        connection.sendall(gateway.head(f"POST {path}", f"Content-Length: {len(body)}") + body)
        read_until(connection, b": waiting\n\n\r\n")
        commented.set()
        last = read_until(connection, b"\r\n0\r\n\r\n")
    assert b"too long" in last
    record = gateway.record()
    assert (record.outcome, record.attempts[0].status) == ("refused", 400)


def test_a_request_without_stream_gets_no_comment(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    assert gateway.chat(gateway.add(sim.add(ttft=0.7))).json()["object"] == "chat.completion"


# Drain


def drain(gateway, model, until_when):
    change(gateway, model, operator_state=schema.DRAINING, drain_until=until_when)


def test_a_draining_endpoint_ends_its_streams_and_takes_nothing_new(gateway, sim):
    simulated = sim.add(tokens_per_second=20, tokens=12)
    model = gateway.add(simulated)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, "Connection: close", stream=True))
        read_until(connection, b"\n\n\r\n")
        drain(gateway, model, None)
        until(lambda: gateway.chat(model).status == 503)
        assert read_until(connection, DONE + b"\r\n0\r\n\r\n")
    assert [record.outcome for record in gateway.records() if record.streamed] == ["ok"]


def test_requests_still_running_at_the_deadline_are_ended(gateway, sim):
    model = gateway.add(sim.add(tokens_per_second=20, tokens=10_000))
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, "Connection: close", stream=True))
        read_until(connection, b"\n\n\r\n")
        drain(gateway, model, time.time() + 0.2)
        assert b"in the middle of its response" in read_until(connection, b"\r\n0\r\n\r\n")
    record = gateway.record_soon()
    assert (record.outcome, record.error) == ("truncated", "the endpoint was drained")
    assert gateway.in_flight(model) == 0


def test_a_request_without_a_response_at_the_deadline_fails_over(gateway, sim):
    slow, good = sim.add(fault="hang"), sim.add()
    model = gateway.add(slow, good)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, "Connection: close"))
        until(lambda: slow.seen.running == 1)
        first = gateway.endpoints_of(model)[0]
        gateway.endpoints[first.id] = msgspec.structs.replace(
            first, operator_state=schema.DRAINING, drain_until=time.time()
        )
        gateway.publish()
        assert b"chat.completion" in read_until(connection, b"}}")
    assert outcomes(gateway.record_soon()) == [("failed", 0), ("ok", 200)]


# Running requests


def test_running_requests_are_published_while_a_page_shows_them(gateway, sim):
    simulated = sim.add(tokens_per_second=20, tokens=10_000)
    model = gateway.add(simulated, max_concurrency=1)
    with gateway.connect() as one, gateway.connect() as two:
        one.sendall(gateway.chat_bytes(model, stream=True))
        read_until(one, b"\n\n\r\n")
        two.sendall(gateway.chat_bytes(model))
        until(lambda: gateway.page.waiting == 1)
        gateway.page.watched_until = 0
        running_requests.path(gateway.config.data_dir, 0).unlink(missing_ok=True)  # of an earlier viewer
        time.sleep(0.7)  # more than the interval of publishing
        assert running_requests.load(gateway.config.data_dir, 0) is None
        gateway.page.watched_until = int(time.time()) + 5
        published = until(lambda: running_requests.load(gateway.config.data_dir, 0))
    (running,), (waiting,) = published.running, published.waiting
    assert (running.model, running.streamed, running.endpoint_id) == (model, True, gateway.endpoints_of(model)[0].id)
    assert (waiting.model, waiting.position, waiting.client_ip) == (model, 1, "127.0.0.1")
    assert 0 <= published.at - waiting.since <= published.at - running.since < 30
    assert running.deltas >= 1


def test_a_new_endpoint_is_used_at_once(gateway, sim):
    good = sim.add()
    model = gateway.add(sim.add(fault="500"))
    gateway.chat(model)
    endpoint = gateway.endpoints_of(model)[0]
    gateway.endpoints["more"] = msgspec.structs.replace(endpoint, id="more", slot=1021, base_url=good.url)
    gateway.publish()
    assert gateway.chat(model).status == 200
    del gateway.endpoints["more"]
