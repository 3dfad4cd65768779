"""Costs of a period by the groups of usage."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metrics.queries.costs.sums import CostsPayload, CurrencySums, cost_sums, costs_of, total_of
from metrics.queries.usage import BY, NAMES, GroupNames, UsageCounts, UsagePayload, stored_value
from metrics.queries.usage_periods import Period


def with_costs(payload: UsagePayload, period: Period, only: Mapping[str, str] = MappingProxyType({})) -> UsagePayload:
    """Add the costs of each row and of all together, by currency. Without any cost the list is empty.

    One query, and one for names of keys.
    """
    by = payload["by"]
    group = "substr(date, 1, 7)" if by == "month" else BY[by]
    values = [stored_value(name, value) for name, value in only.items()]
    where = [f"{name} = %s" for name in only]
    sums = cost_sums(group, period, where, values, day_by_day="endpoint_id" in only)
    names = GroupNames(by)
    names.read(sums)
    groups: dict[tuple[Any, ...], list[CurrencySums]] = {}
    for value, by_currency in sums.items():
        fields: Mapping[str, Any] = names.fields(names.group(value))
        groups.setdefault(tuple(fields[name] for name in NAMES[by]), []).append(by_currency)
    for row in payload["rows"]:
        shown: Mapping[str, Any] = row
        found = _costs_of(row, total_of(groups.get(tuple(shown[name] for name in NAMES[by]), [])))
        row["costs"], row["requests_without_cost"] = found["costs"], found["requests_without_cost"]
    found = _costs_of(payload["total"], total_of(sums.values()))
    payload["costs"], payload["requests_without_cost"] = found["costs"], found["requests_without_cost"]
    return payload


def _costs_of(counts: UsageCounts, sums: CurrencySums) -> CostsPayload:
    return costs_of(counts["requests"] + counts["cancelled_requests"], sums)
