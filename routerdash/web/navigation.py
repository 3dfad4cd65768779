"""Pages of the dashboard in the rail, in the bar of small screens and in keyboard shortcuts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from endpoints.slices import MenuEntry, slices


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
        MenuEntry("overview", _("Overview"), "overview", "o"),
        MenuEntry("live", pgettext_lazy("page", "Live"), "live", "l"),
        MenuEntry("requests", _("Requests"), "requests", "r", ("request",)),
        MenuEntry("conversations", _("Conversations"), "thread", "t", ("conversation",)),
    ),
    (
        MenuEntry(
            "endpoints", _("Endpoints"), "endpoints", "e", ("endpoint", "endpoint-add", "discover", "endpoints-act")
        ),
        MenuEntry("models", _("Models"), "models", "m", ("model",)),
        MenuEntry("playground", _("Playground"), "chat", "p"),
    ),
    (
        MenuEntry("usage", _("Usage"), "usage", "u"),
        MenuEntry("clients", _("Clients"), "clients", "c", ("client",)),
        MenuEntry(
            "keys",
            _("API keys"),
            "key",
            "k",
            ("key", "key-delete", "connect", "limits", "limits-everyone", "limits-key", "limits-keys", "limits-user"),
        ),
    ),
    (
        MenuEntry("admin:index", _("Admin"), "admin", "a", for_administrators=True),
        MenuEntry("api-docs", _("API"), "code", "d"),
    ),
)
SMALL = ("overview", "endpoints", "requests", "playground")


@cache
def groups() -> list[list[MenuEntry]]:
    """Return the pages of the core and of slices, in groups."""
    covered = [one.covered for one in slices()]
    places = [
        [replace(place, covers=(*place.covers, *chain(*(of.get(place.name, ()) for of in covered)))) for place in group]
        for group in GROUPS
    ]
    for added in chain.from_iterable(one.places for one in slices()):
        for group in places:
            names = [place.name for place in group]
            if added.after in names:
                group.insert(names.index(added.after) + 1, added)
    return places


def links(request: HttpRequest) -> list[list[Link]]:
    """Return the links that the user of this request may see, in groups; empty groups are left out."""
    match = request.resolver_match
    current = match.view_name if match else ""
    is_administrator = bool(getattr(getattr(request, "user", None), "is_staff", False))
    shown = (
        [link for place in group if (link := _link(place, current, is_administrator=is_administrator))]
        for group in groups()
    )
    return [group for group in shown if group]


def _link(place: MenuEntry, current: str, *, is_administrator: bool) -> Link | None:
    if place.for_administrators and not is_administrator:
        return None
    return Link(
        place.name, reverse(place.name), place.label, place.icon, place.key, current in (place.name, *place.covers)
    )


def small(groups: Iterable[Iterable[Link]]) -> tuple[list[Link], list[Link]]:
    """Return the links for the bar of a small screen, and the rest, which is behind "More"."""
    every = list(chain.from_iterable(groups))
    return [link for link in every if link.name in SMALL], [link for link in every if link.name not in SMALL]
