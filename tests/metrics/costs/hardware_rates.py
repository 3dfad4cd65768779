"""Rates of own hardware for tests."""

from datetime import datetime
from typing import Any

from metrics.costs.amounts import parse_amount
from metrics.costs.hardware_tables import HARDWARE_AMOUNTS, HardwareRateRow
from metrics.models import HardwareDayRollUp
from tests.metrics.records import A


def add_rate(endpoint_id: str = A, *, since: datetime, currency: str = "USD", **fields: Any) -> HardwareRateRow:
    """Create a rate. Amounts are text of the currency's units, and of watts."""
    amounts = {name: parse_amount(value) for name, value in fields.items() if name in HARDWARE_AMOUNTS}
    return HardwareRateRow.objects.create(
        endpoint_id=endpoint_id, valid_from=since.replace(microsecond=0), currency=currency, **{**fields, **amounts}
    )


def total_cost() -> int:
    """Return the cost of all lines of all days."""
    return sum(HardwareDayRollUp.objects.values_list("cost", flat=True))
