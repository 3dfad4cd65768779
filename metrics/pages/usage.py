"""Usage: what was asked for and how many tokens it took, by time or by who and what. Needs the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from endpoints.registry import registry
from metrics import queries, usage
from metrics.serializers import UsageQuerySerializer
from metrics.usage import Period
from metrics.usage_api import today

BY = {
    "day": _("Day"),
    "month": _("Month"),
    "model": _("Model"),
    "endpoint": _("Endpoint"),
    "key": _("API key"),
    "user": _("User"),
}
RANGES = {"7d": _("7 days"), "30d": _("30 days"), "90d": _("90 days"), "month": _("This month")}
MEASURES = {"tokens": _("Tokens"), "requests": _("Requests")}
FILTERS = ("model", "endpoint_id", "api_key_id")
SHOWN = 200  # rows; an export has all


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for. What makes no sense is left out, and named."""

    by: str
    period: Period
    range: str  # one of RANGES, or empty: the two dates
    measure: str
    only: Mapping[str, str]
    ignored: tuple[str, ...]

    @property
    def api_query(self) -> str:
        """The same for the API."""
        dates = {"since": self.period.since.isoformat(), "until": self.period.until.isoformat()}
        return urlencode({"by": self.by, **dates, **self.only, "compare": "true"})


def asked(parameters: Mapping[str, str], now: date) -> Asked:
    given = {name: value for name, value in parameters.items() if value}
    ignored: set[str] = set()
    measure, span = given.pop("measure", "tokens"), given.pop("range", "")
    if measure not in MEASURES:
        measure = "tokens"
        ignored.add("measure")
    if span and span not in RANGES:
        span = ""
        ignored.add("range")
    if not span and not given.keys() & {"since", "until"}:
        span = "30d"
    if span:
        given |= _dates(span, now)
    unknown = given.keys() - UsageQuerySerializer().fields.keys()
    given = {name: value for name, value in given.items() if name not in unknown}
    ignored |= unknown
    query = UsageQuerySerializer(data=given, context={"today": now})
    if not query.is_valid():
        ignored |= (wrong := set(query.errors))
        given = {name: value for name, value in given.items() if name not in wrong}
        if wrong & {"since", "until"}:
            span = "30d"
            given |= _dates(span, now)
        query = UsageQuerySerializer(data=given, context={"today": now})
        query.is_valid(raise_exception=True)
    return Asked(query.validated_data["by"], query.period, span, measure, query.only, tuple(sorted(ignored)))


def _dates(span: str, now: date) -> dict[str, str]:
    since = now.replace(day=1) if span == "month" else now - timedelta(days=int(span.removesuffix("d")) - 1)
    return {"since": since.isoformat(), "until": now.isoformat()}


def series(rows: list[dict[str, Any]], wanted: Asked, now: date) -> dict[str, Any]:
    """Every day or month of the period, those without a request as well, for the chart and its table."""
    monthly = wanted.by == "month"
    name = "month" if monthly else "day"
    found = {row[name]: row for row in rows}
    columns = ("input_tokens", "output_tokens", "successful_requests", "failed_requests")
    times = wanted.period.months() if monthly else wanted.period.dates()
    slots = [{"at": at, **{column: found[at][column] if at in found else 0 for column in columns}} for at in times]
    this = now.isoformat()[:7] if monthly else now.isoformat()
    return {"slots": slots, "measure": wanted.measure, "now": this, "monthly": monthly}


@never_cache
@login_required
def page(request: HttpRequest) -> HttpResponse:
    behind = not queries.flushed()
    now = today()
    wanted = asked(request.GET.dict(), now)
    told = usage.usage(wanted.by, wanted.period, wanted.only, compare=True)
    in_time = wanted.by in usage.IN_TIME
    by_day = told if in_time else usage.usage("day", wanted.period, wanted.only)
    context = {
        "asked": wanted,
        "told": told,
        "shown": list(reversed(told["rows"])) if in_time else told["rows"][:SHOWN],
        "most": SHOWN,
        "greatest": max((_of(row, wanted.measure) for row in told["rows"]), default=0),
        "column": "total_tokens" if wanted.measure == "tokens" else "requests",
        "in_time": in_time,
        "reached": wanted.by in usage.REACHED,
        "by_label": BY[wanted.by],
        "series": series(by_day["rows"], wanted, now),
        "behind": behind,
        "choices": {"by": BY.items(), "range": RANGES.items(), "measure": MEASURES.items()},
        "offered": _offered(wanted),
        "server_zone": settings.ROUTERDASH.zone.key,
    }
    return render(request, "usage.html", context)


def _of(row: Mapping[str, int], measure: str) -> int:
    return row["total_tokens"] if measure == "tokens" else row["requests"]


def _offered(wanted: Asked) -> dict[str, list[tuple[str, str]]]:
    """What may be chosen: what there is now, and what is chosen, which may be gone."""
    entries = registry.all()
    models = {model.id for entry in entries for model in entry.models}
    options = {
        "model": {name: name for name in models},
        "endpoint_id": {entry.id: entry.name for entry in entries},
        "api_key_id": queries.key_names(),
    }
    for name, value in wanted.only.items():
        options[name].setdefault(value, (registry.name(value) if name == "endpoint_id" else None) or value)
    return {name: sorted(found.items(), key=lambda it: it[1].casefold()) for name, found in options.items()}


URLS = [path("usage", page, name="usage")]
