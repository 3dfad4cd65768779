"""Additions of learning to the core. The database writer, the learner, Prometheus and others call it by name, too."""

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from django.urls import URLPattern

from endpoints.slices import api_urls
from gateway.base.config import Config
from metrics.queries.slices import EndpointPage, FigureSlice
from metrics.reconcile.slices import AuditedSlice, Compared

SHOWN_LEARNED = 6  # models and kinds with their curves on the page of an endpoint


class LearningSlice(FigureSlice, AuditedSlice):
    sections: ClassVar = {
        "endpoint notices": "learning/slowdowns.html",
        "endpoint figures": "learning/learned.html",
    }

    def urls(self) -> Sequence[URLPattern]:
        from metrics.learning import api

        return api_urls(api.URLS)

    def endpoint_page(self, page: EndpointPage) -> Mapping[str, object]:
        from metrics.learning import current_slowdowns
        from metrics.learning.learned_models import learned_models, share_of_models

        learned = learned_models(page.entry)
        return {
            "learned": learned[:SHOWN_LEARNED],
            "learned_total": len(learned),
            "prefix": share_of_models(learned),
            "slow": current_slowdowns.shown(page.entry.id, time.time(), page.edits, page.spans),
        }

    def compare_running(self, config: Config) -> Compared:
        from metrics.learning import laws

        return laws.compare(config)


SLICE = LearningSlice()
