"""Figures from the database, when control starts and when a database returns.

Positions and sums are read at one moment, so that the journals' tails behind these positions make them exact. Each step
catches its own failure and logs one warning: a damaged table costs its own figures, never the start.
"""

import logging
import time
import warnings
from collections.abc import Callable, Sequence

from django.db import Error, connection
from django.db.models import F, Max, Sum

from endpoints import changes
from endpoints.models import Endpoint
from metrics import client_hours, database, histogram, hour
from metrics.fold import NO_ENDPOINT, Cell, Counters, Daily, SpeedKey, Usage, local_date, unpack_samples
from metrics.models import (
    ClientHourRollUp,
    DailyStat,
    DayRollUp,
    JournalPosition,
    MinuteRollUp,
    MovingAverage,
    Total,
)
from metrics.teller import folder
from metrics.trackers import AVERAGE_MINUTES, Speed, State, earliest_minute

log = logging.getLogger(__name__)

seeds = 0  # how often this process seeded; a test counts it


def seed_at_start() -> None:
    """From `AppConfig.ready`: a database that is away or locked leaves empty trackers, and the writer seeds later."""
    with warnings.catch_warnings():
        # Django warns of any query in ready(); this one is asked for, and only where the process serves.
        warnings.filterwarnings("ignore", "Accessing the database during app initialization", RuntimeWarning)
        try:
            seed()
        except Error as error:
            log.warning("figures could not be read from the database, they will be when it is back: %s", error)
        finally:
            connection.close()


def seed() -> None:
    """Fill the trackers. Raises django.db.Error when the database cannot be read at all."""
    global seeds
    database_id = database.database_id()
    folder.seed(load(time.time()), database_id)
    seeds += 1


def load(now: float) -> State:
    """All figures as the database has them at one moment. Raises django.db.Error while it is away or locked."""
    state = State(folder.trackers.zone, read_at=now)
    with database.read_moment():
        state.positions = {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}
        for step in (_repairs, _counters, _totals, _minutes, _clients, _latest_day, _today, _speeds):
            _gracefully(step, state, now)
    return state


def _gracefully(step: Callable[[State, float], None], state: State, now: float) -> None:
    """Each step in a savepoint of its own: on PostgreSQL one failing query would spoil all that follow."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT step")
        try:
            step(state, now)
        except Exception as error:
            if database.is_away(error):
                raise  # for a moment perhaps: all of it is tried again
            # Whatever a damaged table or row raises: the start goes on without it.
            cursor.execute("ROLLBACK TO SAVEPOINT step")
            name = step.__name__.strip("_").replace("_", " ")
            state.missing += (name,)
            log.warning("figures not restored (%s): %s", name, error)
        cursor.execute("RELEASE SAVEPOINT step")


def _repairs(state: State, now: float) -> None:
    state.repairs = changes.read().get(changes.FIGURES, 0)


def _counters(state: State, now: float) -> None:
    for row in Endpoint.objects.values_list("id", "total_requests", "successful_requests", "failed_requests"):
        state.endpoints[str(row[0])] = Counters(*row[1:])
    sums = DayRollUp.objects.exclude(endpoint_id=NO_ENDPOINT).values_list("endpoint_id").annotate(*map(Sum, _USAGE))
    for endpoint_id, cancelled, *usage in sums:
        if str(endpoint_id) in state.endpoints:
            state.endpoints[str(endpoint_id)].cancelled = cancelled
        state.usage[str(endpoint_id)] = Usage(*usage)


_USAGE = ("requests_cancelled", "requests_ok", "ok_duration_us", "input_tokens", "output_tokens")


def _totals(state: State, now: float) -> None:
    state.totals.update({row.name: int(row.value) for row in Total.objects.all()})


def _minutes(state: State, now: float) -> None:
    """The last 24 hours."""
    since = earliest_minute(now) - AVERAGE_MINUTES
    recent = MinuteRollUp.objects.filter(minute__gt=since)
    sums = recent.values_list("minute").annotate(*map(Sum, (*_ANSWERS, *_TOKENS)))
    for minute, *found in sums:
        cell = _answers(found[: len(_ANSWERS)])
        cell.input_tokens, cell.output_tokens = found[len(_ANSWERS) :]
        state.add_minute(minute, cell)
    for minute, *packed in recent.exclude(durations=None).values_list("minute", *_HISTOGRAMS).iterator():
        state.add_minute(minute, _distribution(packed))
    _hour(state, now)


def _hour(state: State, now: float) -> None:
    """What the last 60 minutes are summed by."""
    since = earliest_minute(now) - hour.MINUTES
    sums = MinuteRollUp.objects.filter(minute__gt=since).values_list("minute", "endpoint_id", "model", "api_key_id")
    for minute, endpoint_id, model, key, *found in sums.annotate(*map(Sum, _COUNTS)).iterator():
        state.hour.add(minute, str(endpoint_id), model, key, Cell(**dict(zip(_COUNTS, found, strict=True))))


def _clients(state: State, now: float) -> None:
    """The hours of clients, the busiest first: of too many, those are kept."""
    recent = ClientHourRollUp.objects.filter(hour__gt=int(now // 3600) - client_hours.KEPT)
    sent = F("requests_ok") + F("requests_failed") + F("requests_cancelled")
    for row in recent.order_by(sent.desc()).values_list("hour", "client_ip", sent).iterator():
        state.clients.add(*row)


_COUNTS = ("requests_ok", "requests_failed", "attempts_ok", "attempts_failed")
_TOKENS = ("input_tokens", "output_tokens")
_ANSWERS = ("requests_ok", "requests_failed", "ok_duration_us", "first_token_us")
_HISTOGRAMS = ("durations", "first_tokens")


def _answers(sums: Sequence[int | None]) -> Cell:
    ok, failed, duration_us, first_token_us = (count or 0 for count in sums)
    return Cell(requests_ok=ok, requests_failed=failed, ok_duration_us=duration_us, first_token_us=first_token_us)


def _distribution(packed: Sequence[str | None]) -> Cell:
    durations, first_tokens = map(histogram.unpack, packed)
    return Cell(durations=durations, first_tokens=first_tokens)


def _latest_day(state: State, now: float) -> None:
    """The last local date on which a request was answered."""
    date = DayRollUp.objects.filter(requests_ok__gt=0).aggregate(Max("date"))["date__max"]
    if date is not None:
        state.latest_day = (date, Cell())
        for found in DayRollUp.objects.filter(date=date).values_list(*_ANSWERS, *_HISTOGRAMS):
            state.latest_day[1].add(_answers(found[: len(_ANSWERS)]))
            state.latest_day[1].add(_distribution(found[len(_ANSWERS) :]))


def _today(state: State, now: float) -> None:
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
        "date", "endpoint_id", "model", "kind", *_ANSWERS
    ):
        state.day(date).answered[_key(endpoint_id, model, kind)].add(_answers(sums))


def _speeds(state: State, now: float) -> None:
    """The moving averages as they were."""
    for row in MovingAverage.objects.all():
        if samples := unpack_samples(bytes(row.samples)):
            state.speeds[_key(row.endpoint_id, row.model, row.kind)] = Speed(samples)


def _key(endpoint_id: object, model: str, kind: str) -> SpeedKey:
    return str(endpoint_id), model, kind
