"""Translation of a stream of chat completion chunks (SSE) to events of OpenAI's Responses API. No I/O.

Rules for the items of a response, which chunks do not have:

1. Reasoning and text are open one at a time: some clients count a delta for the item that began last.
2. A call ends when its arguments are a whole JSON object and another call begins, else with the response.
3. Reasoning and text that arrive after a call wait for the end of the response.
4. The input of a custom tool is sent when it is complete: it is part of a JSON object until then.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.base.types import Data
from gateway.dialects import surrogates
from gateway.dialects.chat.completions import (
    MAX_CALLS,
    Choice,
    Completion,
    Function,
    OutputMessage,
    ToolCall,
    arguments,
    begins_another,
    call_id,
    decode_completion,
    is_object,
    plain_text,
    string,
    thinking,
)
from gateway.dialects.chat.relay import ALIVE, StreamTranslation
from gateway.dialects.endpoint_errors import described
from gateway.dialects.responses.objects import failure_events, new_id, response_event
from gateway.dialects.responses.open_items import INDEX_NAMES, PART_EVENTS, TEXT_EVENTS, CallItem, TextItem
from gateway.dialects.responses.translation import ResponsesTranslation
from gateway.dialects.responses.whole import (
    COMPLETED,
    INCOMPLETE,
    OUTPUT_TEXT,
    REASONING_TEXT,
    REFUSAL,
    SUMMARY_TEXT,
    call_item,
    called_tool,
    ended_response,
    ending_of,
    item_prefix,
    message_item,
    new_call_id,
    new_response,
    part_of,
    reasoning_item,
)
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage

MAX_OUTPUT = 2 << 20  # characters of a whole response, which its last event repeats
_TOO_LONG = frozenset(("context_length_exceeded", "exceed_context_size_error"))

_encode = msgspec.json.Encoder().encode


class ResponseEvents(StreamTranslation[Completion]):
    """Translation of the chunks of one response to its events, which wait in `_out` for `take`."""

    def __init__(self, model: str, translation: ResponsesTranslation) -> None:
        """`model`: the model name that the client requested."""
        super().__init__(Completion())
        self.number = 0  # of the next event
        self.response_id: str | None = None  # None: the response has not begun
        self._translation = translation
        self._response = new_response(model, translation)
        self._output: dict[int, msgspec.Raw] = {}  # items that have ended, by their index
        self._text: TextItem | None = None
        self._calls: dict[int | None, CallItem] = {}  # by the index that chunks give them
        self._last_call: CallItem | None = None
        self._late: list[tuple[str, list[str]]] = []  # kinds and texts that wait for the end of the calls
        self._size = self._items = self._called = 0
        self._ending = ending_of(None)

    def decode(self, data: Data) -> Completion:
        return surrogates.read_body(decode_completion, data)

    def add(self, chunk: Completion, *, finished: bool) -> None:
        choices = chunk.choices or ()
        if len(choices) > MAX_CALLS:
            raise EventTooLong
        for choice in choices:
            if not choice.index:  # the request has asked for one choice
                self._begin()
                if choice.delta is not None:
                    self._add_delta(choice.delta)
                self._set_ending(choice)
        if finished:
            self._begin()
            self._end_items()

    def error(self, chunk: Completion) -> bytes:
        error = described(chunk.error)
        code = "server_error"
        if error.status == 429 or "rate_limit_exceeded" in error.words:
            code = "rate_limit_exceeded"
        elif not _TOO_LONG.isdisjoint(error.words):
            code = "context_length_exceeded"
        return failure_events(code, error.sentence, self._response["model"], self.response_id, self.number)

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        """Return the last event. Without usage from the endpoint it has none; the record has an estimate."""
        if usage is not None and usage.output_tokens is None:
            usage = Usage(None, deltas).merged_with(usage)
        output = [self._output[index] for index in sorted(self._output)]
        response = ended_response(self._response, output, usage, self._ending)
        return response_event(f"response.{self._ending['status']}", self.number, {"response": response})

    # Chunks

    def _begin(self) -> None:
        if self.response_id is None:
            self.response_id = self._response["id"]
            self._put("response.created", {"response": self._response})
            self._put("response.in_progress", {"response": self._response})

    def _add_delta(self, delta: OutputMessage) -> None:
        reasoning = SUMMARY_TEXT if self._translation.summarises else REASONING_TEXT
        for kind, text in (
            (reasoning, thinking(delta)),
            (OUTPUT_TEXT, plain_text(delta.content)),
            (REFUSAL, plain_text(delta.refusal)),
        ):
            if text:
                self._count(text)
                if self._calls:
                    self._add_late(kind, text)
                else:
                    self._add_text(kind, text)
        for call in delta.tool_calls or ():
            self._add_call(call)

    def _add_late(self, kind: str, text: str) -> None:
        if not self._late or self._late[-1][0] != kind:
            self._late.append((kind, []))
        self._late[-1][1].append(text)
        self._out.append(ALIVE)

    def _count(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_OUTPUT:
            raise EventTooLong

    def _set_ending(self, choice: Choice) -> None:
        if choice.finish_reason is not None:
            self._ending = ending_of(choice)

    @property
    def _status(self) -> str:
        """The status of items that the end of the response ends."""
        return INCOMPLETE if self._ending["status"] == INCOMPLETE else COMPLETED

    # Reasoning and text

    def _add_text(self, kind: str, text: str) -> None:
        is_reasoning = kind in (SUMMARY_TEXT, REASONING_TEXT)
        item = self._text
        if item is None or is_reasoning != (item.kind in (SUMMARY_TEXT, REASONING_TEXT)):
            self._end_text(COMPLETED)
            item = self._text = TextItem(self._next_index(), is_reasoning=is_reasoning)
            self._put_item("added", item.index, self._begun(item, is_reasoning=is_reasoning))
        if item.kind != kind:
            self._end_part(item)
            item.kind = kind
            self._put_in(item, f"{PART_EVENTS.get(kind, 'response.content_part')}.added", {"part": part_of(kind, "")})
        item.pieces.append(text)
        more: dict[str, Any] = {"logprobs": []} if kind == OUTPUT_TEXT else {}
        self._put_in(item, f"{TEXT_EVENTS[kind]}.delta", {"delta": text, **more})

    def _begun(self, item: TextItem, *, is_reasoning: bool) -> Mapping[str, Any]:
        if is_reasoning:
            return reasoning_item(item.id, "", self._translation, is_whole=False)
        return message_item(item.id, [], "in_progress")

    def _end_part(self, item: TextItem) -> None:
        if not item.kind:
            return
        kind, text = item.kind, "".join(item.pieces)
        item.pieces.clear()
        part = part_of(kind, text)
        done: dict[str, Any] = {"refusal" if kind == REFUSAL else "text": text}
        if kind == OUTPUT_TEXT:
            done["logprobs"] = []
        self._put_in(item, f"{TEXT_EVENTS[kind]}.done", done)
        self._put_in(item, f"{PART_EVENTS.get(kind, 'response.content_part')}.done", {"part": part})
        item.done.append(part)

    def _end_text(self, status: str) -> None:
        item, self._text = self._text, None
        if item is None:
            return
        self._end_part(item)
        if item.kind in (SUMMARY_TEXT, REASONING_TEXT):
            whole = reasoning_item(item.id, string(item.done[0]["text"]), self._translation)
        else:
            whole = message_item(item.id, item.done, status)
        self._end_item(item.index, whole)

    # Calls

    def _add_call(self, call: ToolCall) -> None:
        """Add a fragment of a call."""
        function = call.function or Function()
        name = string(function.name)
        key = call.index if isinstance(call.index, int) else None
        item = self._calls.get(key)
        if item is None or begins_another(call, item.given_id):
            if item is not None:
                self._end_call(item, COMPLETED)
            self._called += 1
            if self._called > MAX_CALLS:
                raise EventTooLong
            self._begin_next_call()
            item = self._calls[key] = self._last_call = CallItem()
        item.given_id = item.given_id or call_id(call)
        item.name = item.name or name
        if item.name and not item.begun:
            self._begin_call(item)
        piece = arguments(function)
        if piece and not item.ended:
            self._count(piece)
            item.pieces.append(piece)
            self._put_arguments(item, piece)

    def _begin_next_call(self) -> None:
        """End what may end before another call begins. The arguments of each call are read once."""
        self._end_text(COMPLETED)
        item = self._last_call
        if item is not None and item.begun and is_object("".join(item.pieces)):
            self._end_call(item, COMPLETED)

    def _begin_call(self, item: CallItem) -> None:
        item.begun = True
        item.index = self._next_index()
        item.tool = called_tool(item.name, self._translation)
        item.id = new_id(item_prefix(item.tool))
        item.given_id = item.given_id or new_call_id()
        self._put_item("added", item.index, call_item(item.id, item.given_id, item.tool, "", "in_progress"))
        if item.pieces:  # they arrived before the name
            self._put_arguments(item, "".join(item.pieces))

    def _put_arguments(self, item: CallItem, piece: str) -> None:
        if not item.begun or item.tool.is_custom:
            self._out.append(ALIVE)
            return
        self._put_of(item, "response.function_call_arguments.delta", {"delta": piece})

    def _end_call(self, item: CallItem, status: str) -> None:
        if item.ended:
            return
        if not item.begun:
            self._begin_call(item)
        item.ended = True
        written = "".join(item.pieces) or "{}"
        whole = call_item(item.id, item.given_id, item.tool, written, status)
        if item.tool.is_custom:
            self._put_of(item, "response.custom_tool_call_input.delta", {"delta": whole["input"]})
            self._put_of(item, "response.custom_tool_call_input.done", {"input": whole["input"]})
        else:
            done = {"name": item.tool.name, "arguments": written}
            self._put_of(item, "response.function_call_arguments.done", done)
        self._end_item(item.index, whole)

    # Events

    def _end_items(self) -> None:
        self._end_text(self._status)
        for item in list(self._calls.values()):
            self._end_call(item, self._status)
        late, self._late = self._late, []
        for kind, pieces in late:
            self._add_text(kind, "".join(pieces))
        self._end_text(self._status)

    def _next_index(self) -> int:
        self._items += 1
        return self._items - 1

    def _end_item(self, index: int, whole: Mapping[str, Any]) -> None:
        self._output[index] = encoded = msgspec.Raw(_encode(whole))
        self._put_item("done", index, encoded)

    def _put_item(self, what: str, index: int, item: Mapping[str, Any] | msgspec.Raw) -> None:
        self._put(f"response.output_item.{what}", {"output_index": index, "item": item})

    def _put_in(self, item: TextItem, kind: str, fields: Mapping[str, Any]) -> None:
        index_field = {INDEX_NAMES.get(item.kind, "content_index"): len(item.done)}
        self._put(kind, {"item_id": item.id, "output_index": item.index, **index_field, **fields})

    def _put_of(self, item: CallItem, kind: str, fields: Mapping[str, Any]) -> None:
        self._put(kind, {"item_id": item.id, "output_index": item.index, **fields})

    def _put(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._out.append(response_event(kind, self.number, fields))
        self.number += 1
