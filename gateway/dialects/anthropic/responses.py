"""Translation of OpenAI chat completions to responses of Anthropic's Messages API.

This module translates whole responses, and has the functions that they share with streams.
"""

import secrets
from typing import Any, TypedDict

import msgspec

from gateway.dialects import surrogates
from gateway.dialects.endpoint_errors import EndpointError, described, ended_by_error
from gateway.dialects.usage import (
    CONTENT_FILTER,
    ERROR,
    LENGTH,
    NOT_REPORTED,
    MessageUsage,
    Usage,
    finish_reason,
    message_usage,
    read_usage,
    with_timings,
)

SMALL_BYTES = 64 << 10
MAX_VALUES = 200_000  # limit of values, and of texts between commas, in a larger response
MAX_CALLS = 128


class NoChatCompletion(Exception):
    """The body of a successful response is no chat completion: a failed attempt. The message describes the body.

    `endpoint_error`: an error that the endpoint describes there.
    """

    def __init__(self, reason: str, endpoint_error: EndpointError | None = None) -> None:
        super().__init__(reason)
        self.endpoint_error = endpoint_error


class Function(msgspec.Struct):
    name: Any = None
    arguments: msgspec.Raw = msgspec.Raw(b"")


class ToolCall(msgspec.Struct):
    index: Any = None
    id: Any = None
    function: Function | None = None


class OutputMessage(msgspec.Struct):
    """A message of a chat completion, or a delta of one."""

    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    index: Any = 0
    message: OutputMessage | None = None
    delta: OutputMessage | None = None
    finish_reason: Any = None
    stop_reason: Any = None  # vLLM's name of the stop sequence
    matched_stop: Any = None  # SGLang's name


class Completion(msgspec.Struct):
    """A whole chat completion, or a chunk of one."""

    id: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    timings: Any = None  # of llama.cpp
    error: Any = None


decode_completion = msgspec.json.Decoder(Completion).decode


class _Object(msgspec.Struct):
    """Any JSON object, whose fields are skipped."""


_decode_object = msgspec.json.Decoder(_Object).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def read_completion(body: bytes) -> tuple[Completion, Choice, OutputMessage, Usage | None]:
    """Read a whole chat completion: its first choice with its message, and its usage. Raises NoChatCompletion."""
    if len(body) > SMALL_BYTES and len(body) - len(body.translate(None, b"[{,")) > MAX_VALUES:
        raise NoChatCompletion(f"the endpoint's response has more than {MAX_VALUES:,} values")
    try:
        completion = surrogates.read_body(decode_completion, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoChatCompletion(f"the endpoint's response is not a chat completion: {error}") from None
    if completion.error is not None:
        endpoint_error = described(completion.error)
        raise NoChatCompletion(endpoint_error.summary(200), endpoint_error)
    choice = completion.choices[0] if completion.choices else None
    if choice is None or choice.message is None:
        raise NoChatCompletion("the endpoint's response is not a chat completion: it has no message")
    if len(choice.message.tool_calls or ()) > MAX_CALLS:
        raise NoChatCompletion(f"the endpoint's response has more than {MAX_CALLS} tool calls")
    return completion, choice, choice.message, with_timings(read_usage(completion.usage), completion.timings)


def from_chat(body: bytes, requested_model: str) -> tuple[bytes, Usage | None]:
    """Return a whole chat completion as a message with the requested model name, and its usage. Raises
    NoChatCompletion.

    The message has 0 input and output tokens if the endpoint reports no usage: its format requires numbers.
    """
    completion, choice, output, usage = read_completion(body)
    reason, sequence = stop(choice, calls=bool(output.tool_calls), refused=bool(output.refusal))
    message = {
        "id": message_id(completion),
        "type": "message",
        "role": "assistant",
        "model": requested_model,
        "content": _blocks(output),
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": message_usage(usage or NOT_REPORTED),
    }
    ended = finish_reason(choice.finish_reason)
    if ended == ERROR:  # Messages have no such reason
        endpoint_error = ended_by_error(choice.finish_reason)
        raise NoChatCompletion(endpoint_error.summary(200), endpoint_error)
    return _encode(message), usage if ended is None else (usage or NOT_REPORTED).ended_by(ended)


class BlockPayload(TypedDict, total=False):
    """A content block: text, thinking, or a tool call."""

    type: str
    text: str
    thinking: str
    signature: str
    id: str
    name: str
    input: Any


class MessagePayload(TypedDict):
    """A message of the assistant in Anthropic's format."""

    id: str
    type: str
    role: str
    model: str
    content: list[BlockPayload]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


def _blocks(message: OutputMessage) -> list[BlockPayload]:
    blocks: list[BlockPayload] = []
    if reasoning := thinking(message):
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    if text := output_text(message):
        blocks.append({"type": "text", "text": text})
    for call in message.tool_calls or ():
        function = call.function or Function()
        name = function.name if isinstance(function.name, str) else ""
        block: BlockPayload = {
            "type": "tool_use",
            "id": call_id(call) or new_call_id(),
            "name": name,
            "input": _input(function),
        }
        blocks.append(block)
    return blocks


def message_id(completion: Completion) -> str:
    return completion.id if isinstance(completion.id, str) and completion.id else new_message_id()


def new_message_id() -> str:
    return f"msg_{secrets.token_hex(12)}"


def call_id(call: ToolCall) -> str:
    """Return the id of a call unchanged, so that a result matches its call in a later request."""
    return call.id if isinstance(call.id, str) else ""


def begins_another(call: ToolCall, open_id: str) -> bool:
    """Return True if a fragment begins another call than the open one with its index.

    Some servers give each call the index 0, or none: another id with a name is another call.
    """
    named = call.function is not None and isinstance(call.function.name, str) and bool(call.function.name)
    return named and bool(open_id) and call_id(call) not in ("", open_id)


def new_call_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


def thinking(message: OutputMessage) -> str:
    """Return the thinking, which some servers write under both names."""
    return plain_text(message.reasoning_content) or plain_text(message.reasoning)


def output_text(message: OutputMessage) -> str:
    return plain_text(message.content) + plain_text(message.refusal)


def plain_text(content: Any) -> str:
    """Return the text of a content, which may be a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join([part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)])


def arguments(function: Function) -> str:
    """Return JSON as the model wrote it, whole or in part. Some servers write an object instead of a string."""
    raw = bytes(function.arguments)
    if raw[:1] == b"{":
        return raw.decode("utf-8", "replace")
    try:
        return surrogates.read_body(_decode_string, raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def is_object(text: str) -> bool:
    """Return True if the arguments of a tool are a whole JSON object."""
    try:
        _decode_object(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _input(function: Function) -> msgspec.Raw:
    """Return the input of a tool call.

    Arguments that are no JSON object stay visible: the client's tool refuses them, and the model can correct them.
    """
    written = arguments(function)
    if not written.strip():
        return msgspec.Raw(b"{}")
    return msgspec.Raw(written.encode() if is_object(written) else _encode({"arguments": written}))


def stop(choice: Choice, *, calls: bool, refused: bool) -> tuple[str, str | None]:
    """Return `stop_reason` and `stop_sequence`. The presence of calls overrides a server's `stop`."""
    reason = finish_reason(choice.finish_reason)
    if reason == LENGTH:
        return "max_tokens", None
    if refused or reason == CONTENT_FILTER:
        return "refusal", None
    if calls:
        return "tool_use", None
    for sequence in (choice.stop_reason, choice.matched_stop):  # a number is a token that the model generated as an end
        if isinstance(sequence, str) and sequence:
            return "stop_sequence", sequence
    return "end_turn", None
