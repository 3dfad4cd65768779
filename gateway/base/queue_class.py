"""The classes of requests in the queue: bulk requests give way to interactive ones.

A request is interactive unless its body or a header says otherwise. Both may only lower its class: neither raises a
request above the others of its API key.
"""

from collections.abc import Mapping

from gateway.base.errors import INVALID_REQUEST, Refusal

INTERACTIVE, BULK = "interactive", "bulk"  # the higher class first
CLASSES = (INTERACTIVE, BULK)
CLASS_HEADER = b"x-routerdash-class"
FLEX = "flex"  # OpenAI's `service_tier` of requests that may take longer; other values are left to the endpoint
BULK_SECONDS = 60.0  # after so many, a waiting bulk request is treated as an interactive one
BULK_PERCENT = 80  # of a limit that both classes share: bulk requests are let in only up to there

_NAMES = {name.encode(): name for name in CLASSES}


def part_for_bulk(amount: int) -> int:
    """Return the part of a limit up to which bulk requests are let in. Of a limit of one, it is the whole."""
    return max(amount * BULK_PERCENT // 100, min(amount, 1))


def read_class(headers: Mapping[bytes, bytes], *, is_flex: bool, default: str = INTERACTIVE) -> str:
    """Return the lowest of the classes that a request's headers, its body and the default of its client name.

    Raises Refusal (400) for a header that names no class.
    """
    value = headers.get(CLASS_HEADER)
    named = INTERACTIVE if value is None else _NAMES.get(value.strip().lower())
    if named is None:
        name = CLASS_HEADER.decode()
        raise Refusal(400, INVALID_REQUEST, f"The header `{name}` must be `{INTERACTIVE}` or `{BULK}`.", param=name)
    return BULK if is_flex or BULK in (named, default) else INTERACTIVE
