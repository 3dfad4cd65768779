"""What only the price of a response depends on: its service tier, and tokens written to a cache for a long time."""

import json
from typing import Any

import pytest

from gateway.base.request_kinds import RESPONSES
from gateway.dialects.anthropic import messages_api
from gateway.dialects.openai_events import CHUNKS, DIALECTS, Dialect
from gateway.dialects.openai_responses import USUAL_BYTES, read_large_response, read_response
from gateway.dialects.sse_relay import BIG_EVENT_BYTES, StreamRelay
from gateway.dialects.usage import ReportedByMessages, Usage, read_usage
from gateway.loop.time_slices import run_unsliced

PLAIN = {"prompt_tokens": 26, "completion_tokens": 298}
WRITTEN = {
    "input_tokens": 500, "output_tokens": 7,
    "input_tokens_details": {
        "cached_tokens": 0, "cache_write_tokens": 300,
        "cache_write_tokens_details": {"ttl_30m_tokens": 100, "ttl_12h_tokens": 200},
    },
}  # fmt: skip
ANTHROPIC = {
    "input_tokens": 12, "cache_creation_input_tokens": 248, "cache_read_input_tokens": 0, "output_tokens": 3,
    "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
}  # fmt: skip
TIERS = [
    ("flex", "flex"), ("Priority", "priority"), ("default", None), ("standard", None), ("auto", None),
    ("on_demand", None), ("", None), (None, None), (7, None), ("x" * 300, "x" * 40),
]  # fmt: skip


def facts(usage: Usage | ReportedByMessages | None) -> tuple[int | None, str | None]:
    assert usage is not None
    return usage.long_write_tokens, usage.service_tier


def usage_of_stream(dialect: Dialect, *events: dict[str, Any]) -> Usage | ReportedByMessages | None:
    relay = StreamRelay(dialect, "m", hide_usage=False)
    for event in events:
        relay.feed(b"data: %b\n\n" % json.dumps(event).encode())
    return relay.usage


@pytest.mark.parametrize("padding", [0, USUAL_BYTES])
@pytest.mark.parametrize(("reported", "tier"), TIERS)
def test_the_service_tier_of_a_chat_completion(reported: object, tier: str | None, padding: int) -> None:
    body = {"model": "m", "choices": [{"finish_reason": "stop"}], "usage": PLAIN, "service_tier": reported}
    data = json.dumps({**body, "padding": "x" * padding}).encode()
    expected = Usage(26, 298, finish_reason="stop", service_tier=tier)
    assert read_response(data, "m")[1] == run_unsliced(read_large_response(data, "m"))[1] == expected


@pytest.mark.parametrize(("reported", "tier"), TIERS)
@pytest.mark.parametrize("padding", ["", "x" * BIG_EVENT_BYTES])
def test_the_service_tier_of_a_stream(reported: object, tier: str | None, padding: str) -> None:
    chunk = {"model": "m", "choices": [], "usage": PLAIN, "service_tier": reported, "padding": padding}
    assert facts(usage_of_stream(CHUNKS, chunk)) == (None, tier)


def test_the_service_tier_of_a_stream_without_usage() -> None:
    word = {"index": 0, "delta": {"content": "Hi"}}
    chunk = {"model": "m", "choices": [word], "service_tier": "flex"}
    assert facts(usage_of_stream(CHUNKS, chunk)) == (None, "flex")
    assert facts(usage_of_stream(CHUNKS, chunk, chunk, {"model": "m", "choices": [word]})) == (None, "flex")


def test_the_last_service_tier_of_a_stream_counts() -> None:
    events = [
        {"type": "response.created", "response": {"model": "m", "usage": None, "service_tier": "flex"}},
        {"type": "response.completed", "response": {"model": "m", "usage": WRITTEN, "service_tier": "default"}},
    ]
    assert facts(usage_of_stream(DIALECTS[RESPONSES], *events)) == (200, None)


def test_the_service_tier_of_a_response_without_usage() -> None:
    body = {"model": "m", "choices": [{"finish_reason": "stop"}], "service_tier": "flex"}
    assert facts(read_response(json.dumps(body).encode(), "m")[1]) == (None, "flex")


def test_the_service_tier_beside_the_usage_of_groq() -> None:
    chunk = {"choices": [], "x_groq": {"usage": PLAIN}, "service_tier": "flex"}
    assert facts(usage_of_stream(CHUNKS, chunk)) == (None, "flex")


def test_the_service_tier_inside_the_usage_of_mistral() -> None:
    body = {"model": "m", "choices": [{"finish_reason": "stop"}], "usage": PLAIN | {"service_tier": "priority"}}
    assert facts(read_response(json.dumps(body).encode(), "m")[1]) == (None, "priority")


def test_lifetimes_and_service_tier_of_responses() -> None:
    whole = {"model": "m", "status": "completed", "output": [], "usage": WRITTEN, "service_tier": "flex"}
    assert facts(read_response(json.dumps(whole).encode(), "m")[1]) == (200, "flex")
    event = {"type": "response.completed", "response": whole}
    assert facts(usage_of_stream(DIALECTS[RESPONSES], event)) == (200, "flex")


def message(**usage: Any) -> bytes:
    return json.dumps({"model": "m", "stop_reason": "end_turn", "usage": ANTHROPIC | usage}).encode()


@pytest.mark.parametrize(
    ("reported", "tier"),
    [
        ({"service_tier": "standard"}, None),
        ({"service_tier": "batch"}, "batch"),
        ({"service_tier": "standard", "speed": "standard"}, None),
        ({"service_tier": "priority", "speed": "fast"}, "fast"),
        ({"speed": 7}, None),
    ],
)
def test_lifetimes_and_service_tier_of_messages(reported: dict[str, Any], tier: str | None) -> None:
    assert facts(messages_api.read_message(message(**reported), "m")[1]) == (100, tier)
    start = {"type": "message_start", "message": json.loads(message(**reported))}
    first = messages_api.read_messages_event(json.dumps(start).encode()).usage
    assert isinstance(first, ReportedByMessages)
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
    last = messages_api.read_messages_event(json.dumps(end).encode()).usage
    assert isinstance(last, ReportedByMessages)
    whole = last.merged_with(first.merged_with(None))
    assert (whole.output_tokens, facts(whole)) == (9, (100, tier))


def test_no_more_tokens_have_a_long_lifetime_than_were_written() -> None:
    usage = messages_api.read_message(message(cache_creation={"ephemeral_1h_input_tokens": 900}), "m")[1]
    assert facts(usage) == (248, None)


def test_without_written_tokens_none_have_a_long_lifetime() -> None:
    assert facts(read_usage(PLAIN | {"prompt_tokens_details": {"cached_tokens": 1}})) == (None, None)


def test_an_earlier_report_fills_the_facts() -> None:
    early = Usage(500, None, None, 300, long_write_tokens=200, service_tier="flex")
    assert facts(Usage(None, 9).merged_with(early)) == (200, "flex")
