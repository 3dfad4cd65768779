"""Chat completions, whole and in chunks: as endpoints write them, which are read here, and as clients get them."""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import msgspec

from gateway.base import causes
from gateway.dialects import surrogates
from gateway.dialects.chat.requests import ChatCall, ChatCallFunction
from gateway.dialects.endpoint_errors import EndpointError, described
from gateway.dialects.usage import ChatUsage, Usage, read_usage, with_timings

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
_decode_input = msgspec.json.Decoder(dict[str, Any]).decode


def check_values(body: bytes) -> None:
    """Raise NoChatCompletion for a response with too many values."""
    if len(body) > SMALL_BYTES and len(body) - len(body.translate(None, b"[{,")) > MAX_VALUES:
        raise NoChatCompletion(causes.MANY_VALUES.format(most=f"{MAX_VALUES:,}"))


def decoded_response(decode: Callable[[Any], Any], body: bytes, fault: str) -> Any:
    """Decode a whole response of an endpoint. Raises NoChatCompletion for an error, and for another body.

    `fault`: cause of that; its `json_detail` is the error of the decoder.
    """
    try:
        response = surrogates.read_body(decode, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoChatCompletion(fault.format(json_detail=error)) from None
    if response.error is not None:
        endpoint_error = described(response.error)
        raise NoChatCompletion(endpoint_error.summary(200), endpoint_error)
    return response


def read_completion(body: bytes) -> tuple[Completion, Choice, OutputMessage, Usage | None]:
    """Read a whole chat completion: its first choice with its message, and its usage. Raises NoChatCompletion."""
    check_values(body)
    completion: Completion = decoded_response(decode_completion, body, causes.NO_CHAT_COMPLETION)
    choice = completion.choices[0] if completion.choices else None
    if choice is None or choice.message is None:
        raise NoChatCompletion(causes.COMPLETION_WITHOUT_MESSAGE)
    if len(choice.message.tool_calls or ()) > MAX_CALLS:
        raise NoChatCompletion(causes.MANY_TOOL_CALLS.format(most=MAX_CALLS))
    return completion, choice, choice.message, with_timings(read_usage(completion.usage), completion.timings)


def call_id(call: ToolCall) -> str:
    """Return the id of a call unchanged, so that a result matches its call in a later request."""
    return call.id if isinstance(call.id, str) else ""


def begins_another(call: ToolCall, open_id: str) -> bool:
    """Return True if a fragment begins another call than the open one with its index.

    Some servers give each call the index 0, or none: another id with a name is another call.
    """
    named = call.function is not None and isinstance(call.function.name, str) and bool(call.function.name)
    return named and bool(open_id) and call_id(call) not in ("", open_id)


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


def string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def custom_input(arguments: str) -> str:
    """Return the text for a custom tool; arguments without it stay visible."""
    try:
        text = surrogates.read_body(_decode_input, arguments.encode()).get("input")
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return text if isinstance(text, str) else arguments


# As clients get them


class ThinkingDetail(TypedDict, total=False):
    """A part of the model's thinking, as `reasoning_details` have it; clients send it back unchanged."""

    type: str
    text: str
    signature: str
    data: str
    index: int


class CitedPage(TypedDict):
    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(TypedDict):
    type: str
    url_citation: CitedPage


class CustomInput(TypedDict):
    name: str
    input: str


class CustomToolCall(TypedDict):
    id: str
    type: str
    custom: CustomInput


class ChatOutput(TypedDict):
    """The message of a chat completion."""

    role: str
    content: str | None
    refusal: str | None
    reasoning_content: NotRequired[str]
    reasoning_details: NotRequired[list[ThinkingDetail]]
    tool_calls: NotRequired[list[ChatCall | CustomToolCall]]
    function_call: NotRequired[ChatCallFunction]
    annotations: NotRequired[list[Annotation]]


class ChatChoice(TypedDict):
    index: int
    message: ChatOutput
    logprobs: None
    finish_reason: str


class ChatCompletionPayload(TypedDict):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: NotRequired[ChatUsage]


class ChatErrorFields(TypedDict):
    message: str
    type: str
    param: None
    code: str | None


class ChatErrorPayload(TypedDict):
    error: ChatErrorFields
