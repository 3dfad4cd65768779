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


def _documented(provider: str, found: dict[str, Any]) -> Documented:
    events = found.get("events")
    if events is None:
        text = found.get("leading", "") + json.dumps(found["body"])
    else:
        text = "".join(_event(event, named=found.get("named", False)) for event in events)
    return Documented(
        provider,
        found["name"],
        found["kind"],
        found.get("status", 200),
        found.get("headers", {}),
        text.encode(),
        found.get("tokens"),
        found.get("cause", ""),
        found.get("broken", False),
        events is not None,
    )


EVERYTHING = [
    _documented(path.stem, found)
    for path in sorted(FOLDER.glob("*.json"))
    for found in json.loads(path.read_text())["responses"]
]
ANSWERS = [it for it in EVERYTHING if it.tokens is not None]
ERRORS = [it for it in EVERYTHING if it.cause]
BROKEN = [it for it in EVERYTHING if it.is_broken]
