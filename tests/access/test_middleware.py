import asyncio

import pytest
from django.test import AsyncClient

from access.models import User
from tests.access.people import Api, make_admin, make_user, session_of

pytestmark = pytest.mark.django_db
CLOSED = ["/", "/admin/", "/admin/endpoints/endpoint/", "/endpoints/0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"]
OPEN = ["/account/password", "/health", "/livez", "/readyz", "/api/version", "/static/css/app.css"]


@pytest.fixture(params=["admin", "viewer"])
def new_user(request: pytest.FixtureRequest, db: None) -> User:
    make = make_admin if request.param == "admin" else make_user
    return make(must_change_password=True)


@pytest.mark.parametrize("path", CLOSED)
def test_a_generated_password_redirects_to_the_password_change(new_user: User, path: str) -> None:
    response = session_of(new_user).get(path)
    assert (response.status_code, response.headers["Location"]) == (302, "/account/password")


def test_a_post_is_redirected_too(new_user: User) -> None:
    response = session_of(new_user).post("/admin/endpoints/endpoint/add/", {"name": "a"})
    assert response.headers["Location"] == "/account/password"


@pytest.mark.parametrize("path", OPEN)
def test_pages_needed_for_the_change_stay_available(new_user: User, path: str) -> None:
    response = session_of(new_user).get(path)
    assert response.status_code != 302


def test_a_new_user_can_log_out(new_user: User) -> None:
    api = session_of(new_user)
    assert api.post("/logout").headers["Location"] == "/login"
    assert api.get("/").headers["Location"].startswith("/login")


def test_a_new_user_can_change_the_language(new_user: User) -> None:
    response = session_of(new_user).post("/i18n/setlang/", {"language": "ja", "next": "/account/password"})
    assert response.headers["Location"] == "/account/password"


@pytest.mark.parametrize("path", ["/api/endpoints", "/api/dashboard/overview", "/api/me/api-keys"])
def test_the_api_responds_with_its_own_error(new_user: User, path: str) -> None:
    response = session_of(new_user).call("GET", path)
    assert (response.status_code, response.json()) == (403, {"error": "password_change_required"})


@pytest.mark.parametrize("path", ["/", "/account/password"])
def test_other_users_are_not_redirected(as_viewer: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 200


def test_anonymous_users_are_redirected_to_the_login(anybody: Api) -> None:
    assert anybody.get("/").headers["Location"] == "/login?next=/"


@pytest.mark.django_db(transaction=True)
def test_the_middleware_works_in_an_async_stack() -> None:
    client = AsyncClient()
    client.force_login(make_user(must_change_password=True))
    response = asyncio.run(client.get("/"))
    assert response.headers["Location"] == "/account/password"
