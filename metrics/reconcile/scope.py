"""Scope of an audit: how far back each kind of figures can be compared, as of one moment."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection

from gateway.base.config import Config
from metrics import sql
from metrics.reconcile.comparison import Query

MINUTES_KEPT_DAYS = 8
FORMER_DAYS = 7  # of history rows


class ForeignDatabase(Exception):
    """The database does not belong to RouterDash."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """Progress of counting the history that llmlb wrote, and the start of complete roll-ups."""

    counted_us: int  # rows of llmlb that completed before this moment are counted
    minutes_since: int
    days_since: int  # a minute; earlier days may contain requests that no minute contains
    clients_since: int  # an hour; earlier requests of RouterDash itself are not counted by client


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Limits of the comparisons. Minutes count from 1970, UTC."""

    now: float
    zone: ZoneInfo
    journal: Path
    database_id: str
    adopted_on: str  # local date of the adoption; empty: never adopted
    adopted: "Adopted | None"  # None: no requests of llmlb are counted
    every_row: bool  # True if the history contains successful requests too
    minutes_since: int  # minute roll-ups are complete from here on
    history_since: int  # history rows are complete from here on
    narrow_minute: int  # last minute with a row of a release without histograms; 0: none
    narrow_date: str  # last date with such a row; empty: none
    clients_since: int | None  # clients are counted from here on; None: there are none yet
    details_since: int  # token details and served models are counted from here on; 0: from the start

    def days(self, since: int) -> dict[str, tuple[int, int]]:
        """Return local dates that begin after `since`, each with its first minute and the minute after its last one.

        Dates up to `in_part_until` are left out, because only some tables contain all their figures.
        """
        last = int(self.now // 60) + 26 * 60  # a minute of tomorrow, also if the clock changes
        dates = [
            (date, list(minutes))
            for date, minutes in groupby(range(since - 1, last), lambda minute: self.local_date(minute))
        ]
        return {date: (minutes[0], minutes[-1] + 1) for date, minutes in dates[1:-1] if date > self.in_part_until}

    @property
    def history_minutes_since(self) -> int:
        """The minute from which on minute roll-ups and history rows are complete."""
        return max(self.minutes_since, self.history_since)

    @property
    def in_part_until(self) -> str:
        """The last local date of which day roll-ups may contain more than minutes."""
        if self.adopted is None:
            return self.adopted_on
        return self.local_date(self.adopted.days_since) if self.adopted.days_since else ""

    def local_date(self, minute: int) -> str:
        return datetime.fromtimestamp(minute * 60, self.zone).date().isoformat()


def read(config: Config, since: datetime | None = None) -> Scope:
    """Return the scope as of the current transaction, limited to figures after `since`.

    Raises ForeignDatabase, or django.db.Error.
    """
    if "installation" not in connection.introspection.table_names():
        raise ForeignDatabase("it has no table `installation`")
    rows = list(Query("SELECT database_id, adopted_at, details_since FROM installation").rows())
    if len(rows) != 1:
        raise ForeignDatabase("its table `installation` does not have exactly one row")
    database_id, adopted_at, details_since = rows[0]
    now = time.time()  # after the first read: rows that retention has deleted by then were too old
    requested = since.timestamp() if since else 0.0
    adopted = _adopted()
    minutes_since = _whole_hour(max(requested, now - MINUTES_KEPT_DAYS * 86_400))
    return Scope(
        now=now,
        zone=config.zone,
        journal=config.journal_dir,
        database_id=str(database_id),
        adopted_on=moment(adopted_at).astimezone(config.zone).date().isoformat() if adopted_at else "",
        adopted=adopted,
        every_row=config.history == "all",
        minutes_since=max(minutes_since, adopted.minutes_since if adopted else 0),
        history_since=max(minutes_since, _whole_hour(_history_since(now, config.history_retention_days))),
        narrow_minute=int(_last_narrow("rollup_minutes", "minute") or 0),
        narrow_date=_last_narrow("rollup_days", "date") or "",
        clients_since=_clients_since(adopted),
        details_since=int(details_since or 0),
    )


def _history_since(now: float, days: int) -> float:
    """Return the moment from which on history rows are complete. A longer retention brings none back.

    Former releases did not store up to when rows were deleted, and kept seven days unless fewer were set.
    """
    rows = Query("SELECT value FROM settings WHERE key = 'history_gone_before'").rows()
    stored = [moment(str(value)) for (value,) in rows]
    deleted_before = stored[0].timestamp() if stored else now - min(days, FORMER_DAYS) * 86_400
    return max(now - days * 86_400, deleted_before)


def _last_narrow(table: str, span: str) -> Any:
    """Return the last minute or date with a row of a release that did not have the newer columns."""
    ((last,),) = Query(sql.select(f"MAX({span})", table, where="requests_rejected IS NULL")).rows()
    return last


def _adopted() -> Adopted | None:
    rows = list(Query("SELECT counted_us, minutes_since, days_since, clients_since FROM adopted_history").rows())
    return Adopted(*map(int, rows[0])) if rows else None


def _clients_since(adopted: Adopted | None) -> int | None:
    """Return the minute from which on clients are counted completely.

    The first hour with clients may have started with a release that did not count them. Addresses of days before the
    stored one have been removed.
    """
    ((first,),) = Query("SELECT MIN(hour) FROM rollup_client_hours").rows()
    stored = Query("SELECT value FROM settings WHERE key = 'client_addresses_forgotten_before'").rows()
    day = max((datetime.fromisoformat(f"{value}T00:00:00+00:00") for (value,) in stored), default=None)
    if first is None:
        return None
    hour = int(first) + 1 if adopted is None else adopted.clients_since
    return max(hour * 60, int(day.timestamp()) // 60 if day else 0)


def _whole_hour(seconds: float) -> int:
    """Return the first minute of the next whole hour."""
    return -int(-seconds // 3600) * 60


def moment(value: str | datetime) -> datetime:
    """Return a stored moment of either database."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def bound(minute: int) -> str | datetime:
    """Return the parameter for `>=` and `<` on completed_at.

    SQLite stores it as text with any number of digits of a second, so the text ends before these.
    """
    start = datetime.fromtimestamp(minute * 60, UTC)
    return start.strftime("%Y-%m-%dT%H:%M:%S") if sqlite() else start


def exact(moment_us: int) -> str | datetime:
    """Return the same parameter for a moment in µs since 1970."""
    second, rest = divmod(moment_us, 1_000_000)
    moment = datetime.fromtimestamp(second, UTC).replace(microsecond=rest)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f" if rest else "%Y-%m-%dT%H:%M:%S") if sqlite() else moment


def sqlite() -> bool:
    return connection.vendor == "sqlite"
