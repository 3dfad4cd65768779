"""What real servers answered, through a real gateway: to the byte, however it is cut, and what is made of it.

The first half holds for every capture; the second names each way in which the servers differ from one another.
"""

import json
import socket
import time
from typing import Any

import pytest

from gateway import endpoint_errors
from gateway.errors import UPSTREAM_ERROR
from gateway.kinds import BY_NAME, CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES
from gateway.openai import dialect, read_answer
from gateway.relay import StreamRelay
from tests.gateway import captures
from tests.gateway.captures import Capture, load
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import DONE, Script, Talk, always, each_time, stream, upstream
from tests.http import Answer

PASSED_ON = (400, 404, 422, 501)  # of errors
PAUSE = 0.003  # seconds between two pieces, so that they hardly ever arrive as one
ANTHROPIC = (MESSAGES, COUNT_TOKENS)
# A server without Messages is asked for a chat: its 404 does not pass.
EVERYTHING = [it for it in captures.everything() if it.kind not in ANTHROPIC or it.status != 404]
every_capture = pytest.mark.parametrize("capture", EVERYTHING, ids=str)


def ask(gateway: GatewayProcess, kind: str, model: str, **fields) -> Answer:
    messages = [{"role": "user", "content": "Say hello in five words."}]
    body = {"model": model, "messages": messages, "prompt": "", "input": "", "max_tokens": 8, **fields}
    return gateway.post(BY_NAME[kind].path, body)


def replay(gateway: GatewayProcess, capture: Capture, script: Script | None = None, **fields) -> tuple[str, Answer]:
    """The model asked for, and what the client got."""
    with upstream(script or always(capture.http)) as server:
        model = gateway.add(server)
        return model, ask(gateway, capture.kind, model, **fields)


def in_pieces(data: bytes, *cuts: int) -> Script:
    """Sends it cut at these bytes."""

    def script(talk: Talk) -> None:
        talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk.request()
        for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            talk.send(data[start:end])
            time.sleep(PAUSE)
        talk.client_left()

    return script


def assert_passed(capture: Capture, model: str, given: Answer) -> None:
    if capture.status == 500:
        assert (given.status, given.json()["error"]["code"]) == (502, UPSTREAM_ERROR)
    else:
        assert (given.status, given.body) == (capture.status, capture.renamed(model))
        assert given.headers["content-type"] == capture.headers["content-type"]


def told_usage(capture: Capture) -> tuple[int | None, int | None]:
    """Input and output tokens, as a reader of the whole body would find them."""
    made = out = None
    for event in capture.events if capture.streamed else [b"data: " + capture.body]:
        data = event.partition(b"data: ")[2].strip()
        told = {} if data == b"[DONE]" else json.loads(data)
        for holder in (told, told.get("response") or {}, told.get("message") or {}):
            usage = holder.get("usage") or {}
            made = usage.get("prompt_tokens", _input(usage) or made)
            out = usage.get("completion_tokens", usage.get("output_tokens", out))
    return made, out


def _input(usage: dict[str, int]) -> int | None:
    """Messages tell what they took from a cache apart."""
    if "input_tokens" not in usage:
        return None
    return usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)


# Every capture


@every_capture
def test_a_real_answer_passes_to_the_byte(gateway, capture):
    model, given = replay(gateway, capture)
    assert_passed(capture, model, given)
    record = gateway.record()
    outcome = "ok" if capture.status < 400 else "refused" if capture.status in PASSED_ON else "failed"
    assert (record.outcome, record.kind, record.streamed) == (outcome, capture.kind, capture.streamed)


@every_capture
def test_a_real_answer_passes_however_it_is_cut(gateway, capture):
    data = capture.http
    head = data.index(b"\r\n\r\n") + 4
    middle = (head + len(data)) // 2
    cuts = sorted({9, head - 3, head, head + 1, head + 7, middle, middle + 1, len(data) - 6, len(data) - 1})
    model, given = replay(gateway, capture, in_pieces(data, *cuts))
    assert_passed(capture, model, given)


@pytest.mark.parametrize("capture", [it for it in EVERYTHING if it.status < 400], ids=str)
def test_the_tokens_of_a_real_answer_are_counted(gateway, capture):
    replay(gateway, capture, stream=capture.streamed, stream_options={"include_usage": True})
    record = gateway.record()
    made, out = told_usage(capture)
    if capture.streamed and out is None:  # it was not asked for usage
        assert (record.estimated, record.input_tokens) == (True, None)
    else:
        assert (record.estimated, record.input_tokens, record.output_tokens) == (False, made, out)


@pytest.mark.parametrize("capture", captures.STREAMS, ids=str)
def test_a_client_that_did_not_ask_for_usage_is_shown_none(gateway, capture):
    """But what stands in an event with something else stays where it is."""
    model, given = replay(gateway, capture, stream=True)
    events = [event for event in capture.events if b'"choices":[],' not in event or b'"usage":{' not in event]
    expected = b"".join(events).replace(f'"model":"{capture.model}"'.encode(), f'"model":"{model}"'.encode())
    assert given.body == expected


@pytest.mark.parametrize("capture", [it for it in EVERYTHING if it.streamed], ids=str)
def test_a_real_stream_that_breaks_off_ends_in_an_error(gateway, capture):
    half = capture.events[: len(capture.events) // 2]
    _, given = replay(gateway, capture, each_time(stream(*half, end=False)), stream=True)
    assert b"broke off in the middle of its answer" in given.body
    record = gateway.record()
    assert (record.outcome, record.status) == ("truncated", 200)
    assert 1 <= (record.output_tokens or 0) < 8


@pytest.mark.parametrize("capture", captures.ANSWERS, ids=str)
def test_a_real_answer_cut_short_is_no_answer(capture):
    """Whatever part of it has come: it passes as it is, and nothing is made of it."""
    for length in range(len(capture.body)):
        body, usage = read_answer(capture.body[:length], "asked")
        assert (body, usage) == (capture.body[:length], None)


# The ways in which they differ. An unknown model:


def test_llama_cpp_answers_for_any_model_and_the_answer_bears_the_name_asked_for(gateway):
    model, given = replay(gateway, load("llama.cpp", "err_unknown_model"))
    assert (given.status, given.json()["model"]) == (200, model)


def test_vllm_knows_no_such_model_and_says_so(gateway):
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


def test_transformers_tells_usage_unasked_in_its_last_chunk(gateway):
    _, given = replay(gateway, load("transformers", "chat_stream"), stream=True)
    last = json.loads(given.body.rstrip().rpartition(b"data: ")[2])
    assert (last["choices"][0]["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 8)
    assert gateway.record().output_tokens == 8


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_others_tell_usage_in_a_chunk_of_its_own(gateway, server, wanted):
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if wanted else {}
    _, given = replay(gateway, load(server, "chat_stream_usage"), stream=True, **options)
    assert (b'"choices":[],' in given.body) is wanted
    assert gateway.record().output_tokens == 8


@pytest.mark.parametrize("server", captures.SERVERS)
def test_the_first_chunk_holds_no_token(server):
    """Content null, an empty one, or a role alone."""
    capture = load(server, "chat_stream")
    relay = StreamRelay(dialect(CHAT), capture.model, hide_usage=False)
    relay.feed(capture.events[0])
    assert (relay.events, relay.deltas) == (1, 0)
    relay.feed(capture.events[1])
    assert relay.deltas == 1


# Bad requests, where the client is told what the server said


@pytest.mark.parametrize(
    ("server", "status", "words"),
    [
        ("llama.cpp", 400, "parse error at line 1"),
        ("vllm", 400, "json_invalid"),
        ("transformers", 422, "json_invalid"),
    ],
)
def test_what_is_no_json(gateway, server, status, words):
    _, given = replay(gateway, load(server, "err_bad_json"))
    assert (given.status, words in given.body.decode()) == (status, True)
    assert gateway.record().outcome == "refused"


@pytest.mark.parametrize("name", ["err_missing_messages", "err_messages_type"])
@pytest.mark.parametrize(("server", "status"), [("llama.cpp", 400), ("vllm", 400), ("transformers", 502)])
def test_messages_that_are_none(gateway, server, status, name):
    _, given = replay(gateway, load(server, name))
    assert given.status == status


@pytest.mark.parametrize("name", ["err_context_overflow", "err_context_overflow_stream"])
def test_llama_cpp_tells_how_much_context_there_is(gateway, name):
    _, given = replay(gateway, load("llama.cpp", name))
    error = given.json()["error"]
    assert (given.status, error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (3031, 1024)


@pytest.mark.parametrize("name", ["err_context_overflow", "err_context_overflow_stream"])
@pytest.mark.parametrize(("server", "outcome"), [("vllm", "refused"), ("transformers", "ok")])
def test_vllm_refuses_what_transformers_cuts(gateway, server, outcome, name):
    replay(gateway, load(server, name), stream="stream" in name)
    assert gateway.record().outcome == outcome


@pytest.mark.parametrize(("server", "status"), [("llama.cpp", 200), ("vllm", 400), ("transformers", 200)])
def test_a_temperature_below_zero(gateway, server, status):
    assert replay(gateway, load(server, "err_bad_temperature"))[1].status == status


@pytest.mark.parametrize(("server", "choices"), [("llama.cpp", 2), ("vllm", 0), ("transformers", 1)])
def test_two_choices_asked_for(gateway, server, choices):
    _, given = replay(gateway, load(server, "chat_n2"), n=2)
    assert len(given.json().get("choices", ())) == choices
    assert gateway.record().outcome == ("ok" if choices else "refused")


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_log_probabilities_pass(gateway, server):
    _, given = replay(gateway, load(server, "chat_logprobs"), logprobs=True)
    assert len(given.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


# What a server does not have


@pytest.mark.parametrize(
    ("server", "message"), [("llama.cpp", "File Not Found"), ("vllm", "Not Found"), ("transformers", "Not Found")]
)
@pytest.mark.parametrize("name", ["err_404_path", "err_method"])
def test_a_path_that_is_not_there(gateway, server, message, name):
    """Its words are found in whichever shape they come."""
    capture = load(server, name)
    with upstream(always(capture.http)) as there:
        given = ask(gateway, CHAT, gateway.add(there))
    assert (given.status, given.body) == (capture.status, capture.body)
    record = gateway.record()
    assert endpoint_errors.read(given.body).sentence in (message, "Method Not Allowed")
    assert (record.outcome, record.error.partition(" (")[0]) == ("refused", f"HTTP {capture.status}")


@pytest.mark.parametrize(("server", "status"), [("llama.cpp", 501), ("vllm", 404), ("transformers", 404)])
def test_embeddings_of_a_model_that_chats(gateway, server, status):
    assert replay(gateway, load(server, "embeddings"))[1].status == status
    record = gateway.record()
    assert (record.kind, record.outcome, record.attempts[0].status) == (EMBEDDINGS, "refused", status)


def test_transformers_streams_a_response_that_was_to_be_whole(gateway):
    capture = load("transformers", "responses")
    model, given = replay(gateway, capture)
    assert (given.headers["content-type"], given.body) == (capture.headers["content-type"], capture.renamed(model))
    record = gateway.record()
    assert (record.kind, record.outcome, record.streamed) == (RESPONSES, "ok", True)


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_the_others_have_messages(gateway, server):
    _, given = replay(gateway, load(server, "messages"))
    assert given.json()["type"] == "message"
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens) == (MESSAGES, "ok", 36)


@pytest.mark.parametrize("server", ["llama.cpp", "vllm"])
def test_tokens_are_counted_by_those_that_have_messages(gateway, server):
    _, given = replay(gateway, load(server, "messages_count_tokens"))
    assert given.json()["input_tokens"] == 36


def transformers(name: str) -> Script:
    """Has no Messages, and this capture for any other path."""

    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(load("transformers", "messages" if b"/v1/messages" in request.split(b"\r\n")[0] else name).http)

    return script


def test_transformers_has_no_messages_and_is_asked_for_a_chat(gateway):
    _, given = replay(gateway, load("transformers", "messages"), transformers("chat"))
    message = given.json()
    assert (message["type"], message["stop_reason"]) == ("message", "max_tokens")
    assert message["content"] == [{"type": "text", "text": "Hello, welcome to my little corner of"}]
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == (MESSAGES, "ok", 36, 8)


def test_transformers_has_no_messages_and_is_asked_for_a_streamed_chat(gateway):
    _, given = replay(gateway, load("transformers", "messages_stream"), transformers("chat_stream"), stream=True)
    assert given.body.startswith(b"event: message_start\n")
    assert given.body.endswith(b'data: {"type":"message_stop"}\n\n')
    record = gateway.record()
    assert (record.kind, record.outcome, record.input_tokens, record.output_tokens) == (MESSAGES, "ok", 36, 8)


def test_transformers_cannot_count_tokens_in_any_way(gateway):
    _, given = replay(gateway, load("transformers", "messages_count_tokens"), transformers("tokenize"))
    assert (given.status, given.json()["error"]["type"]) == (404, "not_found_error")
    assert gateway.record().outcome == "refused"
