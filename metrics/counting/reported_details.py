"""Tokens that only some servers report, as API and pages show them: null where no request reported them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypedDict

from endpoints.openapi.payload_fields import Help
from metrics.counting.token_details import DETAIL_COLUMNS, TokenDetails


class TokenDetailsPayload(TypedDict):
    """Tokens that only some servers report. Each sum is null if no response reported it."""

    cached_tokens: Annotated[
        int | None, Help("Input tokens read from prefix caches; null if no response reported them.")
    ]
    cached_of_tokens: Annotated[
        int | None, Help("All input tokens of the requests whose responses reported cached tokens.")
    ]
    cache_reports: Annotated[int, Help("Requests whose responses reported cached tokens, also 0.")]
    cache_hits: Annotated[int | None, Help("Those of them with at least one cached token.")]
    cache_write_tokens: Annotated[
        int | None, Help("Input tokens written to prefix caches; null if no response reported them.")
    ]
    cache_write_reports: int
    reasoning_tokens: Annotated[
        int | None, Help("Output tokens spent on reasoning; null if no response reported them.")
    ]
    reasoning_of_tokens: Annotated[
        int | None, Help("All output tokens of the requests whose responses reported reasoning tokens.")
    ]
    reasoning_reports: int


def detail_counts(sums: Sequence[int | None]) -> TokenDetailsPayload:
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


def total_details(totals: Mapping[str, int]) -> TokenDetailsPayload:
    """Return the sums over all time, from the totals by name."""
    return detail_counts([totals.get(name, 0) for name in DETAIL_COLUMNS])
