"""Chat completions through a real gateway, served by a simulated Anthropic, which has only Messages."""

import json
from typing import Any

import pytest

from benchmarks.providers import Cloud, add
from benchmarks.providers.anthropic import NEW, OLD, signature
from gateway.base.sealing import Sealer
from gateway.dialects.anthropic.messages_api import server_event
from tests.gateway.inference.helpers import event_data, events, outcomes
from tests.gateway.process import read_until
from tests.gateway.scripted import DONE, Talk, always, http_response, stream, upstream
from tests.router import until

CHAT = "/v1/chat/completions"
HELLO = {"role": "user", "content": "Say hello to us all"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def cloud(sim) -> Cloud:
    return add(sim, "anthropic")


def add_cloud(gateway, *upstreams, key="sk-ant-secret", **facts):
    until(gateway.config.key_file.exists)  # the gateway creates it
    sealed = Sealer([gateway.config.key_file.read_bytes()]).seal(key)
    return gateway.add(*upstreams, kind="anthropic", sealed_key=sealed, **facts)


def send(gateway, model, *messages, headers=None, **fields):
    body = {"model": model, "messages": list(messages or (HELLO,)), **fields}
    return gateway.post(CHAT, body, headers=headers or {})


@pytest.fixture
def model(gateway, cloud):
    return add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5")


def sent(cloud):
    return cloud.seen.bodies[-1]


def check_usage(cloud, usage, record):
    """Compare the client's usage and the record with the tokens that the cloud generated."""
    tokens = cloud.tally[-1].tokens
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (tokens.input, tokens.output)
    assert usage["prompt_tokens_details"] == {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.written}
    assert (record.input_tokens, record.output_tokens) == (tokens.input, tokens.output)
    assert (record.cached_tokens, record.cache_write_tokens) == (tokens.cached, tokens.written)
    assert (record.reasoning_tokens or 0) == tokens.reasoning


def delta_text(given, name="content"):
    choices = [choice for event in event_data(given) for choice in event["choices"]]
    return "".join(choice["delta"].get(name) or "" for choice in choices)


def test_a_chat_completion(gateway, cloud, model):
    given = send(gateway, model)
    completion = given.json()
    assert (given.status, completion["object"], completion["model"]) == (200, "chat.completion", model)
    assert completion["choices"][0]["message"]["content"] == cloud.tally[-1].content
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert "x-routerdash-dropped" not in given.headers
    record = gateway.record()
    assert (record.kind, record.model, outcomes(record)) == ("chat_completions", model, [("ok", 200)])
    assert (record.finish_reason, record.streamed) == ("stop", False)
    check_usage(cloud, completion["usage"], record)


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream(gateway, cloud, model, wants_usage):
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    given = send(gateway, model, stream=True, **options)
    assert given.headers["content-type"].startswith("text/event-stream")
    assert (delta_text(given), events(given)[-1] + b"\n\n") == (cloud.tally[-1].content, DONE)
    record = gateway.record()
    assert (record.outcome, record.streamed, record.finish_reason) == ("ok", True, "stop")
    assert record.first_token_us is not None
    last = event_data(given)[-1]
    assert ("usage" in last) is wants_usage
    if wants_usage:
        check_usage(cloud, last["usage"], record)


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_loop_with_thinking(gateway, cloud, model, streams):
    """The client sends the thinking back unchanged, without which the cloud refuses the results."""
    asked = {"tools": [TOOL], "reasoning_effort": "low", "stream": streams}
    given = send(gateway, model, **asked)
    message = assembled(event_data(given)) if streams else given.json()["choices"][0]["message"]
    assert gateway.record().finish_reason == "tool_calls"
    assert message["reasoning_content"] == cloud.tally[-1].thoughts
    assert len(message["tool_calls"]) == len(cloud.tally[-1].calls) == 2
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "Sunny."} for call in message["tool_calls"]]
    given = send(gateway, model, HELLO, message, *results, **asked)
    assert given.status == 200
    thinking = sent(cloud)["messages"][1]["content"][0]
    assert thinking["signature"] == signature(thinking["thinking"])
    assert "x-routerdash-dropped" not in given.headers


def assembled(chunks):
    """The message that a client assembles from a stream, with each detail of the thinking as it came."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    message |= {"reasoning_content": "", "reasoning_details": [], "tool_calls": []}
    for delta in [choice["delta"] for chunk in chunks for choice in chunk["choices"]]:
        message["reasoning_content"] += delta.get("reasoning_content") or ""
        message["reasoning_details"] += delta.get("reasoning_details") or []
        for call in delta.get("tool_calls") or ():
            if "id" in call:
                message["tool_calls"].append(call)
            else:
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message


def test_results_without_their_thinking_are_sent_without_it(gateway, cloud, model):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    loop = [HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "1"}]
    given = send(gateway, model, *loop, tools=[TOOL], reasoning_effort="high")
    assert (given.status, given.headers["x-routerdash-dropped"]) == (200, "reasoning_effort")


def test_structured_output(gateway, cloud, model):
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    content = send(gateway, model, response_format=form).json()["choices"][0]["message"]["content"]
    assert json.loads(content).keys() == {"city"}


def test_images(gateway, cloud, model):
    parts = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    assert send(gateway, model, {"role": "user", "content": parts}).status == 200
    assert sent(cloud)["messages"][0]["content"][1]["source"]["media_type"] == "image/png"


def test_the_version_of_the_api_takes_sampling_parameters_if_there_are_any(gateway):
    with upstream(always(http_response(b'{"type":"message","content":[]}'))) as server:
        model = add_cloud(gateway, server)
        for fields, headers in (({"temperature": 0.5}, {}), ({}, {}), ({"top_p": 0.5}, {"anthropic-version": NEW})):
            assert send(gateway, model, headers=headers, **fields).status == 200
    heads = [request.lower().partition(b"\r\n\r\n")[0] for request in server.requests]
    versions = [[line for line in head.split(b"\r\n") if b"anthropic-version" in line] for head in heads]
    assert versions == [[b"anthropic-version: %b" % version.encode()] for version in (OLD, NEW, NEW)]
    assert all(b"x-api-key: sk-ant-secret" in head for head in heads)
    assert heads[0].startswith(b"post /v1/messages http/1.1")


def test_parameters_without_a_place_are_named(gateway, cloud, model):
    for streams in (False, True):
        given = send(gateway, model, seed=3, user="u", temperature=1.5, stream=streams)
        assert given.headers["x-routerdash-dropped"] == "seed, user, temperature;sent=1"
    assert sent(cloud).keys() == {"model", "max_tokens", "messages", "stream"}


def test_dropped_parameters_are_named_without_headers_about_routes(make_gateway, cloud):
    gateway = make_gateway(ROUTERDASH_ROUTE_HEADERS="false").start()
    given = send(gateway, add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5"), seed=3)
    assert given.headers["x-routerdash-dropped"] == "seed"
    assert "x-routerdash-endpoint" not in given.headers


def test_what_cannot_be_translated_is_refused(gateway, cloud, model):
    given = send(gateway, model, n=2)
    assert (given.status, given.json()["error"]["param"], given.json()["error"]["code"]) == (
        400,
        "n",
        "invalid_request",
    )
    assert (cloud.seen.bodies, gateway.in_flight(model)) == ([], 0)
    assert gateway.record().outcome == "rejected"


def test_a_large_body_is_translated(gateway, cloud, model):
    parts = [{"type": "image_url", "image_url": {"url": PIXEL.replace("=", "") + "A" * 3_000_000}}]
    assert send(gateway, model, {"role": "user", "content": parts}).status == 200
    assert len(sent(cloud)["messages"][0]["content"][0]["source"]["data"]) > 3_000_000


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry_after"),
    [
        ("parameter", 400, "invalid_request_error", None),
        ("too_long", 400, "context_length_exceeded", None),
        ("too_long.bytes", 413, "context_length_exceeded", None),
        ("key_refused", 502, "upstream_auth", None),
        ("not_permitted", 502, "upstream_auth", None),
        ("money", 429, "insufficient_quota", None),
        ("money.spend_limit", 429, "insufficient_quota", None),
        ("money.enforced", 429, "insufficient_quota", None),
        ("model_unknown", 404, "model_not_found", None),
        ("limited", 429, "rate_limit_exceeded", "2"),
        ("server", 502, "upstream_error", None),
        ("server.timeout", 504, "upstream_timeout", None),
        ("overloaded", 503, "upstream_error", "5"),
    ],
)
def test_errors_have_the_clients_dialect(gateway, cloud, model, fault, status, code, retry_after):
    cloud.set(fault=fault)
    given = send(gateway, model)
    error = given.json()["error"]
    assert (given.status, error["code"], error["param"]) == (status, code, None)
    assert given.headers.get("retry-after") == retry_after
    assert cloud.key not in given.body.decode()


def test_an_error_in_mid_stream_ends_it_without_done(gateway, cloud, model):
    cloud.set(fault="error_event")
    given = send(gateway, model, stream=True)
    assert event_data(given)[-1] == {
        "error": {"message": "Overloaded", "type": "overloaded_error", "param": None, "code": "overloaded"}
    }
    assert DONE.strip() not in given.body
    assert gateway.record().outcome == "failed"


def test_a_stream_that_breaks_off_ends_in_an_error(gateway):
    first = server_event("content_block_start", {"type": "content_block_start", "content_block": {"type": "text"}})
    with upstream(stream_once(first)) as server:
        given = send(gateway, add_cloud(gateway, server), stream=True)
    assert event_data(given)[-1]["error"]["code"] == "upstream_error"
    assert gateway.record().outcome == "truncated"


def stream_once(*pieces):
    return always(stream(*pieces))


def test_a_stream_that_begins_with_an_error_fails_over(gateway, cloud):
    error = server_event("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    with upstream(stream_once(error)) as first:
        model = add_cloud(gateway, first, cloud, key=cloud.key, known_as="claude-sonnet-5")
        given = send(gateway, model, stream=True)
    assert delta_text(given) == cloud.tally[-1].content
    assert outcomes(gateway.record()) == [("failed", 502), ("ok", 200)]


@pytest.mark.parametrize(
    "body", [b'{"id":"x"}', b'{"type":"error","error":{"type":"api_error","message":"oops"}}', b'{"content":3}']
)
def test_a_response_that_is_no_message_is_a_failure(gateway, body):
    with upstream(always(http_response(body))) as server:
        given = send(gateway, add_cloud(gateway, server))
    assert (given.status, given.json()["error"]["code"]) == (502, "upstream_error")
    assert gateway.record().outcome == "failed"


def test_a_client_disconnect_closes_the_connection_to_the_endpoint(gateway):
    closed = []
    begin = server_event("message_start", {"type": "message_start", "message": {"id": "m"}})

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(http_response(begin, 200, "text/event-stream").partition(b"content-length")[0])
        closed.append(talk.client_disconnected())

    with upstream(script) as server:
        model = add_cloud(gateway, server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, messages=[HELLO], stream=True))
            until(lambda: server.requests)
        until(lambda: closed)
    assert gateway.record().outcome == "cancelled"


def test_a_silent_stream_gets_keep_alive_comments(make_gateway, cloud):
    gateway = make_gateway(ROUTERDASH_KEEPALIVE_SECS="0.2").start()
    cloud.set(ttft=1.0)
    model = add_cloud(gateway, cloud, key=cloud.key, known_as="claude-sonnet-5")
    given = send(gateway, model, stream=True)
    assert given.body.startswith(b": waiting\n\n")
    assert delta_text(given) == cloud.tally[-1].content
    assert gateway.record().outcome == "ok"


def test_a_slow_client_makes_the_endpoint_wait(gateway):
    """A disconnect ends a stream of 30 MB, of which the client has read the beginning."""
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 60_000}}
    with upstream(stream_once(*[server_event("content_block_delta", delta)] * 500)) as server:
        model = add_cloud(gateway, server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, messages=[HELLO], stream=True))
            read_until(connection, b"x" * 1000)
        record = gateway.record_soon()
    assert record.outcome == "cancelled"
    assert record.output_tokens < 400
    assert gateway.in_flight(model) == 0


def test_a_missing_model_is_not_requested_as_a_chat_completion(gateway, cloud):
    model = add_cloud(gateway, cloud, key=cloud.key, known_as="claude-none")
    body = {"model": model, "max_tokens": 3, "messages": [HELLO]}
    assert gateway.post("/v1/messages", body).status == 404
    assert gateway.post("/v1/messages/count_tokens", body).status == 404
    assert send(gateway, model).json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("version", [OLD, NEW])
def test_both_versions_pass_through(gateway, cloud, model, version):
    headers = {"anthropic-version": version, "authorization": f"Bearer {gateway.key}"}
    body = {"model": model, "max_tokens": 30, "messages": [HELLO]}
    assert gateway.post("/v1/messages", body, headers=headers).json()["type"] == "message"
    counted = gateway.post("/v1/messages/count_tokens", body, headers=headers).json()
    assert counted["input_tokens"] == cloud.tally[-1].tokens.input
    status = gateway.post("/v1/messages", {**body, "temperature": 1}, headers=headers).status
    assert status == (400 if version == NEW else 200)


# Self-hosted servers that have Messages, and no chat completions


MISSING = http_response(b'{"detail":"Not Found"}', 404)
MESSAGE = http_response(
    b'{"id":"m1","type":"message","content":[{"type":"text","text":"Hi."}],"stop_reason":"end_turn",'
    b'"usage":{"input_tokens":3,"output_tokens":2}}'
)


def having(*paths):
    """Return a script of a server that has only these paths."""

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(MESSAGE if request.split(b" ")[1].decode() in paths else MISSING)

    return script


def requested(server):
    return [request.split(b" ")[1].decode() for request in server.requests]


def test_a_server_without_chat_completions_is_sent_messages(gateway):
    with upstream(having("/v1/messages")) as server:
        model = gateway.add(server)
        for _ in range(2):
            completion = send(gateway, model, seed=1).json()
            assert (completion["choices"][0]["message"]["content"], completion["model"]) == ("Hi.", model)
    assert requested(server) == [CHAT, "/v1/messages", "/v1/messages"]
    records = gateway.records()
    assert [outcomes(record) for record in records] == [[("ok", 200)]] * 2
    assert [(record.input_tokens, record.output_tokens) for record in records] == [(3, 2)] * 2


def test_a_server_with_neither_is_asked_for_both_once(gateway):
    with upstream(having()) as server:
        model = gateway.add(server)
        assert [send(gateway, model).status for _ in range(2)] == [404, 404]
    assert requested(server)[:2] == [CHAT, "/v1/messages"]
    assert len(requested(server)) == 3
    assert [record.outcome for record in gateway.records()] == ["refused"] * 2


def test_another_endpoint_with_chat_completions_is_asked_after_both(gateway):
    whole = http_response(b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}')
    with upstream(having()) as without, upstream(always(whole)) as second:
        model = gateway.add(without, second)
        assert send(gateway, model).status == 200
    assert requested(without) == [CHAT, "/v1/messages"]
    assert requested(second) == [CHAT]


def test_an_unknown_model_is_no_missing_path(gateway):
    unknown = http_response(b'{"error":{"message":"The model does not exist","code":"model_not_found"}}', 404)
    with upstream(always(unknown)) as server:
        assert send(gateway, gateway.add(server)).status == 404
    assert requested(server) == [CHAT]
