"""Translation of responses and errors of Anthropic's Messages API to those of chat completions.

This module translates whole responses, and has the functions that they share with streams.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.base import causes
from gateway.dialects.chat.completions import (
    Annotation,
    ChatCompletionPayload,
    ChatErrorPayload,
    ChatOutput,
    CitedPage,
    CustomInput,
    CustomToolCall,
    NoChatCompletion,
    ThinkingDetail,
    check_values,
    custom_input,
    decoded_response,
    string,
)
from gateway.dialects.chat.requests import ChatCall, ChatCallFunction
from gateway.dialects.chat.translation import Translation
from gateway.dialects.endpoint_errors import described
from gateway.dialects.usage import (
    NOT_REPORTED,
    STOP,
    TOOL_CALLS,
    Usage,
    chat_usage,
    finish_reason,
    usage_of_message,
)

MAX_BLOCKS = 1000  # of a response
THINKING = ("thinking", "redacted_thinking")  # types of blocks
_NO_INPUT = msgspec.Raw(b"{}")


class OutputBlock(msgspec.Struct):
    """A content block of a message, of any type."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = _NO_INPUT
    citations: Any = None


class _Message(msgspec.Struct):
    type: Any = None
    id: Any = None
    content: list[OutputBlock] | None = None
    stop_reason: Any = None
    stop_details: Any = None
    usage: Any = None
    error: Any = None


_decode_message = msgspec.json.Decoder(_Message).decode
_encode = msgspec.json.Encoder().encode


def from_message(body: bytes, requested_model: str, translation: Translation) -> tuple[bytes, Usage | None]:
    """Return a whole message as a chat completion with the requested model name, and its usage.

    Raises NoChatCompletion if the body is no message.
    """
    check_values(body)
    message: _Message = decoded_response(_decode_message, body, causes.NO_MESSAGE)
    if message.content is None:
        raise NoChatCompletion(causes.MESSAGE_WITHOUT_CONTENT)
    if len(message.content) > MAX_BLOCKS:
        raise NoChatCompletion(causes.MANY_BLOCKS.format(most=f"{MAX_BLOCKS:,}"))
    output = _output(message, translation)
    reason = stop_reason(message.stop_reason, calls="tool_calls" in output or "function_call" in output)
    completion: ChatCompletionPayload = {
        "id": completion_id(message.id),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": requested_model,
        "choices": [
            {"index": 0, "message": output, "logprobs": None, "finish_reason": requested_form(reason, translation)},
        ],
    }
    usage = usage_of_message(message.usage)
    if usage is not None:
        completion["usage"] = chat_usage(usage)
    return _encode(completion), (usage or NOT_REPORTED).ended_by(reason)


def completion_id(message_id: Any) -> str:
    return message_id if isinstance(message_id, str) and message_id else "chatcmpl-unknown"


def stop_reason(reason: Any, *, calls: bool) -> str:
    """Return the finish reason of a chat completion for a stop reason, which may be unknown."""
    return finish_reason(reason) or (TOOL_CALLS if calls else STOP)


def requested_form(reason: str, translation: Translation) -> str:
    """Return the finish reason as the client expects it."""
    return "function_call" if translation.one_call and reason == TOOL_CALLS else reason


def explanation(details: Any) -> str | None:
    """Return the explanation of a refusal."""
    text = details.get("explanation") if isinstance(details, dict) else None
    return text if isinstance(text, str) and text else None


def _output(message: _Message, translation: Translation) -> ChatOutput:
    blocks = message.content or []
    text, annotations = _text(blocks)
    calls = [block for block in blocks if block.type == "tool_use"]
    content = text or (None if calls else "")
    output: ChatOutput = {"role": "assistant", "content": content, "refusal": explanation(message.stop_details)}
    if thinking := "".join([string(block.thinking) for block in blocks if block.type == "thinking"]):
        output["reasoning_content"] = thinking
    details = [thinking_detail(block, position) for position, block in enumerate(blocks) if block.type in THINKING]
    if details:
        output["reasoning_details"] = details
    if calls and translation.one_call:
        output["function_call"] = _function(calls[0])
    elif calls:
        output["tool_calls"] = [_call(block, translation) for block in calls]
    if annotations:
        output["annotations"] = annotations
    return output


def _text(blocks: Iterable[OutputBlock]) -> tuple[str, list[Annotation]]:
    """Return the joined texts, and the pages that they cite."""
    whole = ""
    annotations: list[Annotation] = []
    for block in blocks:
        if block.type == "text":
            start, whole = len(whole), whole + string(block.text)
            annotations += _annotations(block.citations, start, len(whole))
    return whole, annotations


def thinking_detail(block: OutputBlock, index: int) -> ThinkingDetail:
    """Return a whole block of thinking in the shape in which clients send it back."""
    if block.type == "redacted_thinking":
        return {"type": "reasoning.encrypted", "data": string(block.data), "index": index}
    detail: ThinkingDetail = {"type": "reasoning.text", "text": string(block.thinking), "index": index}
    if signature := string(block.signature):
        detail["signature"] = signature
    return detail


def _call(block: OutputBlock, translation: Translation) -> ChatCall | CustomToolCall:
    function = _function(block)
    if function["name"] in translation.custom_tools:
        custom: CustomInput = {"name": function["name"], "input": custom_input(function["arguments"])}
        return {"id": string(block.id), "type": "custom", "custom": custom}
    return {"id": string(block.id), "type": "function", "function": function}


def _function(block: OutputBlock) -> ChatCallFunction:
    return {"name": string(block.name), "arguments": bytes(block.input).decode("utf-8", "replace")}


def _annotations(citations: Any, start: int, end: int) -> Iterable[Annotation]:
    """Yield the cited pages of a text. Citations of documents have no place in a chat completion."""
    for citation in citations if isinstance(citations, list) else ():
        if isinstance(citation, Mapping) and isinstance(url := citation.get("url"), str):
            page: CitedPage = {
                "url": url,
                "title": string(citation.get("title")),
                "start_index": start,
                "end_index": end,
            }
            yield {"type": "url_citation", "url_citation": page}


# Errors

TOO_LONG = "context_length_exceeded"
_CODES = {
    "authentication_error": "upstream_auth",
    "permission_error": "upstream_auth",
    "billing_error": "insufficient_quota",
    "not_found_error": "model_not_found",
    "request_too_large": TOO_LONG,
    "rate_limit_error": "rate_limit_exceeded",
    "overloaded_error": "overloaded",
    "timeout_error": "timeout",
    "api_error": "server_error",
}


class _ErrorFields(msgspec.Struct):
    type: Any = None
    message: Any = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields
    type: Any = None


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


def chat_error(error: Any) -> ChatErrorPayload:
    """Return an error of Messages, the value of `error`, in the format of chat completions."""
    endpoint_error = described(error)
    kind = error.get("type") if isinstance(error, Mapping) else None
    kind = kind if isinstance(kind, str) else "api_error"
    code = _CODES.get(kind)
    if kind == "invalid_request_error" and endpoint_error.sentence.startswith("prompt is too long"):
        code = TOO_LONG
    return {"error": {"message": endpoint_error.sentence, "type": kind, "param": None, "code": code}}


def error_from_message(body: bytes) -> bytes | None:
    """Return the body of an error response in the format of chat completions; None if it is no error of Messages."""
    try:
        decoded = _decode_error(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if decoded.type != "error":
        return None
    return _encode(chat_error({"type": decoded.error.type, "message": decoded.error.message}))
