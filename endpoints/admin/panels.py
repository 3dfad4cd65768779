"""Read-only parts of admin pages: tables, links, numbers."""

from collections.abc import Sequence
from typing import Any

from django.urls import reverse
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from endpoints import capabilities
from endpoints.admin_base import (
    endpoint_name,
)
from endpoints.models import (
    Endpoint,
    EndpointModel,
)


def table(head: tuple[object, ...], rows: Sequence[tuple[object, ...]]) -> SafeString:
    """Return a read-only table; a dash if there are no rows."""
    if not rows:
        return SafeString("—")
    return format_html(
        '<div class="wide" tabindex="0"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>',
        _cells("th", head),
        format_html_join("", "<tr>{}</tr>", ((_cells("td", row),) for row in rows)),
    )


def full_list_link(changelist: str, endpoint: Endpoint, text: str) -> SafeString:
    """Return the link below a panel to the full list."""
    return format_html('<p><a href="{}?endpoint={}">{}</a></p>', reverse(changelist), endpoint.pk, text)


def _cells(tag: str, row: tuple[object, ...]) -> SafeString:
    return format_html_join("", "<{0}>{1}</{0}>", ((tag, cell) for cell in row))


def endpoint_link(endpoint_id: Any) -> str:
    page = reverse("admin:endpoints_endpoint_change", args=[endpoint_id])
    return format_html('<a href="{}">{}</a>', page, endpoint_name(endpoint_id))


def capabilities_of(model: EndpointModel) -> tuple[str, ...]:
    return capabilities.normalise(model.capabilities)


def number(value: int) -> str:
    return number_format(value, force_grouping=True)
