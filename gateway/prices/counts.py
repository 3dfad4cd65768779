"""Counts of tokens as they are counted and priced: what no response can have is not counted."""

MAX_TOKENS = 1 << 40


def plausible(tokens: int | None) -> int | None:
    """Return a token count as the endpoint reported it, or None if no response can have that many tokens."""
    return tokens if tokens is not None and 0 <= tokens <= MAX_TOKENS else None


def part_of(part: int | None, whole: int | None) -> int | None:
    """Return tokens that are part of others, and at most as many. None: not reported, or of an unknown number."""
    if part is None or whole is None or not 0 <= part <= MAX_TOKENS or not 0 <= whole <= MAX_TOKENS:
        return None
    return part if part < whole else whole
