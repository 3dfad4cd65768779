"""A user has so many API keys at most, however they are made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from access.models import ApiKey, User
from access.sessions import sessions
from gateway.bounds import KEYS_PER_USER, Hits
from gateway.livepage import LivePage
from tests.access.people import Api, key_for, session_of

pytestmark = pytest.mark.django_db
MOST = 3
SENTENCE = "A user may have at most 3 API keys; delete one that is not used any more."


@pytest.fixture(autouse=True)
def hits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hits:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, max_keys_per_user=MOST))
    counted = Hits(LivePage(tmp_path / "live"))
    monkeypatch.setattr(sessions, "hits", counted)
    return counted


@pytest.fixture
def full(viewer: User) -> Api:
    """Somebody who has as many as allowed."""
    for number in range(MOST):
        key_for(viewer, name=f"key {number}")
    return session_of(viewer)


def test_the_api_makes_no_key_more_and_counts_who_wants_one(full: Api, hits: Hits) -> None:
    answer = full.call("POST", "/api/me/api-keys", {"name": "one more"})
    assert (answer.status_code, answer.json()["error"]) == (400, SENTENCE)
    assert hits.totals() == {KEYS_PER_USER.name: 1}
    assert ApiKey.objects.count() == MOST


def test_the_page_makes_no_key_more(full: Api) -> None:
    assert SENTENCE in full.post("/keys", {"name": "one more"}).content.decode()
    assert ApiKey.objects.count() == MOST


def test_the_admin_makes_no_key_more_and_gives_none_away(full: Api, as_admin: Api, admin: User, viewer: User) -> None:
    key_for(admin, name="the administrator's")
    given: dict[str, Any] = {"created_by": str(viewer.pk), "permissions": ["openai.inference"]}
    assert SENTENCE in as_admin.post("/admin/access/apikey/add/", {"name": "one more", **given}).content.decode()
    row = ApiKey.objects.get(created_by=admin)
    response = as_admin.post(f"/admin/access/apikey/{row.pk}/change/", {"name": row.name, **given})
    assert SENTENCE in response.content.decode()
    assert ApiKey.objects.filter(created_by=viewer).count() == MOST


def test_keys_beyond_the_limit_go_on_and_can_be_changed(full: Api, as_admin: Api, viewer: User) -> None:
    key_for(viewer, name="from before the limit")
    row = ApiKey.objects.get(name="from before the limit")
    assert full.call("PUT", f"/api/me/api-keys/{row.pk}", {"name": "renamed"}).status_code == 200
    given = {"name": "again", "created_by": str(viewer.pk), "permissions": ["openai.inference"]}
    assert as_admin.post(f"/admin/access/apikey/{row.pk}/change/", given).status_code == 302


def test_a_deleted_key_makes_room(full: Api) -> None:
    ApiKey.objects.first().delete()  # type: ignore[union-attr]
    assert full.call("POST", "/api/me/api-keys", {"name": "one more"}).status_code == 201


def test_there_need_be_no_limit(full: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, max_keys_per_user=0))
    assert full.call("POST", "/api/me/api-keys", {"name": "one more"}).status_code == 201
