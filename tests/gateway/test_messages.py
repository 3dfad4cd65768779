"""Anthropic's Messages through a real gateway, of endpoints that speak them and of endpoints that do not."""

import http.client
import json
from typing import Any

import pytest

from gateway.anthropic import server_event
from tests.gateway.scripted import DONE, LAST, Talk, answer, chunk, stream, upstream
from tests.gateway.test_inference import events, outcomes, told

MISSING = answer(b'{"detail":"Not Found"}', 404)
CHAT = answer(
    b'{"id":"c1","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
USAGE = b'data: {"model":"tiny","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
MESSAGE = answer(
    b'{"id":"m1","type":"message","role":"assistant","model":"tiny","content":[{"type":"text","text":"Hello."}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}'
)


def speaks(**paths):
    """An endpoint that answers these paths of its own with these bytes, and no other."""
    answers = {f"/v1/{name.replace('_', '/')}": given for name, given in paths.items()}
    answers |= {path: given for name, given in paths.items() for path in [f"/{name}"] if name == "tokenize"}
    answers |= {"/v1/messages/count_tokens": paths["counts"]} if "counts" in paths else {}

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(answers.get(request.split(b" ")[1].decode(), MISSING))

    return script


def ask(gateway, model_named, path="/v1/messages", **fields):
    body = {"model": model_named, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return gateway.post(path, body, headers={"anthropic-version": "2023-06-01"})


def asked_paths(server):
    return [request.split(b" ")[1].decode() for request in server.requests]


def sent(server):
    return json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])


def test_an_endpoint_that_speaks_them_is_asked_as_the_client_asks(gateway):
    with upstream(speaks(messages=MESSAGE)) as server:
        model = gateway.add(server)
        given = ask(gateway, model, top_k=3, thinking={"type": "disabled"})
    assert (given.json()["model"], given.json()["content"][0]["text"]) == (model, "Hello.")
    assert (asked_paths(server), sent(server)["thinking"]) == (["/v1/messages"], {"type": "disabled"})
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == ("messages", "ok", 3, 2)


def test_for_one_that_does_not_they_are_translated(gateway):
    with upstream(speaks(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        given = ask(gateway, model, system="Be short.").json()
    assert (given["type"], given["model"], given["stop_reason"]) == ("message", model, "end_turn")
    assert given["usage"]["input_tokens"] == 3
    assert [message["role"] for message in sent(server)["messages"]] == ["system", "user"]
    record = gateway.record()
    assert (record.outcome, outcomes(record), record.output_tokens) == ("ok", [("ok", 200)], 2)


def test_what_an_endpoint_lacks_is_asked_for_once(gateway):
    with upstream(speaks(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        for _ in range(3):
            ask(gateway, model)
    assert asked_paths(server) == ["/v1/messages", *["/v1/chat/completions"] * 3]


def test_a_model_that_it_lacks_is_no_path_that_it_lacks(gateway):
    with upstream(speaks()) as server:
        model = gateway.add(server)
        for _ in range(2):
            given = ask(gateway, model)
    assert (given.status, given.json()["error"]["type"]) == (404, "not_found_error")
    assert asked_paths(server) == ["/v1/messages", "/v1/chat/completions"] * 2
    assert [record.outcome for record in gateway.records()] == ["refused"] * 2


def test_a_stream_is_translated(gateway):
    whole = stream(chunk("Hel"), chunk("lo."), LAST, USAGE, DONE)
    with upstream(speaks(chat_completions=whole)) as server:
        model = gateway.add(server)
        given = ask(gateway, model, stream=True)
    types = [event["type"] for event in told(given)]
    assert (types[0], types[-2:]) == ("message_start", ["message_delta", "message_stop"])
    texts = [event["delta"]["text"] for event in told(given) if event["type"] == "content_block_delta"]
    assert ("".join(texts), told(given)[0]["message"]["model"]) == ("Hello.", model)
    record = gateway.record()
    assert (record.outcome, record.streamed, record.input_tokens, record.output_tokens) == ("ok", True, 3, 2)
    assert record.first_token_us is not None


def test_a_stream_of_an_endpoint_that_speaks_them_passes(gateway):
    lines: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "tiny", "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    written = [server_event(event["type"], event) for event in lines]
    with upstream(speaks(messages=stream(*written))) as server:
        model = gateway.add(server)
        given = ask(gateway, model, stream=True)
    assert given.body == b"".join(written).replace(b'"tiny"', f'"{model}"'.encode())
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", 3, 2)


@pytest.mark.parametrize("path", ["messages", "chat_completions"])
def test_a_stream_that_breaks_off_ends_in_an_error_of_its_dialect(gateway, path):
    first = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n'
    begun = stream(first if path == "messages" else chunk("Hi"))
    with upstream(speaks(**{path: begun})) as server:
        given = ask(gateway, gateway.add(server), stream=True)
    assert events(given)[-1].startswith(b"event: error\n")
    assert told(given)[-1]["error"]["type"] == "api_error"
    assert (gateway.record().outcome, b"message_stop" in given.body) == ("truncated", False)


def test_a_server_that_knows_no_stream_options_is_asked_without(gateway):
    refused = answer(b'{"error":{"message":"unknown field: stream_options"}}', 400)

    def script(talk: Talk) -> None:
        while request := talk.request():
            if b"/v1/messages" in request:
                talk.send(MISSING)
            else:
                talk.send(refused if b"stream_options" in request else stream(chunk("Hi"), LAST, DONE))

    with upstream(script) as server:
        given = ask(gateway, gateway.add(server), stream=True)
    assert told(given)[-1]["type"] == "message_stop"
    assert gateway.record().estimated


def test_a_bad_request_that_its_error_repeats_says_nothing_of_stream_options(gateway):
    refused = answer(b'{"error":{"message":"bad: {stream_options: {include_usage: true}}"}}', 400)
    with upstream(speaks(chat_completions=refused)) as server:
        model = gateway.add(server)
        for _ in range(2):
            assert ask(gateway, model, stream=True).status == 400
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
def test_refusals_are_of_its_dialect(gateway, fields, status, kind):
    given = ask(gateway, "any", **fields)
    assert (given.status, given.json()["type"], given.json()["error"]["type"]) == (status, "error", kind)


def test_so_is_that_of_a_wrong_key(gateway):
    given = gateway.post("/v1/messages", {}, key="sk_wrong")
    assert (given.status, given.json()["error"]["type"]) == (401, "authentication_error")


def test_a_request_that_cannot_be_translated_is_refused(gateway):
    with upstream(speaks(chat_completions=CHAT)) as server:
        model = gateway.add(server)
        given = ask(gateway, model, messages=[{"role": "user", "content": [{"type": "hologram"}]}])
    assert (given.status, given.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "hologram" in given.json()["error"]["message"]
    assert gateway.in_flight(model) == 0


def test_an_endpoints_refusal_is_told_in_its_dialect(gateway):
    refused = answer(b'{"error":{"message":"too long","type":"x","code":400}}', 400)
    with upstream(speaks(chat_completions=refused)) as server:
        given = ask(gateway, gateway.add(server))
    assert given.json()["error"] == {"type": "invalid_request_error", "message": "too long"}


def test_when_nothing_is_left_it_is_told_in_its_dialect(gateway, sim):
    given = ask(gateway, gateway.add(sim.add(fault="500")))
    assert (given.status, given.json()["error"]["type"]) == (502, "api_error")
    assert given.json()["request_id"] == given.headers["x-request-id"]


# Counting tokens


def test_an_endpoint_that_counts_tokens_does(gateway):
    with upstream(speaks(counts=answer(b'{"input_tokens":12}'))) as server:
        given = ask(gateway, gateway.add(server), "/v1/messages/count_tokens")
    assert given.json() == {"input_tokens": 12}
    record = gateway.record()
    assert (record.kind, record.outcome, record.output_tokens) == ("count_tokens", "ok", None)


@pytest.mark.parametrize("told_as", [b'{"tokens":[1,2,3,4]}', b'{"count":4,"max_model_len":9}'])
def test_one_that_does_not_is_asked_to_tokenize(gateway, told_as):
    with upstream(speaks(tokenize=answer(told_as))) as server:
        given = ask(gateway, gateway.add(server), "/v1/messages/count_tokens", system="Be short.")
    assert given.json() == {"input_tokens": 4}
    assert "Be short." in sent(server)["prompt"]
    assert sent(server)["model"] == server_model(gateway)


def server_model(gateway):
    return gateway.record().model


def test_one_that_can_do_neither_says_so(gateway):
    with upstream(speaks()) as server:
        given = ask(gateway, gateway.add(server), "/v1/messages/count_tokens")
    assert (given.status, given.json()["error"]["type"]) == (404, "not_found_error")


def test_a_stream_that_breaks_off_has_its_tokens_counted(gateway):
    start = b'data: {"type":"message_start","message":{"usage":{"input_tokens":36,"output_tokens":1}}}\n\n'
    piece = b'data: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n'
    with upstream(speaks(messages=stream(start, piece, piece))) as server:
        ask(gateway, gateway.add(server), stream=True)
    record = gateway.record()
    assert (record.outcome, record.input_tokens, record.output_tokens, record.estimated) == ("truncated", 36, 2, True)


def test_a_stream_whose_server_forgot_to_open_it_is_opened(gateway):
    lines: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "🌱"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    with upstream(speaks(messages=stream(*(server_event(event["type"], event) for event in lines)))) as server:
        first, *rest = told(ask(gateway, model := gateway.add(server), stream=True))
    record = gateway.record()
    assert (first["type"], first["message"]["model"], rest) == ("message_start", model, lines)
    assert (record.outcome, record.input_tokens, record.output_tokens) == ("ok", None, 4)


def test_a_stream_of_nothing_but_its_end_is_no_fault_of_ours(gateway):
    with upstream(speaks(messages=stream(DONE))) as server:
        ask(gateway, gateway.add(server), stream=True)
    assert gateway.record().outcome == "ok"


def test_a_request_that_turns_out_to_be_refused_when_its_stream_is_alive_already_is_broken_off(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    with upstream(speaks(chat_completions=CHAT)) as server:
        model = gateway.add(sim.add(fault="hang"), server, timeout_secs=1)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask(gateway, model, stream=True, messages=[{"role": "user", "content": [{"type": "hologram"}]}])
    assert gateway.in_flight(model) == 0
