"""Translation of the messages of a chat completion request to the turns of Anthropic's Messages.

Rules for the turns, which chat messages do not have:

1. The results of all calls of one assistant turn are in one user turn, before anything else in it.
2. Thinking comes first in an assistant turn. Without its signature it cannot be sent, and is left out.
3. Empty texts are left out, and messages that have nothing else.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import msgspec

from gateway.dialects.anthropic.chat_parts import (
    Block,
    CacheMark,
    document_block,
    image_block,
    text_blocks,
    thinking_blocks,
)
from gateway.dialects.chat.bodies import no_object, refusal
from gateway.dialects.chat.completions import is_object
from gateway.dialects.chat.dropped import Dropped
from gateway.dialects.chat.shapes import (
    AnyMessage,
    AssistantMessage,
    AudioPart,
    Call,
    DeveloperMessage,
    FilePart,
    FunctionMessage,
    ImagePart,
    Marked,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)

EPHEMERAL = "ephemeral"
SHORT, LONG = "5m", "1h"  # how long a cached prefix is kept
_LIFETIMES = {"30m": SHORT, "12h": LONG}  # by OpenAI's names
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")


class MessageTurn(TypedDict):
    role: str
    content: str | list[Block]


class Marks:
    """Reads the marks that end a prefix to be cached. `ttl`: OpenAI's lifetime of those that name none."""

    __slots__ = ("_ttl",)

    def __init__(self, ttl: str | None) -> None:
        self._ttl = ttl

    def of(self, marked: Marked) -> CacheMark | None:
        if (given := marked.cache_control) is not None:
            mark: CacheMark = {"type": EPHEMERAL}
            if given.get("ttl") in (SHORT, LONG):
                mark["ttl"] = given["ttl"]
            return mark
        if (given := marked.prompt_cache_breakpoint) is not None:
            return {"type": EPHEMERAL, "ttl": _LIFETIMES.get(str(given.get("ttl") or self._ttl), SHORT)}
        return None


class MessageTurns:
    """Builds system prompt and turns of one request."""

    def __init__(self, dropped: Dropped, marks: Marks, *, system_turns: bool) -> None:
        """`system_turns`: the model accepts system messages between other turns."""
        self.system: list[Block] = []
        self.turns: list[MessageTurn] = []
        self.called: dict[str, None] = {}  # names of the tools that were called
        self._dropped = dropped
        self._marks = marks
        self._system_turns = system_turns
        self._results: list[Block] = []  # of the last assistant turn
        self._notes: list[Block] = []  # texts of system messages, for the next user turn
        self._unnamed: dict[str, list[str]] = {}  # ids of calls in the older form, by function

    def add_all(self, messages: Iterable[AnyMessage]) -> None:
        """Add the messages of the request. Raises Refusal (400)."""
        for position, message in enumerate(messages):
            self._add(f"messages[{position}]", message)
        self._end_user_turn([])
        if not self.turns:
            raise refusal("`messages` must have a text besides those of the system.", "messages")
        if self.turns[-1]["role"] == "assistant":
            _strip_end(self.turns[-1])

    def marked_blocks(self) -> Iterable[Block]:
        """Return the blocks with marks, in their order."""
        for block in self.system:
            if "cache_control" in block:
                yield block
        for turn in self.turns:
            if not isinstance(turn["content"], str):
                yield from (block for block in turn["content"] if "cache_control" in block)

    def _add(self, place: str, message: AnyMessage) -> None:
        if not isinstance(message, FunctionMessage) and message.name is not None:
            self._dropped.add("messages.name")
        match message:
            case SystemMessage() | DeveloperMessage():
                self._add_system(self._with_mark(message, self._content(f"{place}.content", message.content)))
            case UserMessage():
                self._end_user_turn(self._with_mark(message, self._content(f"{place}.content", message.content)))
            case ToolMessage():
                self._add_result(place, _tool_id(message.tool_call_id), message, message.content)
            case FunctionMessage():
                ids = self._unnamed.get(message.name) or [_tool_id(f"call {message.name}")]
                self._add_result(place, ids.pop(0), message, message.content)
            case AssistantMessage():
                self._end_user_turn([])
                self._put("assistant", self._with_mark(message, self._assistant(place, message)))

    def _add_system(self, texts: list[Block]) -> None:
        if not self.turns and not self._results:
            self.system += texts
        elif not self._system_turns or self._awaits_results():
            self._notes += texts
        else:
            self._end_user_turn([])
            self._put("system", texts)

    def _awaits_results(self) -> bool:
        """Return True if the last turn has calls without results, which must follow it at once."""
        content = self.turns[-1]["content"] if self.turns else ""
        calls = 0 if isinstance(content, str) else sum(block["type"] == "tool_use" for block in content)
        return calls > len(self._results)

    def _add_result(self, place: str, call_id: str, message: Marked, content: Any) -> None:
        result: Block = {"type": "tool_result", "tool_use_id": call_id}
        mark = self._marks.of(message)
        blocks = self._content(f"{place}.content", content)
        for block in blocks:  # only the whole result can be marked
            mark = block.pop("cache_control", None) or mark
        if blocks:
            result["content"] = _plain(blocks)
        if mark is not None:
            result["cache_control"] = mark
        self._results.append(result)

    def _end_user_turn(self, blocks: list[Block]) -> None:
        self._put("user", self._results + self._notes + blocks)
        self._results, self._notes = [], []

    def _put(self, role: str, blocks: list[Block]) -> None:
        if blocks:
            self.turns.append({"role": role, "content": _plain(blocks)})

    def _with_mark(self, message: Marked, blocks: list[Block]) -> list[Block]:
        mark = self._marks.of(message)
        if mark is not None and blocks and blocks[-1]["type"] not in ("thinking", "redacted_thinking"):
            blocks[-1]["cache_control"] = mark
        return blocks

    # Assistant

    def _assistant(self, place: str, message: AssistantMessage) -> list[Block]:
        if message.audio is not None:
            raise refusal(f"`{place}.audio` cannot be sent to this endpoint, which supports only Messages.", "messages")
        blocks = thinking_blocks(message.reasoning_details or ())
        if not blocks and (message.reasoning_content or message.reasoning or message.reasoning_details):
            self._dropped.add("messages.reasoning_content")
        blocks += self._content(f"{place}.content", message.content)
        blocks += text_blocks(message.refusal or "")
        for nth, call in enumerate(message.tool_calls or ()):
            blocks.append(self._call(f"{place}.tool_calls[{nth}]", call))
        if message.function_call is not None:
            function = message.function_call
            call_id = _tool_id(f"call {function.name} {place}")
            self._unnamed.setdefault(function.name, []).append(call_id)
            blocks.append(self._call(f"{place}.function_call", Call(call_id, function)))
        return blocks

    def _call(self, place: str, call: Call) -> Block:
        call_id = _tool_id(call.id or place)
        if call.function is not None:
            name, arguments = call.function.name, call.function.arguments or ""
            if arguments.strip() and not is_object(arguments):
                within = place if place.endswith("function_call") else f"{place}.function"
                raise no_object(f"{within}.arguments", "messages")
            given: msgspec.Raw | Mapping[str, str] = msgspec.Raw(arguments.encode() if arguments.strip() else b"{}")
        elif call.custom is not None:
            name, given = call.custom.name, {"input": call.custom.input or ""}
        else:
            raise refusal(f"`{place}` must have a `function`.", "messages")
        self.called[name] = None
        return {"type": "tool_use", "id": call_id, "name": name, "input": given}

    # Parts

    def _content(self, place: str, content: str | Iterable[Any] | None) -> list[Block]:
        if content is None or isinstance(content, str):
            return text_blocks(content or "")
        blocks: list[Block] = []
        for nth, part in enumerate(content):
            own = self._part(f"{place}[{nth}]", part)
            blocks += self._with_mark(part, own) if isinstance(part, Marked) else own
        return blocks

    def _part(self, place: str, part: Any) -> list[Block]:
        match part:
            case TextPart(text=text):
                return text_blocks(text)
            case RefusalPart(refusal=text):
                return text_blocks(text)
            case ImagePart():
                if part.image_url.detail not in (None, "auto"):
                    self._dropped.add("messages.detail")
                return [image_block(f"{place}.image_url.url", part.image_url.url)]
            case FilePart():
                return [document_block(f"{place}.file", part)]
            case AudioPart():
                message = f"`{place}`: audio cannot be sent to this endpoint, which supports only Messages."
                raise refusal(message, "messages")
        raise AssertionError(f"{part!r} is no part of a message")


def _plain(blocks: list[Block]) -> str | list[Block]:
    """Return a text alone as a string."""
    if len(blocks) == 1 and blocks[0]["type"] == "text" and "cache_control" not in blocks[0]:
        return blocks[0]["text"]
    return blocks


def _strip_end(turn: MessageTurn) -> None:
    """Remove space at the end of a text that the model is to continue: with it, it would be refused."""
    content = turn["content"]
    if isinstance(content, str):
        turn["content"] = content.rstrip()
    elif content[-1]["type"] == "text":
        content[-1]["text"] = content[-1]["text"].rstrip()


def _tool_id(given: str) -> str:
    """Return the id of a call as Messages accept it. Equal ids stay equal, different ones different."""
    if _ID.fullmatch(given):
        return given
    digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_NOT_IN_IDS.sub('_', given[:32])}_{digest}"
