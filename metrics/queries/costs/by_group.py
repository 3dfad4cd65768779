"""Costs of a period by the groups of usage, from the roll-ups by day and price."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from metrics import sql
from metrics.counting.costs import COST_COLUMNS, CostSums
from metrics.prices.amounts import text_of
from metrics.queries.stored import run_sql
from metrics.queries.usage import BY, NAMES, CurrencyCostPayload, GroupNames, UsagePayload, stored_value
from metrics.queries.usage_periods import Period


def with_costs(payload: UsagePayload, period: Period, only: Mapping[str, str] = MappingProxyType({})) -> UsagePayload:
    """Add the costs of each row and of all together, by currency. Without any cost the list is empty.

    One query, and one for names of keys.
    """
    by = payload["by"]
    group = "substr(date, 1, 7)" if by == "month" else BY[by]
    where = ["date >= %s AND date <= %s", *(f"{name} = %s" for name in only)]
    values: list[Any] = [period.since.isoformat(), period.until.isoformat()]
    values += [stored_value(name, value) for name, value in only.items()]
    columns = (f"{group} AS value", "currency", *(f"SUM({name})" for name in COST_COLUMNS))
    found = list(run_sql(sql.select(columns, "rollup_cost_days", where=where, group_by="value, currency"), values))
    names = GroupNames(by)
    names.read(str(value) for value, *_each in found)
    groups: dict[tuple[Any, ...], dict[str, CostSums]] = {}
    total: dict[str, CostSums] = {}
    for value, currency, *each in found:
        sums = CostSums(*[int(count) for count in each])
        fields: Mapping[str, Any] = names.fields(names.group(str(value)))
        for by_currency in (groups.setdefault(tuple(fields[name] for name in NAMES[by]), {}), total):
            by_currency.setdefault(str(currency), CostSums()).add(sums)
    for row in payload["rows"]:
        shown: Mapping[str, Any] = row
        row["costs"] = _payload(groups.get(tuple(shown[name] for name in NAMES[by]), {}))
    payload["costs"] = _payload(total)
    return payload


def _payload(sums: Mapping[str, CostSums]) -> list[CurrencyCostPayload]:
    return [
        {
            "currency": currency,
            "cost": text_of(each.cost),
            "estimated_cost": text_of(each.estimated_cost),
            "requests": each.requests,
            "estimated_requests": each.estimated_requests,
        }
        for currency, each in sorted(sums.items())
    ]
