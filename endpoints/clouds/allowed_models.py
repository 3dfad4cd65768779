"""Allowed models of an endpoint: patterns, so that the hundreds of models of a cloud do not flood the lists.

A pattern is a model's name, or has `*` for any characters. Case does not matter.
"""

from collections.abc import Iterable, Sequence

from endpoints import tags
from gateway.registry import patterns as name_patterns

MAX_PATTERNS = 200
MAX_LENGTH = 256


def parse(text: str) -> list[str]:
    """Return the patterns in a text field, separated by commas or line breaks."""
    return tags.normalise(part for line in text.splitlines() for part in tags.parse(line))


def matches(patterns: Sequence[str] | None, model_id: str) -> bool:
    """Return True if the endpoint may offer this model."""
    return not patterns or any(name_patterns.matches(pattern, model_id) for pattern in patterns)


def names(patterns: Iterable[str] | None) -> list[str]:
    """Return the patterns that are names: models of a server that does not list them."""
    return [pattern for pattern in patterns or () if "*" not in pattern]
