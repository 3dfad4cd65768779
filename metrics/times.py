"""Conversion of moments: stored values, parameters of SQL, and JSON. Imports nothing of Django."""

from datetime import UTC, date, datetime
from typing import Any, overload


def parse_time(value: Any) -> datetime | None:
    """Return a moment of either database, or of JSON, in UTC. Return None if it cannot be parsed."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


@overload
def json_time(moment: datetime) -> str: ...
@overload
def json_time(moment: datetime | None) -> str | None: ...
def json_time(moment: datetime | None) -> str | None:
    """Return RFC 3339 in UTC with `Z` and milliseconds, the format of the JSON API."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stored_text(value: Any) -> str:
    """Return the text of a stored moment: SQLite's own text, or PostgreSQL's value with microseconds."""
    return value if isinstance(value, str) else value.astimezone(UTC).isoformat(timespec="microseconds")


def sql_midnight(day: date, vendor: str) -> str | datetime:
    """Return the parameter of `sql_time` for the beginning of a day of UTC."""
    return sql_time(datetime(day.year, day.month, day.day, tzinfo=UTC), vendor)


def sql_time(moment: datetime, vendor: str) -> str | datetime:
    """Return the parameter for `>=` and `<` on a column of moments.

    SQLite compares text, and llmlb writes 0 to 9 digits of a second. So the text ends before its offset, and before an
    empty fraction.
    """
    moment = moment.astimezone(UTC)
    if vendor == "postgresql":
        return moment
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds" if moment.microsecond else "seconds")
