"""The list of clients, and the page of one. Needs the database."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict
from urllib.parse import quote

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.dates import WEEKDAYS, WEEKDAYS_ABBR
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.cache import never_cache

from gateway.base.addresses import client_of
from metrics.queries import clients
from metrics.queries.alert_threshold import THRESHOLD, parse_threshold
from metrics.queries.client_detail import BadClient, client_keys, client_summary, parse_client, recent_requests
from metrics.queries.client_hours import (
    HEATMAP_HOURS,
    ClientHourPayload,
    HeatPayload,
    client_hours,
    client_models,
    first_day,
)
from metrics.queries.clients import RankedPayload
from metrics.queries.stored import flushed
from metrics.storage.settings_rows import store_setting
from metrics.templatetags import figures
from metrics.times import parse_time

RANGES = {"24h": gettext_lazy("24 hours"), "7d": gettext_lazy("7 days"), "30d": gettext_lazy("30 days")}
SHOWN = 50
COLUMNS = ("request_count", "failed_count", "unique_ips", "input_tokens", "output_tokens")  # of the table of hours
LEVELS = 4  # of the heatmap, beside none


@never_cache
@login_required
def ranking(request: HttpRequest) -> HttpResponse:
    behind = not flushed()
    span, ignored = _span(request.GET)
    sort = request.GET.get("sort") or "requests"
    if sort not in clients.SORTS:
        sort = "requests"
        ignored.append("sort")
    ip_prefix = request.GET.get("ip", "").strip()
    all_clients = clients.ranking(clients.RANGES[span], sort)
    matches = all_clients.beginning(ip_prefix)
    number, pages = _page(request.GET.get("page", ""), len(matches), ignored)
    context = {
        "span": span,
        "ranges": RANGES.items(),
        "sort": sort,
        "ip_prefix": ip_prefix,
        "ignored": ignored,
        "behind": behind,
        "client_count": len(all_clients),
        "count": len(matches),
        "marked": matches.marked,
        "greatest": matches.greatest,
        "rows": [_with_time(row) for row in matches.payloads((number - 1) * SHOWN, number * SHOWN)],
        "number": number,
        "pages": pages,
        "models": client_models(clients.RANGES[span]),
        "models_since": datetime.fromtimestamp(first_day(clients.RANGES[span]) * 86_400, UTC).date().isoformat(),
        "since": clients.counted_since(),
        "addresses_since": clients.addresses_since(),
        "threshold": all_clients.threshold,
        **_hours_context(span),
    }
    return render(request, "clients/page.html", context)


@never_cache
@login_required
def client(request: HttpRequest, client: str) -> HttpResponse:
    try:
        name = parse_client(client)
    except BadClient:
        raise Http404 from None
    behind = not flushed()
    span, ignored = _span(request.GET)
    summary = client_summary(name)
    payload = summary.payload
    context = {
        "client": name,
        "network": "/" in name,
        "belongs_to": client_of(name) if "/" not in name else name,
        "span": span,
        "ranges": RANGES.items(),
        "ignored": ignored,
        "behind": behind,
        "summary": payload,
        "first_seen": parse_time(payload["first_seen"]) if payload["first_seen"] else None,
        "last_seen": parse_time(payload["last_seen"]) if payload["last_seen"] else None,
        "models": client_models(None, summary.addresses),
        "keys": client_keys(summary.addresses),
        "recent": [
            {**request_row, "ended": parse_time(request_row["completed_at"])}
            for request_row in recent_requests(summary.addresses)
        ],
        "requests_url": f"{reverse('requests')}?client_ip={quote(name)}" if "/" not in name else None,
        **_hours_context(span, summary.addresses),
    }
    return render(request, "clients/client.html", context)


@login_required
def set_threshold(request: HttpRequest) -> HttpResponse:
    """Store the number of requests in an hour from which a client is marked. For administrators.

    A login in between repeats the request as GET, which redirects to the list.
    """
    if request.method != "POST":
        return HttpResponseRedirect(reverse("clients"))
    if not getattr(request.user, "is_staff", False):
        raise PermissionDenied
    limit = parse_threshold(request.POST.get("value", ""))
    if limit is None:
        messages.error(request, _("The threshold must be a whole number of at least 1."))
    else:
        store_setting(THRESHOLD, str(limit))
        messages.success(request, _("The threshold was saved."))
    return HttpResponseRedirect(reverse("clients"))


def _span(parameters: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the valid range, and the names of ignored parameters."""
    span = parameters.get("range") or "24h"
    return (span, []) if span in RANGES else ("24h", ["range"])


def _page(text: str, count: int, ignored: list[str]) -> tuple[int, int]:
    pages = max(1, math.ceil(count / SHOWN))
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= pages):
        ignored.append("page")
        return 1, pages
    return int(text or 1), pages


def _with_time(row: RankedPayload) -> Mapping[str, Any]:
    return {**row, "last_seen": parse_time(row["last_seen"]) if row["last_seen"] else None}


class HeatmapHour(TypedDict):
    hour: int
    x: int
    count: int
    level: int  # shade
    title: str


class HeatmapDay(TypedDict):
    name: str | Promise
    short: str | Promise
    y: int
    text_y: int
    hours: list[HeatmapHour]


class BusiestHour(TypedDict):
    day: str | Promise
    hour: str
    count: int


class HeatmapContext(TypedDict):
    days: list[HeatmapDay]
    busiest: BusiestHour | None
    steps: list[tuple[int, int]]  # shade, and its largest count
    marks: list[tuple[int, str]]  # x, and hour
    hours: range


class HoursContext(TypedDict):
    """The chart of the hours, and the heatmap of the week."""

    slots: list[ClientHourPayload]
    times: list[tuple[datetime, ClientHourPayload]]  # newest first
    columns: tuple[str, ...]
    total: int
    failed: int
    heat: HeatmapContext
    minutes_past: int  # offset of the viewer's zone to whole hours


def _hours_context(span: str, addresses: Sequence[str] | None = None) -> HoursContext:
    """Return the context in the viewer's zone, of all clients or of the addresses of one."""
    week = client_hours(max(clients.RANGES[span], HEATMAP_HOURS), addresses)
    slots = week.rows[-clients.RANGES[span] :]
    heat = heatmap(week.heatmap(timezone.get_current_timezone()))
    offset = timezone.localtime().utcoffset()
    return {
        "slots": slots,
        "times": [(datetime.fromisoformat(f"{slot['hour']}+00:00"), slot) for slot in reversed(slots)],
        "columns": COLUMNS if addresses is None else tuple(name for name in COLUMNS if name != "unique_ips"),
        "total": sum(slot["request_count"] for slot in slots),
        "failed": sum(slot["failed_count"] for slot in slots),
        "heat": heat,
        "minutes_past": int(offset.total_seconds()) // 60 % 60 if offset else 0,
    }


def heatmap(cells: list[HeatPayload]) -> HeatmapContext:
    """Return the heatmap, Monday first. The shade is 0 without requests, else the root of the share of the busiest.

    With equal steps, one very busy hour would give all others the same shade.
    """
    greatest = max(cell["count"] for cell in cells)
    steps = sorted({math.ceil(greatest * (level / LEVELS) ** 2) for level in range(1, LEVELS + 1)})
    # Few requests need fewer shades; the busiest hour has the darkest one.
    lightest = LEVELS + 1 - len(steps)
    counts = {(cell["day_of_week"], cell["hour"]): cell["count"] for cell in cells}
    days: list[HeatmapDay] = [
        {
            "name": WEEKDAYS[day],
            "short": WEEKDAYS_ABBR[day],
            "y": 24 + day * 22,
            "text_y": 24 + day * 22 + 15,
            "hours": [
                {
                    "hour": hour,
                    "x": 48 + hour * 25,
                    "count": (number := counts[(day + 1) % 7, hour]),
                    "level": lightest + bisect_left(steps, number) if number else 0,
                    "title": _title(str(WEEKDAYS[day]), hour, number),
                }
                for hour in range(24)
            ],
        }
        for day in range(7)
    ]
    day, hour = max(counts, key=lambda day_and_hour: counts[day_and_hour])
    busiest: BusiestHour = {"day": WEEKDAYS[(day - 1) % 7], "hour": f"{hour:02d}", "count": greatest}
    marks = [(48 + hour * 25, f"{hour:02d}") for hour in range(0, 24, 3)]
    return {
        "days": days,
        "busiest": busiest if greatest else None,
        "steps": list(enumerate(steps, lightest)),
        "marks": marks,
        "hours": range(24),
    }


def _title(day: str, hour: int, number: int) -> str:
    text = ngettext("%(day)s %(hour)s:00, %(shown)s request", "%(day)s %(hour)s:00, %(shown)s requests", number)
    return text % {"day": day, "hour": f"{hour:02d}", "shown": figures.count(number)}


URLS = [
    path("clients", ranking, name="clients"),
    path("clients/threshold", set_threshold, name="clients-threshold"),
    path("clients/<path:client>", client, name="client"),
]
