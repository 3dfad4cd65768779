"""Additions of replays to the core."""

from collections.abc import Sequence
from typing import ClassVar

from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _

from endpoints.slices import MenuEntry, Slice, api_urls


class ReplaySlice(Slice):
    places = (MenuEntry("replay", _("Replay"), "gauge", "y", for_administrators=True, after="playground"),)
    sections: ClassVar = {"balancer": "replay/link.html"}
    enums: ClassVar = {
        "BalancerEnum": "metrics.replay.run.POLICIES",
        "ProgressStateEnum": "metrics.replay.jobs.REPLAY_STATES",
    }

    def urls(self) -> Sequence[URLPattern]:
        from metrics.replay import api, pages

        return [*pages.URLS, *api_urls(api.URLS)]


SLICE = ReplaySlice()
