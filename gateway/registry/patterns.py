"""Patterns of names: a name, or a text in which each `*` stands for any characters, also none. Case does not matter."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

LATEST = ":latest"  # the tag that a name without one means, at an Ollama


def matches(pattern: str, name: str) -> bool:
    """Return True if the pattern matches the whole name."""
    return matches_parts(pattern.casefold().split("*"), name.casefold())


def matches_parts(parts: Sequence[str], name: str) -> bool:
    """Return True if a pattern that was casefolded and split at each `*` matches a casefolded name."""
    first, *others = parts
    if not others:
        return first == name
    *inner, last = others
    position, end = len(first), len(name) - len(last)
    if end < position or not name.startswith(first) or not name.endswith(last):
        return False
    for part in inner:
        start = name.find(part, position, end)
        if start < 0:
            return False
        position = start + len(part)
    return True


def names_of(name: str) -> tuple[str, ...]:
    """Return a model's name and the one that means the same: without a tag, a name means `:latest`."""
    if name.endswith(LATEST):
        return name, name.removesuffix(LATEST)
    return (name, name + LATEST) if ":" not in name.rpartition("/")[2] else (name,)


class PatternSet:
    """Several patterns of models. Names among them are found without comparing each.

    A name matches in any case and Unicode form. `is_wide`, for forbidden models: it also matches if its letters only
    look different (NFKC: `ｏ` is `o`), and with each of `names_of`, as servers may take both for the same model.
    Without it, that holds for `:latest` after a name alone, not after a pattern: more is allowed by few names only.
    """

    __slots__ = ("_form", "_is_wide", "_names", "_patterns")

    def __init__(self, patterns: Iterable[str], *, is_wide: bool = False) -> None:
        self._is_wide = is_wide
        self._form: Literal["NFC", "NFKC"] = "NFKC" if is_wide else "NFC"
        folded = [[self._fold(part) for part in pattern.split("*")] for pattern in patterns]
        self._names = frozenset(name for parts in folded if len(parts) == 1 for name in names_of(parts[0]))
        self._patterns = [parts for parts in folded if len(parts) > 1]

    def __bool__(self) -> bool:
        return bool(self._names or self._patterns)

    def match(self, name: str) -> bool:
        """Return True if one of the patterns matches the whole name."""
        folded = self._fold(name)
        if folded in self._names:
            return True
        if not self._patterns:
            return False
        names = names_of(folded) if self._is_wide else (folded,)
        return any(matches_parts(parts, one) for one in names for parts in self._patterns)

    def _fold(self, text: str) -> str:
        if text.isascii():
            return text.lower()
        normal = unicodedata.normalize(self._form, text).casefold()
        return unicodedata.normalize(self._form, normal)
