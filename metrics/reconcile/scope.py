"""How far back figures can be checked, as of one moment."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection

from gateway.config import Config
from metrics.reconcile.comparison import Query

MINUTES_KEPT_DAYS = 8


class NotOurs(Exception):
    """The database is not one of RouterDash's."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """How far the history that llmlb wrote is counted, and from when on the roll-ups are whole."""

    counted_us: int  # every row of llmlb that ended before it
    minutes_since: int
    days_since: int  # a minute; days of before may have what no minute has
    clients_since: int  # an hour; before it, requests of RouterDash's own are not counted by client


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Minutes count from 1970, UTC."""

    now: float
    zone: ZoneInfo
    journal: Path
    database_id: str
    adopted_on: str  # the local date; empty: never
    adopted: "Adopted | None"  # None: llmlb's requests are not counted, or there are none
    every_row: bool  # does the history hold successes, too?
    minutes_since: int  # from here on, all minute roll-ups are there
    history_since: int  # from here on, all history rows are there
    narrow_minute: int  # the last with a row of a release that knew no distributions; 0: there is none
    narrow_date: str  # and the last such date
    clients_since: int | None  # from here on, clients are counted; None: there are none yet

    def days(self, since: int) -> dict[str, tuple[int, int]]:
        """Local dates that lie wholly behind `since`: their first minute, and the one after their last.

        None of those whose figures are in some tables alone: see Adopted.
        """
        last = int(self.now // 60) + 26 * 60  # into tomorrow, whatever the clocks do
        dates = [
            (date, list(minutes)) for date, minutes in groupby(range(since - 1, last), lambda at: self.local_date(at))
        ]
        return {date: (at[0], at[-1] + 1) for date, at in dates[1:-1] if date > self.in_part_until}

    @property
    def history_minutes_since(self) -> int:
        """From here on, both are there."""
        return max(self.minutes_since, self.history_since)

    @property
    def in_part_until(self) -> str:
        """The last local date of which days may have what minutes lack."""
        if self.adopted is None:
            return self.adopted_on
        return self.local_date(self.adopted.days_since) if self.adopted.days_since else ""

    def local_date(self, minute: int) -> str:
        return datetime.fromtimestamp(minute * 60, self.zone).date().isoformat()


def read(config: Config, since: datetime | None = None) -> Scope:
    """Inside the transaction that is looked at. `since`: nothing older is compared. Raises NotOurs, Error."""
    if "installation" not in connection.introspection.table_names():
        raise NotOurs("it has no table `installation`")
    found = list(Query("SELECT database_id, adopted_at FROM installation").rows())
    if len(found) != 1:
        raise NotOurs("its table `installation` does not say which database it is")
    database_id, adopted_at = found[0]
    now = time.time()  # after the first read: what retention deleted before that was too old then
    asked = since.timestamp() if since else 0.0
    adopted = _adopted()
    minutes_since = _whole_hour(max(asked, now - MINUTES_KEPT_DAYS * 86_400))
    return Scope(
        now=now,
        zone=config.zone,
        journal=config.journal_dir,
        database_id=str(database_id),
        adopted_on=moment(adopted_at).astimezone(config.zone).date().isoformat() if adopted_at else "",
        adopted=adopted,
        every_row=config.history == "all",
        minutes_since=max(minutes_since, adopted.minutes_since if adopted else 0),
        history_since=max(minutes_since, _whole_hour(now - config.history_retention_days * 86_400)),
        narrow_minute=int(_last_narrow("rollup_minutes", "minute") or 0),
        narrow_date=_last_narrow("rollup_days", "date") or "",
        clients_since=_clients_since(adopted),
    )


def _last_narrow(table: str, span: str) -> Any:
    """Newer rows have every column; one of an older release that was added to since does not tell."""
    ((last,),) = Query(f"SELECT MAX({span}) FROM {table} WHERE requests_rejected IS NULL").rows()  # noqa: S608
    return last


def _adopted() -> Adopted | None:
    found = list(Query("SELECT counted_us, minutes_since, days_since, clients_since FROM adopted_history").rows())
    return Adopted(*map(int, found[0])) if found else None


def _clients_since(adopted: Adopted | None) -> int | None:
    """The first hour with any may have begun with a release that did not count them; before a day that is stored, the
    addresses by which they are counted have been forgotten.
    """
    ((first,),) = Query("SELECT MIN(hour) FROM rollup_client_hours").rows()
    forgotten = Query("SELECT value FROM settings WHERE key = 'client_addresses_forgotten_before'").rows()
    day = max((datetime.fromisoformat(f"{value}T00:00:00+00:00") for (value,) in forgotten), default=None)
    if first is None:
        return None
    begun = int(first) + 1 if adopted is None else adopted.clients_since
    return max(begun * 60, int(day.timestamp()) // 60 if day else 0)


def _whole_hour(seconds: float) -> int:
    """The first minute of the next whole hour."""
    return -int(-seconds // 3600) * 60


def moment(value: str | datetime) -> datetime:
    """As either database hands one out."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def bound(minute: int) -> str | datetime:
    """For `>=` and `<` on completed_at, which SQLite holds as text with any number of digits: cut before them."""
    start = datetime.fromtimestamp(minute * 60, UTC)
    return start.strftime("%Y-%m-%dT%H:%M:%S") if _sqlite() else start


def exact(moment_us: int) -> str | datetime:
    """As `bound`, of a microsecond since 1970."""
    second, rest = divmod(moment_us, 1_000_000)
    moment = datetime.fromtimestamp(second, UTC).replace(microsecond=rest)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f" if rest else "%Y-%m-%dT%H:%M:%S") if _sqlite() else moment


def _sqlite() -> bool:
    return connection.vendor == "sqlite"
