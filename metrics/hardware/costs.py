"""Costs of own hardware beside those of prices: of requests and of idle time, by currency. Counted hours only."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypedDict

from gateway.prices.amounts import text_of
from metrics.hardware.by_group import IDLE_GROUPS, ByCurrency, HardwareGroups, hardware_by_group
from metrics.queries.usage import NAMES, GroupNames, UsageGroup, UsageHardwareCostPayload, UsagePayload
from metrics.queries.usage_periods import Period


class AmountPayload(TypedDict):
    currency: str
    cost: str


class HardwareTotalsPayload(TypedDict):
    """Costs of own hardware, never added to those of prices."""

    requests: list[AmountPayload]
    idle: list[AmountPayload]


def hardware_cost(period: Period, only: Mapping[str, str] = MappingProxyType({})) -> HardwareTotalsPayload | None:
    """Return what own hardware cost in a period; None if it has none. One query."""
    groups, _names = hardware_by_group("endpoint", period, only)
    totals: HardwareTotalsPayload = {
        "requests": _amounts(groups.total(idle=False)),
        "idle": _amounts(groups.total(idle=True)),
    }
    return totals if any(totals.values()) else None


def hardware_months(period: Period, only: Mapping[str, str] = MappingProxyType({})) -> dict[str, HardwareTotalsPayload]:
    """Return what own hardware cost by month, without months that have none. One query."""
    groups, _names = hardware_by_group("month", period, only)
    return {month: _of(groups, month) for month in groups.requests.keys() | groups.idle.keys()}


def with_hardware_costs(payload: UsagePayload, groups: HardwareGroups, names: GroupNames) -> UsagePayload:
    """Add the costs of own hardware to the rows of usage, and of all together, by currency.

    Idle time that belongs to no row is in the total only. The rows must include `values` of the groups.
    """
    by = payload["by"]
    places = {_place(by, names.fields(group)): group for group in groups.requests.keys() | groups.idle.keys()}
    for row in payload["rows"]:
        group = places.get(_place(by, row))
        requests = {} if group is None else groups.requests.get(group, {})
        idle = groups.idle.get(group, {}) if group is not None and by in IDLE_GROUPS else {}
        row["hardware_costs"] = _with_idle(requests, idle)
    payload["hardware_costs"] = _with_idle(groups.total(idle=False), groups.total(idle=True))
    return payload


def _place(by: str, row: UsageGroup) -> tuple[Any, ...]:
    fields: Mapping[str, Any] = row
    return tuple(fields[name] for name in NAMES[by])


def _with_idle(requests: ByCurrency, idle: ByCurrency) -> list[UsageHardwareCostPayload]:
    costs: list[UsageHardwareCostPayload] = []
    for currency in sorted(requests.keys() | idle.keys()):
        used, unused = (each[currency].cost if currency in each else 0 for each in (requests, idle))
        costs.append({"currency": currency, "cost": text_of(used + unused), "idle_cost": text_of(unused)})
    return costs


def _of(groups: HardwareGroups, group: str) -> HardwareTotalsPayload:
    return {
        "requests": _amounts(groups.requests.get(group, {})),
        "idle": _amounts(groups.idle.get(group, {})),
    }


def _amounts(sums: ByCurrency) -> list[AmountPayload]:
    return [{"currency": currency, "cost": text_of(each.cost)} for currency, each in sorted(sums.items())]
