"""Responses of an Ollama that pass through."""

import json
import tracemalloc
from typing import Any

import pytest

from gateway.dialects.ollama.native import MAX_LINE_BYTES, NativeRelay, error_line, read_native
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage

PIECE: dict[str, Any] = {
    "model": "served", "created_at": "2026-11-28T10:00:00Z", "message": {"role": "assistant", "content": "The"},
    "done": False,
}  # fmt: skip
LAST: dict[str, Any] = {
    "model": "served", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
    "total_duration": 4883583458, "prompt_eval_count": 26, "eval_count": 282, "context": [1, 2, 3],
}  # fmt: skip


def line(value):
    return json.dumps(value).encode() + b"\n"


def relay(keep_context=False):
    return NativeRelay("asked", keep_context=keep_context)


def test_lines_pass_with_the_name_that_the_client_sent():
    native_relay = relay()
    sent = native_relay.feed(line(PIECE) + line(PIECE))
    assert [json.loads(each) for each in sent.splitlines()] == [PIECE | {"model": "asked"}] * 2
    assert (native_relay.deltas, native_relay.events, native_relay.finished, native_relay.held) == (2, 2, False, b"")


def test_the_last_line_is_held_and_counted():
    native_relay = relay()
    assert native_relay.feed(line(PIECE))
    assert native_relay.feed(line(LAST)) == b""
    native_relay.end()
    held = json.loads(native_relay.held)
    assert held == {key: value for key, value in LAST.items() if key != "context"} | {"model": "asked"}
    assert (
        native_relay.usage.input_tokens,
        native_relay.usage.output_tokens,
        native_relay.finish_reason,
        native_relay.whole,
    ) == (26, 282, "stop", True)


def test_the_context_passes_if_there_is_one_server():
    native_relay = relay(keep_context=True)
    native_relay.feed(line(LAST))
    assert json.loads(native_relay.held)["context"] == [1, 2, 3]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_lines_may_arrive_in_parts(size):
    data, native_relay = line(PIECE) + b"\n" + line(PIECE) + line(LAST).rstrip(), relay()
    sent = b"".join(native_relay.feed(data[start : start + size]) for start in range(0, len(data), size))
    native_relay.end()
    assert (sent.count(b"\n"), native_relay.whole, native_relay.held.endswith(b"\n")) == (2, True, True)


def test_calls_are_the_finish_reason():
    native_relay = relay()
    native_relay.feed(
        line(PIECE | {"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}})
    )
    native_relay.feed(line(LAST))
    assert (native_relay.finish_reason, native_relay.deltas) == ("tool_calls", 1)


def test_an_error_is_the_end_and_has_no_secret():
    native_relay = relay()
    native_relay.redact = lambda raw: raw.replace(b"secret", b"[redacted]")
    native_relay.feed(line(PIECE))
    assert native_relay.feed(line({"error": "key secret"})) == b""
    assert (json.loads(native_relay.held), native_relay.error.sentence, native_relay.whole) == (
        {"error": "key [redacted]"},
        "key secret",
        False,
    )


def test_a_line_without_end_is_too_long():
    native_relay = relay()
    half = b"x" * (MAX_LINE_BYTES // 2)
    native_relay.feed(half)
    native_relay.feed(half)
    with pytest.raises(EventTooLong):
        native_relay.feed(b"x")


def test_many_lines_at_once_take_several_time_slices():
    native_relay = relay()
    sent = native_relay.feed(line(PIECE) * 2500)
    while native_relay.behind:
        sent += native_relay.feed(b"")
    assert (sent.count(b"\n"), native_relay.deltas) == (2500, 2500)


def test_a_whole_response_is_read():
    body, usage = read_native(json.dumps(LAST).encode(), "asked", keep_context=False)
    assert (json.loads(body)["model"], "context" in json.loads(body)) == ("asked", False)
    assert usage == Usage(26, 282, finish_reason="stop")
    assert read_native(b"<html>", "asked", keep_context=False) == (b"<html>", None)
    assert read_native(b'{"embedding":[1]}', "asked", keep_context=False) == (b'{"embedding":[1]}', None)


def test_an_error_of_routerdash_is_a_line():
    assert error_line(b'{"error":{"message":"It broke.","code":"x"}}') == b'{"error":"It broke."}\n'


def test_what_is_long_is_not_decoded():
    """A line of 3 MB of small values is counted without an object for each."""
    native_relay, calls = relay(), b"[" + b"[]," * 1_000_000 + b"[]]"
    tracemalloc.start()
    sent = native_relay.feed(b'{"model":"served","message":{"content":"","tool_calls":%b},"done":false}\n' % calls)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(sent) > len(calls), native_relay.deltas, native_relay.finish_reason) == (True, 1, "tool_calls")
    assert peak < 5 * len(sent)


@pytest.mark.parametrize("bad", [b"[1]", b'{"model":3}', b'{"done":"yes"}', b"not JSON"])
def test_a_line_of_another_form_passes_unread(bad):
    native_relay = relay()
    assert native_relay.feed(bad + b"\n") == bad + b"\n"
    assert (native_relay.deltas, native_relay.whole) == (0, False)
