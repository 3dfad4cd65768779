"""Badges of endpoints in long tables: there are few different ones, so each is rendered once for a page."""

from collections.abc import Callable
from functools import cache
from typing import TypedDict

from django.template.loader import render_to_string
from django.utils.functional import Promise

from endpoints.registry import Entry
from metrics.queries.payloads import EndpointPayload


class EndpointBadges(TypedDict):
    """Rendered badges of the status and of the circuit breaker."""

    status_mark: str
    breaker_mark: str


class BadgedEndpoint(EndpointPayload, EndpointBadges):
    """An endpoint in a table of a page."""

    entry: Entry
    kind: str | Promise


def badge_renderer(*, quiet: bool = False) -> Callable[[str, str], EndpointBadges]:
    """Return a function that renders the badges of a shown status and a breaker's state.

    With `quiet`, a closed breaker has none.
    """
    status = cache(lambda state: render_to_string("components/status.html", {"state": state}))
    breaker = cache(lambda state: render_to_string("components/breaker.html", {"state": state, "quiet": quiet}))
    return lambda shown, state: {"status_mark": status(shown), "breaker_mark": breaker(state)}
