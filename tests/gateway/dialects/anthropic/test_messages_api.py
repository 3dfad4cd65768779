import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.errors import UPSTREAM_ERROR, UPSTREAM_TIMEOUT, error_body
from gateway.dialects.anthropic.messages_api import (
    DIALECT,
    anthropic_error,
    counted,
    error_event,
    read_message,
    read_messages_event,
    upstream_error_body,
)
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.openai_events import Event
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import ReportedByMessages, Usage
from tests.gateway import captures

SERVERS = ["llama.cpp", "vllm"]
BUSY = EndpointError("busy", ("overloaded_error",), written={"type": "overloaded_error", "message": "busy"})
STREAMS = [captures.load(server, "messages_stream") for server in SERVERS]
RESPONSE_CAPTURES = [captures.load(server, "messages") for server in SERVERS]

# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (501, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (508, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_an_error_has_the_type_of_its_status(status, kind):
    assert json.loads(anthropic_error(status, "no")) == {"type": "error", "error": {"type": kind, "message": "no"}}


def test_an_error_names_the_request():
    assert json.loads(anthropic_error(400, "no", "req-1"))["request_id"] == "req-1"


def test_an_error_within_a_stream():
    assert error_event(503, "busy") == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    )


@pytest.mark.parametrize(("code", "kind"), [(UPSTREAM_TIMEOUT, b'"timeout_error"'), (UPSTREAM_ERROR, b'"api_error"')])
def test_an_error_of_routerdash_within_a_stream_keeps_its_message(code, kind):
    event = DIALECT.error_event(error_body(502, code, "it broke off"))
    assert event.startswith(b"event: error\ndata: {")
    assert kind in event
    assert b'"it broke off"' in event


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"too long","type":"BadRequestError","code":400}}', "too long"),
        (b'{"error":"too long"}', "too long"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b"Internal Server Error", "Internal Server Error"),
        (b"", "The endpoint returned status 400."),
        (b'{"type":5,"error":{"message":"odd"}}', "odd"),
        (b"[" * 200_000, "[" * 500),
    ],
)
def test_an_endpoints_error_keeps_its_message(body, message):
    error = json.loads(upstream_error_body(body, 400))
    assert error == {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


LLAMACPP = "request (802 tokens) exceeds the available context size (512 tokens), try increasing it"
VLLM = "This model's maximum context length is 1024 tokens. However, your prompt contains at least 1025 input tokens."


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (LLAMACPP, f"prompt is too long: 802 tokens > 512 maximum ({LLAMACPP})"),
        (VLLM, f"prompt is too long: 1025 tokens > 1024 maximum ({VLLM})"),
        (
            "The input exceeds the available context size.",
            "prompt is too long: The input exceeds the available context size.",
        ),
        ("Prompt is too long: 9 tokens > 8 maximum", "Prompt is too long: 9 tokens > 8 maximum"),
        ("Invalid value: 5 tokens, 6 tokens", "Invalid value: 5 tokens, 6 tokens"),
    ],
)
def test_a_prompt_that_is_too_long_in_the_words_by_which_claude_code_compacts(sentence, message):
    body = json.dumps({"error": {"code": 400, "message": sentence, "type": "exceed_context_size_error"}}).encode()
    assert json.loads(upstream_error_body(body, 400))["error"]["message"] == message
    assert json.loads(upstream_error_body(body, 503))["error"]["message"] == sentence
    assert message.encode() in error_event(400, sentence)


def test_an_error_in_the_right_shape_stays():
    body = b'{"type":"error", "error":{"type":"x","message":"y"}, "request_id":"z"}'
    assert upstream_error_body(body, 400) is body


@pytest.mark.parametrize("capture", captures.ERRORS, ids=str)
def test_a_real_error_in_this_shape(capture):
    error = json.loads(upstream_error_body(capture.body, capture.status))
    assert error["type"] == "error"
    assert error["error"]["message"]


# Responses


def test_a_count():
    assert counted(36) == b'{"input_tokens":36}'


@pytest.mark.parametrize("capture", RESPONSE_CAPTURES, ids=str)
def test_a_captured_response_has_the_requested_name(capture):
    body, usage = read_message(capture.body, "asked")
    assert body == capture.body.replace(capture.model.encode(), b"asked")
    assert usage is not None
    assert usage.input_tokens == 36  # the value of count_tokens, which includes cached tokens


def test_a_captured_response_with_the_requested_name_is_unchanged():
    capture = RESPONSE_CAPTURES[0]
    assert read_message(capture.body, capture.model)[0] is capture.body


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"input_tokens":1,"output_tokens":2}', Usage(1, 2)),
        (
            b'{"input_tokens":1,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,"output_tokens":4}',
            Usage(321, 4, 300, 20),
        ),
        (b'{"input_tokens":0,"cache_read_input_tokens":7,"output_tokens":0}', Usage(7, 0, 7)),
        (b'{"input_tokens":1,"cache_creation_input_tokens":null,"output_tokens":null}', Usage(1, None)),
        (b'{"input_tokens":true,"output_tokens":-1}', None),
        (b"{}", None),
        (b"[]", None),
        (b"null", None),
    ],
)
def test_all_forms_of_usage(usage, expected):
    assert read_message(b'{"usage":%b}' % usage, "m")[1] == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"model":5}', b"\xff", b"[" * 200_000])
def test_an_unknown_body_is_passed_on_unchanged(body):
    assert read_message(body, "m") == (body, None)


# Events


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b'{"type":"ping"}', Event()),
        (b'{"type":"message_start","message":{"model":"m","usage":{"input_tokens":3,"output_tokens":1}}}',
         Event("m", ReportedByMessages(3))),
        (b'{"type":"message_start","message":{"model":"m","usage":{"input_tokens":0,"output_tokens":0}}}', Event("m")),
        (b'{"type":"message_start","message":{"model":7}}', Event()),
        (b'{"type":"message_start","message":"odd"}', Event()),
        (b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
         Event(inside=True)),
        (b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}', Event(deltas=1)),
        (b'{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"a"}}', Event(deltas=1)),
        (b'{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"a"}}', Event(deltas=1)),
        (b'{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":""}}', Event()),
        (b'{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"a"}}', Event()),
        (b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":8}}',
         Event(usage=ReportedByMessages(None, 8), finish_reason="stop")),
        (b'{"type":"message_delta","delta":{}}', Event()),
        (b'{"type":"message_stop"}', Event(finished=True, last=True)),
        (b"[DONE]", Event(finished=True, last=True)),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', Event(error=BUSY, last=True)),
        (b'{"error":{"message":"busy"}}', Event(error=EndpointError("busy", written={"message": "busy"}), last=True)),
        (b'{"type":"error"}', Event(error=EndpointError("the upstream reported an error"), last=True)),
        (b'{"type":"something new","delta":null}', Event()),
    ],
)  # fmt: skip
def test_the_contents_of_an_event(data, event):
    assert read_messages_event(data) == event


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(msgspec.json.encode))
def test_any_data_is_an_event_or_not_decoded(data):
    try:
        assert isinstance(read_messages_event(data), Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass


def replay(capture, *cuts, requested="asked"):
    relay = StreamRelay(DIALECT, requested, hide_usage=True)
    pieces = [capture.body[a:b] for a, b in zip((0, *cuts), (*cuts, len(capture.body)), strict=True)]
    sent = b"".join([relay.feed(piece) for piece in pieces])
    relay.end()
    return relay, sent


@pytest.mark.parametrize("capture", STREAMS, ids=str)
def test_a_captured_stream_cut_at_any_byte_is_passed_on_with_the_requested_name(capture):
    wanted = capture.body.replace(b'"%b"' % capture.model.encode(), b'"asked"')
    for cut in range(len(capture.body)):
        relay, sent = replay(capture, cut)
        assert (sent + relay.held, relay.whole) == (wanted, True)


@pytest.mark.parametrize("capture", STREAMS, ids=str)
def test_the_end_of_a_captured_stream_is_held_back(capture):
    relay, _ = replay(capture)
    assert relay.held == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


@pytest.mark.parametrize(
    ("capture", "usage"), [(STREAMS[0], Usage(36, 8, 35)), (STREAMS[1], Usage(36, 7))], ids=SERVERS
)
def test_the_usage_of_a_captured_stream_is_merged_from_its_events(capture, usage):
    relay, _ = replay(capture)
    assert (relay.usage, relay.deltas) == (usage, capture.body.count(b"text_delta"))


@pytest.mark.parametrize("capture", STREAMS, ids=str)
def test_a_captured_stream_that_breaks_off_is_incomplete_and_has_its_prompt_tokens(capture):
    relay = StreamRelay(DIALECT, "asked", hide_usage=True)
    relay.feed(b"".join(capture.events[:4]))
    relay.end()
    assert (relay.whole, relay.deltas) == (False, 2)
    assert relay.usage is not None
    assert (relay.usage.input_tokens, relay.usage.output_tokens) == (36, None)


def test_an_error_within_a_stream_is_held_back():
    event = error_event(529, "busy")
    relay = StreamRelay(DIALECT, "asked", hide_usage=True)
    assert relay.feed(event) == b""
    assert relay.error is not None
    assert (relay.held, relay.error.sentence, relay.whole) == (event, "busy", False)


@pytest.mark.parametrize(
    ("later", "usage"),
    [
        (Usage(None, 2), Usage(9, 2)),
        (Usage(3, 2), Usage(3, 2)),
        (Usage(3, None), Usage(3, 1)),
    ],
)
def test_later_usage_replaces_earlier_usage(later, usage):
    assert later.merged_with(Usage(9, 1)) == usage
    assert later.merged_with(None) == later
