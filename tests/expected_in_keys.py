"""Rules for the figures of the pages of API keys (see tests.expected_figures)."""

from datetime import timedelta

from tests.expected_figures import Column, Reported, Shown, cost, table, today

TOKENS = {
    "Input tokens": "input_tokens",
    "Output tokens": "output_tokens",
    "Cached": "cached_tokens",
    "Cache writes": "cache_write_tokens",
    "Reasoning": "reasoning_tokens",
}


def keys(page: Shown) -> Reported:
    used = page.api("/api/usage", by="key", since=today() - timedelta(days=29), until=today())["rows"]
    by_key = {row["api_key_id"]: row for row in used}
    none = {"requests": 0, "input_tokens": 0, "output_tokens": 0, "costs": [], "requests_without_cost": 0}
    unused = none | dict.fromkeys(list(TOKENS.values())[2:])
    rows = [row | by_key.get(row["id"], unused) for row in page.api("/api/me/api-keys")["api_keys"]]
    columns: dict[str, Column] = {"Requests, last 30 days": "requests", **TOKENS, "Cost": cost}
    return table("own", rows, "name", {label: [column] for label, column in columns.items()})


def key(page: Shown) -> Reported:
    (row,) = [row for row in page.api("/api/me/api-keys")["api_keys"] if row["id"] == page.known["key_id"]]
    return table("refused", row["refused"], "code", {"Today": ["today"], "Last 7 days": ["last_7_days"]})
