"""OpenAI's chat completions, with the places where the other providers differ. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from benchmarks import responses
from benchmarks.providers.dialect import (
    CloudRefusal,
    Dialect,
    Problem,
    Route,
    callable_tools,
    openai_model,
    reads_image,
)  # fmt: skip
from benchmarks.providers.generation import LENGTH, STOP, TOOL_CALLS, Call, Generation, Wanted
from benchmarks.providers.tokens import Json, prompt_tokens
from benchmarks.responses import Event, data

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ASKED, LAST, FINISH = "asked", "last", "finish"  # where usage is in a stream


class ChatDialect(Dialect):
    """Chat completions, embeddings and models as OpenAI has them."""

    owner = "system"
    prefixes: tuple[str, ...] = ("",)  # of paths below the base
    kinds: ClassVar[dict[str, str]] = {"/chat/completions": "chat", "/embeddings": "embeddings"}
    usage_in = ASKED
    reasoning_field: str | None = "reasoning_content"  # None: reasoning is hidden
    reports_written = False
    done = True
    finishes: Mapping[str, str] = {STOP: STOP, LENGTH: LENGTH, TOOL_CALLS: TOOL_CALLS}

    # Requests

    def route(self, method: str, path: str, query: Mapping[str, str]) -> Route:
        rest = next(
            (
                path.removeprefix(self.base + prefix)
                for prefix in sorted(self.prefixes, key=len, reverse=True)
                if path.startswith(f"{self.base}{prefix}/")
            ),
            "",
        )
        if method == "POST" and rest in self.kinds:
            return Route(self.kinds[rest])
        if method == "GET" and rest == "/models":
            return Route("models")
        if method == "GET" and rest.startswith("/models/"):
            return Route("model", rest.removeprefix("/models/"))
        raise CloudRefusal("path_unknown", f"{method} {path}")

    def wanted(self, kind: str, body: Json) -> Wanted:
        if not isinstance(body.get("model"), str):
            raise CloudRefusal("parameter", "you must provide a model parameter", "model")
        if kind == "embeddings":
            if "input" not in body:
                raise CloudRefusal("parameter", "input is required", "input")
            return Wanted(body["model"], prompt_tokens(body), caches=False)
        self.check_chat(body)
        choice = body.get("tool_choice")
        named = choice["function"]["name"] if isinstance(choice, dict) and choice.get("type") == "function" else None
        tools = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
        last = body["messages"][-1] if body["messages"] else {}
        return Wanted(
            body["model"],
            prompt_tokens(body),
            body.get("max_completion_tokens") or body.get("max_tokens"),
            () if last.get("role") == "tool" else callable_tools(tools, str(choice), named),
            body.get("parallel_tool_calls") is not False,
            _schema(body.get("response_format")),
            self.reasons(body),
        )

    def check_chat(self, body: Json) -> None:
        """Raises CloudRefusal for a chat that is not valid."""
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise CloudRefusal("parameter", "Missing required parameter: 'messages'.", "messages")
        for index, message in enumerate(messages):
            if message.get("role") not in ROLES:
                raise CloudRefusal("parameter", f"Invalid value: {message.get('role')!r}.", f"messages[{index}].role")
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                if part.get("type") == "image_url" and not reads_image(_address(part["image_url"])):
                    raise CloudRefusal("parameter", "Invalid image.", f"messages[{index}].content")

    def reasons(self, body: Json) -> bool:
        return body.get("reasoning_effort") not in (None, "none")

    # Responses

    def model_list(self, names: Sequence[str], query: Mapping[str, str], page: int) -> Any:
        return {"object": "list", "data": [self.entry(name) for name in names]}

    def entry(self, name: str) -> Json:
        """One entry of the model list."""
        return openai_model(name, self.owner)

    def whole(self, kind: str, generation: Generation) -> Json:
        if kind == "embeddings":
            body: Json = {**generation.body, "model": generation.model}
            return responses.embeddings(body, generation.tokens.input)
        choice = {
            "index": 0,
            "message": self.message(generation),
            "logprobs": None,
            "finish_reason": self.finish(generation),
        }
        usage = {"usage": self.usage(generation)} if generation.has_usage else {}
        return {**self.shell(generation, "chat.completion"), "choices": [choice], **usage}

    def shell(self, generation: Generation, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{generation.id}",
            "object": kind,
            "created": generation.created,
            "model": generation.model,
        }

    def message(self, generation: Generation) -> Json:
        content = None if generation.calls else self.content(generation)
        message: Json = {"role": "assistant", "content": content}
        if generation.reasoning:
            message |= self.reasoning(generation.thoughts)
        if generation.calls:
            message["tool_calls"] = [self.call(call, call.arguments) for call in generation.calls]
        return message

    def content(self, generation: Generation) -> Any:
        return generation.content

    def reasoning(self, text: str) -> Json:
        """Reasoning as a part of a message or of a delta."""
        return {self.reasoning_field: text} if self.reasoning_field else {}

    def call(self, call: Call, arguments: str) -> Json:
        function = {"name": call.name, "arguments": arguments}
        return {"id": f"call_{call.id}", "type": "function", "function": function}

    def finish(self, generation: Generation) -> str:
        return self.finishes.get(generation.finish, generation.finish)

    def usage(self, generation: Generation) -> Json:
        tokens = generation.tokens
        details: Json = {"cached_tokens": tokens.cached, "audio_tokens": 0}
        if self.reports_written:
            details["cache_write_tokens"] = tokens.written
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": generation.total,
            "prompt_tokens_details": details,
            "completion_tokens_details": {
                "reasoning_tokens": tokens.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    # Streams

    def events(self, kind: str, generation: Generation) -> Iterator[Event]:
        for chunk, is_piece in self.chunks(generation):
            yield data(chunk), is_piece
        if self.done:
            yield b"data: [DONE]\n\n", False

    def chunks(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        shell = self.shell(generation, "chat.completion.chunk")
        wants_usage = bool((generation.body.get("stream_options") or {}).get("include_usage"))
        usage = self.usage(generation) if generation.has_usage else None
        alone = usage is not None and (self.usage_in == LAST or (self.usage_in == ASKED and wants_usage))
        common = {**shell, "usage": None} if alone and self.usage_in == ASKED else shell
        for delta, is_piece in self.deltas(generation):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield {**common, "choices": [choice]}, is_piece
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.finish(generation)}
        with_finish = {"usage": usage} if usage is not None and self.usage_in == FINISH else {}
        yield {**common, "choices": [choice], **with_finish}, False
        if alone:
            yield {**shell, "choices": [], "usage": usage}, False

    def deltas(self, generation: Generation) -> Iterator[tuple[Json, bool]]:
        yield {"role": "assistant", "content": None if generation.calls else ""}, False
        for piece in generation.reasoning if self.reasoning_field else ():
            yield self.reasoning(piece), True
        for piece in generation.text:
            yield {"content": piece}, True
        for index, call in enumerate(generation.calls):
            yield {"tool_calls": [{"index": index, **self.call(call, "")}]}, False
            for piece in call.pieces:
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, True

    # Errors

    def error(self, problem: Problem, message: str, param: str | None, seconds: float) -> Any:
        error = {"message": message, "type": problem.kind, "param": param or problem.param, "code": problem.code}
        return {"error": {**error, **problem.extra}}

    def stream_error(self, kind: str, generation: Generation) -> bytes:
        problem = self.problems["overloaded"]
        return data(self.error(problem, problem.message, None, 0))


def _address(image: Any) -> Any:
    return image.get("url") if isinstance(image, dict) else image


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    """Return the schema of structured output: an empty one for any object, None for text."""
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    schema: Mapping[str, Any] = (wanted.get("json_schema") or {}).get("schema") or {}
    return schema
