"""Words by which staff group endpoints: a rack, a team, a site."""

import re
from collections.abc import Iterable

MOST = 20
LONGEST = 40


def normalise(words: Iterable[str]) -> list[str]:
    """Without blanks at their ends, empty ones and those that differ in case alone; in the given order."""
    found: dict[str, str] = {}
    for word in words:
        tidy = " ".join(word.split())
        if tidy:
            found.setdefault(tidy.casefold(), tidy)
    return list(found.values())


def parse(text: str) -> list[str]:
    """As people write them into one field: separated by commas, of either script."""
    return normalise(re.split("[,、，]", text))
