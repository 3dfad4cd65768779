"""Usage with its costs: those of prices by the groups of usage, and those of slices."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metrics.costs.of_period import CostsPayload, CurrencySums, cost_sums, costs_of, total_of
from metrics.queries.slices import figure_slices
from metrics.queries.usage import BY, NAMES, GroupNames, UsageCountsPayload, UsagePayload, stored_value, usage
from metrics.queries.usage_periods import Period


def usage_with_costs(
    by: str, period: Period, only: Mapping[str, str] = MappingProxyType({}), *, compare: bool = False
) -> UsagePayload:
    """Return `usage` with the costs of each row and of all together.

    Groups in which a slice has costs have a row, also without a request: for example days on which own hardware was
    idle.
    """
    added = [slice_usage for one in figure_slices() if (slice_usage := one.usage(by, period, only)) is not None]
    also = {value for each in added for value in each.values}
    payload = with_costs(usage(by, period, only, compare=compare, also=also), period, only)
    for each in added:
        payload = each.add_to(payload)
    return payload


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
        cost_fields = _costs_of(row, total_of(groups.get(tuple(shown[name] for name in NAMES[by]), [])))
        row["costs"], row["requests_without_cost"] = cost_fields["costs"], cost_fields["requests_without_cost"]
    cost_fields = _costs_of(payload["total"], total_of(sums.values()))
    payload["costs"], payload["requests_without_cost"] = cost_fields["costs"], cost_fields["requests_without_cost"]
    return payload


def _costs_of(counts: UsageCountsPayload, sums: CurrencySums) -> CostsPayload:
    return costs_of(counts["requests"] + counts["cancelled_requests"], sums)
