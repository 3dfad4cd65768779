"""Anthropic's Messages API through a real gateway, with endpoints that have it and that do not."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic.messages_api import server_event
from tests.gateway.inference.helpers import event_data, events, outcomes
from tests.gateway.scripted import DONE, LAST, Talk, chunk, http_response, stream, upstream

MISSING = http_response(b'{"detail":"Not Found"}', 404)
CHAT = http_response(
    b'{"id":"c1","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
USAGE = b'data: {"model":"tiny","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
MESSAGE = http_response(
    b'{"id":"m1","type":"message","role":"assistant","model":"tiny","content":[{"type":"text","text":"Hello."}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}'
)


def endpoint_with(**paths):
    """Return a script of an endpoint that has these paths with these responses, and no other."""
    responses = {f"/v1/{name.replace('_', '/')}": given for name, given in paths.items()}
    responses |= {path: given for name, given in paths.items() for path in [f"/{name}"] if name == "tokenize"}
    responses |= {"/v1/messages/count_tokens": paths["counts"]} if "counts" in paths else {}

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(responses.get(request.split(b" ")[1].decode(), MISSING))

    return script


def send_request(gateway, model_named, path="/v1/messages", **fields):
    body = {"model": model_named, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return gateway.post(path, body, headers={"anthropic-version": "2023-06-01"})


def requested_paths(server):
    return [request.split(b" ")[1].decode() for request in server.requests]


def sent(server):
    return json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])


def test_an_endpoint_with_the_messages_api_receives_the_request_unchanged(gateway):
    with upstream(endpoint_with(messages=MESSAGE)) as server:
        model = gateway.add(server)
        given = send_request(gateway, model, top_k=3, thinking={"type": "disabled"})
    assert (given.json()["model"], given.json()["content"][0]["text"]) == (model, "Hello.")
    assert (requested_paths(server), sent(server)["thinking"]) == (["/v1/messages"], {"type": "disabled"})
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == ("messages", "ok", 3, 2)


def test_for_other_endpoints_messages_are_translated(gateway):
    with upstream(endpoint_with(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        given = send_request(gateway, model, system="Be short.").json()
    assert (given["type"], given["model"], given["stop_reason"]) == ("message", model, "end_turn")
    assert given["usage"]["input_tokens"] == 3
    assert [message["role"] for message in sent(server)["messages"]] == ["system", "user"]
    record = gateway.record()
    assert (record.outcome, outcomes(record), record.output_tokens) == ("ok", [("ok", 200)], 2)


def test_a_missing_path_is_requested_once(gateway):
    with upstream(endpoint_with(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        for _ in range(3):
            send_request(gateway, model)
    assert requested_paths(server) == ["/v1/messages", *["/v1/chat/completions"] * 3]


def test_a_missing_model_is_not_taken_for_a_missing_path(gateway):
    missing = http_response(b'{"type":"error","error":{"type":"not_found_error","message":"model: x"}}', 404)
    with upstream(endpoint_with(messages=missing)) as server:
        model = gateway.add(server, known_as="x")
        for _ in range(2):
            given = send_request(gateway, model)
    assert (given.status, given.json()["error"]["type"]) == (404, "not_found_error")
    assert requested_paths(server) == ["/v1/messages"] * 2
    assert [record.outcome for record in gateway.records()] == ["refused"] * 2


def test_an_endpoint_may_lack_the_translated_kind_too(gateway):
    with upstream(endpoint_with()) as server:
        model = gateway.add(server)
        for _ in range(2):
            given = send_request(gateway, model)
    assert given.status == 404
    assert requested_paths(server) == ["/v1/messages", "/v1/chat/completions", "/v1/chat/completions"]
    assert [record.error for record in gateway.records()] == ["it lacks this kind of request"] * 2


def test_a_stream_is_translated(gateway):
    whole = stream(chunk("Hel"), chunk("lo."), LAST, USAGE, DONE)
    with upstream(endpoint_with(chat_completions=whole)) as server:
        model = gateway.add(server)
        given = send_request(gateway, model, stream=True)
    types = [event["type"] for event in event_data(given)]
    assert (types[0], types[-2:]) == ("message_start", ["message_delta", "message_stop"])
    texts = [event["delta"]["text"] for event in event_data(given) if event["type"] == "content_block_delta"]
    assert ("".join(texts), event_data(given)[0]["message"]["model"]) == ("Hello.", model)
    record = gateway.record()
    assert (record.outcome, record.streamed, record.input_tokens, record.output_tokens) == ("ok", True, 3, 2)
    assert record.first_token_us is not None


def test_a_stream_of_the_messages_api_is_passed_on(gateway):
    lines: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "tiny", "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    written = [server_event(event["type"], event) for event in lines]
    with upstream(endpoint_with(messages=stream(*written))) as server:
        model = gateway.add(server)
        given = send_request(gateway, model, stream=True)
    assert given.body == b"".join(written).replace(b'"tiny"', f'"{model}"'.encode())
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", 3, 2)


@pytest.mark.parametrize("path", ["messages", "chat_completions"])
def test_a_stream_that_breaks_off_ends_in_an_error_of_its_dialect(gateway, path):
    first = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n'
    beginning = stream(first if path == "messages" else chunk("Hi"))
    with upstream(endpoint_with(**{path: beginning})) as server:
        given = send_request(gateway, gateway.add(server), stream=True)
    assert events(given)[-1].startswith(b"event: error\n")
    assert event_data(given)[-1]["error"]["type"] == "api_error"
    assert (gateway.record().outcome, b"message_stop" in given.body) == ("truncated", False)


def test_a_server_that_refuses_stream_options_is_sent_a_request_without_them(gateway):
    refused = http_response(b'{"error":{"message":"unknown field: stream_options"}}', 400)

    def script(talk: Talk) -> None:
        while request := talk.request():
            if b"/v1/messages" in request:
                talk.send(MISSING)
            else:
                talk.send(refused if b"stream_options" in request else stream(chunk("Hi"), LAST, DONE))

    with upstream(script) as server:
        given = send_request(gateway, gateway.add(server), stream=True)
    assert event_data(given)[-1]["type"] == "message_stop"
    assert gateway.record().estimated


def test_a_bad_request_that_its_error_quotes_is_no_refusal_of_stream_options(gateway):
    refused = http_response(b'{"error":{"message":"bad: {stream_options: {include_usage: true}}"}}', 400)
    with upstream(endpoint_with(chat_completions=refused)) as server:
        model = gateway.add(server)
        for _ in range(2):
            assert send_request(gateway, model, stream=True).status == 400
    chats = [request for request in server.requests if b"/v1/chat/completions" in request]
    assert [b"stream_options" in request for request in chats] == [True, False, True, False]


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "unheard of"}, 404, "not_found_error"),
        ({"model": None}, 400, "invalid_request_error"),
        ({"model": ""}, 400, "invalid_request_error"),
    ],
)
def test_refusals_are_in_anthropics_dialect(gateway, fields, status, kind):
    given = send_request(gateway, "any", **fields)
    assert (given.status, given.json()["type"], given.json()["error"]["type"]) == (status, "error", kind)


def test_the_refusal_of_a_wrong_key_is_in_anthropics_dialect(gateway):
    given = gateway.post("/v1/messages", {}, key="sk_wrong")
    assert (given.status, given.json()["error"]["type"]) == (401, "authentication_error")


def test_a_request_that_cannot_be_translated_is_refused(gateway):
    with upstream(endpoint_with(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        given = send_request(gateway, model, messages=[{"role": "user", "content": [{"type": "hologram"}]}])
    assert (given.status, given.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "hologram" in given.json()["error"]["message"]
    assert gateway.in_flight(model) == 0


def test_an_endpoints_refusal_is_passed_on_in_anthropics_dialect(gateway):
    refused = http_response(b'{"error":{"message":"too long","type":"x","code":400}}', 400)
    with upstream(endpoint_with(chat_completions=refused)) as server:
        given = send_request(gateway, gateway.add(server))
    assert given.json()["error"] == {"type": "invalid_request_error", "message": "too long"}


def test_the_last_failure_is_an_error_in_anthropics_dialect(gateway, sim):
    given = send_request(gateway, gateway.add(sim.add(fault="500")))
    assert (given.status, given.json()["error"]["type"]) == (502, "api_error")
    assert given.json()["request_id"] == given.headers["x-request-id"]


# Counting tokens


def test_an_endpoint_with_token_counting_receives_the_request(gateway):
    with upstream(endpoint_with(counts=http_response(b'{"input_tokens":12}'))) as server:
        given = send_request(gateway, gateway.add(server), "/v1/messages/count_tokens")
    assert given.json() == {"input_tokens": 12}
    record = gateway.record()
    assert (record.kind, record.outcome, record.output_tokens) == ("count_tokens", "ok", None)


@pytest.mark.parametrize("reported", [b'{"tokens":[1,2,3,4]}', b'{"count":4,"max_model_len":9}'])
def test_an_endpoint_without_it_is_sent_the_text_to_tokenize(gateway, reported):
    with upstream(endpoint_with(tokenize=http_response(reported))) as server:
        given = send_request(gateway, gateway.add(server), "/v1/messages/count_tokens", system="Be short.")
    assert given.json() == {"input_tokens": 4}
    assert "Be short." in sent(server)["prompt"]
    assert sent(server)["model"] == server_model(gateway)


def server_model(gateway):
    return gateway.record().model


def test_an_endpoint_with_neither_path_fails(gateway):
    with upstream(endpoint_with()) as server:
        given = send_request(gateway, gateway.add(server), "/v1/messages/count_tokens")
    assert (given.status, given.json()["error"]["type"]) == (404, "not_found_error")


def test_tokens_of_a_stream_that_breaks_off_are_counted(gateway):
    start = b'data: {"type":"message_start","message":{"usage":{"input_tokens":36,"output_tokens":1}}}\n\n'
    piece = b'data: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n'
    with upstream(endpoint_with(messages=stream(start, piece, piece))) as server:
        send_request(gateway, gateway.add(server), stream=True)
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.output_tokens, record.estimated) == ("truncated", 36, 2, True)


def test_a_stream_without_message_start_gets_one(gateway):
    lines: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "🌱"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    with upstream(endpoint_with(messages=stream(*(server_event(event["type"], event) for event in lines)))) as server:
        first, *rest = event_data(send_request(gateway, model := gateway.add(server), stream=True))
    record = gateway.record()
    assert (first["type"], first["message"]["model"], rest) == ("message_start", model, lines)
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", None, 4)


def test_a_stream_with_only_done_is_ok(gateway):
    with upstream(endpoint_with(messages=stream(DONE))) as server:
        send_request(gateway, gateway.add(server), stream=True)
    assert gateway.record().outcome == "ok"


def test_a_refusal_after_a_keep_alive_comment_ends_the_stream(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    with upstream(endpoint_with(chat_completions=CHAT)) as server:
        model = gateway.add(sim.add(fault="hang"), server, timeout_secs=1)
        hologram = [{"role": "user", "content": [{"type": "hologram"}]}]
        given = send_request(gateway, model, stream=True, messages=hologram)
    assert events(given)[-1].startswith(b"event: error\n")
    assert b"hologram" in events(given)[-1]
    assert gateway.record().outcome == "failed"
    assert gateway.in_flight(model) == 0
