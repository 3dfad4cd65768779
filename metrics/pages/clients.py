"""Who sends requests, and one client by itself. Needs the database."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.dates import WEEKDAYS, WEEKDAYS_ABBR
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.cache import never_cache

from gateway.peer import client_of
from metrics import clients, history, queries
from metrics.templatetags import figures

RANGES = {"24h": gettext_lazy("24 hours"), "7d": gettext_lazy("7 days"), "30d": gettext_lazy("30 days")}
SHOWN = 50
COLUMNS = ("request_count", "failed_count", "unique_ips", "input_tokens", "output_tokens")  # of the table of hours
LEVELS = 4  # of the heatmap, beside none


@never_cache
@login_required
def ranking(request: HttpRequest) -> HttpResponse:
    behind = not queries.flushed()
    span, ignored = _span(request.GET)
    sort = request.GET.get("sort") or "requests"
    if sort not in clients.SORTS:
        sort = "requests"
        ignored.append("sort")
    wanted = request.GET.get("ip", "").strip()
    every = clients.ranking(clients.RANGES[span], sort)
    found = every.beginning(wanted)
    number, pages = _page(request.GET.get("page", ""), len(found), ignored)
    context = {
        "span": span,
        "ranges": RANGES.items(),
        "sort": sort,
        "wanted": wanted,
        "ignored": ignored,
        "behind": behind,
        "known": len(every),
        "count": len(found),
        "marked": found.marked,
        "greatest": found.greatest,
        "rows": [_read(row) for row in found.told((number - 1) * SHOWN, number * SHOWN)],
        "number": number,
        "pages": pages,
        "models": clients.models(clients.RANGES[span]),
        "models_since": datetime.fromtimestamp(clients.first_day(clients.RANGES[span]) * 86_400, UTC)
        .date()
        .isoformat(),
        "since": clients.counted_since(),
        "addresses_since": clients.addresses_since(),
        "threshold": every.threshold,
        **_over_time(span),
    }
    return render(request, "clients.html", context)


@never_cache
@login_required
def client(request: HttpRequest, client: str) -> HttpResponse:
    try:
        name = clients.named(client)
    except clients.BadClient:
        raise Http404 from None
    behind = not queries.flushed()
    span, ignored = _span(request.GET)
    seen = clients.seen(name)
    told = seen.told
    context = {
        "client": name,
        "network": "/" in name,
        "belongs_to": client_of(name) if "/" not in name else name,
        "span": span,
        "ranges": RANGES.items(),
        "ignored": ignored,
        "behind": behind,
        "it": told,
        "first_seen": history.moment(told["first_seen"]) if told["first_seen"] else None,
        "last_seen": history.moment(told["last_seen"]) if told["last_seen"] else None,
        "models": clients.models(None, seen.addresses),
        "keys": clients.keys(seen.addresses),
        "recent": [it | {"ended": history.moment(it["completed_at"])} for it in clients.recent(seen.addresses)],
        "requests_url": f"{reverse('requests')}?client_ip={quote(name)}" if "/" not in name else None,
        **_over_time(span, seen.addresses),
    }
    return render(request, "client.html", context)


@login_required
def set_threshold(request: HttpRequest) -> HttpResponse:
    """From how many requests in an hour a client is marked: for administrators to say. Whoever had to log in for it
    comes by GET, which leads back to the list.
    """
    if request.method != "POST":
        return HttpResponseRedirect(reverse("clients"))
    if not getattr(request.user, "is_staff", False):
        raise PermissionDenied
    limit = clients.whole(request.POST.get("value", ""))
    if limit is None:
        messages.error(request, _("The threshold must be a whole number of at least 1."))
    else:
        clients.store_setting(clients.THRESHOLD, str(limit))
        messages.success(request, _("The threshold is stored."))
    return HttpResponseRedirect(reverse("clients"))


def _span(parameters: Mapping[str, str]) -> tuple[str, list[str]]:
    """The time that is looked at, and what of the address makes no sense."""
    span = parameters.get("range") or "24h"
    return (span, []) if span in RANGES else ("24h", ["range"])


def _page(text: str, count: int, ignored: list[str]) -> tuple[int, int]:
    pages = max(1, math.ceil(count / SHOWN))
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= pages):
        ignored.append("page")
        return 1, pages
    return int(text or 1), pages


def _read(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"last_seen": history.moment(row["last_seen"]) if row["last_seen"] else None}


def _over_time(span: str, addresses: Sequence[str] | None = None) -> dict[str, Any]:
    """The chart of the hours, and the week as a heatmap in the zone of whoever looks."""
    week = clients.by_hour(max(clients.RANGES[span], clients.HEATMAP_HOURS), addresses)
    slots = week.rows[-clients.RANGES[span] :]
    heat = heatmap(week.heatmap(timezone.get_current_timezone()))
    offset = timezone.localtime().utcoffset()
    return {
        "slots": slots,
        "times": [(datetime.fromisoformat(f"{slot['hour']}+00:00"), slot) for slot in reversed(slots)],
        "columns": COLUMNS if addresses is None else [name for name in COLUMNS if name != "unique_ips"],
        "total": sum(slot["request_count"] for slot in slots),
        "failed": sum(slot["failed_count"] for slot in slots),
        "heat": heat,
        "minutes_past": int(offset.total_seconds()) // 60 % 60 if offset else 0,
    }


def heatmap(cells: list[dict[str, int]]) -> dict[str, Any]:
    """Monday first, each hour with its place and its shade: 0 for none, else by the root of its share of the busiest.

    In equal steps, an hour of a rush would make all others look alike.
    """
    greatest = max(cell["count"] for cell in cells)
    steps = sorted({math.ceil(greatest * (level / LEVELS) ** 2) for level in range(1, LEVELS + 1)})
    # Where there are few requests, there are fewer shades; the busiest has the darkest.
    lightest = LEVELS + 1 - len(steps)
    counts = {(cell["day_of_week"], cell["hour"]): cell["count"] for cell in cells}
    days = [
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
    day, hour = max(counts, key=lambda at: counts[at])
    busiest = {"day": WEEKDAYS[(day - 1) % 7], "hour": f"{hour:02d}", "count": greatest} if greatest else None
    marks = [(48 + hour * 25, f"{hour:02d}") for hour in range(0, 24, 3)]
    return {
        "days": days,
        "busiest": busiest,
        "steps": list(enumerate(steps, lightest)),
        "marks": marks,
        "hours": range(24),
    }


def _title(day: str, hour: int, number: int) -> str:
    told = ngettext("%(day)s %(hour)s:00, %(shown)s request", "%(day)s %(hour)s:00, %(shown)s requests", number)
    return told % {"day": day, "hour": f"{hour:02d}", "shown": figures.count(number)}


URLS = [
    path("clients", ranking, name="clients"),
    path("clients/threshold", set_threshold, name="clients-threshold"),
    path("clients/<path:client>", client, name="client"),
]
