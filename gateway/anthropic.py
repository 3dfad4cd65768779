"""Anthropic's Messages API, as far as routing and counting need it: errors, whole answers, events of a stream.

For endpoints that speak it themselves, everything else passes unread. For those that only speak chat completions,
`anthropic_request`, `anthropic_answer` and `anthropic_stream` translate.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway import endpoint_errors, errors
from gateway.anthropic_answer import message_usage, new_message_id
from gateway.endpoint_errors import described
from gateway.openai import (
    Dialect,
    Event,
    Usage,
    read_any_answer,
    read_count,
    reading_answer,
)
from gateway.outbox import Data
from gateway.turns import Slices

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

_encode = msgspec.json.Encoder().encode


# Errors


def error_body(status: int, code: str, message: str, request_id: str | None = None) -> bytes:
    """`code` has no place in this shape; it is taken so that it is called as the one in `gateway.errors`."""
    return _encode(_error(status, message, request_id))


def error_event(status: int, code: str, message: str, request_id: str | None = None) -> bytes:
    """The same within a stream."""
    return server_event("error", _error(status, message, request_id))


def _error(status: int, message: str, request_id: str | None) -> dict[str, Any]:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    if request_id is not None:
        error["request_id"] = request_id
    return error


class _Typed(msgspec.Struct):
    type: str = ""


def upstream_error_body(body: bytes, status: int) -> bytes:
    """An endpoint's error in this shape, with the endpoint's message. One that has the shape already stays as it is."""
    said = endpoint_errors.read(body)
    try:
        if said.is_json and msgspec.json.decode(body, type=_Typed).type == "error":
            return body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return error_body(status, errors.UPSTREAM_ERROR, said.sentence or f"The endpoint answered {status}.")


def server_event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


# Answers


def counted(tokens: int) -> bytes:
    """The answer of count_tokens."""
    return _encode({"input_tokens": tokens})


def read_message(body: bytes, asked: str) -> tuple[bytes, Usage | None]:
    """A whole message bearing the asked model name, and its usage. What is no such JSON passes as it is.

    Input tokens are counted as OpenAI counts them: with those that were read from a cache or written to one, which
    Anthropic tells beside `input_tokens`.
    """
    return read_any_answer(body, asked, _usage)


def reading_message(body: bytes, asked: str) -> Slices[tuple[bytes, Usage | None]]:
    """The same of a big one, in slices."""
    return reading_answer(body, asked, _usage)


def _usage(found: Any) -> Usage | None:
    """No prompt is empty: 0 input tokens, which some servers write before they know, tell nothing."""
    if not isinstance(found, dict):
        return None
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    made = sum(read_count(found, name) or 0 for name in names) or None
    out = read_count(found, "output_tokens")
    return None if made is None and out is None else Usage(made, out)


# Events of a stream


class _Delta(msgspec.Struct):
    text: Any = None
    thinking: Any = None
    partial_json: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    message: Any = None
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


def read_messages_event(data: Data) -> Event:
    """An event of a Messages stream. Raises msgspec.DecodeError.

    `message_start` tells the input tokens and a placeholder for the output, which is left out; `message_delta` tells
    the output tokens, and some servers the input once more. `Usage.over` puts them together.
    """
    if data == b"[DONE]":
        return Event(finished=True, last=True)
    found = _decode_event(data)
    match found.type:
        case "content_block_delta":
            delta = found.delta
            return Event(deltas=int(bool(delta and (delta.text or delta.thinking or delta.partial_json))))
        case "content_block_start":
            return Event(inside=True)
        case "message_start":
            return _start(found.message)
        case "message_delta":
            return Event(usage=_usage(found.usage))
        case "message_stop":
            return Event(finished=True, last=True)
    if found.type == "error" or found.error is not None:
        return Event(error=described(found.error), last=True)
    return Event()


def _start(message: Any) -> Event:
    if not isinstance(message, dict):
        return Event()
    model, usage = message.get("model"), _usage(message.get("usage"))
    made = usage.input_tokens if usage else None
    return Event(model if isinstance(model, str) else None, None if made is None else Usage(made, None))


def message_start(message_id: str, model: str) -> dict[str, Any]:
    """The event that opens a stream; its usage is a placeholder, as nothing is known yet."""
    message: dict[str, Any] = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": message_usage(None, 0),
    }
    return {"type": "message_start", "message": message}


# What a client would have been told, had its stream not begun.
_STATUSES = {
    errors.UPSTREAM_TIMEOUT: 504,
    errors.NO_CAPABLE_ENDPOINTS: 503,
    errors.QUEUE_FULL: 429,
    errors.QUEUE_TIMEOUT: 503,
}


@dataclass(frozen=True, slots=True)
class MessagesDialect(Dialect):
    """How Messages stream."""

    def opening(self, model: str) -> bytes:
        """llama.cpp forgets to open a stream whose first token is a part of a character; clients fail on that."""
        return server_event("message_start", message_start(new_message_id(), model))

    def error_event(self, body: bytes) -> bytes:
        error = msgspec.json.decode(body)["error"]
        return error_event(_STATUSES.get(error["code"], 502), error["code"], error["message"])


DIALECT = MessagesDialect(read_messages_event, usage_on_request=False, read_big=read_messages_event)
