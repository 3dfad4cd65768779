"""Streams of Messages as chunks of chat completions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.anthropic.chat_stream import CompletionChunks
from gateway.dialects.anthropic.messages_api import server_event
from gateway.dialects.chat.completions import MAX_CALLS
from gateway.dialects.chat.relay import ALIVE, MAX_TRANSLATED_EVENT_BYTES, TranslatingRelay
from gateway.dialects.chat.translation import TRANSLATED, Translation
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage
from tests.gateway.anything import VALUES
from tests.gateway.scripted import DONE


def event(kind, **fields):
    return server_event(kind, {"type": kind, **fields})


def start(**usage):
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
    return event("message_start", message={**message, "usage": usage or {"input_tokens": 12, "output_tokens": 1}})


def block(index, kind, **fields):
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(index, kind, **fields):
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def stop(index):
    return event("content_block_stop", index=index)


def ending(reason="end_turn", usage=None, **fields):
    usage = {"output_tokens": 89} if usage is None else usage
    return event("message_delta", delta={"stop_reason": reason, **fields}, usage=usage) + event("message_stop")


def written(index, *pieces):
    whole = block(index, "text", text="")
    return whole + b"".join(delta(index, "text_delta", text=piece) for piece in pieces) + stop(index)


def called(index, *pieces, name="get", id="toolu_1", given=None):
    whole = block(index, "tool_use", id=id, name=name, input=given or {})
    return whole + b"".join(delta(index, "input_json_delta", partial_json=piece) for piece in pieces) + stop(index)


def play(*pieces, translation=TRANSLATED, wants_usage=False, end=True):
    """Feed the pieces. Return the relay and the bytes that it passes on at once."""
    relay = TranslatingRelay("asked", CompletionChunks("asked", translation, wants_usage=wants_usage))
    sent = b""
    for piece in pieces:
        sent += relay.feed(piece)
        while relay.behind:
            sent += relay.feed(b"")
    if end:
        relay.end()
    return relay, sent


def chunks(stream):
    """The chunks without comments and [DONE]."""
    events = [raw_event for raw_event in stream.split(b"\n\n") if raw_event and not raw_event.startswith(b":")]
    return [json.loads(raw_event.removeprefix(b"data: ")) for raw_event in events if raw_event + b"\n\n" != DONE]


def deltas(*pieces, **options):
    relay, sent = play(*pieces, **options)
    return [chunk["choices"][0]["delta"] for chunk in chunks(sent + relay.held) if chunk["choices"]]


def test_a_text():
    relay, sent = play(start(), written(0, "Hel", "lo"), ending())
    first, *others = chunks(sent)
    assert first.pop("created") > 1_700_000_000
    assert first == {
        "id": "msg_1",
        "object": "chat.completion.chunk",
        "model": "asked",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
    }
    assert [chunk["choices"][0]["delta"] for chunk in others] == [{"content": "Hel"}, {"content": "lo"}]
    (last,) = chunks(relay.held)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert relay.held.endswith(DONE)
    assert (relay.whole, relay.usage, relay.finish_reason, relay.deltas) == (True, Usage(12, 89), "stop", 2)


def test_the_end_is_held_back():
    relay, _sent = play(start(), written(0, "a"), event("message_delta", delta={"stop_reason": "end_turn"}), end=False)
    assert (relay.finished, relay.held) == (False, b"")
    assert relay.feed(event("message_stop")) == b""
    assert (relay.finished, relay.held.endswith(DONE)) == (True, True)
    assert relay.feed(event("content_block_delta", index=0, delta={"type": "text_delta", "text": "late"})) == b""


def test_thinking_keeps_its_signature():
    pieces = [
        block(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Let"),
        delta(0, "thinking_delta", thinking=" me"),
        delta(0, "signature_delta", signature="EqQB"),
        stop(0),
        block(1, "redacted_thinking", data="xyz"),
        stop(1),
        written(2, "Hi"),
    ]
    assert deltas(start(), *pieces, ending())[1:-1] == [
        {
            "reasoning_content": "Let",
            "reasoning_details": [{"type": "reasoning.text", "text": "Let", "index": 0}],
        },
        {
            "reasoning_content": " me",
            "reasoning_details": [{"type": "reasoning.text", "text": " me", "index": 0}],
        },
        {"reasoning_details": [{"type": "reasoning.text", "signature": "EqQB", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz", "index": 1}]},
        {"content": "Hi"},
    ]


def test_the_index_of_a_call_counts_calls_only():
    given = deltas(start(), written(0, "a"), called(1, '{"a"', ":1}"), called(2, "{}", id="toolu_2"), ending())
    calls = [chat_delta["tool_calls"][0] for chat_delta in given if "tool_calls" in chat_delta]
    assert calls == [
        {"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "get", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 1, "id": "toolu_2", "type": "function", "function": {"name": "get", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]


@pytest.mark.parametrize(
    ("pieces", "given", "arguments"),
    [((), None, "{}"), (("",), None, "{}"), ((), {"a": 1}, '{"a":1}'), (("{",), {"a": 1}, "{")],
)
def test_a_call_has_arguments_in_any_case(pieces, given, arguments):
    sent = deltas(start(), called(0, *pieces, given=given), ending())
    assert (
        "".join(
            chat_delta["tool_calls"][0]["function"]["arguments"] for chat_delta in sent if "tool_calls" in chat_delta
        )
        == arguments
    )


def test_a_custom_tool_gets_its_text_when_it_is_complete():
    translation = Translation(custom_tools=frozenset(["run"]))
    _relay, sent = play(start(), called(0, '{"input":"l', 's"}', name="run"), ending(), translation=translation)
    calls = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks(sent)][1:]
    assert calls == [
        [{"index": 0, "id": "toolu_1", "type": "custom", "custom": {"name": "run", "input": ""}}],
        [{"index": 0, "custom": {"input": "ls"}}],
    ]
    assert sent.count(ALIVE) == 2  # the connection stays alive meanwhile


def test_the_older_form_has_one_call():
    sent = deltas(start(), called(0, '{"a":1}'), called(1), ending("tool_use"), translation=Translation(one_call=True))
    assert sent[1:-1] == [
        {"function_call": {"name": "get", "arguments": ""}},
        {"function_call": {"arguments": '{"a":1}'}},
    ]
    relay, _ = play(start(), called(0), ending("tool_use"), translation=Translation(one_call=True))
    assert chunks(relay.held)[0]["choices"][0]["finish_reason"] == "function_call"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "length"),
        ("something_new", "stop"),
    ],
)
def test_finish_reasons(reason, finish):
    relay, _ = play(start(), written(0, "a"), ending(reason))
    assert chunks(relay.held)[0]["choices"][0]["finish_reason"] == finish


def test_a_refusal_is_explained():
    sent = deltas(start(), ending("refusal", stop_details={"type": "refusal", "explanation": "No."}))
    assert {"refusal": "No."} in sent


def test_usage_is_sent_if_the_client_wants_it():
    usage = {"output_tokens": 89, "output_tokens_details": {"thinking_tokens": 31}, "input_tokens": None}
    began = {"input_tokens": 12, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 2048, "output_tokens": 1}
    relay, sent = play(start(**began), written(0, "a"), ending(usage=usage), wants_usage=True)
    finish, last = chunks(relay.held)
    assert (last["choices"], last["model"], last["id"]) == ([], "asked", "msg_1")
    assert last["usage"] == {
        "prompt_tokens": 2065,
        "completion_tokens": 89,
        "total_tokens": 2154,
        "prompt_tokens_details": {"cached_tokens": 2048, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 31},
    }
    assert [chunk["usage"] for chunk in [*chunks(sent), finish]] == [None] * 3
    assert relay.usage == Usage(2065, 89, 2048, 5, 31)


def test_without_a_wish_no_chunk_has_usage():
    relay, sent = play(start(), written(0, "a"), ending())
    assert not [chunk for chunk in chunks(sent + relay.held) if "usage" in chunk]


def test_usage_that_is_not_reported_is_not_made_up():
    relay, _ = play(
        event("message_start", message={"id": "msg_1"}), written(0, "a"), event("message_stop"), wants_usage=True
    )
    assert len(chunks(relay.held)) == 1


def test_an_error_ends_the_stream_without_done():
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"}, request_id="req_1")
    relay, sent = play(start(), written(0, "a"), error, ending())
    assert relay.held == (
        b'data: {"error":{"message":"Overloaded","type":"overloaded_error","param":null,"code":"overloaded"}}\n\n'
    )
    assert (relay.error.words, relay.finished) == (("overloaded_error",), False)
    assert len(chunks(sent)) == 2


def test_an_error_before_the_message_sends_nothing():
    relay, sent = play(event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    assert (sent, relay.error is not None) == (b"", True)


def test_an_error_quotes_no_secret():
    relay = TranslatingRelay("asked", CompletionChunks("asked", TRANSLATED, wants_usage=False))
    relay.redact = lambda raw: raw.replace(b"sk-secret", b"***")
    relay.feed(event("error", error={"type": "api_error", "message": "key sk-secret"}))
    assert b"sk-secret" not in relay.held


def test_unknown_events_are_skipped():
    unknown = [
        event("something_new", index=0),
        block(0, "something_new", text="x"),
        delta(0, "something_new", text="x"),
        delta(0, "citations_delta", citation={"url": "x"}),
        delta(7, "input_json_delta", partial_json="{}"),
        b"event: ping\n\n",
        b"data: no json\n\n",
        b'data: ["a"]\n\n',
    ]
    assert deltas(start(), *unknown, written(1, "a"), ending())[1:-1] == [{"content": "a"}]


def test_pings_keep_the_connection_alive():
    _, sent = play(event("ping"), start(), event("ping"))
    assert sent.count(ALIVE) == 1
    assert sent.endswith(ALIVE)


def test_a_stream_without_its_beginning_is_complete_all_the_same():
    assert deltas(written(0, "a"), ending())[0] == {"role": "assistant", "content": ""}
    relay, _ = play(ending())
    assert chunks(relay.held)[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_that_breaks_off_is_not_finished():
    relay, _ = play(start(), written(0, "a"))
    assert (relay.finished, relay.held, relay.error) == (False, b"", None)


def test_bytes_may_arrive_in_any_pieces():
    whole = start() + written(0, "Hel", "lo") + called(1, '{"a":1}') + ending("tool_use")
    expected = deltas(whole)
    assert deltas(*(whole[position : position + 7] for position in range(0, len(whole), 7))) == expected


def test_unpaired_surrogates_are_replaced():
    raw = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ud83d"}}\n\n'
    assert {"content": "a\ufffd"} in deltas(start(), raw)


def test_too_many_calls_and_too_long_inputs_end_the_stream():
    with pytest.raises(EventTooLong):
        play(start(), *(block(n, "tool_use", id=f"t{n}", name="get", input={}) for n in range(MAX_CALLS + 1)))
    piece = "x" * (MAX_TRANSLATED_EVENT_BYTES // 3)
    with pytest.raises(EventTooLong):
        play(start(), called(0, *[piece] * 4, name="run"), translation=Translation(custom_tools=frozenset(["run"])))


KINDS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "ping"]


@given(st.lists(st.tuples(st.sampled_from(KINDS), VALUES, VALUES, VALUES), max_size=5))
def test_any_events_are_translated_or_skipped(given):
    events = [event(kind, index=a, delta=b, content_block=c, message=a, usage=b) for kind, a, b, c in given]
    relay, sent = play(*events, event("message_stop"), wants_usage=True)
    assert chunks(sent + relay.held)
    assert relay.held.endswith(DONE)


@given(VALUES)
def test_a_block_may_have_any_index(given):
    piece = delta(given, "input_json_delta", partial_json='{"a":1}')
    opened = block(given, "tool_use", id="toolu_1", name="get", input={})
    parts = deltas(start(), block(given, "thinking", thinking="x"), opened, piece, stop(given), ending("tool_use"))
    assert (
        "".join(
            chat_delta["tool_calls"][0]["function"]["arguments"] for chat_delta in parts if "tool_calls" in chat_delta
        )
        == '{"a":1}'
    )
