"""Tokens of a simulated request: exact, and the same for the same request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

REQUEST_TOKENS = 3  # of the frame around a prompt
IMAGE_TOKENS = 85
IMAGE_TYPES = ("image_url", "input_image", "image", "document", "file", "input_file")
TOTALS_OFF_BY = 7  # contradictory usage


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one request in the sense of RouterDash's record: the input contains cached and written tokens, the
    output contains reasoning.
    """

    input: int
    cached: int
    written: int
    output: int
    reasoning: int

    @property
    def total(self) -> int:
        return self.input + self.output


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Count one token for each word of the prompt and of the tools' definitions, and 85 for each image or file."""
    parts = [body.get(name) for name in ("system", "instructions", "messages", "input", "prompt", "tools")]
    return REQUEST_TOKENS + sum(_count(part) for part in parts)


def _count(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, Mapping):
        if value.get("type") in IMAGE_TYPES:
            return IMAGE_TOKENS
        return sum(_count(item) for item in value.values())
    if isinstance(value, Sequence):
        return sum(_count(item) for item in value)
    return 0
