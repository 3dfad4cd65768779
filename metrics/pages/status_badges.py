"""Badges of endpoints in long tables: there are few different ones, so each is rendered once for a page."""

from collections.abc import Callable
from functools import cache
from typing import TypedDict

from django.template.loader import render_to_string
from django.utils.functional import Promise
from django.utils.safestring import SafeString

from endpoints.registry import Entry
from metrics.queries.payloads import DashboardEndpointPayload


class EndpointBadges(TypedDict):
    """Rendered badges of the status, of the circuit breaker, and of what sets it aside."""

    status_mark: str
    breaker_mark: str
    aside_mark: str


class BadgedEndpoint(DashboardEndpointPayload, EndpointBadges):
    """An endpoint in a table of a page."""

    entry: Entry
    kind: str | Promise


def badge_renderer(*, quiet: bool = False) -> Callable[[str, DashboardEndpointPayload], EndpointBadges]:
    """Return a function that renders the badges of a shown status and of an endpoint's figures.

    With `quiet`, a closed breaker has none.
    """
    status = cache(lambda state: render_to_string("components/status.html", {"state": state}))
    breaker = cache(lambda state: render_to_string("components/breaker.html", {"state": state, "quiet": quiet}))
    aside = cache(_aside_mark)

    def badges(shown: str, row: DashboardEndpointPayload) -> EndpointBadges:
        return {
            "status_mark": status(shown),
            "breaker_mark": breaker(row["breaker"]),
            "aside_mark": aside(row["paused_until"], row["pause_cause"], tuple(row["lacks"])),
        }

    return badges


def _aside_mark(until: str | None, cause: str | None, lacks: tuple[str, ...]) -> SafeString:
    pause = render_to_string("components/pause.html", {"until": until, "cause": cause})
    return pause + render_to_string("components/lacking.html", {"lacks": lacks})
