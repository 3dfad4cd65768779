"""Last use and refused requests of API keys: pages, JSON API and admin."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from access.keys.use import RefusedRequests, uses_of
from access.models import ApiKey, User
from metrics.models import LastUse, RefusedDayRollUp
from tests.access.people import Api, key_for

pytestmark = pytest.mark.django_db

LAST_US = 1_773_144_030_123_456  # 2026-03-10T12:00:30.123456Z
EXACT = "2026-03-10T12:00:30.123456Z"


@pytest.fixture
def used(viewer: User) -> ApiKey:
    """A key with a use and refusals, also older ones than pages show."""
    key_for(viewer, name="mine")
    row = ApiKey.objects.get()
    LastUse.objects.create(api_key_id=str(row.pk), last_used_us=LAST_US)
    refuse(row, 0, 3, "rate_limit_exceeded", "key:requests")
    refuse(row, 6, 1200, "rate_limit_exceeded", "key:requests")
    refuse(row, 7, 5000, "rate_limit_exceeded", "key:requests")
    refuse(row, 1, 2, "insufficient_quota", "user:tokens_day")
    return row


def refuse(row: ApiKey, ago: int, count: int, code: str, limit: str) -> None:
    day = timezone.localtime(timezone=settings.ROUTERDASH.zone).date() - timedelta(days=ago)
    RefusedDayRollUp.objects.create(
        date=day.isoformat(), api_key_id=str(row.pk), code=code, limit_name=limit, requests_rejected=count
    )


def test_the_api_has_the_exact_last_use_and_refusals(as_viewer: Api, used: ApiKey, viewer: User) -> None:
    key_for(viewer, name="unused")
    rows: list[dict[str, Any]] = as_viewer.call("GET", "/api/me/api-keys").json()["api_keys"]
    uses = {row["name"]: (row["last_used_at"], row["refused"]) for row in rows}
    assert uses == {
        "mine": (
            EXACT,
            [
                {"code": "insufficient_quota", "limit": "user:tokens_day", "today": 0, "last_7_days": 2},
                {"code": "rate_limit_exceeded", "limit": "key:requests", "today": 3, "last_7_days": 1203},
            ],
        ),
        "unused": (None, []),
    }


def test_the_pages_show_them(as_viewer: Api, used: ApiKey) -> None:
    assert 'datetime="2026-03-10T' in as_viewer.get("/keys").content.decode()
    html = as_viewer.get(f"/keys/{used.pk}").content.decode()
    assert ":30.123" in html
    for text in (">rate_limit_exceeded<", ">API key: requests a minute<", ">user: tokens, day<", ">1,203<"):
        assert text in html, text


def test_a_key_without_refusals_has_no_panel_of_them(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, name="mine")
    assert 'id="refused"' not in as_viewer.get(f"/keys/{ApiKey.objects.get().pk}").content.decode()


def test_the_admin_shows_the_last_use(as_admin: Api, used: ApiKey) -> None:
    for path in ("/admin/access/apikey/", f"/admin/access/apikey/{used.pk}/change/"):
        assert ":00:30" in as_admin.get(path).content.decode(), path


@pytest.mark.parametrize(
    ("limit", "label"),
    [
        ("everyone:concurrency", "everyone: concurrent requests"),
        ("key:money_month", "API key: money, month"),
        ("key:later", "API key: later"),
        ("later:requests", "later:requests"),
        (None, ""),
    ],
)
def test_limits_have_labels(limit: str | None, label: str) -> None:
    assert RefusedRequests("rate_limit_exceeded", limit, 0, 1).label == label


def test_no_keys_need_no_query(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert uses_of([]) == {}
