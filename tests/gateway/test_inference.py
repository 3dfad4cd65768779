"""One request after another through a real gateway, real sockets and simulated or scripted endpoints."""

import json
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from benchmarks.simulator import Simulator
from gateway import snapshot
from gateway.kinds import RESPONSES
from gateway.sealing import Sealer
from tests.gateway.process import GatewayProcess, read_to_end, read_until
from tests.gateway.scripted import DONE, LAST, Talk, always, answer, chunk, each_time, opening, stream, upstream
from tests.http import Answer
from tests.router import until

PATHS = {"chat_completions": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses"}


def events(given: Answer) -> list[bytes]:
    return [event for event in given.body.split(b"\n\n") if event]


def told(given: Answer) -> list[Any]:
    """The JSON of a stream's events, [DONE] aside."""
    found = [event.rpartition(b"data: ")[2] for event in events(given)]
    return [json.loads(data) for data in found if data != b"[DONE]"]


def ask(gateway: GatewayProcess, kind: str, model: str, **fields) -> Answer:
    body = {"model": model, "messages": [], "prompt": "", "input": "", **fields}
    return gateway.post(PATHS[kind], body)


def outcomes(record):
    return [(attempt.outcome, attempt.status) for attempt in record.attempts]


def error_of(given: Answer) -> tuple[int, str]:
    error = given.json()["error"]
    assert "127.0.0.1" not in error["message"]
    return given.status, error["code"]


# Whole answers


@pytest.mark.parametrize("kind", PATHS)
def test_a_whole_answer_and_its_record(gateway, sim, kind):
    simulated = sim.add(prompt_tokens=3)
    model = gateway.add(simulated)
    given = ask(gateway, kind, model)
    assert (given.status, given.json()["model"]) == (200, model)
    record = gateway.record()
    assert (record.outcome, record.status, record.kind, record.model) == ("ok", 200, kind, model)
    assert (record.input_tokens, record.output_tokens, record.estimated) == (3, 8, False)
    assert (record.streamed, record.first_token_us, record.error) == (False, None, None)
    assert outcomes(record) == [("ok", 200)]
    assert record.endpoint_id == gateway.endpoints_of(model)[0].id
    assert 0 < record.attempts[0].duration_us <= record.duration_us < 30_000_000


def test_embeddings(gateway, sim):
    given = gateway.post("/v1/embeddings", {"model": gateway.add(sim.add()), "input": ["a", "b"]})
    assert len(given.json()["data"]) == 2
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == ("embeddings", "ok", 5, None)


def test_an_answer_without_usage_has_no_tokens(gateway, sim):
    gateway.chat(gateway.add(sim.add(fault="no_usage")))
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", None, None)


def test_an_answer_that_is_no_json_passes(gateway):
    with upstream(always(answer(b"not what you asked for", 200, "text/plain"))) as server:
        given = gateway.chat(gateway.add(server))
    assert (given.status, given.body) == (200, b"not what you asked for")
    assert given.headers["content-type"] == "text/plain"
    assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("status", [201, 204, 302])
def test_what_is_no_error_is_ok(gateway, status):
    with upstream(always(answer(b"", status, "text/plain", "Location: http://127.0.0.1/secret"))) as server:
        given = gateway.chat(gateway.add(server))
    assert given.status == status
    assert "location" not in given.headers
    assert (gateway.record().outcome, gateway.records()) == ("ok", [])


# Streams


@pytest.mark.parametrize("kind", PATHS)
def test_a_stream_and_its_record(gateway, sim, kind):
    model = gateway.add(sim.add())
    given = ask(gateway, kind, model, stream=True)
    assert given.headers["content-type"] == "text/event-stream"
    assert given.headers["x-accel-buffering"] == "no"
    assert (events(given)[-1] == b"data: [DONE]") is (kind != RESPONSES)
    record = gateway.record()
    assert (record.outcome, record.status, record.kind, record.streamed) == ("ok", 200, kind, True)
    assert (record.input_tokens, record.output_tokens, record.estimated) == (5, 8, False)
    assert record.first_token_us is not None
    assert 0 < record.first_token_us <= record.duration_us


@pytest.mark.parametrize("value", [False, None])
def test_stream_may_be_said_to_be_none(gateway, sim, value):
    assert gateway.chat(gateway.add(sim.add()), stream=value).json()["object"] == "chat.completion"


def test_usage_is_asked_for_and_hidden(gateway, sim):
    simulated = sim.add()
    given = gateway.chat(gateway.add(simulated), stream=True, n=1)
    assert simulated.seen.bodies[0]["stream_options"] == {"include_usage": True}
    assert simulated.seen.bodies[0]["n"] == 1
    assert all("usage" not in event for event in told(given))
    assert gateway.record().input_tokens == 5


def test_usage_that_the_client_asked_for_is_shown(gateway, sim):
    simulated = sim.add()
    options = {"include_usage": True, "of_tomorrow": 1.5}
    given = gateway.chat(gateway.add(simulated), stream=True, stream_options=options)
    assert simulated.seen.bodies[0]["stream_options"] == options
    assert told(given)[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    assert gateway.record().output_tokens == 8


def test_a_responses_stream_tells_its_usage_unasked(gateway, sim):
    simulated = sim.add()
    given = ask(gateway, RESPONSES, gateway.add(simulated), stream=True)
    assert "stream_options" not in simulated.seen.bodies[0]
    assert told(given)[-1]["response"]["usage"]["output_tokens"] == 8


def test_a_server_that_refuses_stream_options_is_asked_again_and_not_bothered_later(gateway, sim):
    simulated = sim.add(fault="strict")
    model = gateway.add(simulated)
    for _ in range(2):
        assert events(gateway.chat(model, stream=True))[-1] == b"data: [DONE]"
    assert ["stream_options" in body for body in simulated.seen.bodies] == [True, False, False]
    first, second = gateway.records()
    assert outcomes(first) == outcomes(second) == [("ok", 200)]


def test_a_client_that_asked_for_usage_itself_is_told_of_the_refusal(gateway, sim):
    model = gateway.add(sim.add(fault="strict"))
    given = gateway.chat(model, stream=True, stream_options={"include_usage": True})
    assert (given.status, given.json()["error"]["message"]) == (400, "unknown field: stream_options")
    assert gateway.record().outcome == "refused"


def test_another_reason_for_400_is_passed_on(gateway, sim):
    simulated = sim.add(fault="400")
    given = gateway.chat(gateway.add(simulated), stream=True)
    assert (given.status, given.json()["error"]["message"]) == (400, "simulated 400")
    assert (simulated.seen.started, outcomes(gateway.record())) == (1, [("refused", 400)])


def test_without_usage_tokens_are_estimated(gateway, sim):
    gateway.chat(gateway.add(sim.add(fault="no_usage", tokens=6)), stream=True)
    record = gateway.record()
    assert (record.input_tokens, record.output_tokens, record.estimated) == (None, 6, True)


def test_a_stream_without_done_ends_whole_if_it_has_finished(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="no_done")), stream=True)
    assert b"[DONE]" not in given.body
    assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("fault", ["cut", "die"])
@pytest.mark.parametrize("kind", PATHS)
def test_a_stream_that_breaks_off_ends_in_an_error(gateway, sim, kind, fault):
    given = ask(gateway, kind, gateway.add(sim.add(fault=fault)), stream=True)
    last = told(given)[-1]
    error = last if kind == RESPONSES else last["error"]
    assert (error["code"], b"[DONE]" in given.body) == ("upstream_error", False)
    assert b"response.completed" not in given.body
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("truncated", 200, [("truncated", 200)])
    assert (record.estimated, (record.output_tokens or 0) < 8) == (True, True)


def test_a_broken_stream_is_not_tried_elsewhere(gateway, sim):
    broken, good = sim.add(fault="cut"), sim.add()
    gateway.chat(gateway.add(broken, good), stream=True)
    assert (broken.seen.started, good.seen.started) == (1, 0)


def test_a_stream_that_stops_times_out(gateway):
    with upstream(opening(stream(chunk("a"), end=False))) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=1), stream=True)
    assert told(given)[-1]["error"]["code"] == "upstream_timeout"
    record = gateway.record()
    assert (record.outcome, record.status, record.error) == ("truncated", 200, "timed out")


def test_a_timeout_is_for_each_gap_of_a_stream(gateway, sim):
    simulated = sim.add(tokens_per_second=12, tokens=16)  # 1.3 s in all
    gateway.chat(gateway.add(simulated, timeout_secs=1), stream=True)
    assert gateway.record().outcome == "ok"


def test_an_error_event_passes_and_is_a_failure(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="error_event")), stream=True)
    assert told(given)[-1]["error"]["message"] == "simulated error"
    assert b"[DONE]" not in given.body
    record = gateway.record()
    assert (record.outcome, record.error, outcomes(record)) == (
        "failed",
        "an error in its answer (server_error)",
        [("failed", 200)],
    )


def test_a_stream_is_passed_on_as_it_comes(gateway):
    go_on = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(stream(chunk("first"), end=False))
        go_on.wait(30)
        talk.send(stream(LAST, DONE).split(b"\r\n\r\n", 1)[1])

    with upstream(script) as server, gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(gateway.add(server), "Connection: close", stream=True))
        assert b"first" in read_until(connection, b"\n\n\r\n")
        go_on.set()
        assert DONE in read_to_end(connection)


# Names of models


def test_a_model_is_asked_for_by_the_endpoints_own_name(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated, known_as="tiny:latest")
    assert gateway.chat(model).json()["model"] == model
    assert simulated.seen.bodies[0]["model"] == "tiny:latest"
    assert gateway.record().model == model


def test_a_stream_bears_the_name_asked_for(gateway, sim):
    model = gateway.add(sim.add(), known_as="tiny:latest")
    given = gateway.chat(model, stream=True, stream_options={"include_usage": True})
    assert {event["model"] for event in told(given)} == {model}


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_may_call_its_model_something_else(gateway, sim, stream):
    model = gateway.add(sim.add(canonical_answer="/models/tiny.gguf"))
    given = gateway.chat(model, stream=stream)
    assert b"tiny.gguf" not in given.body
    assert model.encode() in given.body


def test_the_case_of_a_name_does_not_matter(gateway, sim):
    model = gateway.add(sim.add(), known_as="x").upper()
    assert gateway.chat(model).json()["model"] == model
    assert gateway.record().model == model


# Headers


def test_headers_go_up_by_an_allow_list(gateway, sim):
    simulated = sim.add()
    sent = {
        "Accept": "text/event-stream",
        "User-Agent": "client/1",
        "OpenAI-Organization": "org",
        "Anthropic-Version": "1",
        "Traceparent": "00-1-1-01",
        "X-Request-Id": "mine-7",
        "Cookie": "session=secret",
        "X-Api-Key": gateway.add_key("sk_in_another_header"),
        "X-Forwarded-For": "192.0.2.1",
        "Accept-Encoding": "gzip",
    }
    gateway.publish()
    gateway.post(PATHS["completions"], {"model": gateway.add(simulated), "prompt": ""}, headers=sent)
    got = {name.lower(): value for name, value in simulated.seen.headers[0].items()}
    got.pop("content-length")
    assert got.pop("via").startswith("1.1 routerdash-")
    kept = ("Accept", "User-Agent", "OpenAI-Organization", "Anthropic-Version", "Traceparent", "X-Request-Id")
    expected = {name.lower(): sent[name] for name in kept} | {"accept-encoding": "identity"}
    assert got == {**expected, "host": simulated.url[7:], "content-type": "application/json"}


def test_an_endpoint_gets_its_own_key(gateway, sim):
    simulated = sim.add(api_key="upstream-secret")
    sealer = Sealer([gateway.config.key_file.read_bytes()])
    model = gateway.add(simulated, sealed_key=sealer.seal("upstream-secret"))
    assert gateway.chat(model).status == 200
    assert "upstream-secret" not in gateway.log()


def test_headers_come_back_by_an_allow_list(gateway):
    kept = ("Cache-Control: no-store", "OpenAI-Version: 1", "X-RateLimit-Remaining: 9", "Retry-After: 3")
    dropped = ("Set-Cookie: a=b", "Access-Control-Allow-Origin: *", "Server: secret", "Location: /x", "X-Other: 1")
    with upstream(always(answer(b"{}", 200, "application/json", *kept, *dropped))) as server:
        given = gateway.chat(gateway.add(server))
    way = {"x-routerdash-endpoint", "x-routerdash-attempts", "x-routerdash-queue-ms"}
    harmless = {"x-content-type-options", "content-security-policy"}
    ours = {"date", "content-type", "content-length", "x-request-id", *harmless, *way}
    assert given.headers.keys() == {header.partition(":")[0].lower() for header in kept} | ours


def test_a_path_below_an_endpoints_address_is_kept_and_an_unknown_query_is_not(gateway):
    with upstream(always(answer(b"{}"))) as server:
        model = gateway.add(SimpleNamespace(url=f"{server.url}/below/"))
        gateway.post("/v1/completions?a=b&c", {"model": model})
        gateway.post("/v1/messages?beta=true&c", {"model": model, "messages": [], "max_tokens": 1})
    first, second = server.requests
    assert first.startswith(b"POST /below/v1/completions HTTP/1.1\r\n")
    assert second.startswith(b"POST /below/v1/messages?beta=true HTTP/1.1\r\n")


def test_a_query_with_an_odd_value_is_refused_with_its_name(gateway, sim):
    body = {"model": gateway.add(sim.add()), "messages": [], "max_tokens": 1}
    given = gateway.post("/v1/messages?beta=a%0d%0ab", body)
    assert (given.status, given.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "`beta`" in given.json()["error"]["message"]


@pytest.mark.parametrize(("given_id", "taken"), [("trace-1", True), ("x" * 129, False), ("", False), ("é", False)])
def test_a_decent_request_id_is_kept(gateway, sim, given_id, taken):
    body = {"model": gateway.add(sim.add()), "messages": []}
    given = gateway.post(PATHS["chat_completions"], body, headers={"X-Request-Id": given_id})
    record = gateway.record()
    assert given.headers["x-request-id"] == (given_id if taken else record.id)


# Another endpoint, and giving up


def refuses(status: int):
    return always(answer(b'{"error":{"message":"scripted %d"}}' % status, status))


def closes(talk: Talk) -> None:
    talk.request()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_is_tried_on_another_endpoint(gateway, sim, status, stream):
    with upstream(refuses(status)) as server:
        model = gateway.add(server, sim.add())
        assert gateway.chat(model, stream=stream).status == 200
    record = gateway.record()
    assert (record.outcome, outcomes(record)) == ("ok", [("failed", status), ("ok", 200)])
    assert record.attempts[0].error == f"HTTP {status}"
    assert [attempt.endpoint_id for attempt in record.attempts] == [it.id for it in gateway.endpoints_of(model)]


@pytest.mark.parametrize(
    "script",
    [
        closes,
        opening(b"nonsense\r\n\r\n"),
        each_time(answer(b"{}")[:-1]),
        each_time(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 0\r\n\r\n"),
        each_time(stream(chunk("x")[:20], end=False)),
    ],
)
def test_what_breaks_before_the_first_byte_is_tried_on_another_endpoint(gateway, sim, script):
    with upstream(script) as server:
        given = gateway.chat(gateway.add(server, sim.add()), stream=True)
    assert events(given)[-1] == b"data: [DONE]"
    record = gateway.record()
    assert (record.outcome, outcomes(record)) == ("ok", [("failed", 0), ("ok", 200)])


def test_a_refused_connection_is_tried_on_another_endpoint(gateway, sim):
    assert gateway.chat(gateway.add(gone(), sim.add())).status == 200
    record = gateway.record()
    assert outcomes(record) == [("failed", 0), ("ok", 200)]
    assert record.attempts[0].error == "connection refused"


def gone():
    """A server that is no longer there."""
    with upstream(closes) as server:
        return server


def test_a_timeout_is_tried_on_another_endpoint(gateway, sim):
    model = gateway.add(sim.add(fault="hang"), sim.add(), timeout_secs=1)
    assert gateway.chat(model).status == 200
    assert outcomes(gateway.record()) == [("failed", 0), ("ok", 200)]


@pytest.mark.parametrize("status", [400, 403, 404, 422, 501])
def test_what_is_not_the_endpoints_fault_is_passed_on(gateway, sim, status):
    good = sim.add()
    with upstream(refuses(status)) as server:
        given = gateway.chat(gateway.add(server, good))
    assert (given.status, given.json()["error"]["message"]) == (status, f"scripted {status}")
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("refused", status, [("refused", status)])
    assert (record.error, good.seen.started) == (f"HTTP {status}", 0)


def test_after_the_last_attempt_its_reason_is_told(gateway, sim):
    first, second = sim.add(fault="500"), sim.add(fault="503")
    given = gateway.chat(gateway.add(first, second))
    assert error_of(given) == (502, "upstream_error")
    assert given.json()["error"]["message"] == "The endpoint failed: simulated 503."
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("failed", 502, [("failed", 500), ("failed", 503)])
    assert record.error.startswith("The endpoint failed: HTTP 503")


def test_an_only_endpoint_is_asked_once(gateway, sim):
    simulated = sim.add(fault="500")
    assert error_of(gateway.chat(gateway.add(simulated))) == (502, "upstream_error")
    assert simulated.seen.started == 1


def test_too_many_requests_are_told_with_the_time_to_wait(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="500"), sim.add(fault="429")))
    assert (given.status, given.headers["retry-after"]) == (429, "1")
    assert given.json()["error"]["message"] == "simulated 429"
    record = gateway.record()
    assert (record.outcome, record.status, record.error.partition(" (")[0]) == ("failed", 429, "HTTP 429")


def test_endpoints_that_take_too_long(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="hang"), sim.add(fault="hang"), timeout_secs=0.3))
    assert error_of(given) == (504, "upstream_timeout")
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("failed", 504, [("failed", 0)] * 2)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (closes, "The endpoint failed: the connection broke off."),
        (refuses(500), "The endpoint failed: scripted 500."),
        (always(answer(b"", 502)), "The endpoint failed: HTTP 502."),
        (always(answer(b"plain\n", 500, "text/plain")), "The endpoint failed: plain."),
    ],
)
def test_the_last_reason_is_told(gateway, script, message):
    with upstream(script) as server:
        given = gateway.chat(gateway.add(server))
    assert error_of(given) == (502, "upstream_error")
    assert given.json()["error"]["message"] == message
    assert given.headers["x-request-id"] == gateway.record().id


@pytest.mark.parametrize("facts", [{"status": snapshot.OFFLINE}, {"operator_state": snapshot.DRAINING}])
def test_a_known_model_that_nobody_can_be_asked_for(gateway, sim, facts):
    simulated = sim.add()
    model = gateway.add(simulated)
    for endpoint in gateway.endpoints_of(model):
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, **facts)
    gateway.publish()
    until(lambda: gateway.chat(model).status == 503)  # within a moment, where the gateway has seen it as it was
    gateway.records()
    asked = simulated.seen.started
    given = gateway.chat(model)
    assert error_of(given) == (503, "no_capable_endpoints")
    assert (given.headers["retry-after"], given.json()["error"]["param"]) == ("5", "model")
    record = gateway.record()
    assert (record.outcome, record.status, record.attempts) == ("no_endpoint", 503, ())
    assert simulated.seen.started == asked


def test_a_kept_connection_that_has_gone_stale_is_no_attempt(gateway):
    whole = answer(b'{"usage":{"prompt_tokens":1}}')

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
        gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, status=snapshot.ONLINE)
    gateway.publish()
    with gateway.connect() as one, gateway.connect() as other, gateway.connect() as third, gateway.connect() as fourth:
        for number, connection in enumerate((one, other, third, fourth), 1):
            connection.sendall(gateway.chat_bytes(model))
            until(lambda number=number: busy.seen.running + idle.seen.running == number)
        assert busy.seen.running == idle.seen.running == 2
    until(lambda: gateway.in_flight(model) == 0)
    found: list[Any] = []

    def all_told() -> bool:  # each at the end of the turn in which its count went down
        found.extend(gateway.records())
        return len(found) == 4

    until(all_told)


# Clients that leave


@pytest.mark.parametrize(
    ("behaviour", "fields", "status"),
    [
        ({"tokens": 1000, "tokens_per_second": 50}, {"stream": True}, 200),
        ({"fault": "hang"}, {"stream": True}, 0),
        ({"ttft": 60}, {"stream": False}, 0),
    ],
    ids=["streaming", "waiting for the head", "not streaming"],
)
def test_a_client_that_leaves_stops_the_endpoint(gateway, sim, behaviour, fields, status):
    simulated = sim.add(**behaviour)
    model = gateway.add(simulated)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, **fields))
        if status:
            read_until(connection, b"\n\n\r\n")
        until(lambda: simulated.seen.running == 1)
        assert gateway.in_flight(model) == 1
    record = gateway.record_soon()
    assert (record.outcome, record.status, record.error) == ("cancelled", status, "the client left")
    assert outcomes(record) == [("cancelled", 0)]
    until(lambda: simulated.seen.cancelled == 1)
    assert (gateway.in_flight(model), simulated.seen.running) == (0, 0)


def test_a_client_that_leaves_a_stream_has_its_tokens_counted(gateway, sim):
    model = gateway.add(sim.add(tokens=1000, tokens_per_second=200))
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, stream=True))
        received = b""
        while received.count(b"data: {") < 6:  # the first of which says who speaks
            received += connection.recv(1 << 16)
    record = gateway.record_soon()
    assert (record.streamed, record.estimated) == (True, True)
    assert 5 <= record.output_tokens < 1000


def test_a_client_that_leaves_between_two_attempts(gateway, sim):
    simulated = sim.add(fault="hang")
    with upstream(refuses(500)) as server:
        model = gateway.add(server, simulated)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model))
            until(lambda: simulated.seen.running == 1)
    record = gateway.record_soon()
    assert (record.outcome, outcomes(record)) == ("cancelled", [("failed", 500), ("cancelled", 0)])


def test_a_slow_reader_who_leaves(gateway):
    with upstream(always(stream(*[chunk("x" * 100_000)] * 300, LAST, DONE))) as server:
        model = gateway.add(server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, stream=True))
            read_until(connection, b"x" * 1000)
        assert gateway.record_soon().outcome == "cancelled"
        assert gateway.in_flight(model) == 0


# The record comes first


def test_the_record_is_written_before_the_last_byte(gateway, sim):
    model = gateway.add(sim.add())
    for number in range(150):
        given = gateway.chat(model, stream=number % 2 == 0)
        record = gateway.record()
        assert (record.outcome, given.status) == ("ok", 200)
        assert gateway.in_flight(model) == 0


def test_the_record_is_written_before_done(gateway, sim):
    model = gateway.add(sim.add())
    with gateway.connect() as connection:
        for _ in range(50):
            connection.sendall(gateway.chat_bytes(model, stream=True))
            read_until(connection, DONE + b"\r\n0\r\n\r\n")
            assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("fault", ["400", "500", "429", "refuse", "cut", "die", "error_event"])
@pytest.mark.parametrize("stream", [True, False])
def test_there_is_one_record_however_it_ends(gateway, sim, fault, stream):
    simulated = sim.add()
    model = gateway.add(simulated)
    simulated.set(fault=fault)
    for _ in range(3):
        gateway.chat(model, stream=stream)
        assert gateway.record().model == model
    assert gateway.in_flight(model) == 0


def test_ids_of_records_are_those_told_to_clients(gateway, sim):
    model = gateway.add(sim.add())
    given = [gateway.chat(model).headers["x-request-id"] for _ in range(3)]
    assert given == [record.id for record in gateway.records()]
    milliseconds = [identifier[:13] for identifier in given]
    assert milliseconds == sorted(milliseconds)


def test_many_clients_at_once_are_all_counted(gateway, sim):
    model = gateway.add(sim.add(ttft=0.01), sim.add(ttft=0.01))

    def ask_often() -> None:
        for number in range(20):
            gateway.chat(model, stream=number % 2 == 0)

    threads = [threading.Thread(target=ask_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = gateway.records()
    assert len({record.id for record in records}) == len(records) == 160
    assert {record.outcome for record in records} == {"ok"}
    assert gateway.in_flight(model) == 0
