"""OpenAI's responses as Ollama's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import OLLAMA_CHAT, OLLAMA_EMBED, OLLAMA_GENERATE
from gateway.dialects.chat.completions import NoChatCompletion
from gateway.dialects.chat.relay import MAX_TRANSLATED_BYTES, TranslatingRelay
from gateway.dialects.ollama.durations import Stopwatch
from gateway.dialects.ollama.from_openai import Lines, Shell, from_completion, from_embeddings
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage
from tests.gateway.anything import VALUES
from tests.memory import with_peak

USAGE = {"prompt_tokens": 26, "completion_tokens": 3}


class Clock:
    """Each reading is a second later than the one before."""

    def __init__(self):
        self.now = 10.0

    def __call__(self):
        self.now += 1
        return self.now


def shell(kind=OLLAMA_CHAT):
    return Shell(kind, "llama3.2", Stopwatch(9.0, 10.0, Clock()))


def completion(**message):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello.", **message}, "finish_reason": "stop"}
    return {"model": "served", "choices": [choice], "usage": USAGE}


def whole(value, kind=OLLAMA_CHAT):
    body, usage = from_completion(json.dumps(value).encode(), shell(kind))
    return json.loads(body), usage


def chunk(finish=None, **delta):
    return {"model": "served", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def streamed(*chunks, kind=OLLAMA_CHAT, end=True):
    """Return the lines of a stream, without the last one; the last one; and the relay."""
    relay = TranslatingRelay("m", Lines(shell(kind)))
    sent = b"".join(relay.feed(b"data: %b\n\n" % json.dumps(event).encode()) for event in chunks)
    if end:
        sent += relay.feed(b"data: [DONE]\n\n")
    relay.end()
    held = json.loads(relay.held) if relay.held else None
    return [json.loads(line) for line in sent.splitlines()], held, relay


def test_a_whole_chat_has_counts_and_durations():
    response, usage = whole(completion())
    assert (response["model"], response["message"]) == ("llama3.2", {"role": "assistant", "content": "Hello."})
    assert (response["done"], response["done_reason"], response["created_at"][-1]) == (True, "stop", "Z")
    assert (
        (response["prompt_eval_count"], response["eval_count"]) == (usage.input_tokens, usage.output_tokens) == (26, 3)
    )
    assert (response["total_duration"], response["load_duration"], response["eval_duration"]) == (2 * 10**9, 0, 10**9)
    assert (usage.finish_reason, "prompt_eval_duration" in response) == ("stop", False)


def test_durations_of_llamacpp_are_used():
    response, _ = whole(completion() | {"timings": {"prompt_ms": 12.5, "predicted_ms": 80, "cache_n": 4}})
    assert (response["prompt_eval_duration"], response["eval_duration"]) == (12_500_000, 80_000_000)


def test_a_generation_has_a_response_instead_of_a_message():
    response, _ = whole(completion(reasoning_content="Hm."), OLLAMA_GENERATE)
    assert (response["response"], response["thinking"], "message" in response) == ("Hello.", "Hm.", False)
    text, _ = whole({"choices": [{"index": 0, "text": "Hello.", "finish_reason": "length"}]}, OLLAMA_GENERATE)
    assert (text["response"], text["done_reason"], "eval_count" in text) == ("Hello.", "length", False)


def test_arguments_of_a_call_become_an_object():
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "not JSON"}},
    ]
    response, _ = whole(completion(content=None, tool_calls=calls))
    assert response["message"]["tool_calls"] == [
        {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"id": "c2", "function": {"index": 1, "name": "g", "arguments": {"arguments": "not JSON"}}},
    ]
    assert (response["message"]["content"], response["done_reason"]) == ("", "stop")


@pytest.mark.parametrize("body", [b"{}", b"[", b'{"choices":[]}', b'{"error":{"message":"full"}}'])
def test_a_body_that_is_no_completion_is_a_failure(body):
    with pytest.raises(NoChatCompletion):
        from_completion(body, shell())


def test_vectors_keep_every_digit():
    body = b'{"data":[{"embedding":[0.10000000000000001,-2e-9]},{"embedding":[3]}],"usage":{"prompt_tokens":8}}'
    response, usage = from_embeddings(body, shell(OLLAMA_EMBED), one=False)
    assert b'"embeddings":[[0.10000000000000001,-2e-9],[3]]' in response
    assert (json.loads(response)["prompt_eval_count"], usage) == (8, Usage(8, None))
    one, _ = from_embeddings(body, shell(OLLAMA_EMBED), one=True)
    assert one == b'{"embedding":[0.10000000000000001,-2e-9]}'


@pytest.mark.parametrize("one", [True, False])
def test_a_response_without_vectors_is_a_failure(one):
    with pytest.raises(NoChatCompletion):
        from_embeddings(b'{"object":"list"}', shell(OLLAMA_EMBED), one=one)


def test_a_stream_becomes_lines():
    usage = {"choices": [], "usage": USAGE}
    lines, last, relay = streamed(
        chunk(role="assistant", content=""), chunk(reasoning="Hm."), chunk(content="Hel"), chunk(content="lo."),
        chunk("stop"), usage,
    )  # fmt: skip
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo."},
    ]
    assert {(line["model"], line["done"]) for line in lines} == {("llama3.2", False)}
    assert (last["done"], last["done_reason"], last["message"]) == (True, "stop", {"role": "assistant", "content": ""})
    assert (last["prompt_eval_count"], last["eval_count"]) == (26, 3)
    assert last["prompt_eval_duration"] == 10**9  # from sending until the first token
    assert (relay.usage.output_tokens, relay.finish_reason) == (3, "stop")


def test_without_usage_the_parts_are_counted():
    _, last, relay = streamed(chunk(content="a"), chunk(content="b"), chunk("length"), kind=OLLAMA_GENERATE)
    assert (last["eval_count"], relay.deltas, last["done_reason"]) == (2, 2, "length")
    assert (last["response"], "prompt_eval_count" in last) == ("", False)


def test_calls_are_sent_whole_before_the_last_line():
    def part(index, **function):
        return chunk(tool_calls=[{"index": index, "id": function.pop("id", None), "function": function}])

    lines, last, relay = streamed(
        part(0, id="c1", name="f", arguments=""), part(0, arguments='{"a"'), part(1, id="c2", name="g", arguments=""),
        part(0, arguments=": 1}"), chunk("tool_calls"),
    )  # fmt: skip
    (line,) = lines
    assert line["message"]["tool_calls"] == [
        {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"id": "c2", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]
    assert (last["done_reason"], relay.finish_reason) == ("stop", "tool_calls")


@pytest.mark.parametrize("index", [0, None, {"a": 1}, [0], "0"])
def test_another_id_with_a_name_is_another_call_whatever_its_index(index):
    pieces: list[dict[str, object]] = [
        {"id": "c1", "function": {"name": "f", "arguments": '{"a"'}},
        {"function": {"arguments": ": 1}"}},
        {"id": "c2", "function": {"name": "g", "arguments": "{}"}},
    ]
    (line,), _, _ = streamed(*(chunk(tool_calls=[{"index": index, **piece}]) for piece in pieces), chunk("tool_calls"))
    assert line["message"]["tool_calls"] == [
        {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {"id": "c2", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]


@given(
    st.lists(st.fixed_dictionaries({"choices": st.just([]) | VALUES, "usage": VALUES, "timings": VALUES}), max_size=4)
)
def test_any_chunks_are_translated_or_skipped(given):
    _, last, _ = streamed(*given)
    assert last["done"]


@given(VALUES, VALUES, VALUES)
def test_a_call_may_have_any_fields(one, other, third):
    call = {"index": one, "id": other, "function": {"name": third, "arguments": one}}
    (line,), _, _ = streamed(chunk(tool_calls=[call]))
    assert len(line["message"]["tool_calls"]) == 1


def test_an_error_in_a_stream_becomes_the_last_line():
    lines, last, relay = streamed(chunk(content="a"), {"error": {"message": "out of memory"}})
    assert (len(lines), last, relay.error.sentence) == (1, {"error": "out of memory"}, "out of memory")


def test_comments_have_no_place_between_lines():
    relay = TranslatingRelay("m", Lines(shell()))
    assert relay.feed(b": waiting\n\n") == b""
    assert relay.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n: waiting\n\n').count(b"\n") == 1


def test_too_many_calls_end_a_stream():
    calls = [{"index": index, "id": f"c{index}", "function": {"name": "f"}} for index in range(200)]
    with pytest.raises(EventTooLong):
        streamed(chunk(tool_calls=calls))


def test_large_events_are_translated_in_several_slices():
    """Each has many values, which take longer to translate than the events of usual streams."""
    many = b"data: %b\n\n" % json.dumps(chunk(tool_calls=[{}] * 1000)).encode()
    relay = TranslatingRelay("m", Lines(shell()))
    relay.feed(many * (64 * 1024 // len(many)))
    assert relay.behind
    assert relay.events <= MAX_TRANSLATED_BYTES // len(many) + 1
    slices = 1
    while relay.behind:
        relay.feed(b"")
        slices += 1
    assert (relay.events, slices >= 4) == (64 * 1024 // len(many), True)


def test_calls_without_arguments_are_not_collected():
    relay = TranslatingRelay("m", Lines(shell()))
    many = b"data: %b\n\n" % json.dumps(chunk(tool_calls=[{}] * 1000)).encode()

    def feed():
        for _ in range(200):
            relay.feed(many)

    assert with_peak(feed)[1] < 1 << 20
