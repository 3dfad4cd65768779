"""Rows that llmlb wrote into the history, read by time and converted to records."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.db import OperationalError, connection

from gateway.ipc.record import FAILED, OK, AttemptRecord, RequestRecord
from metrics import sql
from metrics.counting.plausibility import MAX_DURATION_US, NO_ENDPOINT
from metrics.counting.request_types import KINDS
from metrics.storage import database
from metrics.times import sql_time

_COLUMNS = (
    "completed_at", "request_type", "model", "endpoint_id", "client_ip", "api_key_id", "duration_ms", "status",
    "input_tokens", "output_tokens",
)  # fmt: skip
_DIGITS = re.compile(r"[0-9]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def select(columns: str | Iterable[str], *, order_by: str = "", limit: int | None = None, offset: int = 0) -> str:
    """Return a SELECT of llmlb's rows from one moment (included) to another, by their own small index.

    Both moments are parameters: see `bound`.
    """
    source = sql.indexed("request_history", "history_adopted", database.vendor())
    where = ["outcome IS NULL", "completed_at >= %s", "completed_at < %s"]
    return sql.select(columns, source, where=where, order_by=order_by, limit=limit, offset=offset)


def bound(moment_us: int) -> str | datetime:
    """Return the parameter for `>=` and `<` on completed_at, for a moment in µs since 1970."""
    second, rest = divmod(moment_us, 1_000_000)
    return sql_time(datetime.fromtimestamp(second, UTC).replace(microsecond=rest), connection.vendor)


def count(since_us: int, until_us: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(select("COUNT(*)"), (bound(since_us), bound(until_us)))
        return int(cursor.fetchone()[0])


def end_of_batch(since_us: int, end_us: int, size: int) -> int:
    """Return the moment before which `size` rows completed, or `end_us` if there are fewer.

    A batch is larger if the moment of its last row cannot be read.
    """
    skip = size
    with connection.cursor() as cursor:
        while True:
            statement = select("completed_at", order_by="completed_at", limit=1, offset=skip)
            cursor.execute(statement, (bound(since_us), bound(end_us)))
            row = cursor.fetchone()
            if row is None:
                return end_us
            moment_us = microseconds(row[0])
            if moment_us is not None and since_us < moment_us < end_us:
                return moment_us
            skip *= 2


def last_completed_us(until_us: int) -> int | None:
    """Return when the last of llmlb's rows completed, or None without a row or with an unreadable moment."""
    with connection.cursor() as cursor:
        cursor.execute(select("completed_at", order_by="completed_at DESC", limit=1), (bound(0), bound(until_us)))
        row = cursor.fetchone()
    return None if row is None else microseconds(row[0])


def microseconds(completed_at: object) -> int | None:
    """Return a stored moment in µs since 1970, or None if it cannot be parsed. llmlb writes UTC."""
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
        fraction = _DIGITS.match(fraction)[0]  # type: ignore[index]  # also matches an empty text
    return second * 1_000_000 + int(fraction.ljust(6, "0"))


@lru_cache(maxsize=4096)
def _second(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(moment.replace(tzinfo=UTC).timestamp()) if moment.isoformat() == text else None


def rows(since_us: int, end_us: int) -> list[tuple[Any, ...]]:
    """Return the rows from one moment to another, for `to_record`."""
    statement, values = select(_COLUMNS), (bound(since_us), bound(end_us))
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement, values)
            return list(cursor.fetchall())
        except OperationalError as error:
            if "Could not decode" not in str(error):
                raise
    # Some text is not UTF-8. This is slower, and rare.
    connection.connection.text_factory = _decode
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())
    finally:
        connection.connection.text_factory = str


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def to_record(row: tuple[Any, ...]) -> RequestRecord | None:
    """Return a row of llmlb as a record, or None if it cannot be counted.

    Its moment, duration, type and model must be readable.
    """
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
        NO_ENDPOINT,  # any valid id: no figure depends on it
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


@lru_cache(maxsize=4096)
def _attempts(endpoint_id: object, outcome: str) -> tuple[AttemptRecord, ...]:
    """Return the attempt of a row, without a duration: requests of llmlb are not part of moving averages."""
    endpoint_id = _id(endpoint_id)
    return (AttemptRecord(endpoint_id, outcome, 0, 0),) if endpoint_id and endpoint_id != NO_ENDPOINT else ()


@lru_cache(maxsize=4096)
def _id(value: object) -> str:
    """Return an id, or an empty text if the value is no id."""
    text = str(value)
    return text if _UUID.fullmatch(text) else ""


@lru_cache(maxsize=64)
def _kind(request_type: str) -> str:
    return KINDS.get(request_type) or request_type.encode().lower().decode()
