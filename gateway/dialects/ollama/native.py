"""Responses of an Ollama that pass through: the name of the model, the token counts and the end are read. No I/O."""

from dataclasses import dataclass

import msgspec

from gateway.base.types import Data
from gateway.dialects import surrogates
from gateway.dialects.endpoint_errors import described
from gateway.dialects.json_text import encode, rename_model, small_value
from gateway.dialects.openai_events import Dialect, Event
from gateway.dialects.sse_relay import EventTooLong, StreamRelay
from gateway.dialects.usage import NOT_REPORTED, TOOL_CALLS, Usage, finish_reason, read_count

MAX_LINE_BYTES = 4 << 20


_NOTHING = msgspec.Raw(b"null")
_NO_OUTPUT = frozenset((b"null", b'""', b"[]"))


class _NativeMessage(msgspec.Struct):
    content: msgspec.Raw = _NOTHING
    thinking: msgspec.Raw = _NOTHING
    tool_calls: msgspec.Raw = _NOTHING


class _NativeObject(msgspec.Struct):
    """A line of a stream, or a whole response. What may be long is not decoded."""

    model: str | None = None
    message: _NativeMessage | None = None
    response: msgspec.Raw = _NOTHING
    thinking: msgspec.Raw = _NOTHING
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: int | float | None = None
    eval_count: int | float | None = None
    error: msgspec.Raw = _NOTHING


_NO_MESSAGE = _NativeMessage()
_decode = msgspec.json.Decoder(_NativeObject).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_line(data: Data) -> Event:
    """Read a line of a stream. Raises msgspec.DecodeError."""
    line = _decode(data)
    message = line.message or _NO_MESSAGE
    parts = (message.content, message.thinking, message.tool_calls, line.response, line.thinking)
    event = Event(line.model, deltas=int(any(map(_has_output, parts))))
    if _has_output(message.tool_calls):
        event.finish_reason = TOOL_CALLS
    if line.done is True:
        event.usage, event.finished, event.last = _usage(line), True, True
        event.finish_reason = event.finish_reason or finish_reason(line.done_reason)
    if line.error != _NOTHING:
        event.error, event.last = described(small_value(bytes(line.error))), True
    return event


def _has_output(raw: msgspec.Raw) -> bool:
    view = memoryview(raw)
    return len(view) > len(b"null") or bytes(view) not in _NO_OUTPUT


def _usage(response: _NativeObject) -> Usage | None:
    counts = {"in": response.prompt_eval_count, "out": response.eval_count}
    usage = Usage(read_count(counts, "in"), read_count(counts, "out"))
    return None if usage == NOT_REPORTED else usage


def read_native(body: bytes, shown: str, *, keep_context: bool) -> tuple[bytes, Usage | None]:
    """Return a whole response with the model's name as the client knows it, and its usage."""
    try:
        response = surrogates.read_body(_decode, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    if response.model is not None and response.model != shown:
        body = rename_model(body, response.model, shown)
    if not keep_context:
        body = without_context(body)
    usage = _usage(response)
    calls = _has_output((response.message or _NO_MESSAGE).tool_calls)
    reason = TOOL_CALLS if calls else finish_reason(response.done_reason)
    return body, usage if reason is None else (usage or NOT_REPORTED).ended_by(reason)


def without_context(body: bytes) -> bytes:
    """Return an object without `context`, which only the server that made it understands."""
    if b'"context"' not in body:
        return body
    try:
        fields = _decode_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    return body if fields.pop("context", None) is None else encode(fields)


@dataclass(frozen=True, slots=True)
class OllamaDialect(Dialect):
    """Format of Ollama's streams: JSON objects, one a line."""

    def error_event(self, body: bytes) -> bytes:
        return error_line(body)


def error_line(body: bytes) -> bytes:
    """Return a line with the message of an error body in OpenAI's format."""
    return ollama_error(msgspec.json.decode(body)["error"]["message"]) + b"\n"


def ollama_error(message: str) -> bytes:
    """Return the body of an error in Ollama's format."""
    return encode({"error": message})


DIALECT = OllamaDialect(read_line, usage_on_request=False, read_big=read_line, has_comments=False)


class NativeRelay(StreamRelay):
    """Relay of an Ollama's lines. The last one is held until the request is recorded."""

    def __init__(self, shown: str, *, keep_context: bool) -> None:
        super().__init__(DIALECT, shown, hide_usage=False)
        self._keep_context = keep_context

    def feed(self, data: bytes) -> bytes:
        pending = self._pending
        if pending and not self.behind and b"\n" not in data:
            grown = pending if isinstance(pending, bytearray) else bytearray(pending)
            grown += data
            self._pending = grown
            self._check(len(grown))
            return b""
        if pending:
            data = bytes(pending) + data
        self.behind = False
        out: list[bytes] = []
        start = 0
        for _ in range(self.max_events):
            end = data.find(b"\n", start) + 1
            if not end:
                break
            self._check(end - start)
            out.append(self._relay_event(data[start:end]))
            start = end
        else:
            self.behind = start < len(data)
        self._pending = data[start:]
        if not self.behind:
            self._check(len(self._pending))
        return b"".join(out)

    @staticmethod
    def _check(size: int) -> None:
        if size > MAX_LINE_BYTES:
            raise EventTooLong

    def _relay_event(self, raw: bytes, *, big: bool = False) -> bytes:
        if not raw.strip():
            return b""
        self.events += 1
        if not raw.endswith(b"\n"):
            raw += b"\n"
        try:
            event = surrogates.read_body(read_line, raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._pass_unread(raw)
        self._count_event(event)
        if event.error is not None:
            return self._hold(self._clean(raw))
        if event.model is not None and event.model != self._requested_model:
            raw = rename_model(raw, event.model, self._requested_model)
        if not event.last and not self.held:
            return raw
        return self._hold(raw if self._keep_context else without_context(raw).rstrip(b"\n") + b"\n")
