"""Responses of a simulated Ollama in its own API: lines of JSON, one for each token. No I/O."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.responses import Event, Generated

if TYPE_CHECKING:
    from benchmarks.simulator import Behaviour

CREATED = "2026-11-28T10:00:00.123456789Z"
MILLISECOND = 1_000_000  # in nanoseconds


class OllamaChat(Generated):
    """POST /api/chat"""

    content_type = "application/x-ndjson"

    def __init__(self, behaviour: "Behaviour", body: dict[str, Any], fault: str = "") -> None:
        options = body.get("options") or {}
        super().__init__(behaviour, {**body, "max_tokens": options.get("num_predict")}, fault)

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is not False

    def whole(self) -> dict[str, Any]:
        return self._last(self.output(self.text))

    def events(self) -> Iterator[Event]:
        if self.tool:
            yield self._line(self.output(self.text)), True
        else:
            for piece in self.pieces:
                yield self._line(self.output(piece)), True
        if self.ends:
            yield json.dumps(self._last(self.output(""))).encode() + b"\n", False

    def error_event(self) -> bytes:
        return b'{"error":"simulated error"}\n'

    def usage(self) -> dict[str, Any]:
        counts = {"prompt_eval_count": self.behaviour.prompt_tokens, "eval_count": self.output_tokens}
        return counts if self.reports_usage else {}

    def output(self, text: str) -> dict[str, Any]:
        """The fields with a part of the output."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.tool and text:
            call = {"function": {"index": 0, "name": self.tool[0], "arguments": self.tool[1]}}
            message = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"message": message}

    def _line(self, output: dict[str, Any]) -> bytes:
        return json.dumps({"model": self.model, "created_at": CREATED, **output, "done": False}).encode() + b"\n"

    def _last(self, output: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": self.model,
            "created_at": CREATED,
            **output,
            "done": True,
            "done_reason": "length" if self.cut_short else "stop",
            "total_duration": 30 * MILLISECOND,
            "load_duration": MILLISECOND,
            "prompt_eval_duration": 9 * MILLISECOND,
            "eval_duration": 20 * MILLISECOND,
            **self.usage(),
        }


class OllamaGeneration(OllamaChat):
    """POST /api/generate"""

    def output(self, text: str) -> dict[str, Any]:
        return {"response": text}

    def _last(self, output: dict[str, Any]) -> dict[str, Any]:
        return {**super()._last(output), "context": [1, 2, 3]}


def ollama_embeddings(body: dict[str, Any], made: int) -> dict[str, Any]:
    """POST /api/embed: a vector for each text. `made`: tokens of the prompt."""
    texts = body["input"] if isinstance(body.get("input"), list) else [body.get("input")]
    vectors = [[0.6, 0.8, float(number)] for number in range(len(texts))]
    return {"model": body["model"], "embeddings": vectors, "total_duration": MILLISECOND, "prompt_eval_count": made}


def ollama_vector(body: dict[str, Any]) -> dict[str, Any]:
    """POST /api/embeddings, the older path: one vector."""
    return {"embedding": [0.6, 0.8] if body.get("prompt") else []}
