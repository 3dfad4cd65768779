"""Costs of own hardware by the groups of usage: the shares of requests, and the idle lines apart.

They are those of the hours that are counted. The hours since then are provisional: see metrics.hardware.hours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from metrics import sql
from metrics.costs.hardware_lines import HARDWARE_COLUMNS, IDLE, HardwareSums
from metrics.costs.hardware_rows import IS_IDLE
from metrics.queries.stored import run_sql
from metrics.queries.usage import BY, SERVED_GROUPS, GroupNames, stored_value
from metrics.queries.usage_periods import Period

HARDWARE_GROUPS = tuple(name for name in BY if name not in SERVED_GROUPS)
IDLE_GROUPS = ("day", "month", "endpoint", "external")
ByCurrency = dict[str, HardwareSums]


@dataclass
class HardwareGroups:
    """Sums of a period by currency."""

    requests: dict[str, ByCurrency] = field(default_factory=dict)  # by group, as GroupNames.group names it
    idle: dict[str, ByCurrency] = field(default_factory=dict)  # the same; but for IDLE_GROUPS all of it in ""
    values: set[str] = field(default_factory=set)  # stored values of the groups with a cost

    def total(self, *, idle: bool) -> ByCurrency:
        """Return the sums of all requests, or of all idle lines."""
        total: ByCurrency = {}
        for by_currency in (self.idle if idle else self.requests).values():
            for currency, sums in by_currency.items():
                total.setdefault(currency, HardwareSums()).add(sums)
        return total


def hardware_by_group(
    by: str, period: Period, only: Mapping[str, str] = MappingProxyType({})
) -> tuple[HardwareGroups, GroupNames]:
    """Return the sums of each group of HARDWARE_GROUPS, and the names of the groups. `only` as for usage.

    An idle line belongs to no model and no key, so it has the group "" there. With `model` or `api_key_id` in `only`,
    there are none. One query, and one for names of keys.
    """
    group = "substr(date, 1, 7)" if by == "month" else BY[by]
    where = ["date >= %s AND date <= %s", *(f"{name} = %s" for name in only)]
    values: list[Any] = [period.since.isoformat(), period.until.isoformat()]
    values += [stored_value(name, value) for name, value in only.items()]
    if only.keys() & {"model", "api_key_id"}:
        where.append(f"kind <> '{IDLE}'")
    columns = (f"{group} AS value", IS_IDLE, "currency", *(f"SUM({name})" for name in HARDWARE_COLUMNS))
    statement = sql.select(columns, "rollup_hardware_days", where=where, group_by="value, is_idle, currency")
    rows = list(run_sql(statement, values))
    names = GroupNames(by)
    names.read(str(value) for value, *_each in rows)
    groups = HardwareGroups()
    for value, idle, currency, *each in rows:
        place = groups.idle if idle else groups.requests
        if not idle or by in IDLE_GROUPS:
            groups.values.add(str(value))
        sums = HardwareSums(*map(int, each))
        place.setdefault(names.group(str(value)), {}).setdefault(str(currency), HardwareSums()).add(sums)
    return groups, names
