"""Responses of a simulated inference server, in the dialect of each API. No I/O.

A Generated has a `whole` object and `events`. Each event has a flag for output, which is paced and counted by faults.
"""

import base64
import json
import random
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.simulator import Behaviour

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew tea for kings".split()  # noqa: SIM905
FRAGMENT = 4  # characters of a tool call's arguments in one event
PIXEL = base64.b64encode(b"\x89PNG simulated").decode()

Event = tuple[bytes, bool]


class Generated(ABC):
    """One generated text or tool call."""

    prefix = "sim"
    limits: tuple[str, ...] = ("max_tokens",)  # field of the maximum number of tokens in a request
    content_type = "text/event-stream"  # of a stream

    def __init__(self, behaviour: "Behaviour", body: dict[str, Any], fault: str = "") -> None:
        self.behaviour = behaviour
        self.body = body
        self.reports_usage = fault != "no_usage"
        self.ends = fault != "no_done"
        self.tool = _tool_to_call(body) if behaviour.tools else None
        wanted = next((int(body[name]) for name in self.limits if body.get(name)), behaviour.tokens)
        self.cut_short = self.tool is None and wanted < behaviour.tokens
        if self.tool is None:
            self.pieces = [WORDS[index % len(WORDS)] + " " for index in range(min(wanted, behaviour.tokens))]
        else:
            arguments = json.dumps(self.tool[1])
            self.pieces = [arguments[start : start + FRAGMENT] for start in range(0, len(arguments), FRAGMENT)]
        self.text = "".join(self.pieces)  # pieces of a tool call are pieces of its arguments
        self.count = len(self.pieces)
        self.model = behaviour.response_model or body.get("model", "")
        self.id = f"{self.prefix}-{random.getrandbits(48):012x}"
        self.created = int(time.time())

    @property
    def streams(self) -> bool:
        return self.body.get("stream") in (True, "true")

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The object of a response without a stream."""

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """The events of a stream."""

    def error_event(self) -> bytes:
        return data({"error": {"message": "simulated error", "type": "server_error"}})

    def usage(self) -> dict[str, Any]:
        """The field `usage`, or nothing if the fault hides it."""
        made, out = self.behaviour.prompt_tokens, self.output_tokens
        usage: dict[str, Any] = {"prompt_tokens": made, "completion_tokens": out, "total_tokens": made + out}
        if details := self.prompt_details():
            usage["prompt_tokens_details"] = details
        if self.behaviour.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.behaviour.reasoning_tokens}
        return {"usage": usage} if self.reports_usage else {}

    @property
    def output_tokens(self) -> int:
        return self.count + (self.behaviour.reasoning_tokens or 0)

    def prompt_details(self) -> dict[str, int]:
        """The reported parts of the prompt's tokens, in OpenAI's names."""
        behaviour = self.behaviour
        details = {"cached_tokens": behaviour.cached_tokens, "cache_write_tokens": behaviour.cache_write_tokens}
        return {name: count for name, count in details.items() if count is not None}


class Completion(Generated):
    """POST /v1/completions"""

    prefix = "cmpl"
    object, chunk_object = "text_completion", "text_completion"

    def whole(self) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": self.reason, "logprobs": None, **self.output()}
        return {**self.shell(self.object), "choices": [choice], **self.usage()}

    def events(self) -> Iterator[Event]:
        shell = self.shell(self.chunk_object)

        def chunk(part: dict[str, Any], reason: str | None = None) -> bytes:
            return data({**shell, "choices": [{"index": 0, **part, "logprobs": None, "finish_reason": reason}]})

        for part in self.opening():
            yield chunk(part), False
        for piece in self.pieces:
            yield chunk(self.part(piece)), True
        yield chunk(self.part(""), self.reason), False
        options = self.body.get("stream_options") or {}
        if options.get("include_usage") and self.reports_usage:
            yield data({**shell, "choices": [], **self.usage()}), False
        if self.ends:
            yield b"data: [DONE]\n\n", False

    @property
    def reason(self) -> str:
        return "length" if self.cut_short else "stop"

    def shell(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def output(self) -> dict[str, Any]:
        return {"text": self.text}

    def opening(self) -> list[dict[str, Any]]:
        """Events of a stream before the first output."""
        return []

    def part(self, piece: str) -> dict[str, Any]:
        return {"text": piece}


class Chat(Completion):
    """POST /v1/chat/completions"""

    prefix = "chatcmpl"
    limits = ("max_completion_tokens", "max_tokens")
    object, chunk_object = "chat.completion", "chat.completion.chunk"

    @property
    def reason(self) -> str:
        return "tool_calls" if self.tool else super().reason

    def output(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None if self.tool else self.text}
        if self.tool:
            message["tool_calls"] = [self._call(self.text)]
        return {"message": {**message, "refusal": None, "annotations": []}}

    def opening(self) -> list[dict[str, Any]]:
        if not self.tool:
            return [{"delta": {"role": "assistant", "content": ""}}]
        return [
            {"delta": {"role": "assistant", "content": None}},
            {"delta": {"tool_calls": [{"index": 0, **self._call("")}]}},
        ]

    def part(self, piece: str) -> dict[str, Any]:
        if not piece:
            return {"delta": {}}
        if self.tool:
            return {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}}
        return {"delta": {"content": piece}}

    def _call(self, arguments: str) -> dict[str, Any]:
        assert self.tool is not None
        function = {"name": self.tool[0], "arguments": arguments}
        return {"id": f"call_{self.id}", "type": "function", "function": function}


class Response(Generated):
    """POST /v1/responses"""

    prefix = "resp"
    limits = ("max_output_tokens",)

    def whole(self) -> dict[str, Any]:
        return self._response(self._status, [self._item(self._status, self.text)], self.usage())

    @property
    def _status(self) -> str:
        return "incomplete" if self.cut_short else "completed"

    def events(self) -> Iterator[Event]:
        for number, (event, is_piece) in enumerate(self._events()):
            yield named(event["type"], event | {"sequence_number": number}), is_piece

    def error_event(self) -> bytes:
        error = {"code": "server_error", "message": "simulated error", "param": None, "sequence_number": 999}
        return named("error", {"type": "error", **error})

    def usage(self) -> dict[str, Any]:
        made, out = self.behaviour.prompt_tokens, self.output_tokens
        usage = {
            "input_tokens": made,
            "input_tokens_details": {"cached_tokens": 0, **self.prompt_details()},
            "output_tokens": out,
            "output_tokens_details": {"reasoning_tokens": self.behaviour.reasoning_tokens or 0},
            "total_tokens": made + out,
        }
        return {"usage": usage} if self.reports_usage else {}

    def _events(self) -> Iterator[tuple[dict[str, Any], bool]]:
        position = {"item_id": f"item_{self.id}", "output_index": 0}
        response = self._response("in_progress", [], {"usage": None})
        yield {"type": "response.created", "response": response}, False
        yield {"type": "response.in_progress", "response": response}, False
        item = self._item("in_progress", "")
        if not self.tool:
            item["content"] = []
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}, False
        yield from self._tool_events(position) if self.tool else self._text_events({**position, "content_index": 0})
        item = self._item(self._status, self.text)
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}, False
        if self.ends:
            yield {"type": f"response.{self._status}", "response": self.whole()}, False

    def _text_events(self, position: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
        yield {"type": "response.content_part.added", **position, "part": _text_part("")}, False
        for piece in self.pieces:
            yield {"type": "response.output_text.delta", **position, "delta": piece, "logprobs": []}, True
        yield {"type": "response.output_text.done", **position, "text": self.text, "logprobs": []}, False
        yield {"type": "response.content_part.done", **position, "part": _text_part(self.text)}, False

    def _tool_events(self, position: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
        assert self.tool is not None
        kind = "response.function_call_arguments"
        for piece in self.pieces:
            yield {"type": f"{kind}.delta", **position, "delta": piece}, True
        yield {"type": f"{kind}.done", **position, "name": self.tool[0], "arguments": self.text}, False

    def _item(self, status: str, text: str) -> dict[str, Any]:
        common = {"id": f"item_{self.id}", "status": status}
        if self.tool:
            call = {"call_id": f"call_{self.id}", "name": self.tool[0], "arguments": text}
            return {"type": "function_call", **common, **call}
        return {"type": "message", **common, "role": "assistant", "content": [_text_part(text)]}

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        """All fields that the specification requires, with the request's values or the defaults."""
        request = self.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": None,
            "model": self.model,
            "output": output,
            "previous_response_id": request.get("previous_response_id"),
            "instructions": request.get("instructions"),
            "tools": [{"strict": None, "description": None, **tool} for tool in request.get("tools") or ()],
            "tool_choice": request.get("tool_choice") or "auto",
            "parallel_tool_calls": request.get("parallel_tool_calls", True),
            "truncation": "disabled",
            "text": {"format": {"type": "text"}},
            "reasoning": {"effort": None, "summary": None},
            "temperature": request.get("temperature", 1),
            "top_p": request.get("top_p", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "max_output_tokens": request.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": request.get("store", True),
            "background": False,
            "service_tier": "default",
            "metadata": request.get("metadata") or {},
            "safety_identifier": None,
            "prompt_cache_key": None,
            **usage,
        }

    def compacted(self) -> dict[str, Any]:
        """POST /v1/responses/compact"""
        item = {"type": "compaction", "id": f"item_{self.id}", "encrypted_content": "c2ltdWxhdGVk"}
        kind = {"id": self.id, "object": "response.compaction", "created_at": self.created}
        return {**kind, "output": [item], **self.usage()}


class Message(Generated):
    """POST /v1/messages"""

    prefix = "msg"

    def whole(self) -> dict[str, Any]:
        return self._message([self._block(self.text)], self._reason, self.usage())

    def events(self) -> Iterator[Event]:
        for event, is_piece in self._events():
            yield named(event["type"], event), is_piece

    def error_event(self) -> bytes:
        error = {"type": "overloaded_error", "message": "simulated error"}
        return named("error", {"type": "error", "error": error})

    def usage(self) -> dict[str, Any]:
        return {"usage": _messages_usage(self.behaviour, self.output_tokens)} if self.reports_usage else {}

    @property
    def _reason(self) -> str:
        return "tool_use" if self.tool else "max_tokens" if self.cut_short else "end_turn"

    def _events(self) -> Iterator[tuple[dict[str, Any], bool]]:
        response = {"usage": _messages_usage(self.behaviour, 1, ended=False)} if self.reports_usage else {}
        yield {"type": "message_start", "message": self._message([], None, response)}, False
        yield {"type": "content_block_start", "index": 0, "content_block": self._block("")}, False
        yield {"type": "ping"}, False
        for piece in self.pieces:
            name = ("input_json_delta", "partial_json") if self.tool else ("text_delta", "text")
            yield {"type": "content_block_delta", "index": 0, "delta": {"type": name[0], name[1]: piece}}, True
        yield {"type": "content_block_stop", "index": 0}, False
        end = {"stop_reason": self._reason, "stop_sequence": None}
        counted: dict[str, Any] = {"output_tokens": self.output_tokens}
        if self.behaviour.reasoning_tokens is not None:
            counted["output_tokens_details"] = {"thinking_tokens": self.behaviour.reasoning_tokens}
        usage = {"usage": counted} if self.reports_usage else {}
        yield {"type": "message_delta", "delta": end, **usage}, False
        if self.ends:
            yield {"type": "message_stop"}, False

    def _block(self, text: str) -> dict[str, Any]:
        if self.tool:
            call = {"id": f"toolu_{self.id}", "name": self.tool[0], "input": json.loads(text) if text else {}}
            return {"type": "tool_use", **call, "caller": {"type": "direct"}}
        return {"type": "text", "text": text, "citations": None}

    def _message(self, content: list[dict[str, Any]], reason: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            **usage,
        }


class Transcript(Generated):
    """POST /v1/audio/transcriptions and …/translations"""

    def whole(self) -> dict[str, Any]:
        return {"text": self.text, **self.usage()}

    def events(self) -> Iterator[Event]:
        for piece in self.pieces:
            yield data({"type": "transcript.text.delta", "delta": piece}), True
        if self.ends:
            yield data({"type": "transcript.text.done", "text": self.text, **self.usage()}), False

    def usage(self) -> dict[str, Any]:
        made, out = self.behaviour.prompt_tokens, self.count
        usage = {"type": "tokens", "input_tokens": made, "output_tokens": out, "total_tokens": made + out}
        return {"usage": usage} if self.reports_usage else {}


# Responses without generated text


def embeddings(body: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = [0.25, -0.5]
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(texts))]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def images(body: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
    data = [{"b64_json": PIXEL} for _ in range(int(body.get("n") or 1))]
    usage = {"input_tokens": prompt_tokens, "output_tokens": 100, "total_tokens": prompt_tokens + 100}
    return {"created": int(time.time()), "data": data, "usage": usage}


def rerank(body: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
    """Rank documents in their order."""
    documents = body.get("documents") or []
    results = [
        {"index": index, "relevance_score": 1 / (index + 1), "document": {"text": text}}
        for index, text in enumerate(documents)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"id": "rerank-sim", "model": body["model"], "results": results[: body.get("top_n")], "usage": usage}


def moderations(body: dict[str, Any]) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    result = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.001}}
    return {"id": "modr-sim", "model": body["model"], "results": [result for _ in texts]}


def tokens(body: dict[str, Any]) -> dict[str, Any]:
    """Count one token for each word."""
    words = str(body.get("prompt") or body.get("content") or "").split()
    return {"count": len(words), "max_model_len": 4096, "tokens": list(range(len(words)))}


def error(status: int, message: str, *, of_messages: bool) -> dict[str, Any]:
    """An error in OpenAI's dialect or in that of Anthropic's Messages API."""
    if of_messages:
        return {"type": "error", "error": {"type": "simulated", "message": message}, "request_id": None}
    return {"error": {"message": message, "type": "simulated", "code": status}}


def _tool_to_call(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return name and arguments of the requested tool call, or None if the response is text."""
    functions = [_function(tool) for tool in body.get("tools") or () if isinstance(tool, dict)]
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    named = _function(choice)["name"] if isinstance(choice, dict) else None
    functions = [function for function in functions if function["name"] and named in (None, function["name"])]
    if not functions or kind == "none" or _has_result(body):
        return None
    schema = functions[0]["schema"]
    wanted = {name: _value(kind) for name, kind in (schema.get("properties") or {}).items()}
    return functions[0]["name"], wanted


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the tool's definition: chat has it in `function`, Messages names its parameters `input_schema`."""
    definition = tool.get("function") or tool
    return {
        "name": definition.get("name"),
        "schema": definition.get("parameters") or definition.get("input_schema") or {},
    }


def _has_result(body: dict[str, Any]) -> bool:
    """True if the last message is the result of a tool call, which the model follows with text."""
    items = body.get("messages") or body.get("input")
    last = items[-1] if isinstance(items, list) and items else None
    if not isinstance(last, dict):
        return False
    content = last.get("content")
    blocks = content if isinstance(content, list) else []
    results = any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)
    return last.get("role") == "tool" or last.get("type") == "function_call_output" or results


def _value(schema: Any) -> Any:
    values: dict[str, Any] = {"string": WORDS[1], "integer": 7, "number": 0.5, "boolean": True, "array": []}
    kind = schema.get("type") if isinstance(schema, dict) else None
    return values.get(str(kind), {})


def _messages_usage(behaviour: "Behaviour", out: int, *, ended: bool = True) -> dict[str, Any]:
    """Counts as Anthropic's: the input without the tokens of caches. `ended`: the reasoning is known."""
    written, cached, reasoning = behaviour.cache_write_tokens, behaviour.cached_tokens, behaviour.reasoning_tokens
    return {
        "input_tokens": behaviour.prompt_tokens - (written or 0) - (cached or 0),
        "cache_creation": None,
        "cache_creation_input_tokens": written or 0,
        "cache_read_input_tokens": cached or 0,
        "output_tokens": out,
        "output_tokens_details": {"thinking_tokens": reasoning} if ended and reasoning is not None else None,
        "inference_geo": None,
        "server_tool_use": None,
        "service_tier": "standard",
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def named(name: str, value: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\n" + data(value)
