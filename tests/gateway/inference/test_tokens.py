"""Every kind of token, the finish reason and the served model in the record."""

import json
from typing import Any

import pytest

from gateway.base.bounds import REPORTED_TOKENS
from gateway.ipc.bound_hits import Hits
from tests.gateway.scripted import Talk, http_response, stream, upstream

TOKENS = {"prompt_tokens": 100, "cached_tokens": 64, "cache_write_tokens": 16, "reasoning_tokens": 7, "tokens": 5}
RECORDED = (100, 12, 64, 16, 7)
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": []},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 50},
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def recorded(record):
    parts = (record.cached_tokens, record.cache_write_tokens, record.reasoning_tokens)
    return (record.input_tokens, record.output_tokens, *parts)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
def test_every_kind_of_token_is_recorded(gateway, sim, path, streamed):
    model = gateway.add(sim.add(**TOKENS))
    assert gateway.post(path, {"model": model, **PATHS[path], "stream": streamed}).status == 200
    record = gateway.record()
    assert recorded(record) == RECORDED
    assert (record.estimated, record.finish_reason) == (False, "stop")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_a_translated_response_has_every_count_for_client_and_record(gateway, sim, streamed):
    model = gateway.add(sim.add(**TOKENS, messages=False))
    given = gateway.post("/v1/messages", {"model": model, **PATHS["/v1/messages"], "stream": streamed})
    if streamed:
        events = [json.loads(event.partition(b"data: ")[2]) for event in given.body.split(b"\n\n") if event]
        usage = events[-2]["usage"]
    else:
        usage = given.json()["usage"]
    assert usage == {
        "input_tokens": 20,
        "cache_creation_input_tokens": 16,
        "cache_read_input_tokens": 64,
        "output_tokens": 12,
        "output_tokens_details": {"thinking_tokens": 7},
    }
    record = gateway.record()
    assert (recorded(record), record.finish_reason) == (RECORDED, "stop")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_what_is_not_reported_is_not_recorded(gateway, sim, streamed):
    model = gateway.add(sim.add())
    gateway.chat(model, stream=streamed)
    assert recorded(gateway.record()) == (5, 8, None, None, None)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fields", "reason"), [({"max_tokens": 2}, "length"), ({"tools": [TOOL]}, "tool_calls"), ({}, "stop")]
)
def test_the_finish_reason_is_recorded(gateway, sim, fields, reason, streamed):
    model = gateway.add(sim.add())
    gateway.chat(model, stream=streamed, **fields)
    assert gateway.record().finish_reason == reason


@pytest.mark.parametrize("fault", ["400", "500", "refuse", "cut", "die", "error_event"])
def test_a_failed_request_has_no_finish_reason(gateway, sim, fault):
    model = gateway.add(sim.add(fault=fault))
    gateway.chat(model, stream=True)
    assert gateway.record().finish_reason is None


def test_the_counts_of_an_aborted_stream_are_recorded_so_far(gateway):
    start = {"input_tokens": 20, "cache_creation_input_tokens": 16, "cache_read_input_tokens": 64, "output_tokens": 1}
    opening = {"type": "message_start", "message": {"type": "message", "model": "m", "usage": start}}
    piece = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}
    events = [b"data: %b\n\n" % json.dumps(event).encode() for event in (opening, piece, piece)]

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(stream(*events, end=False))
        talk.client_disconnected()

    with upstream(script) as server:
        model = gateway.add(server)
        body = json.dumps({"model": model, **PATHS["/v1/messages"], "stream": True}).encode()
        with gateway.connect() as connection:
            connection.sendall(gateway.head("POST /v1/messages", f"Content-Length: {len(body)}") + body)
            received = b""
            while received.count(b"Hello") < 2:
                received += connection.recv(1 << 16)
    record = gateway.record()
    assert (record.outcome, recorded(record)) == ("cancelled", (100, 2, 64, 16, None))
    assert (record.estimated, record.finish_reason) == (True, None)


def test_parts_that_exceed_their_whole_are_counted_as_hits(gateway):
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}}
    body = json.dumps({"model": "m", "choices": [], "usage": usage}).encode()

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(http_response(body))

    hits = Hits(gateway.page)
    before = hits.totals().get(REPORTED_TOKENS.name, 0)
    with upstream(script) as server:
        gateway.chat(gateway.add(server))
    assert recorded(gateway.record()) == (9, 5, 9, None, None)
    assert hits.totals()[REPORTED_TOKENS.name] == before + 1


def test_an_attempt_names_the_served_model_and_its_canonical_name(gateway, sim):
    requested = gateway.add(sim.add(models=["tiny-q4"]), known_as="tiny-q4")
    gateway.chat(requested)
    (attempt,) = gateway.record().attempts
    assert (attempt.served, attempt.canonical) == ("tiny-q4", requested)
    model = gateway.add(sim.add())
    gateway.chat(model)
    (attempt,) = gateway.record().attempts
    assert (attempt.served, attempt.canonical) == (None, None)


def test_a_stored_response_names_no_model(gateway, sim):
    model = gateway.add(sim.add())
    made = gateway.post("/v1/responses", {"model": model, "input": ""}).json()["id"]
    gateway.get(f"/v1/responses/{made}")
    record = gateway.records()[-1]
    assert [(attempt.served, attempt.canonical) for attempt in record.attempts] == [(None, None)]
