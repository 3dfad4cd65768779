"""One endpoint: what it does now, its days, its models, its health, what went wrong and who changed it."""

import json
import shlex
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.cache import never_cache

from endpoints import capabilities, edits
from endpoints.admin import CAN_WORDS
from endpoints.edits import Edit
from endpoints.models import Kind, OperatorState
from endpoints.registry import Entry, ModelEntry, registry
from gateway.kinds import CAN_CHAT, CAN_EMBED
from metrics import daily, queries, uptime
from metrics.queries import Moment

RANGES = (1, 7, 30, 90)
DEFAULT_RANGE = 30
SHOWN_EDITS = 10
SHOWN_SPANS = 8
KINDS = dict(Kind.choices)
DEADLINES = (0, 60, 300, 900, 3600)  # seconds, offered for a drain


@never_cache
@login_required
def endpoint(request: HttpRequest, endpoint_id: uuid.UUID) -> HttpResponse:
    entry = registry.get(str(endpoint_id))
    if entry is None:
        raise Http404
    behind = not queries.flushed()
    moment = Moment.now()
    row = next((row for row in queries.endpoints(moment) if row["id"] == entry.id), None)
    if row is None:
        raise Http404  # deleted a moment ago
    days, understood = _range(request.GET)
    today = moment.figures.date
    said = edits.latest(entry.id)
    counted = daily.days(entry.id, days, today)
    models = daily.model_stats(entry.id, days, today)
    context = {
        "entry": entry,
        "row": row,
        "stats": queries.stats(moment),
        "behind": behind,
        "ranges": RANGES,
        "range": days,
        "understood": understood,
        "today": queries.today_stats(entry.id, moment),
        "days": counted,
        "ok": sum(it.ok for it in counted),
        "failed": sum(it.failed for it in counted),
        "models": models,
        "offered": {name: model for model in entry.models for name in (model.canonical_name, model.id) if name},
        "speeds": queries.model_tps(entry.id, moment),
        "health": uptime.timeline(entry, uptime.MAX_DAYS, said),
        "shown_spans": SHOWN_SPANS,
        "latencies": uptime.latencies(entry.id),
        "failures": queries.failures(entry.id),
        "edits": said[:SHOWN_EDITS],
        "drain_since": _drain_since(entry, said),
        "deadlines": DEADLINES,
        "device": _device(entry.device_info),
        "kind": KINDS.get(entry.kind, entry.kind),
        "can": [CAN_WORDS.get(word, word) for word in capabilities.to_store(entry.capabilities)],
        "server_zone": settings.ROUTERDASH.zone.key,
        "curl": _curl(entry, [it["model_id"] for it in models]),
    }
    return render(request, "endpoint.html", context)


def _range(given: Mapping[str, str]) -> tuple[int, bool]:
    """The days to show, and whether that is what was asked for."""
    text = given.get("days")
    if text is None:
        return DEFAULT_RANGE, True
    found = next((it for it in RANGES if str(it) == text), None)
    return (DEFAULT_RANGE, False) if found is None else (found, True)


def _drain_since(entry: Entry, said: Sequence[Edit]) -> datetime | None:
    """When the drain with a deadline began, where that is known: what its bar is a part of."""
    if entry.operator_state != OperatorState.DRAINING or entry.drain_until is None:
        return None
    last = next((it for it in said if it.state is not None), None)
    return last.at if last and last.state and last.state[1] == OperatorState.DRAINING else None


def _device(told: object) -> list[tuple[str, str]]:
    """What the server said of itself, as far as it is plain words and numbers."""
    if not isinstance(told, dict):
        return []
    return [
        (str(name).replace("_", " "), str(value))
        for name, value in sorted(told.items())
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""
    ][:12]


def _curl(entry: Entry, busiest: Sequence[str]) -> tuple[str, str] | None:
    """Path and body, quoted for a shell, of a request for one of its models: the busiest one that can chat."""
    known = {model.id: model for model in entry.models}
    models = [known[name] for name in busiest if name in known] + list(entry.models)
    for can, where, rest in (
        (CAN_CHAT, "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        (CAN_EMBED, "/v1/embeddings", {"input": "Hello"}),
    ):
        model = next((it for it in models if _can(entry, it, can)), None)
        if model is not None:
            return where, shlex.quote(json.dumps({"model": model.id, **rest}, ensure_ascii=False))
    return None


def _can(entry: Entry, model: ModelEntry, word: str) -> bool:
    """As gateways see it: a model of which nothing is known may do anything."""
    known = capabilities.together(model.capabilities, capabilities.added(list(entry.capabilities)))
    return not known or word in known


URLS = [path("endpoints/<uuid:endpoint_id>", endpoint, name="endpoint")]
