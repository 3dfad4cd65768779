"""Translation of requests of Anthropic's Messages API to OpenAI chat completion requests.

A field that a chat completion cannot express is refused, with its place, rather than left out. Only fields that control
how Anthropic generates a response are left out: cache_control, service_tier, thinking and the thinking of earlier
turns, citations, context_management, defer_loading.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import msgspec

from gateway.base.types import Body
from gateway.dialects.anthropic.shapes import (
    AnyTool,
    AssistantTurn,
    AutoTool,
    Document,
    Image,
    MessagesRequest,
    NamedTool,
    NoTool,
    OutputConfig,
    PlainText,
    Prompt,
    RedactedThinking,
    SearchResult,
    SystemTurn,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Url,
    UserTurn,
)
from gateway.dialects.chat.bodies import SMALL_BYTES, checked, is_object, no_object, not_json, reading, refusal
from gateway.dialects.chat.requests import (
    ChatCall,
    ChatFunction,
    ChatMessage,
    ChatPart,
    ChatRequest,
    ChatTool,
    JsonSchema,
    ResponseFormat,
    ToolFields,
)
from gateway.dialects.chat.shapes import NOTHING
from gateway.loop.time_slices import Slices

P = TypeVar("P", bound=Prompt)

_ONLY = "chat completions"
_EFFORTS = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}  # more is not known to all

_BILLING = "x-anthropic-billing-header:"  # the beginning of a block for Anthropic's accounts

_encode = msgspec.json.Encoder().encode


def _checking(decode: Callable[[Any], P]) -> Callable[[Any], P]:
    """Return a decoder that checks the inputs of tools, too. Raises Refusal."""

    def decode_checked(body: Any) -> P:
        request = decode(body)
        _check_inputs(request)
        return request

    return decode_checked


def _check_inputs(prompt: Prompt) -> None:
    for position, message in enumerate(prompt.messages):
        if isinstance(message, AssistantTurn) and not isinstance(message.content, str):
            for nth, block in enumerate(message.content):
                if isinstance(block, ToolUse) and not is_object(block.input):
                    raise no_object(f"messages[{position}].content[{nth}].input", "messages")


_decode_request = _checking(msgspec.json.Decoder(MessagesRequest).decode)
_decode_prompt = _checking(msgspec.json.Decoder(Prompt).decode)


def translating(body: Body, model: str) -> Slices[bytes]:
    """Return a Messages request as a chat completion request with the endpoint's model name; if the body is large, in
    time slices. Raises Refusal (400, 413).

    A stream always requests its usage. `top_k` keeps its name, which OpenAI does not define but servers accept.
    """
    request = yield from reading(_decode_request, body, _ONLY)
    chat = _chat(request, model)
    if len(body) > SMALL_BYTES:
        yield
    try:
        return _encode(chat)
    except UnicodeDecodeError as error:  # in a part that was not decoded
        raise not_json(error) from None


def _chat(request: MessagesRequest, model: str) -> ChatRequest:
    try:
        return _translated(request, model)
    except UnicodeDecodeError as error:  # in a part that was not decoded
        raise not_json(error) from None


def _translated(request: MessagesRequest, model: str) -> ChatRequest:
    chat: dict[str, Any] = {"model": model, "messages": list(_messages(request)), "max_tokens": request.max_tokens}
    chat |= _tools(request)
    for name, value in (
        ("temperature", request.temperature),
        ("top_p", request.top_p),
        ("top_k", request.top_k),
        ("stop", request.stop_sequences or None),
        ("user", request.metadata.user_id if request.metadata else None),
        ("response_format", _format(request.output_config)),
        ("reasoning_effort", _EFFORTS.get(request.output_config.effort or "") if request.output_config else None),
    ):
        if value is not None:
            chat[name] = value
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return cast(ChatRequest, chat)


def reading_prompt(body: Body) -> Slices[str]:
    """Return the text of a prompt, for an endpoint that counts its tokens by /tokenize; if the body is large, in time
    slices. Raises Refusal (400, 413).

    The text contains neither the template around each turn nor images: its count is lower than that of the prompt.
    """
    prompt = yield from reading(_decode_prompt, body, _ONLY)
    try:
        return "\n".join(filter(None, _texts(prompt)))
    except UnicodeDecodeError as error:
        raise not_json(error) from None


def _texts(prompt: Prompt) -> Iterator[str]:
    for tool in _functions(prompt):
        function = tool["function"]
        yield from (function["name"], function.get("description", ""), bytes(function["parameters"]).decode())
    for message in _messages(prompt):
        content = message["content"] or ""
        yield from [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        for call in message.get("tool_calls", ()):
            yield from (call["function"]["name"], call["function"]["arguments"])


# Messages


def _messages(prompt: Prompt) -> Iterator[ChatMessage]:
    if system := _system(prompt):
        yield {"role": "system", "content": _joined(system)}
    for message in prompt.messages:
        if isinstance(message, UserTurn):
            yield from _user_turn(message.content)
        elif isinstance(message, AssistantTurn):
            yield _assistant_turn(message.content)


def _system(prompt: Prompt) -> list[ChatPart]:
    """Return the system prompt with every system turn, of which Claude Code has one in each request.

    Templates of Qwen, Llama and Gemma refuse a system message behind others. Claude Code's first block differs from
    session to session, so that no prefix cache would have anything of another one's.
    """
    parts = _parts(prompt.system) if prompt.system else []
    if len(parts) > 1 and parts[0]["text"].startswith(_BILLING):
        del parts[0]
    for message in prompt.messages:
        if isinstance(message, SystemTurn):
            parts += _parts(message.content)
    return parts


def _user_turn(content: str | list[Text | Image | Document | SearchResult | ToolResult]) -> Iterator[ChatMessage]:
    """Yield the chat messages of a user's turn, tool results first.

    Chat completions require results directly after the calls. A result cannot contain images there.
    """
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    images: list[ChatPart] = []
    own: list[ChatPart] = []
    for block in content:
        if isinstance(block, ToolResult):
            text, shown = _result(block)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
            images += shown
        else:
            own += _block(block)
    if images or own or not content:
        yield {"role": "user", "content": _joined(images + own)}


def _result(result: ToolResult) -> tuple[str, list[ChatPart]]:
    parts = _parts(result.content or "")
    images = [part for part in parts if "text" not in part]
    text = "\n".join([part["text"] for part in parts if part.get("text")])
    if images and not text:
        text = "(an image, in the next message)"
    if result.is_error:  # chat completions have no field for it
        text = f"Error: {text}" if text else "Error"
    return text, images


def _assistant_turn(content: str | list[Text | Thinking | RedactedThinking | ToolUse]) -> ChatMessage:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    text = "".join([block.text for block in content if isinstance(block, Text)])
    calls: list[ChatCall] = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": bytes(block.input).decode()},
        }
        for block in content
        if isinstance(block, ToolUse)
    ]
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


_Block = Text | Image | Document | SearchResult


def _parts(content: str | list[Text] | list[Text | Image] | list[_Block]) -> list[ChatPart]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part for block in content for part in _block(block)]


def _block(block: _Block) -> list[ChatPart]:
    match block:
        case Text(text):
            return [{"type": "text", "text": text}]
        case Image(source):
            url = source.url if isinstance(source, Url) else f"data:{source.media_type};base64,{source.data}"
            return [{"type": "image_url", "image_url": {"url": url}}]
        case Document(source, title, context):
            heads: list[ChatPart] = [{"type": "text", "text": head} for head in (title, context) if head]
            return heads + _parts(source.data if isinstance(source, PlainText) else source.content)
        case SearchResult(source, title, content):
            return [{"type": "text", "text": f"{title}\n{source}"}, *_parts(content)]


def _joined(parts: list[ChatPart]) -> str | list[ChatPart]:
    """Return parts that are text alone as one string.

    Every server accepts a string; some do not accept text in parts.
    """
    if any("text" not in part for part in parts):
        return parts
    return "\n".join([part["text"] for part in parts])


# Tools


def _tools(request: MessagesRequest) -> ToolFields:
    """Return the fields about tools; chat completions accept no `tool_choice` without tools."""
    choice = request.tool_choice
    if not request.tools:
        if isinstance(choice, AnyTool | NamedTool):
            raise refusal("`tool_choice` requires a tool, but there are no `tools`.", "tool_choice")
        return {}
    fields: ToolFields = {"tools": list(_functions(request))}
    match choice:
        case AutoTool():
            fields["tool_choice"] = "auto"
        case AnyTool():
            fields["tool_choice"] = "required"
        case NamedTool(name):
            fields["tool_choice"] = {"type": "function", "function": {"name": name}}
        case NoTool():
            fields["tool_choice"] = "none"
    if choice is not None and choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    return fields


def _functions(prompt: Prompt) -> Iterator[ChatTool]:
    for position, tool in enumerate(prompt.tools or ()):
        if tool.type not in (None, "custom"):
            fault = f"{tool.type[:40]!r} is not supported by this endpoint, which supports only chat completions"
            raise refusal(f"`tools[{position}].type`: {fault}.", "tools")
        if tool.input_schema == NOTHING:
            raise refusal(f"`tools[{position}].input_schema` is missing.", "tools")
        if not is_object(tool.input_schema):
            raise no_object(f"tools[{position}].input_schema", "tools")
        function: ChatFunction = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        function["parameters"] = checked(tool.input_schema)
        if tool.strict:
            function["strict"] = True
        yield {"type": "function", "function": function}


def _format(config: OutputConfig | None) -> ResponseFormat | None:
    if config is None or config.format is None:
        return None
    if not is_object(config.format.schema):
        raise no_object("output_config.format.schema", "output_config")
    schema: JsonSchema = {"name": "answer", "schema": checked(config.format.schema), "strict": True}
    return {"type": "json_schema", "json_schema": schema}
