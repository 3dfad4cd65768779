"""Tokens that only some servers report: read from a prefix cache, written to one, and spent on reasoning.

Each is part of the input or output tokens. "Not reported" is never zero: a sum stands beside the number of requests
that reported it, and beside the tokens that it is a part of, so that shares are exact.
"""

from collections.abc import Iterable
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


def has_details(entry: RequestRecord) -> bool:
    """Return True if the response reported any of these tokens."""
    return (
        entry.cached_tokens is not None or entry.reasoning_tokens is not None or entry.cache_write_tokens is not None
    ) and bool(entry.attempts)


def details_of(entries: Iterable[RequestRecord]) -> TokenDetails | None:
    """Return the sums over these requests, or None if none of them reported anything."""
    cached = cached_of = cache_reports = cache_hits = written = write_reports = 0
    reasoning = reasoning_of = reasoning_reports = 0
    for entry in entries:
        part = entry.cached_tokens
        if part is not None and (part := part_of(part, whole := entry.input_tokens)) is not None:
            cached += part
            cached_of += whole or 0
            cache_reports += 1
            if part:
                cache_hits += 1
        part = entry.cache_write_tokens
        if part is not None and (part := part_of(part, entry.input_tokens)) is not None:
            written += part
            write_reports += 1
        part = entry.reasoning_tokens
        if part is not None and (part := part_of(part, entry.output_tokens)) is not None:
            reasoning += part
            reasoning_of += entry.output_tokens or 0
            reasoning_reports += 1
    if not cache_reports and not write_reports and not reasoning_reports:
        return None
    return TokenDetails(
        cached, cached_of, cache_reports, cache_hits, written, write_reports, reasoning, reasoning_of, reasoning_reports
    )
