"""Tokens that only some servers report: read from a prefix cache, written to one, and spent on reasoning.

Each is part of the input or output tokens. "Not reported" is never zero: a sum stands beside the number of requests
that reported it, and beside the tokens that it is a part of, so that shares are exact.
"""

from operator import add
from typing import NamedTuple

from gateway.ipc.record import RequestRecord
from gateway.prices.counts import part_of


class TokenDetails(NamedTuple):
    """Sums over the requests that reported them."""

    cached_tokens: int = 0
    cached_of_tokens: int = 0  # input tokens of the requests that reported cached tokens
    cache_reports: int = 0  # requests that reported cached tokens, also zero
    cache_hits: int = 0  # requests with at least one cached token
    cache_write_tokens: int = 0
    cache_write_reports: int = 0
    reasoning_tokens: int = 0
    reasoning_of_tokens: int = 0  # output tokens of the requests that reported reasoning tokens
    reasoning_reports: int = 0

    def plus(self, other: "TokenDetails | None") -> "TokenDetails":
        return self if other is None else TokenDetails._make(map(add, self, other))


DETAIL_COLUMNS = TokenDetails._fields
NOT_REPORTED = (None,) * len(DETAIL_COLUMNS)  # the columns of a roll-up without any report


def details_of(entry: RequestRecord) -> TokenDetails | None:
    """Return what one request adds to the sums, or None if it reported nothing."""
    if not entry.attempts:
        return None
    cached = part_of(entry.cached_tokens, entry.input_tokens)
    written = part_of(entry.cache_write_tokens, entry.input_tokens)
    reasoning = part_of(entry.reasoning_tokens, entry.output_tokens)
    if cached is None and written is None and reasoning is None:
        return None
    return TokenDetails(
        cached_tokens=cached or 0,
        cached_of_tokens=0 if cached is None else entry.input_tokens or 0,
        cache_reports=int(cached is not None),
        cache_hits=int(bool(cached)),
        cache_write_tokens=written or 0,
        cache_write_reports=int(written is not None),
        reasoning_tokens=reasoning or 0,
        reasoning_of_tokens=0 if reasoning is None else entry.output_tokens or 0,
        reasoning_reports=int(reasoning is not None),
    )
