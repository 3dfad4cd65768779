"""Requests that llmlb served, counted: those of before the adoption, and those of any time in which it ran again.

llmlb adds rows to the history (their `outcome` is null), to endpoints' counters and to daily rows. A row of its history
belongs to one window of time between two looks of ours, so it is counted once; rows and the end of their window are
written in one transaction, so a kill costs nothing. Its counters and daily rows are compared with what they were at the
last look, less what RouterDash itself has added since.

llmlb must not run while this does. Rows whose moment, duration, type or model cannot be read are left out.
"""

import gc
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from django.db import OperationalError, connection, transaction

from endpoints import changes
from endpoints.fields import MOST
from gateway.record import FAILED, OK, Attempt, RequestRecord
from metrics import rollups
from metrics.fold import (
    ADOPTED,
    ANSWERS_BELOW,
    ANSWERS_US,
    INPUT_TOKENS,
    MAX_DURATION_US,
    NO_ENDPOINT,
    OUTPUT_TOKENS,
    PRUNED_ADOPTED,
    REQUESTS_FAILED,
    REQUESTS_OK,
    Fold,
)
from metrics.models import AdoptedDay, AdoptedHistory, Baseline, Installation, Total
from metrics.rows import KINDS

log = logging.getLogger(__name__)

BATCH = 50_000  # rows of one transaction
PROGRESS_SECONDS = 2.0
MINUTES_HOURS = 48  # before the last row: older minutes are what no figure looks back to
TOKENS = (INPUT_TOKENS, OUTPUT_TOKENS)
REQUESTS = (REQUESTS_OK, REQUESTS_FAILED)

_COLUMNS = (
    "completed_at, request_type, model, endpoint_id, client_ip, api_key_id, duration_ms, status, input_tokens, "
    "output_tokens"
)
_DIGITS = re.compile(r"[0-9]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Say = Callable[[str], None]


def catch_up(zone: ZoneInfo, say: Say, *, adopting: bool = False) -> int:
    """Count all that llmlb did since the last look; the number of rows. `say` is told how far it is.

    Raises django.db.Error while the database is away; what was counted until then stays.
    """
    until_us = time.time_ns() // 1000
    state = AdoptedHistory.objects.first()
    waiting = _waiting(0 if state is None else state.counted_us, until_us)
    if not waiting and not adopting and (_never_adopted() if state is None else not _served()):
        return 0
    state = _settle(waiting)
    counted, left_out, told_at = 0, 0, time.monotonic()
    for end_us in _ends(state, until_us):
        with _without_collections():
            some, bad = _count(end_us, zone)
        counted, left_out = counted + some, left_out + bad
        if time.monotonic() - told_at > PROGRESS_SECONDS:
            say(f"counted {counted:,} of {waiting:,} requests of llmlb")
            told_at = time.monotonic()
    AdoptedDay.objects.filter(total_requests=0, successful_requests=0, failed_requests=0).delete()
    if counted or left_out:
        say(f"counted {counted:,} requests of llmlb in clients, usage and totals")
    if left_out:
        log.warning("%d requests of llmlb are damaged and are not counted", left_out)
    return counted


@contextmanager
def _without_collections() -> Iterator[None]:
    """A batch is many objects and no garbage: looking for some would take a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _never_adopted() -> bool:
    return not Installation.objects.exclude(adopted_at=None).exists()


# The history


def _sqlite() -> bool:
    return connection.vendor == "sqlite"


def _history() -> str:
    """llmlb's rows from one moment to another, by their own small index."""
    hint = " INDEXED BY history_adopted" if _sqlite() else ""
    return f"FROM request_history{hint} WHERE outcome IS NULL AND completed_at >= %s AND completed_at < %s"


def bound(moment_us: int) -> str | datetime:
    """For `>=` and `<` on completed_at, which SQLite holds as text with up to nine digits of a second."""
    second, rest = divmod(moment_us, 1_000_000)
    moment = datetime.fromtimestamp(second, UTC).replace(microsecond=rest)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f" if rest else "%Y-%m-%dT%H:%M:%S") if _sqlite() else moment


def _waiting(since_us: int, until_us: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) {_history()}", (bound(since_us), bound(until_us)))
        return int(cursor.fetchone()[0])


def _ends(state: AdoptedHistory, until_us: int) -> Iterator[int]:
    """Where each batch ends. None lies on both sides of the moment up to which tokens were in the totals already."""
    since = state.counted_us
    for end in sorted({min(state.base_us, until_us), until_us}):
        while since < end:
            since = _end_of_batch(since, end)
            yield since


def _end_of_batch(since_us: int, end_us: int) -> int:
    """Behind which BATCH rows lie, or more where moments in between cannot be read."""
    skip = BATCH
    with connection.cursor() as cursor:
        while True:
            sql = f"SELECT completed_at {_history()} ORDER BY completed_at LIMIT 1 OFFSET {skip}"
            cursor.execute(sql, (bound(since_us), bound(end_us)))
            found = cursor.fetchone()
            if found is None:
                return end_us
            moment_us = microseconds(found[0])
            if moment_us is not None and since_us < moment_us < end_us:
                return moment_us
            skip *= 2


def microseconds(completed_at: object) -> int | None:
    """Since 1970; None for what is no moment. llmlb writes UTC."""
    if isinstance(completed_at, datetime):
        since = completed_at - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not isinstance(completed_at, str):
        return None
    second = _second(completed_at[:19])
    if second is None:
        return None
    if completed_at[19:20] != ".":
        return second * 1_000_000
    fraction = completed_at[20:26]
    if not fraction.isdecimal():
        fraction = _DIGITS.match(fraction)[0]  # type: ignore[index]  # matches nothing, too
    return second * 1_000_000 + int(fraction.ljust(6, "0"))


@lru_cache(maxsize=4096)
def _second(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(moment.replace(tzinfo=UTC).timestamp()) if moment.isoformat() == text else None


def _count(end_us: int, zone: ZoneInfo) -> tuple[int, int]:
    """The rows up to a moment, in one transaction: how many were counted, and how many cannot be."""
    with transaction.atomic():
        state = AdoptedHistory.objects.select_for_update().get()
        if state.counted_us >= end_us:
            return 0, 0  # another process was faster
        found = list(_rows(state.counted_us, end_us))
        entries = [entry for row in found if (entry := _record(row)) is not None]
        fold = Fold(zone).add_all(entries)
        with connection.cursor() as cursor:
            _write(cursor, fold, state, in_base=end_us <= state.base_us)
        AdoptedHistory.objects.update(counted_us=end_us)
        if entries:
            changes.bump(changes.FIGURES)
    return len(entries), len(found) - len(entries)


def _rows(since_us: int, end_us: int) -> Iterable[tuple[Any, ...]]:
    sql, values = f"SELECT {_COLUMNS} {_history()}", (bound(since_us), bound(end_us))
    with connection.cursor() as cursor:
        try:
            cursor.execute(sql, values)
            return list(cursor.fetchall())
        except OperationalError as error:
            if "Could not decode" not in str(error):
                raise
    # Some text is none. Slower, and rare.
    connection.connection.text_factory = _lenient
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())
    finally:
        connection.connection.text_factory = str


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def _attempts(endpoint_id: object, outcome: str) -> tuple[Attempt, ...]:
    """Without a duration: what llmlb served has no part in the moving averages of speeds."""
    endpoint_id = _id(endpoint_id)
    return (Attempt(endpoint_id, outcome, 0, 0),) if endpoint_id and endpoint_id != NO_ENDPOINT else ()


@lru_cache(maxsize=4096)
def _id(value: object) -> str:
    """An id; nothing for what is none."""
    text = str(value)
    return text if _UUID.fullmatch(text) else ""


@lru_cache(maxsize=64)
def _kind(request_type: str) -> str:
    return KINDS.get(request_type) or request_type.encode().lower().decode()


def _record(row: tuple[Any, ...]) -> RequestRecord | None:
    """A row as a record of ours; None for one that cannot be counted."""
    completed_at, request_type, model, endpoint_id, client_ip, key, duration_ms, status, tokens_in, tokens_out = row
    completed_us = microseconds(completed_at)
    if (
        completed_us is None
        or type(duration_ms) is not int
        or not 0 <= duration_ms <= MAX_DURATION_US // 1000
        or type(request_type) is not str
        or type(model) is not str
    ):
        return None
    outcome = OK if status == "success" else FAILED
    duration_us = duration_ms * 1000
    return RequestRecord(
        NO_ENDPOINT,  # an id as any other: which one it is has no part in any figure
        completed_us,
        _kind(request_type),
        model,
        outcome,
        0,
        duration_us,
        None,
        _attempts(endpoint_id, outcome),
        tokens_in if type(tokens_in) is int else None,
        tokens_out if type(tokens_out) is int else None,
        False,
        False,
        (_id(key) or None) if key is not None else None,
        client_ip if type(client_ip) is str and client_ip else None,
    )


def _write(cursor: Any, fold: Fold, state: AdoptedHistory, *, in_base: bool) -> None:
    """Add to roll-ups and totals. Tokens that are `in_base` stand in the totals already, requests always do."""
    rollups.upsert(
        cursor, rollups.MINUTES, {key: cell for key, cell in fold.cells.items() if key[0] >= state.minutes_since}
    )
    rollups.upsert_days(cursor, fold.days)
    rollups.upsert_clients(cursor, fold.clients)
    totals = Counter(
        {name: value for name, value in fold.totals.items() if name.startswith((ANSWERS_BELOW, ANSWERS_US))}
    )
    for name in (*REQUESTS, *TOKENS):
        totals[PRUNED_ADOPTED + name] = fold.totals[name]
    for name in () if in_base else TOKENS:
        totals[name] = totals[ADOPTED + name] = fold.totals[name]
    _add_totals(cursor, totals)
    shares = [(*key, -it.total, -it.successful, -it.failed) for key, it in sorted(fold.daily.items())]
    if shares:
        cursor.executemany(_ADD_SHARE, shares)


_SHARE_KEYS = ("endpoint_id", "model_id", "date", "api_kind")
_SHARE_SUMS = ("total_requests", "successful_requests", "failed_requests")
_ADD_SHARE = rollups.upsert_of("adopted_days", _SHARE_KEYS, _SHARE_SUMS)
_ADD_TOTAL = rollups.upsert_of("metric_totals", ("name",), ("value",))


def _add_totals(cursor: Any, totals: Counter[str]) -> None:
    """Those of zero too: that they are there says that they were kept."""
    if totals:
        cursor.executemany(_ADD_TOTAL, sorted(totals.items()))


# Counters and daily rows


Attempts = tuple[int, int]  # answered and failed


@dataclass(frozen=True, slots=True)
class Served:
    """What llmlb counted of one endpoint since the last look. Below zero where somebody made a count smaller."""

    by_counters: Attempts | None  # None: the endpoint is gone
    by_days: Attempts

    @property
    def told(self) -> Attempts:
        """What goes into the totals: they never shrink."""
        ok, failed = self.by_days if self.by_counters is None else self.by_counters
        return max(0, ok), max(0, failed)

    @property
    def any(self) -> bool:
        """Both must say so: one alone was changed by hand, or is damaged."""
        return sum(self.by_days) > 0 and (self.by_counters is None or sum(self.by_counters) > 0)


def _served() -> bool:
    return any(it.any for it in served().values())


def served() -> dict[str, Served]:
    """By endpoint, those of which llmlb has counted nothing left out. Four queries over short tables."""
    ours = _sums("rollup_months", "attempts_ok", "attempts_failed")
    shares = _sums("adopted_days", "successful_requests", "failed_requests")
    days = _sums("endpoint_daily_stats", "successful_requests", "failed_requests")
    counters = _sums("endpoints", "successful_requests", "failed_requests", key="id")
    begun = _sums("endpoint_baselines", "successful_requests", "failed_requests")
    begun_days = _sums("endpoint_baselines", "daily_successful", "daily_failed")
    found: dict[str, Served] = {}
    for it in sorted({*counters, *days}):
        by_days = _less(_of(days, it), _of(ours, it), _of(shares, it))
        # At the last look, the roll-ups had what daily rows had then, less their share.
        own = _less(_of(ours, it), _less(_of(begun_days, it), _of(shares, it)))
        by_counters = _less(_of(counters, it), _of(begun, it), own) if it in counters else None
        if any(by_days) or any(by_counters or ()):
            found[it] = Served(by_counters, by_days)
    return found


def _of(sums: dict[str, Attempts], endpoint_id: str) -> Attempts:
    return sums.get(endpoint_id, (0, 0))


def _less(one: Attempts, *others: Attempts) -> Attempts:
    return one[0] - sum(it[0] for it in others), one[1] - sum(it[1] for it in others)


def _sums(table: str, ok: str, failed: str, key: str = "endpoint_id") -> dict[str, Attempts]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {key}, SUM({_sane(ok)}), SUM({_sane(failed)}) FROM {table} GROUP BY {key}")  # noqa: S608
        return {str(endpoint_id): (int(ok), int(failed)) for endpoint_id, ok, failed in cursor.fetchall()}


def _sane(column: str) -> str:
    """A damaged count is none: it must not spoil a sum."""
    whole = f"typeof({column}) = 'integer' AND " if _sqlite() else ""
    return f"CASE WHEN {whole}ABS({column} / 2) <= {MOST} THEN {column} ELSE 0 END"


def _settle(waiting: int) -> AdoptedHistory:
    """Take what llmlb has counted into the totals, and note where its counts stand now. In one transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        state = AdoptedHistory.objects.select_for_update().first()
        adopted_at = Installation.objects.exclude(adopted_at=None).values_list("adopted_at", flat=True).first()
        if state is None and adopted_at is not None:
            requests = _since_adoption()
            _keep_base(cursor)
        else:
            requests = [sum(it.told[at] for it in served().values()) for at in (0, 1)]
        _add_totals(
            cursor,
            Counter(
                {
                    f"{kept}{name}": count
                    for name, count in zip(REQUESTS, requests, strict=True)
                    for kept in ("", ADOPTED)
                }
            ),
        )
        _note_counts(cursor)
        return state or _begin(adopted_at)


def _begin(adopted_at: datetime | None) -> AdoptedHistory:
    """The first look: at the adoption, or by the first release that counts the history of one before it."""
    now = time.time()
    last_us = _last_us()
    last_minute = int(now // 60) if last_us is None else last_us // 60_000_000
    return AdoptedHistory.objects.create(
        id=1,
        counted_us=0,
        base_us=0 if adopted_at is None else microseconds(adopted_at) or 0,
        minutes_since=(last_minute // 60 - MINUTES_HOURS) * 60,
        days_since=0 if adopted_at is None else int(now // 60),
        clients_since=0 if adopted_at is None else _own_clients_since(),
    )


def _last_us() -> int | None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT completed_at {_history()} ORDER BY completed_at DESC LIMIT 1",
            (bound(0), bound(time.time_ns() // 1000)),
        )
        found = cursor.fetchone()
    return None if found is None else microseconds(found[0])


def _own_clients_since() -> int:
    """The hour from which on the clients of RouterDash's own requests are counted, as far as the history tells."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT MIN(hour) FROM rollup_client_hours")
        ((first,),) = cursor.fetchall()
        if first is None:
            return int(time.time() // 3600) + 1
        cursor.execute(
            "SELECT COUNT(*) FROM request_history WHERE outcome IS NOT NULL AND client_ip IS NOT NULL "
            "AND completed_at < %s",
            (bound((int(first) + 1) * 3_600_000_000),),
        )
        ((rows,),) = cursor.fetchall()
        cursor.execute(
            "SELECT SUM(requests_ok + requests_failed + requests_cancelled) FROM rollup_client_hours WHERE hour = %s",
            (first,),
        )
        ((counted,),) = cursor.fetchall()
    return 0 if not rows or int(rows) == int(counted) else int(first) + 1


def _since_adoption() -> list[int]:
    """What llmlb has counted since an adoption whose release noted no shares of daily rows: by all of these together.

    The first releases did not keep what the totals began with: then it cannot be told.
    """
    stored = dict(Total.objects.values_list("name", "value"))
    if ADOPTED + REQUESTS_OK not in stored:
        return [0, 0]
    begun, begun_days = (
        _all("endpoint_baselines", *columns)
        for columns in (("successful_requests", "failed_requests"), ("daily_successful", "daily_failed"))
    )
    days = _all("endpoint_daily_stats", "successful_requests", "failed_requests")
    attempts = _all("rollup_months", "attempts_ok", "attempts_failed")
    found = []
    for at, name in enumerate(REQUESTS):
        gone = stored[ADOPTED + name] - begun[at]  # of endpoints that llmlb had deleted
        ours = attempts[at] - stored.get(PRUNED_ADOPTED + name, 0)
        found.append(max(0, days[at] - begun_days[at] - gone - ours))
    return found


def _all(table: str, ok: str, failed: str) -> Attempts:
    sums = _sums(table, ok, failed).values()
    return sum(it[0] for it in sums), sum(it[1] for it in sums)


def _keep_base(cursor: Any) -> None:
    """The first releases did not keep what the totals began with: what they are beyond the roll-ups."""
    if Total.objects.filter(name=ADOPTED + REQUESTS_OK).exists():
        return
    names = (*REQUESTS, *TOKENS)
    cursor.execute(f"SELECT {', '.join(f'COALESCE(SUM({name}), 0)' for name in names)} FROM rollup_months")  # noqa: S608
    stored = dict(Total.objects.values_list("name", "value"))
    _add_totals(
        cursor,
        Counter(
            {
                ADOPTED + name: stored.get(name, 0) - int(summed) + stored.get(PRUNED_ADOPTED + name, 0)
                for name, summed in zip(names, cursor.fetchone(), strict=True)
            }
        ),
    )


def _note_counts(cursor: Any) -> None:
    """Each endpoint's counters and the sum of its daily rows; and what each daily row has beyond the roll-ups."""
    counted = ("total_requests", "successful_requests", "failed_requests")
    sums = ", ".join(f"COALESCE(SUM({_sane('day.' + name)}), 0)" for name in counted)
    own = ", ".join(_sane(f"endpoints.{name}") for name in counted)
    Baseline.objects.all().delete()
    cursor.execute(
        "INSERT INTO endpoint_baselines (endpoint_id, total_requests, successful_requests, failed_requests, "  # noqa: S608
        f"daily_total, daily_successful, daily_failed) SELECT endpoints.id, {own}, {sums} FROM endpoints LEFT JOIN "
        "endpoint_daily_stats AS day ON day.endpoint_id = endpoints.id GROUP BY endpoints.id"
    )
    AdoptedDay.objects.all().delete()
    parts = ", ".join(f"SUM({name}) AS {name}" for name in counted)
    cursor.execute(
        f"INSERT INTO adopted_days ({', '.join((*_SHARE_KEYS, *_SHARE_SUMS))}) "  # noqa: S608
        f"SELECT {', '.join(_SHARE_KEYS)}, {parts} FROM ("
        f"SELECT {', '.join(_SHARE_KEYS)}, {', '.join(f'{_sane(name)} AS {name}' for name in counted)} "
        "FROM endpoint_daily_stats UNION ALL SELECT endpoint_id, model, date, kind, -(attempts_ok + attempts_failed), "
        f"-attempts_ok, -attempts_failed FROM rollup_days) AS both_sides GROUP BY {', '.join(_SHARE_KEYS)} "
        f"HAVING {' OR '.join(f'SUM({name}) <> 0' for name in counted)}"
    )
