"""The overview: everything on it is in memory, so it needs no database."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from endpoints.models import Kind, OperatorState, Status
from metrics import board, queries
from metrics.pages.counted import COUNTED
from metrics.pages.signs import signed
from metrics.queries import Moment
from metrics.templatetags import figures

# What the page's script asks for when more than figures has changed.
PARTS = {
    "attention": "inc/needs_attention.html",
    "endpoints": "inc/overview_endpoints.html",
    "marks": "inc/marks_parts.html",
}
MOST_ATTENTION = 8
ALARMING, TOLERABLE = 0.1, 0.02  # shares of failed attempts


@never_cache
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    """With `part`, only that part of the page, as it is now."""
    moment = Moment.now()
    rows = queries.endpoints(moment)
    live = board.live(moment, rows)
    context = {
        "live": live,
        "entries": signed(_entries(moment, rows)),
        "known": {entry.id for entry in moment.entries},
        "shown": queries.SPEEDS_SHOWN,
        "counted": COUNTED,
        "sparks": _sparks(live),
        "peaks": {name: _peak(live["minutes"], name) for name in ("in_flight", "queued")},
        "recent": _recent(live["history"]),
        "today_tokens": live["stats"]["today_input_tokens"] + live["stats"]["today_output_tokens"],
        "most_attention": f":{MOST_ATTENTION}",
        "more_attention": max(0, len(live["attention"]) - MOST_ATTENTION),
    }
    return render(request, PARTS.get(request.GET.get("part", ""), "overview.html"), context)


def _entries(moment: Moment, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Endpoints as the table shows them: the worst first, then by name."""
    order = {"offline": 0, "error": 1, "pending": 2, "online": 3}
    kinds = dict(Kind.choices)
    failed = _('<span data-value="failed_requests">%(number)s</span> failed')
    rows = [
        row
        | {
            "entry": entry,
            "kind": kinds.get(entry.kind, entry.kind),
            "host": urlsplit(entry.base_url).netloc or entry.base_url,
            "because": _because(row),
            "alarm": _alarm(row),
            "failed": SafeString(failed % {"number": figures.count(row["failed_requests"])}),
        }
        for row, entry in zip(found, moment.entries, strict=True)
    ]
    return sorted(rows, key=lambda row: (order.get(row["status"], 0), row["name"]))


def _because(row: dict[str, Any]) -> str:
    """Since when an endpoint is as it is, and why, where that is not as it should be."""
    if row["status"] not in (Status.OFFLINE, Status.ERROR) or row["operator_state"] != OperatorState.ENABLED:
        return ""
    at = figures.instant(row["status_since"])
    return " · ".join(part for part in (figures.since(at) if at else "", row["last_error"]) if part)


def _alarm(row: dict[str, Any]) -> str:
    failed = row["recent_failures"] / row["recent_attempts"] if row["recent_attempts"] else 0.0
    return "bad" if failed >= ALARMING else "warn" if failed >= TOLERABLE else ""


def _sparks(live: dict[str, Any]) -> dict[str, list[float | None]]:
    """The lines of the cells above, by minute: sums end with the last whole one, as the running one would be a fall."""
    history, minutes = live["history"], live["minutes"]
    names = ("online", "in_flight", "queued", "first_token_ms", "average_ms", "p95_ms")
    return {
        **{name: [minute[name] for minute in minutes] for name in names},
        "success": [_share(slot["success"], slot["success"] + slot["error"]) for slot in history],
        "requests": [slot["success"] + slot["error"] for slot in history[:-1]],
        "output_tokens": [minute["output_tokens"] for minute in minutes[:-1]],
        "tokens": [minute["input_tokens"] + minute["output_tokens"] for minute in minutes[:-1]],
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _peak(minutes: Sequence[dict[str, Any]], name: str) -> int | None:
    return max((minute[name] for minute in minutes if minute[name] is not None), default=None)


def _recent(history: Sequence[dict[str, Any]]) -> dict[str, int]:
    ok, failed = (sum(slot[name] for slot in history) for name in ("success", "error"))
    return {"ok": ok, "failed": failed, "all": ok + failed}


URLS = [path("", overview, name="overview")]
