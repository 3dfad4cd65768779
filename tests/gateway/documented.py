"""Documented responses of cloud providers (tests/fixtures/providers)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "providers"


@dataclass(frozen=True)
class Documented:
    """A published example, and what RouterDash must understand of it."""

    provider: str
    name: str
    kind: str
    status: int
    headers: dict[str, str]
    body: bytes
    tokens: dict[str, Any] | None
    cause: str
    is_broken: bool
    is_stream: bool

    def __str__(self) -> str:
        return f"{self.provider}-{self.name}"

    @property
    def http(self) -> bytes:
        kind = "text/event-stream" if self.is_stream else "application/json"
        fields = {"content-type": kind, "content-length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {self.status} Documented\r\n{lines}\r\n".encode() + self.body


def _event(text: str, *, named: bool) -> str:
    if text.startswith(":"):
        return f"{text}\n\n"
    name = f"event: {json.loads(text)['type']}\n" if named else ""
    return f"{name}data: {text}\n\n"


def _documented(provider: str, example: dict[str, Any]) -> Documented:
    events = example.get("events")
    if events is None:
        text = example.get("leading", "") + json.dumps(example["body"])
    else:
        text = "".join(_event(event, named=example.get("named", False)) for event in events)
    return Documented(
        provider,
        example["name"],
        example["kind"],
        example.get("status", 200),
        example.get("headers", {}),
        text.encode(),
        example.get("tokens"),
        example.get("cause", ""),
        example.get("broken", False),
        events is not None,
    )


EVERYTHING = [
    _documented(path.stem, example)
    for path in sorted(FOLDER.glob("*.json"))
    for example in json.loads(path.read_text())["responses"]
]
ANSWERS = [example for example in EVERYTHING if example.tokens is not None]
ERRORS = [example for example in EVERYTHING if example.cause]
BROKEN = [example for example in EVERYTHING if example.is_broken]
