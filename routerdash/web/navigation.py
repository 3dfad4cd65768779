"""Pages of the dashboard in the rail, in the bar of small screens and in keyboard shortcuts."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy


@dataclass(frozen=True, slots=True)
class Place:
    """Page in the navigation.

    `covers` are the URL names of pages that belong to it; `key` is pressed after `g`. Pages with `staff` are shown to
    staff only.
    """

    name: str
    label: str | Promise
    icon: str
    key: str
    covers: tuple[str, ...] = ()
    staff: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    url: str
    label: str | Promise
    icon: str
    key: str
    current: bool


GROUPS = (
    (
        Place("overview", _("Overview"), "overview", "o"),
        Place("live", pgettext_lazy("page", "Live"), "live", "l"),
        Place("requests", _("Requests"), "requests", "r", ("request",)),
        Place("conversations", _("Conversations"), "thread", "t", ("conversation",)),
    ),
    (
        Place("endpoints", _("Endpoints"), "endpoints", "e", ("endpoint", "endpoint-add", "discover", "endpoints-act")),
        Place("models", _("Models"), "models", "m", ("model", "model-name", "prices", "hardware")),
        Place("playground", _("Playground"), "chat", "p"),
        Place("replay", _("Replay"), "gauge", "y", staff=True),
    ),
    (
        Place("usage", _("Usage"), "usage", "u"),
        Place("clients", _("Clients"), "clients", "c", ("client",)),
        Place(
            "keys",
            _("API keys"),
            "key",
            "k",
            ("key", "key-delete", "connect", "limits", "limits-everyone", "limits-key", "limits-keys", "limits-user"),
        ),
    ),
    (
        Place("admin:index", _("Admin"), "admin", "a", staff=True),
        Place("api-docs", _("API"), "code", "d"),
    ),
)
SMALL = ("overview", "endpoints", "requests", "playground")


def links(request: HttpRequest) -> list[list[Link]]:
    """Return the links that the user of this request may see, in groups; empty groups are left out."""
    match = request.resolver_match
    current = match.view_name if match else ""
    staff = bool(getattr(getattr(request, "user", None), "is_staff", False))
    groups = ([link for place in group if (link := _link(place, current, staff=staff))] for group in GROUPS)
    return [group for group in groups if group]


def _link(place: Place, current: str, *, staff: bool) -> Link | None:
    if place.staff and not staff:
        return None
    return Link(
        place.name, reverse(place.name), place.label, place.icon, place.key, current in (place.name, *place.covers)
    )


def small(groups: Iterable[Iterable[Link]]) -> tuple[list[Link], list[Link]]:
    """Return the links for the bar of a small screen, and the rest, which is behind "More"."""
    every = list(chain.from_iterable(groups))
    return [link for link in every if link.name in SMALL], [link for link in every if link.name not in SMALL]
