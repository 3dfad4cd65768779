"""Databases that look as if RouterDash had run for days: a fleet of endpoints, history, roll-ups, daily rows, counters.

`fill` writes the same rows as the writer, many times as fast, into a database that RouterDash has created and does not
use at the moment. All figures agree: `manage.py reconcile` finds no difference.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2s
from itertools import chain
from typing import Any, Protocol

import psycopg

from gateway.base import addresses
from gateway.ipc.record import FAILED, OK, uuid7
from metrics.counting.cells import CELL_COLUMNS
from metrics.counting.histogram import bucket, pack
from metrics.counting.speeds import pack_samples

DAYS = 6  # within the default retention at any hour
OLD_DAYS = range(10, 190)  # before today, with only roll-ups of days and clients
MODELS_OF_AN_ENDPOINT = 5
KEYS = 20
USERS = 20
CLIENTS_OF_A_MODEL = 10
CLIENTS_PER_MODEL = 2  # in total: each uses a few models
BUSY = 100  # pairs of endpoint and model with requests in one minute, at most
CHECK_DAYS, CHECK_MINUTES = 30, 20  # of stored health checks, and between two checks of an endpoint
CHECKS_OF_A_STATUS = 80
EDITS = 50  # of an endpoint
PRICE_ID = 1  # of the first price, and of the rate
NAME, NAME_ID = "fast", "f0000000-0000-4000-8000-000000000001"  # of a model name
INPUT, OUTPUT = 5, 8  # tokens of a response
FIRST_TOKEN_US = 20_000
KIND = "chat_completions"
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Server:
    id: str
    name: str
    url: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """Equal requests of one minute: `rows` of them, the first `failed` of which failed."""

    minute: int
    server: Server
    model: str
    key: str
    client: str
    rows: int
    failed: int
    duration_us: int

    @property
    def ok(self) -> int:
        return self.rows - self.failed

    def completed(self, number: int) -> float:
        """The end of one of the requests, in seconds since 1970."""
        return self.minute * 60 + 60 * (number / self.rows)


@dataclass(slots=True)
class Sums:
    """Sums of cells, as in a roll-up."""

    ok: int = 0
    failed: int = 0
    duration_us: int = 0
    durations: dict[int, int] = field(default_factory=dict)

    def add_sums(self, other: "Sums") -> None:
        self.ok += other.ok
        self.failed += other.failed

    def add(self, cell: Cell) -> None:
        self.ok += cell.ok
        self.failed += cell.failed
        self.duration_us += cell.ok * cell.duration_us
        if cell.ok:
            index = bucket(cell.duration_us)
            self.durations[index] = self.durations.get(index, 0) + cell.ok


def fleet(ports: Sequence[int], endpoints: int = 200, models: int = 500) -> list[Server]:
    """Endpoints at these ports in turn (with distinct paths), each with a few of the models."""
    count = min(models, MODELS_OF_AN_ENDPOINT)
    return [
        Server(
            str(uuid.UUID(int=(0xE << 124) | (4 << 76) | (8 << 60) | number)),
            f"server-{number:03d}",
            f"http://127.0.0.1:{ports[number % len(ports)]}" + (f"/{number}" if number >= len(ports) else ""),
            tuple(f"model-{(number * count + one) % models:03d}" for one in range(count)),
        )
        for number in range(endpoints)
    ]


def spread(servers: Sequence[Server], rows: int, now: float) -> list[Cell]:
    """`rows` requests over the last days, except the last hour, which a start reads minute by minute."""
    pairs = [(server, model) for server in servers for model in server.models]
    last = int(now // 60) - 61
    minutes = max(1, min(DAYS * 24 * 60, rows))
    busy = max(1, min(BUSY, len(pairs), rows // minutes // 10))
    each, more = divmod(rows, minutes * busy)
    cells: list[Cell] = []
    for index in range(minutes * busy):
        minute = last - minutes + index // busy
        server, model = pairs[(minute * 37 + index % busy) % len(pairs)]
        count = each + (index < more)
        cells.append(_cell(minute, server, model, count, index))
    return cells


def old(servers: Sequence[Server], now: float) -> Iterator[Cell]:
    """Cells of days without history: each model of each endpoint was requested in every other hour."""
    pairs = [(server, model) for server in servers for model in server.models]
    midnight = int(now // 86_400) * 24
    for hour in range(midnight - OLD_DAYS[-1] * 24, midnight - OLD_DAYS[0] * 24):
        for index in range(hour % 2, len(pairs), 2):
            yield _cell(hour * 60 + index % 60, *pairs[index], 10, index)


def _cell(minute: int, server: Server, model: str, rows: int, index: int) -> Cell:
    key, client, duration_us = key_of(model), client_of(model, minute), 50_000 + 1000 * (index % 997)
    return Cell(minute, server, model, key, client, rows, int(index % 50 == 0), duration_us)


def key_of(model: str) -> str:
    """The id of the API key of the request."""
    return _key(_number(model) % KEYS)


def client_of(model: str, minute: int) -> str:
    """The client address for a model in a minute; one of five is IPv6."""
    number = _number(model) * CLIENTS_PER_MODEL + minute % CLIENTS_OF_A_MODEL
    return f"2001:db8:0:{number + 1:x}::{minute % 3 + 1}" if number % 5 == 0 else f"10.0.{number // 250}.{number % 250}"


def user(number: int) -> str:
    """The id of a request."""
    return str(uuid.UUID(int=(0xA << 124) | (4 << 76) | (8 << 60) | number))


def _number(model: str) -> int:
    return int(model.rpartition("-")[2])


def _key(number: int) -> str:
    return str(uuid.UUID(int=(0xC << 124) | (4 << 76) | (8 << 60) | number))


class Sink(Protocol):
    """A database that takes many rows."""

    def many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None: ...
    def run(self, sql: str) -> list[tuple[Any, ...]]: ...
    def without_triggers(self) -> AbstractContextManager[None]:
        """Keep the change log out of it where that takes as long as all else."""
        ...

    @property
    def indexes(self) -> str:
        """SQL for the names and definitions of the history's indexes."""
        ...


class Sqlite:
    indexes = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'request_history' AND sql IS NOT NULL"
    )

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(columns))
        self._connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)  # noqa: S608

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        triggers = self.run("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        for name, _ in triggers:
            self.run(f"DROP TRIGGER {name}")
        yield
        for _, statement in triggers:
            self.run(statement)


class Postgres:
    indexes = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'request_history' AND indexname LIKE 'history_%'"
    )

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def without_triggers(self) -> AbstractContextManager[None]:
        return nullcontext()  # they run once a statement


@contextmanager
def opened(database: str) -> Iterator[Sink]:
    """Open a SQLite file by its path, or a PostgreSQL database by its URL, in one transaction."""
    if database.startswith("postgres"):
        with psycopg.connect(database) as connection:
            yield Postgres(connection)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")  # as it would have done in the meantime
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")  # KiB: random keys are inserted into large indexes
        connection.execute("BEGIN IMMEDIATE")
        yield Sqlite(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fill(database: str, servers: Sequence[Server], rows: int) -> list[Cell]:
    """Write all tables, and return the cells of the sums."""
    now = time.time()
    cells = spread(servers, rows, now)
    with opened(database) as sink:
        write_endpoints(sink, servers, now)
        _model_names(sink, servers, now)
        _prices(sink, servers, now)
        _checks(sink, servers, now)
        _people(sink, now)
        _edits(sink, servers, now)
        indexes = sink.run(sink.indexes)
        for name, _ in indexes:
            sink.run(f"DROP INDEX {name}")
        _history(sink, cells)
        for _, how in indexes:
            sink.run(how)
        _roll_ups(sink, cells, "rollup_minutes", "minute")
        _roll_ups(sink, chain(old(servers, now), cells), "rollup_days", "date")
        _months(sink)
        _last_uses(sink, cells)
        _clients(sink, chain(old(servers, now), cells))
        _speeds(sink, servers, now)
        _sums(sink)
    return cells


def write_endpoints(sink: Sink, servers: Sequence[Server], now: float, interval: int = 60) -> None:
    """Write endpoints that are online, and their models. `interval`: seconds between two health checks."""
    stamp = iso(now)
    sink.many(
        "endpoints",
        ("id", "name", "base_url", "status", "health_check_interval_secs", "inference_timeout_secs", "latency_ms",
         "last_seen", "error_count", "registered_at", "endpoint_type", "total_requests", "successful_requests",
         "failed_requests"),
        ((server.id, server.name, server.url, "online", interval, 120, 12, stamp, 0, stamp,
          "openai_compatible", 0, 0, 0)
         for server in servers),
    )  # fmt: skip
    sink.many(
        "endpoint_models",
        ("endpoint_id", "model_id", "capabilities", "last_checked", "supported_apis"),
        (
            (server.id, model, '["chat"]', stamp, '["chat_completions"]')
            for server in servers
            for model in server.models
        ),
    )


def _model_names(sink: Sink, servers: Sequence[Server], now: float) -> None:
    """Write a model name with two steps, the first of which shares requests among two targets."""
    first, last = servers[0].models[0], servers[-1].models[-1]
    sink.many(
        "model_names",
        ("id", "name", "enabled", "echo_served", "external", "same_vectors", "note", "defaults", "overrides",
         "dropped", "created_at"),
        [(NAME_ID, NAME, True, False, False, False, "", "{}", "{}", "[]", iso(now))],
    )  # fmt: skip
    sink.many(
        "model_name_steps",
        ("named_id", "position", "if_unavailable", "if_failed", "if_too_long"),
        [(NAME_ID, position, True, True, True) for position in (1, 2)],
    )
    sink.many(
        "model_name_targets",
        ("named_id", "step", "model", "tag", "weight"),
        [(NAME_ID, 1, first, "", 9), (NAME_ID, 1, last, "", 1), (NAME_ID, 2, last, "", 1)],
    )


def _prices(sink: Sink, servers: Sequence[Server], now: float) -> None:
    """Write a price for each model, and a rate that does not count yet, so that it can be deleted."""
    models = sorted({model for server in servers for model in server.models})
    stamp = iso(now - 86_400)
    sink.many(
        "prices",
        ("id", "pattern", "provider", "valid_from", "currency", "min_prompt", "tier", "weekdays", "input", "source",
         "note", "created_at"),
        ((number, model, "", stamp, "EUR", 0, "", 127, 10**9, "operator", "", stamp)
         for number, model in enumerate(models, PRICE_ID)),
    )  # fmt: skip
    sink.many(
        "currency_rates",
        ("id", "currency", "reporting", "valid_from", "rate", "created_at"),
        [(PRICE_ID, "EUR", "USD", iso(now + 86_400), 1_100_000_000, stamp)],
    )
    sink.many(
        "hardware_rates",
        ("id", "endpoint_id", "valid_from", "currency", "per_hour", "note", "created_at"),
        ((number, server.id, iso(now + 86_400), "USD", 10**9, "", stamp)
         for number, server in enumerate(servers, PRICE_ID)),
    )  # fmt: skip


def _checks(sink: Sink, servers: Sequence[Server], now: float) -> None:
    """Write the endpoints, all of which are online at the end."""
    last = CHECK_DAYS * 24 * 60 // CHECK_MINUTES - 1

    def status(number: int) -> str:
        return "offline" if (last - number) // CHECKS_OF_A_STATUS % 2 else "online"

    sink.many(
        "endpoint_health_checks",
        ("endpoint_id", "checked_at", "success", "latency_ms", "error_message", "status_before", "status_after"),
        (
            (server.id, iso(now - 60 * CHECK_MINUTES * (last - number)), online, 12 if online else None,
             None if online else "connection refused", status(number - 1) if number else "pending", status(number))
            for number in range(last + 1)
            for online in [status(number) == "online"]
            for server in servers
        ),
    )  # fmt: skip


def _people(sink: Sink, now: float) -> None:
    """Write users with one API key each."""
    users = [user(number) for number in range(USERS)]
    sink.many(
        "users",
        ("id", "username", "password_hash", "role", "created_at", "must_change_password"),
        ((user_id, f"person-{number:02d}", "!", "viewer", iso(now), False) for number, user_id in enumerate(users)),
    )
    sink.many(
        "api_keys",
        ("id", "key_hash", "name", "created_by", "created_at", "permissions"),
        ((_key(number), f"{number:064x}", f"key-{number:02d}", users[number % USERS], iso(now), '["openai.inference"]')
         for number in range(KEYS)),
    )  # fmt: skip


def _edits(sink: Sink, servers: Sequence[Server], now: float) -> None:
    ((kind,),) = sink.run("SELECT id FROM django_content_type WHERE app_label = 'endpoints' AND model = 'endpoint'")
    noted = json.dumps([{"changed": {"fields": ["notes"]}, "values": {"notes": [None, None]}}])
    sink.many(
        "django_admin_log",
        ("action_time", "object_id", "object_repr", "action_flag", "change_message", "content_type_id", "user_id"),
        (
            (iso(now - 3600 * (EDITS - number)), server.id, server.name, 2, noted, kind, user(0))
            for number in range(EDITS)
            for server in servers
        ),
    )


def _history(sink: Sink, cells: Sequence[Cell]) -> None:
    sink.many(
        "request_history",
        ("id", "timestamp", "request_type", "model", "endpoint_id", "endpoint_name", "endpoint_ip", "client_ip",
         "request_body", "duration_ms", "status", "error_message", "completed_at", "input_tokens", "output_tokens",
         "total_tokens", "api_key_id", "outcome", "status_code", "kind", "duration_us", "first_token_us",
         "tokens_estimated", "streamed", "attempts", "conversation"),
        _rows(cells),
    )  # fmt: skip


def _rows(cells: Sequence[Cell]) -> Iterator[tuple[Any, ...]]:
    """Write the history in the order of completion."""
    start = 0
    while start < len(cells):
        minute = cells[start].minute
        together = [cell for cell in cells[start : start + BUSY] if cell.minute == minute]
        start += len(together)
        made = [(cell.completed(number), cell, number) for cell in together for number in range(cell.rows)]
        for second, cell, number in sorted(made, key=lambda request: request[0]):
            yield _row(cell, second, _conversation(cell, number), ok=number >= cell.failed)


def _conversation(cell: Cell, number: int) -> str:
    """Return the key of a conversation that lasts a quarter of an hour."""
    named = f"{cell.key} {cell.model} {cell.minute // 15} {number % 3}"
    return blake2s(named.encode(), digest_size=8).hexdigest()


def _row(cell: Cell, second: float, conversation: str, *, ok: bool) -> tuple[Any, ...]:
    done, outcome, status = iso(second), OK if ok else FAILED, 200 if ok else 502
    attempt = {"endpoint_id": cell.server.id, "outcome": outcome, "status": status, "duration_us": cell.duration_us}
    tokens = (INPUT, OUTPUT, INPUT + OUTPUT) if ok else (None, None, None)
    return (
        uuid7(int(second * 1e9)), done, "Chat", cell.model, cell.server.id, cell.server.name, "127.0.0.1",
        cell.client, f'{{"model": "{cell.model}"}}', max(1, round(cell.duration_us / 1000)),
        "success" if ok else "error", None if ok else "HTTP 500", done, *tokens, cell.key, outcome, status, KIND,
        cell.duration_us, FIRST_TOKEN_US if ok else None, False, True, json.dumps([{**attempt, "error": None}]),
        conversation,
    )  # fmt: skip


def _last_uses(sink: Sink, cells: Sequence[Cell]) -> None:
    last: dict[str, float] = {}
    for cell in cells:
        last[cell.key] = max(last.get(cell.key, 0.0), cell.completed(cell.rows - 1))
    sink.many(
        "api_key_last_uses",
        ("api_key_id", "last_used_us"),
        ((key, (datetime.fromtimestamp(moment, UTC) - EPOCH) // MICROSECOND) for key, moment in last.items()),
    )


def _roll_ups(sink: Sink, cells: Iterable[Cell], table: str, span: str) -> None:
    sums: dict[tuple[Any, ...], Sums] = {}
    for cell in cells:
        when = cell.minute if span == "minute" else _date(cell.minute)
        sums.setdefault((when, cell.server.id, cell.model, cell.key), Sums()).add(cell)
    sink.many(
        table,
        (span, "endpoint_id", "model", "kind", "api_key_id", "requests_ok", "requests_failed",
         "requests_cancelled", "attempts_ok", "attempts_failed", "input_tokens", "output_tokens",
         "ok_duration_us", "requests_rejected", "first_token_us", "durations", "first_tokens"),
        ((when, endpoint, model, KIND, key, group.ok, group.failed, 0, group.ok, group.failed, INPUT * group.ok,
          OUTPUT * group.ok, group.duration_us, 0, FIRST_TOKEN_US * group.ok, pack(group.durations),
          pack({bucket(FIRST_TOKEN_US): group.ok} if group.ok else {}))
         for (when, endpoint, model, key), group in sums.items()),
    )  # fmt: skip


def _months(sink: Sink) -> None:
    keys, sums = "endpoint_id, model, kind, api_key_id", ", ".join(f"SUM({name})" for name in CELL_COLUMNS)
    sink.run(
        f"INSERT INTO rollup_months (month, {keys}, {', '.join(CELL_COLUMNS)}) "  # noqa: S608
        f"SELECT substr(date, 1, 7), {keys}, {sums} FROM rollup_days GROUP BY substr(date, 1, 7), {keys}"
    )


def _clients(sink: Sink, cells: Iterable[Cell]) -> None:
    hours: dict[tuple[Any, ...], Sums] = {}
    days: dict[tuple[Any, ...], Sums] = {}
    last: dict[tuple[Any, ...], float] = {}
    for cell in cells:
        hour, day = (cell.minute // 60, cell.client), (cell.minute // 1440, cell.client, cell.key, cell.model)
        hours.setdefault(hour, Sums()).add(cell)
        days.setdefault(day, Sums()).add(cell)
        last[hour] = max(last.get(hour, 0.0), cell.completed(cell.rows - 1))
    columns = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
    sink.many(
        "rollup_client_hours",
        ("hour", "client_ip", "last_us", *columns),
        ((*key, round(last[key] * 1e6), *_client_sums(hour_sums)) for key, hour_sums in hours.items()),
    )
    every: dict[int, Sums] = {}
    clients: dict[int, set[str]] = {}
    for (number, address), sums in hours.items():
        every.setdefault(number, Sums()).add_sums(sums)
        clients.setdefault(number, set()).add(addresses.client_of(address))
    sink.many(
        "rollup_all_clients",
        ("hour", *columns, "clients"),
        ((number, *_client_sums(total_sums), len(clients[number])) for number, total_sums in every.items()),
    )
    sink.many(
        "rollup_client_days",
        ("day", "client_ip", "api_key_id", "model", *columns),
        ((*key, *_client_sums(day_sums)) for key, day_sums in days.items()),
    )


def _client_sums(sums: Sums) -> tuple[int, ...]:
    return sums.ok, sums.failed, 0, INPUT * sums.ok, OUTPUT * sums.ok


def _speeds(sink: Sink, servers: Sequence[Server], now: float) -> None:
    start_us = int((now - 7200) * 1e6)
    sink.many(
        "moving_averages",
        ("endpoint_id", "model", "kind", "value", "samples"),
        (
            (server.id, model, KIND, 100.0 + place, pack_samples([(start_us + place, place, 100.0 + place)]))
            for server in servers
            for place, model in enumerate(server.models)
        ),
    )


def _sums(sink: Sink) -> None:
    """Write the counters that equal sums over the roll-ups."""
    sink.run(
        "INSERT INTO endpoint_daily_stats (endpoint_id, model_id, date, api_kind, total_requests, "
        "successful_requests, failed_requests, total_output_tokens, total_duration_ms) SELECT endpoint_id, model, "
        "date, kind, SUM(attempts_ok + attempts_failed), SUM(attempts_ok), SUM(attempts_failed), SUM(output_tokens), "
        "SUM(ok_duration_us) / 1000 FROM rollup_days WHERE requests_ok + requests_failed > 0 GROUP BY 1, 2, 3, 4"
    )
    sink.run(
        "UPDATE endpoints SET total_requests = sums.ok + sums.failed, successful_requests = sums.ok, failed_requests = "
        "sums.failed FROM (SELECT endpoint_id, SUM(attempts_ok) AS ok, SUM(attempts_failed) AS failed FROM "
        "rollup_days GROUP BY 1) AS sums WHERE sums.endpoint_id = id"
    )
    for name in ("requests_ok", "requests_failed", "input_tokens", "output_tokens"):
        sink.run(
            f"INSERT INTO metric_totals (name, value) SELECT '{name}', COALESCE(SUM({name}), 0) FROM rollup_days "  # noqa: S608
            "WHERE true ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )


def _date(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).date().isoformat()


def iso(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="microseconds")
