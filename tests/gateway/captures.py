"""Captured responses of real servers (tests/fixtures/captures)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gateway.base.request_kinds import CHAT, COMPLETIONS, EMBEDDINGS, KINDS, RESPONSES
from gateway.dialects.usage import Usage

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "captures"
SERVERS = ("llama.cpp", "vllm", "transformers")
OPENAI = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)


@dataclass(frozen=True)
class Capture:
    server: str
    name: str
    kind: str  # empty for paths that RouterDash does not relay
    status: int
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.server}-{self.name}"

    @property
    def streamed(self) -> bool:
        return self.headers["content-type"].startswith("text/event-stream")

    @property
    def model(self) -> str:
        """The model name in the server's response."""
        return "models/smollm2-hf@main" if self.server == "transformers" else "smollm2-135m-instruct"

    @property
    def events(self) -> list[bytes]:
        return [event + b"\n\n" for event in self.body.split(b"\n\n") if event]

    @property
    def http(self) -> bytes:
        """The response as its server sends it: a stream in chunks of one event each."""
        head = f"HTTP/1.1 {self.status} Captured\r\ncontent-type: {self.headers['content-type']}\r\n"
        if not self.streamed:
            return f"{head}content-length: {len(self.body)}\r\n\r\n".encode() + self.body
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in self.events)
        return f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"

    def renamed(self, requested: str) -> bytes:
        """The body that a client which requested this name should receive."""
        return self.body.replace(f'"model":"{self.model}"'.encode(), f'"model":"{requested}"'.encode())


def reported(usage: Any, finish_reason: str | None = None) -> Usage:
    """What a `usage` object of OpenAI's dialects reports."""
    of_input = usage.get("prompt_tokens_details", usage.get("input_tokens_details")) or {}
    of_output = usage.get("completion_tokens_details", usage.get("output_tokens_details")) or {}
    return Usage(
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        of_input.get("cached_tokens"),
        of_input.get("cache_write_tokens"),
        of_output.get("reasoning_tokens"),
        finish_reason,
    )


@cache
def load(server: str, name: str) -> Capture:
    stored = json.loads((FOLDER / server / f"{name}.json").read_text())
    headers = {key.lower(): value for key, value in stored["headers"]}
    request = stored["request"]
    kind = next(
        (
            request_kind.name
            for request_kind in KINDS
            if request["path"] == request_kind.endpoint_path and request["method"] == "POST"
        ),
        "",
    )
    return Capture(server, name, kind, stored["status"], headers, stored["body"].encode())


@cache
def relayed() -> tuple[Capture, ...]:
    """Captured responses of all paths that RouterDash relays."""
    names = [(server, path.stem) for server in SERVERS for path in sorted((FOLDER / server).glob("*.json"))]
    return tuple(capture for server, name in names if (capture := load(server, name)).kind)


STREAMS = [capture for capture in relayed() if capture.streamed and capture.kind in OPENAI]
RESPONSE_CAPTURES = [
    capture for capture in relayed() if not capture.streamed and capture.status < 400 and capture.kind in OPENAI
]
ERRORS = [capture for capture in relayed() if capture.status >= 400]
