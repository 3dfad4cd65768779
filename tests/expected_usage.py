"""Rules for the page of usage, as in `tests/expected_figures.py`."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from tests.displayed_figures import Place
from tests.expected_figures import (
    ABSENT,
    Column,
    Reported,
    Row,
    Shown,
    cost,
    cost_facts,
    estimated,
    money,
    named,
    percent,
    table,
    today,
    token_details,
    written,
)

CALLED: dict[str, Column] = {
    "day": "day", "month": "month", "model": "model_id", "served": "served_model", "canonical": "canonical_name",
    "step": lambda row: f"Step {row['step']}" if row["step"] else "no model name",
    "endpoint": lambda row: named(row, "endpoint") or "no endpoint available",
    "external": lambda row: {True: "External endpoints", False: "Own endpoints"}.get(
        row["external"], "no endpoint or deleted endpoint"
    ),
    "key": lambda row: named(row, "api_key") or "no valid key",
    "user": lambda row: row["username"] or "no key or deleted key",
}  # fmt: skip
SPANS = {"7d": 7, "30d": 30, "90d": 90}


def usage(page: Shown) -> Reported:
    by, measure = page.query.get("by", "day"), page.query.get("measure", "tokens")
    parameters: dict[str, Any] = {
        name: value for name, value in page.query.items() if name in ("model", "endpoint_id", "api_key_id")
    }
    parameters |= {"since": today() - timedelta(days=SPANS[page.query.get("range", "30d")] - 1), "until": today()}
    reported = page.api("/api/usage", by=by, compare="true", **parameters)
    total, before = reported["total"], reported["previous"]["total"]
    of = "total_tokens" if measure == "tokens" else "requests"
    reached, in_time = by in ("model", "served", "canonical", "step", "endpoint", "external"), by in ("day", "month")
    columns: dict[str, Sequence[Column]] = {
        "Requests": ["requests"],
        "Failed": ["failed_requests"],
        "Cancelled": ["cancelled_requests"],
        **({} if reached else {"Rejected": ["rejected_requests"]}),
        "Input tokens": ["input_tokens"],
        "Output tokens": ["output_tokens"],
        "Cached": ["cached_tokens"],
        "Reasoning": ["reasoning_tokens"],
        "Cost": [cost],
    }
    against: dict[str, Sequence[Column]] = {} if in_time else {"Difference": [lambda row: _more(row, of)]}
    last = total | {"previous_requests": before["requests"], "previous_total_tokens": before["total_tokens"]}
    last |= {name: reported[name] for name in ("costs", "requests_without_cost")}
    return {
        **_changes(total, before),
        **token_details("details", total),
        **cost_facts("costs", reported),
        **(_months(page, parameters) if by == "month" else {}),
        **({} if in_time else _course(page, parameters)),
        **table("rows", reported["rows"], CALLED[by], columns | against),
        **table("rows", [last] if reported["rows"] else [], lambda _: "Total", columns | against),
    }


def _months(page: Shown, parameters: dict[str, Any]) -> Reported:
    """Return the table of costs of the last 12 months. Its heading has their number."""
    months = 12
    first = today().year * 12 + today().month - months
    span = {"since": date(first // 12, first % 12 + 1, 1), "until": today()}
    reported = page.api("/api/usage", by="month", **(parameters | span))
    rows = reported["rows"] if reported["costs"] else []
    columns: dict[str, Sequence[Column]] = {
        "Cost": [lambda row: [amount for each in row["costs"] for amount in money(each["cost"])] or [None]],
        "Of it estimated": [estimated],
        "Requests with a cost": [lambda row: sum(each["requests"] for each in row["costs"])],
        "Requests without a cost": ["requests_without_cost"],
    }
    return {Place("costs"): [months] if rows else [], **table("costs", rows, "month", columns)}


def _more(row: Row, of: str) -> float | None:
    return percent(row[of] - row[f"previous_{of}"], row[f"previous_{of}"])


def _changes(total: Row, before: Row) -> Reported:
    names = {
        "Requests": "requests",
        "Failed": "failed_requests",
        "Cancelled": "cancelled_requests",
        "Rejected": "rejected_requests",
        "Input tokens": "input_tokens",
        "Output tokens": "output_tokens",
    }
    return {
        Place("", "", label): [
            total[name],
            total[name] - before[name],
            percent(total[name] - before[name], before[name]) if before[name] else ABSENT,
        ]
        for label, name in names.items()
    }


def _course(page: Shown, parameters: dict[str, Any]) -> Reported:
    names = {
        "OK": "successful_requests",
        "Failed": "failed_requests",
        "Input tokens": "input_tokens",
        "Output tokens": "output_tokens",
    }
    by_day = {row["day"]: row for row in page.api("/api/usage", by="day", **parameters)["rows"]}
    first, last = parameters["since"], parameters["until"]
    days = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    rows = [dict.fromkeys(names.values(), 0) | {"day": str(day)} | by_day.get(str(day), {}) for day in days]
    return table("course", rows, "day", {label: [name] for label, name in names.items()})


def usage_with_script(page: Shown) -> Reported:
    total = page.api("/api/usage", since=today() - timedelta(days=29), until=today())["total"]
    return usage(page) | written("course", {"Input": total["input_tokens"], "Output": total["output_tokens"]})
