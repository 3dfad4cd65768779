import asyncio

import pytest
from django.test import AsyncClient

from access.models import User
from tests.access.people import Api, make_admin, make_user, session_of

pytestmark = pytest.mark.django_db
CLOSED = ["/", "/admin/", "/admin/endpoints/endpoint/", "/endpoints/0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"]
OPEN = ["/account/password", "/health", "/api/version", "/static/css/app.css"]


@pytest.fixture(params=["admin", "viewer"])
def newcomer(request: pytest.FixtureRequest, db: None) -> User:
    make = make_admin if request.param == "admin" else make_user
    return make(must_change_password=True)


@pytest.mark.parametrize("path", CLOSED)
def test_a_generated_password_leads_to_the_page_that_changes_it(newcomer: User, path: str) -> None:
    response = session_of(newcomer).get(path)
    assert (response.status_code, response.headers["Location"]) == (302, "/account/password")


def test_a_post_leads_there_too(newcomer: User) -> None:
    response = session_of(newcomer).post("/admin/endpoints/endpoint/add/", {"name": "a"})
    assert response.headers["Location"] == "/account/password"


@pytest.mark.parametrize("path", OPEN)
def test_what_is_needed_for_that_stays_open(newcomer: User, path: str) -> None:
    response = session_of(newcomer).get(path)
    assert response.status_code != 302


def test_a_newcomer_can_log_out(newcomer: User) -> None:
    api = session_of(newcomer)
    assert api.post("/logout").headers["Location"] == "/login"
    assert api.get("/").headers["Location"].startswith("/login")


def test_a_newcomer_can_change_the_language(newcomer: User) -> None:
    response = session_of(newcomer).post("/i18n/setlang/", {"language": "ja", "next": "/account/password"})
    assert response.headers["Location"] == "/account/password"


@pytest.mark.parametrize("path", ["/api/endpoints", "/api/dashboard/overview", "/api/me/api-keys"])
def test_the_api_says_so_by_itself(newcomer: User, path: str) -> None:
    response = session_of(newcomer).call("GET", path)
    assert (response.status_code, response.json()) == (403, {"error": "password_change_required"})


@pytest.mark.parametrize("path", ["/", "/account/password"])
def test_everybody_else_goes_where_they_want(as_viewer: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 200


def test_nobody_is_sent_to_the_login(anybody: Api) -> None:
    assert anybody.get("/").headers["Location"] == "/login?next=/"


@pytest.mark.django_db(transaction=True)
def test_it_does_the_same_in_an_async_stack() -> None:
    client = AsyncClient()
    client.force_login(make_user(must_change_password=True))
    response = asyncio.run(client.get("/"))
    assert response.headers["Location"] == "/account/password"
