"""Usage: requests and tokens by time, model, endpoint, key or user. Needs the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypedDict
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from metrics.api.usage import today
from metrics.api.usage_serializers import UsageQuerySerializer
from metrics.costs.of_period import CostsPayload
from metrics.costs.of_usage import usage_with_costs, with_costs
from metrics.pages import options
from metrics.queries import usage
from metrics.queries.figures import Moment
from metrics.queries.slices import figure_slices
from metrics.queries.stored import flushed
from metrics.queries.usage import UsageRowPayload
from metrics.queries.usage_periods import Period

BY = {
    "day": _("Day"),
    "month": _("Month"),
    "model": _("Model"),
    "served": _("Served model"),
    "canonical": _("Canonical name"),
    "step": _("Step"),
    "endpoint": _("Endpoint"),
    "external": _("Inside or external"),
    "key": _("API key"),
    "user": _("User"),
}
RANGES = {"7d": _("7 days"), "30d": _("30 days"), "90d": _("90 days"), "month": _("This month")}
MEASURES = {"tokens": _("Tokens"), "requests": _("Requests")}
FILTERS = ("model", "endpoint_id", "api_key_id")
COST_MONTHS = 12
SHOWN = 200  # rows; an export has all


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """The valid parameters of the URL. `ignored` names the others."""

    by: str
    period: Period
    range: str  # one of RANGES, or empty: the two dates
    measure: str
    only: Mapping[str, str]
    ignored: tuple[str, ...]

    @property
    def api_query(self) -> str:
        """The query of the same usage in the API."""
        dates = {"since": self.period.since.isoformat(), "until": self.period.until.isoformat()}
        return urlencode({"by": self.by, **dates, **self.only, "compare": "true"})


def parse_usage_query(parameters: Mapping[str, str], now: date) -> UsageQuery:
    values = {name: value for name, value in parameters.items() if value}
    ignored: set[str] = set()
    measure, span = values.pop("measure", "tokens"), values.pop("range", "")
    if measure not in MEASURES:
        measure = "tokens"
        ignored.add("measure")
    if span and span not in RANGES:
        span = ""
        ignored.add("range")
    if not span and not values.keys() & {"since", "until"}:
        span = "30d"
    if span:
        values |= _dates(span, now)
    unknown = values.keys() - UsageQuerySerializer().fields.keys()
    values = {name: value for name, value in values.items() if name not in unknown}
    ignored |= unknown
    query = UsageQuerySerializer(data=values, context={"today": now})
    if not query.is_valid():
        ignored |= (wrong := set(query.errors))
        values = {name: value for name, value in values.items() if name not in wrong}
        if wrong & {"since", "until"}:
            span = "30d"
            values |= _dates(span, now)
        query = UsageQuerySerializer(data=values, context={"today": now})
        query.is_valid(raise_exception=True)
    return UsageQuery(query.validated_data["by"], query.period, span, measure, query.only, tuple(sorted(ignored)))


def _dates(span: str, now: date) -> dict[str, str]:
    since = now.replace(day=1) if span == "month" else now - timedelta(days=int(span.removesuffix("d")) - 1)
    return {"since": since.isoformat(), "until": now.isoformat()}


def last_months(now: date) -> Period:
    """Return the months of the table of costs, the present one included."""
    first = now.year * 12 + now.month - COST_MONTHS
    return Period(date(first // 12, first % 12 + 1, 1), now)


class CostMonth(CostsPayload):
    month: str


class UsageSlot(TypedDict):
    """Usage of one day or month, `at`."""

    at: str
    input_tokens: int
    output_tokens: int
    successful_requests: int
    failed_requests: int


class UsageSeries(TypedDict):
    """Data of the chart. `now` is the present day or month."""

    slots: list[UsageSlot]
    measure: str
    now: str
    monthly: bool


def series(rows: Sequence[UsageRowPayload], query: UsageQuery, now: date) -> UsageSeries:
    """Return every day or month of the period, also those without a request, for the chart and its table."""
    monthly = query.by == "month"
    by_time = {row["month"] if monthly else row["day"]: row for row in rows}
    times = query.period.months() if monthly else query.period.dates()
    slots = [_slot(time, by_time.get(time)) for time in times]
    present = now.isoformat()[:7] if monthly else now.isoformat()
    return {"slots": slots, "measure": query.measure, "now": present, "monthly": monthly}


def _slot(time: str, row: UsageRowPayload | None) -> UsageSlot:
    return {
        "at": time,
        "input_tokens": row["input_tokens"] if row else 0,
        "output_tokens": row["output_tokens"] if row else 0,
        "successful_requests": row["successful_requests"] if row else 0,
        "failed_requests": row["failed_requests"] if row else 0,
    }


@never_cache
@login_required
def page(request: HttpRequest) -> HttpResponse:
    behind = not flushed()
    now = today()
    query = parse_usage_query(request.GET.dict(), now)
    payload = usage_with_costs(query.by, query.period, query.only, compare=True)
    is_by_time = query.by in usage.TIME_GROUPS
    hardware, months = _cost_months(query, now) if query.by == "month" else ({}, [])
    by_day = payload if is_by_time else usage.usage("day", query.period, query.only)
    context = {
        "usage_query": query,
        "usage": payload,
        "shown": list(reversed(payload["rows"])) if is_by_time else payload["rows"][:SHOWN],
        "most": SHOWN,
        "greatest": max((_measured(row, query.measure) for row in payload["rows"]), default=0),
        "column": "total_tokens" if query.measure == "tokens" else "requests",
        "is_by_time": is_by_time,
        "has_model": query.by in usage.ROUTED_GROUPS,
        "by_label": BY[query.by],
        "series": series(by_day["rows"], query, now),
        "behind": behind,
        "months": months,
        "hardware": hardware,
        "currency": settings.ROUTERDASH.currency,
        "choices": {"by": BY.items(), "range": RANGES.items(), "measure": MEASURES.items()},
        "offered": _offered(query),
        "server_zone": settings.ROUTERDASH.zone.key,
    }
    return render(request, "usage/page.html", context)


def _cost_months(query: UsageQuery, now: date) -> tuple[dict[str, object], list[CostMonth]]:
    """Return the costs of own hardware by month, and the rows of the table of costs, latest first.

    They include months in which own hardware was idle only. Sums of costs are stored by day, so this reads a year of
    days: several times as long as the rest of the page. So the table is on the page by month alone.
    """
    span = last_months(now)
    hardware = {
        month: costs for one in figure_slices() for month, costs in one.costs_by_month(span, query.only).items()
    }
    months = with_costs(usage.usage("month", span, query.only), span, query.only)
    if not months["costs"] and not hardware:
        return hardware, []
    rows: dict[str, CostMonth] = {
        month: {"month": month, "costs": [], "requests_without_cost": 0} for month in hardware
    }
    for row in months["rows"]:
        rows[row["month"]] = {
            "month": row["month"],
            "costs": row["costs"],
            "requests_without_cost": row["requests_without_cost"],
        }
    return hardware, [rows[month] for month in sorted(rows, reverse=True)]


def _measured(row: UsageRowPayload, measure: str) -> int:
    return row["total_tokens"] if measure == "tokens" else row["requests"]


def _offered(query: UsageQuery) -> dict[str, list[tuple[str, str]]]:
    """Return the choices of the filters: present ones, and the chosen one, which may be deleted."""
    moment, only = Moment.now(), query.only
    offered = {
        "model": options.models(moment, only.get("model", "")),
        "endpoint_id": options.endpoints(moment, only.get("endpoint_id", "")),
        "api_key_id": options.keys(moment, only.get("api_key_id", "")),
    }
    return {name: sorted(choices.items(), key=lambda item: item[1].casefold()) for name, choices in offered.items()}


URLS = [path("usage", page, name="usage")]
