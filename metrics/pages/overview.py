"""The overview: everything on it is in memory, so it needs no database."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from metrics import queries
from metrics.queries import Moment


@never_cache
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    moment = Moment.now()
    context = {"live": queries.live(moment), "entries": _entries(moment), "shown": queries.SPEEDS_SHOWN}
    return render(request, "overview.html", context)


def _entries(moment: Moment) -> list[dict[str, Any]]:
    """Endpoints as the table shows them: the worst first, then by name."""
    order = {"offline": 0, "error": 1, "pending": 2, "online": 3}
    rows = [row | {"entry": entry} for row, entry in zip(queries.endpoints(moment), moment.entries, strict=True)]
    return sorted(rows, key=lambda row: (order.get(row["status"], 0), row["name"]))


URLS = [path("", overview, name="overview")]
