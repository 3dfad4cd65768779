"""Token counts and finish reasons of every dialect, in bodies as their providers and servers document them.

Sources: OpenAI's and Anthropic's API references and the test data of their SDKs, the providers' documentation of
usage and prompt caching, and the source of vLLM, llama.cpp and Ollama. Read in November 2026.
"""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.request_kinds import CHAT, COMPLETIONS, MESSAGES, RESPONSES, TRANSCRIPTIONS
from gateway.dialects.anthropic import messages_api
from gateway.dialects.anthropic.responses import from_chat
from gateway.dialects.anthropic.stream import MessageEvents
from gateway.dialects.chat.completions import NoChatCompletion
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.openai_events import dialect, read_chunk, read_large_chunk
from gateway.dialects.openai_responses import (
    MAX_OBJECTS,
    USUAL_BYTES,
    read_large_response,
    read_response,
)
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import (
    FINISH_REASONS,
    NOT_REPORTED,
    ReportedByMessages,
    Usage,
    chat_usage,
    finish_reason,
    message_usage,
    normal,
    read_usage,
)
from gateway.loop.time_slices import run_unsliced


def chat(usage, reason="stop", **fields):
    message = {"role": "assistant", "content": "Hello! How can I assist you today?"}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [choice],
        "usage": usage,
        **fields,
    }


def response(usage, *items, status="completed", details=None):
    return {
        "id": "resp_1", "object": "response", "status": status, "incomplete_details": details, "model": "m",
        "output": [{"type": item_type, "id": f"{item_type}_1"} for item_type in items], "usage": usage,
    }  # fmt: skip


def message(usage, reason):
    content = [{"type": "text", "text": "Hi! My name is Claude."}]
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
            "stop_reason": reason, "stop_sequence": None, "usage": usage}  # fmt: skip


OPENAI_CHAT = {
    "prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "cache_write_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 128, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
    },
}  # fmt: skip
OPENAI_RESPONSES = {
    "input_tokens": 328, "input_tokens_details": {"cached_tokens": 256, "cache_write_tokens": 0},
    "output_tokens": 52, "output_tokens_details": {"reasoning_tokens": 20}, "total_tokens": 380,
}  # fmt: skip
ANTHROPIC = {
    "input_tokens": 12, "cache_creation_input_tokens": 248, "cache_read_input_tokens": 2048,
    "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
    "output_tokens": 503, "output_tokens_details": {"thinking_tokens": 31},
    "server_tool_use": None, "service_tier": "standard",
}  # fmt: skip
XAI = {
    "prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
    "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
    "completion_tokens_details": {
        "reasoning_tokens": 94, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
    },
    "num_sources_used": 0,
}  # fmt: skip
GROQ = {
    "queue_time": 0.037493756, "prompt_tokens": 18, "prompt_time": 0.000680594, "completion_tokens": 556,
    "completion_time": 0.463333333, "total_tokens": 574, "total_time": 0.464013927,
    "completion_tokens_details": {"reasoning_tokens": 101},
}  # fmt: skip
DEEPSEEK = {
    "prompt_tokens": 17, "completion_tokens": 80, "total_tokens": 97,
    "prompt_cache_hit_tokens": 10, "prompt_cache_miss_tokens": 7,
    "completion_tokens_details": {"reasoning_tokens": 64},
}  # fmt: skip
OPENROUTER = {
    "prompt_tokens": 194, "completion_tokens": 2, "total_tokens": 196, "cost": 0.00095, "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 50, "audio_tokens": 0, "video_tokens": 0},
    "cost_details": {"upstream_inference_cost": None}, "completion_tokens_details": {"reasoning_tokens": 0},
}  # fmt: skip
GEMINI = {
    "prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 86,
    "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 65},
}  # fmt: skip
MISTRAL = {
    "prompt_tokens": 13, "completion_tokens": 7, "total_tokens": 20, "prompt_audio_seconds": None,
    "prompt_tokens_details": {"cached_tokens": 8},
}  # fmt: skip
TOGETHER = {"prompt_tokens": 26, "completion_tokens": 15, "total_tokens": 41, "cached_tokens": 16}
LITELLM = {
    "prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35, "prompt_tokens_details": {"cached_tokens": 10},
    "cache_creation_input_tokens": 12, "cache_read_input_tokens": 10,
}  # fmt: skip
PERPLEXITY = {"prompt_tokens": 33, "completion_tokens": 700, "total_tokens": 733, "reasoning_tokens": 193}
PLAIN = {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}  # Ollama, older servers
VLLM = {"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}
TIMINGS = {"cache_n": 236, "prompt_n": 1, "prompt_ms": 30.9, "predicted_n": 35, "predicted_ms": 661.0}
LLAMA_CPP = {"completion_tokens": 35, "prompt_tokens": 237, "total_tokens": 272}

WHOLE = {
    "OpenAI": (CHAT, chat(OPENAI_CHAT), Usage(2006, 300, 1920, 64, 128, "stop")),
    "OpenAI, tools": (CHAT, chat(PLAIN, "tool_calls"), Usage(26, 298, finish_reason="tool_calls")),
    "OpenAI, filter": (CHAT, chat(PLAIN, "content_filter"), Usage(26, 298, finish_reason="content_filter")),
    "OpenAI, functions": (CHAT, chat(PLAIN, "function_call"), Usage(26, 298, finish_reason="tool_calls")),
    "completions": (
        COMPLETIONS,
        {"model": "m", "choices": [{"text": "a", "index": 0, "finish_reason": "length"}], "usage": PLAIN},
        Usage(26, 298, finish_reason="length"),
    ),
    "Responses": (RESPONSES, response(OPENAI_RESPONSES, "reasoning", "message"), Usage(328, 52, 256, 0, 20, "stop")),
    "Responses, call": (
        RESPONSES, response(OPENAI_RESPONSES, "reasoning", "function_call"), Usage(328, 52, 256, 0, 20, "tool_calls"),
    ),
    "Responses, custom": (
        RESPONSES, response(OPENAI_RESPONSES, "custom_tool_call"), Usage(328, 52, 256, 0, 20, "tool_calls"),
    ),
    "Responses, the server's own tool": (
        RESPONSES, response(OPENAI_RESPONSES, "web_search_call", "message"), Usage(328, 52, 256, 0, 20, "stop"),
    ),
    "Responses, cut": (
        RESPONSES,
        response(OPENAI_RESPONSES, "message", status="incomplete", details={"reason": "max_output_tokens"}),
        Usage(328, 52, 256, 0, 20, "length"),
    ),
    "Responses, filter": (
        RESPONSES,
        response(OPENAI_RESPONSES, "message", status="incomplete", details={"reason": "content_filter"}),
        Usage(328, 52, 256, 0, 20, "content_filter"),
    ),
    "Responses, in the background": (RESPONSES, response(None, status="queued"), None),
    "Responses, failed": (RESPONSES, response(None, status="failed"), Usage(None, None, finish_reason="error")),
    "Responses, cancelled": (RESPONSES, response(None, status="cancelled"), None),
    "Anthropic": (
        MESSAGES, message(ANTHROPIC, "end_turn"), Usage(2308, 503, 2048, 248, 31, "stop", long_write_tokens=100),
    ),
    "Anthropic, tool": (
        MESSAGES, message({"input_tokens": 3, "output_tokens": 4}, "tool_use"), Usage(3, 4, finish_reason="tool_calls"),
    ),
    "Anthropic, refusal": (
        MESSAGES, message({"input_tokens": 3, "output_tokens": 0}, "refusal"),
        Usage(3, 0, finish_reason="content_filter"),
    ),
    "xAI": (CHAT, chat(XAI), Usage(32, 103, 6, None, 94, "stop")),
    "Groq": (CHAT, chat(GROQ, x_groq={"id": "req_1"}), Usage(18, 556, None, None, 101, "stop")),
    "DeepSeek": (CHAT, chat(DEEPSEEK), Usage(17, 80, 10, None, 64, "stop")),
    "DeepSeek, overloaded": (
        CHAT, chat(DEEPSEEK, "insufficient_system_resource"), Usage(17, 80, 10, None, 64, "error"),
    ),
    "OpenRouter": (CHAT, chat(OPENROUTER), Usage(194, 2, 100, 50, 0, "stop")),
    "Gemini": (CHAT, chat(GEMINI), Usage(9, 77, 4, None, 65, "stop")),
    "Mistral": (CHAT, chat(MISTRAL, "model_length"), Usage(13, 7, 8, finish_reason="length")),
    "Together": (CHAT, chat(TOGETHER, "eos"), Usage(26, 15, 16, finish_reason="stop")),
    "LiteLLM": (CHAT, chat(LITELLM), Usage(30, 5, 10, 12, finish_reason="stop")),
    "Perplexity": (CHAT, chat(PERPLEXITY), Usage(33, 700, None, None, 193, "stop")),
    "vLLM": (CHAT, chat(VLLM, "abort"), Usage(7, 2, finish_reason="error")),
    "Ollama": (CHAT, chat(PLAIN), Usage(26, 298, finish_reason="stop")),
    "llama.cpp": (CHAT, chat(LLAMA_CPP, timings=TIMINGS), Usage(237, 35, 236, finish_reason="stop")),
    "without usage": (CHAT, chat(None), Usage(None, None, finish_reason="stop")),
    "of another kind": (CHAT, {"model": "m", "data": []}, None),
}  # fmt: skip


READERS = {CHAT: read_response, RESPONSES: read_response, MESSAGES: messages_api.read_message}


@pytest.mark.parametrize(("kind", "body", "usage"), WHOLE.values(), ids=WHOLE)
def test_a_whole_response(kind, body, usage):
    data = json.dumps(body).encode()
    whole = READERS.get(kind, read_response)(data, "m")
    sliced = messages_api.reading_message(data, "m") if kind == MESSAGES else read_large_response(data, "m")
    assert whole == run_unsliced(sliced) == (data, usage)


@pytest.mark.parametrize("kind", READERS)
def test_the_requested_name_replaces_the_endpoints_in_every_kind(kind):
    body = next(json.dumps(whole[1]).encode() for whole in WHOLE.values() if whole[0] == kind)
    assert READERS[kind](body, "asked")[0] == body.replace(b'"model": "m"', b'"model": "asked"')


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("size", [0, USUAL_BYTES])
def test_an_unusual_response_is_read_field_by_field(kind, size):
    body, usage = next(whole[1:] for whole in WHOLE.values() if whole[0] == kind)
    odd = {**body, "model": 7, "padding": "x" * size}
    assert READERS[kind](json.dumps(odd).encode(), "m")[1] == usage


# Streams


def chunk(reason=None, text="", **fields):
    delta = {"content": text} if text else {}
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **fields}


def usage_chunk(usage, **fields):
    return {"model": "m", "choices": [], "usage": usage, **fields}


A, B = chunk(text="Hel"), chunk(text="lo")
STARTED = {"type": "response.created", "response": response(None, status="in_progress")}
PIECE = {"type": "response.output_text.delta", "delta": "Hello"}
CALLED = {"type": "response.output_item.done", "item": {"type": "function_call", "id": "fc_1"}}


def completed(*items, kind="completed", details=None):
    return {"type": f"response.{kind}", "response": response(OPENAI_RESPONSES, *items, status=kind, details=details)}


def start(usage):
    return {"type": "message_start", "message": message(usage, None)}


def delta(usage, reason="end_turn"):
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}
MESSAGE_STOP = {"type": "message_stop"}
START = {
    "input_tokens": 12, "cache_creation_input_tokens": 248, "cache_read_input_tokens": 2048, "output_tokens": 1,
}  # fmt: skip
NULLS = {"input_tokens": None, "cache_creation_input_tokens": None, "cache_read_input_tokens": None}
THOUGHT = {"output_tokens": 503, "output_tokens_details": {"thinking_tokens": 31}}

STREAMS = {
    "OpenAI": (
        CHAT, [A | {"usage": None}, B | {"usage": None}, chunk("stop", usage=None), usage_chunk(OPENAI_CHAT)],
        Usage(2006, 300, 1920, 64, 128), "stop",
    ),
    "OpenAI, tools": (CHAT, [chunk(), chunk("tool_calls"), usage_chunk(PLAIN)], Usage(26, 298), "tool_calls"),
    "OpenAI, two choices": (
        CHAT,
        [
            {"choices": [{"index": 1, "delta": {"content": "a"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
            {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]},
            usage_chunk(PLAIN),
        ],
        Usage(26, 298), "length",
    ),
    "completions": (
        COMPLETIONS,
        [{"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]}, usage_chunk(PLAIN)],
        Usage(26, 298), "length",
    ),
    "Responses": (
        RESPONSES, [STARTED, PIECE, PIECE, completed("message")], Usage(328, 52, 256, 0, 20), "stop",
    ),
    "Responses, call": (
        RESPONSES, [STARTED, CALLED, completed("reasoning", "function_call")],
        Usage(328, 52, 256, 0, 20), "tool_calls",
    ),
    "Responses, call, and a last event without output": (
        RESPONSES, [STARTED, CALLED, completed()], Usage(328, 52, 256, 0, 20), "tool_calls",
    ),
    "Responses, cut": (
        RESPONSES, [STARTED, PIECE, completed("message", kind="incomplete", details={"reason": "max_output_tokens"})],
        Usage(328, 52, 256, 0, 20), "length",
    ),
    "Responses, failed": (RESPONSES, [STARTED, completed(kind="failed")], Usage(328, 52, 256, 0, 20), "error"),
    "Anthropic": (
        MESSAGES, [start(START), TEXT, delta(THOUGHT), MESSAGE_STOP], Usage(2308, 503, 2048, 248, 31), "stop",
    ),
    "Anthropic, all counts again": (
        MESSAGES, [start(START), TEXT, delta(START | THOUGHT, "max_tokens"), MESSAGE_STOP],
        Usage(2308, 503, 2048, 248, 31), "length",
    ),
    "Anthropic, nulls": (
        MESSAGES, [start(START), TEXT, delta(NULLS | THOUGHT, "tool_use"), MESSAGE_STOP],
        Usage(2308, 503, 2048, 248, 31), "tool_calls",
    ),
    "Anthropic, only the uncached input again": (
        MESSAGES, [start(START), TEXT, delta({"input_tokens": 20, "output_tokens": 9}), MESSAGE_STOP],
        Usage(2316, 9, 2048, 248), "stop",
    ),
    "Anthropic, only a cache again": (
        MESSAGES, [start(START), TEXT, delta({"cache_read_input_tokens": 2000, "output_tokens": 9}), MESSAGE_STOP],
        Usage(2260, 9, 2000, 248), "stop",
    ),
    "Anthropic, cumulative": (
        MESSAGES, [start(START), TEXT, delta({"output_tokens": 5}, None), delta({"output_tokens": 9}), MESSAGE_STOP],
        Usage(2308, 9, 2048, 248), "stop",
    ),
    "Messages of a server that counts at the end": (
        MESSAGES,
        [
            start({"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}), TEXT,
            delta({"input_tokens": 36, "cache_read_input_tokens": 0, "output_tokens": 7}), MESSAGE_STOP,
        ],
        Usage(36, 7, 0), "stop",
    ),
    "xAI": (CHAT, [A, chunk("stop"), usage_chunk(XAI)], Usage(32, 103, 6, None, 94), "stop"),
    "Groq, without a request for usage": (
        CHAT, [A | {"x_groq": {"id": "req_1"}}, B, chunk("stop", x_groq={"id": "req_1", "usage": GROQ})],
        Usage(18, 556, None, None, 101), "stop",
    ),
    "Groq, both": (
        CHAT, [A, chunk("stop", x_groq={"id": "req_1", "usage": GROQ}), usage_chunk(GROQ)],
        Usage(18, 556, None, None, 101), "stop",
    ),
    "DeepSeek": (CHAT, [A, chunk("stop", usage=DEEPSEEK)], Usage(17, 80, 10, None, 64), "stop"),
    "OpenRouter": (CHAT, [A, chunk("stop"), usage_chunk(OPENROUTER)], Usage(194, 2, 100, 50, 0), "stop"),
    "Gemini, usage in every chunk": (
        CHAT,
        [
            A | {"usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}},
            B | {"usage": GEMINI | {"completion_tokens": 2, "total_tokens": 76}},
            chunk("stop", usage=GEMINI),
        ],
        Usage(9, 77, 4, None, 65), "stop",
    ),
    "Mistral": (CHAT, [A, chunk("model_length", usage=MISTRAL)], Usage(13, 7, 8), "length"),
    "Together": (CHAT, [A, chunk("eos", usage=TOGETHER)], Usage(26, 15, 16), "stop"),
    "vLLM": (CHAT, [A, chunk("stop"), usage_chunk(VLLM)], Usage(7, 2), "stop"),
    "llama.cpp": (CHAT, [A, chunk("stop"), usage_chunk(LLAMA_CPP, timings=TIMINGS)], Usage(237, 35, 236), "stop"),
    "transcription": (
        TRANSCRIPTIONS,
        [
            {"type": "transcript.text.delta", "delta": "Hi"},
            {"type": "transcript.text.done", "text": "Hi", "usage": {
                "type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                "output_tokens": 45, "total_tokens": 59}},
        ],
        Usage(14, 45), None,
    ),
    "without usage": (CHAT, [A, B, chunk("stop")], None, "stop"),
    "aborted": (CHAT, [A, B], None, None),
    "aborted, usage so far": (
        CHAT, [A | {"usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}}], Usage(9, 1), None,
    ),
    "aborted before the usage": (CHAT, [A, chunk("length")], None, "length"),
    "Anthropic, aborted": (MESSAGES, [start(START), TEXT], Usage(2308, None, 2048, 248), None),
    "Responses, aborted": (RESPONSES, [STARTED, PIECE], None, None),
}  # fmt: skip


def encoded(events, kind):
    data = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    return data + b"data: [DONE]\n\n" if kind in (CHAT, COMPLETIONS) else data


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(("kind", "events", "usage", "reason"), STREAMS.values(), ids=STREAMS)
def test_a_stream(kind, events, usage, reason, pieces):
    stream_dialect = messages_api.DIALECT if kind == MESSAGES else dialect(kind)
    relay, data = StreamRelay(stream_dialect, "m", hide_usage=False), encoded(events, kind)
    step = -(-len(data) // pieces)
    sent = b"".join(relay.feed(data[position : position + step]) for position in range(0, len(data), step))
    relay.end()
    assert sent + relay.held == data
    assert (relay.usage, relay.finish_reason) == (usage, reason)


@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if stream[0] in (CHAT, COMPLETIONS)])
def test_a_large_chunk_reports_the_same(name):
    for event in STREAMS[name][1]:
        data = json.dumps(event).encode()
        assert read_large_chunk(data) == read_chunk(data)


@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if stream[0] == CHAT])
def test_a_translated_stream_reports_the_same(name):
    _, events, usage, reason = STREAMS[name]
    relay = TranslatingRelay("m", MessageEvents("m"))
    relay.feed(encoded(events, CHAT))
    relay.end()
    assert (relay.usage, relay.finish_reason) == (usage, reason)
    if usage is not None and relay.finished:
        shown = json.loads(relay.held.split(b"data: ")[1].split(b"\n")[0])["usage"]
        assert shown == message_usage(usage)


@pytest.mark.parametrize("name", [name for name, whole in WHOLE.items() if whole[0] == CHAT and "choices" in whole[1]])
def test_a_translated_response_reports_the_same(name):
    _, body, usage = WHOLE[name]
    if usage is not None and usage.finish_reason == "error":
        with pytest.raises(NoChatCompletion, match=r"an error in its response \(finish_reason, "):
            from_chat(json.dumps(body).encode(), "m")
        return
    translated, reported = from_chat(json.dumps(body).encode(), "m")
    assert reported == usage
    assert json.loads(translated)["usage"] == message_usage(usage or NOT_REPORTED)


def test_groq_reports_a_fault_in_mid_stream_beside_its_usage():
    event = read_chunk(json.dumps(A | {"x_groq": {"id": "req_1", "error": "over_capacity"}}).encode())
    assert event.error is not None
    assert event.error.sentence == "over_capacity"


# Both directions of the translation


@pytest.mark.parametrize(
    "usage",
    [
        Usage(2308, 503, 2048, 248, 31),
        Usage(2308, 503, 2048),
        Usage(2308, 503, None, 248),
        Usage(2308, 503, 0, 0, 0),
        Usage(2308, 503),
    ],
)
def test_translated_counts_are_read_as_they_were(usage):
    assert read_usage(chat_usage(usage)) == usage
    body = json.dumps({"usage": message_usage(usage)}).encode()
    assert messages_api.read_message(body, "m")[1] == usage


def test_a_count_that_is_not_reported_is_not_zero():
    assert chat_usage(Usage(3, 4)) == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert message_usage(Usage(3, 4)) == {
        "input_tokens": 3,
        "cache_creation_input_tokens": None,
        "cache_read_input_tokens": None,
        "output_tokens": 4,
    }


# Contradictions


@pytest.mark.parametrize(
    ("total", "output"),
    [
        (146, 130),  # xAI: input 16, output 30, reasoning 100
        (46, 30),  # reasoning within the output: reduced to it
        (99, 30),
        (None, 30),
    ],
)
def test_the_total_decides_whether_the_output_has_the_reasoning(total, output):
    usage = {"prompt_tokens": 16, "completion_tokens": 30, "total_tokens": total}
    reported = read_usage(usage | {"completion_tokens_details": {"reasoning_tokens": 100}})
    assert reported == Usage(16, output, None, None, min(output, 100), None, output < 100)


@pytest.mark.parametrize(
    ("cached", "written", "expected"),
    [
        (100, None, Usage(16, 5, 16, is_damaged=True)),
        (None, 100, Usage(16, 5, None, 16, is_damaged=True)),
        (10, 10, Usage(16, 5, 10, 6, is_damaged=True)),
        (17, 0, Usage(16, 5, 16, 0, is_damaged=True)),
        (10, 6, Usage(16, 5, 10, 6)),
        (16, 0, Usage(16, 5, 16, 0)),
    ],
)
def test_cached_and_written_tokens_are_within_the_input(cached, written, expected):
    usage: dict[str, Any] = {"prompt_tokens": 16, "completion_tokens": 5, "total_tokens": 21}
    usage["prompt_tokens_details"] = {"cached_tokens": cached, "cache_write_tokens": written}
    body = json.dumps({"model": "m", "choices": [], "usage": usage}).encode()
    assert read_usage(usage) == read_response(body, "m")[1] == read_chunk(body).usage == expected


def test_parts_without_their_whole_are_not_reported():
    assert normal(None, 5, 3, 2, 1) == Usage(None, 5, None, None, 1)
    assert normal(5, None, 3, 2, 1) == Usage(5, None, 3, 2)


def test_a_fault_stays_known_when_usage_is_merged():
    damaged = normal(5, None, 9, None, None)
    assert Usage(None, 7).merged_with(damaged) == Usage(5, 7, 5, is_damaged=True)
    assert Usage(3, 1).merged_with(Usage(9, None, 8)) == Usage(3, 1, 3, is_damaged=True)
    assert ReportedByMessages(None, 9).merged_with(Usage(5, 2, 3)) == Usage(5, 9, 3)


counts = st.none() | st.integers(0, 40)


@given(counts, counts, counts, counts, counts, counts)
def test_parts_are_never_more_than_their_whole(made, out, cached, written, reasoning, total):
    usage = normal(made, out, cached, written, reasoning, total)
    assert usage.input_tokens == made
    assert (usage.cached_tokens or 0) + (usage.cache_write_tokens or 0) <= (made or 0)
    assert (usage.reasoning_tokens or 0) <= (usage.output_tokens or 0)
    assert (usage.output_tokens or 0) in ((out or 0), (out or 0) + (reasoning or 0))
    assert normal(made, usage.output_tokens, *parts_of(usage)) == msgspec.structs.replace(usage, is_damaged=False)


def parts_of(usage):
    return usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens


@given(counts, counts, counts, counts, counts, counts)
def test_whole_response_and_stream_report_the_same(made, out, cached, written, reasoning, total):
    usage = {
        "prompt_tokens": made, "completion_tokens": out, "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }  # fmt: skip
    body = json.dumps({"model": "m", "status": "queued", "choices": [], "usage": usage}).encode()
    renamed = body.replace(b"prompt_", b"input_").replace(b"completion_", b"output_")
    whole = read_response(body, "m")[1]
    assert whole == read_chunk(body).usage == read_usage(usage)
    assert read_response(renamed.replace(b'"choices"', b'"output"'), "m")[1] == whole


# Finish reasons


@pytest.mark.parametrize("reason", ["", "anything", "STOPPED", None, 7, ["stop"], {"stop": 1}, True])
def test_an_unknown_reason_is_none(reason):
    assert finish_reason(reason) is None
    body = json.dumps(chat(PLAIN, reason)).encode()
    assert read_response(body, "m")[1] == Usage(26, 298)
    assert read_chunk(json.dumps(chunk(reason)).encode()).finish_reason is None


def test_the_reasons_of_chat_completions_are_their_own():
    assert [finish_reason(reason) for reason in FINISH_REASONS] == list(FINISH_REASONS)


@pytest.mark.parametrize("choices", ["7", '"a"', "{}", "[7]", "[[]]", "[null]", '[{"finish_reason":7}]', "null"])
def test_odd_choices_hide_no_usage(choices):
    body = b'{"model":"m","choices":%b,"usage":{"prompt_tokens":1,"completion_tokens":2}}' % choices.encode()
    assert read_response(body, "m") == (body, Usage(1, 2))


@pytest.mark.parametrize(
    "fields",
    [
        '"status":7', '"status":"completed","output":7', '"status":"completed","output":[{"type":7}]',
        '"status":"incomplete","incomplete_details":"cut"', '"status":"incomplete"', '"stop_reason":[1]',
    ],
)  # fmt: skip
def test_odd_fields_hide_no_usage(fields):
    body = b'{%b,"usage":{"input_tokens":1,"output_tokens":2}}' % fields.encode()
    usage = read_response(body, "m")[1]
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.finish_reason) in ((1, 2, None), (1, 2, "stop"))


def test_a_response_with_too_many_choices_has_no_finish_reason():
    body = json.dumps(chat(PLAIN)).encode()
    many = body.replace(b'"choices": [', b'"choices": [' + b'{"finish_reason":"length"},' * (MAX_OBJECTS + 1))
    assert len(many) > USUAL_BYTES
    assert read_response(many, "m")[1] == run_unsliced(read_large_response(many, "m"))[1] == Usage(26, 298)


def test_a_long_response_has_its_finish_reason():
    body = chat(PLAIN)
    body["choices"][0]["message"]["content"] = "{}" * USUAL_BYTES
    assert read_response(json.dumps(body).encode(), "m")[1] is not None
    body["choices"][0]["message"]["content"] = "x" * USUAL_BYTES
    assert read_response(json.dumps(body).encode(), "m")[1] == Usage(26, 298, finish_reason="stop")
