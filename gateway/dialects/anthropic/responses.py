"""Translation of OpenAI chat completions to responses of Anthropic's Messages API.

This module translates whole responses, and has the functions that they share with streams.
"""

import secrets
from typing import Any, TypedDict

import msgspec

from gateway.dialects.chat.completions import (
    Choice,
    Completion,
    Function,
    NoChatCompletion,
    OutputMessage,
    arguments,
    call_id,
    is_object,
    output_text,
    read_completion,
    thinking,
)
from gateway.dialects.endpoint_errors import ended_by_error
from gateway.dialects.usage import (
    CONTENT_FILTER,
    ERROR,
    LENGTH,
    NOT_REPORTED,
    MessageUsage,
    Usage,
    finish_reason,
    message_usage,
)

_encode = msgspec.json.Encoder().encode


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


def new_call_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


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
