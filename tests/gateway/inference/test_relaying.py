"""Streamed responses (SSE), through a real gateway and simulated or scripted endpoints."""

import threading

import pytest

from gateway.base.request_kinds import RESPONSES
from tests.gateway.inference.helpers import (
    PATHS,
    event_data,
    events,
    outcomes,
    send_request,
)
from tests.gateway.process import read_to_end, read_until
from tests.gateway.scripted import (
    DONE,
    LAST,
    Script,
    Talk,
    chunk,
    http_response,
    opening,
    stream,
    upstream,
)


@pytest.mark.parametrize("kind", PATHS)
def test_a_stream_and_its_record(gateway, sim, kind):
    model = gateway.add(sim.add())
    given = send_request(gateway, kind, model, stream=True)
    assert given.headers["content-type"] == "text/event-stream"
    assert given.headers["x-accel-buffering"] == "no"
    assert (events(given)[-1] == b"data: [DONE]") is (kind != RESPONSES)
    record = gateway.record()
    assert (record.outcome, record.status, record.kind, record.streamed) == ("ok", 200, kind, True)
    assert (record.input_tokens, record.output_tokens, record.estimated) == (5, 8, False)
    assert record.first_token_us is not None
    assert 0 < record.first_token_us <= record.duration_us


@pytest.mark.parametrize("value", [False, None])
def test_stream_may_be_null(gateway, sim, value):
    assert gateway.chat(gateway.add(sim.add()), stream=value).json()["object"] == "chat.completion"


def test_usage_is_requested_and_hidden(gateway, sim):
    simulated = sim.add()
    given = gateway.chat(gateway.add(simulated), stream=True, n=1)
    assert simulated.seen.bodies[0]["stream_options"] == {"include_usage": True}
    assert simulated.seen.bodies[0]["n"] == 1
    assert all("usage" not in event for event in event_data(given))
    assert gateway.record().input_tokens == 5


def test_usage_that_the_client_requested_is_passed_on(gateway, sim):
    simulated = sim.add()
    options = {"include_usage": True, "of_tomorrow": 1.5}
    given = gateway.chat(gateway.add(simulated), stream=True, stream_options=options)
    assert simulated.seen.bodies[0]["stream_options"] == options
    assert event_data(given)[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    assert gateway.record().output_tokens == 8


def test_a_responses_stream_reports_usage_without_an_option(gateway, sim):
    simulated = sim.add()
    given = send_request(gateway, RESPONSES, gateway.add(simulated), stream=True)
    assert "stream_options" not in simulated.seen.bodies[0]
    assert event_data(given)[-1]["response"]["usage"]["output_tokens"] == 8


def test_a_server_that_refuses_stream_options_does_not_receive_them_again(gateway, sim):
    simulated = sim.add(fault="strict")
    model = gateway.add(simulated)
    for _ in range(2):
        assert events(gateway.chat(model, stream=True))[-1] == b"data: [DONE]"
    assert ["stream_options" in body for body in simulated.seen.bodies] == [True, False, False]
    first, second = gateway.records()
    assert outcomes(first) == outcomes(second) == [("ok", 200)]


QUOTED = b'{"error":{"message":"cannot read: stream_options","type":"invalid_request_error"}}'


def quoting(*statuses: int) -> Script:
    """Respond with these statuses; errors quote `stream_options`, which the client may have written."""
    left = iter(statuses)

    def script(talk: Talk) -> None:
        while talk.request():
            status = next(left)
            talk.send(stream(chunk("a"), LAST, DONE) if status == 200 else http_response(QUOTED, status))

    return script


@pytest.mark.parametrize("status", [400, 408, 429, 500, 503])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_client_cannot_end_the_counting_of_others(gateway, status, path):
    """The server quotes a bad request, and refuses the second try for another reason: it may know the option."""
    lacking = (404,) if path == "/v1/messages" else ()
    with upstream(quoting(*lacking, 400, status, 200)) as server:
        model = gateway.add(server)
        body = {"model": model, "messages": [{"role": "user", "content": "stream_options"}], "max_tokens": 5}
        for _ in range(2):
            gateway.post(path, {**body, "stream": True})
    has_option = [b'"stream_options":{' in request for request in server.requests[len(lacking) :]]
    assert has_option == [True, False, True]


def test_a_client_that_requested_usage_receives_the_refusal(gateway, sim):
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
    assert (record.output_tokens, record.estimated) == (6, True)
    assert record.input_tokens == pytest.approx(record.body_bytes / 4, abs=1)


def test_a_stream_without_done_is_complete_after_a_finish_reason(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="no_done")), stream=True)
    assert b"[DONE]" not in given.body
    assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("fault", ["cut", "die"])
@pytest.mark.parametrize("kind", PATHS)
def test_a_stream_that_breaks_off_ends_in_an_error(gateway, sim, kind, fault):
    given = send_request(gateway, kind, gateway.add(sim.add(fault=fault)), stream=True)
    last = event_data(given)[-1]
    assert (last.get("type") == "response.failed") is (kind == RESPONSES)
    error = last["response"]["error"] if kind == RESPONSES else last["error"]
    assert (error["code"], b"[DONE]" in given.body) == ("upstream_error", False)
    assert b"response.completed" not in given.body
    record = gateway.record()
    assert (record.outcome, record.status, outcomes(record)) == ("truncated", 200, [("truncated", 200)])
    assert (record.estimated, (record.output_tokens or 0) < 8) == (True, True)


def test_a_broken_stream_is_not_tried_on_another_endpoint(gateway, sim):
    broken, good = sim.add(fault="cut"), sim.add()
    gateway.chat(gateway.add(broken, good), stream=True)
    assert (broken.seen.started, good.seen.started) == (1, 0)


def test_a_stream_that_stops_times_out(gateway):
    with upstream(opening(stream(chunk("a"), end=False))) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=1), stream=True)
    assert event_data(given)[-1]["error"]["code"] == "upstream_timeout"
    record = gateway.record()
    assert (record.outcome, record.status, record.error) == ("truncated", 200, "timed out")


def test_a_timeout_applies_to_each_gap_of_a_stream(gateway, sim):
    simulated = sim.add(tokens_per_second=12, tokens=16)  # 1.3 s in all
    gateway.chat(gateway.add(simulated, timeout_secs=1), stream=True)
    assert gateway.record().outcome == "ok"


def test_an_error_event_is_passed_on_and_counts_as_a_failure(gateway, sim):
    given = gateway.chat(gateway.add(sim.add(fault="error_event")), stream=True)
    assert event_data(given)[-1]["error"]["message"] == "simulated error"
    assert b"[DONE]" not in given.body
    record = gateway.record()
    assert (record.outcome, record.error, outcomes(record)) == (
        "failed",
        "an error in its response (server_error)",
        [("failed", 200)],
    )


def test_a_stream_is_passed_on_as_it_is_received(gateway):
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
