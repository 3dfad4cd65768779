"""Anthropic's Messages API: errors, whole responses and stream events, as far as routing and counting need them.

For endpoints that support this API, everything else is relayed unread. For endpoints that only support chat
completions, gateway.dialects.anthropic.requests, .responses and .stream translate.
"""

import re
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import msgspec
from msgspec import structs

from gateway.base import errors
from gateway.base.types import Data
from gateway.dialects import endpoint_errors
from gateway.dialects.anthropic.responses import MessagePayload, new_message_id
from gateway.dialects.endpoint_errors import described
from gateway.dialects.openai_events import Dialect, Event
from gateway.dialects.openai_responses import read_response, reading_response
from gateway.dialects.usage import (
    NOT_REPORTED,
    Usage,
    finish_reason,
    message_usage,
    read_messages_usage,
    usage_of_message,
)
from gateway.loop.time_slices import Slices

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_TOO_LONG = "prompt is too long"
_LENGTHS = re.compile(r"(?<!\d)(\d{1,15}) (?:input )?tokens", re.ASCII)

_encode = msgspec.json.Encoder().encode


# Errors


def anthropic_error(status: int, message: str, request_id: str | None = None) -> bytes:
    """Return the body of an error response in Anthropic's format, which has no place for RouterDash's codes."""
    return _encode(_error(status, message, request_id))


def error_event(status: int, message: str, request_id: str | None = None) -> bytes:
    """Return an error as an event of a stream."""
    return server_event("error", _error(status, message, request_id))


class ErrorDetail(TypedDict):
    type: str
    message: str


class MessagesErrorPayload(TypedDict):
    """An error in Anthropic's format."""

    type: str
    error: ErrorDetail
    request_id: NotRequired[str]


def _error(status: int, message: str, request_id: str | None) -> MessagesErrorPayload:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if status in (400, 413):
        message = _in_words_of_anthropic(message)
    error: MessagesErrorPayload = {"type": "error", "error": {"type": kind, "message": message}}
    if request_id is not None:
        error["request_id"] = request_id
    return error


def _in_words_of_anthropic(message: str) -> str:
    """Begin an error of any server about the length of a prompt as Anthropic's does: `prompt is too long: 810 tokens >
    512 maximum`. By these words Claude Code knows that it has to compact the conversation.
    """
    if not endpoint_errors.TOO_LONG.search(message) or _TOO_LONG in message.lower():
        return message
    lengths = sorted({int(length) for length in _LENGTHS.findall(message)[:2]})
    if len(lengths) < 2:
        return f"{_TOO_LONG}: {message}"
    limit, prompt = lengths
    return f"{_TOO_LONG}: {prompt} tokens > {limit} maximum ({message})"


class _Typed(msgspec.Struct):
    type: str = ""


def upstream_error_body(body: bytes, status: int) -> bytes:
    """Return an endpoint's error in this format, with the endpoint's message; an error that has the format already
    stays unchanged.
    """
    error = endpoint_errors.read(body)
    try:
        if error.is_json and msgspec.json.decode(body, type=_Typed).type == "error":
            return body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return anthropic_error(status, error.sentence or f"The endpoint returned status {status}.")


def server_event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


# Responses


def counted(tokens: int) -> bytes:
    """Return the response body of count_tokens."""
    return _encode({"input_tokens": tokens})


def read_message(body: bytes, requested_model: str) -> tuple[bytes, Usage | None]:
    """Return a whole message with the requested model name, and its usage. A body that is no such JSON stays unchanged.

    Input tokens are counted as OpenAI counts them: with those read from a cache or written to one, which Anthropic
    reports separately from `input_tokens`.
    """
    return read_response(body, requested_model, usage_of_message)


def reading_message(body: bytes, requested_model: str) -> Slices[tuple[bytes, Usage | None]]:
    """Do the same for a large message, in time slices."""
    return reading_response(body, requested_model, usage_of_message)


# Events of a stream


class _Delta(msgspec.Struct):
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    message: Any = None
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


def read_messages_event(data: Data) -> Event:
    """Read an event of a Messages stream. Raises msgspec.DecodeError.

    `message_start` reports the input tokens and a placeholder for the output, which is left out. `message_delta`
    reports the output tokens so far, and on some servers the input tokens again. `ReportedByMessages.merged_with`
    combines them.
    """
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    event = _decode_event(data)
    match event.type:
        case "content_block_delta":
            delta = event.delta
            return Event(deltas=int(bool(delta and (delta.text or delta.thinking or delta.partial_json))))
        case "content_block_start":
            return Event(inside=True)
        case "message_start":
            return _start(event.message)
        case "message_delta":
            reason = None if event.delta is None else finish_reason(event.delta.stop_reason)
            return Event(usage=read_messages_usage(event.usage), finish_reason=reason)
        case "message_stop":
            return Event(finished=True, last=True)
    if event.type == "error" or event.error is not None:
        return Event(error=described(event.error), last=True)
    return Event()


def _start(message: Any) -> Event:
    if not isinstance(message, dict):
        return Event()
    model, usage = message.get("model"), read_messages_usage(message.get("usage"))
    if usage is not None:
        written = usage.cache_write_tokens
        has_input = not (usage.uncached_tokens is None and usage.cached_tokens is None and written is None)
        usage = structs.replace(usage, output_tokens=None, thinking_tokens=None) if has_input else None
    return Event(model if isinstance(model, str) else None, usage)


class MessageStart(TypedDict):
    """The event that opens a stream."""

    type: str
    message: MessagePayload


def message_start(message_id: str, model: str) -> MessageStart:
    """Return the event that opens a stream; its usage is a placeholder, as no count is available yet."""
    message: MessagePayload = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": message_usage(NOT_REPORTED),
    }
    return {"type": "message_start", "message": message}


# Statuses that a client would have received if its stream had not begun.
_STATUSES = {
    errors.UPSTREAM_TIMEOUT: 504,
    errors.NO_CAPABLE_ENDPOINTS: 503,
    errors.QUEUE_FULL: 429,
    errors.QUEUE_TIMEOUT: 503,
}


@dataclass(frozen=True, slots=True)
class MessagesDialect(Dialect):
    """Event format of the Messages API (SSE)."""

    def opening(self, model: str) -> bytes:
        """Return the `message_start` event.

        llama.cpp omits it if the first token of a stream is a part of a character; clients fail without it.
        """
        return server_event("message_start", message_start(new_message_id(), model))

    def error_event(self, body: bytes) -> bytes:
        error = msgspec.json.decode(body)["error"]
        return error_event(_STATUSES.get(error["code"], 502), error["message"])


DIALECT = MessagesDialect(read_messages_event, usage_on_request=False, read_big=read_messages_event)
