"""OpenAI's whole JSON responses: read the model name and the token counts, and put the requested name in."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from gateway.dialects.json_text import outline_of_response, rename_model, small_field, small_value
from gateway.loop.time_slices import Slices


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the endpoint reports them; None if it reports none."""

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None = None  # of the input tokens, read from a prefix cache

    def merged_with(self, earlier: "Usage | None") -> "Usage":
        """Fill missing counts from an earlier report of the same response."""
        if earlier is None:
            return self
        input_tokens = earlier.input_tokens if self.input_tokens is None else self.input_tokens
        output_tokens = earlier.output_tokens if self.output_tokens is None else self.output_tokens
        cached_tokens = earlier.cached_tokens if self.cached_tokens is None else self.cached_tokens
        return Usage(input_tokens, output_tokens, cached_tokens)


class _ResponseBody(msgspec.Struct):
    """Raw fields, decoded one by one, so that a malformed one does not hide the others."""

    model: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"")
    timings: msgspec.Raw = msgspec.Raw(b"")


_decode_response = msgspec.json.Decoder(_ResponseBody).decode


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _UsualDetails(msgspec.Struct):
    cached_tokens: _Count | None = None


class _UsualUsage(msgspec.Struct):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _UsualDetails | None = None


class _Timings(msgspec.Struct):
    """What llama.cpp reports beside the usage."""

    cache_n: _Count | None = None


class _UsualResponse(msgspec.Struct):
    """The shape of nearly every response. Any other shape is read by `read_any_response`."""

    model: str
    usage: _UsualUsage
    timings: _Timings | None = None


_decode_usual_response = msgspec.json.Decoder(_UsualResponse).decode


def read_usage(usage: Any) -> Usage | None:
    """Read a `usage` object of chat completions or Responses; None if it has no token counts."""
    if not isinstance(usage, dict):
        return None
    input_tokens = read_count(usage, "prompt_tokens", "input_tokens")
    output_tokens = read_count(usage, "completion_tokens", "output_tokens")
    if input_tokens is None and output_tokens is None:
        return None
    return Usage(input_tokens, output_tokens, _read_cached(usage))


def _read_cached(usage: dict[str, Any]) -> int | None:
    """Return the count of cached tokens, which chat completions and Responses name differently; None without one."""
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return read_count(details, "cached_tokens") if isinstance(details, dict) else None


def with_timings(usage: Usage | None, timings: Any) -> Usage | None:
    """Add the count of cached tokens that llama.cpp reports as `timings.cache_n`."""
    if usage is None or usage.cached_tokens is not None or not isinstance(timings, dict):
        return usage
    return Usage(usage.input_tokens, usage.output_tokens, read_count(timings, "cache_n"))


def read_count(usage: dict[str, Any], *names: str) -> int | None:
    """Return the first count that is present, as an integer; None if it is no number from 0 to 2⁵³."""
    number = next((usage[name] for name in names if usage.get(name) is not None), None)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return int(number) if 0 <= number < 1 << 53 else None


def read_response(body: bytes, requested_model: str) -> tuple[bytes, Usage | None]:
    """Return the body with the requested model name, and its token counts. Other bodies stay unchanged."""
    try:
        usual = _decode_usual_response(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_any_response(body, requested_model, read_usage)
    if usual.model != requested_model:
        body = rename_model(body, usual.model, requested_model)
    counts, timings = usual.usage, usual.timings
    details = counts.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    if cached is None and timings is not None:
        cached = timings.cache_n
    return body, Usage(counts.prompt_tokens, counts.completion_tokens, cached)


def read_any_response(
    body: bytes, requested_model: str, usage: Callable[[Any], Usage | None]
) -> tuple[bytes, Usage | None]:
    """Do the same for any object with a `model` and token counts that `usage` can read."""
    try:
        response = _decode_response(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    model = small_value(bytes(response.model))
    if isinstance(model, str) and model != requested_model:
        body = rename_model(body, model, requested_model)
    counts = usage(small_value(bytes(response.usage)))
    return body, with_timings(counts, small_value(bytes(response.timings))) if response.timings else counts


def read_large_response(
    body: bytes, requested_model: str, usage: Callable[[Any], Usage | None] = read_usage
) -> Slices[tuple[bytes, Usage | None]]:
    """Do the same for a large response, in time slices. One that is too complex stays unchanged."""
    top = yield from outline_of_response(body)
    if top is None:
        return body, None
    yield
    model, counts = small_field(body, top, b"model"), small_field(body, top, b"usage")
    timings = small_field(body, top, b"timings")
    if isinstance(model, str) and model != requested_model:
        body = rename_model(body, model, requested_model)
    return body, with_timings(usage(counts), timings)
