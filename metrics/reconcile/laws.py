"""The laws that SQL alone can check. What is counted where is written here once more, on purpose: docs/figures.md says
it in words, metrics.fold does it, and this must come to the same.
"""

import ipaddress
import json
from collections.abc import Callable, Collection, Iterator
from datetime import datetime

from metrics.reconcile.comparison import Comparison, Difference, Query, where
from metrics.reconcile.history import NIL, cell_key, counted, minute_of, of_llmlb, readable, sqlite
from metrics.reconcile.scope import Scope, bound, exact

DIMENSIONS = ("endpoint_id", "model", "kind", "api_key_id")
CELL = (
    "requests_ok", "requests_failed", "requests_cancelled", "attempts_ok", "attempts_failed", "input_tokens",
    "output_tokens", "ok_duration_us",
)  # fmt: skip
WIDE = ("requests_rejected", "first_token_us")  # null in rows of before these were counted
COUNTERS = ("total_requests", "successful_requests", "failed_requests")
SPEED = ("total_output_tokens", "total_duration_ms")
DAILY = ("endpoint_id", "model_id", "date", "api_kind")
CLIENT_HOUR = ("hour", "client_ip")
CLIENT_DAY = ("day", "client_ip", "api_key_id", "model")
CLIENT = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
TOTALS = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")

# Every table with figures: its key and its counts, none of which is ever below zero.
TABLES = {
    "endpoints": (("id",), COUNTERS),
    "endpoint_daily_stats": (DAILY, COUNTERS + SPEED),
    "endpoint_baselines": (("endpoint_id",), (*COUNTERS, "daily_total", "daily_successful", "daily_failed")),
    "rollup_minutes": (("minute", *DIMENSIONS), CELL + WIDE),
    "rollup_days": (("date", *DIMENSIONS), CELL + WIDE),
    "rollup_months": (("month", *DIMENSIONS), CELL + WIDE),
    "rollup_client_hours": (CLIENT_HOUR, CLIENT),
    "rollup_client_days": (CLIENT_DAY, CLIENT),
    "rollup_all_clients": (("hour",), (*CLIENT, "clients")),
    "metric_totals": (("name",), ("value",)),
}


def _attempts() -> tuple[str, str, str]:
    """What to join to get a row for each attempt, and an attempt's endpoint and outcome."""
    if sqlite():
        joined = ", json_each(CASE WHEN json_valid(attempts) THEN attempts ELSE '[]' END) AS attempt"
        return joined, "json_extract(attempt.value, '$.endpoint_id')", "json_extract(attempt.value, '$.outcome')"
    joined = " CROSS JOIN LATERAL jsonb_array_elements(attempts) AS attempt(value)"
    return joined, "CAST(attempt.value->>'endpoint_id' AS uuid)", "attempt.value->>'outcome'"


def last_duration() -> str:
    """Microseconds of the attempt that made the answer."""
    if sqlite():
        return "CASE WHEN json_valid(attempts) THEN json_extract(attempts, '$[#-1].duration_us') END"
    return "CAST(attempts->-1->>'duration_us' AS bigint)"


_SPEAK = "'chat_completions', 'completions', 'responses', 'messages'"
HAS_SPEED = f"outcome = 'ok' AND kind IN ({_SPEAK}) AND output_tokens > 0"


_AS_CELL = (
    "CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END AS requests_ok, "
    "CASE WHEN outcome IN ('ok', 'cancelled') THEN 0 ELSE 1 END AS requests_failed, "
    "CASE WHEN outcome = 'cancelled' THEN 1 ELSE 0 END AS requests_cancelled, "
    "0 AS attempts_ok, 0 AS attempts_failed, input_tokens, output_tokens, "
    "CASE WHEN outcome = 'ok' THEN duration_us ELSE 0 END AS ok_duration_us"
)


# Derived figures, each from what is nearer to the requests: in this order a repair goes.


def minutes(scope: Scope) -> Comparison:
    """L3: minute roll-ups are the history's requests, and each attempt of these on its endpoint."""
    since = scope.history_minutes_since
    rows, key = counted(scope, since), ", ".join(("minute", *DIMENSIONS))
    joined, endpoint, outcome = _attempts()
    requests = Query(
        f"SELECT {key}, {_AS_CELL} FROM ({rows.sql}) AS counted",  # noqa: S608
        rows.parameters,
    )
    attempts = Query(
        f"SELECT {cell_key(endpoint)}, 0, 0, 0, CASE WHEN {outcome} = 'ok' THEN 1 ELSE 0 END, "  # noqa: S608
        f"CASE WHEN {outcome} IN ('refused', 'failed', 'truncated') THEN 1 ELSE 0 END, 0, 0, 0 "
        f"FROM request_history{joined} WHERE outcome IS NOT NULL AND completed_at >= %s",
        (bound(since),),
    )
    parts = [requests, attempts]
    if scope.adopted is not None:  # each of llmlb's rows is one attempt, where an endpoint was chosen
        theirs = of_llmlb(scope.adopted, since)
        parts.append(
            Query(
                f"SELECT {key}, 0, 0, 0, CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END, "  # noqa: S608
                f"CASE WHEN outcome = 'ok' THEN 0 ELSE 1 END, 0, 0, 0 FROM ({theirs.sql}) AS counted "
                f"WHERE endpoint_id <> '{NIL}'",
                theirs.parameters,
            )
        )
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=("minute", *DIMENSIONS),
        # Without the rows of successes there is nothing to say of these, nor of attempts before they succeeded.
        columns=CELL if scope.every_row else ("requests_failed", "requests_cancelled"),
        expected=Query.union(parts),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def first_tokens(scope: Scope) -> Comparison | None:
    """L3: the times to first token of minute roll-ups are those of the history's answers."""
    since = max(scope.history_minutes_since, scope.narrow_minute + 1)
    if not scope.every_row:
        return None
    return Comparison(
        law="L3",
        table="rollup_minutes",
        source="request_history",
        keys=("minute", *DIMENSIONS),
        columns=("first_token_us",),
        expected=Query(
            f"SELECT {cell_key('endpoint_id')}, first_token_us FROM request_history "  # noqa: S608
            "WHERE outcome = 'ok' AND first_token_us IS NOT NULL AND completed_at >= %s",
            (bound(since),),
        ),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def days(scope: Scope) -> Comparison | None:
    """L3: day roll-ups are the sum of the minutes of local days of which all minutes are there."""
    return _days(scope.days(scope.minutes_since), CELL)


def days_of_requests(scope: Scope) -> Comparison | None:
    """L3: day roll-ups are the history's requests, on whole days of which minutes do not tell all."""
    if not scope.every_row:
        return None
    dates = {date: at for date, at in scope.days(scope.history_since).items() if at[0] < scope.minutes_since}
    parts = []
    for date, (first, end) in dates.items():
        rows = counted(scope, first)
        parts.append(
            Query(
                f"SELECT CAST(%s AS text) AS date, {', '.join(DIMENSIONS)}, {_AS_CELL} FROM ({rows.sql}) AS counted "  # noqa: S608
                "WHERE minute < %s",
                (date, *rows.parameters, end),
            )
        )
    if not parts:
        return None
    return Comparison(
        law="L3",
        table="rollup_days",
        source="request_history",
        keys=("date", *DIMENSIONS),
        columns=tuple(name for name in CELL if not name.startswith("attempts")),
        expected=Query.union(parts),
        found=Query(f"SELECT * FROM rollup_days WHERE date IN ({marks(dates)})", tuple(dates)),  # noqa: S608
    )


def wide_days(scope: Scope) -> Comparison | None:
    """L3: so are refusals and times to first token, from the first day on that counted them from its start."""
    return _days(wide_dates(scope), WIDE)


def wide_dates(scope: Scope) -> dict[str, tuple[int, int]]:
    dates = scope.days(max(scope.minutes_since, scope.narrow_minute + 1))
    return {date: at for date, at in dates.items() if date > scope.narrow_date}


def _days(dates: dict[str, tuple[int, int]], columns: tuple[str, ...]) -> Comparison | None:
    names = ", ".join((*DIMENSIONS, *columns))
    parts = [
        Query(
            f"SELECT CAST(%s AS text) AS date, {names} FROM rollup_minutes WHERE minute >= %s AND minute < %s",  # noqa: S608
            (date, first, end),
        )
        for date, (first, end) in dates.items()
    ]
    if not parts:
        return None
    return Comparison(
        law="L3",
        table="rollup_days",
        source="rollup_minutes",
        keys=("date", *DIMENSIONS),
        columns=columns,
        expected=Query.union(parts),
        found=Query(f"SELECT * FROM rollup_days WHERE date IN ({marks(dates)})", tuple(dates)),  # noqa: S608
    )


def months(scope: Scope) -> Comparison:
    """L3: month roll-ups are the sums of all day roll-ups."""
    columns = CELL + WIDE
    return Comparison(
        law="L3",
        table="rollup_months",
        source="rollup_days",
        keys=("month", *DIMENSIONS),
        columns=columns,
        expected=Query(f"SELECT substr(date, 1, 7) AS month, {', '.join(DIMENSIONS + columns)} FROM rollup_days"),  # noqa: S608
        found=Query("SELECT * FROM rollup_months"),
    )


def client_hours(scope: Scope) -> Comparison | None:
    """L3: the hours of clients are the history's requests, from the first whole hour on in which they were counted."""
    return _clients(scope, "rollup_client_hours", CLIENT_HOUR, 60)


def client_days(scope: Scope) -> Comparison | None:
    """L3: so are their days (UTC), by key and model."""
    return _clients(scope, "rollup_client_days", CLIENT_DAY, 24 * 60)


def _clients(scope: Scope, table: str, keys: tuple[str, ...], minutes: int) -> Comparison | None:
    if scope.clients_since is None:
        return None
    span = keys[0]
    first = -(-max(scope.history_since, scope.clients_since) // minutes)  # the next whole one
    rows = counted(scope, first * minutes)
    requests = (
        f"SELECT minute / {minutes} AS {span}, client_ip, api_key_id, model, "  # noqa: S608
        "CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END AS requests_ok, "
        "CASE WHEN outcome IN ('ok', 'cancelled') THEN 0 ELSE 1 END AS requests_failed, "
        "CASE WHEN outcome = 'cancelled' THEN 1 ELSE 0 END AS requests_cancelled, input_tokens, output_tokens "
        f"FROM ({rows.sql}) AS counted WHERE client_ip IS NOT NULL"
    )
    return Comparison(
        law="L3",
        table=table,
        source="request_history",
        keys=keys,
        columns=CLIENT if scope.every_row else ("requests_failed", "requests_cancelled"),
        expected=Query(requests, rows.parameters),
        found=Query(f"SELECT * FROM {table} WHERE {span} >= %s", (first,)),  # noqa: S608
    )


def all_clients(scope: Scope) -> Comparison:
    """L3: what all clients sent in an hour is the sum over them, and over those whose addresses are forgotten."""
    return Comparison(
        law="L3",
        table="rollup_all_clients",
        source="rollup_client_hours",
        keys=("hour",),
        columns=CLIENT,
        expected=Query("SELECT * FROM rollup_client_hours"),
        found=Query("SELECT * FROM rollup_all_clients"),
    )


def different_clients(scope: Scope) -> Comparison:
    """L3: so many different ones they were, in the last days: an IPv6 /64 is one, for which SQL has no word."""
    first = -(-scope.minutes_since // 60)
    hours: dict[int, set[str]] = {}
    addresses = Query("SELECT hour, client_ip FROM rollup_client_hours WHERE hour >= %s AND client_ip <> ''", (first,))
    for hour, address in addresses.rows():
        hours.setdefault(int(hour), set()).add(_client(address))
    counts = json.dumps({hour: len(clients) for hour, clients in hours.items()})
    if sqlite():
        counted = Query("SELECT CAST(key AS INTEGER) AS hour, value AS clients FROM json_each(%s)", (counts,))
    else:
        counted = Query(
            "SELECT CAST(key AS bigint) AS hour, CAST(value AS bigint) AS clients "
            "FROM json_each_text(CAST(%s AS json)) AS counted (key, value)",
            (counts,),
        )
    return Comparison(
        law="L3",
        table="rollup_all_clients",
        source="rollup_client_hours",
        keys=("hour",),
        columns=("clients",),
        expected=counted,
        found=Query("SELECT * FROM rollup_all_clients WHERE hour >= %s", (first,)),
    )


def _client(address: str) -> str:
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.is_loopback or found.ipv4_mapped is not None:
        return address
    return f"{int(found) >> 64:x}::/64"


def daily_attempts(scope: Scope) -> Comparison:
    """L3: daily rows are the attempts of the day roll-ups, of endpoints deleted long ago as well, and what llmlb's have
    beyond these; where that is not known, from the day after the adoption on.
    """
    since = scope.adopted_on if scope.adopted is None else ""
    attempts = Query(
        "SELECT endpoint_id, model AS model_id, date, kind AS api_kind, "
        "attempts_ok + attempts_failed AS total_requests, attempts_ok AS successful_requests, "
        "attempts_failed AS failed_requests FROM rollup_days WHERE date > %s",
        (since,),
    )
    theirs = Query(f"SELECT {', '.join(DAILY + COUNTERS)} FROM adopted_days WHERE date > %s", (since,))  # noqa: S608
    return Comparison(
        law="L3",
        table="endpoint_daily_stats",
        source="rollup_days",
        keys=DAILY,
        columns=COUNTERS,
        expected=Query.union([attempts, theirs]),
        found=Query("SELECT * FROM endpoint_daily_stats WHERE date > %s", (since,)),
    )


def daily_speeds(scope: Scope) -> Comparison | None:
    """L3: tokens and time of daily rows are those of the history's answers that have a speed, on days without llmlb."""
    with_llmlb = {date for (date,) in Query("SELECT DISTINCT date FROM adopted_days").rows()}
    dates = scope.days(scope.history_since) if scope.every_row else {}
    dates = {date: at for date, at in dates.items() if date > scope.adopted_on and date not in with_llmlb}
    parts = [
        Query(
            "SELECT endpoint_id, model AS model_id, CAST(%s AS text) AS date, kind AS api_kind, "  # noqa: S608
            f"output_tokens AS total_output_tokens, {_milliseconds(last_duration())} AS total_duration_ms "
            f"FROM request_history WHERE {HAS_SPEED} AND {last_duration()} > 0 "
            "AND completed_at >= %s AND completed_at < %s",
            (date, bound(first), bound(end)),
        )
        for date, (first, end) in dates.items()
    ]
    if not parts:
        return None
    return Comparison(
        law="L3",
        table="endpoint_daily_stats",
        source="request_history",
        keys=DAILY,
        columns=SPEED,
        expected=Query.union(parts),
        found=Query(f"SELECT * FROM endpoint_daily_stats WHERE date IN ({marks(dates)})", tuple(dates)),  # noqa: S608
    )


def _milliseconds(us: str) -> str:
    """Of each attempt, rounded half to even, at least 1."""
    up = f"CASE WHEN {us} %% 1000 > 500 OR ({us} %% 1000 = 500 AND {us} / 1000 %% 2 = 1) THEN 1 ELSE 0 END"
    return f"CASE WHEN {us} < 1000 THEN 1 ELSE {us} / 1000 + {up} END"


def daily_sums(scope: Scope) -> Comparison:
    """L1: total = successful + failed, for each daily row."""
    return _sums("endpoint_daily_stats", DAILY)


def counters(scope: Scope) -> Comparison:
    """L2: an endpoint's counters less its baseline are its daily rows less those of the baseline."""
    figures = ", ".join(
        f"COALESCE((SELECT base.{column} - base.{begun} FROM endpoint_baselines AS base "  # noqa: S608
        "WHERE base.endpoint_id = endpoints.id), 0) + "
        f"COALESCE((SELECT SUM(day.{column}) FROM endpoint_daily_stats AS day "
        f"WHERE day.endpoint_id = endpoints.id), 0) AS {column}"
        for column, begun in zip(COUNTERS, ("daily_total", "daily_successful", "daily_failed"), strict=True)
    )
    return Comparison(
        law="L2",
        table="endpoints",
        source="endpoint_daily_stats",
        keys=("id",),
        columns=COUNTERS,
        expected=Query(f"SELECT id, {figures} FROM endpoints"),  # noqa: S608
        found=Query("SELECT * FROM endpoints"),
    )


def counter_sums(scope: Scope) -> Comparison:
    """L1: total = successful + failed, for each endpoint."""
    return _sums("endpoints", ("id",))


def _sums(table: str, keys: tuple[str, ...]) -> Comparison:
    return Comparison(
        law="L1",
        table=table,
        source=table,
        keys=keys,
        columns=("total_requests",),
        expected=Query(
            f"SELECT {', '.join(keys)}, successful_requests + failed_requests AS total_requests FROM {table}"  # noqa: S608
        ),
        found=Query(f"SELECT * FROM {table}"),  # noqa: S608
    )


def totals(scope: Scope) -> Comparison | None:
    """L6: totals are what they were at the adoption and all day roll-ups, less adopted rows that went into these: no
    endpoint that was deleted, and no row that is too old, takes anything away.
    """
    if not knows_base(scope):
        return None
    parts = [
        Query(
            f"SELECT '{name}' AS name, COALESCE(SUM({name}), 0) AS value FROM rollup_days UNION ALL "  # noqa: S608
            f"SELECT '{name}', CASE WHEN name = 'adopted:{name}' THEN value ELSE -value END FROM metric_totals "
            f"WHERE name IN ('adopted:{name}', 'pruned_adopted:{name}')"
        )
        for name in TOTALS
    ]
    return Comparison(
        law="L6",
        table="metric_totals",
        source="rollup_days",
        keys=("name",),
        columns=("value",),
        expected=Query.union(parts),
        found=Query(f"SELECT * FROM metric_totals WHERE name IN ({marks(TOTALS)})", TOTALS),  # noqa: S608
    )


def knows_base(scope: Scope) -> bool:
    """Were the totals kept at the adoption? The first releases did not."""
    return not scope.adopted_on or any(Query("SELECT 1 FROM metric_totals WHERE name = 'adopted:requests_ok'").rows())


Derivation = Callable[[Scope], Comparison | None]
DERIVED: tuple[Derivation, ...] = (
    minutes,
    first_tokens,
    days,
    days_of_requests,
    wide_days,
    months,
    client_hours,
    client_days,
    all_clients,
    different_clients,
    daily_attempts,
    daily_speeds,
    daily_sums,
    counters,
    counter_sums,
    totals,
)


# And what is only looked at.


def timeline(scope: Scope) -> Comparison:
    """L4: the last 60 minutes are a GROUP BY over the history, by status, without the cancelled."""
    theirs, values = "", tuple[str | datetime, ...]()
    if scope.adopted is not None:
        theirs, values = f" OR ({readable()} AND completed_at < %s)", (exact(scope.adopted.counted_us),)
    since = max(scope.history_minutes_since, int(scope.now // 60) - 60)
    return Comparison(
        law="L4",
        table="rollup_minutes",
        source="request_history",
        keys=("minute",),
        columns=("requests_ok", "requests_failed") if scope.every_row else ("requests_failed",),
        expected=Query(
            f"SELECT {minute_of()} AS minute, CASE WHEN status = 'success' THEN 1 ELSE 0 END AS requests_ok, "  # noqa: S608
            "CASE WHEN status = 'success' THEN 0 ELSE 1 END AS requests_failed FROM request_history "
            f"WHERE completed_at >= %s AND (outcome <> 'cancelled'{theirs})",
            (bound(since), *values),
        ),
        found=Query("SELECT * FROM rollup_minutes WHERE minute >= %s", (since,)),
    )


def refusals(scope: Scope) -> Comparison | None:
    """L6: refusals by reason are those of all day roll-ups, if these have been counting them from the start."""
    if scope.narrow_date:
        return None
    return Comparison(
        law="L6",
        table="metric_totals",
        source="rollup_days",
        keys=("name",),
        columns=("value",),
        expected=Query("SELECT 'rejected:*' AS name, requests_rejected AS value FROM rollup_days"),
        found=Query("SELECT 'rejected:*' AS name, value FROM metric_totals WHERE name LIKE 'rejected:%%'"),
    )


LOOKED_AT: tuple[Derivation, ...] = (timeline, refusals)


def negative(scope: Scope) -> Iterator[Difference]:
    """L1: no count is below zero, in any table."""
    for table, (keys, columns) in TABLES.items():
        below = " OR ".join(f"{column} < 0" for column in columns)
        query = Query(f"SELECT {', '.join(keys + columns)} FROM {table} WHERE {below}")  # noqa: S608
        for row in query.rows():
            for column, value in zip(columns, row[len(keys) :], strict=True):
                if value is not None and value < 0:
                    yield Difference("L1", column, where(table, keys, row[: len(keys)]), "0 or more", value)


def uncounted(scope: Scope) -> Iterator[Difference]:
    """Requests that llmlb served and that are in no total yet: they are counted at the next start."""
    counted_us = scope.adopted.counted_us if scope.adopted else 0
    query = Query(
        f"SELECT COUNT(*) FROM request_history WHERE {readable()} AND completed_at >= %s AND completed_at < %s",  # noqa: S608
        (exact(counted_us), exact(round(scope.now * 1e6))),
    )
    for (count,) in query.rows():
        if count:
            yield Difference("adoption", "requests of llmlb that no total counts", "request_history", 0, count)


def ids(scope: Scope) -> Iterator[Difference]:
    """No request is in the history twice, and on SQLite the file is sound. Reads everything: only when asked to."""
    twice = Query("SELECT CAST(id AS text), count(*) FROM request_history GROUP BY id HAVING count(*) > 1")
    for request_id, count in twice.rows():
        yield Difference("ids", "rows", f"request_history id={request_id}", 1, count)
    if sqlite():
        for (found,) in Query("PRAGMA integrity_check").rows():
            if found != "ok":
                yield Difference("ids", "integrity_check", "the database file", "ok", found)


def marks(values: Collection[object]) -> str:
    return ", ".join(["%s"] * len(values))
