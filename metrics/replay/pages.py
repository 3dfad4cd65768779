"""Replay: what another balancer or another fleet would change, from recorded requests. For administrators."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from endpoints.registry import registry
from endpoints.views import for_administrators
from gateway.base.config import ADAPTIVE
from metrics.queries.api_keys import key_names
from metrics.replay.headroom import FIRST_TOKEN_SECONDS, MOST_USERS
from metrics.replay.history import MOST_REQUESTS
from metrics.replay.jobs import MAX_AT_ONCE, Replay, TooManyReplays, replays
from metrics.replay.payload import QuantilesPayload, ReplayAnswerPayload
from metrics.replay.run import POLICIES
from metrics.replay.serializers import ReplayQuestionSerializer
from metrics.templatetags.figures import NO_VALUE, duration, fraction

PERIODS = {"1": _("1 hour"), "6": _("6 hours"), "24": _("24 hours"), "168": _("7 days"), "720": _("30 days")}
FACTORS = {"0.5": _("twice as fast"), "2": _("twice as slow"), "4": _("four times as slow")}
SHOWN_REPLAYS, SHOWN_KEYS = 10, 20
FIELDS = ("hours", "policy", "removed", "added", "slower", "factor", "seconds")


@dataclass(frozen=True, slots=True)
class ReplayForm:
    """The fields as they were sent, and what is wrong with them."""

    values: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """A figure of the three runs, as text: as it happened, replayed, and predicted."""

    name: str | Any
    cells: list[str]


@dataclass(frozen=True, slots=True)
class ReplayTable:
    id: str
    heading: str | Any
    rows: list[ReplayRow]


def tables(answer: ReplayAnswerPayload) -> list[ReplayTable]:
    """Return the figures of an answer with a prediction, a row for each time, endpoint and key."""
    runs = [answer["happened"], answer["replayed"], answer["predicted"]]
    known = [run for run in runs if run is not None]
    if len(known) < len(runs):
        return []
    times = [
        ReplayRow(_("Time per output token"), [_quantiles(run["per_token"]) for run in known]),
        ReplayRow(_("Time to first token"), [_quantiles(run["first_token"]) for run in known]),
        ReplayRow(_("Wait in the queue"), [_quantiles(run["queue"]) for run in known]),
    ]
    names = {endpoint["endpoint_id"]: endpoint["endpoint_name"] for run in known for endpoint in run["endpoints"]}
    shares = [{endpoint["endpoint_id"]: endpoint["share"] for endpoint in run["endpoints"]} for run in known]
    keys = [{key["api_key_id"]: key["per_token"]["p95_ms"] for key in run["keys"]} for run in known]
    shown = list(keys[0])[:SHOWN_KEYS]
    labels = key_names(shown)
    by_endpoint = [ReplayRow(name, [fraction(of.get(key)) for of in shares]) for key, name in names.items()]
    by_key = [ReplayRow(labels.get(key, key) if key else "—", [duration(of.get(key)) for of in keys]) for key in shown]
    all_tables = [
        ReplayTable("replay-times", _("p50 / p95 / p99"), times),
        ReplayTable("replay-shares", _("Share of the requests"), by_endpoint),
        ReplayTable("replay-keys", _("p95 per output token by API key"), by_key),
    ]
    return [table for table in all_tables if table.rows]


def _quantiles(of: QuantilesPayload | None) -> str:
    if of is None:
        return NO_VALUE
    return " / ".join(duration(milliseconds) for milliseconds in (of["p50_ms"], of["p95_ms"], of["p99_ms"]))


@for_administrators
def page(request: HttpRequest) -> HttpResponse:
    """Show the form and a replay (GET, with its `id`), or start one (POST)."""
    if request.method == "POST":
        return _start(request)
    wanted = request.GET.get("id", "")
    shown = replays.get(wanted) if wanted else None
    if wanted and shown is None:
        raise Http404
    return _render(request, ReplayForm(_values(shown)), shown)


def _start(request: HttpRequest) -> HttpResponse:
    values = {name: request.POST.get(name, "") for name in FIELDS}
    question = ReplayQuestionSerializer(data=_question(values))
    problem = ""
    if not question.is_valid():
        problem = "; ".join(f"{name}: {text[0]}" for name, text in question.errors.items())
    else:
        try:
            return redirect(f"{reverse('replay')}?id={question.start().id}")
        except TooManyReplays:
            problem = str(_("%(number)s replays are running, which is the limit. Try again in a moment."))
            problem %= {"number": MAX_AT_ONCE}
    return _render(request, ReplayForm(values, problem), None, status=422)


def _question(values: Mapping[str, str]) -> dict[str, object]:
    """Return the question in the words of the API."""
    hours = int(values["hours"]) if values["hours"] in PERIODS else 24
    until = timezone.now()
    seconds = values["seconds"] or str(FIRST_TOKEN_SECONDS)
    slower = [{"endpoint_name": values["slower"], "factor": values["factor"]}] if values["slower"] else []
    return {
        "policy": values["policy"],
        "since": (until - timedelta(hours=hours)).isoformat(),
        "until": until.isoformat(),
        "removed": [values["removed"]] if values["removed"] else [],
        "added": [values["added"]] if values["added"] else [],
        "slower": slower,
        "first_token_ms": 1000 * float(seconds) if seconds.replace(".", "", 1).isdigit() else 0,
    }


def _values(shown: Replay | None) -> dict[str, str]:
    """Return the fields of the form: those of a replay, else the defaults."""
    values = {
        "hours": "24",
        "policy": ADAPTIVE,
        "factor": "2",
        "seconds": f"{FIRST_TOKEN_SECONDS:g}",
    }
    if shown is None:
        return values
    change = shown.question.change
    hours = str(round((shown.until - shown.since).total_seconds() / 3600))
    values |= {"policy": change.policy, "seconds": f"{shown.question.seconds:g}"}
    values |= {"removed": "".join(change.removed[:1]), "added": "".join(change.added[:1])}
    values |= {"hours": hours} if hours in PERIODS else {}
    for name, factor in change.slower[:1]:
        values |= {"slower": name, "factor": f"{factor:g}"}
    return values


def _render(request: HttpRequest, form: ReplayForm, shown: Replay | None, status: int = 200) -> HttpResponse:
    answer = shown.answer if shown is not None else None
    names = sorted(entry.name for entry in registry.all())
    context = {
        "form": form,
        "replay": shown,
        "answer": answer,
        "tables": tables(answer) if answer else [],
        "earlier": [replay for replay in replays.latest() if shown is None or replay.id != shown.id][:SHOWN_REPLAYS],
        "endpoints": [(name, name) for name in names],
        "periods": PERIODS.items(),
        "policies": [(policy, policy) for policy in POLICIES],
        "factors": FACTORS.items(),
        "balancer": settings.ROUTERDASH.balancer,
        "most_requests": MOST_REQUESTS,
        "most_users": MOST_USERS,
    }
    return render(request, "replay/page.html", context, status=status)


URLS = [path("replay", page, name="replay")]
