"""Usage: requests and tokens of local days, from the roll-ups by day and month, for the page, API and exports."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict

from django.db import connection

from endpoints.registry import registry
from gateway.base.csv_cells import csv_cell
from metrics import sql
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.models import DayRollUp
from metrics.queries.api_keys import KeyOwner, key_names, key_owners
from metrics.queries.stored import run_sql
from metrics.queries.usage_periods import Period, Pieces

# Groups by their names in the API, and the roll-ups' column. Only `access` knows the user of a key.
BY = {
    "day": "date",
    "month": "month",
    "model": "model",
    "endpoint": "endpoint_id",
    "key": "api_key_id",
    "user": "api_key_id",
}
# Fields of a row that name its group.
NAMES = {
    "day": ("day",),
    "month": ("month",),
    "model": ("model_id",),
    "endpoint": ("endpoint_id", "endpoint_name"),
    "key": ("api_key_id", "api_key_name"),
    "user": ("user_id", "username"),
}
TIME_GROUPS = ("day", "month")
ROUTED_GROUPS = ("model", "endpoint")  # rejected requests have neither

_USED = (
    "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "requests_rejected",
)  # fmt: skip


class UsageCounts(TypedDict):
    requests: int
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    rejected_requests: int
    input_tokens: int
    output_tokens: int
    total_tokens: int


class UsageGroup(TypedDict, total=False):
    """Fields that name the group of a row: those of NAMES."""

    day: str
    month: str
    model_id: str
    endpoint_id: str | None
    endpoint_name: str | None
    api_key_id: str | None
    api_key_name: str | None
    user_id: str | None
    username: str | None


class _Previous(TypedDict, total=False):
    previous_requests: int
    previous_total_tokens: int


class UsageRow(UsageGroup, UsageCounts, _Previous):
    """Usage of one group, with that of the period before if it was requested."""


class PreviousPayload(TypedDict):
    since: str
    until: str
    total: UsageCounts


class UsagePayload(TypedDict):
    by: str
    since: str
    until: str
    rows: list[UsageRow]
    total: UsageCounts
    previous: NotRequired[PreviousPayload]


FIGURES = tuple(UsageCounts.__annotations__)


def usage(
    by: str, period: Period, only: Mapping[str, str] = MappingProxyType({}), *, compare: bool = False
) -> UsagePayload:
    """Return usage by day and month in the order of time, else with the most requests first.

    `only` has values of the roll-ups' columns `model`, `endpoint_id` and `api_key_id`. `compare` adds the sums of the
    period before, also to each row unless it is a day or month. One query, one for names of keys, and one to compare.
    """
    names = _GroupNames(by)
    used = {value: _counts(sums) for value, sums in _sums(by, period, names, only).items() if any(sums)}
    shown = sorted(
        value for value, row in used.items() if by not in ROUTED_GROUPS or row["requests"] or row["cancelled_requests"]
    )
    rows: list[UsageRow] = [{**names.fields(value), **used[value], **_Previous()} for value in shown]
    payload: UsagePayload = {
        "by": by,
        "since": period.since.isoformat(),
        "until": period.until.isoformat(),
        "rows": rows,
        "total": _total(used.values()),
    }
    if compare:
        # Days and months have a total only, for which months are enough.
        by_before = "month" if by in TIME_GROUPS else by
        before = {value: _counts(sums) for value, sums in _sums(by_before, period.before, names, only).items()}
        if by not in TIME_GROUPS:
            for value, row in zip(shown, rows, strict=True):
                row["previous_requests"] = before[value]["requests"] if value in before else 0
                row["previous_total_tokens"] = before[value]["total_tokens"] if value in before else 0
        payload["previous"] = {
            "since": period.before.since.isoformat(),
            "until": period.before.until.isoformat(),
            "total": _total(before.values()),
        }
    if by not in TIME_GROUPS:
        rows.sort(key=lambda row: -row["requests"])  # equal ones keep the order of their names
    return payload


def _sums(by: str, period: Period, names: "_GroupNames", only: Mapping[str, str]) -> dict[str, list[int]]:
    parts, values = _parts(by, period, only)
    # One statement sees one moment, so subtracted days are part of the months that were added.
    columns = ("value", *(f"SUM({name})" for name in _USED))
    rows = list(run_sql(sql.select(columns, sql.subquery(parts, "parts"), group_by="value"), values))
    names.read(str(value) for value, *_each in rows)
    sums: dict[str, list[int]] = {}
    for value, *each in rows:
        counts = [int(count or 0) for count in each]  # null: a release that did not count it
        group = names.group(str(value))
        sums[group] = [one + other for one, other in zip(sums[group], counts, strict=True)] if group in sums else counts
    return sums


def _parts(by: str, period: Period, only: Mapping[str, str]) -> tuple[str, list[Any]]:
    """Return the rows to sum as SQL and its parameters: days by day, any other group by month where possible."""
    pieces = Pieces(None, [(1, period)]) if by == "day" else Pieces.of(period)
    conditions = [f"{name} = %s" for name in only]
    chosen = [_stored(name, value) for name, value in only.items()]
    parts: list[str] = []
    values: list[Any] = []
    if pieces.months is not None:
        columns = (f"{BY[by]} AS value", *_USED)
        parts.append(sql.select(columns, "rollup_months", where=["month >= %s", "month <= %s", *conditions]))
        values += [*pieces.months, *chosen]
    for sign, days in pieces.days:
        counts = _USED if sign > 0 else tuple(f"-{name}" for name in _USED)
        if by == "month":
            value, values = "%s", [*values, days.months()[0]]
        else:
            value = BY[by]
        span, dates = "date >= %s AND date <= %s", [days.since.isoformat(), days.until.isoformat()]
        if "endpoint_id" in only:  # one date after another: so the table's key leads to the rows of one endpoint alone
            dates = days.dates()
            span = f"date IN {sql.placeholders(len(dates))}"
        parts.append(sql.select((f"{value} AS value", *counts), "rollup_days", where=[span, *conditions]))
        values += [*dates, *chosen]
    return " UNION ALL ".join(parts), values


def _stored(column: str, value: str) -> Any:
    field: Any = DayRollUp._meta.get_field(column)
    return field.get_db_prep_value(value, connection)


def _counts(sums: Sequence[int]) -> UsageCounts:
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


def _total(rows: Iterable[UsageCounts]) -> UsageCounts:
    total = _counts((0,) * len(_USED))
    for row in rows:
        for name in FIGURES:
            total[name] += row[name]  # type: ignore[literal-required]
    return total


class _GroupNames:
    """Names of groups: null for no endpoint, no key, and deleted ones."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.keys: dict[str, str] = {}  # names by id
        self.owners: dict[str, KeyOwner] = {}  # by the key's id
        self.users: dict[str, str] = {}  # names by id

    def read(self, values: Iterable[str]) -> None:
        """Read the names of these stored values: only of the keys that were used, of perhaps a million."""
        if self.by == "key":
            self.keys |= key_names(value for value in values if value not in self.keys)
        elif self.by == "user":
            self.owners |= (owners := key_owners(value for value in values if value not in self.owners))
            self.users |= {owner.id: owner.username for owner in owners.values()}

    def group(self, value: str) -> str:
        """Return the group of a stored value: the owner of a key, if grouped by user."""
        if self.by == "user":
            return self.owners[value].id if value in self.owners else ""
        return value

    def fields(self, value: str) -> UsageGroup:
        if self.by == "endpoint":
            return {"endpoint_id": None if value == NO_ENDPOINT else value, "endpoint_name": registry.name(value)}
        if self.by == "key":
            return {"api_key_id": value or None, "api_key_name": self.keys.get(value)}
        if self.by == "user":
            return {"user_id": value or None, "username": self.users.get(value)}
        if self.by == "model":
            return {"model_id": value}
        return {"day": value} if self.by == "day" else {"month": value}


def usage_csv(payload: UsagePayload) -> str:
    """Return the rows as CSV by RFC 4180, their total last."""
    text = io.StringIO()
    out = csv.writer(text)
    names = (*NAMES[payload["by"]], *FIGURES)
    out.writerow(names)
    rows: list[Mapping[str, Any]] = [*payload["rows"]]
    out.writerows([csv_cell(row[name]) for name in names] for row in rows)
    total: Mapping[str, Any] = {names[0]: "total", **payload["total"]}
    out.writerow([total.get(name, "") for name in names])
    return text.getvalue()
