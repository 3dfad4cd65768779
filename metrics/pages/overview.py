"""The overview: all figures on it are in memory, so it needs no database."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from endpoints import causes
from endpoints.clouds.kinds import KIND_LABELS
from endpoints.models import OperatorState, Status
from endpoints.registry import Entry
from endpoints.views import for_administrators
from gateway.base.config import ADAPTIVE
from metrics import labels
from metrics.memory.runtime import runtime
from metrics.pages.endpoints import SEVERITY
from metrics.pages.explanations import EXPLANATIONS
from metrics.pages.status_badges import BadgedEndpoint, badge_renderer
from metrics.queries import figures as queries_figures
from metrics.queries import overview as queries_overview
from metrics.queries.figures import Moment
from metrics.queries.live import speeds
from metrics.queries.live.shown_endpoints import shown_endpoints
from metrics.queries.overview import LiveFigures
from metrics.queries.payloads import DashboardEndpointPayload, MinutePayload
from metrics.storage.notices import ADAPTIVE_BY_DEFAULT, notices
from metrics.templatetags import figures

# Parts that the page's script requests when more than figures has changed.
PARTS = {
    "attention": "overview/attention.html",
    "endpoints": "overview/endpoints.html",
    "marks": "overview/events.html",
    "sparks": "overview/sparks.html",
}
ALARMING, TOLERABLE = 0.1, 0.02  # shares of failed attempts


@never_cache
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    """Return the page, or with `part` one part of it."""
    moment = Moment.now()
    live = queries_overview.live_figures(moment)
    entries = shown_endpoints.of(moment)
    sparks = _sparks(live)
    context = {
        "live": live,
        "marks": queries_overview.recent_events(),
        "entries": _entries(moment, entries),
        "states": _states(live["states"]),
        "initial": _initial(live, entries),
        "apis": labels.APIS,
        "existing_endpoints": {entry.id for entry in moment.entries},
        "prefix": runtime.installation.prefix_share(),
        "shown": speeds.SHOWN,
        "explanations": EXPLANATIONS,
        "sparks": sparks,
        "peaks": {name: _peak(sparks[name]) for name in ("in_flight", "queued")},
        "recent": _recent(live["history"]),
        "today_tokens": live["stats"]["today_input_tokens"] + live["stats"]["today_output_tokens"],
        "more_attention": live["attention_count"] - len(live["attention"]),
        "shows_adaptive_notice": _shows_adaptive_notice(request),
    }
    return render(request, PARTS.get(request.GET.get("part", ""), "overview/page.html"), context)


def _shows_adaptive_notice(request: HttpRequest) -> bool:
    """Return True if administrators should learn that the balancer has changed with a release."""
    if not getattr(request.user, "is_staff", False) or settings.ROUTERDASH.balancer != ADAPTIVE:
        return False
    return ADAPTIVE_BY_DEFAULT in notices.unread()


@require_POST
@for_administrators
def dismiss_notice(request: HttpRequest, name: str) -> HttpResponse:
    """Never show a notice again, to anyone."""
    notices.dismiss(name)
    return redirect("overview")


class OverviewEndpoint(BadgedEndpoint):
    """Row of the table of endpoints."""

    host: str
    status_cause: str
    alarm: str
    failed: SafeString


def _states(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return all statuses with their numbers of endpoints, the worst first."""
    return [(str(state), counts.get(state, 0)) for state in SEVERITY]


def _entries(moment: Moment, entries: list[Entry]) -> list[OverviewEndpoint]:
    """Return the rows of the table of endpoints."""
    failed = _('<span data-value="failed_requests">%(number)s</span> failed')
    badges = badge_renderer()
    payloads = queries_figures.endpoints(moment, entries)
    return [
        {
            **row,
            **badges(entry.shown_status, row),
            "entry": entry,
            "kind": KIND_LABELS.get(entry.kind, entry.kind),
            "host": urlsplit(entry.base_url).netloc or entry.base_url,
            "status_cause": _status_cause(row),
            "alarm": _alarm(row),
            "failed": SafeString(failed % {"number": figures.count(row["failed_requests"])}),
        }
        for row, entry in zip(payloads, entries, strict=True)
    ]


def _status_cause(row: DashboardEndpointPayload) -> str:
    """Return the time and cause of an unwanted status."""
    if row["status"] not in (Status.OFFLINE, Status.ERROR) or row["operator_state"] != OperatorState.ENABLED:
        return ""
    moment = figures.instant(row["status_since"])
    return " · ".join(
        part for part in (figures.since(moment) if moment else "", causes.shown(row["last_error"] or "")) if part
    )


def _alarm(row: DashboardEndpointPayload) -> str:
    failed = row["recent_failures"] / row["recent_attempts"] if row["recent_attempts"] else 0.0
    return "bad" if failed >= ALARMING else "warn" if failed >= TOLERABLE else ""


def _initial(live: LiveFigures, entries: list[Entry]) -> dict[str, object]:
    """Return what the page's script compares with the first event, to fetch rows that have changed since."""
    endpoints = [{"id": entry.id, "slots": entry.slots} for entry in entries]
    return {"endpoints": endpoints, **{name: live[name] for name in ("attention", "attention_count", "marks")}}


def _sparks(live: LiveFigures) -> dict[str, Sequence[float | None]]:
    """Return the sparklines by minute. Sums omit the present minute, which would look like a drop."""
    history, minutes = live["history"], live["minutes"]
    return {
        "online": [minute["online"] for minute in minutes],
        "in_flight": [minute["in_flight"] for minute in minutes],
        "queued": [minute["queued"] for minute in minutes],
        "first_token_ms": [minute["first_token_ms"] for minute in minutes],
        "average_ms": [minute["average_ms"] for minute in minutes],
        "p95_ms": [minute["p95_ms"] for minute in minutes],
        "success": [_share(slot["success"], slot["success"] + slot["error"]) for slot in history],
        "requests": [slot["success"] + slot["error"] for slot in history[:-1]],
        "output_tokens": [minute["output_tokens"] for minute in minutes[:-1]],
        "tokens": [minute["input_tokens"] + minute["output_tokens"] for minute in minutes[:-1]],
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _peak(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _recent(history: Sequence[MinutePayload]) -> dict[str, int]:
    ok, failed = sum(slot["success"] for slot in history), sum(slot["error"] for slot in history)
    return {"ok": ok, "failed": failed, "all": ok + failed}


URLS = [
    path("", overview, name="overview"),
    path("notices/<slug:name>/dismiss", dismiss_notice, name="notice-dismiss"),
]
