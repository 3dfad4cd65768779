"""`/api/me/api-keys`: a user's own API keys."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from access.models import PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User, hash_key
from access.serializers import ApiKeyChangeSerializer
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
LIST = "/api/me/api-keys"
MISSING = f"{LIST}/0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"
ROUTES = [("GET", LIST), ("POST", LIST), ("PUT", MISSING), ("DELETE", MISSING)]


def make(api: Api, name: str = "script", **fields: Any) -> Any:
    return api.call("POST", LIST, {"name": name, **fields})


def names(api: Api) -> list[str]:
    return [row["name"] for row in api.call("GET", LIST).json()["api_keys"]]


# Access


@pytest.mark.parametrize("route", ROUTES)
def test_anonymous_requests_get_401(anybody: Api, route: tuple[str, str]) -> None:
    assert anybody.call(*route, {}).status_code == 401


@pytest.mark.parametrize("route", ROUTES)
def test_an_api_key_cannot_create_keys(admin: User, route: tuple[str, str]) -> None:
    response = with_key(key_for(admin, *PERMISSIONS)).call(*route, {})
    assert response.status_code == 403
    assert "requires a login" in response.json()["error"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_generated_password_gives_no_access(db: None, route: tuple[str, str]) -> None:
    api = session_of(make_user(must_change_password=True))
    assert api.call(*route, {}).status_code == 403


@pytest.mark.parametrize("route", ROUTES[1:])
def test_writing_needs_a_csrf_token(viewer: User, route: tuple[str, str]) -> None:
    response = session_of(viewer, enforce_csrf_checks=True).call(*route, {"name": "script"})
    assert response.status_code == 403
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("route", [("PUT", LIST), ("DELETE", LIST), ("GET", MISSING), ("POST", MISSING)])
def test_other_methods_are_405(as_viewer: Api, route: tuple[str, str]) -> None:
    assert as_viewer.call(*route).status_code == 405


# Creating


def test_a_viewers_key_is_for_clients(as_viewer: Api, viewer: User) -> None:
    response = make(as_viewer)
    assert response.status_code == 201
    assert response.json()["permissions"] == list(VIEWER_PERMISSIONS)
    assert response.json()["created_by"] == str(viewer.pk)


def test_an_administrators_key_has_the_named_permissions(as_admin: Api) -> None:
    response = make(as_admin, permissions=["metrics.read", "endpoints.read"])
    assert response.status_code == 201
    assert response.json()["permissions"] == ["endpoints.read", "metrics.read"]


def test_the_key_is_returned_once(as_viewer: Api) -> None:
    body = make(as_viewer).json()
    row = ApiKey.objects.get()
    assert row.key_hash == hash_key(body["key"])
    assert body["key_prefix"] == body["key"][:10]
    assert body["key"] not in as_viewer.call("GET", LIST).content.decode()
    assert row.key_hash not in as_viewer.call("GET", LIST).content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_new_key_works(as_admin: Api) -> None:
    key = make(as_admin, permissions=["endpoints.read"]).json()["key"]
    assert with_key(key).call("GET", "/api/endpoints").status_code == 200


def test_the_expiry_is_returned(as_viewer: Api) -> None:
    assert make(as_viewer, expires_at="2999-01-01T00:00:00Z").json()["expires_at"] == "2999-01-01T00:00:00Z"
    assert make(as_viewer, "forever").json()["expires_at"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "bootstrap"}, "name"),
        ({"name": "a", "permissions": ["openai.inference"]}, "permissions"),
        ({"name": "a", "scopes": ["api"]}, "scopes"),
        ({"name": "a", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_a_viewers_wrong_field_is_400(as_viewer: Api, body: dict[str, Any], field: str) -> None:
    response = as_viewer.call("POST", LIST, body)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [field]
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("fields", [{}, {"permissions": []}, {"permissions": ["nothing.read"]}])
def test_an_administrator_must_name_permissions(as_admin: Api, fields: dict[str, Any]) -> None:
    response = make(as_admin, **fields)
    assert response.status_code == 400
    assert "permissions" in response.json()["error"]


def test_a_name_is_unique_per_user(as_viewer: Api, as_admin: Api) -> None:
    make(as_viewer)
    response = make(as_viewer)
    assert response.status_code == 400
    assert response.json()["error"] == "name: An API key with this name already exists: 'script'"
    assert make(as_admin, permissions=["endpoints.read"]).status_code == 201


@pytest.mark.parametrize("body", ["{", "[]", "7"])
def test_a_malformed_body_is_400(as_viewer: Api, body: str) -> None:
    response: Any = as_viewer.generic("POST", LIST, body, content_type="application/json")
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


# Reading


def test_the_newest_key_comes_first(as_viewer: Api, viewer: User) -> None:
    for name, days in (("old", 3), ("new", 1), ("middle", 2)):
        key_for(viewer, name=name)
        ApiKey.objects.filter(name=name).update(created_at=timezone.now() - timedelta(days=days))
    assert names(as_viewer) == ["new", "middle", "old"]


def test_keys_of_other_users_are_not_listed(as_viewer: Api, admin: User) -> None:
    key_for(admin)
    assert names(as_viewer) == []


@pytest.mark.parametrize("keys", [1, 12])
def test_a_list_needs_four_queries(as_viewer: Api, viewer: User, keys: int, django_assert_num_queries: Any) -> None:
    for number in range(keys):
        key_for(viewer, name=f"key{number}")
    as_viewer.call("GET", LIST)
    with django_assert_num_queries(4):  # the rows of the page, the number of all, last uses, refusals
        assert len(names(as_viewer)) == keys


# Changing


def test_name_and_expiry_can_be_changed(as_viewer: Api) -> None:
    made = make(as_viewer).json()
    response = as_viewer.call("PUT", f"{LIST}/{made['id']}", {"name": "renamed", "expires_at": "2999-01-01T00:00:00Z"})
    assert response.status_code == 200
    assert response.json() == {k: v for k, v in made.items() if k != "key"} | {
        "name": "renamed",
        "expires_at": "2999-01-01T00:00:00Z",
    }


def test_a_change_without_an_expiry_keeps_it(as_viewer: Api) -> None:
    made = make(as_viewer, expires_at="2999-01-01T00:00:00Z").json()
    path = f"{LIST}/{made['id']}"
    assert as_viewer.call("PUT", path, {"name": "script"}).json()["expires_at"] == "2999-01-01T00:00:00Z"
    assert as_viewer.call("PUT", path, {"name": "script", "expires_at": None}).json()["expires_at"] is None


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_an_expiry_beyond_year_9999_is_refused(as_viewer: Api, zone: str) -> None:
    with timezone.override(zone):
        response = make(as_viewer, expires_at="9999-12-31T23:59:59")
    assert response.status_code == 400
    assert "leave the field empty for no expiry" in response.json()["error"]


def test_permissions_cannot_be_changed(as_admin: Api) -> None:
    made = make(as_admin, permissions=["endpoints.read"]).json()
    as_admin.call("PUT", f"{LIST}/{made['id']}", {"name": "script", "permissions": list(PERMISSIONS)})
    assert ApiKey.objects.get().permissions == ["endpoints.read"]


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "taken"}, {"name": "bootstrap"}, {"name": "a", "expires_at": "x"}]
)
def test_a_wrong_change_is_400(as_viewer: Api, viewer: User, body: dict[str, Any]) -> None:
    key_for(viewer, name="taken")
    made = make(as_viewer).json()
    assert as_viewer.call("PUT", f"{LIST}/{made['id']}", body).status_code == 400
    assert ApiKey.objects.filter(name="script").exists()


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_name_taken_between_check_and_write_is_400(
    as_viewer: Api, viewer: User, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(as_viewer).json()
    key_for(viewer, name="taken")
    monkeypatch.setattr(ApiKeyChangeSerializer, "validate_name", lambda self, name: name)
    response = as_viewer.call(method, LIST if method == "POST" else f"{LIST}/{made['id']}", {"name": "taken"})
    assert response.status_code == 400
    assert list(response.json()["fields"]) == ["name"]


# Deleting


def test_a_deleted_key_is_removed(as_viewer: Api) -> None:
    path = f"{LIST}/{make(as_viewer).json()['id']}"
    assert as_viewer.call("DELETE", path).status_code == 204
    assert as_viewer.call("DELETE", path).status_code == 404
    assert names(as_viewer) == []


@pytest.mark.parametrize(("method", "body"), [("PUT", {"name": "mine now"}), ("DELETE", None)])
@pytest.mark.parametrize("make_caller", [make_user, make_admin])
def test_keys_of_other_users_are_404(db: None, method: str, body: Any, make_caller: Any) -> None:
    key_for(make_admin("owner"), name="theirs")
    path = f"{LIST}/{ApiKey.objects.get().pk}"
    response = session_of(make_caller("caller")).call(method, path, body)
    assert (response.status_code, response.json()) == (404, {"error": "API key not found"})
    assert ApiKey.objects.get().name == "theirs"


@pytest.mark.parametrize("path", [MISSING, f"{LIST}/gpu", f"{LIST}/", f"{MISSING}/x"])
def test_an_unknown_key_is_404(as_viewer: Api, path: str) -> None:
    assert as_viewer.call("DELETE", path).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_create_change_and_delete(as_admin: Api) -> None:
    made = make(as_admin, permissions=["endpoints.read"]).json()
    script = with_key(made["key"])
    assert script.call("GET", "/api/endpoints").status_code == 200
    assert as_admin.call("DELETE", f"{LIST}/{made['id']}").status_code == 204
    assert script.call("GET", "/api/endpoints").status_code == 401
