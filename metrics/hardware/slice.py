"""Additions of costs of own hardware to the core.

Their tables, rates and counting are in metrics.costs: the database writer counts them with each batch.
"""

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from django.urls import URLPattern

from endpoints.slices import api_urls
from metrics.queries.requests.payload import HardwareCostPayload
from metrics.queries.slices import AddedUsage, EndpointPage, FigureSlice
from metrics.queries.usage_periods import Period
from metrics.reconcile.slices import AuditedSlice, Check, Law
from metrics.sql import SqlRow


class HardwareSlice(FigureSlice, AuditedSlice):
    covered: ClassVar = {"models": ("hardware",)}
    sections: ClassVar = {
        "prices": "hardware/link.html",
        "endpoint": "hardware/endpoint_rate.html",
        "endpoint costs": "hardware/endpoint_costs.html",
    }

    def urls(self) -> Sequence[URLPattern]:
        from metrics.hardware import api, pages

        return [*pages.URLS, *api_urls(api.URLS)]

    def usage(self, by: str, period: Period, only: Mapping[str, str]) -> AddedUsage | None:
        """Return what usage by groups of called models has; none by served model and step."""
        from metrics.hardware.by_group import HARDWARE_GROUPS, hardware_by_group
        from metrics.hardware.costs import with_hardware_costs

        if by not in HARDWARE_GROUPS:
            return None
        groups, names = hardware_by_group(by, period, only)
        return AddedUsage(groups.values, lambda payload: with_hardware_costs(payload, groups, names))

    def costs_by_month(self, period: Period, only: Mapping[str, str]) -> Mapping[str, object]:
        from metrics.hardware.costs import hardware_months

        return hardware_months(period, only)

    def request_costs(self, row: SqlRow, now: float) -> list[HardwareCostPayload]:
        from metrics.hardware.of_request import request_hardware

        return request_hardware(row, now)

    def endpoint_page(self, page: EndpointPage) -> Mapping[str, object]:
        from metrics.costs.price_cache import price_cache
        from metrics.hardware.costs import hardware_cost

        return {
            "hardware_rate": price_cache.hardware().rate(page.entry.id, time.time()),
            "hardware": hardware_cost(page.period, {"endpoint_id": page.entry.id}),
        }

    def laws(self) -> Sequence[Law]:
        from metrics.hardware import laws

        return (laws.days,)

    def checks(self) -> Sequence[Check]:
        from metrics.hardware import laws

        return (laws.hours, laws.rates, laws.requests)


SLICE = HardwareSlice()
