"""The maximum number of API keys per user, for each way to create them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from access.models import ApiKey, User
from access.sessions.store import sessions
from gateway.base.bounds import KEYS_PER_USER
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from tests.access.people import Api, key_for, session_of

pytestmark = pytest.mark.django_db
MOST = 3
SENTENCE = "A user may have at most 3 API keys. Delete one that is no longer used."


@pytest.fixture(autouse=True)
def hits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hits:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, max_keys_per_user=MOST))
    counted = Hits(LivePage(tmp_path / "live"))
    monkeypatch.setattr(sessions, "hits", counted)
    return counted


@pytest.fixture
def user_at_limit(viewer: User) -> Api:
    """A client of a user with the maximum number of keys."""
    for number in range(MOST):
        key_for(viewer, name=f"key {number}")
    return session_of(viewer)


def test_the_api_refuses_another_key_and_counts_the_limit_hit(user_at_limit: Api, hits: Hits) -> None:
    response = user_at_limit.call("POST", "/api/me/api-keys", {"name": "one more"})
    assert (response.status_code, response.json()["error"]) == (400, SENTENCE)
    assert hits.totals() == {KEYS_PER_USER.name: 1}
    assert ApiKey.objects.count() == MOST


def test_the_page_refuses_another_key(user_at_limit: Api) -> None:
    assert SENTENCE in user_at_limit.post("/keys", {"name": "one more"}).content.decode()
    assert ApiKey.objects.count() == MOST


def test_the_admin_refuses_another_key_and_a_change_of_owner(
    user_at_limit: Api, as_admin: Api, admin: User, viewer: User
) -> None:
    key_for(admin, name="the administrator's")
    given: dict[str, Any] = {"created_by": str(viewer.pk), "permissions": ["openai.inference"]}
    assert SENTENCE in as_admin.post("/admin/access/apikey/add/", {"name": "one more", **given}).content.decode()
    row = ApiKey.objects.get(created_by=admin)
    response = as_admin.post(f"/admin/access/apikey/{row.pk}/change/", {"name": row.name, **given})
    assert SENTENCE in response.content.decode()
    assert ApiKey.objects.filter(created_by=viewer).count() == MOST


def test_keys_over_the_limit_work_and_can_be_changed(user_at_limit: Api, as_admin: Api, viewer: User) -> None:
    key_for(viewer, name="from before the limit")
    row = ApiKey.objects.get(name="from before the limit")
    assert user_at_limit.call("PUT", f"/api/me/api-keys/{row.pk}", {"name": "renamed"}).status_code == 200
    given = {"name": "again", "created_by": str(viewer.pk), "permissions": ["openai.inference"]}
    assert as_admin.post(f"/admin/access/apikey/{row.pk}/change/", given).status_code == 302


def test_a_deleted_key_frees_a_place(user_at_limit: Api) -> None:
    ApiKey.objects.first().delete()  # type: ignore[union-attr]
    assert user_at_limit.call("POST", "/api/me/api-keys", {"name": "one more"}).status_code == 201


def test_the_limit_can_be_disabled(user_at_limit: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, max_keys_per_user=0))
    assert user_at_limit.call("POST", "/api/me/api-keys", {"name": "one more"}).status_code == 201
