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

    def merged_with(self, earlier: "Usage | None") -> "Usage":
        """Fill missing counts from an earlier report of the same response."""
        if earlier is None:
            return self
        input_tokens = earlier.input_tokens if self.input_tokens is None else self.input_tokens
        return Usage(input_tokens, earlier.output_tokens if self.output_tokens is None else self.output_tokens)


class _ResponseBody(msgspec.Struct):
    """Raw fields, decoded one by one, so that a malformed one does not hide the others."""

    model: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"")


_decode_response = msgspec.json.Decoder(_ResponseBody).decode


class _UsualUsage(msgspec.Struct):
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    completion_tokens: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _UsualResponse(msgspec.Struct):
    """The shape of nearly every response. Any other shape is read by `read_any_response`."""

    model: str
    usage: _UsualUsage


_decode_usual_response = msgspec.json.Decoder(_UsualResponse).decode


def read_usage(usage: Any) -> Usage | None:
    """Read a `usage` object of chat completions or Responses; None if it has no token counts."""
    if not isinstance(usage, dict):
        return None
    input_tokens = read_count(usage, "prompt_tokens", "input_tokens")
    output_tokens = read_count(usage, "completion_tokens", "output_tokens")
    return None if input_tokens is None and output_tokens is None else Usage(input_tokens, output_tokens)


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
    return body, Usage(usual.usage.prompt_tokens, usual.usage.completion_tokens)


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
    return body, usage(small_value(bytes(response.usage)))


def read_large_response(
    body: bytes, requested_model: str, usage: Callable[[Any], Usage | None] = read_usage
) -> Slices[tuple[bytes, Usage | None]]:
    """Do the same for a large response, in time slices. One that is too complex stays unchanged."""
    top = yield from outline_of_response(body)
    if top is None:
        return body, None
    yield
    model, counts = small_field(body, top, b"model"), small_field(body, top, b"usage")
    if isinstance(model, str) and model != requested_model:
        body = rename_model(body, model, requested_model)
    return body, usage(counts)
