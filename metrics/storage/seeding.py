"""Seeding: reads the figures in memory from the database, when control starts and when a database returns.

Positions and sums are read as of one moment, so that the journal entries behind these positions complete them. Each
step handles its own errors with one warning: a damaged table costs its own figures, but does not prevent the start.
"""

import logging
import time
from collections.abc import Callable, Sequence

from django.db import Error, connection
from django.db.models import F, Max, Sum

from endpoints.changes import counters as change_counters
from endpoints.models import Endpoint
from metrics.costs import stored_totals as cost_totals
from metrics.counting import histogram
from metrics.counting.cells import Cell, Counters, Daily, EndpointUsage, local_date
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.speeds import SpeedKey, unpack_samples
from metrics.memory import client_hours, last_hour
from metrics.memory.runtime import runtime
from metrics.memory.state import AVERAGE_MINUTES, FiguresState, Speed, earliest_minute
from metrics.models import (
    ClientHourRollUp,
    DailyStat,
    DayRollUp,
    JournalPosition,
    MinuteRollUp,
    MovingAverage,
    Total,
)
from metrics.storage import database

log = logging.getLogger(__name__)

seeds = 0  # number of times that this process has seeded; for tests
missed: Error | None = None  # why control could not seed at its start


def seed_at_start(is_prepared: Callable[[], bool] = lambda: True) -> None:
    """Seed when control starts (AppConfig.ready), if the database is prepared for this release.

    If it is away or locked, the trackers stay empty until the writer seeds them.
    """
    global missed
    try:
        if is_prepared():
            seed()
    except Error as error:
        missed = error
    finally:
        connection.close()


def seed_once_prepared() -> None:
    """Seed unless `seed_at_start` has, and nothing has changed the figures since, as counting llmlb's requests does."""
    global missed
    try:
        if not runtime.trackers.seeded:
            if missed is None:  # otherwise the writer tries again, as soon as it can
                seed()
        elif change_counters.read().get(change_counters.FIGURES, 0) != runtime.trackers.state.repairs:
            seed()
    except Error as error:
        missed = error
    finally:
        connection.close()
    if missed is not None:
        log.warning("figures could not be read from the database; they are read once it is available: %s", missed)


def seed() -> None:
    """Fill the trackers. Raises django.db.Error if the database cannot be read."""
    global seeds
    database_id = database.database_id()
    runtime.follower.seed(load(time.time()), database_id)
    seeds += 1


def load(now: float) -> FiguresState:
    """Return all figures of the database as of one moment. Raises django.db.Error while it is away or locked."""
    state = FiguresState(runtime.follower.trackers.zone, read_at=now)
    with database.read_moment():
        state.positions = {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}
        for step in (_repairs, _counters, _totals, _minutes, _clients, _latest_day, _today, _speeds, _costs):
            _run_step(step, state, now)
    return state


def _run_step(step: Callable[[FiguresState, float], None], state: FiguresState, now: float) -> None:
    """Run a step in its own savepoint, because on PostgreSQL a failed query would make all later ones fail."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT step")
        try:
            step(state, now)
        except Exception as error:
            if database.is_away(error):
                raise  # possibly temporary: the caller repeats the whole load
            # A damaged table or row: the start continues without its figures.
            cursor.execute("ROLLBACK TO SAVEPOINT step")
            name = step.__name__.strip("_").replace("_", " ")
            state.missing += (name,)
            log.warning("figures could not be restored (%s) and stay empty: %s", name, error)
        cursor.execute("RELEASE SAVEPOINT step")


def _repairs(state: FiguresState, now: float) -> None:
    state.repairs = change_counters.read().get(change_counters.FIGURES, 0)


def _counters(state: FiguresState, now: float) -> None:
    for row in Endpoint.objects.values_list("id", "total_requests", "successful_requests", "failed_requests"):
        state.endpoints[str(row[0])] = Counters(*row[1:])
    sums = DayRollUp.objects.exclude(endpoint_id=NO_ENDPOINT).values_list("endpoint_id").annotate(*map(Sum, _USAGE))
    for endpoint_id, cancelled, failed, *usage in sums:
        state.finished[str(endpoint_id)] = cancelled + failed + usage[0]
        if str(endpoint_id) in state.endpoints:
            state.endpoints[str(endpoint_id)].cancelled = cancelled
        state.usage[str(endpoint_id)] = EndpointUsage(*usage)


_USAGE = ("requests_cancelled", "requests_failed", "requests_ok", "ok_duration_us", "input_tokens", "output_tokens")


def _totals(state: FiguresState, now: float) -> None:
    state.totals.update({row.name: int(row.value) for row in Total.objects.all()})


def _minutes(state: FiguresState, now: float) -> None:
    """Read the last 24 hours."""
    since = earliest_minute(now) - AVERAGE_MINUTES
    recent = MinuteRollUp.objects.filter(minute__gt=since)
    sums = recent.values_list("minute").annotate(*map(Sum, (*_DURATION_SUMS, *_TOKENS)))
    for minute, *values in sums:
        cell = _cell(values[: len(_DURATION_SUMS)])
        cell.input_tokens, cell.output_tokens = values[len(_DURATION_SUMS) :]
        state.add_minute(minute, cell)
    for minute, *packed in recent.exclude(durations=None).values_list("minute", *_HISTOGRAMS).iterator():
        state.add_minute(minute, _distribution(packed))
    _hour(state, now)


def _hour(state: FiguresState, now: float) -> None:
    """Read the sums of the last 60 minutes by endpoint, model and API key."""
    since = earliest_minute(now) - last_hour.MINUTES
    sums = MinuteRollUp.objects.filter(minute__gt=since).values_list("minute", "endpoint_id", "model", "api_key_id")
    for minute, endpoint_id, model, key, *values in sums.annotate(*map(Sum, _COUNTS)).iterator():
        state.hour.add(minute, str(endpoint_id), model, key, Cell(**dict(zip(_COUNTS, values, strict=True))))


def _clients(state: FiguresState, now: float) -> None:
    """Read the requests of clients by hour, the busiest first, because memory holds a limited number of clients."""
    recent = ClientHourRollUp.objects.filter(hour__gt=int(now // 3600) - client_hours.RETAINED_HOURS)
    sent = F("requests_ok") + F("requests_failed") + F("requests_cancelled")
    for row in recent.order_by(sent.desc()).values_list("hour", "client_ip", sent).iterator():
        state.clients.add(*row)


_COUNTS = ("requests_ok", "requests_failed", "attempts_ok", "attempts_failed")
_TOKENS = ("input_tokens", "output_tokens")
_DURATION_SUMS = ("requests_ok", "requests_failed", "ok_duration_us", "first_token_us")
_HISTOGRAMS = ("durations", "first_tokens")


def _cell(sums: Sequence[int | None]) -> Cell:
    ok, failed, duration_us, first_token_us = (count or 0 for count in sums)
    return Cell(requests_ok=ok, requests_failed=failed, ok_duration_us=duration_us, first_token_us=first_token_us)


def _distribution(packed: Sequence[str | None]) -> Cell:
    durations, first_tokens = map(histogram.unpack, packed)
    return Cell(durations=durations, first_tokens=first_tokens)


def _latest_day(state: FiguresState, now: float) -> None:
    """Read the sums of the last local date with a successful request."""
    date = DayRollUp.objects.filter(requests_ok__gt=0).aggregate(Max("date"))["date__max"]
    if date is not None:
        state.latest_day = (date, Cell())
        for values in DayRollUp.objects.filter(date=date).values_list(*_DURATION_SUMS, *_HISTOGRAMS):
            state.latest_day[1].add(_cell(values[: len(_DURATION_SUMS)]))
            state.latest_day[1].add(_distribution(values[len(_DURATION_SUMS) :]))


def _today(state: FiguresState, now: float) -> None:
    since = local_date(earliest_minute(now), state.zone)
    for row in DailyStat.objects.filter(date__gte=since):
        state.day(row.date).attempts[_key(row.endpoint_id, row.model_id, row.api_kind)] = Daily(
            row.total_requests,
            row.successful_requests,
            row.failed_requests,
            row.total_output_tokens,
            row.total_duration_ms,
        )
    answered = DayRollUp.objects.filter(date__gte=since, requests_ok__gt=0)
    for date, endpoint_id, model, kind, *sums in answered.values_list(
        "date", "endpoint_id", "model", "kind", *_DURATION_SUMS
    ):
        state.day(date).answered[_key(endpoint_id, model, kind)].add(_cell(sums))


def _speeds(state: FiguresState, now: float) -> None:
    """Read the samples of moving averages."""
    for row in MovingAverage.objects.all():
        if samples := unpack_samples(bytes(row.samples)):
            state.speeds[_key(row.endpoint_id, row.model, row.kind)] = Speed(samples)


def _costs(state: FiguresState, now: float) -> None:
    state.costs = cost_totals.sums(state.finished)


def _key(endpoint_id: object, model: str, kind: str) -> SpeedKey:
    return str(endpoint_id), model, kind
