"""A stream of chat completion chunks on its way to a client of Anthropic's Messages API. No I/O.

Rules for the blocks of a message, which chunks do not have:

1. Blocks follow one another: none begins before the one in front of it has ended. Some clients know no other order.
2. Text ends a block of thinking, and the other way round. A call ends both.
3. A call's block ends when its arguments are a whole JSON object and something else has come, else with the answer.
   What comes in between waits: fragments of several calls may be mixed.
"""

import re
from collections import deque
from typing import Any

import msgspec

from gateway import surrogates
from gateway.anthropic import error_event, message_start, server_event
from gateway.anthropic_answer import (
    MAX_CALLS,
    Choice,
    Completion,
    Function,
    Said,
    ToolCall,
    arguments,
    cached_tokens,
    call_id,
    decode_completion,
    is_object,
    message_id,
    message_usage,
    new_call_id,
    spoken,
    stop,
    thinking,
)
from gateway.endpoint_errors import described
from gateway.errors import UPSTREAM_ERROR
from gateway.kinds import CHAT
from gateway.openai import dialect
from gateway.relay import BIG_EVENT_BYTES, EventTooLong, StreamRelay, _data

TEXT, THINKING, TOOL = "text", "thinking", "tool_use"

_DELTAS = {
    TEXT: ("text_delta", "text"),
    THINKING: ("thinking_delta", "thinking"),
    TOOL: ("input_json_delta", "partial_json"),
}


MAX_TRANSLATED_EVENT_BYTES = 4 << 20
MAX_TRANSLATED_EVENTS = 50  # that are passed on in one turn of the event loop
MAX_BLOCKS = 1000  # that wait for the end of the one before

_MARK = re.compile(r'["{}\[\]]')
_TEXT = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


class _Brackets:
    """Follows a JSON text that comes in pieces to where its brackets are closed. Reads each character once."""

    __slots__ = ("_depth", "_escaped", "_in_string", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._in_string = self._escaped = False

    def read(self, text: str) -> None:
        at, size = int(self._escaped), len(text)
        self._escaped = self._escaped and not text
        while at < size and not self.closed:
            at = self._read_string(text, at) if self._in_string else self._read_mark(text, at)

    def _read_string(self, text: str, at: int) -> int:
        end = _TEXT.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
        self._in_string = text[end : end + 1] != '"'
        self._escaped = text[end : end + 1] == "\\"  # what it escapes has not come yet
        return end + 1

    def _read_mark(self, text: str, at: int) -> int:
        mark = _MARK.search(text, at)
        if mark is None:
            return len(text)
        if mark[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if mark[0] in "[{" else -1
            self.closed = self._depth <= 0
        return mark.end()


class _Block:
    """Of the message. What has come for it waits until it may be sent."""

    __slots__ = ("_brackets", "_read", "_whole", "ended", "id", "index", "kind", "name", "sent", "waiting")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.id = ""  # a call's
        self.name = ""  # a call's; without it the block cannot begin
        self.index: int | None = None  # when it has begun
        self.ended = False
        self.waiting: list[str] = []
        self.sent: list[str] = []  # of a call
        self._whole: bool | None = None if kind == TOOL else True  # None: its brackets are not closed yet
        self._brackets = _Brackets()
        self._read = 0  # how many pieces of `sent` were looked at

    def take(self) -> str:
        """What has been waiting."""
        text = "".join(self.waiting)
        self.waiting.clear()
        if text and self.kind == TOOL:
            self.sent.append(text)
        return text

    @property
    def whole(self) -> bool:
        """May something else follow? Each fragment of another call asks, so that each piece is looked at once."""
        if self.kind != TOOL:
            return True
        for text in self.sent[self._read :]:
            if self._whole is None:
                self._brackets.read(text)
            elif text.strip():  # behind the end
                self._whole = False
        self._read = len(self.sent)
        if self._whole is None and self._brackets.closed:
            self._whole = is_object("".join(self.sent))
        return self._whole is True

    def start(self) -> dict[str, Any]:
        if self.kind == TOOL:
            return {"type": TOOL, "id": self.id or new_call_id(), "name": self.name, "input": {}}
        return {"type": self.kind, self.kind: "", **({"signature": ""} if self.kind == THINKING else {})}


class MessagesRelay(StreamRelay):
    """Feed it the upstream's chunks as they come; it returns the events to send on.

    `message_delta` and `message_stop` are in `held` as soon as the answer is finished, and are made anew when usage
    comes behind; an upstream's error is there, too. What follows it, or [DONE], is dropped.
    """

    max_event_bytes = MAX_TRANSLATED_EVENT_BYTES
    max_events = MAX_TRANSLATED_EVENTS

    def __init__(self, asked_model: str) -> None:
        super().__init__(dialect(CHAT), asked_model, hide_usage=True)
        self._begun = False
        self._over = False  # nothing that comes now counts
        self._blocks: deque[_Block] = deque()  # the first is being sent, the others wait for its end
        self._calls: dict[int | None, _Block] = {}  # by the index that chunks give them
        self._index = 0
        self._refused = False
        self._cached = 0
        self._stop: tuple[str, str | None] | None = None
        self._out: list[bytes] = []

    def end(self) -> None:
        pending, self._pending = bytes(self._pending), b""
        if _data(pending):
            rest = self._pass(pending, big=len(pending) > BIG_EVENT_BYTES)
            self.held = rest + self.held

    def _pass(self, raw: bytes, *, big: bool = False) -> bytes:
        data = self._big_data(raw) if big else _data(raw)
        if not data:  # all else that has no data is for nobody
            return self._pass_comment(raw) if raw.startswith(b":") and not self.held else b""
        self.events += 1
        if self._over:
            return b""
        try:
            event = surrogates.read_body(self._dialect.read_event, data)
            chunk = Completion() if data == b"[DONE]" else surrogates.read_body(decode_completion, data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b""
        self._take(event)
        self._over = event.last or event.error is not None
        if event.error is not None:
            self.held = self._clean(_error(chunk.error))
            return b""
        self._translate(chunk)
        self.held = self._ending() if self.finished else b""
        return self._sent()

    def _sent(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        if out and self._early:
            out, self._early = self._early + out, b""
        return out

    # Chunks

    def _translate(self, chunk: Completion) -> None:
        if chunk.usage is not None:
            self._cached = cached_tokens(chunk.usage) or self._cached
        choices = chunk.choices or ()
        if len(choices) > MAX_CALLS:
            raise EventTooLong
        for choice in choices:
            if not choice.index:  # one answer was asked for
                self._begin(chunk)
                if choice.delta is not None:
                    self._hear(choice.delta)
                self._note_stop(choice)
        if self.finished:
            self._begin(chunk)
            self._send(to_end=True)

    def _begin(self, chunk: Completion) -> None:
        if self._begun:
            return
        self._begun = True
        self._tell(message_start(message_id(chunk), self._asked))

    def _hear(self, said: Said) -> None:
        self._refused = self._refused or bool(said.refusal)
        for kind, text in ((THINKING, thinking(said)), (TEXT, spoken(said))):
            if text:
                self._last_block(kind).waiting.append(text)
                self._send()
        calls = said.tool_calls or ()
        if len(calls) > MAX_CALLS or len(self._blocks) > MAX_BLOCKS:
            raise EventTooLong
        for call in calls:
            self._hear_call(call)
            self._send()

    def _last_block(self, kind: str) -> _Block:
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind))
        return self._blocks[-1]

    def _hear_call(self, call: ToolCall) -> None:
        """Some servers give each call the index 0, or none: another id with a name is another call."""
        function = call.function or Function()
        name = function.name if isinstance(function.name, str) else ""
        key = call.index if isinstance(call.index, int) else None
        block = self._calls.get(key)
        if block is None or (name and block.id and call_id(call) not in ("", block.id)):
            block = self._calls[key] = _Block(TOOL)
            self._blocks.append(block)
        block.id = block.id or call_id(call)
        block.name = block.name or name
        if not block.ended:
            block.waiting.append(arguments(function))

    def _note_stop(self, choice: Choice) -> None:
        if choice.finish_reason is not None:
            self._stop = stop(choice, calls=bool(self._calls), refused=self._refused)

    # Events

    def _send(self, *, to_end: bool = False) -> None:
        """All that may be sent by now."""
        while self._blocks:
            block = self._blocks[0]
            if block.index is None:
                if block.kind == TOOL and not block.name and not to_end:
                    return
                block.index, self._index = self._index, self._index + 1
                self._tell({"type": "content_block_start", "index": block.index, "content_block": block.start()})
            self._send_waiting(block)
            if not to_end and (len(self._blocks) == 1 or not block.whole):
                return
            block.ended = True
            self._tell({"type": "content_block_stop", "index": block.index})
            self._blocks.popleft()

    def _send_waiting(self, block: _Block) -> None:
        if text := block.take():
            kind, field = _DELTAS[block.kind]
            self._tell({"type": "content_block_delta", "index": block.index, "delta": {"type": kind, field: text}})

    def _ending(self) -> bytes:
        """Without usage from the endpoint, the output is counted as for the record: a token for each delta."""
        reason, sequence = self._stop or stop(Choice(), calls=bool(self._calls), refused=self._refused)
        usage = message_usage(self.usage, self._cached) if self.usage else {"output_tokens": self.deltas}
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return _event({"type": "message_delta", "delta": delta, "usage": usage}) + _event({"type": "message_stop"})

    def _tell(self, event: dict[str, Any]) -> None:
        self._out.append(_event(event))


def _event(event: dict[str, Any]) -> bytes:
    return server_event(event["type"], event)


def _error(error: Any) -> bytes:
    status = error.get("code") if isinstance(error, dict) else None
    known = isinstance(status, int) and 400 <= status < 600
    return error_event(status if isinstance(status, int) and known else 502, UPSTREAM_ERROR, described(error).sentence)
