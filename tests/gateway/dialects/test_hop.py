"""The hop from chat completions to Anthropic's Messages: streams of these as Ollama's lines."""

import json

from gateway.base.request_kinds import MESSAGES, OLLAMA_CHAT
from gateway.dialects.anthropic.messages_api import server_event
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.chat.translation import Translation
from gateway.dialects.hop import events_by_chat
from gateway.dialects.ollama.durations import Stopwatch
from gateway.dialects.ollama.from_openai import Lines, Shell

START = {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 9}}}
STOP = {"type": "message_stop"}


def block(index, **fields):
    return {"type": "content_block_start", "index": index, "content_block": fields}


def delta(index, **fields):
    return {"type": "content_block_delta", "index": index, "delta": fields}


def streamed(*events):
    translation = Translation(kind=MESSAGES)
    lines = events_by_chat("claude", translation, Lines(Shell(OLLAMA_CHAT, "claude", Stopwatch(0.0, 0.0))))
    relay = TranslatingRelay("claude", lines)
    sent = b"".join(relay.feed(server_event(event["type"], event)) for event in events)
    relay.end()
    return [json.loads(line) for line in sent.splitlines()], json.loads(relay.held), relay


def end(reason, tokens):
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": tokens}}


def test_text_and_thinking_become_lines():
    lines, last, relay = streamed(
        START, block(0, type="thinking", thinking=""), delta(0, type="thinking_delta", thinking="Hm."),
        block(1, type="text", text=""), {"type": "ping"}, delta(1, type="text_delta", text="Hi."),
        end("max_tokens", 4), STOP,
    )  # fmt: skip
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hi."},
    ]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("length", 9, 4)
    assert (relay.usage.input_tokens, relay.usage.output_tokens) == (9, 4)


def test_a_call_becomes_a_line_before_the_last():
    lines, last, relay = streamed(
        START, block(0, type="tool_use", id="t1", name="f", input={}),
        delta(0, type="input_json_delta", partial_json='{"a":'), delta(0, type="input_json_delta", partial_json="1}"),
        {"type": "content_block_stop", "index": 0}, end("tool_use", 7), STOP,
    )  # fmt: skip
    (line,) = lines
    assert line["message"]["tool_calls"] == [{"id": "t1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}]
    assert (last["done_reason"], relay.finish_reason) == ("stop", "tool_calls")


def test_an_error_is_the_last_line():
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    _, last, relay = streamed(START, error)
    assert (last, relay.error.sentence) == ({"error": "Overloaded"}, "Overloaded")
