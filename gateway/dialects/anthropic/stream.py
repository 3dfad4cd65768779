"""Translation of a stream of chat completion chunks (SSE) to events of Anthropic's Messages API. No I/O.

Rules for the blocks of a message, which chunks do not have:

1. Blocks are sequential: none begins before the previous one has ended. Some clients require this order.
2. Text ends a block of thinking, and thinking a block of text. A call ends both.
3. A call's block ends when its arguments are a whole JSON object and another part has arrived, else with the response.
   Parts in between wait: fragments of several calls may be mixed.
"""

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from gateway.base.types import Data
from gateway.dialects import surrogates
from gateway.dialects.anthropic.messages_api import error_event, message_start, server_event
from gateway.dialects.anthropic.responses import BlockPayload, message_id, new_call_id, stop
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
    output_text,
    thinking,
)
from gateway.dialects.chat.relay import StreamTranslation
from gateway.dialects.endpoint_errors import described
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import Usage, message_usage

TEXT, THINKING, TOOL = "text", "thinking", "tool_use"

_DELTAS = {
    TEXT: ("text_delta", "text"),
    THINKING: ("thinking_delta", "thinking"),
    TOOL: ("input_json_delta", "partial_json"),
}


MAX_BLOCKS = 1000  # blocks that wait for the end of the previous one

_MARK = re.compile(r'["{}\[\]]')
_TEXT = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


class _Brackets:
    """Nesting of a JSON text that arrives in fragments, until all brackets are closed. It reads each character once."""

    __slots__ = ("_depth", "_escaped", "_in_string", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._in_string = self._escaped = False

    def read(self, text: str) -> None:
        position, size = int(self._escaped), len(text)
        self._escaped = self._escaped and not text
        while position < size and not self.closed:
            position = self._read_string(text, position) if self._in_string else self._read_mark(text, position)

    def _read_string(self, text: str, position: int) -> int:
        end = _TEXT.match(text, position).end()  # type: ignore[union-attr]  # the pattern matches any text
        self._in_string = text[end : end + 1] != '"'
        self._escaped = text[end : end + 1] == "\\"  # the escaped character has not arrived yet
        return end + 1

    def _read_mark(self, text: str, position: int) -> int:
        mark = _MARK.search(text, position)
        if mark is None:
            return len(text)
        if mark[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if mark[0] in "[{" else -1
            self.closed = self._depth <= 0
        return mark.end()


class _Block:
    """A block of the message. Received text waits until it may be sent."""

    __slots__ = ("_brackets", "_read", "_whole", "ended", "id", "index", "kind", "name", "sent", "waiting")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.id = ""  # of a call
        self.name = ""  # of a call; without it the block cannot begin
        self.index: int | None = None  # set when the block has begun
        self.ended = False
        self.waiting: list[str] = []
        self.sent: list[str] = []  # fragments of a call
        self._whole: bool | None = None if kind == TOOL else True  # None: its brackets are not closed yet
        self._brackets = _Brackets()
        self._read = 0  # number of fragments in `sent` that were checked

    def take(self) -> str:
        """Return the waiting text, and store it as sent."""
        text = "".join(self.waiting)
        self.waiting.clear()
        if text and self.kind == TOOL:
            self.sent.append(text)
        return text

    @property
    def whole(self) -> bool:
        """Return True if another block may follow.

        Each fragment of another call checks this, so that each fragment is read once.
        """
        if self.kind != TOOL:
            return True
        for text in self.sent[self._read :]:
            if self._whole is None:
                self._brackets.read(text)
            elif text.strip():  # text after the end
                self._whole = False
        self._read = len(self.sent)
        if self._whole is None and self._brackets.closed:
            self._whole = is_object("".join(self.sent))
        return self._whole is True

    def start(self) -> BlockPayload:
        """Return the block as it begins."""
        if self.kind == TOOL:
            return {"type": TOOL, "id": self.id or new_call_id(), "name": self.name, "input": {}}
        if self.kind == THINKING:
            return {"type": THINKING, "thinking": "", "signature": ""}
        return {"type": TEXT, "text": ""}


class MessageEvents(StreamTranslation[Completion]):
    """Translation of the chunks of one message to its events, which wait in `_out` for `take`."""

    def __init__(self, model: str) -> None:
        """`model`: the model name that the client requested."""
        super().__init__(Completion())
        self._model = model
        self._started = False
        self._blocks: deque[_Block] = deque()  # the first is being sent, the others wait for its end
        self._calls: dict[int | None, _Block] = {}  # by the index that chunks give them
        self._index = 0
        self._refused = False
        self._stop: tuple[str, str | None] | None = None

    def decode(self, data: Data) -> Completion:
        return surrogates.read_body(decode_completion, data)

    def add(self, chunk: Completion, *, finished: bool) -> None:
        """Translate a chunk; `finished`: the response is complete with it. Raises EventTooLong."""
        choices = chunk.choices or ()
        if len(choices) > MAX_CALLS:
            raise EventTooLong
        for choice in choices:
            if not choice.index:  # the request has asked for one choice
                self._begin(chunk)
                if choice.delta is not None:
                    self._add_delta(choice.delta)
                self._set_stop(choice)
        if finished:
            self._begin(chunk)
            self._send(to_end=True)

    def error(self, chunk: Completion) -> bytes:
        return _error(chunk.error)

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        """Return the last two events of the message.

        Without usage from the endpoint, the output is counted as for the record: a token for each delta.
        """
        reason, sequence = self._stop or stop(Choice(), calls=bool(self._calls), refused=self._refused)
        counts: Mapping[str, Any] = {"output_tokens": deltas}
        if usage is not None:
            counts = message_usage(usage if usage.output_tokens is not None else Usage(None, deltas).merged_with(usage))
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return _event({"type": "message_delta", "delta": delta, "usage": counts}) + _event({"type": "message_stop"})

    # Chunks

    def _begin(self, chunk: Completion) -> None:
        if not self._started:
            self._started = True
            self._put(message_start(message_id(chunk), self._model))

    def _add_delta(self, delta: OutputMessage) -> None:
        self._refused = self._refused or bool(delta.refusal)
        for kind, text in ((THINKING, thinking(delta)), (TEXT, output_text(delta))):
            if text:
                self._last_block(kind).waiting.append(text)
                self._send()
        calls = delta.tool_calls or ()
        if len(calls) > MAX_CALLS or len(self._blocks) > MAX_BLOCKS:
            raise EventTooLong
        for call in calls:
            self._add_call(call)
            self._send()

    def _last_block(self, kind: str) -> _Block:
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind))
        return self._blocks[-1]

    def _add_call(self, call: ToolCall) -> None:
        """Add a fragment of a call."""
        function = call.function or Function()
        name = function.name if isinstance(function.name, str) else ""
        key = call.index if isinstance(call.index, int) else None
        block = self._calls.get(key)
        if block is None or begins_another(call, block.id):
            block = self._calls[key] = _Block(TOOL)
            self._blocks.append(block)
        block.id = block.id or call_id(call)
        block.name = block.name or name
        if not block.ended:
            block.waiting.append(arguments(function))

    def _set_stop(self, choice: Choice) -> None:
        if choice.finish_reason is not None:
            self._stop = stop(choice, calls=bool(self._calls), refused=self._refused)

    # Events

    def _send(self, *, to_end: bool = False) -> None:
        """Put out the events of all blocks that may be sent by now."""
        while self._blocks:
            block = self._blocks[0]
            if block.index is None:
                if block.kind == TOOL and not block.name and not to_end:
                    return
                block.index, self._index = self._index, self._index + 1
                self._put({"type": "content_block_start", "index": block.index, "content_block": block.start()})
            self._send_waiting(block)
            if not to_end and (len(self._blocks) == 1 or not block.whole):
                return
            block.ended = True
            self._put({"type": "content_block_stop", "index": block.index})
            self._blocks.popleft()

    def _send_waiting(self, block: _Block) -> None:
        if text := block.take():
            kind, field = _DELTAS[block.kind]
            self._put({"type": "content_block_delta", "index": block.index, "delta": {"type": kind, field: text}})

    def _put(self, event: Mapping[str, Any]) -> None:
        self._out.append(_event(event))


def _event(event: Mapping[str, Any]) -> bytes:
    return server_event(event["type"], event)


def _error(error: Any) -> bytes:
    status = error.get("code") if isinstance(error, dict) else None
    known = isinstance(status, int) and 400 <= status < 600
    return error_event(status if isinstance(status, int) and known else 502, described(error).sentence)
