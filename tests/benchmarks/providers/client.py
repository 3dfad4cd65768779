"""A plain HTTP client of a simulated cloud, and requests in its dialect."""

import json
from typing import Any

from benchmarks.providers import DIALECTS, Cloud
from benchmarks.providers.anthropic import OLD
from tests.http import Response, Served

PROVIDERS = tuple(DIALECTS)
CHATS = tuple(name for name in DIALECTS if name != "anthropic")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "It rains.", "parameters": SCHEMA}}
MESSAGES_TOOL = {"name": "weather", "description": "It rains.", "input_schema": SCHEMA}
PIXEL = "iVBORw0KGgo="


class CloudClient(Served):
    """Sends the provider's main kind of request: chat completions, or messages."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.port = cloud.port
        self.key = cloud.key
        self.is_anthropic = cloud.dialect.name == "anthropic"
        self.headers = {"anthropic-version": OLD} if self.is_anthropic else {}
        self.path = cloud.dialect.base + ("/messages" if self.is_anthropic else "/chat/completions")

    def send(self, model: str = "", path: str = "", headers: dict[str, str] | None = None, **fields: Any) -> Response:
        body = {
            "model": model or self.cloud.behaviour.models[0],
            "messages": [{"role": "user", "content": "Say hello to us all"}],
            **({"max_tokens": 100} if self.is_anthropic else {}),
            **fields,
        }
        return self.post(path or self.path, body, headers={**self.headers, **(headers or {})})

    def think(self, **fields: Any) -> Response:
        """Send a request that wants reasoning."""
        if self.is_anthropic:
            return self.send(thinking={"type": "adaptive"}, **fields)
        model = "gpt-6.2" if self.cloud.dialect.name == "openai" else ""
        return self.send(model, reasoning_effort="low", **fields)

    def tools(self) -> list[dict[str, Any]]:
        return [MESSAGES_TOOL if self.is_anthropic else CHAT_TOOL]


def usage_of(response: Response) -> dict[str, Any]:
    """Return the last usage of a stream or of a complete response; its null fields are those of an earlier one."""
    last_usage: dict[str, Any] = {}
    for event in events(response) if response.body.startswith((b"data", b"event", b":")) else [response.json()]:
        usage = event.get("usage") or (event.get("x_groq") or {}).get("usage") or {}
        usage = (event.get("message") or event.get("response") or {}).get("usage") or usage
        last_usage |= {name: value for name, value in usage.items() if value is not None}
    return last_usage


def events(response: Response) -> list[Any]:
    """Return the JSON of a stream's events, without [DONE]."""
    lines = [line.removeprefix(b"data: ") for line in response.body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]
