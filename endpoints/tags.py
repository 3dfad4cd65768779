"""Tags: words that group endpoints, such as a rack, a team or a site."""

import re
from collections.abc import Iterable

MAX_TAGS = 20
MAX_LENGTH = 40


def normalise(words: Iterable[str]) -> list[str]:
    """Return the tags in the given order, stripped, without empty ones and without those that differ only in case."""
    unique: dict[str, str] = {}
    for word in words:
        tag = " ".join(word.split())
        if tag:
            unique.setdefault(tag.casefold(), tag)
    return list(unique.values())


def parse(text: str) -> list[str]:
    """Return the tags in a text field, separated by Western or Japanese commas."""
    return normalise(re.split("[,、，]", text))
