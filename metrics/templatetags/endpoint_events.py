"""Endpoint events on the overview: marks above its chart, and a list.

A page has up to a hundred of both. Each event is rendered once for a language and time zone: a loop in a template took
longer than all other parts of the page together while health changed all the time.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

from django import template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language, gettext_noop
from django.utils.translation import gettext as _

from endpoints import causes
from endpoints.models import Status
from metrics.templatetags.figures import icon, moment, when

register = template.Library()

STATUSES = {
    Status.ONLINE: gettext_noop("Online"),
    Status.ERROR: gettext_noop("Error"),
    Status.OFFLINE: gettext_noop("Offline"),
}
ICONS = {Status.ONLINE: "st-online", Status.ERROR: "st-error", Status.OFFLINE: "st-offline"}
MAX_RENDERED = 1000  # events in memory, each for a language and time zone


class RenderedEvent(NamedTuple):
    """An event in HTML."""

    mark: SafeString
    row: SafeString


@register.simple_tag
def event_marks(events: Iterable[Mapping[str, Any]], existing: Collection[str]) -> SafeString:
    """Return the marks of the overview's `marks`; `existing` has the ids of the endpoints that have a page."""
    return SafeString("".join([event.mark for event in _rendered(events, existing)]))


@register.simple_tag
def event_rows(events: Iterable[Mapping[str, Any]], existing: Collection[str]) -> SafeString:
    """Return the rows of the list of events, the newest first."""
    return SafeString("".join([event.row for event in _rendered(events, existing)][::-1]))


def _rendered(events: Iterable[Mapping[str, Any]], existing: Collection[str]) -> list[RenderedEvent]:
    language, zone = get_language(), timezone.get_current_timezone()
    return [_render(tuple(event.items()), event["endpoint_id"] in existing, language, zone) for event in events]


@lru_cache(MAX_RENDERED)
def _render(items: tuple[tuple[str, Any], ...], exists: bool, language: str | None, zone: tzinfo) -> RenderedEvent:
    """Render an event in the active language and time zone, which are parameters only for the cache."""
    event = dict(items)
    changed_at, text, after = datetime.fromisoformat(event["at"]), event_text(event), event["status_after"]
    is_status = event["what"] == "status"
    words = f"{moment(changed_at)} {text}"
    mark = format_html(
        '<li class="mk" data-kind="{}" data-at="{}"><a href="{}" title="{}">{}<span class="vh">{}</span></a></li>',
        after if is_status else "edit",
        event["at"],
        f"{reverse('endpoints')}/{event['endpoint_id']}" if exists else reverse("overview"),
        words,
        icon(ICONS.get(after, "st-pending") if is_status else "edit"),
        words,
    )
    return RenderedEvent(mark, format_html("<li>{}<span>{}</span></li>", when(changed_at), text))


def event_text(event: Mapping[str, Any]) -> str:
    """Return the change of an endpoint in words; `event` is one of the overview's `marks`."""
    names = {"name": event["endpoint_name"], "by": event["by"]}
    if event["what"] == "status":
        text = f"{names['name']}: {_(STATUSES.get(event['status_after'], gettext_noop('Pending')))}"
    elif event["what"] == "added":
        text = _("%(name)s added by %(by)s") % names
    elif event["what"] == "deleted":
        text = _("%(name)s deleted by %(by)s") % names
    else:
        text = _("%(name)s changed by %(by)s") % names
    return f"{text} ({causes.shown(event['detail'])})" if event["detail"] else text
