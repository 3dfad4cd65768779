"""What is told: the dashboard's figures as the JSON API names them. Pages, admin and API all come here."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models import Max, QuerySet, Sum

from endpoints.models import OperatorState, Status
from endpoints.registry import Entry, registry
from gateway.bounds import BOUNDS
from gateway.record import OK
from metrics import breakers, database, hour, rollups
from metrics import failures as last_failures
from metrics import history as requests_history
from metrics.database import SaneSum
from metrics.fold import (
    DAMAGED,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REJECTED,
    REQUESTS_CANCELLED,
    REQUESTS_FAILED,
    REQUESTS_OK,
    UNRECORDED,
    Counters,
    Daily,
    SpeedKey,
)
from metrics.history import ERROR, Cursor, Page, Row, Wanted, json_time
from metrics.marks import marks
from metrics.models import DailyStat, DayRollUp
from metrics.teller import folder, surroundings
from metrics.trackers import Figures, iso_minute
from metrics.writer import Backlog


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that one answer is made of, read together: all its figures are of one version."""

    figures: Figures
    entries: tuple[Entry, ...]
    in_flight: Mapping[str, int]
    waiting: int
    trials: Mapping[str, int]
    unrecorded: int
    bound_hits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def now(cls) -> "Moment":
        return cls(
            folder.figures(),
            registry.all(),
            surroundings.in_flight(),
            surroundings.waiting(),
            surroundings.trials(),
            surroundings.unrecorded(),
            surroundings.bounds.totals(),
        )


def overview(moment: Moment | None = None) -> dict[str, Any]:
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


# What may change of an endpoint while an overview of it is open.
_LIVE = (
    "id", "status", "status_since", "operator_state", "drain_until", "breaker", "breaker_trial_due", "last_error",
    "last_seen", "latency_ms", "active_requests", "slots", "tokens_per_second", "recent_attempts", "recent_failures",
    "total_requests", "successful_requests", "failed_requests", "cancelled_requests", "model_count",
)  # fmt: skip
SPEEDS_SHOWN = 50


def live(moment: Moment | None = None, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What an open overview shows and keeps up to date: of hundreds of models, the speeds of the busiest today."""
    moment = moment or Moment.now()
    rows = endpoints(moment) if rows is None else rows
    speeds = _speed_keys(moment)
    return {
        "stats": stats(moment),
        "endpoints": [{name: row[name] for name in _LIVE} for row in rows],
        "history": history(moment.figures),
        "speeds": busiest(moment, speeds),
        "speeds_known": len(speeds),
        "generated_at": json_time(datetime.now(UTC)),
    }


def busiest(moment: Moment, speeds: list[SpeedKey]) -> list[dict[str, Any]]:
    """Those models on endpoints that answered most today, by names."""
    today, names = moment.figures.today, {entry.id: entry.name for entry in moment.entries}

    def answers(key: SpeedKey) -> int:
        return today[key].successful if key in today else 0

    def place(key: SpeedKey) -> tuple[str, ...]:
        return names[key[0]], *key

    chosen = sorted(speeds, key=lambda key: (-answers(key), place(key)))[:SPEEDS_SHOWN]
    return [
        {"endpoint_id": key[0], "endpoint_name": names[key[0]], **_speed(key, moment)}
        for key in sorted(chosen, key=place)
    ]


def endpoints(moment: Moment) -> list[dict[str, Any]]:
    speeds = {row["endpoint_id"]: row["aggregate_tps"] for row in endpoint_tps(moment)}
    return [_endpoint(entry, moment, speeds.get(entry.id)) for entry in moment.entries]


def _endpoint(entry: Entry, moment: Moment, speed: float | None) -> dict[str, Any]:
    counters = moment.figures.endpoints.get(entry.id) or Counters()
    trial_due = moment.trials.get(entry.id, 0)
    return {
        "id": entry.id,
        "name": entry.name,
        "base_url": entry.base_url,
        "status": entry.status,
        "status_since": json_time(marks.since(entry.id, entry.status)),
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
        "tokens_per_second": speed,
        "recent_attempts": moment.figures.hour.get((hour.ATTEMPTS, entry.id), 0),
        "recent_failures": moment.figures.hour.get((hour.FAILED, entry.id), 0),
        "breaker": breakers.state(trial_due, moment.figures.at),
        "breaker_trial_due": breakers.told_due(trial_due),
    }


def stats(moment: Moment) -> dict[str, Any]:
    entries, figures = moment.entries, moment.figures
    totals = figures.totals
    tokens_in, tokens_out = totals.get(INPUT_TOKENS, 0), totals.get(OUTPUT_TOKENS, 0)
    ok, failed = totals.get(REQUESTS_OK, 0), totals.get(REQUESTS_FAILED, 0)
    durations, first_tokens, today = figures.durations, figures.first_tokens, figures.totals_today
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
        "rejected_requests": sum(count for name, count in totals.items() if name.startswith(REJECTED)),
        "rejected_by_reason": {
            name.removeprefix(REJECTED): count for name, count in sorted(totals.items()) if name.startswith(REJECTED)
        },
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
        "last_registered_at": json_time(max((it.registered_at for it in entries if it.registered_at), default=None)),
        "last_seen_at": json_time(max((it.last_seen for it in entries if it.last_seen), default=None)),
        "openai_key_present": bool(config.openai_api_key),
        "google_key_present": bool(config.google_api_key),
        "anthropic_key_present": bool(config.anthropic_api_key),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        **_writing(moment),
        "records_unrecorded": totals.get(UNRECORDED, 0) + moment.unrecorded,
        "journal_damaged_bytes": totals.get(DAMAGED, 0),
        "figures_restored": figures.seeded,
        "figures_version": figures.version,
    }


def _writing(moment: Moment) -> dict[str, Any]:
    """How far the database is behind the figures."""
    backlog = surroundings.writer.backlog if surroundings.writer is not None else Backlog()
    late_since = backlog.late_since(moment.figures.at)
    return {
        "records_waiting": folder.waiting,
        "records_waiting_secs": None if late_since is None else max(0.0, moment.figures.at - late_since),
        "oldest_waiting_secs": _oldest_waiting(moment),
        "last_commit_at": json_time(_moment(backlog.last_commit_at)),
        "last_batch_records": backlog.last_batch_records,
        "last_batch_ms": backlog.last_batch_ms,
        "writer_errors": backlog.errors,
        "writer_error": backlog.error,
    }


def _oldest_waiting(moment: Moment) -> float | None:
    """Age in seconds of the oldest record that is not in the database; None where there is none."""
    oldest = surroundings.writer.oldest_waiting() if surroundings.writer is not None and folder.waiting else None
    return None if oldest is None else max(0.0, moment.figures.at - oldest)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _average_response_time(moment: Moment) -> float | None:
    """Over served requests; before any was served, the mean latency of the online endpoints (scenarios, S3)."""
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


def history(figures: Figures) -> list[dict[str, Any]]:
    return [
        {"minute": iso_minute(slot.minute), "success": slot.success, "error": slot.error} for slot in figures.timeline
    ]


def endpoint_tps(moment: Moment) -> list[dict[str, Any]]:
    """One entry for each endpoint with a speed: today's tokens over today's time, over all models and kinds."""
    rows: list[dict[str, Any]] = []
    models: dict[str, set[str]] = {}
    for endpoint_id, model, _ in moment.figures.speeds:
        models.setdefault(endpoint_id, set()).add(model)
    answered: dict[str, list[Daily]] = {}
    for (endpoint_id, *_), daily in moment.figures.today.items():
        if daily.has_speed:
            answered.setdefault(endpoint_id, []).append(daily)
    for entry in moment.entries:
        if entry.id not in models:
            continue
        today = answered.get(entry.id, [])
        tokens, duration = sum(it.output_tokens for it in today), sum(it.duration_ms for it in today)
        rows.append(
            {
                "endpoint_id": entry.id,
                "model_count": len(models[entry.id]),
                "aggregate_tps": tokens / (duration / 1000) if tokens and duration else None,
                "total_output_tokens": tokens,
                "total_requests": sum(it.successful for it in today),
            }
        )
    return rows


def model_tps(endpoint_id: str, moment: Moment) -> list[dict[str, Any]]:
    """Speeds of one endpoint's models: the moving average, and today's sums beside it."""
    keys = {key for key in (*moment.figures.speeds, *moment.figures.today) if key[0] == endpoint_id}
    return [_speed(key, moment) for key in sorted(keys)]


def all_model_tps(moment: Moment) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Those of every endpoint, in the order of the endpoints."""
    rows: dict[str, list[SpeedKey]] = {}
    for key in sorted(_speed_keys(moment)):
        rows.setdefault(key[0], []).append(key)
    for entry in moment.entries:
        for key in rows.get(entry.id, ()):
            yield entry, _speed(key, moment)


def _speed_keys(moment: Moment) -> list[SpeedKey]:
    """Each model on each endpoint that has a speed or answers of today."""
    known = {entry.id for entry in moment.entries}
    return [key for key in moment.figures.speeds.keys() | moment.figures.today.keys() if key[0] in known]


def _speed(key: SpeedKey, moment: Moment) -> dict[str, Any]:
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


# Figures that only the database has. What waits in the journals is written first.


def flushed() -> bool:
    """Everything that was recorded is in the database now; False while that has to catch up, which nobody waits for."""
    writer = surroundings.writer
    if writer is None:
        return True
    return writer.backlog.late_since(time.time()) is None and writer.flush()


def today_stats(endpoint_id: str, moment: Moment) -> dict[str, Any]:
    rows = [it for key, it in moment.figures.today.items() if key[0] == endpoint_id]
    return {
        "date": moment.figures.date,
        "total_requests": sum(it.total for it in rows),
        "successful_requests": sum(it.successful for it in rows),
        "failed_requests": sum(it.failed for it in rows),
    }


def daily_stats(endpoint_id: str, days: int, today: str) -> list[dict[str, Any]]:
    """Days that have rows, oldest first, `days` back and including today."""
    since = (date.fromisoformat(today) - timedelta(days=days - 1)).isoformat()
    sums = (
        DailyStat.objects.filter(endpoint_id=endpoint_id, date__range=(since, today))
        .values("date")
        .annotate(total=SaneSum("total_requests"), ok=SaneSum("successful_requests"), failed=SaneSum("failed_requests"))
        .order_by("date")
    )
    return [
        {
            "date": row["date"],
            "total_requests": row["total"],
            "successful_requests": row["ok"],
            "failed_requests": row["failed"],
        }
        for row in sums
    ]


def model_stats(endpoint_id: str | None = None) -> list[dict[str, Any]]:
    """All time, busiest model first: of one endpoint, or over all that there are."""
    names = ("total_requests", "successful_requests", "failed_requests", "total_output_tokens", "total_duration_ms")
    known = {entry.id for entry in registry.all()} if endpoint_id is None else {endpoint_id}
    days = DailyStat.objects.all()
    if endpoint_id is not None or not counted_endpoints() <= known:  # a row less to look up for each that is summed
        days = days.filter(endpoint_id__in=known)
    sums = days.values_list("model_id").annotate(*map(SaneSum, names))
    rows = [dict(zip(("model_id", *names), row, strict=True)) for row in sums]
    return sorted(rows, key=lambda row: (-row["total_requests"], row["model_id"]))


def counted_endpoints() -> set[str]:
    """All that have daily rows, of which an index leads from each to the next."""
    next_one = "SELECT endpoint_id FROM endpoint_daily_stats {} ORDER BY endpoint_id LIMIT 1"
    first, behind = next_one.format(""), next_one.format("WHERE endpoint_id > ids.id")
    sql = (
        f"WITH RECURSIVE ids (id) AS (SELECT ({first}) UNION ALL SELECT ({behind}) FROM ids WHERE ids.id IS NOT NULL) "  # noqa: S608
        "SELECT id FROM ids WHERE id IS NOT NULL"
    )
    return {str(found) for (found,) in _run(sql, ())}


def failures(endpoint_id: str) -> list[dict[str, Any]]:
    """The last requests that an endpoint failed, newest first. Two queries."""
    return last_failures.latest(_run, vendor_name(), endpoint_id)


def requests(wanted: Wanted, cursor: str | None, size: int) -> Page:
    """A page of the history, newest first. Two queries. Raises metrics.history.BadCursor."""
    vendor = vendor_name()
    return requests_history.page(_run, vendor, wanted, Cursor.decode(cursor, vendor) if cursor else None, size)


def numbered_requests(wanted: Wanted, skip: int, size: int) -> requests_history.Numbered:
    """Requests behind the newest `skip`, and how many there are in all, as far as that is known. At most seven queries.

    Where more are wanted than are counted one by one, and roll-ups can tell, they do.
    """
    with database.read_moment():
        found = requests_history.numbered(_run, vendor_name(), wanted, skip, size)
        total = _summed_requests(wanted) if found.capped else None
    return found if total is None else replace(found, count=total, capped=False)


_SENT = {OK: "requests_ok", ERROR: "requests_failed + requests_cancelled"}
_ALL_SENT = " + ".join(_SENT.values())


def _summed_requests(wanted: Wanted) -> int | None:
    """How many rows the history has: its first minute is counted, what came after is in the roll-ups. None where these
    do not know: rows that the reference wrote, others than all of an endpoint or an outcome, minutes long ago.
    """
    if wanted != Wanted(endpoint_id=wanted.endpoint_id, outcome=wanted.outcome) or not _has_all(wanted.outcome):
        return None
    if _run("SELECT 1 FROM request_history WHERE outcome IS NULL LIMIT 1", ()):
        return None
    first = requests_history.moment(_run("SELECT MIN(completed_at) FROM request_history", ())[0][0])
    if first is None or first < datetime.now(UTC) - timedelta(days=rollups.MINUTES_KEPT_DAYS):
        return None
    day = first.astimezone(settings.ROUTERDASH.zone)
    midnight = (day + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    minute = int(first.timestamp()) // 60
    of, only = ("", ()) if wanted.endpoint_id is None else (" AND endpoint_id = %s", (wanted.endpoint_id,))
    sent = _ALL_SENT if wanted.outcome is None else _SENT[wanted.outcome]
    minutes = f"SELECT SUM({sent}) FROM rollup_minutes WHERE minute > %s AND minute < %s{of}"  # noqa: S608
    days = f"SELECT SUM({sent}) FROM rollup_days WHERE date > %s{of}"  # noqa: S608
    until = datetime.fromtimestamp((minute + 1) * 60, UTC)
    return (
        requests_history.count(_run, vendor_name(), replace(wanted, until=until))
        + int(_run(minutes, (minute, int(midnight.timestamp()) // 60, *only))[0][0] or 0)
        + int(_run(days, (day.date().isoformat(), *only))[0][0] or 0)
    )


def _has_all(outcome: str | None) -> bool:
    """Does the history get a row for each of them?"""
    return outcome == ERROR or (outcome in (None, OK) and settings.ROUTERDASH.history == "all")


def request_row(request_id: str) -> Row | None:
    """One request of the history as the database has it; None where there is none. One query."""
    return requests_history.one(_run, request_id)


def request(request_id: str) -> dict[str, Any] | None:
    """One request of the history with all names; None where there is none. Two queries."""
    row = requests_history.one(_run, request_id)
    if row is None:
        return None
    told = requests_history.told(row, registry.name)
    return {**told, "api_key_name": told["api_key_id"] and key_names().get(told["api_key_id"])}


def bodies(request_id: str) -> dict[str, Any] | None:
    """A request's `model` and what is stored of its content: `request_body`, `response_body`, and `outcome`,
    `error_message` and `attempts`, in which endpoints may have put it. None where there is no such request. One query.
    """
    columns = ("model", "request_body", "response_body", "outcome", "error_message", "attempts")
    rows = _run(f"SELECT {', '.join(columns)} FROM request_history WHERE id = %s", [request_id])  # noqa: S608
    if not rows:
        return None
    found = dict(zip(columns, rows[0], strict=True))
    return {
        **found,
        "request_body": _json(found["request_body"]),
        "response_body": _json(found["response_body"]),
        "attempts": requests_history.attempts(found["attempts"]),
    }


def _json(stored: Any) -> Any:
    """Both databases give text; what is none, in a row that was damaged by hand, stays as it is."""
    try:
        return json.loads(stored) if isinstance(stored, str) else stored
    except ValueError:
        return stored


def find(text: str) -> list[dict[str, Any]]:
    """The request of this id, else those of the last that their client called so, at most two. At most two queries."""
    try:
        row = requests_history.one(_run, str(uuid.UUID(text)))
    except ValueError:
        row = None
    rows = [row] if row is not None else requests(Wanted(request_id=text), None, 2).rows
    return [requests_history.told(it, registry.name) for it in rows]


def vendor_name() -> requests_history.Vendor:
    return "postgresql" if connection.vendor == "postgresql" else "sqlite"


def _run(sql: str, values: Sequence[Any]) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        rows: list[Row] = cursor.fetchall()
        return rows


def keys_used(ids: Sequence[str], since: date) -> dict[str, tuple[int, str]]:
    """Of API keys: their requests since that local day, as `usage` counts them, and the last day that had any."""
    flushed()
    days = DayRollUp.objects.filter(date__gte=since.isoformat(), api_key_id__in=ids)
    sums = days.values_list("api_key_id").annotate(Sum("requests_ok"), Sum("requests_failed"), Max("date"))
    return {key: (ok + failed, last) for key, ok, failed, last in sums}


def key_names() -> dict[str, str]:
    """What API keys are called, by their ids. By name: keys belong to `access`, which this app does not import."""
    keys: QuerySet[Any] = apps.get_model("access", "ApiKey")._default_manager.values_list("pk", "name")
    return {str(key): name for key, name in keys}
