"""Usage: requests and tokens of local days, from the roll-ups by day and month, for the page, API and exports."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NotRequired, TypedDict

from django.db import connection

from endpoints.openapi.payload_fields import Choices, DateText, Help, UuidText
from endpoints.registry import registry
from gateway.base.csv_cells import csv_cell
from metrics import sql
from metrics.costs.of_period import CurrencyCostPayload
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.reported_details import TokenDetailsPayload, detail_counts
from metrics.counting.token_details import DETAIL_COLUMNS
from metrics.models import DayRollUp
from metrics.queries.api_keys import KeyOwner, key_names, key_owners
from metrics.queries.stored import run_sql
from metrics.queries.usage_periods import Period, Pieces

# Groups by their names in the API, and the roll-ups' column. Only `access` knows the user of a key.
BY = {
    "day": "date",
    "month": "month",
    "model": "model",
    "served": "served",
    "canonical": "canonical",
    "step": "step",
    "endpoint": "endpoint_id",
    "external": "endpoint_id",
    "key": "api_key_id",
    "user": "api_key_id",
}
# Groups of the days by served model, and the group of requests without a row there.
SERVED_GROUPS = {"served": "model", "canonical": "model", "step": "'0'"}
# Fields of a row that name its group.
NAMES = {
    "day": ("day",),
    "month": ("month",),
    "model": ("model_id",),
    "served": ("served_model",),
    "canonical": ("canonical_name",),
    "step": ("step",),
    "endpoint": ("endpoint_id", "endpoint_name"),
    "external": ("external",),
    "key": ("api_key_id", "api_key_name"),
    "user": ("user_id", "username"),
}
TIME_GROUPS = ("day", "month")
ROUTED_GROUPS = ("model", "served", "canonical", "step", "endpoint", "external")  # rejected requests have none of these

_USED = (
    "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "requests_rejected",
    *DETAIL_COLUMNS,
)  # fmt: skip
_OF_SERVED = tuple("0" if name == "requests_rejected" else name for name in _USED)


# Requests and tokens of one group.
class UsageCountsPayload(TokenDetailsPayload):
    """Tokens that only some servers report. Each sum is null if no response reported it."""

    requests: Annotated[int, Help("Requests, without cancelled and rejected ones.")]
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    rejected_requests: Annotated[
        int, Help("Requests that RouterDash rejected itself. They have no model, so by model only the total has them.")
    ]
    input_tokens: int
    output_tokens: int
    total_tokens: int


class UsageHardwareCostPayload(TypedDict):
    """Costs of own hardware in one currency, of the hours that are counted."""

    currency: Annotated[str, Help("ISO 4217 code.")]
    cost: Annotated[str, Help("Of requests and of idle time, in units of the currency; exact.")]
    idle_cost: Annotated[
        str, Help("The part of idle time. It belongs to no model, key or user: by these, only the total has it.")
    ]


# Fields that name the group of a row: those of NAMES.
class UsageGroup(TypedDict, total=False):
    day: DateText
    month: Annotated[str, Help("`YYYY-MM`")]
    model_id: Annotated[str, Help("The name that requests asked for.")]
    served_model: Annotated[str, Help("The endpoint's own id of the model.")]
    canonical_name: Annotated[str, Help("Canonical name of the served model; without one, the served model.")]
    step: Annotated[int, Help("Step of a model name, from 1; 0: no model name.")]
    endpoint_id: UuidText | None
    endpoint_name: str | None
    external: Annotated[
        bool | None, Help("Whether the endpoint is external now; null for no endpoint and deleted ones.")
    ]
    api_key_id: UuidText | None
    api_key_name: str | None
    user_id: Annotated[UuidText | None, Help("Null for requests without an API key, or with a deleted one.")]
    username: Annotated[str | None, Help("The owner of the key.")]


class _RowCosts(TypedDict, total=False):
    costs: Annotated[list[CurrencyCostPayload], Help("By currency; empty if no request has a price.")]
    requests_without_cost: Annotated[
        int, Help("Requests, cancelled ones included, that have no price or no known tokens.")
    ]
    hardware_costs: Annotated[
        list[UsageHardwareCostPayload], Help("Of own hardware; not by `served`, `canonical` and `step`.")
    ]


class _UsageBefore(TypedDict, total=False):
    previous_requests: Annotated[
        int, Help("Requests of the previous period; only with `compare`, and not by `day` or `month`.")
    ]
    previous_total_tokens: int


class UsageRowPayload(UsageCountsPayload, _RowCosts, UsageGroup, _UsageBefore):
    """Usage of one group, with the fields of `by`."""


class PreviousPayload(TypedDict):
    """The previous period of equal length."""

    since: DateText
    until: DateText
    total: UsageCountsPayload


class UsagePayload(TypedDict):
    by: Annotated[str, Choices(tuple(BY))]
    since: DateText
    until: DateText
    rows: list[UsageRowPayload]
    total: UsageCountsPayload
    costs: NotRequired[Annotated[list[CurrencyCostPayload], Help("Of all rows, by currency.")]]
    requests_without_cost: NotRequired[Annotated[int, Help("Of all rows.")]]
    hardware_costs: NotRequired[
        Annotated[list[UsageHardwareCostPayload], Help("Of all rows, and of the idle time that belongs to none.")]
    ]
    previous: NotRequired[PreviousPayload]


FIGURES = (
    "requests", "successful_requests", "failed_requests", "cancelled_requests", "rejected_requests", "input_tokens",
    "output_tokens", "total_tokens", *DETAIL_COLUMNS,
)  # fmt: skip
# Columns of each currency in CSV, and their fields in JSON.
COST_FIGURES = {
    "cost": "cost",
    "estimated_cost": "estimated_cost",
    "priced_requests": "requests",
    "estimated_priced_requests": "estimated_requests",
}
HARDWARE_FIGURES = {"hardware_cost": "cost", "hardware_idle_cost": "idle_cost"}


def usage(
    by: str,
    period: Period,
    only: Mapping[str, str] = MappingProxyType({}),
    *,
    compare: bool = False,
    also: Collection[str] = (),
) -> UsagePayload:
    """Return usage by day and month in the order of time, else with the most requests first.

    `only` has values of the roll-ups' columns `model`, `endpoint_id` and `api_key_id`. `compare` adds the sums of the
    period before, also to each row unless it is a day or month. `also` has stored values, whose groups have rows even
    without requests. One query, at most two for names of keys, and one to compare.
    """
    names = GroupNames(by)
    sums = {value: each for value, each in _sums(by, period, names, only).items() if any(each)}
    used = {value: _counts(each) for value, each in sums.items()}
    names.read(also)
    added = {names.group(value) for value in also}
    used |= {group: _counts((0,) * len(_USED)) for group in added if group not in used}
    shown = sorted(
        value
        for value, row in used.items()
        if by not in ROUTED_GROUPS or row["requests"] or row["cancelled_requests"] or value in added
    )
    rows: list[UsageRowPayload] = [
        {**names.fields(value), **used[value], **_RowCosts(), **_UsageBefore()} for value in shown
    ]
    payload: UsagePayload = {
        "by": by,
        "since": period.since.isoformat(),
        "until": period.until.isoformat(),
        "rows": rows,
        "total": _total(sums.values()),
    }
    if compare:
        # Days and months have a total only, for which months are enough.
        by_before = "month" if by in TIME_GROUPS else by
        sums_before = _sums(by_before, period.before, names, only)
        before = {value: _counts(each) for value, each in sums_before.items()}
        if by not in TIME_GROUPS:
            for value, row in zip(shown, rows, strict=True):
                row["previous_requests"] = before[value]["requests"] if value in before else 0
                row["previous_total_tokens"] = before[value]["total_tokens"] if value in before else 0
        payload["previous"] = {
            "since": period.before.since.isoformat(),
            "until": period.before.until.isoformat(),
            "total": _total(sums_before.values()),
        }
    if by not in TIME_GROUPS:
        rows.sort(key=lambda row: -row["requests"])  # equal ones keep the order of their names
    return payload


def _sums(by: str, period: Period, names: "GroupNames", only: Mapping[str, str]) -> dict[str, list[int]]:
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
    chosen = [stored_value(name, value) for name, value in only.items()]
    parts: list[str] = []
    values: list[Any] = []
    requested = SERVED_GROUPS.get(by, BY[by])  # the asked name has all requests, of which some are moved below
    if pieces.months is not None:
        columns = (f"{requested} AS value", *_USED)
        parts.append(sql.select(columns, "rollup_months", where=["month >= %s", "month <= %s", *conditions]))
        values += [*pieces.months, *chosen]
    for sign, days in pieces.days:
        counts = _USED if sign > 0 else tuple(f"-{name}" for name in _USED)
        if by == "month":
            value, values = "%s", [*values, days.months()[0]]
        else:
            value = requested
        span, dates = "date >= %s AND date <= %s", [days.since.isoformat(), days.until.isoformat()]
        if "endpoint_id" in only:  # one date after another: so the table's key leads to the rows of one endpoint alone
            dates = days.dates()
            span = f"date IN {sql.placeholders(len(dates))}"
        parts.append(sql.select((f"{value} AS value", *counts), "rollup_days", where=[span, *conditions]))
        values += [*dates, *chosen]
    if by in SERVED_GROUPS:
        minus = tuple(f"-{name}" for name in _OF_SERVED)
        for value, counts in ((requested, minus), (f"CAST({BY[by]} AS text)", _OF_SERVED)):
            where = ["date >= %s AND date <= %s", *conditions]
            parts.append(sql.select((f"{value} AS value", *counts), "rollup_served_days", where=where))
            values += [period.since.isoformat(), period.until.isoformat(), *chosen]
    return " UNION ALL ".join(parts), values


def stored_value(column: str, value: str) -> Any:
    field: Any = DayRollUp._meta.get_field(column)
    return field.get_db_prep_value(value, connection)


def _counts(sums: Sequence[int]) -> UsageCountsPayload:
    ok, failed, cancelled, tokens_in, tokens_out, rejected, *details = sums
    return {
        "requests": ok + failed,
        "successful_requests": ok,
        "failed_requests": failed,
        "cancelled_requests": cancelled,
        "rejected_requests": rejected,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        **detail_counts(details),
    }


def _total(sums: Iterable[Sequence[int]]) -> UsageCountsPayload:
    return _counts([sum(column) for column in zip((0,) * len(_USED), *sums, strict=True)])


_EXTERNAL, _INTERNAL = "external", "internal"


class GroupNames:
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
        """Return the group of a stored value: the owner of a key if grouped by user, or the place of an endpoint."""
        if self.by == "user":
            return self.owners[value].id if value in self.owners else ""
        if self.by == "external":
            entry = registry.get(value)
            return "" if entry is None else _EXTERNAL if entry.is_external else _INTERNAL
        return value

    def fields(self, value: str) -> UsageGroup:
        if self.by == "endpoint":
            return {"endpoint_id": None if value == NO_ENDPOINT else value, "endpoint_name": registry.name(value)}
        if self.by == "external":
            return {"external": value == _EXTERNAL if value else None}
        if self.by == "key":
            return {"api_key_id": value or None, "api_key_name": self.keys.get(value)}
        if self.by == "user":
            return {"user_id": value or None, "username": self.users.get(value)}
        if self.by == "model":
            return {"model_id": value}
        if self.by == "served":
            return {"served_model": value}
        if self.by == "canonical":
            return {"canonical_name": value}
        if self.by == "step":
            return {"step": int(value)}
        return {"day": value} if self.by == "day" else {"month": value}


def usage_csv(payload: UsagePayload) -> str:
    """Return the rows as CSV by RFC 4180, their total last. Each currency has columns of its own."""
    text = io.StringIO()
    out = csv.writer(text)
    currencies = [cost["currency"] for cost in payload.get("costs", [])]
    at_hardware = [cost["currency"] for cost in payload.get("hardware_costs", [])]
    costs = [f"{name}_{currency.lower()}" for currency in currencies for name in COST_FIGURES]
    costs += [f"{name}_{currency.lower()}" for currency in at_hardware for name in HARDWARE_FIGURES]
    names = (*NAMES[payload["by"]], *FIGURES)
    out.writerow((*names, *costs))

    def cost_cells(of: UsageRowPayload | UsagePayload) -> list[Any]:
        return [
            *_cells(of.get("costs", []), currencies, COST_FIGURES),
            *_cells(of.get("hardware_costs", []), at_hardware, HARDWARE_FIGURES),
        ]

    for row in payload["rows"]:
        values: Mapping[str, Any] = row
        cells = [csv_cell(values[name]) for name in names]
        out.writerow([*cells, *cost_cells(row)])
    total: Mapping[str, Any] = {names[0]: "total", **payload["total"]}
    out.writerow([*(total.get(name, "") for name in names), *cost_cells(payload)])
    return text.getvalue()


def _cells(
    costs: Iterable[CurrencyCostPayload | UsageHardwareCostPayload],
    currencies: Iterable[str],
    figures: Mapping[str, str],
) -> list[Any]:
    """Return the cells of all currencies, empty for those without a cost."""
    by_currency: dict[str, Mapping[str, Any]] = {cost["currency"]: cost for cost in costs}
    return [by_currency.get(currency, {}).get(field, "") for currency in currencies for field in figures.values()]
