"""Usage: requests and tokens of local days, from the day roll-ups. The page, the API and exports all come here."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

from django.apps import apps
from django.db.models import QuerySet, Sum

from endpoints.registry import registry
from metrics import queries
from metrics.export import cell
from metrics.fold import NO_ENDPOINT
from metrics.models import DayRollUp

# How usage is grouped: the name in the API, and what roll-ups have for it. Whose a key is, only `access` knows.
BY = {
    "day": "date",
    "month": "date",  # whose first seven characters it is: by them, the database would have to sort all rows
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
        before = {value: _told(sums) for value, sums in _sums(by, period.before, names, only).items()}
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
    column = BY[by]
    days = DayRollUp.objects.filter(date__gte=period.since.isoformat(), date__lte=period.until.isoformat(), **only)
    found: dict[str, list[int]] = {}
    grouped: Any = days.values_list(column).annotate(*map(Sum, _USED))
    for value, *sums in grouped:
        counts = [int(count or 0) for count in sums]  # null: of a release that did not count it
        group = names.group(str(value))
        found[group] = [one + other for one, other in zip(found.get(group, [0] * len(counts)), counts, strict=True)]
    return found


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
        """Keys are summed by their owners, none among them; days by their months."""
        if self.by == "user":
            return self.owners[value].id if value in self.owners else ""
        return value[:7] if self.by == "month" else value

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
