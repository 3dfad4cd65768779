"""Additions of slices to figures of the core, such as costs beside those of prices, and to an endpoint's page."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from endpoints.edit_log import Edit
from endpoints.registry import Entry
from endpoints.slices import Slice, slices
from metrics.queries.requests.payload import HardwareCostPayload
from metrics.queries.uptime import StateSpan
from metrics.queries.usage import UsagePayload
from metrics.queries.usage_periods import Period
from metrics.sql import SqlRow


class AddedUsage(NamedTuple):
    """Costs to add to usage. `values` are those of groups that need a row, even without a request."""

    values: Collection[str]
    add_to: Callable[[UsagePayload], UsagePayload]


@dataclass(frozen=True, slots=True)
class EndpointPage:
    """Facts that the page of an endpoint has read for itself. `period`: that of its costs."""

    entry: Entry
    period: Period
    edits: Sequence[Edit]  # newest first
    spans: Sequence[StateSpan]


class FigureSlice(Slice):
    """A slice with figures of its own. Methods raise django.db.Error."""

    def usage(self, by: str, period: Period, only: Mapping[str, str]) -> AddedUsage | None:
        """Return what it adds to usage by these groups; None: nothing."""
        return None

    def costs_by_month(self, period: Period, only: Mapping[str, str]) -> Mapping[str, object]:
        """Return what the page of usage shows for each month, by `YYYY-MM`."""
        return {}

    def request_costs(self, row: SqlRow, now: float) -> list[HardwareCostPayload]:
        """Return the costs of a row of the history beside that of its price."""
        return []

    def endpoint_page(self, page: EndpointPage) -> Mapping[str, object]:
        """Return context for its sections on the page of an endpoint."""
        return {}


def figure_slices() -> list[FigureSlice]:
    return [one for one in slices() if isinstance(one, FigureSlice)]
