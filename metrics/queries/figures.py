"""Figures from memory with the names of the JSON API, for pages, admin, API and Prometheus."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from django.conf import settings

from endpoints.models import OperatorState, Status
from endpoints.registry import Entry, registry
from gateway.base.bounds import BOUNDS
from gateway.routing.set_aside import AsideNote
from metrics.costs.hardware_totals import HardwareCosts
from metrics.costs.totals import CostTotalsNow
from metrics.counting.cells import Counters, Daily
from metrics.counting.reported_details import total_details
from metrics.counting.speeds import SpeedKey
from metrics.counting.totals import (
    DAMAGED,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REJECTED,
    REQUESTS_CANCELLED,
    REQUESTS_FAILED,
    REQUESTS_OK,
    UNRECORDED,
)
from metrics.memory import last_hour
from metrics.memory.backlog import Backlog
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.figures import Figures, iso_minute
from metrics.memory.runtime import runtime
from metrics.queries import breakers
from metrics.queries.payloads import (
    DashboardEndpointPayload,
    DayStatsPayload,
    EndpointTpsPayload,
    LiveEndpointPayload,
    MinutePayload,
    ModelTpsPayload,
    OverviewPayload,
    StatsPayload,
    WriterPayload,
)
from metrics.times import json_time


@dataclass(frozen=True, slots=True)
class Moment:
    """Input of one response, read at one moment: all its figures have the same version."""

    figures: Figures
    entries: tuple[Entry, ...]
    in_flight: Mapping[str, int]
    waiting: int
    trials: Mapping[str, int]
    unrecorded: int
    bound_hits: Mapping[str, int] = field(default_factory=dict)
    aside: Mapping[str, AsideNote] = field(default_factory=dict)
    costs: CostTotalsNow | None = None  # None: not read from the database yet
    hardware: HardwareCosts | None = None  # the same

    @classmethod
    def now(cls) -> "Moment":
        return cls(
            runtime.follower.figures(),
            registry.all(),
            runtime.installation.in_flight(),
            runtime.installation.waiting(),
            runtime.installation.trials(),
            runtime.installation.unrecorded(),
            runtime.installation.bound_hits.totals(),
            runtime.installation.aside(),
            runtime.follower.costs.read(),
            runtime.follower.hardware.read(),
        )


def overview(moment: Moment | None = None) -> OverviewPayload:
    started = time.perf_counter()
    moment = moment or Moment.now()
    return {
        "endpoints": endpoints(moment),
        "stats": stats(moment),
        "history": history(moment.figures),
        "endpoint_tps": endpoint_tps(moment),
        "generated_at": json_time(datetime.now(UTC)),
        "generation_time_ms": round((time.perf_counter() - started) * 1000),
    }


_LIVE = tuple(LiveEndpointPayload.__annotations__)


def live_endpoints(moment: Moment, entries: Iterable[Entry]) -> list[LiveEndpointPayload]:
    """Return the fields of these endpoints that change while a page is open."""
    rows = endpoints(moment, entries)
    return [cast(LiveEndpointPayload, {name: row[name] for name in _LIVE}) for row in rows]  # type: ignore[literal-required]


def endpoints(moment: Moment, entries: Iterable[Entry] | None = None) -> list[DashboardEndpointPayload]:
    """Return the endpoints in their order; all of them, or only `entries`."""
    return [_endpoint(entry, moment) for entry in (moment.entries if entries is None else entries)]


def tokens_per_second(entry: Entry, moment: Moment) -> float | None:
    """Return the speed of an endpoint: today's tokens over today's time, over all models and kinds."""
    speeds = moment.figures.endpoint_speeds.get(entry.id)
    return speeds.tokens_per_second if speeds is not None and speeds.models else None


def _endpoint(entry: Entry, moment: Moment) -> DashboardEndpointPayload:
    counters = moment.figures.endpoints.get(entry.id) or Counters()
    trial_due = moment.trials.get(entry.id, 0)
    note = moment.aside.get(entry.id) or AsideNote(0, None, ())
    return {
        "id": entry.id,
        "name": entry.name,
        "base_url": entry.base_url,
        "status": entry.status,
        "status_since": json_time(endpoint_events.since(entry.id, entry.status)),
        "operator_state": entry.operator_state,
        "drain_until": json_time(entry.drain_until),
        "endpoint_type": entry.kind,
        "health_check_interval_secs": entry.health_check_interval_secs,
        "inference_timeout_secs": entry.inference_timeout_secs,
        "latency_ms": entry.latency_ms,
        "last_seen": json_time(entry.last_seen),
        "last_error": entry.last_error,
        "error_count": entry.error_count,
        "registered_at": json_time(entry.registered_at),
        "notes": entry.notes,
        "model_count": len(entry.models),
        "total_requests": counters.total,
        "successful_requests": counters.successful,
        "failed_requests": counters.failed,
        "cancelled_requests": counters.cancelled,
        "active_requests": moment.in_flight.get(entry.id, 0),
        "slots": entry.slots,
        "tokens_per_second": tokens_per_second(entry, moment),
        "recent_attempts": moment.figures.hour.get((last_hour.ATTEMPTS, entry.id), 0),
        "recent_failures": moment.figures.hour.get((last_hour.FAILED, entry.id), 0),
        "breaker": breakers.state(trial_due, moment.figures.at),
        "breaker_trial_due": breakers.trial_time(trial_due),
        "paused_until": breakers.trial_time(note.paused_until),
        "pause_cause": note.cause,
        "lacks": note.lacks,
    }


def stats(moment: Moment) -> StatsPayload:
    entries, figures = moment.entries, moment.figures
    totals = figures.totals
    tokens_in, tokens_out = totals.get(INPUT_TOKENS, 0), totals.get(OUTPUT_TOKENS, 0)
    ok, failed = totals.get(REQUESTS_OK, 0), totals.get(REQUESTS_FAILED, 0)
    rejected = {name.removeprefix(REJECTED): n for name, n in sorted(totals.items()) if name.startswith(REJECTED)}
    durations, first_tokens, today = figures.durations, figures.first_tokens, figures.totals_today
    details = total_details(totals)
    config = settings.ROUTERDASH
    return {
        "total_runtimes": len(entries),
        "online_runtimes": _count(entries, Status.ONLINE),
        "pending_runtimes": _count(entries, Status.PENDING),
        "registering_runtimes": 0,
        "offline_runtimes": _count(entries, Status.OFFLINE, Status.ERROR),
        "total_requests": ok + failed,
        "successful_requests": ok,
        "failed_requests": failed,
        "cancelled_requests": totals.get(REQUESTS_CANCELLED, 0),
        "rejected_requests": sum(rejected.values()),
        "rejected_by_reason": rejected,
        "bound_hits": {bound.name: moment.bound_hits.get(bound.name, 0) for bound in BOUNDS},
        "total_active_requests": sum(moment.in_flight.values()),
        "queued_requests": moment.waiting,
        "average_response_time_ms": _average_response_time(moment),
        "p50_response_time_ms": durations.p50,
        "p95_response_time_ms": durations.p95,
        "p99_response_time_ms": durations.p99,
        "average_first_token_ms": first_tokens.average,
        "p50_first_token_ms": first_tokens.p50,
        "p95_first_token_ms": first_tokens.p95,
        "p99_first_token_ms": first_tokens.p99,
        "tokens_per_second": figures.tokens_per_second,
        "today_requests": today.get(REQUESTS_OK, 0) + today.get(REQUESTS_FAILED, 0),
        "today_failed_requests": today.get(REQUESTS_FAILED, 0),
        "today_input_tokens": today.get(INPUT_TOKENS, 0),
        "today_output_tokens": today.get(OUTPUT_TOKENS, 0),
        "average_gpu_usage": None,
        "average_gpu_memory_usage": None,
        "last_metrics_updated_at": None,
        "last_registered_at": json_time(
            max((entry.registered_at for entry in entries if entry.registered_at), default=None)
        ),
        "last_seen_at": json_time(max((entry.last_seen for entry in entries if entry.last_seen), default=None)),
        "openai_key_present": bool(config.openai_api_key),
        "google_key_present": bool(config.google_api_key),
        "anthropic_key_present": bool(config.anthropic_api_key),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "total_cached_tokens": details["cached_tokens"],
        "total_cached_of_tokens": details["cached_of_tokens"],
        "total_cache_write_tokens": details["cache_write_tokens"],
        "total_reasoning_tokens": details["reasoning_tokens"],
        **_writer(moment),
        "records_unrecorded": totals.get(UNRECORDED, 0) + moment.unrecorded,
        "journal_damaged_bytes": totals.get(DAMAGED, 0),
        "figures_restored": figures.seeded,
        "figures_version": figures.version,
    }


def _writer(moment: Moment) -> WriterPayload:
    backlog = runtime.installation.writer.backlog if runtime.installation.writer is not None else Backlog()
    late_since = backlog.late_since(moment.figures.at)
    last_commit = backlog.last_commit_at
    return {
        "records_waiting": runtime.follower.waiting,
        "records_waiting_secs": None if late_since is None else max(0.0, moment.figures.at - late_since),
        "oldest_waiting_secs": _oldest_waiting(moment),
        "last_commit_at": None if last_commit is None else json_time(datetime.fromtimestamp(last_commit, UTC)),
        "last_batch_records": backlog.last_batch_records,
        "last_batch_ms": backlog.last_batch_ms,
        "writer_errors": backlog.errors,
        "writer_error": backlog.error,
    }


def _oldest_waiting(moment: Moment) -> float | None:
    """Return the age in seconds of the oldest record that is not in the database; None if there is none."""
    writer = runtime.installation.writer
    oldest = writer.oldest_waiting() if writer is not None and runtime.follower.waiting else None
    return None if oldest is None else max(0.0, moment.figures.at - oldest)


def _average_response_time(moment: Moment) -> float | None:
    """Return the average of successful requests; before the first, the mean latency of the online endpoints."""
    if moment.figures.average_response_time_ms is not None:
        return moment.figures.average_response_time_ms
    measured = [
        entry.latency_ms
        for entry in moment.entries
        if entry.status == Status.ONLINE
        and entry.operator_state != OperatorState.DISABLED
        and entry.latency_ms is not None
    ]
    return sum(measured) / len(measured) if measured else None


def _count(entries: Iterable[Entry], *states: str) -> int:
    return sum(entry.status in states for entry in entries)


def history(figures: Figures) -> list[MinutePayload]:
    """Return the last 60 minutes, oldest first, from `_timeline` in metrics.memory.trackers."""
    return [
        {"minute": iso_minute(slot.minute), "success": slot.success, "error": slot.error} for slot in figures.timeline
    ]


def endpoint_tps(moment: Moment) -> list[EndpointTpsPayload]:
    """Return a row for each endpoint with a speed: today's tokens over today's time, over all models and kinds."""
    rows: list[EndpointTpsPayload] = []
    for entry in moment.entries:
        speeds = moment.figures.endpoint_speeds.get(entry.id)
        if speeds is not None and speeds.models:
            rows.append(
                {
                    "endpoint_id": entry.id,
                    "model_count": speeds.models,
                    "aggregate_tps": speeds.tokens_per_second,
                    "total_output_tokens": speeds.output_tokens,
                    "total_requests": speeds.successful,
                }
            )
    return rows


def model_tps(endpoint_id: str, moment: Moment) -> list[ModelTpsPayload]:
    """Return the speeds of one endpoint's models: the moving average, and today's sums."""
    speeds = moment.figures.endpoint_speeds.get(endpoint_id)
    return [speed(key, moment) for key in speeds.keys] if speeds is not None else []


def all_model_tps(moment: Moment) -> Iterator[tuple[Entry, ModelTpsPayload]]:
    """Yield the speeds of all endpoints, in the order of the endpoints."""
    for entry in moment.entries:
        for row in model_tps(entry.id, moment):
            yield entry, row


def speed(key: SpeedKey, moment: Moment) -> ModelTpsPayload:
    """Return the moving average of a model at an endpoint, and today's sums."""
    figures = moment.figures
    today = figures.today.get(key) or Daily()
    return {
        "model_id": key[1],
        "api_kind": key[2],
        "source": "production",
        "tps": figures.speeds.get(key),
        "request_count": today.successful,
        "total_output_tokens": today.output_tokens,
        "average_duration_ms": figures.average_today_ms.get(key),
    }


def today_stats(endpoint_id: str, moment: Moment) -> DayStatsPayload:
    speeds, today = moment.figures.endpoint_speeds.get(endpoint_id), moment.figures.today
    rows = [today[key] for key in speeds.keys if key in today] if speeds is not None else []
    return {
        "date": moment.figures.date,
        "total_requests": sum(daily.total for daily in rows),
        "successful_requests": sum(daily.successful for daily in rows),
        "failed_requests": sum(daily.failed for daily in rows),
    }
