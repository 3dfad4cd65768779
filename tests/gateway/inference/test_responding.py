"""Complete responses, through a real gateway and simulated or scripted endpoints."""

import pytest

from gateway.upstream.response_head import MAX_BODY_BYTES
from tests.gateway.inference.helpers import (
    PATHS,
    outcomes,
    send_request,
)
from tests.gateway.scripted import always, http_response, upstream


@pytest.mark.parametrize("kind", PATHS)
def test_a_complete_response_and_its_record(gateway, sim, kind):
    simulated = sim.add(prompt_tokens=3)
    model = gateway.add(simulated)
    given = send_request(gateway, kind, model)
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


def test_a_response_without_usage_has_no_tokens(gateway, sim):
    gateway.chat(gateway.add(sim.add(fault="no_usage")))
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", None, None)


def test_a_response_that_is_not_json_is_passed_on(gateway):
    with upstream(always(http_response(b"another body", 200, "text/plain"))) as server:
        given = gateway.chat(gateway.add(server))
    assert (given.status, given.body) == (200, b"another body")
    assert given.headers["content-type"] == "text/plain"
    assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("status", [201, 204])
def test_a_response_below_300_without_a_body_is_ok(gateway, status):
    with upstream(always(http_response(b"", status, "text/plain", "Location: http://127.0.0.1/secret"))) as server:
        given = gateway.chat(gateway.add(server))
    assert given.status == status
    assert "location" not in given.headers
    assert (gateway.record().outcome, gateway.records()) == ("ok", [])


# Large bodies


@pytest.mark.parametrize("streamed", [True, False])
def test_the_model_of_a_big_body_is_replaced_in_place(gateway, sim, streamed):
    simulated = sim.add()
    model = gateway.add(simulated, known_as="its own")
    content = "x" * 300_000
    given = gateway.chat(model, stream=streamed, messages=[{"role": "user", "content": content}])
    assert given.status == 200
    body = simulated.seen.bodies[0]
    assert (body["model"], body["messages"][0]["content"]) == ("its own", content)
    assert ("stream_options" in body) is streamed


HUGE = MAX_BODY_BYTES + 1
SPOOFED = rb'"text":"\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}"'


@pytest.mark.parametrize(
    ("end", "tokens"),
    [
        (b'"usage":{"prompt_tokens":7,"completion_tokens":90000},"system_fingerprint":"a"', (7, 90_000)),
        (b'"usage" : {"input_tokens":7,"output_tokens":9},"user":null,"metadata":{"usage":"{}"}', (7, 9)),
        (b'"usage":{"prompt_tokens":7,"completion_tokens":9},' + SPOOFED, (7, 9)),
        (SPOOFED, (None, None)),
        (b'"usage":{"prompt', (None, None)),
    ],
)
def test_the_tokens_of_a_response_that_is_too_long_to_be_read_are_counted(gateway, end, tokens):
    body = b'{"model":"m","choices":[{"message":{"content":"'
    body += b"x" * (HUGE - len(body) - len(end)) + b'"}}],' + end + b"}"
    with upstream(always(http_response(body))) as server:
        given = gateway.chat(gateway.add(server))
    assert (given.status, len(given.body)) == (200, len(body))
    record = gateway.record()
    assert (record.input_tokens, record.output_tokens, record.estimated) == (*tokens, False)
