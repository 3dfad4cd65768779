"""Patterns of names: a name, or a text in which each `*` stands for any characters, also none. Case does not matter."""

from collections.abc import Iterable, Sequence


def matches(pattern: str, name: str) -> bool:
    """Return True if the pattern matches the whole name."""
    return matches_parts(pattern.casefold().split("*"), name.casefold())


def matches_parts(parts: Sequence[str], name: str) -> bool:
    """Return True if a pattern that was casefolded and split at each `*` matches a casefolded name."""
    first, *others = parts
    if not others:
        return first == name
    *inner, last = others
    at, end = len(first), len(name) - len(last)
    if end < at or not name.startswith(first) or not name.endswith(last):
        return False
    for part in inner:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class PatternSet:
    """Several patterns. Names among them are found without comparing each."""

    __slots__ = ("_names", "_patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        folded = [pattern.casefold() for pattern in patterns]
        self._names = frozenset(pattern for pattern in folded if "*" not in pattern)
        self._patterns = [pattern.split("*") for pattern in folded if "*" in pattern]

    def __bool__(self) -> bool:
        return bool(self._names or self._patterns)

    def match(self, name: str) -> bool:
        """Return True if one of the patterns matches the whole name."""
        folded = name.casefold()
        return folded in self._names or any(matches_parts(parts, folded) for parts in self._patterns)
