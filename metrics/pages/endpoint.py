"""One endpoint: its figures, days, models, health, failures and edits."""

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

from endpoints import capabilities, edit_log
from endpoints.clouds.kinds import KIND_LABELS
from endpoints.edit_log import Edit
from endpoints.models import OperatorState
from endpoints.registry import Entry, ModelEntry, registry
from gateway.base.request_kinds import CAN_CHAT, CAN_EMBED
from gateway.registry.schema import plain_timeout
from metrics.costs.of_period import last_days
from metrics.costs.of_usage import with_costs
from metrics.memory.runtime import runtime
from metrics.queries import figures, uptime, usage
from metrics.queries.endpoint_days import endpoint_days, endpoint_details, model_days
from metrics.queries.figures import Moment
from metrics.queries.requests.failures import last_failures
from metrics.queries.slices import EndpointPage, figure_slices
from metrics.queries.stored import flushed
from metrics.queries.usage import UsagePayload

RANGES = (1, 7, 30, 90)
DEFAULT_RANGE = 30
SHOWN_EDITS = 10
SHOWN_SPANS = 8
DEADLINES = (0, 60, 300, 900, 3600)  # seconds, offered for a drain


@never_cache
@login_required
def endpoint(request: HttpRequest, endpoint_id: uuid.UUID) -> HttpResponse:
    entry = registry.get(str(endpoint_id))
    if entry is None:
        raise Http404
    behind = not flushed()
    moment = Moment.now()
    row = next((row for row in figures.endpoints(moment) if row["id"] == entry.id), None)
    if row is None:
        raise Http404  # deleted a moment ago
    days, range_is_valid = _range(request.GET)
    today = moment.figures.date
    edits = edit_log.latest(entry.id)
    day_rows = endpoint_days(entry.id, days, today)
    models = model_days(entry.id, days, today)
    health = uptime.timeline(entry, uptime.MAX_DAYS, edits)
    costs = _costs(entry.id, days, today)
    context: dict[str, object] = {
        "entry": entry,
        "plain_timeout": plain_timeout(entry.inference_timeout_secs, settings.ROUTERDASH.plain_timeout_secs),
        "row": row,
        "stats": figures.stats(moment),
        "behind": behind,
        "ranges": RANGES,
        "range": days,
        "range_is_valid": range_is_valid,
        "today": figures.today_stats(entry.id, moment),
        "days": day_rows,
        "ok": sum(day.ok for day in day_rows),
        "failed": sum(day.failed for day in day_rows),
        "models": models,
        "details": endpoint_details(entry.id, days, today),
        "costs": costs,
        "cost_by_model": {row["model_id"]: row for row in costs["rows"]},
        "offered": {name: model for model in entry.models for name in (model.canonical_name, model.id) if name},
        "speeds": figures.model_tps(entry.id, moment),
        "engine": runtime.installation.engine(entry.id),
        "health": health,
        "shown_spans": SHOWN_SPANS,
        "latencies": uptime.latencies(entry.id),
        "failures": last_failures(entry.id),
        "edits": edits[:SHOWN_EDITS],
        "drain_since": _drain_since(entry, edits),
        "deadlines": DEADLINES,
        "device": _device(entry.device_info),
        "kind": KIND_LABELS.get(entry.kind, entry.kind),
        "can": [capabilities.label(word) for word in capabilities.to_store(entry.capabilities)],
        "server_zone": settings.ROUTERDASH.zone.key,
        "curl": _curl(entry, [model["model_id"] for model in models]),
    }
    page = EndpointPage(entry, last_days(today, days), edits, health.spans)
    for one in figure_slices():
        context |= one.endpoint_page(page)
    return render(request, "endpoint/page.html", context)


def _costs(endpoint_id: str, days: int, today: str) -> UsagePayload:
    """Return usage and costs by model over local days up to today."""
    period, only = last_days(today, days), {"endpoint_id": endpoint_id}
    return with_costs(usage.usage("model", period, only), period, only)


def _range(parameters: Mapping[str, str]) -> tuple[int, bool]:
    """Return the number of days, and False if the parameter was invalid."""
    text = parameters.get("days")
    if text is None:
        return DEFAULT_RANGE, True
    days = next((days for days in RANGES if str(days) == text), None)
    return (DEFAULT_RANGE, False) if days is None else (days, True)


def _drain_since(entry: Entry, edits: Sequence[Edit]) -> datetime | None:
    """Return the start of a drain with a deadline, if it is known: the start of its progress bar."""
    if entry.operator_state != OperatorState.DRAINING or entry.drain_until is None:
        return None
    last = next((edit for edit in edits if edit.state is not None), None)
    return last.at if last and last.state and last.state[1] == OperatorState.DRAINING else None


def _device(device_info: object) -> list[tuple[str, str]]:
    """Return the texts and numbers that the server reports of its device."""
    if not isinstance(device_info, dict):
        return []
    return [
        (str(name).replace("_", " "), str(value))
        for name, value in sorted(device_info.items())
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""
    ][:12]


def _curl(entry: Entry, busiest: Sequence[str]) -> tuple[str, str] | None:
    """Return path and body, quoted for a shell, of a request for the busiest model, preferably a chat model."""
    by_id = {model.id: model for model in entry.models}
    models = [by_id[name] for name in busiest if name in by_id] + list(entry.models)
    for can, api_path, content in (
        (CAN_CHAT, "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        (CAN_EMBED, "/v1/embeddings", {"input": "Hello"}),
    ):
        model = next((model for model in models if _can(entry, model, can)), None)
        if model is not None:
            return api_path, shlex.quote(json.dumps({"model": model.id, **content}, ensure_ascii=False))
    return None


def _can(entry: Entry, model: ModelEntry, word: str) -> bool:
    """Return True if gateways send requests that need this capability. A model of unknown capabilities gets all."""
    words = capabilities.combined(model.capabilities, capabilities.added(list(entry.capabilities)))
    return not words or word in words


URLS = [path("endpoints/<uuid:endpoint_id>", endpoint, name="endpoint")]
