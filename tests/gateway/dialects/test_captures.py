"""Captured responses of real servers, sent through a real gateway in any pieces: their bytes and their records.

The first half applies to every capture. The second half has the differences between the servers.
"""

import json
import socket
import time
from typing import Any

import pytest

from gateway.base.errors import UPSTREAM_ERROR
from gateway.base.request_kinds import BY_NAME, CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES
from gateway.dialects import endpoint_errors
from gateway.dialects.openai_events import dialect
from gateway.dialects.openai_responses import read_response
from gateway.dialects.sse_relay import StreamRelay
from tests.gateway import captures
from tests.gateway.captures import Capture, load
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import DONE, Script, Talk, always, each_time, stream, upstream
from tests.http import Response

PASSED_ON = (400, 404, 422, 501)  # of errors
PAUSE = 0.003  # seconds between two pieces, so that they rarely arrive as one
ANTHROPIC = (MESSAGES, COUNT_TOKENS)
# A server without the Messages API receives a chat. Its 404 is not passed on.
EVERYTHING = [capture for capture in captures.relayed() if capture.kind not in ANTHROPIC or capture.status != 404]
every_capture = pytest.mark.parametrize("capture", EVERYTHING, ids=str)


def send_request(gateway: GatewayProcess, kind: str, model: str, **fields) -> Response:
    messages = [{"role": "user", "content": "Say hello in five words."}]
    body = {"model": model, "messages": messages, "prompt": "", "input": "", "max_tokens": 8, **fields}
    return gateway.post(BY_NAME[kind].path, body)


def replay(gateway: GatewayProcess, capture: Capture, script: Script | None = None, **fields) -> tuple[str, Response]:
    """Return the requested model and the response of the client."""
    with upstream(script or always(capture.http)) as server:
        model = gateway.add(server)
        return model, send_request(gateway, capture.kind, model, **fields)


def in_pieces(data: bytes, *cuts: int) -> Script:
    """Script that sends the capture cut at these bytes."""

    def script(talk: Talk) -> None:
        talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk.request()
        for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            talk.send(data[start:end])
            time.sleep(PAUSE)
        talk.client_disconnected()

    return script


def assert_passed(capture: Capture, model: str, given: Response) -> None:
    if capture.status == 500:
        assert (given.status, given.json()["error"]["code"]) == (502, UPSTREAM_ERROR)
    else:
        assert (given.status, given.body) == (capture.status, capture.renamed(model))
        assert given.headers["content-type"] == capture.headers["content-type"]


def reported_usage(capture: Capture) -> tuple[int | None, int | None]:
    """Return input and output tokens, read from the complete body."""
    made = out = None
    for event in capture.events if capture.streamed else [b"data: " + capture.body]:
        data = event.partition(b"data: ")[2].strip()
        content = {} if data == b"[DONE]" else json.loads(data)
        for holder in (content, content.get("response") or {}, content.get("message") or {}):
            usage = holder.get("usage") or {}
            made = usage.get("prompt_tokens", _input(usage) or made)
            out = usage.get("completion_tokens", usage.get("output_tokens", out))
    return made, out


def _input(usage: dict[str, int]) -> int | None:
    """Input tokens of the Messages API, which reports cached tokens separately."""
    if "input_tokens" not in usage:
        return None
    return usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)


# Every capture


@every_capture
def test_a_captured_response_is_passed_on_byte_for_byte(gateway, capture):
    model, given = replay(gateway, capture)
    assert_passed(capture, model, given)
    record = gateway.record()
    outcome = "ok" if capture.status < 400 else "refused" if capture.status in PASSED_ON else "failed"
    assert (record.outcome, record.kind, record.streamed) == (outcome, capture.kind, capture.streamed)


@every_capture
def test_a_captured_response_is_passed_on_however_it_is_cut(gateway, capture):
    data = capture.http
    head = data.index(b"\r\n\r\n") + 4
    middle = (head + len(data)) // 2
    cuts = sorted({9, head - 3, head, head + 1, head + 7, middle, middle + 1, len(data) - 6, len(data) - 1})
    model, given = replay(gateway, capture, in_pieces(data, *cuts))
    assert_passed(capture, model, given)


@pytest.mark.parametrize("capture", [capture for capture in EVERYTHING if capture.status < 400], ids=str)
def test_the_tokens_of_a_captured_response_are_counted(gateway, capture):
    replay(gateway, capture, stream=capture.streamed, stream_options={"include_usage": True})
    record = gateway.record()
    made, out = reported_usage(capture)
    if capture.streamed and out is None:  # usage was not requested
        assert (record.estimated, 0 < record.input_tokens < record.body_bytes) == (True, True)
    else:
        assert (record.estimated, record.input_tokens, record.output_tokens) == (False, made, out)


@pytest.mark.parametrize("capture", captures.STREAMS, ids=str)
def test_a_client_that_did_not_request_usage_receives_none(gateway, capture):
    """Usage in an event with other content is passed on."""
    model, given = replay(gateway, capture, stream=True)
    events = [event for event in capture.events if b'"choices":[],' not in event or b'"usage":{' not in event]
    expected = b"".join(events).replace(f'"model":"{capture.model}"'.encode(), f'"model":"{model}"'.encode())
    assert given.body == expected


@pytest.mark.parametrize("capture", [capture for capture in EVERYTHING if capture.streamed], ids=str)
def test_a_captured_stream_that_breaks_off_ends_in_an_error(gateway, capture):
    half = capture.events[: len(capture.events) // 2]
    _, given = replay(gateway, capture, each_time(stream(*half, end=False)), stream=True)
    assert b"closed the connection in the middle of its response" in given.body
    record = gateway.record()
    assert (record.outcome, record.status) == ("truncated", 200)
    assert 1 <= (record.output_tokens or 0) < 8


@pytest.mark.parametrize("capture", captures.RESPONSE_CAPTURES, ids=str)
def test_a_truncated_response_is_passed_on_without_usage(capture):
    """Any incomplete part of a response is passed on unchanged and has no usage."""
    for length in range(len(capture.body)):
        body, usage = read_response(capture.body[:length], "asked")
        assert (body, usage) == (capture.body[:length], None)


# Differences between the servers: an unknown model


def test_llama_cpp_accepts_any_model_and_its_response_has_the_requested_name(gateway):
    model, given = replay(gateway, load("llama.cpp", "err_unknown_model"))
    assert (given.status, given.json()["model"]) == (200, model)


def test_vllm_reports_an_unknown_model(gateway):
    _, given = replay(gateway, load("vllm", "err_unknown_model"))
    assert given.status == 404
    assert "does not exist" in given.json()["error"]["message"]
    assert gateway.record().outcome == "refused"


def test_transformers_fails_in_plain_text_and_its_client_gets_json(gateway):
    _, given = replay(gateway, load("transformers", "err_unknown_model"))
    assert (given.status, given.headers["content-type"]) == (502, "application/json")
    assert given.json()["error"]["message"] == "The endpoint failed: Internal Server Error."


# The end of a stream, and usage in it


@pytest.mark.parametrize("name", ["chat_stream", "completions_stream_usage", "err_context_overflow_stream"])
def test_transformers_ends_without_done_and_none_is_added(gateway, name):
    _, given = replay(gateway, load("transformers", name), stream=True)
    assert DONE not in given.body
    assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_the_others_end_with_done(gateway, server):
    _, given = replay(gateway, load(server, "chat_stream"), stream=True)
    assert given.body.endswith(DONE)


def test_transformers_reports_usage_without_request_in_its_last_chunk(gateway):
    _, given = replay(gateway, load("transformers", "chat_stream"), stream=True)
    last = json.loads(given.body.rstrip().rpartition(b"data: ")[2])
    assert (last["choices"][0]["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 8)
    assert gateway.record().output_tokens == 8


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_others_report_usage_in_a_separate_chunk(gateway, server, wanted):
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if wanted else {}
    _, given = replay(gateway, load(server, "chat_stream_usage"), stream=True, **options)
    assert (b'"choices":[],' in given.body) is wanted
    assert gateway.record().output_tokens == 8


@pytest.mark.parametrize("server", captures.SERVERS)
def test_the_first_chunk_holds_no_token(server):
    """The first chunk has null content, empty content or only a role."""
    capture = load(server, "chat_stream")
    relay = StreamRelay(dialect(CHAT), capture.model, hide_usage=False)
    relay.feed(capture.events[0])
    assert (relay.events, relay.deltas) == (1, 0)
    relay.feed(capture.events[1])
    assert relay.deltas == 1


# Bad requests: the client receives the message of the server


@pytest.mark.parametrize(
    ("server", "status", "words"),
    [
        ("llama.cpp", 400, "parse error at line 1"),
        ("vllm", 400, "json_invalid"),
        ("transformers", 422, "json_invalid"),
    ],
)
def test_invalid_json(gateway, server, status, words):
    _, given = replay(gateway, load(server, "err_bad_json"))
    assert (given.status, words in given.body.decode()) == (status, True)
    assert gateway.record().outcome == "refused"


@pytest.mark.parametrize("name", ["err_missing_messages", "err_messages_type"])
@pytest.mark.parametrize(("server", "status"), [("llama.cpp", 400), ("vllm", 400), ("transformers", 502)])
def test_invalid_messages(gateway, server, status, name):
    _, given = replay(gateway, load(server, name))
    assert given.status == status


@pytest.mark.parametrize("name", ["err_context_overflow", "err_context_overflow_stream"])
def test_llama_cpp_reports_its_context_size(gateway, name):
    _, given = replay(gateway, load("llama.cpp", name))
    error = given.json()["error"]
    assert (given.status, error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (3031, 1024)


@pytest.mark.parametrize("name", ["err_context_overflow", "err_context_overflow_stream"])
@pytest.mark.parametrize(("server", "outcome"), [("vllm", "refused"), ("transformers", "ok")])
def test_vllm_refuses_a_context_that_transformers_truncates(gateway, server, outcome, name):
    replay(gateway, load(server, name), stream="stream" in name)
    assert gateway.record().outcome == outcome


@pytest.mark.parametrize(("server", "status"), [("llama.cpp", 200), ("vllm", 400), ("transformers", 200)])
def test_a_temperature_below_zero(gateway, server, status):
    assert replay(gateway, load(server, "err_bad_temperature"))[1].status == status


@pytest.mark.parametrize(("server", "choices"), [("llama.cpp", 2), ("vllm", 0), ("transformers", 1)])
def test_two_requested_choices(gateway, server, choices):
    _, given = replay(gateway, load(server, "chat_n2"), n=2)
    assert len(given.json().get("choices", ())) == choices
    assert gateway.record().outcome == ("ok" if choices else "refused")


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_log_probabilities_are_passed_on(gateway, server):
    _, given = replay(gateway, load(server, "chat_logprobs"), logprobs=True)
    assert len(given.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


# Missing features


@pytest.mark.parametrize(
    ("server", "message"), [("llama.cpp", "File Not Found"), ("vllm", "Not Found"), ("transformers", "Not Found")]
)
@pytest.mark.parametrize("name", ["err_404_path", "err_method"])
def test_an_unknown_path(gateway, server, message, name):
    """The message of the error is found in each form."""
    capture = load(server, name)
    with upstream(always(capture.http)) as there:
        given = send_request(gateway, CHAT, gateway.add(there))
    assert (given.status, given.body) == (capture.status, capture.body)
    record = gateway.record()
    assert endpoint_errors.read(given.body).sentence in (message, "Method Not Allowed")
    assert (record.outcome, record.error) == ("refused", "it lacks this kind of request")


@pytest.mark.parametrize(("server", "status"), [("llama.cpp", 501), ("vllm", 404), ("transformers", 404)])
def test_embeddings_of_a_chat_model(gateway, server, status):
    assert replay(gateway, load(server, "embeddings"))[1].status == status
    record = gateway.record()
    assert (record.kind, record.outcome, record.attempts[0].status) == (EMBEDDINGS, "refused", status)


def test_transformers_streams_a_response_that_was_requested_without_stream(gateway):
    capture = load("transformers", "responses")
    model, given = replay(gateway, capture)
    assert (given.headers["content-type"], given.body) == (capture.headers["content-type"], capture.renamed(model))
    record = gateway.record()
    assert (record.kind, record.outcome, record.streamed) == (RESPONSES, "ok", True)


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_the_others_have_the_messages_api(gateway, server):
    _, given = replay(gateway, load(server, "messages"))
    assert given.json()["type"] == "message"
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens) == (MESSAGES, "ok", 36)


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_servers_with_the_messages_api_count_tokens(gateway, server):
    _, given = replay(gateway, load(server, "messages_count_tokens"))
    assert given.json()["input_tokens"] == 36


def transformers(name: str) -> Script:
    """Script without the Messages API that sends this capture for any other path."""

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(load("transformers", "messages" if b"/v1/messages" in request.split(b"\r\n")[0] else name).http)

    return script


def test_transformers_without_the_messages_api_receives_a_chat(gateway):
    _, given = replay(gateway, load("transformers", "messages"), transformers("chat"))
    message = given.json()
    assert (message["type"], message["stop_reason"]) == ("message", "max_tokens")
    assert message["content"] == [{"type": "text", "text": "Hello, welcome to my little corner of"}]
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == (MESSAGES, "ok", 36, 8)


def test_transformers_without_the_messages_api_receives_a_streamed_chat(gateway):
    _, given = replay(gateway, load("transformers", "messages_stream"), transformers("chat_stream"), stream=True)
    assert given.body.startswith(b"event: message_start\n")
    assert given.body.endswith(b'data: {"type":"message_stop"}\n\n')
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == (MESSAGES, "ok", 36, 8)


def test_transformers_cannot_count_tokens(gateway):
    _, given = replay(gateway, load("transformers", "messages_count_tokens"), transformers("tokenize"))
    assert (given.status, given.json()["error"]["type"]) == (404, "not_found_error")
    assert gateway.record().outcome == "refused"
