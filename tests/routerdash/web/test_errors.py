"""One error shape on `/api`, HTML pages everywhere else."""

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import OperationalError
from django.http import Http404
from django.test import Client, RequestFactory
from rest_framework.exceptions import APIException, NotFound, PermissionDenied, Throttled, ValidationError

from access.directory import access
from access.models import User
from metrics.queries import figures, overview
from routerdash.web import errors
from tests.access.people import Api, make_user, session_of
from tests.metrics.records import A
from tests.metrics.world import add_endpoint, without

DATABASE_AWAY = "The database is currently unavailable."


def api_error(error: Exception) -> tuple[int, Any]:
    response = errors.api_error(error, {"request": RequestFactory().get("/api/x"), "view": None})
    assert response is not None
    return response.status_code, response.data


# The shape on /api


@pytest.mark.parametrize(
    ("error", "status", "data"),
    [
        (NotFound("Endpoint not found"), 404, {"error": "Endpoint not found"}),
        (PermissionDenied("No."), 403, {"error": "No."}),
        (Throttled(detail="Slower."), 429, {"error": "Slower."}),
        (APIException(), 500, {"error": "A server error occurred."}),
        (Http404("the model"), 404, {"error": "Not found"}),
        (OperationalError("host db.internal is away"), 503, {"error": errors.DATABASE_UNAVAILABLE}),
        (ValidationError("Too long."), 400, {"error": "Too long."}),
        (ValidationError(["Too long.", "Too old."]), 400, {"error": "Too long. Too old."}),
        (
            ValidationError({"name": ["Too long.", "Taken."], "url": ["Bad."]}),
            400,
            {"error": "name: Too long.", "fields": {"name": ["Too long.", "Taken."], "url": ["Bad."]}},
        ),
        (
            ValidationError({"non_field_errors": ["Not together."]}),
            400,
            {"error": "Not together.", "fields": {"non_field_errors": ["Not together."]}},
        ),
        (
            ValidationError({"items": {"0": ["Bad."]}}),
            400,
            {"error": "items: Bad.", "fields": {"items": ["Bad."]}},
        ),
        (DjangoValidationError({"name": ["Taken."]}), 400, {"error": "name: Taken.", "fields": {"name": ["Taken."]}}),
        (DjangoValidationError("Taken."), 400, {"error": "Taken.", "fields": {"error": ["Taken."]}}),
    ],
)
def test_every_error_has_the_one_shape(error: Exception, status: int, data: dict[str, Any]) -> None:
    assert api_error(error) == (status, data)


def test_other_exceptions_are_left_to_django() -> None:
    assert errors.api_error(ZeroDivisionError(), {"request": None, "view": None}) is None


def test_error_texts_of_the_database_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    api_error(OperationalError("host db.internal is away"))
    assert "db.internal" in caplog.text


# Errors without a view


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/nothing", {"error": "Not found"}),
        ("/api/", {"error": "Not found"}),
        ("/api/dashboard/stats/", {"error": "Not found"}),
    ],
)
def test_an_unknown_path_of_the_api(client: Client, path: str, shown: Any) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()) == (404, shown)


def text_of(response: Any) -> str:
    text: str = response.content.decode()
    return text


@pytest.mark.parametrize("path", ["/nothing", "/admin/nothing", "/endpoints/x"])
@pytest.mark.django_db
def test_an_unknown_page(as_admin: Api, path: str) -> None:
    response = as_admin.get(path)
    assert response.status_code == 404
    assert "This page does not exist." in text_of(response)


MENU = '<nav class="rail"'


@pytest.mark.parametrize("path", ["/nothing", "/endpoints/x", f"/requests/{A}"])
@pytest.mark.django_db
def test_a_missing_page_keeps_the_menu_and_says_what_to_do(as_viewer: Api, path: str) -> None:
    page = text_of(as_viewer.get(path))
    assert MENU in page
    assert 'action="/logout"' in page
    assert ("retention period" if path.startswith("/requests/") else "Check the address") in page


@pytest.mark.django_db
def test_a_forbidden_page_keeps_the_menu_and_names_whom_to_ask(as_viewer: Api) -> None:
    response = as_viewer.get("/endpoints/add", headers={"Accept-Language": "en"})
    assert response.status_code == 403
    assert MENU in text_of(response)
    assert "Only administrators may open this page." in text_of(response)
    japanese = text_of(as_viewer.get("/endpoints/add", headers={"Accept-Language": "ja"}))
    assert "このページを開けるのは管理者だけです。" in japanese


@pytest.mark.django_db
def test_strangers_and_new_users_get_no_menu(client: Client) -> None:
    for page in (client.get("/nothing"), session_of(make_user(must_change_password=True)).get("/nothing")):
        assert page.status_code == 404
        assert MENU not in text_of(page)
    assert 'href="/login"' in text_of(client.get("/nothing"))


@pytest.mark.django_db
def test_an_expired_form_says_so(admin: User) -> None:
    response = session_of(admin, enforce_csrf_checks=True).post("/endpoints/add", {})
    assert response.status_code == 403
    assert "The form has expired." in text_of(response)
    assert MENU in text_of(response)


@pytest.mark.django_db(transaction=True)
def test_a_missing_page_without_the_database_is_no_error(as_viewer: Api) -> None:
    with without("users"):
        response = as_viewer.get("/nothing")
    assert (response.status_code, MENU in text_of(response)) == (404, False)  # who asks cannot be read


@pytest.mark.parametrize(
    ("handler", "arguments", "status", "words"),
    [
        (errors.not_found, (Http404(),), 404, "This page does not exist."),
        (errors.forbidden, (DjangoPermissionDenied(),), 403, "This is not allowed."),
        (errors.server_error, (), 500, "An error occurred."),
    ],
)
def test_each_error_has_a_page_and_a_json(handler: Any, arguments: Any, status: int, words: str) -> None:
    page = handler(RequestFactory().get("/x"), *arguments)
    assert page.status_code == status
    assert words in text_of(page)
    assert page["Content-Type"].startswith("text/html")
    reported = handler(RequestFactory().get("/api/x"), *arguments)
    assert (reported.status_code, reported["Content-Type"]) == (status, "application/json")


def broken(*args: Any) -> Any:
    raise ZeroDivisionError("a secret detail")


@pytest.mark.django_db
def test_the_page_of_an_error_does_not_contain_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "live_figures", broken)
    response = session_of(make_user(), raise_request_exception=False).get("/")
    assert response.status_code == 500
    assert "The server log contains the cause." in text_of(response)
    assert "secret" not in text_of(response)


@pytest.mark.django_db
def test_an_api_error_does_not_contain_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "overview", broken)
    response = session_of(make_user(), raise_request_exception=False).get("/api/dashboard/overview")
    assert (response.status_code, response.json()) == (500, {"error": "Internal server error"})


@pytest.mark.django_db
def test_a_forbidden_page_is_an_html_page(as_admin: Api) -> None:
    response = as_admin.get("/admin/metrics/requesthistory/add/")
    assert response.status_code == 403
    assert "This is not allowed." in text_of(response)
    assert "Nobody may do this here, administrators included." in text_of(response)


# Without the database


@pytest.mark.django_db(transaction=True)
def test_a_page_that_needs_the_database_is_503(as_viewer: Api) -> None:
    add_endpoint()
    as_viewer.get("/")
    with without("endpoint_daily_stats"):
        response = as_viewer.get(f"/endpoints/{A}")
    assert response.status_code == 503
    assert DATABASE_AWAY in text_of(response)


@pytest.mark.django_db(transaction=True)
def test_an_admin_page_that_needs_the_database_is_503(as_admin: Api) -> None:
    as_admin.get("/")
    with without("request_history"):
        response = as_admin.get("/admin/metrics/requesthistory/")
    assert response.status_code == 503
    assert DATABASE_AWAY in text_of(response)


@pytest.mark.django_db(transaction=True)
def test_an_api_path_that_needs_the_database_is_503(as_viewer: Api) -> None:
    add_endpoint()
    as_viewer.get("/")
    with without("endpoint_daily_stats"):
        response = as_viewer.get(f"/api/endpoints/{A}/model-stats")
    assert (response.status_code, response.json()) == (503, {"error": errors.DATABASE_UNAVAILABLE})


@pytest.mark.django_db(transaction=True)
def test_a_login_without_the_database_shows_an_error(client: Client) -> None:
    with without("users"):
        response = client.post("/login", {"username": "ada", "password": "x"})
    assert response.status_code == 503
    assert DATABASE_AWAY in text_of(response)


@pytest.mark.django_db(transaction=True)
def test_a_key_without_the_database_gets_an_error(script: Api) -> None:
    access.forget()
    with without("api_keys"):
        response = script.get("/api/dashboard/stats")
    assert (response.status_code, response.json()) == (503, {"error": errors.DATABASE_UNAVAILABLE})


def test_other_errors_are_not_reported_as_errors_of_the_database() -> None:
    hook = errors.DatabaseUnavailable(broken)
    assert hook.process_exception(RequestFactory().get("/"), ZeroDivisionError()) is None
