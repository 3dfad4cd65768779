"""Translation of a stream of Anthropic's Messages API (SSE) to chunks of chat completions. No I/O.

Rules for the chunks:

1. `index` of a call counts calls only, not all blocks.
2. A call without arguments has `{}`.
3. The input of a custom tool is sent when it is complete: it is part of a JSON object until then.
4. Unknown events, blocks and deltas are skipped: Anthropic may add them at any time.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.base.types import Data
from gateway.dialects import surrogates
from gateway.dialects.anthropic.chat_responses import (
    OutputBlock,
    chat_error,
    completion_id,
    explanation,
    requested_form,
    stop_reason,
    thinking_detail,
)
from gateway.dialects.anthropic.messages_api import DIALECT
from gateway.dialects.chat.completions import MAX_CALLS, custom_input, string
from gateway.dialects.chat.relay import (
    ALIVE,
    MAX_TRANSLATED_EVENT_BYTES,
    StreamTranslation,
)
from gateway.dialects.chat.translation import Translation
from gateway.dialects.openai_events import CHUNKS
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage, chat_usage

_encode = msgspec.json.Encoder().encode


class _BlockDelta(msgspec.Struct):
    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    stop_reason: Any = None
    stop_details: Any = None


class _MessagesEvent(msgspec.Struct):
    type: Any = None
    index: Any = None
    message: Any = None
    content_block: OutputBlock | None = None
    delta: _BlockDelta | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_MessagesEvent).decode


class _OpenCall:
    """A call whose arguments are arriving."""

    __slots__ = ("begun", "given", "index", "is_custom", "pieces", "size")

    def __init__(self, index: int, given: str, *, is_custom: bool) -> None:
        self.index = index
        self.given = given  # arguments that came with the beginning of the block
        self.is_custom = is_custom
        self.begun = False  # a part of its arguments was sent
        self.pieces: list[str] = []  # of a custom tool
        self.size = 0


class CompletionChunks(StreamTranslation[_MessagesEvent]):
    """Translation of the events of one message to chunks, which wait in `_out` for `take`."""

    def __init__(self, model: str, translation: Translation, *, wants_usage: bool) -> None:
        """`model`: the model name that the client requested; `wants_usage`: it expects a chunk with the usage."""
        super().__init__(_MessagesEvent(), DIALECT)
        self._started = False
        self._translation = translation
        self._wants_usage = wants_usage
        self._model = model
        self._head = b""
        self._tail = b"}]" + (b',"usage":null' if wants_usage else b"") + b"}\n\n"
        self._calls: dict[int, _OpenCall] = {}  # by the index of their blocks
        self._called = 0
        self._reason: Any = None

    def decode(self, data: Data) -> _MessagesEvent:
        return surrogates.read_body(_decode_event, data)

    def add(self, event: _MessagesEvent, *, finished: bool) -> None:
        match event.type:
            case "message_start":
                self._begin(event.message.get("id") if isinstance(event.message, dict) else None)
            case "ping":
                if self._started:
                    self._out.append(ALIVE)
            case "content_block_stop":
                self._stop_block(_index_of(event))
            case _:
                self._add_content(event)
        if finished:
            self._begin(None)

    def _add_content(self, event: _MessagesEvent) -> None:
        block, delta = event.content_block, event.delta
        if event.type == "content_block_start" and block is not None:
            self._begin(None)
            self._start_block(_index_of(event), block)
        elif event.type == "content_block_delta" and delta is not None:
            self._begin(None)
            self._add_delta(_index_of(event), delta)
        elif event.type == "message_delta" and delta is not None:
            self._set_stop(delta)

    def error(self, event: _MessagesEvent) -> bytes:
        return b"data: %b\n\n" % _encode(chat_error(event.error))

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        """Return the last chunks: finish reason, usage if the client expects it, and the end of the stream."""
        reason = requested_form(stop_reason(self._reason, calls=bool(self._called)), self._translation)
        last = self._chunk({}, reason)
        if self._wants_usage and usage is not None:
            whole = usage if usage.output_tokens is not None else Usage(None, deltas).merged_with(usage)
            last += b'%b"choices":[],"usage":%b}\n\n' % (self._head, _encode(chat_usage(whole)))
        return last + CHUNKS.done

    def _begin(self, message_id: Any) -> None:
        if not self._started:
            self._started = True
            head = {
                "id": completion_id(message_id),
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": self._model,
            }
            self._head = b"data: " + _encode(head)[:-1] + b","
            self._put({"role": "assistant", "content": ""})

    # Blocks

    def _start_block(self, index: int, block: OutputBlock) -> None:
        match block.type:
            case "text":
                self._put_text("content", block.text)
            case "thinking":
                if string(block.thinking) or string(block.signature):
                    self._put_thinking(index, block.thinking, block.signature)
            case "redacted_thinking":
                self._put({"reasoning_details": [thinking_detail(block, index)]})
            case "tool_use":
                self._start_call(index, block)

    def _add_delta(self, index: int, delta: _BlockDelta) -> None:
        match delta.type:
            case "text_delta":
                self._put_text("content", delta.text)
            case "thinking_delta" | "signature_delta":
                self._put_thinking(index, delta.thinking, delta.signature)
            case "input_json_delta":
                call = self._calls.get(index)
                if call is not None and (piece := string(delta.partial_json)):
                    self._add_arguments(call, piece)

    def _put_text(self, name: str, text: Any) -> None:
        if string(text):
            self._put({name: text})

    def _put_thinking(self, index: int, thinking: Any, signature: Any) -> None:
        delta: dict[str, Any] = {}
        detail: dict[str, Any] = {"type": "reasoning.text"}
        if text := string(thinking):
            delta["reasoning_content"] = detail["text"] = text
        if signed := string(signature):
            detail["signature"] = signed
        if len(detail) > 1:
            detail["index"] = index
            self._put({**delta, "reasoning_details": [detail]})

    # Calls

    def _start_call(self, index: int, block: OutputBlock) -> None:
        if self._called >= MAX_CALLS:
            raise EventTooLong
        name, call_id = string(block.name), string(block.id)
        is_custom = name in self._translation.custom_tools
        given = bytes(block.input).decode("utf-8", "replace")
        self._calls[index] = call = _OpenCall(self._called, "" if given == "{}" else given, is_custom=is_custom)
        self._called += 1
        if is_custom:
            self._put_call(call, {"id": call_id, "type": "custom", "custom": {"name": name, "input": ""}})
        elif self._translation.one_call:
            self._put_function({"name": name, "arguments": ""}, call)
        else:
            self._put_call(call, {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}})

    def _add_arguments(self, call: _OpenCall, piece: str) -> None:
        call.begun = True
        if not call.is_custom:
            self._put_arguments(call, piece)
            return
        call.pieces.append(piece)
        call.size += len(piece)
        if call.size > MAX_TRANSLATED_EVENT_BYTES:
            raise EventTooLong
        self._out.append(ALIVE)

    def _stop_block(self, index: int) -> None:
        call = self._calls.pop(index, None)
        if call is None:
            return
        if call.is_custom:
            whole = "".join(call.pieces) or call.given
            self._put_call(call, {"custom": {"input": custom_input(whole) if whole else ""}})
        elif not call.begun:
            self._put_arguments(call, call.given or "{}")

    def _put_arguments(self, call: _OpenCall, piece: str) -> None:
        if self._translation.one_call:
            self._put_function({"arguments": piece}, call)
        else:
            self._put_call(call, {"function": {"arguments": piece}})

    def _put_call(self, call: _OpenCall, fields: Mapping[str, Any]) -> None:
        self._put({"tool_calls": [{"index": call.index, **fields}]})

    def _put_function(self, fields: Mapping[str, str], call: _OpenCall) -> None:
        """Put out a part of a call in the older form, which has one call only."""
        if call.index == 0:
            self._put({"function_call": fields})

    # Chunks

    def _set_stop(self, delta: _BlockDelta) -> None:
        if delta.stop_reason is not None:
            self._reason = delta.stop_reason
        if (text := explanation(delta.stop_details)) is not None:
            self._begin(None)
            self._put({"refusal": text})

    def _put(self, delta: Mapping[str, Any]) -> None:
        self._out.append(self._chunk(delta, None))

    def _chunk(self, delta: Mapping[str, Any], reason: str | None) -> bytes:
        return b'%b"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b%b' % (
            self._head,
            _encode(delta),
            _encode(reason),
            self._tail,
        )


def _index_of(event: _MessagesEvent) -> int:
    """Return the index of a block; 0 if the endpoint wrote anything else."""
    return event.index if type(event.index) is int else 0
