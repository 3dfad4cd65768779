"""Tokens that only some servers report, as API and pages show them: null where no request reported them."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from metrics.counting.token_details import DETAIL_COLUMNS, TokenDetails


class DetailCounts(TypedDict):
    """Sums of metrics.counting.token_details. The numbers of reports are never null."""

    cached_tokens: int | None
    cached_of_tokens: int | None
    cache_reports: int
    cache_hits: int | None
    cache_write_tokens: int | None
    cache_write_reports: int
    reasoning_tokens: int | None
    reasoning_of_tokens: int | None
    reasoning_reports: int


def detail_counts(sums: Sequence[int | None]) -> DetailCounts:
    """Return sums in the order of DETAIL_COLUMNS. A null or missing one is zero, if there are reports."""
    of = TokenDetails(*[int(value or 0) for value in sums])
    cached, written, reasoning = of.cache_reports > 0, of.cache_write_reports > 0, of.reasoning_reports > 0
    return {
        "cached_tokens": of.cached_tokens if cached else None,
        "cached_of_tokens": of.cached_of_tokens if cached else None,
        "cache_reports": of.cache_reports,
        "cache_hits": of.cache_hits if cached else None,
        "cache_write_tokens": of.cache_write_tokens if written else None,
        "cache_write_reports": of.cache_write_reports,
        "reasoning_tokens": of.reasoning_tokens if reasoning else None,
        "reasoning_of_tokens": of.reasoning_of_tokens if reasoning else None,
        "reasoning_reports": of.reasoning_reports,
    }


def total_details(totals: Mapping[str, int]) -> DetailCounts:
    """Return the sums over all time, from the totals by name."""
    return detail_counts([totals.get(name, 0) for name in DETAIL_COLUMNS])
