"""Authentication by API key and session, tried on GET `/api/endpoints`, which accepts both."""

import time
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from access.directory import access
from access.models import READ_ENDPOINTS, ApiKey, User
from endpoints.local_key import local_key
from tests.access.people import PASSWORD, Api, key_for, make_user, session_of, with_key, without_database

pytestmark = pytest.mark.django_db
PATH = "/api/endpoints"


def fetch(api: Api, **headers: str) -> Any:
    for name, value in headers.items():
        api.defaults[f"HTTP_{name}"] = value
    return api.call("GET", PATH)


@pytest.fixture
def key(admin: User) -> str:
    return key_for(admin, READ_ENDPOINTS)


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_a_key_is_accepted_in_either_header(key: str, header: str) -> None:
    assert fetch(with_key(key, header)).status_code == 200


@pytest.mark.parametrize("word", ["Bearer", "bearer", "BEARER"])
def test_bearer_may_be_written_in_any_case(key: str, word: str) -> None:
    assert fetch(Api(), AUTHORIZATION=f"{word}  {key} ").status_code == 200


@pytest.mark.parametrize("header", ["", "{}", "Basic {}", "Token {}", "Bearer", "Bearer "])
def test_other_authorization_schemes_are_ignored(key: str, header: str) -> None:
    assert fetch(Api(), AUTHORIZATION=header.format(key)).status_code == 401


def test_x_api_key_takes_precedence_over_authorization(key: str) -> None:
    assert fetch(Api(), X_API_KEY=key, AUTHORIZATION="Bearer sk_wrong").status_code == 200
    assert fetch(Api(), X_API_KEY="sk_wrong", AUTHORIZATION=f"Bearer {key}").status_code == 401


def test_an_empty_x_api_key_is_ignored(key: str) -> None:
    assert fetch(Api(), X_API_KEY="", AUTHORIZATION=f"Bearer {key}").status_code == 200


@pytest.mark.parametrize("wrong", ["sk_wrong", "sk_" + "a" * 32, "x", "schlüssel"])
def test_an_unknown_key_is_401(key: str, wrong: str) -> None:
    response = fetch(with_key(wrong))
    assert response.status_code == 401
    assert response.json() == {"error": "This API key is not known."}


def test_a_wrong_key_is_401_even_with_a_session(as_admin: Api) -> None:
    assert fetch(as_admin).status_code == 200
    assert fetch(as_admin, X_API_KEY="sk_wrong").status_code == 401


def test_a_key_takes_precedence_over_a_session(as_admin: Api, viewer: User) -> None:
    assert fetch(as_admin, X_API_KEY=key_for(viewer)).status_code == 403


@pytest.mark.parametrize(("seconds", "status"), [(-1, 401), (3600, 200)])
def test_a_key_is_valid_until_it_expires(admin: User, seconds: int, status: int) -> None:
    expires = timezone.now() + timedelta(seconds=seconds)
    assert fetch(with_key(key_for(admin, READ_ENDPOINTS, expires_at=expires))).status_code == status


def test_an_expired_key_is_reported_as_expired(admin: User) -> None:
    key = key_for(admin, READ_ENDPOINTS, expires_at=timezone.now())
    assert fetch(with_key(key)).json() == {"error": "This API key has expired."}


@pytest.mark.django_db(transaction=True)
def test_a_deleted_key_is_unknown_at_once(key: str) -> None:
    assert fetch(with_key(key)).status_code == 200
    ApiKey.objects.get().delete()
    assert fetch(with_key(key)).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_a_key_ends_with_its_owner(key: str, admin: User) -> None:
    assert fetch(with_key(key)).status_code == 200
    admin.delete()
    assert fetch(with_key(key)).status_code == 401


def test_a_key_needs_no_database_in_control(
    key: str, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    """Control looks keys up in the registry store (routerdash.publication)."""
    api = with_key(key)
    fetch(api)
    published = {hashed: access.key(hashed) for hashed in ApiKey.objects.values_list("key_hash", flat=True)}
    monkeypatch.setattr(access, "find_key", published.get)
    with django_assert_num_queries(0):
        fetch(api)


def test_anonymous_responses_name_the_authentication_methods(anybody: Api) -> None:
    response = fetch(anybody)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"


# Sessions


def test_a_session_is_accepted(as_viewer: Api) -> None:
    assert fetch(as_viewer).status_code == 200


def test_a_session_needs_no_database(as_viewer: Api, django_assert_num_queries: Any) -> None:
    fetch(as_viewer)
    with django_assert_num_queries(0):
        fetch(as_viewer)


def test_a_session_works_without_the_database(as_viewer: Api) -> None:
    fetch(as_viewer)
    assert without_database(lambda: fetch(as_viewer)).status_code == 200


def test_a_forged_session_is_refused(as_viewer: Api) -> None:
    as_viewer.cookies["routerdash_session"] = as_viewer.cookies["routerdash_session"].value[:-2] + "xx"
    assert fetch(as_viewer).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_a_session_ends_with_its_user(as_viewer: Api, viewer: User) -> None:
    assert fetch(as_viewer).status_code == 200
    viewer.delete()
    assert fetch(as_viewer).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_a_session_ends_with_its_password(as_viewer: Api, viewer: User) -> None:
    assert fetch(as_viewer).status_code == 200
    viewer.set_password("another battery staple")
    viewer.save()
    assert fetch(as_viewer).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_a_new_role_takes_effect_at_once(as_viewer: Api, viewer: User) -> None:
    path = f"{PATH}/0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"
    assert as_viewer.call("DELETE", path).status_code == 403
    viewer.role = "admin"
    viewer.save()
    assert as_viewer.call("DELETE", path).status_code == 404


def test_a_session_reads_without_a_csrf_token(viewer: User) -> None:
    assert fetch(session_of(viewer, enforce_csrf_checks=True)).status_code == 200


def test_scripts_cannot_read_the_session_cookie(anybody: Api, viewer: User) -> None:
    cookie = anybody.post("/login", {"username": "vera", "password": PASSWORD}).cookies["routerdash_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


def test_the_schema_describes_both_methods(anybody: Api) -> None:
    user = make_user("reader")
    schema: Any = session_of(user).get("/api/schema/", headers={"Accept": "application/vnd.oai.openapi+json"})
    schemes = schema.json()["components"]["securitySchemes"]
    assert schemes["apiKey"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    assert schemes["session"]["in"] == "cookie"


# Keys of other processes of this installation, as `reconcile` has them


def test_a_local_key_reads_figures_and_nothing_more(admin: User) -> None:
    api = with_key(local_key())
    assert api.call("GET", "/api/dashboard/overview").status_code == 200
    assert api.call("GET", "/metrics").status_code == 200
    assert api.call("GET", "/api/limits").status_code == 403
    assert api.call("POST", PATH, {}).status_code == 403
    assert api.get("/admin/").status_code == 302


def test_a_local_key_is_refused_if_a_gateway_forwards_it_if_it_is_old_or_changed(admin: User) -> None:
    key = local_key()
    assert fetch(with_key(key), X_ROUTERDASH_CLIENT="127.0.0.1").status_code == 401
    assert fetch(with_key(key[:-1])).status_code == 401
    with time_machine.travel(time.time() + 61, tick=False):
        assert fetch(with_key(key)).status_code == 401
