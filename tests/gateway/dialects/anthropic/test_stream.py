import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import CHAT
from gateway.dialects.anthropic.stream import MAX_BLOCKS, TOOL, MessageEvents, _Block
from gateway.dialects.chat.completions import MAX_CALLS, is_object
from gateway.dialects.chat.relay import MAX_TRANSLATED_EVENT_BYTES, TranslatingRelay
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage
from tests.cpu_time import growth
from tests.gateway import captures
from tests.gateway.anything import DELTA, VALUES
from tests.gateway.scripted import DONE

STREAMS = [capture for capture in captures.STREAMS if capture.kind == CHAT and capture.status < 400]


def chunk(finish=None, usage=None, choice=None, **delta):
    """One event of a chat stream."""
    whole_choice = {"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}
    body = {"id": "chat-1", "model": "tiny", "choices": [whole_choice]}
    return b"data: %b\n\n" % json.dumps(body if usage is None else {**body, "usage": usage}).encode()


def call(index=0, arguments=None, id=None, name=None):
    """One fragment of a tool call."""
    fields = {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}
    return chunk(tool_calls=[fields])


def usage_chunk(made=36, out=8, cached=0):
    usage = {"prompt_tokens": made, "completion_tokens": out, "prompt_tokens_details": {"cached_tokens": cached}}
    return b'data: {"id":"chat-1","choices":[],"usage":%b}\n\n' % json.dumps(usage).encode()


HELLO = chunk(role="assistant", content="") + chunk(content="hel") + chunk(content="lo")
STOP = chunk("stop")
CALLED = chunk("tool_calls")


def play(*pieces, end=True):
    """Feed the pieces. Return the relay and the bytes that it passes on at once."""
    relay = TranslatingRelay("asked", MessageEvents("asked"))
    sent = b""
    for piece in pieces:
        sent += relay.feed(piece)
        while relay.behind:
            sent += relay.feed(b"")
    if end:
        relay.end()
    return relay, sent


def events(stream: bytes):
    decoded_events = []
    for event in stream.split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        decoded_events.append(json.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + decoded_events[-1]["type"].encode()
    return decoded_events


def message(stream: bytes):
    """The message as a strict client assembles it: blocks do not overlap, and each event is at a valid place."""
    start, *blocks, delta, stop = events(stream)
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    result = start["message"]
    is_open = False
    for event in blocks:
        if event["type"] == "content_block_start":
            assert (is_open, event["index"]) == (False, len(result["content"]))
            result["content"].append(event["content_block"] | {"json": ""})
        else:
            assert (is_open, event["index"]) == (True, len(result["content"]) - 1)
        is_open = event["type"] != "content_block_stop"
        if event["type"] == "content_block_delta":
            _grow(result["content"][-1], event["delta"])
    assert not is_open
    return result | delta["delta"] | {"usage": result["usage"] | delta["usage"]}


def _grow(block, delta):
    kind, field = {
        "text_delta": ("text", "text"),
        "thinking_delta": ("thinking", "thinking"),
        "input_json_delta": ("tool_use", "partial_json"),
    }[delta["type"]]
    assert block["type"] == kind
    assert delta[field]
    block["json" if kind == "tool_use" else field] += delta[field]


def blocks(*pieces):
    """The blocks of the complete message, each as type and content."""
    relay, sent = play(*pieces)
    content = message(sent + relay.held)["content"]
    return [(block["type"], block["json"] or block.get(block["type"], "")) for block in content]


def calls(*pieces):
    """The tool calls of the complete message, each as id, name and arguments."""
    relay, sent = play(*pieces)
    tool_blocks = [block for block in message(sent + relay.held)["content"] if block["type"] == "tool_use"]
    return [(block["id"], block["name"], block["json"]) for block in tool_blocks]


# Captured streams


@pytest.mark.parametrize("capture", STREAMS, ids=str)
def test_a_captured_stream_has_the_text_of_its_chunks(capture):
    relay, sent = play(capture.body)
    chunks = [json.loads(event[6:]) for event in capture.events if event != DONE]
    choices = [choice for decoded in chunks for choice in decoded["choices"] if choice["index"] == 0]
    text = "".join([choice["delta"].get("content") or "" for choice in choices])
    result = message(sent + relay.held)
    assert [block["text"] for block in result["content"]] == [text]
    assert (result["model"], relay.whole) == ("asked", True)
    assert relay.deltas >= len(text.split())


@pytest.mark.parametrize("capture", [capture for capture in STREAMS if capture.name == "chat_stream_usage"], ids=str)
def test_the_usage_of_a_captured_stream(capture):
    relay, _ = play(capture.body)
    (usage,) = [
        reported for event in capture.events if event != DONE if (reported := json.loads(event[6:]).get("usage"))
    ]
    assert relay.usage == captures.reported(usage)
    result = events(relay.held)[0]["usage"]
    assert result["input_tokens"] + (result["cache_read_input_tokens"] or 0) == usage["prompt_tokens"]
    assert result["output_tokens"] == usage["completion_tokens"]


@pytest.mark.parametrize("capture", STREAMS, ids=str)
def test_a_captured_stream_cut_at_any_byte_has_the_same_result(capture):
    relay, whole = play(capture.body)
    for cut in range(0, len(capture.body), 7):
        other, sent = play(capture.body[:cut], capture.body[cut:])
        assert (sent, other.held, other.usage) == (whole, relay.held, relay.usage)


MIXED = (
    b": hello\n\n"
    + chunk(reasoning_content="hm")
    + HELLO
    + b": still here\n\n"
    + call(0, "", "call_1", "look")
    + call(0, '{"a"')
    + call(1, '{"b":2', "call_2", "touch")
    + call(0, ":1}")
    + call(1, "}")
    + chunk(content="bye")
    + CALLED
    + usage_chunk()
    + DONE
)


@pytest.mark.parametrize("body", [MIXED, MIXED.replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
def test_a_stream_cut_at_any_byte_has_the_same_result(body):
    relay, whole = play(MIXED)
    for cut in range(len(body)):
        other, sent = play(body[:cut], body[cut:])
        assert sent.replace(b"\r\n", b"\n") == whole
        assert (other.held, other.usage, other.deltas) == (relay.held, relay.usage, relay.deltas)


@given(st.lists(st.integers(0, len(MIXED)), max_size=20).map(sorted))
def test_a_stream_in_any_pieces_has_the_same_result(cuts):
    relay, sent = play(*[MIXED[a:b] for a, b in zip((0, *cuts), (*cuts, len(MIXED)), strict=True)])
    assert (sent + relay.held) == b"".join((play(MIXED)[1], play(MIXED)[0].held))


# The beginning and end of a message


def test_a_stream_of_text():
    relay, sent = play(HELLO + STOP + DONE)
    assert [event["type"] for event in events(sent)] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
    ]
    assert [event["type"] for event in events(relay.held)] == ["message_delta", "message_stop"]
    assert (relay.events, relay.deltas, relay.finished, relay.whole) == (5, 2, True, True)


def test_a_message_begins_with_the_role():
    _, sent = play(chunk(role="assistant", content=None), end=False)
    assert events(sent) == [
        {
            "type": "message_start",
            "message": {
                "id": "chat-1",
                "type": "message",
                "role": "assistant",
                "model": "asked",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {
                    "input_tokens": 0,
                    "cache_creation_input_tokens": None,
                    "cache_read_input_tokens": None,
                    "output_tokens": 0,
                },
            },
        }
    ]


def test_a_chunk_without_choices_starts_no_message():
    assert play(b'data: {"choices":[],"model":"tiny"}\n\n', end=False)[1] == b""


def test_a_delta_is_sent_on_at_once():
    relay = TranslatingRelay("asked", MessageEvents("asked"))
    relay.feed(HELLO)
    assert events(relay.feed(chunk(content="!"))) == [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}}
    ]


@pytest.mark.parametrize("tail", [usage_chunk() + DONE, usage_chunk(), usage_chunk().rstrip()])
def test_usage_in_a_separate_chunk(tail):
    relay, _ = play(HELLO + STOP + tail)
    assert events(relay.held)[0]["usage"] == {
        "input_tokens": 36,
        "cache_creation_input_tokens": None,
        "cache_read_input_tokens": 0,
        "output_tokens": 8,
    }
    assert relay.usage == Usage(36, 8, 0)


def test_usage_within_the_last_chunk():
    relay, _ = play(HELLO + chunk("stop", usage={"prompt_tokens": 36, "completion_tokens": 8}) + DONE)
    assert events(relay.held)[0]["usage"]["output_tokens"] == 8


def test_cached_tokens_are_reported_separately():
    relay, _ = play(HELLO + STOP + usage_chunk(cached=30) + DONE)
    usage = events(relay.held)[0]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (6, 30)
    assert relay.usage == Usage(36, 8, 30)


def test_without_usage_each_delta_counts_as_a_token():
    relay, _ = play(HELLO + STOP + DONE)
    assert (relay.usage, events(relay.held)[0]["usage"]) == (None, {"output_tokens": 2})


def test_the_end_of_a_finished_response_is_held_back_until_done():
    relay, _ = play(HELLO + STOP, end=False)
    assert [event["type"] for event in events(relay.held)] == ["message_delta", "message_stop"]
    assert relay.whole


@pytest.mark.parametrize("body", [DONE, STOP, STOP + DONE, chunk("stop", content=None)])
def test_an_empty_response_is_a_message(body):
    relay, sent = play(body)
    assert message(sent + relay.held)["content"] == []


def test_done_ends_a_response_without_a_finish_reason():
    relay, sent = play(HELLO + DONE)
    assert message(sent + relay.held)["stop_reason"] == "end_turn"


def test_the_last_event_may_lack_its_empty_line():
    relay, sent = play(HELLO + chunk("stop", content="!").rstrip())
    assert message(sent + relay.held)["content"][0]["text"] == "hello!"


@pytest.mark.parametrize("body", [b"", b": hello\n\n", HELLO, HELLO + b"data: {", HELLO + b": bye"])
def test_a_response_that_breaks_off_has_no_end(body):
    relay, _ = play(body)
    assert (relay.whole, relay.finished, relay.error, relay.held) == (False, False, None, b"")


def test_events_after_done_are_dropped():
    relay, _ = play(HELLO + STOP + DONE)
    other, _ = play(HELLO + STOP + DONE + HELLO + usage_chunk() + b": bye\n\n")
    assert (other.held, other.usage) == (relay.held, None)


def test_text_after_the_finish_reason_reopens_the_response():
    relay, sent = play(HELLO + STOP + chunk(content="more"), end=False)
    assert (relay.finished, relay.held) == (False, b"")
    sent += relay.feed(STOP + DONE)
    assert [block["text"] for block in message(sent + relay.held)["content"]] == ["hello", "more"]


def test_other_choices_are_left_out():
    assert blocks(HELLO + chunk(choice={"index": 1}, content="other") + STOP + DONE) == [("text", "hello")]


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (chunk("stop"), "end_turn", None),
        (chunk("length"), "max_tokens", None),
        (chunk("content_filter"), "refusal", None),
        (chunk("stop", refusal="no"), "refusal", None),
        (chunk("stop", choice={"stop_reason": "END"}), "stop_sequence", "END"),
        (chunk("stop", choice={"matched_stop": "END"}), "stop_sequence", "END"),
        (chunk("stop", choice={"stop_reason": 2}), "end_turn", None),
        (call(0, "{}", "c", "look") + chunk("stop"), "tool_use", None),
        (call(0, "{}", "c", "look") + chunk("tool_calls"), "tool_use", None),
        (call(0, "{", "c", "look") + chunk("length"), "max_tokens", None),
        (call(0, "{}", "c", "look") + DONE, "tool_use", None),
    ],
)
def test_stop_reasons(last, reason, sequence):
    relay, _ = play(HELLO + last + DONE)
    assert events(relay.held)[0]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


# Blocks


def test_thinking_is_a_separate_block():
    content = blocks(chunk(reasoning="h") + chunk(reasoning_content="m", content="s") + chunk(content="o") + STOP)
    assert content == [("thinking", "hm"), ("text", "so")]


def test_thinking_has_a_signature_field():
    _, sent = play(chunk(reasoning="h"), end=False)
    assert events(sent)[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}


def test_thinking_may_continue_after_text():
    content = blocks(chunk(reasoning="a") + chunk(content="b") + chunk(reasoning="c") + STOP)
    assert content == [("thinking", "a"), ("text", "b"), ("thinking", "c")]


def test_text_in_parts():
    assert blocks(chunk(content=[{"type": "text", "text": "a"}]) + STOP) == [("text", "a")]


def test_half_of_an_emoji_is_replaced():
    assert blocks(chunk(content="a\ud83d") + STOP) == [("text", "a\ufffd")]


def test_a_tool_call_in_fragments():
    body = call(0, "", "call_1", "look") + call(0, '{"at"') + call(0, ":1}") + CALLED
    assert calls(body) == [("call_1", "look", '{"at":1}')]


def test_fragments_are_sent_on_at_once():
    relay = TranslatingRelay("asked", MessageEvents("asked"))
    relay.feed(call(0, "", "call_1", "look"))
    (event,) = events(relay.feed(call(0, '{"at"')))
    assert event["delta"] == {"type": "input_json_delta", "partial_json": '{"at"'}


def test_successive_tool_calls():
    body = HELLO + call(0, "{}", "call_1", "look") + call(1, "{", "call_2", "touch") + call(1, "}") + CALLED
    assert calls(body) == [("call_1", "look", "{}"), ("call_2", "touch", "{}")]


def test_a_complete_tool_call_ends_when_the_next_begins():
    relay = TranslatingRelay("asked", MessageEvents("asked"))
    relay.feed(call(0, "{}", "call_1", "look"))
    sent = events(relay.feed(call(1, "", "call_2", "touch")))
    assert [event["type"] for event in sent] == ["content_block_stop", "content_block_start"]


def test_tool_calls_with_interleaved_fragments():
    body = (
        call(0, '{"a', "call_1", "look")
        + call(1, '{"b', "call_2", "touch")
        + call(2, "", "call_3", "smell")
        + call(0, '":1')
        + call(1, '":2}')
        + chunk(content="so")
        + call(0, "}")
        + CALLED
    )
    assert calls(body) == [
        ("call_1", "look", '{"a":1}'),
        ("call_2", "touch", '{"b":2}'),
        ("call_3", "smell", ""),
    ]
    assert blocks(body)[3] == ("text", "so")


def test_several_tool_calls_in_one_chunk():
    fields = [
        {"index": index, "id": f"call_{index}", "function": {"name": "look", "arguments": "{}"}} for index in range(3)
    ]
    assert calls(chunk(tool_calls=fields) + CALLED) == [(f"call_{index}", "look", "{}") for index in range(3)]


@pytest.mark.parametrize("index", [0, None])
def test_tool_calls_with_the_same_index_are_distinguished_by_their_ids(index):
    body = call(index, '{"a":1}', "call_1", "look") + call(index, "{", "call_2", "look") + call(index, "}") + CALLED
    assert calls(body) == [("call_1", "look", '{"a":1}'), ("call_2", "look", "{}")]


def test_a_tool_call_that_repeats_its_id_and_name_is_one_call():
    body = call(0, "{", "call_1", "look") + call(0, "}", "call_1", "look") + CALLED
    assert calls(body) == [("call_1", "look", "{}")]


def test_a_tool_call_is_held_until_its_name_is_received():
    body = call(0, "{", "call_1") + call(0, "}", None, "look") + CALLED
    assert calls(body) == [("call_1", "look", "{}")]


def test_a_tool_call_without_id_and_name_gets_an_id():
    ((id, name, arguments),) = calls(call(0, "{}") + CALLED)
    assert (id[:6], name, arguments) == ("toolu_", "", "{}")


def test_arguments_may_be_an_object():
    assert calls(call(0, {"at": 1}, "call_1", "look") + CALLED)[0][2] == '{"at": 1}'


def test_whitespace_after_a_complete_tool_call_is_dropped():
    body = call(0, "{}", "call_1", "look") + call(1, "{}", "call_2", "look") + call(0, "\n") + CALLED
    assert [arguments for _, _, arguments in calls(body)] == ["{}", "{}"]


# Errors and unknown events


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        ({"message": "out of memory", "code": 500}, "api_error", "out of memory"),
        ({"message": "too long", "code": 400}, "invalid_request_error", "too long"),
        ({"message": "busy", "code": 503}, "overloaded_error", "busy"),
        ({"message": "odd", "code": "odd"}, "api_error", "odd"),
        ({"message": "odd", "code": 7}, "api_error", "odd"),
        ("plain", "api_error", "plain"),
    ],
)
def test_an_error_is_held_back_in_the_clients_dialect(error, kind, sentence):
    relay, sent = play(HELLO + b"data: %b\n\n" % json.dumps({"error": error}).encode() + STOP + DONE)
    assert sent == play(HELLO)[1]
    assert events(relay.held) == [{"type": "error", "error": {"type": kind, "message": sentence}}]
    assert (relay.error.sentence, relay.whole) == (sentence, False)


@pytest.mark.parametrize("noise", [b"\n", b"event: ping\n\n", b"data:\n\n", b"data: not json\n\n", b"data: [1]\n\n"])
def test_unknown_events_are_dropped(noise):
    relay, sent = play(noise + HELLO + noise + STOP + noise + DONE)
    other, wanted = play(HELLO + STOP + DONE)
    assert (sent, relay.held) == (wanted, other.held)


def test_comments_keep_the_client_waiting():
    relay = TranslatingRelay("asked", MessageEvents("asked"))
    assert relay.feed(b": a\n\n") == b""
    assert relay.feed(HELLO).startswith(b": a\n\nevent: message_start\n")
    assert relay.feed(b": b\n\n") == b": b\n\n"
    assert relay.events == 3


CHUNKS = st.builds(
    lambda delta, finish, index, usage: (
        b"data: %b\n\n"
        % json.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish}], "usage": usage}).encode()
    ),
    DELTA,
    st.none() | st.sampled_from(["stop", "tool_calls"]) | VALUES,
    st.just(0) | VALUES,
    VALUES,
)


@given(st.lists(CHUNKS | st.binary(max_size=20), max_size=8))
def test_any_finished_chunks_are_a_message(chunks):
    relay, sent = play(*chunks, b"\n\n", DONE)
    if relay.error is None and b"\n:" not in sent and sent[:1] != b":":
        message(sent + relay.held)


# Slow streams


def mixed(fragments):
    """Fragments of two tool calls alternate, so that each fragment checks whether the other call is complete."""
    return call(0, '{"a":"', "c1", "n") + call(1, '{"b":"', "c2", "m") + (call(0, "}") + call(1, "}")) * fragments


def relay_whole(body):
    relay = TranslatingRelay("asked", MessageEvents("asked"))
    relay.feed(body)
    while relay.behind:
        relay.feed(b"")


def test_fragments_of_two_calls_take_time_in_proportion_to_their_number():
    assert growth(relay_whole, mixed(1500), mixed(6000)) < 8  # 16 in proportion to the square of the number


@given(st.lists(st.text('{}[]"\\\\ a:1,', max_size=4), max_size=12))
def test_arguments_in_pieces_are_complete_when_they_are_an_object(pieces):
    block = _Block(TOOL)
    for count, piece in enumerate(pieces, 1):
        block.waiting.append(piece)
        block.take()
        assert block.whole is is_object("".join(pieces[:count]))


@pytest.mark.parametrize(
    "event",
    [
        chunk(tool_calls=[{}] * (MAX_CALLS + 1)),
        chunk(content="a" * MAX_TRANSLATED_EVENT_BYTES),
        b'data: {"choices":[%b{}]}\n\n' % (b"{}," * MAX_CALLS),
        b"".join(call(index, "{", f"call_{index}", "n") for index in range(MAX_BLOCKS + 2)),
    ],
    ids=["calls", "bytes", "choices", "blocks"],
)
def test_a_stream_that_is_too_long_to_be_translated_is_aborted(event):
    with pytest.raises(EventTooLong):
        play(*(event[start : start + 50_000] for start in range(0, len(event), 50_000)))
