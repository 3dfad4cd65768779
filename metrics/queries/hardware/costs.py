"""Costs of own hardware beside those of prices: of requests and of idle time, by currency. Counted hours only."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypedDict

from gateway.prices.amounts import text_of
from metrics.queries.hardware.by_group import ByCurrency, HardwareGroups, hardware_by_group
from metrics.queries.usage_periods import Period


class AmountPayload(TypedDict):
    currency: str
    cost: str


class HardwareCostPayload(TypedDict):
    """Costs of own hardware, never added to those of prices."""

    requests: list[AmountPayload]
    idle: list[AmountPayload]


def hardware_cost(period: Period, only: Mapping[str, str] = MappingProxyType({})) -> HardwareCostPayload | None:
    """Return what own hardware cost in a period; None if it has none. One query."""
    groups, _names = hardware_by_group("endpoint", period, only)
    found: HardwareCostPayload = {
        "requests": _amounts(groups.total(idle=False)),
        "idle": _amounts(groups.total(idle=True)),
    }
    return found if any(found.values()) else None


def hardware_months(period: Period, only: Mapping[str, str] = MappingProxyType({})) -> dict[str, HardwareCostPayload]:
    """Return what own hardware cost by month, without months that have none. One query."""
    groups, _names = hardware_by_group("month", period, only)
    return {month: _of(groups, month) for month in groups.requests.keys() | groups.idle.keys()}


def _of(groups: HardwareGroups, group: str) -> HardwareCostPayload:
    return {
        "requests": _amounts(groups.requests.get(group, {})),
        "idle": _amounts(groups.idle.get(group, {})),
    }


def _amounts(sums: ByCurrency) -> list[AmountPayload]:
    return [{"currency": currency, "cost": text_of(each.cost)} for currency, each in sorted(sums.items())]
