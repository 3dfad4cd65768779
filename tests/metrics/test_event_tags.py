"""Endpoint events on the overview: marks and rows."""

from typing import Any

import pytest
from django.utils import timezone, translation

from metrics.templatetags.endpoint_events import event_marks, event_rows

DOWN: dict[str, Any] = {
    "at": "2026-04-15T12:00:00.250Z",
    "what": "status",
    "endpoint_id": "11111111-1111-4111-8111-111111111111",
    "endpoint_name": "gpu <1>",
    "status_before": "online",
    "status_after": "offline",
    "detail": "connection refused",
    "by": None,
}
EDIT = {**DOWN, "what": "changed", "status_before": None, "status_after": None, "detail": None, "by": "ann & bob"}


def test_a_mark_leads_to_the_page_of_its_endpoint() -> None:
    mark = event_marks([DOWN], {DOWN["endpoint_id"]})
    assert mark.startswith(f'<li class="mk" data-kind="offline" data-at="{DOWN["at"]}"><a href="/endpoints/1111')
    assert mark.count("2026-04-15 12:00:00 gpu &lt;1&gt;: Offline (connection refused)") == 2
    assert "#st-offline" in mark


def test_the_mark_of_a_deleted_endpoint_leads_to_the_overview() -> None:
    assert '<a href="/" title="' in event_marks([DOWN], ())


def test_the_mark_of_an_edit_names_its_user() -> None:
    mark = event_marks([EDIT], ())
    assert 'data-kind="edit"' in mark
    assert "gpu &lt;1&gt; changed by ann &amp; bob" in mark
    assert "#edit" in mark


@pytest.mark.parametrize(
    ("status", "icon"), [("online", "st-online"), ("error", "st-error"), ("pending", "st-pending")]
)
def test_a_status_has_its_icon(status: str, icon: str) -> None:
    assert f"#{icon}" in event_marks([{**DOWN, "status_after": status}], ())


def test_rows_begin_with_the_newest() -> None:
    rows = event_rows([DOWN, EDIT], ())
    assert rows.count("<li><time ") == 2
    assert rows.index("changed by") < rows.index("Offline")


def test_an_event_is_shown_in_the_language_and_zone_of_the_viewer() -> None:
    english = event_rows([DOWN], ())
    with translation.override("ja"), timezone.override("Asia/Tokyo"):
        japanese = event_rows([DOWN], ())
    assert "12:00:00" in english
    assert "21:00:00" in japanese
    assert "Offline" not in japanese
    assert event_rows([DOWN], ()) == english
