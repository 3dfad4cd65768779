"""Translation of the items of a Responses input to the messages of a chat completion.

Rules for the messages, which items do not have:

1. A message of the assistant, its reasoning and its calls are one message.
2. The results of calls are text. Images in them are in a user message after all results of the turn.
3. Instructions and all messages of the system are one message, the first: templates of Qwen, Llama and Gemma refuse
   a message of the system behind others.
"""

from collections.abc import Iterable, Mapping
from typing import TypedDict

import msgspec

from gateway.base.errors import PREVIOUS_RESPONSE_NOT_FOUND, Refusal
from gateway.dialects.chat.bodies import SLICE_BYTES, SMALL_BYTES, decoded_field, refusal
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.chat.requests import ChatCall
from gateway.dialects.chat.shapes import NOTHING
from gateway.dialects.responses.objects import is_unstored
from gateway.dialects.responses.shapes import Content, ContentPart, InputItem, ReadItem
from gateway.dialects.responses.tools import ONLY, ChatTools, flat_name, read_tools
from gateway.dialects.responses.translation import SEAL
from gateway.loop.time_slices import Slices

CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
RESULTS = ("function_call_output", "custom_tool_call_output")
REASONING, ADDITIONAL_TOOLS, REFERENCE, COMPACTION = (
    "reasoning",
    "additional_tools",
    "item_reference",
    "compaction_trigger",
)
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_DETAILS = {"original": "high"}

NOT_STORED = (
    "The response was translated for an endpoint without the Responses API, which stores nothing: send the earlier"
    " items in `input` instead."
)

_decode_items = msgspec.json.Decoder(list[InputItem]).decode
_decode_content = msgspec.json.Decoder(Content).decode
_decode_parts = msgspec.json.Decoder(list[ContentPart]).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def not_stored(param: str) -> Refusal:
    """Return the refusal of a reference to a response, or an item, that is stored nowhere."""
    return Refusal(400, PREVIOUS_RESPONSE_NOT_FOUND, NOT_STORED, param=param)


# Decoding


def reading_input(raw: msgspec.Raw) -> Slices[list[ReadItem]]:
    """Decode the field `input`, in time slices. Raises Refusal (400)."""
    if raw == NOTHING:
        raise refusal("`input` is missing.", "input")
    if bytes(memoryview(raw)[:1]) == b'"':
        return [ReadItem(InputItem(role="user"), _decode_string(raw))]
    items: list[InputItem] = decoded_field(_decode_items, raw, ONLY, "input")
    if len(raw) <= SMALL_BYTES:
        return [_read(f"input[{position}]", item) for position, item in enumerate(items)]
    yield
    read_items: list[ReadItem] = []
    size = 0
    for position, item in enumerate(items):
        read_items.append(_read(f"input[{position}]", item))
        size += sum(map(len, (item.content, item.output, item.arguments, item.input, item.summary, item.tools)))
        if size > SLICE_BYTES:
            size = 0
            yield
    return read_items


def _read(place: str, item: InputItem) -> ReadItem:
    kind = item.type
    if kind is None or kind == "message":
        return ReadItem(item, _content(item.content, f"{place}.content"))
    if kind in RESULTS:
        return ReadItem(item, _content(item.output, f"{place}.output"))
    if kind in CALLS:
        name = CALLS[kind]
        return ReadItem(item, text=decoded_field(_decode_string, getattr(item, name), ONLY, f"{place}.{name}"))
    if kind == REASONING:
        parts = item.summary if item.content == NOTHING and is_unstored(item.id or "") else item.content
        return ReadItem(item, [] if parts == NOTHING else decoded_field(_decode_parts, parts, ONLY, f"{place}.content"))
    if kind == ADDITIONAL_TOOLS:
        return ReadItem(item, tools=read_tools(item.tools, f"{place}.tools"))
    return ReadItem(item)


def _content(raw: msgspec.Raw, place: str) -> Content:
    if raw == NOTHING:
        raise refusal(f"`{place}` is missing.", "input")
    content: Content = decoded_field(_decode_content, raw, ONLY, place)
    return content


# Messages


class TurnPart(TypedDict, total=False):
    """A part of a message: text, an image or a file."""

    type: str
    text: str
    image_url: Mapping[str, str]
    file: Mapping[str, str]


class TurnMessage(TypedDict, total=False):
    """A message of a chat completion; `reasoning_content` as DeepSeek, llama.cpp and vLLM read it."""

    role: str
    content: str | list[TurnPart] | None
    reasoning_content: str
    tool_calls: list[ChatCall]
    tool_call_id: str


class ItemTurns:
    """The messages of a chat completion, made of items in their order."""

    def __init__(self, tools: ChatTools, dropped: Dropped, instructions: str | None, *, keeps_reasoning: bool) -> None:
        """`keeps_reasoning`: the endpoint accepts `reasoning_content` in messages."""
        self.messages: list[TurnMessage] = []
        self._tools = tools
        self._dropped = dropped
        self._keeps_reasoning = keeps_reasoning
        self._system = [instructions] if instructions else []
        self._turn: TurnMessage | None = None  # of the assistant, which may have more calls
        self._thoughts: list[str] = []  # that wait for their turn
        self._images: list[TurnPart] = []  # of results

    def add(self, position: int, read: ReadItem, *, is_last: bool) -> None:
        """Translate an item. Raises Refusal (400)."""
        item, place = read.item, f"input[{position}]"
        kind = item.type
        if kind is None or kind == "message":
            self._add_message(place, item.role, read.content)
        elif kind in CALLS:
            self._add_call(place, item, read.text)
        elif kind in RESULTS:
            self._add_result(place, item, read.content)
        elif kind == REASONING:
            self._add_reasoning(item, read.content)
        elif kind == ADDITIONAL_TOOLS:
            self._tools.add_all(read.tools, f"{place}.tools")
        elif kind == REFERENCE:
            raise not_stored("input")
        elif kind == COMPACTION or is_last:
            fault = f"{kind[:40]!r} is not supported by this endpoint, which supports only {ONLY}"
            raise refusal(f"`{place}.type`: {fault}.", "input")
        else:
            self._dropped.add(f"input.{kind}")

    def end(self) -> None:
        """End the messages after the last item."""
        self._end_results()
        if self._system:
            self.messages.insert(0, {"role": "system", "content": "\n\n".join(self._system)})

    def _add_message(self, place: str, role: str | None, content: Content) -> None:
        chat_role = _ROLES.get(role or "")
        if chat_role is None:
            fault = f"must be user, assistant, system or developer, not {(role or '')[:40]!r}"
            raise refusal(f"`{place}.role`: {fault}.", "input")
        if chat_role == "system":
            self._system.append(_text(content, f"{place}.content", self._dropped))
            return
        self._end_results()
        if chat_role == "assistant":
            self._begin(self._thinking({"role": "assistant", "content": _assistant_text(content, f"{place}.content")}))
            self._turn = self.messages[-1]
        else:
            self._begin({"role": "user", "content": _joined(_parts(content, f"{place}.content"))})

    def _add_call(self, place: str, item: InputItem, text: str) -> None:
        if item.call_id is None or item.name is None:
            missing = "call_id" if item.call_id is None else "name"
            raise refusal(f"`{place}.{missing}` is missing.", "input")
        self._end_results()
        turn = self._turn
        if turn is None:
            self._begin({"role": "assistant", "content": None})
            turn = self._turn = self.messages[-1]
        self._thinking(turn)
        arguments = text if item.type == "function_call" else _encode({"input": text}).decode()
        name = flat_name(item.namespace, item.name)
        call: ChatCall = {"id": item.call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        turn.setdefault("tool_calls", []).append(call)

    def _add_result(self, place: str, item: InputItem, content: Content) -> None:
        if item.call_id is None:
            raise refusal(f"`{place}.call_id` is missing.", "input")
        parts = _parts(content, f"{place}.output")
        text = "\n".join(part["text"] for part in parts if part.get("text"))
        others = [part for part in parts if "text" not in part]
        if others and not text:
            text = "(in the next message)"
        self._turn = None
        self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
        self._images += others

    def _add_reasoning(self, item: InputItem, content: Content) -> None:
        sealed = item.encrypted_content or ""
        if sealed.startswith(SEAL):
            text = sealed[len(SEAL) :]
        else:
            text = "".join(part.text or "" for part in content if isinstance(part, ContentPart))
        if text and self._keeps_reasoning:
            self._thoughts.append(text)
        else:
            self._dropped.add(f"input.{REASONING}")

    def _thinking(self, turn: TurnMessage) -> TurnMessage:
        """Add the reasoning that waits to a turn of the assistant."""
        if self._thoughts:
            turn["reasoning_content"] = turn.get("reasoning_content", "") + "".join(self._thoughts)
            self._thoughts.clear()
        return turn

    def _begin(self, message: TurnMessage) -> None:
        self._turn = None
        self.messages.append(message)
        if message["role"] != "assistant":
            self._thoughts.clear()

    def _end_results(self) -> None:
        if self._images:
            self.messages.append({"role": "user", "content": self._images})
            self._images = []


def _parts(content: Content, place: str) -> list[TurnPart]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_part(part, f"{place}[{position}]") for position, part in enumerate(content)]


def _part(part: ContentPart, place: str) -> TurnPart:
    if part.type in _TEXTS or part.type == "refusal":
        return {"type": "text", "text": part.text or part.refusal or ""}
    if part.file_id is not None or part.file_url is not None:
        name = "file_id" if part.file_url is None else "file_url"
        needed = "image_url" if part.type == "input_image" else "file_data"
        raise refusal(f"`{place}.{name}`: this endpoint has no stored files; send `{needed}`.", "input")
    if part.type == "input_image":
        if not part.image_url:
            raise refusal(f"`{place}.image_url` is missing.", "input")
        image = {"url": part.image_url}
        if part.detail:
            image["detail"] = _DETAILS.get(part.detail, part.detail)
        return {"type": "image_url", "image_url": image}
    if part.type == "input_file":
        if not part.file_data:
            raise refusal(f"`{place}.file_data` is missing.", "input")
        named = {"filename": part.filename} if part.filename else {}
        return {"type": "file", "file": {**named, "file_data": part.file_data}}
    fault = f"{part.type[:40]!r} is not supported by this endpoint, which supports only {ONLY}"
    raise refusal(f"`{place}.type`: {fault}.", "input")


def _joined(parts: list[TurnPart]) -> str | list[TurnPart]:
    """Return parts that are text alone as one string, which every server accepts."""
    if any("text" not in part for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def _text(content: Content, place: str, dropped: Dropped) -> str:
    """Return the text of a message of the system, which cannot have anything else."""
    parts = _parts(content, place)
    if any("text" not in part for part in parts):
        dropped.add("input.content")
    return "\n".join(part["text"] for part in parts if "text" in part)


def _assistant_text(content: Content, place: str) -> str:
    parts: Iterable[TurnPart] = _parts(content, place)
    return "".join(part.get("text", "") for part in parts)
