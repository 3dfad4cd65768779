"""Usage with its costs: those of prices, and those of own hardware."""

from collections.abc import Mapping
from types import MappingProxyType

from metrics.queries.costs.by_group import with_costs
from metrics.queries.hardware.by_group import HARDWARE_GROUPS, hardware_by_group
from metrics.queries.hardware.costs import with_hardware_costs
from metrics.queries.usage import UsagePayload, usage
from metrics.queries.usage_periods import Period


def usage_with_costs(
    by: str, period: Period, only: Mapping[str, str] = MappingProxyType({}), *, compare: bool = False
) -> UsagePayload:
    """Return `usage` with the costs of each row and of all together.

    Groups in which own hardware cost something have a row, also without a request: for example days on which it was
    idle. By served model and step, there are no costs of own hardware.
    """
    if by not in HARDWARE_GROUPS:
        return with_costs(usage(by, period, only, compare=compare), period, only)
    groups, names = hardware_by_group(by, period, only)
    payload = with_costs(usage(by, period, only, compare=compare, also=groups.values), period, only)
    return with_hardware_costs(payload, groups, names)
