"""Usage: requests and tokens of local days, from the roll-ups by day and month. Page, API and exports all come here."""

import calendar
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

from django.apps import apps
from django.db import connection
from django.db.models import QuerySet

from endpoints.registry import registry
from metrics import queries
from metrics.export import cell
from metrics.fold import NO_ENDPOINT
from metrics.models import DayRollUp

# How usage is grouped: the name in the API, and the roll-ups' column for it. Whose a key is, only `access` knows.
BY = {
    "day": "date",
    "month": "month",
    "model": "model",
    "endpoint": "endpoint_id",
    "key": "api_key_id",
    "user": "api_key_id",
}
# What a row says of itself.
NAMES = {
    "day": ("day",),
    "month": ("month",),
    "model": ("model_id",),
    "endpoint": ("endpoint_id", "endpoint_name"),
    "key": ("api_key_id", "api_key_name"),
    "user": ("user_id", "username"),
}
IN_TIME = ("day", "month")
REACHED = ("model", "endpoint")  # which a request that was refused by us never came to

_USED = (
    "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "requests_rejected",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Period:
    """Local days, both ends included."""

    since: date
    until: date

    @property
    def days(self) -> int:
        return (self.until - self.since).days + 1

    @property
    def before(self) -> "Period":
        """As many days, right before."""
        return Period(self.since - timedelta(days=self.days), self.since - timedelta(days=1))

    def dates(self) -> list[str]:
        return [(self.since + timedelta(days=number)).isoformat() for number in range(self.days)]

    def months(self) -> list[str]:
        return sorted({day[:7] for day in self.dates()})


@dataclass(frozen=True, slots=True)
class Pieces:
    """A period as few rows as it takes: whole months, and days at its ends that these lack, or have too many of."""

    months: tuple[str, str] | None  # the first and the last
    days: list[tuple[int, Period]]  # 1 to add, -1 to take away; each within one month

    @classmethod
    def of(cls, period: Period) -> "Pieces":
        first, last = period.since.replace(day=1), _end_of_month(period.until)
        too_early, too_late = (period.since - first).days, (last - period.until).days
        if first.month == last.month and first.year == last.year and too_early + too_late >= period.days:
            return cls(None, [(1, period)])
        days: list[tuple[int, Period]] = []
        if (first.year, first.month) != (last.year, last.month):
            end, begin = _end_of_month(first), last.replace(day=1)
            if (end - period.since).days + 1 < too_early:
                days.append((1, Period(period.since, end)))
                first, too_early = end + timedelta(days=1), 0
            if (period.until - begin).days + 1 < too_late:
                days.append((1, Period(begin, period.until)))
                last, too_late = begin - timedelta(days=1), 0
        if too_early:
            days.append((-1, Period(first, period.since - timedelta(days=1))))
        if too_late:
            days.append((-1, Period(period.until + timedelta(days=1), last)))
        return cls((_month(first), _month(last)) if first < last else None, days)


def _month(day: date) -> str:
    return day.isoformat()[:7]


def _end_of_month(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def usage(
    by: str, period: Period, only: Mapping[str, str] = MappingProxyType({}), *, compare: bool = False
) -> dict[str, Any]:
    """`only` are values of the roll-ups' columns `model`, `endpoint_id` and `api_key_id`.

    In time by day and month; else the most requests first. One query, one for names of keys, and one to compare: then
    there are also the sums of the period before, and those of each row that is not a time.
    """
    names = _Names(by)
    used = {value: _told(sums) for value, sums in _sums(by, period, names, only).items() if any(sums)}
    shown = sorted(
        value for value, it in used.items() if by not in REACHED or it["requests"] or it["cancelled_requests"]
    )
    rows: list[dict[str, Any]] = [{**names.told(value), **used[value]} for value in shown]
    told: dict[str, Any] = {"by": by, "since": period.since.isoformat(), "until": period.until.isoformat()}
    told |= {"rows": rows, "total": _total(used.values())}
    if compare:
        # Of a time only the total is told, for which months will do.
        by_before = "month" if by in IN_TIME else by
        before = {value: _told(sums) for value, sums in _sums(by_before, period.before, names, only).items()}
        if by not in IN_TIME:
            for value, row in zip(shown, rows, strict=True):
                row["previous_requests"] = before[value]["requests"] if value in before else 0
                row["previous_total_tokens"] = before[value]["total_tokens"] if value in before else 0
        told["previous"] = {
            "since": period.before.since.isoformat(),
            "until": period.before.until.isoformat(),
            "total": _total(before.values()),
        }
    if by not in IN_TIME:
        rows.sort(key=lambda row: -row["requests"])  # equal ones stay in the order of their names
    return told


def _sums(by: str, period: Period, names: "_Names", only: Mapping[str, str]) -> dict[str, list[int]]:
    sql, values = _parts(by, period, only)
    sums = ", ".join(f"SUM({name})" for name in _USED)
    # One statement, so of one moment: what is taken away is in what it is taken from.
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT value, {sums} FROM ({sql}) AS parts GROUP BY value", values)  # noqa: S608
        rows = cursor.fetchall()
    found: dict[str, list[int]] = {}
    for value, *each in rows:
        counts = [int(count or 0) for count in each]  # null: of a release that did not count it
        group = names.group(str(value))
        found[group] = (
            [one + other for one, other in zip(found[group], counts, strict=True)] if group in found else counts
        )
    return found


def _parts(by: str, period: Period, only: Mapping[str, str]) -> tuple[str, list[Any]]:
    """What is to be summed, as SQL and its values: days by themselves, anything else by months as far as these go."""
    pieces = Pieces(None, [(1, period)]) if by == "day" else Pieces.of(period)
    where = "".join(f" AND {name} = %s" for name in only)
    chosen = [_stored(name, value) for name, value in only.items()]
    parts: list[str] = []
    values: list[Any] = []
    if pieces.months is not None:
        columns = f"{BY[by]} AS value, {', '.join(_USED)}"
        parts.append(f"SELECT {columns} FROM rollup_months WHERE month >= %s AND month <= %s{where}")  # noqa: S608
        values += [*pieces.months, *chosen]
    for sign, days in pieces.days:
        columns = ", ".join(_USED) if sign > 0 else ", ".join(f"-{name}" for name in _USED)
        if by == "month":
            columns, values = f"%s AS value, {columns}", [*values, days.months()[0]]
        else:
            columns = f"{BY[by]} AS value, {columns}"
        span, dates = "date >= %s AND date <= %s", [days.since.isoformat(), days.until.isoformat()]
        if "endpoint_id" in only:  # by date after date: so the key of the table leads to the rows of one endpoint alone
            dates = days.dates()
            span = f"date IN ({', '.join(['%s'] * len(dates))})"
        parts.append(f"SELECT {columns} FROM rollup_days WHERE {span}{where}")  # noqa: S608
        values += [*dates, *chosen]
    return " UNION ALL ".join(parts), values


def _stored(column: str, value: str) -> Any:
    field: Any = DayRollUp._meta.get_field(column)
    return field.get_db_prep_value(value, connection)


def _told(sums: Sequence[int]) -> dict[str, int]:
    ok, failed, cancelled, tokens_in, tokens_out, rejected = sums
    return {
        "requests": ok + failed,
        "successful_requests": ok,
        "failed_requests": failed,
        "cancelled_requests": cancelled,
        "rejected_requests": rejected,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


FIGURES = tuple(_told((0,) * len(_USED)))


def _total(rows: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = dict.fromkeys(FIGURES, 0)
    for row in rows:
        for name in FIGURES:
            total[name] += row[name]
    return total


class _Names:
    """What the API calls each value; null for no endpoint and no key, and for names of what is gone."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.keys = queries.key_names() if by == "key" else {}
        self.owners = key_owners() if by == "user" else {}
        self.users = {owner.id: owner.username for owner in self.owners.values()}

    def group(self, value: str) -> str:
        """Keys are summed by their owners, none among them."""
        if self.by == "user":
            return self.owners[value].id if value in self.owners else ""
        return value

    def told(self, value: str) -> dict[str, str | None]:
        if self.by == "endpoint":
            return {"endpoint_id": None if value == NO_ENDPOINT else value, "endpoint_name": registry.name(value)}
        if self.by == "key":
            return {"api_key_id": value or None, "api_key_name": self.keys.get(value)}
        if self.by == "user":
            return {"user_id": value or None, "username": self.users.get(value)}
        return {NAMES[self.by][0]: value}


@dataclass(frozen=True, slots=True)
class Owner:
    id: str
    username: str


def key_owners() -> dict[str, Owner]:
    """Whose API keys are, by their ids. By name: keys belong to `access`, which this app does not import."""
    keys: QuerySet[Any] = apps.get_model("access", "ApiKey")._default_manager.values_list(
        "pk", "created_by_id", "created_by__username"
    )
    return {str(key): Owner(str(owner), name) for key, owner, name in keys}


def table(told: Mapping[str, Any]) -> str:
    """The rows as CSV by RFC 4180, their total last."""
    text = io.StringIO()
    out = csv.writer(text)
    names = (*NAMES[told["by"]], *FIGURES)
    out.writerow(names)
    out.writerows([cell(row[name]) for name in names] for row in told["rows"])
    total = {names[0]: "total", **told["total"]}
    out.writerow([total.get(name, "") for name in names])
    return text.getvalue()
