"""The page of a user's own API keys."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from access.models import ApiKey, User
from gateway.base.request_kinds import CHAT
from metrics.counting.cells import Cell
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.token_details import TokenDetails
from metrics.storage.rollups import upsert_days
from tests.access.people import Api, key_for, make_user, session_of

pytestmark = pytest.mark.django_db

KEYS = "/keys"


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None) -> None:
    """Run `empty_caches` in every test of this package."""


def make(api: Api, name: str = "notebook", **fields: Any) -> str:
    html: str = api.post(KEYS, {"name": name, **fields}).content.decode()
    return html


def shown_key(html: str) -> str:
    match = re.search(r'value="(sk_\w+)"', html)
    return match[1] if match else ""


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get(KEYS)["Location"] == "/login?next=/keys"


def test_a_key_is_created_and_shown_once(as_viewer: Api, viewer: User) -> None:
    html = make(as_viewer)
    key = shown_key(html)
    assert html.count(key) >= 4  # the field, and a snippet for each language
    row = ApiKey.objects.get()
    assert (row.name, row.key_prefix, row.granted) == ("notebook", key[:10], ("openai.inference", "openai.models.read"))
    again = as_viewer.get(KEYS)
    assert key not in again.content.decode()
    assert "no-store" in again["Cache-Control"]


def test_an_administrator_chooses_permissions_and_an_expiry(as_admin: Api) -> None:
    make(as_admin, permissions=["metrics.read"], expires="30")
    row = ApiKey.objects.get()
    assert row.granted == ("metrics.read",)
    assert row.expires_at is not None
    assert timedelta(days=29) < row.expires_at - timezone.now() < timedelta(days=31)


def test_a_viewer_cannot_choose_permissions(as_viewer: Api) -> None:
    make(as_viewer, permissions=["endpoints.manage"])
    assert "endpoints.manage" not in ApiKey.objects.get().granted
    assert 'name="permissions"' not in as_viewer.get(KEYS).content.decode()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "taken"}, "already exists"),
        ({"name": ""}, "This field is required."),
        ({"name": "bootstrap"}, "This name is reserved"),
        ({"name": "x", "expires": "31"}, "Select a valid choice"),
        ({"name": "x", "permissions": ["root"]}, "Select a valid choice"),
    ],
)
def test_errors_are_shown(as_admin: Api, admin: User, fields: dict[str, Any], sentence: str) -> None:
    key_for(admin, "metrics.read", name="taken")
    html = make(as_admin, **fields)
    assert sentence in html
    assert shown_key(html) == ""
    assert ApiKey.objects.count() == 1


def test_a_free_name_is_proposed(as_viewer: Api, viewer: User) -> None:
    assert 'value="my laptop"' in as_viewer.get(KEYS).content.decode()
    key_for(viewer, name="my laptop")
    assert 'value="my laptop 2"' in as_viewer.get(KEYS).content.decode()


def test_a_script_request_gets_only_the_key_and_snippets(as_viewer: Api) -> None:
    html = as_viewer.post(KEYS, {"name": "x"}, headers={"X-RouterDash-Part": "true"}).content.decode()
    assert "<html" not in html
    assert shown_key(html)
    again = as_viewer.post(KEYS, {"name": "x"}, headers={"X-RouterDash-Part": "true"}).content.decode()
    assert "already exists" in again
    assert shown_key(again) == ""


def test_users_see_only_their_own_keys(as_viewer: Api, viewer: User, admin: User) -> None:
    key_for(viewer, name="mine")
    key_for(admin, name="theirs")
    html = as_viewer.get(KEYS).content.decode()
    assert ">mine<" in html
    assert ">theirs<" not in html
    assert "/admin/access/apikey/" not in html


def test_requests_and_the_last_day_of_use_are_shown(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, name="mine")
    today = timezone.now().date()
    for day, ok, failed in ((today, 1200, 34), (today - timedelta(days=1), 1, 0), (today - timedelta(days=40), 500, 0)):
        _used(ApiKey.objects.get(), day.isoformat(), ok, failed)
    html = as_viewer.get(KEYS).content.decode()
    assert ">1,235<" in html
    assert f">{today.isoformat()}<" in html
    reported = as_viewer.call("GET", f"/api/usage?by=key&since={today - timedelta(days=29)}&until={today}").json()
    assert [row["requests"] for row in reported["rows"]] == [1235]


def test_tokens_are_shown_as_usage_counts_them(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, name="mine")
    today = timezone.now().date()
    details = TokenDetails(cached_tokens=1111, cached_of_tokens=5555, cache_reports=2, cache_write_tokens=222222,
                           cache_write_reports=1, reasoning_tokens=3333, reasoning_reports=1)  # fmt: skip
    key = ApiKey.objects.get()
    _store(key, today.isoformat(), Cell(requests_ok=2, input_tokens=6666, output_tokens=7777, details=details))
    _used(key, (today - timedelta(days=1)).isoformat(), 1, 0)  # which reported nothing
    html = as_viewer.get(KEYS).content.decode()
    reported = as_viewer.call("GET", f"/api/usage?by=key&since={today - timedelta(days=29)}&until={today}").json()
    (row,) = reported["rows"]
    for label, name, value in (
        ("Input tokens", "input_tokens", 6666), ("Output tokens", "output_tokens", 7777),
        ("Cached", "cached_tokens", 1111), ("Cache writes", "cache_write_tokens", 222222),
        ("Reasoning", "reasoning_tokens", 3333),
    ):  # fmt: skip
        assert row[name] == value
        assert f'data-label="{label}">{value:,}<' in html


def test_tokens_that_no_response_reported_are_a_dash(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, name="mine")
    unused = as_viewer.get(KEYS).content.decode()
    _used(ApiKey.objects.get(), timezone.now().date().isoformat(), 1, 0)
    used = as_viewer.get(KEYS).content.decode()
    for html in (unused, used):
        assert 'data-label="Input tokens">0<' in html
        for label in ("Cached", "Cache writes", "Reasoning"):
            assert f'data-label="{label}">—<' in html


def _used(key: ApiKey, date: str, ok: int, failed: int) -> None:
    _store(key, date, Cell(requests_ok=ok, requests_failed=failed))


def _store(key: ApiKey, date: str, cell: Cell) -> None:
    with connection.cursor() as cursor:
        upsert_days(cursor, {(date, NO_ENDPOINT, "m", CHAT, str(key.pk)): cell})


@pytest.mark.parametrize("number", [1, 12])
def test_the_page_needs_seven_queries(
    as_viewer: Api, viewer: User, number: int, django_assert_num_queries: Any
) -> None:
    for index in range(number):
        key_for(viewer, name=f"key {index}")
    as_viewer.get(KEYS)
    with django_assert_num_queries(7):  # keys, their number, names in use, usage, costs, last uses, refusals
        as_viewer.get(KEYS)


def test_deleting_needs_a_confirmation(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, name="mine")
    path = f"{KEYS}/{ApiKey.objects.get().pk}/delete"
    assert "Delete the key mine?" in as_viewer.get(path).content.decode()
    assert ApiKey.objects.count() == 1
    response = as_viewer.post(path, follow=True)
    assert "Deleted: mine." in response.content.decode()
    assert ApiKey.objects.count() == 0


def test_a_key_of_another_user_cannot_be_deleted(as_viewer: Api) -> None:
    other = make_user("olaf")
    key_for(other, name="theirs")
    path = f"{KEYS}/{ApiKey.objects.get().pk}/delete"
    assert as_viewer.get(path).status_code == 404
    assert as_viewer.post(path).status_code == 404
    assert ApiKey.objects.count() == 1


def test_creating_a_key_needs_a_csrf_token(viewer: User) -> None:
    assert session_of(viewer, enforce_csrf_checks=True).post(KEYS, {"name": "x"}).status_code == 403
