"""Token counts of a response and the reason for its end, read from every dialect and normalised in one place.

The normal form counts as OpenAI does: the input includes the tokens that were read from a prefix cache and those that
were written to one; the output includes the reasoning. What an endpoint does not report is None, never 0.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import msgspec
from msgspec import structs

STOP, LENGTH, TOOL_CALLS, CONTENT_FILTER, ERROR = "stop", "length", "tool_calls", "content_filter", "error"
FINISH_REASONS = (STOP, LENGTH, TOOL_CALLS, CONTENT_FILTER, ERROR)
CHAT_REASONS: dict[str | None, str] = {
    **{reason: reason for reason in FINISH_REASONS},
    "function_call": TOOL_CALLS,
    # Other servers of OpenAI's dialect: Together, Hugging Face, Ollama, Mistral, DeepSeek, vLLM, Zhipu
    "eos": STOP,
    "eos_token": STOP,
    "load": STOP,
    "unload": STOP,
    "model_length": LENGTH,
    "insufficient_system_resource": ERROR,
    "abort": ERROR,
    "network_error": ERROR,
    "sensitive": CONTENT_FILTER,
    # Anthropic's Messages
    "end_turn": STOP,
    "stop_sequence": STOP,
    "max_tokens": LENGTH,
    "model_context_window_exceeded": LENGTH,
    "pause_turn": LENGTH,
    "compaction": LENGTH,
    "tool_use": TOOL_CALLS,
    "refusal": CONTENT_FILTER,
    # Reasons of an incomplete object of Responses
    "max_output_tokens": LENGTH,
    # Gemini's own names, which some servers pass on in OpenAI's dialect
    "STOP": STOP,
    "MAX_TOKENS": LENGTH,
    "CONTINUATION": LENGTH,
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"), CONTENT_FILTER
    ),
    "MODEL_ARMOR": CONTENT_FILTER,
    "OTHER": CONTENT_FILTER,
    "MALFORMED_FUNCTION_CALL": ERROR,
    "UNEXPECTED_TOOL_CALL": ERROR,
    "TOO_MANY_TOOL_CALLS": ERROR,
    "MISSING_THOUGHT_SIGNATURE": ERROR,
    "MALFORMED_RESPONSE": ERROR,
}


# Service tiers without a surcharge or a discount, as servers name them
_DEFAULT_SERVICE_TIERS = frozenset(("", "default", "standard", "auto", "on_demand"))
_MAX_TIER = 40  # characters


def finish_reason(reason: object) -> str | None:
    """Return the reason for the end of a response in the terms of chat completions; None for an unknown one."""
    return CHAT_REASONS.get(reason) if isinstance(reason, str) else None


class Usage(msgspec.Struct, frozen=True):
    """What a response reports of itself, in the normal form; None: not reported."""

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None = None  # of the input tokens, read from a prefix cache
    cache_write_tokens: int | None = None  # of the input tokens, written to a prefix cache
    reasoning_tokens: int | None = None  # of the output tokens
    finish_reason: str | None = None  # one of FINISH_REASONS; of a whole response only: a relay has that of a stream
    is_damaged: bool = False  # the endpoint reported parts that exceed their whole
    long_write_tokens: int | None = None  # of the tokens written to a cache, for a long time
    service_tier: str | None = None  # that served the request, in lower case; None: the default one
    images: int | None = None  # that the response has
    audio_ms: int | None = None  # of the audio that was transcribed

    def merged_with(self, earlier: "Usage | None") -> "Usage":
        """Fill missing counts from an earlier report of the same response."""
        if earlier is None:
            return self
        merged = normal(
            earlier.input_tokens if self.input_tokens is None else self.input_tokens,
            earlier.output_tokens if self.output_tokens is None else self.output_tokens,
            earlier.cached_tokens if self.cached_tokens is None else self.cached_tokens,
            earlier.cache_write_tokens if self.cache_write_tokens is None else self.cache_write_tokens,
            earlier.reasoning_tokens if self.reasoning_tokens is None else self.reasoning_tokens,
        )
        long = earlier.long_write_tokens if self.long_write_tokens is None else self.long_write_tokens
        tier = self.service_tier or earlier.service_tier
        if long is not None or tier is not None:
            merged = merged.with_price_facts(long, tier)
        if self.images is not None or self.audio_ms is not None:  # an event of a stream has one image
            audio_ms = earlier.audio_ms if self.audio_ms is None else self.audio_ms
            merged = structs.replace(merged, images=_sum(self.images, earlier.images), audio_ms=audio_ms)
        elif earlier.images is not None or earlier.audio_ms is not None:
            merged = structs.replace(merged, images=earlier.images, audio_ms=earlier.audio_ms)
        return structs.replace(merged, is_damaged=True) if self.is_damaged or earlier.is_damaged else merged

    def with_price_facts(self, long_write_tokens: int | None, service_tier: object) -> "Usage":
        """Return the same counts with facts that only their price depends on."""
        tier = _surcharged_service_tier(service_tier)
        if long_write_tokens is None and tier is None:
            return self
        if long_write_tokens is not None:
            long_write_tokens = min(long_write_tokens, self.cache_write_tokens or 0)
        return structs.replace(self, long_write_tokens=long_write_tokens, service_tier=tier)

    def ended_by(self, reason: str) -> "Usage":
        """Return the same counts with a finish reason."""
        return structs.replace(self, finish_reason=reason)


NOT_REPORTED = Usage(None, None)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


def normal(
    input_tokens: int | None,
    output_tokens: int | None,
    cached: int | None,
    written: int | None,
    reasoning: int | None,
    total: int | None = None,
    reason: str | None = None,
) -> Usage:
    """Return counts in the normal form.

    `total` as the endpoint reports it: if it is the sum of input, output and reasoning, then the output lacks the
    reasoning, as xAI's does. Parts that exceed their whole are reduced to it.
    """
    if total and reasoning and total == (input_tokens or 0) + (output_tokens or 0) + reasoning:
        output_tokens = (output_tokens or 0) + reasoning
    damaged = False
    if input_tokens is None:
        cached = written = None
    elif (cached or 0) + (written or 0) > input_tokens:
        damaged = True
        cached = None if cached is None else min(cached, input_tokens)
        written = None if written is None else min(written, input_tokens - (cached or 0))
    if output_tokens is None:
        reasoning = None
    elif reasoning is not None and reasoning > output_tokens:
        damaged = True
        reasoning = output_tokens
    return Usage(input_tokens, output_tokens, cached, written, reasoning, reason, damaged)


# OpenAI's dialects: chat completions, completions, Responses, embeddings, audio, images

# Fields that stand beside the details: of DeepSeek, of Together and Moonshot, of LiteLLM's proxy, of Perplexity
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
_WRITTEN = ("cache_creation_input_tokens",)
_REASONING = ("reasoning_tokens",)
_OF_FEW_SERVERS = frozenset((*_CACHED, *_WRITTEN, *_REASONING))


def read_usage(usage: object) -> Usage | None:
    """Read a `usage` object of chat completions or Responses; None if it has no token counts."""
    if not isinstance(usage, dict):
        return None
    input_tokens = read_count(usage, "prompt_tokens", "input_tokens")
    output_tokens = read_count(usage, "completion_tokens", "output_tokens")
    if input_tokens is None and output_tokens is None:
        return None
    cached = written = reasoning = long = None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    if isinstance(details, dict):
        cached = read_count(details, "cached_tokens")
        written = read_count(details, "cache_write_tokens", "cache_creation_tokens")
        if written and isinstance(lifetimes := details.get("cache_write_tokens_details"), dict):
            long = read_count(lifetimes, "ttl_12h_tokens")
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    if isinstance(details, dict):
        reasoning = read_count(details, "reasoning_tokens")
    if not _OF_FEW_SERVERS.isdisjoint(usage):
        cached = read_count(usage, *_CACHED) if cached is None else cached
        written = read_count(usage, *_WRITTEN) if written is None else written
        reasoning = read_count(usage, *_REASONING) if reasoning is None else reasoning
    if cached or written or reasoning:
        total = read_count(usage, "total_tokens")
        counts = normal(input_tokens, output_tokens, cached, written, reasoning, total)
    else:
        counts = Usage(input_tokens, output_tokens, cached, written, reasoning)
    tier = usage.get("service_tier")  # where Mistral reports it
    return counts if long is None and tier is None else counts.with_price_facts(long, tier)


def with_service_tier(usage: Usage | None, tier: object) -> Usage | None:
    """Add the service tier that a response reports beside its usage, or without any. A later report replaces it."""
    if not isinstance(tier, str):
        return usage
    counts, own = usage or NOT_REPORTED, _surcharged_service_tier(tier)
    return usage if own == counts.service_tier else structs.replace(counts, service_tier=own)


def _surcharged_service_tier(tier: object) -> str | None:
    """Return a service tier in lower case; None for the default one, and for what is no text."""
    name = tier.strip().lower()[:_MAX_TIER] if isinstance(tier, str) else ""
    return None if name in _DEFAULT_SERVICE_TIERS else name


def with_timings(usage: Usage | None, timings: object) -> Usage | None:
    """Add the count of cached tokens that llama.cpp reports as `timings.cache_n`."""
    if usage is None or usage.cached_tokens is not None or not isinstance(timings, dict):
        return usage
    cached = read_count(timings, "cache_n")
    return usage if cached is None else Usage(None, None, cached).merged_with(usage)


def read_count(usage: Mapping[str, Any], *names: str) -> int | None:
    """Return the first count that is present, as an integer; None if it is no number from 0 to 2⁵³."""
    for name in names:
        number = usage.get(name)
        if number is None:
            continue
        if type(number) is int or isinstance(number, float):
            return int(number) if 0 <= number < 1 << 53 else None
        return None
    return None


class PromptDetails(TypedDict, total=False):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    reasoning_tokens: int


class ChatUsage(TypedDict, total=False):
    """A `usage` object of chat completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: OutputDetails


def chat_usage(usage: Usage) -> ChatUsage:
    """Return the `usage` object of a chat completion: 0 for input or output without a count, as its format requires."""
    made, out = usage.input_tokens or 0, usage.output_tokens or 0
    chat: ChatUsage = {"prompt_tokens": made, "completion_tokens": out, "total_tokens": made + out}
    details: PromptDetails = {}
    if usage.cached_tokens is not None:
        details["cached_tokens"] = usage.cached_tokens
    if usage.cache_write_tokens is not None:
        details["cache_write_tokens"] = usage.cache_write_tokens
    if details:
        chat["prompt_tokens_details"] = details
    if usage.reasoning_tokens is not None:
        chat["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return chat


# Anthropic's Messages


class ReportedByMessages(msgspec.Struct, frozen=True):
    """The counts of one `usage` object of Anthropic's Messages, whose input excludes the tokens of caches.

    An event of a stream may leave out any of them, so they are merged before they are normalised.
    """

    uncached_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    thinking_tokens: int | None = None
    long_write_tokens: int | None = None
    service_tier: str | None = None

    def merged_with(self, earlier: Usage | None) -> Usage:
        """Return the normal form, with missing counts from an earlier report of the same response."""
        before = NOT_REPORTED if earlier is None else earlier
        cached = before.cached_tokens if self.cached_tokens is None else self.cached_tokens
        written = before.cache_write_tokens if self.cache_write_tokens is None else self.cache_write_tokens
        uncached = self.uncached_tokens
        if uncached is None and before.input_tokens is not None:
            uncached = before.input_tokens - (before.cached_tokens or 0) - (before.cache_write_tokens or 0)
        has_input = not (uncached is None and cached is None and written is None)
        merged = normal(
            (uncached or 0) + (cached or 0) + (written or 0) if has_input else None,
            before.output_tokens if self.output_tokens is None else self.output_tokens,
            cached,
            written,
            before.reasoning_tokens if self.thinking_tokens is None else self.thinking_tokens,
        )
        long = before.long_write_tokens if self.long_write_tokens is None else self.long_write_tokens
        tier = self.service_tier or before.service_tier
        return merged if long is None and tier is None else merged.with_price_facts(long, tier)


def read_messages_usage(usage: object) -> ReportedByMessages | None:
    """Read a `usage` object of Messages; None if it has no token counts.

    No prompt is empty: counts of 0 input tokens, which some servers write before they count, are ignored.
    """
    if not isinstance(usage, dict):
        return None
    uncached = read_count(usage, "input_tokens")
    written = read_count(usage, "cache_creation_input_tokens")
    cached = read_count(usage, "cache_read_input_tokens")
    if not (uncached or written or cached):
        uncached = written = cached = None
    output_tokens = read_count(usage, "output_tokens")
    if uncached is None and written is None and cached is None and output_tokens is None:
        return None
    details = usage.get("output_tokens_details")
    thinking = read_count(details, "thinking_tokens") if isinstance(details, dict) else None
    creation, tier = usage.get("cache_creation"), messages_service_tier(usage.get("service_tier"), usage.get("speed"))
    long = read_count(creation, "ephemeral_1h_input_tokens") if written and isinstance(creation, dict) else None
    return ReportedByMessages(uncached, output_tokens, cached, written, thinking, long, tier)


def messages_service_tier(tier: object, speed: object) -> str | None:
    """Return the service tier of a message: its speed if that is not the usual one, as it has prices of its own."""
    if isinstance(speed, str) and speed not in _DEFAULT_SERVICE_TIERS:
        return speed
    return tier if isinstance(tier, str) and tier not in _DEFAULT_SERVICE_TIERS else None


class ThinkingDetails(TypedDict):
    thinking_tokens: int


class MessageUsage(TypedDict):
    """A `usage` object of Messages."""

    input_tokens: int
    cache_creation_input_tokens: int | None
    cache_read_input_tokens: int | None
    output_tokens: int
    output_tokens_details: NotRequired[ThinkingDetails]


def message_usage(usage: Usage) -> MessageUsage:
    """Return the `usage` object of a message: 0 for input or output without a count, as its format requires."""
    written, cached = usage.cache_write_tokens, usage.cached_tokens
    message: MessageUsage = {
        "input_tokens": (usage.input_tokens or 0) - (written or 0) - (cached or 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output_tokens or 0,
    }
    if usage.reasoning_tokens is not None:
        message["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return message


def usage_of_message(usage: object) -> Usage | None:
    """Read the `usage` object of a whole message in the normal form; None if it has no token counts."""
    reported = read_messages_usage(usage)
    return None if reported is None else reported.merged_with(None)
