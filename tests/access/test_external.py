"""API keys that may use external endpoints: no key may, unless an administrator has ticked it."""

import uuid
from typing import Any

import pytest
from django.db import connection

from access.bootstrap import ensure_bootstrap_key
from access.directory import access, read_key
from access.models import PERMISSIONS, ApiKey, User
from gateway.base.config import load
from routerdash.publication.facts import published_key
from tests.access.people import Api, key_for, make_admin

pytestmark = pytest.mark.django_db
LIST = "/api/me/api-keys"
BOOTSTRAP_KEY = "sk_" + "a1" * 16


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None) -> None:
    """Run `empty_caches` in every test of this package."""


def make(api: Api, **fields: Any) -> Any:
    return api.call("POST", LIST, {"name": "script", **fields})


def published(row: ApiKey) -> bool:
    entry = read_key(row.key_hash)
    assert entry is not None
    return published_key(entry).external


def test_a_new_key_may_not(as_admin: Api) -> None:
    assert make(as_admin, permissions=["openai.inference"]).json()["external"] is False
    assert published(ApiKey.objects.get()) is False


def test_an_administrator_ticks_it(as_admin: Api) -> None:
    body = make(as_admin, permissions=["openai.inference"], external=True).json()
    assert body["external"] is True
    assert published(ApiKey.objects.get()) is True
    changed = as_admin.call("PUT", f"{LIST}/{body['id']}", {"name": "script", "external": False}).json()
    assert changed["external"] is False
    assert published(ApiKey.objects.get()) is False


def test_a_rename_keeps_it(as_admin: Api) -> None:
    body = make(as_admin, permissions=["openai.inference"], external=True).json()
    assert as_admin.call("PUT", f"{LIST}/{body['id']}", {"name": "other"}).json()["external"] is True


def test_a_viewer_may_not_tick_it(as_viewer: Api) -> None:
    response = make(as_viewer, external=True)
    assert response.status_code == 400
    assert response.json()["fields"]["external"] == ["Only administrators may let a key use external endpoints."]
    assert not ApiKey.objects.exists()


def test_a_viewer_keeps_what_an_administrator_has_ticked(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, "openai.inference", external=True)
    row = ApiKey.objects.get()
    body = as_viewer.call("PUT", f"{LIST}/{row.pk}", {"name": "mine", "external": True}).json()
    assert (body["name"], body["external"]) == ("mine", True)


def test_a_key_that_llmlb_makes_may_not(admin: User) -> None:
    """It knows nothing of our column."""
    key_for(admin, "openai.inference")
    row = ApiKey.objects.get()
    copied = [
        str(uuid.uuid4()),
        "0" * 64,
        "llmlb's",
        str(admin.pk),
        row.created_at.isoformat(),
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO api_keys (id, key_hash, name, created_by, created_at) VALUES (%s, %s, %s, %s, %s)", copied
        )
    other = ApiKey.objects.get(name="llmlb's")
    assert other.external is None
    assert published(other) is False


def test_the_page_has_the_tick_for_administrators(as_admin: Api, as_viewer: Api) -> None:
    assert 'name="external"' in as_admin.get("/keys").content.decode()
    assert 'name="external"' not in as_viewer.get("/keys").content.decode()
    as_admin.post("/keys", {"name": "ticked", "permissions": ["openai.inference"], "external": "on"})
    as_admin.post("/keys", {"name": "plain", "permissions": ["openai.inference"]})
    as_viewer.post("/keys", {"name": "viewer's", "external": "on"})
    assert dict(ApiKey.objects.values_list("name", "external")) == {"ticked": True, "plain": False, "viewer's": False}


def test_the_admin_ticks_a_viewers_key(as_admin: Api, viewer: User) -> None:
    key_for(viewer, "openai.inference")
    row = ApiKey.objects.get()
    sent = {"name": "script", "created_by": str(viewer.pk), "permissions": ["openai.inference"], "external": "on"}
    assert as_admin.post(f"/admin/access/apikey/{row.pk}/change/", sent).status_code == 302
    assert ApiKey.objects.get().external is True


@pytest.mark.parametrize("allowed", [False, True])
def test_the_key_of_the_settings_may_if_a_setting_says_so(allowed: bool) -> None:
    make_admin()
    environ = {"ROUTERDASH_BOOTSTRAP_API_KEY": BOOTSTRAP_KEY}
    for value in ("false", str(allowed).lower()):  # at its creation, and at a later start
        ensure_bootstrap_key(load({**environ, "ROUTERDASH_BOOTSTRAP_EXTERNAL": value}))
    row = ApiKey.objects.get()
    assert (row.external, set(row.granted)) == (allowed, set(PERMISSIONS))
    assert access.key(row.key_hash) == read_key(row.key_hash)
