"""OpenAI chat completions as answers of Anthropic's Messages API: what whole answers and streams have in common, and
whole answers.
"""

import secrets
from typing import Any

import msgspec

from gateway import surrogates
from gateway.endpoint_errors import EndpointError, described
from gateway.openai import Usage, read_count, read_usage

SMALL_BYTES = 64 << 10
MAX_VALUES = 200_000  # values and pieces of text between commas, of a bigger answer
MAX_CALLS = 128


class NoChatCompletion(Exception):
    """An endpoint's body that is no chat completion, though its status said so: a failed attempt. Says what it is.
    `said`: an error that the endpoint describes there.
    """

    def __init__(self, what: str, said: EndpointError | None = None) -> None:
        super().__init__(what)
        self.said = said


class Function(msgspec.Struct):
    name: Any = None
    arguments: msgspec.Raw = msgspec.Raw(b"")


class ToolCall(msgspec.Struct):
    index: Any = None
    id: Any = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    index: Any = 0
    message: Said | None = None
    delta: Said | None = None
    finish_reason: Any = None
    stop_reason: Any = None  # vLLM's word for the stop sequence
    matched_stop: Any = None  # SGLang's


class Completion(msgspec.Struct):
    """Whole, or a chunk of one."""

    id: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None


decode_completion = msgspec.json.Decoder(Completion).decode


class _Object(msgspec.Struct):
    """Any object: its fields are skipped."""


_decode_object = msgspec.json.Decoder(_Object).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def from_chat(body: bytes, asked: str) -> tuple[bytes, Usage | None]:
    """A whole chat completion as a message of the asked model, and its usage. Raises NoChatCompletion.

    Where the endpoint tells no usage, the message says 0 tokens: its shape wants numbers.
    """
    if len(body) > SMALL_BYTES and len(body) - len(body.translate(None, b"[{,")) > MAX_VALUES:
        raise NoChatCompletion(f"the endpoint's answer has more than {MAX_VALUES:,} values")
    try:
        completion = surrogates.read_body(decode_completion, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoChatCompletion(f"the endpoint's answer is no chat completion: {error}") from None
    if completion.error is not None:
        said = described(completion.error)
        raise NoChatCompletion(said.summary(200), said)
    choice = completion.choices[0] if completion.choices else None
    if choice is None or choice.message is None:
        raise NoChatCompletion("the endpoint's answer is no chat completion: it has no message")
    if len(choice.message.tool_calls or ()) > MAX_CALLS:
        raise NoChatCompletion(f"the endpoint's answer has more than {MAX_CALLS} tool calls")
    usage = read_usage(completion.usage)
    reason, sequence = stop(choice, calls=bool(choice.message.tool_calls), refused=bool(choice.message.refusal))
    message = {
        "id": message_id(completion),
        "type": "message",
        "role": "assistant",
        "model": asked,
        "content": _blocks(choice.message),
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": message_usage(usage, cached_tokens(completion.usage)),
    }
    return _encode(message), usage


def _blocks(said: Said) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thought := thinking(said):
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := spoken(said):
        blocks.append({"type": "text", "text": text})
    for call in said.tool_calls or ():
        function = call.function or Function()
        name = function.name if isinstance(function.name, str) else ""
        block = {"type": "tool_use", "id": call_id(call) or new_call_id(), "name": name, "input": _input(function)}
        blocks.append(block)
    return blocks


def message_id(completion: Completion) -> str:
    return completion.id if isinstance(completion.id, str) and completion.id else new_message_id()


def new_message_id() -> str:
    return f"msg_{secrets.token_hex(12)}"


def call_id(call: ToolCall) -> str:
    """Passed on as it is, so that the result finds its call wherever the conversation goes on."""
    return call.id if isinstance(call.id, str) else ""


def new_call_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


def thinking(said: Said) -> str:
    """Some servers write it under both names."""
    return _text(said.reasoning_content) or _text(said.reasoning)


def spoken(said: Said) -> str:
    return _text(said.content) + _text(said.refusal)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join([part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)])


def arguments(function: Function) -> str:
    """JSON as the model wrote it, whole or a piece. Some servers write an object instead of a string."""
    raw = bytes(function.arguments)
    if raw[:1] == b"{":
        return raw.decode("utf-8", "replace")
    try:
        return surrogates.read_body(_decode_string, raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def is_object(text: str) -> bool:
    """Are a tool's arguments whole?"""
    try:
        _decode_object(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _input(function: Function) -> msgspec.Raw:
    """What is no JSON object stays to be seen: the client's tool refuses it, and the model learns."""
    written = arguments(function)
    if not written.strip():
        return msgspec.Raw(b"{}")
    return msgspec.Raw(written.encode() if is_object(written) else _encode({"arguments": written}))


def stop(choice: Choice, *, calls: bool, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`. That there are calls counts more than that a server says it has stopped."""
    if choice.finish_reason == "length":
        return "max_tokens", None
    if refused or choice.finish_reason == "content_filter":
        return "refusal", None
    if calls:
        return "tool_use", None
    for told in (choice.stop_reason, choice.matched_stop):  # numbers are tokens: the end that the model itself set
        if isinstance(told, str) and told:
            return "stop_sequence", told
    return "end_turn", None


def cached_tokens(usage: Any) -> int:
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return (read_count(details, "cached_tokens") or 0) if isinstance(details, dict) else 0


def message_usage(usage: Usage | None, cached: int) -> dict[str, int]:
    """Chat completions count cached tokens within the prompt's, Anthropic beside them."""
    made = usage.input_tokens or 0 if usage else 0
    cached = min(cached, made)
    return {
        "input_tokens": made - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output_tokens or 0 if usage else 0,
    }
