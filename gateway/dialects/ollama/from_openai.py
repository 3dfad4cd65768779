"""Translation of OpenAI's responses to Ollama's: whole ones, and streams of chunks to lines of JSON. No I/O."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.base import causes
from gateway.base.request_kinds import OLLAMA_CHAT
from gateway.base.types import Data
from gateway.dialects import surrogates
from gateway.dialects.chat.completions import (
    MAX_CALLS,
    Choice,
    Function,
    NoChatCompletion,
    OutputMessage,
    ToolCall,
    arguments,
    begins_another,
    call_id,
    check_values,
    decoded_response,
    is_object,
    output_text,
    thinking,
)
from gateway.dialects.chat.relay import (
    MAX_TRANSLATED_EVENT_BYTES,
    StreamTranslation,
)
from gateway.dialects.endpoint_errors import described
from gateway.dialects.ollama.durations import Stopwatch, created_at
from gateway.dialects.sse_relay import EventTooLong
from gateway.dialects.usage import LENGTH, NOT_REPORTED, STOP, Usage, finish_reason, read_usage, with_timings

_encode = msgspec.json.Encoder().encode


class AnyChoice(Choice):
    """A choice of a chat completion, or of a completion, which has a text."""

    text: Any = None


class AnyCompletion(msgspec.Struct):
    """A whole response, or a chunk of one."""

    choices: list[AnyChoice] | None = None
    usage: Any = None
    timings: Any = None  # of llama.cpp
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw


class _Vectors(msgspec.Struct):
    data: list[_Vector] | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(AnyCompletion).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class Shell:
    """The parts that all objects of one response share."""

    __slots__ = ("is_chat", "model", "stopwatch")

    def __init__(self, kind: str, model: str, stopwatch: Stopwatch) -> None:
        """`kind` of the request; `model`: its name as the client knows it."""
        self.is_chat = kind == OLLAMA_CHAT
        self.model = model
        self.stopwatch = stopwatch

    def piece(self, text: str, thought: str = "", calls: list[Mapping[str, Any]] | None = None) -> Mapping[str, Any]:
        """Return an object with a part of the output, which is not the last one."""
        return {"model": self.model, "created_at": created_at(), **self._output(text, thought, calls), "done": False}

    def last(
        self,
        usage: Usage | None,
        reason: str | None,
        timings: Any = None,
        output: tuple[str, str, list[Mapping[str, Any]] | None] = ("", "", None),
    ) -> Mapping[str, Any]:
        """Return the last object, or the only one, which has the output. Counts that are not known are left out."""
        usage = usage or NOT_REPORTED
        counts = {"prompt_eval_count": usage.input_tokens, "eval_count": usage.output_tokens}
        return {
            "model": self.model,
            "created_at": created_at(),
            **self._output(*output),
            "done": True,
            "done_reason": LENGTH if reason == LENGTH else STOP,
            **self.stopwatch.durations(timings),
            **{name: count for name, count in counts.items() if count is not None},
        }

    def _output(self, text: str, thought: str, calls: list[Mapping[str, Any]] | None) -> Mapping[str, Any]:
        more: dict[str, Any] = {"thinking": thought} if thought else {}
        if not self.is_chat:
            return {"response": text, **more}
        if calls:
            more["tool_calls"] = calls
        return {"message": {"role": "assistant", "content": text, **more}}


def from_completion(body: bytes, shell: Shell) -> tuple[bytes, Usage | None]:
    """Return a whole response of a chat or a generation, and its usage. Raises NoChatCompletion."""
    check_values(body)
    completion: AnyCompletion = decoded_response(_decode, body, causes.NO_CHAT_COMPLETION)
    choice = completion.choices[0] if completion.choices else None
    message = None if choice is None else _message(choice, choice.message)
    if choice is None or message is None:
        raise NoChatCompletion(causes.COMPLETION_WITHOUT_MESSAGE)
    calls = message.tool_calls or []
    if len(calls) > MAX_CALLS:
        raise NoChatCompletion(causes.MANY_TOOL_CALLS.format(most=MAX_CALLS))
    usage = with_timings(read_usage(completion.usage), completion.timings)
    written = [(call_id(call), *_named(call), arguments(call.function or Function())) for call in calls]
    output = output_text(message), thinking(message), [_call(place, *parts) for place, parts in enumerate(written)]
    reason = finish_reason(choice.finish_reason)
    whole = _encode(shell.last(usage, reason, completion.timings, output))
    return whole, usage if reason is None else (usage or NOT_REPORTED).ended_by(reason)


def from_embeddings(body: bytes, shell: Shell, *, one: bool) -> tuple[bytes, Usage | None]:
    """Return vectors in Ollama's form, and the usage. `one`: the older path, whose response is one vector.

    Raises NoChatCompletion.
    """
    response: _Vectors = decoded_response(_decode_vectors, body, causes.NO_EMBEDDINGS)
    if response.data is None or (one and not response.data):
        raise NoChatCompletion(causes.NO_EMBEDDINGS)
    usage = read_usage(response.usage)
    if one:
        return _encode({"embedding": response.data[0].embedding}), usage
    durations = shell.stopwatch.durations()
    answer: dict[str, Any] = {
        "model": shell.model,
        "embeddings": [vector.embedding for vector in response.data],
        "total_duration": durations["total_duration"],
        "load_duration": 0,
    }
    if usage is not None and usage.input_tokens is not None:
        answer["prompt_eval_count"] = usage.input_tokens
    return _encode(answer), usage


def _message(choice: AnyChoice, message: OutputMessage | None) -> OutputMessage | None:
    """Return the message of a choice, or its delta; that of a completion has only its text."""
    if message is None and isinstance(choice.text, str):
        return OutputMessage(content=choice.text)
    return message


def _named(call: ToolCall) -> tuple[str]:
    name = None if call.function is None else call.function.name
    return (name if isinstance(name, str) else "",)


def _call(place: int, given_id: str, name: str, written: str) -> Mapping[str, Any]:
    """Return a call. Arguments that are no JSON object stay visible, so that the client's tool refuses them."""
    if not written.strip():
        value = msgspec.Raw(b"{}")
    else:
        value = msgspec.Raw(written.encode() if is_object(written) else _encode({"arguments": written}))
    return {"id": given_id or f"call_{place}", "function": {"index": place, "name": name, "arguments": value}}


class _ArrivingCall:
    """A call whose arguments are arriving."""

    __slots__ = ("call_id", "name", "pieces")

    def __init__(self) -> None:
        self.call_id = self.name = ""
        self.pieces: list[str] = []


class Lines(StreamTranslation[AnyCompletion]):
    """Translation of the chunks of one response to lines. Calls are sent whole, before the last line.

    Comments have no place between its lines.
    """

    def __init__(self, shell: Shell) -> None:
        super().__init__(AnyCompletion(), has_comments=False)
        self._shell = shell
        self._calls: list[_ArrivingCall] = []
        self._open: dict[int | None, _ArrivingCall] = {}  # by the index that chunks give them
        self._size = 0  # characters of arguments
        self._reason: str | None = None
        self._timings: Any = None

    def decode(self, data: Data) -> AnyCompletion:
        return surrogates.read_body(_decode, data)

    def add(self, event: AnyCompletion, *, finished: bool) -> None:
        if event.timings is not None:
            self._timings = event.timings
        for choice in event.choices or ():
            if choice.index not in (0, None):
                continue
            self._reason = finish_reason(choice.finish_reason) or self._reason
            part = _message(choice, choice.delta)
            if part is None:
                continue
            text, thought = output_text(part), thinking(part)
            if text or thought:
                self._put(self._shell.piece(text, thought))
            for call in part.tool_calls or ():
                self._add_call(call)
        if finished:
            self._put_calls()

    def ending(self, usage: Usage | None, deltas: int) -> bytes:
        if usage is None or usage.output_tokens is None:
            usage = Usage(None, deltas).merged_with(usage)
        return _encode(self._shell.last(usage, self._reason, self._timings)) + b"\n"

    def error(self, event: AnyCompletion) -> bytes:
        return _encode({"error": described(event.error).sentence}) + b"\n"

    def _add_call(self, call: ToolCall) -> None:
        self._shell.stopwatch.note_token()
        index = call.index if isinstance(call.index, int) else None
        known = self._open.get(index)
        if known is None or begins_another(call, known.call_id):
            if len(self._calls) >= MAX_CALLS:
                raise EventTooLong
            known = self._open[index] = _ArrivingCall()
            self._calls.append(known)
        known.call_id = known.call_id or call_id(call)
        known.name = known.name or _named(call)[0]
        piece = arguments(call.function) if call.function is not None else ""
        if not piece:
            return
        self._size += len(piece)
        if self._size > MAX_TRANSLATED_EVENT_BYTES:
            raise EventTooLong
        known.pieces.append(piece)

    def _put_calls(self) -> None:
        if self._calls:
            calls = [
                _call(place, call.call_id, call.name, "".join(call.pieces)) for place, call in enumerate(self._calls)
            ]
            self._calls.clear()
            self._open.clear()
            self._put(self._shell.piece("", "", calls))

    def _put(self, line: Mapping[str, Any]) -> None:
        self._shell.stopwatch.note_token()
        self._out.append(_encode(line) + b"\n")
