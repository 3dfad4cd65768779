"""Additions of model names to the core: their page, which is one of models, and their API."""

from collections.abc import Sequence
from typing import ClassVar

from django.urls import URLPattern

from endpoints.slices import Slice, api_urls


class ModelNamesSlice(Slice):
    covered: ClassVar = {"models": ("model-name",)}

    def urls(self) -> Sequence[URLPattern]:
        from endpoints.model_names import api as names_api
        from metrics.model_names import api, pages

        return [*pages.URLS, *api_urls(names_api.URLS), *api_urls(api.URLS)]


SLICE = ModelNamesSlice()
