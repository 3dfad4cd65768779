"""Additions of prices and costs to the core. Counting, the database writer and others call them by name, too."""

from collections.abc import Sequence
from typing import ClassVar

from django.urls import URLPattern

from endpoints.slices import api_urls
from metrics.reconcile.slices import AuditedSlice, Check, Law


class CostsSlice(AuditedSlice):
    covered: ClassVar = {"models": ("prices",)}

    def urls(self) -> Sequence[URLPattern]:
        from metrics.costs import api, pages

        return [*pages.URLS, *api_urls(api.URLS)]

    def laws(self) -> Sequence[Law]:
        from metrics.costs import laws

        return (laws.days,)

    def checks(self) -> Sequence[Check]:
        from metrics.costs import laws

        return (laws.priced_are_part, laws.one_currency)


SLICE = CostsSlice()
