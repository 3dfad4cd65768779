"""Failover to another endpoint, retries, circuit breakers, timeouts, and the end of all attempts."""

import contextlib
import time
from typing import Any

import msgspec
import pytest

from benchmarks.simulator import Simulator
from gateway.registry import schema
from tests.gateway.inference.helpers import (
    add_equals,
    change,
    closes,
    error_of,
    event_data,
    events,
    outcomes,
    refuses,
)
from tests.gateway.scripted import Talk, always, chunk, each_time, http_response, opening, stream, upstream
from tests.router import until

# Failover


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_tried_on_another_endpoint(gateway, sim, status, stream):
    with upstream(refuses(status)) as server:
        model = gateway.add(server, sim.add())
        assert gateway.chat(model, stream=stream).status == 200
    record = gateway.record()
    assert (record.outcome, outcomes(record)) == ("ok", [("failed", status), ("ok", 200)])
    assert record.attempts[0].error == f"HTTP {status}"
    assert [attempt.endpoint_id for attempt in record.attempts] == [
        endpoint.id for endpoint in gateway.endpoints_of(model)
    ]


@pytest.mark.parametrize(
    "script",
    [
        closes,
        opening(b"nonsense\r\n\r\n"),
        each_time(http_response(b"{}")[:-1]),
        each_time(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 0\r\n\r\n"),
        each_time(stream(chunk("x")[:20], end=False)),
    ],
)
def test_a_failure_before_the_first_byte_is_tried_on_another_endpoint(gateway, sim, script):
    with upstream(script) as server:
        given = gateway.chat(gateway.add(server, sim.add()), stream=True)
    assert events(given)[-1] == b"data: [DONE]"
    record = gateway.record()
    assert (record.outcome, outcomes(record)) == ("ok", [("failed", 0), ("ok", 200)])


def test_a_refused_connection_is_tried_on_another_endpoint(gateway, sim):
    assert gateway.chat(gateway.add(stopped_server(), sim.add())).status == 200
    record = gateway.record()
    assert outcomes(record) == [("failed", 0), ("ok", 200)]
    assert record.attempts[0].error == "connection refused"


def stopped_server():
    """The address of a server that has stopped."""
    with upstream(closes) as server:
        return server


def test_a_timeout_is_tried_on_another_endpoint(gateway, sim):
    model = gateway.add(sim.add(fault="hang"), sim.add(), timeout_secs=1)
    assert gateway.chat(model, stream=True).status == 200
    assert outcomes(gateway.record()) == [("failed", 0), ("ok", 200)]


@pytest.mark.parametrize("status", [400, 403, 409, 422])
def test_errors_caused_by_the_client_are_passed_on(gateway, sim, status):
    good = sim.add()
    with upstream(refuses(status)) as server:
        given = gateway.chat(gateway.add(server, good))
    assert (given.status, given.json()["error"]["message"]) == (status, f"scripted {status}")
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("refused", status, [("refused", status)])
    assert (record.error, good.seen.started) == (f"HTTP {status}", 0)


def test_after_the_last_attempt_the_client_receives_its_reason(gateway, sim):
    first, second = sim.add(fault="500"), sim.add(fault="503")
    given = gateway.chat(gateway.add(first, second))
    assert error_of(given) == (502, "upstream_error")
    assert given.json()["error"]["message"] == "The endpoint failed: simulated 503."
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("failed", 502, [("failed", 500), ("failed", 503)])
    assert record.error.startswith("The endpoint failed: HTTP 503")


def test_an_only_endpoint_gets_one_attempt(gateway, sim):
    simulated = sim.add(fault="500")
    assert error_of(gateway.chat(gateway.add(simulated))) == (502, "upstream_error")
    assert simulated.seen.started == 1


def test_429_of_an_endpoint_is_passed_on_with_retry_after(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="500"), sim.add(fault="429")))
    assert (given.status, given.headers["retry-after"]) == (429, "1")
    assert given.json()["error"]["message"] == "simulated 429"
    record = gateway.record()
    assert (record.outcome, record.status, record.error.partition(" (")[0]) == ("failed", 429, "HTTP 429")


def test_endpoints_that_take_too_long(gateway, sim):
    model = gateway.add(sim.add(fault="hang"), sim.add(fault="hang"), timeout_secs=0.3)
    given = gateway.chat(model, stream=True)
    assert error_of(given) == (504, "upstream_timeout")
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("failed", 504, [("failed", 0)] * 2)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (closes, "The endpoint failed: the connection broke off."),
        (refuses(500), "The endpoint failed: scripted 500."),
        (always(http_response(b"", 502)), "The endpoint failed: HTTP 502."),
        (always(http_response(b"plain\n", 500, "text/plain")), "The endpoint failed: plain."),
    ],
)
def test_the_client_receives_the_last_reason(gateway, script, message):
    with upstream(script) as server:
        given = gateway.chat(gateway.add(server))
    assert error_of(given) == (502, "upstream_error")
    assert given.json()["error"]["message"] == message
    assert given.headers["x-request-id"] == gateway.record().id


@pytest.mark.parametrize("facts", [{"status": schema.OFFLINE}, {"operator_state": schema.DRAINING}])
def test_a_known_model_without_an_available_endpoint(gateway, sim, facts):
    simulated = sim.add()
    model = gateway.add(simulated)
    for endpoint in gateway.endpoints_of(model):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, **facts)
    gateway.publish()
    until(lambda: gateway.chat(model).status == 503)  # before the gateway reads the new snapshot
    gateway.records()
    before = simulated.seen.started
    given = gateway.chat(model)
    assert error_of(given) == (503, "no_capable_endpoints")
    assert (given.headers["retry-after"], given.json()["error"]["param"]) == ("5", "model")
    record = gateway.record()
    assert (record.outcome, record.status, record.attempts) == ("no_endpoint", 503, ())
    assert simulated.seen.started == before


def test_a_retry_on_a_stale_connection_is_no_attempt(gateway):
    whole = http_response(b'{"usage":{"prompt_tokens":1}}')

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(whole)
        talk.request()

    with upstream(script) as server:
        model = gateway.add(server)
        assert [gateway.chat(model).status for _ in range(3)] == [200] * 3
    assert [outcomes(record) for record in gateway.records()] == [[("ok", 200)]] * 3


def test_load_is_spread_over_endpoints(gateway, sim: Simulator):
    busy, idle = sim.add(fault="hang"), sim.add(fault="hang")
    model = gateway.add(busy, idle)
    for endpoint in gateway.endpoints_of(model):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, status=schema.ONLINE)
    gateway.publish()
    with gateway.connect() as one, gateway.connect() as other, gateway.connect() as third, gateway.connect() as fourth:
        for number, connection in enumerate((one, other, third, fourth), 1):
            connection.sendall(gateway.chat_bytes(model))
            until(lambda number=number: busy.seen.running + idle.seen.running == number)
        assert busy.seen.running == idle.seen.running == 2
    until(lambda: gateway.in_flight(model) == 0)
    records: list[Any] = []

    def all_published() -> bool:  # published at the end of the loop iteration
        records.extend(gateway.records())
        return len(records) == 4

    until(all_published)


# Retries


def test_there_are_three_attempts_and_no_more(gateway, sim):
    bad = [sim.add(fault="500") for _ in range(3)]
    good = sim.add()
    model = gateway.add(*bad)
    more = gateway.endpoints_of(model)[0]
    gateway.endpoints["more"] = msgspec.structs.replace(
        more, id="more", slot=1023, base_url=good.url, status=schema.ERROR
    )
    change(gateway, model)
    gateway.chat(model)
    assert len(gateway.record().attempts) == 3


@pytest.mark.parametrize("fault", ["500", "503", "429", "refuse"])
def test_twelve_of_twelve_requests_succeed_with_one_failing_endpoint(gateway, sim, fault):
    model = add_equals(gateway, sim.add(), broken := sim.add())
    broken.set(fault=fault)
    assert [gateway.chat(model, stream=bool(number % 2)).status for number in range(12)] == [200] * 12
    assert {record.outcome for record in gateway.records()} == {"ok"}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "given",
    [http_response(b""), http_response(b"  \n"), http_response(b"<html>", 200, "text/html")],
    ids=["nothing", "blanks", "a page"],
)
def test_an_empty_200_is_a_failure(gateway, sim, given, streamed):
    with upstream(always(given)) as server:
        model = gateway.add(server, sim.add())
        assert gateway.chat(model, stream=streamed).status == 200
    assert [outcome for outcome, _ in outcomes(gateway.record())] == ["failed", "ok"]


def test_a_refused_upstream_key_is_not_reported_as_the_clients_error(gateway, sim):
    model = gateway.add(sim.add(api_key="other"), sim.add())
    assert gateway.chat(model).status == 200
    record = gateway.record()
    assert outcomes(record) == [("failed", 401), ("ok", 200)]
    assert record.attempts[0].error == "it rejects the API key that RouterDash sends"


def test_a_stream_that_begins_with_an_error_is_tried_on_another_endpoint(gateway, sim):
    with upstream(always(stream(b'data: {"error":{"message":"no memory"}}\n\n'))) as server:
        given = gateway.chat(gateway.add(server, sim.add()), stream=True)
    assert events(given)[-1] == b"data: [DONE]"
    record = gateway.record()
    assert (record.outcome, record.attempts[0].error) == ("ok", "an error in its response")


def test_a_comment_does_not_count_as_first_token(gateway, sim):
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(stream(b": loading\n\n", end=False))
        with contextlib.suppress(OSError):
            while True:
                talk.send(b"b\r\n: loading\n\n\r\n")
                time.sleep(0.05)

    with upstream(script) as server:
        model = gateway.add(server, sim.add(), timeout_secs=1)
        assert events(gateway.chat(model, stream=True))[-1] == b"data: [DONE]"
    assert gateway.record().attempts[0].error == "timed out"


# Timeouts


def test_the_gap_in_a_stream_has_its_own_limit(gateway):
    with upstream(opening(stream(chunk("a"), end=False))) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=60, idle_timeout_secs=0.3), stream=True)
    assert event_data(given)[-1]["error"]["code"] == "upstream_timeout"
    assert gateway.record().outcome == "truncated"


def test_each_event_of_a_stream_extends_its_limit(gateway):
    def script(talk):
        talk.request()
        talk.send(stream(end=False))
        for number in range(8):
            event = chunk(f" {number}")
            talk.send(b"%x\r\n%b\r\n" % (len(event), event))
            time.sleep(0.2)
        talk.client_disconnected()

    with upstream(script) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=60, idle_timeout_secs=1), stream=True)
    assert event_data(given)[-1]["error"]["code"] == "upstream_timeout"
    record = gateway.record()
    assert (record.outcome, record.output_tokens) == ("truncated", 8)
    assert record.duration_us > 2_000_000


def test_a_stream_has_a_total_limit_if_configured(gateway, sim):
    model = gateway.add(sim.add(tokens_per_second=20, tokens=1000), total_timeout_secs=0.5)
    given = gateway.chat(model, stream=True)
    assert event_data(given)[-1]["error"]["code"] == "upstream_timeout"
    record = gateway.record()
    assert record.outcome == "truncated"
    assert 1 <= record.output_tokens < 100


# Capabilities


def test_a_request_is_routed_only_to_a_model_with_the_capability(gateway, sim):
    model = gateway.add(sim.add(), sim.add())
    chats, embeds = gateway.endpoints_of(model)
    for endpoint, word in ((chats, "chat"), (embeds, "embeddings")):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(
            endpoint, models=(schema.Model(model, capabilities=(word,)),)
        )
    gateway.publish()
    gateway.post("/v1/embeddings", {"model": model, "input": "x"})
    gateway.chat(model)
    assert [record.endpoint_id for record in gateway.records()] == [embeds.id, chats.id]


def test_requests_with_tools_avoid_an_endpoint_whose_model_lacks_them(gateway, sim):
    model = gateway.add(sim.add(), sim.add())
    poor, able = gateway.endpoints_of(model)
    gateway.endpoints[poor.id] = msgspec.structs.replace(poor, models=(schema.Model(model, lacks=("tools",)),))
    gateway.publish()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for _ in range(4):
        assert gateway.chat(model, tools=[tool]).status == 200
    assert [record.endpoint_id for record in gateway.records()] == [able.id] * 4


def test_a_model_without_the_capability_is_refused(gateway, sim):
    model = gateway.add(sim.add())
    change(gateway, model, models=(schema.Model(model, capabilities=("embeddings",)),))
    until(lambda: gateway.chat(model).status == 400)
    given = gateway.chat(model)
    assert error_of(given) == (400, "model_not_capable")
    assert "capability chat" in given.json()["error"]["message"]


# Headers of the response


def test_responses_name_the_endpoint_the_attempts_and_the_time_in_the_queue(gateway, sim):
    model = gateway.add(sim.add(fault="500"), sim.add())
    change(gateway, model, name="café 2")
    headers = gateway.chat(model).headers
    assert headers["x-routerdash-endpoint"] == "caf%C3%A9 2"
    assert (headers["x-routerdash-attempts"], headers["x-routerdash-queue-ms"]) == ("2", "0")


def test_a_stream_names_its_attempt(gateway, sim):
    headers = gateway.chat(gateway.add(sim.add(fault="500"), sim.add()), stream=True).headers
    assert headers["x-routerdash-attempts"] == "2"


def test_refusals_after_an_attempt_also_name_it(gateway, sim):
    assert gateway.chat(gateway.add(sim.add(fault="500"))).headers["x-routerdash-attempts"] == "1"


def test_the_response_headers_can_be_disabled(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_ROUTE_HEADERS="false").start()
    headers = gateway.chat(gateway.add(sim.add())).headers
    assert not [name for name in headers if name.startswith("x-routerdash")]
