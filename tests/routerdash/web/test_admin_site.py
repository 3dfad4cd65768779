"""Django's admin under our own login."""

import pytest
from django.test import Client

from tests.access.people import Api


def test_the_admins_own_login_page_is_not_used(client: Client) -> None:
    response = client.get("/admin/")
    assert (response.status_code, response["Location"]) == (302, "/admin/login/?next=/admin/")
    assert client.get(response["Location"])["Location"] == "/login?next=/admin/"


def test_the_login_returns_to_the_admin(client: Client) -> None:
    assert client.get("/admin/login/")["Location"] == "/login?next=/admin/"


@pytest.mark.django_db
def test_a_viewer_is_redirected_to_the_overview(as_viewer: Api) -> None:
    assert as_viewer.get("/admin/login/?next=/admin/")["Location"] == "/"


@pytest.mark.django_db
def test_passwords_are_changed_on_our_page(as_admin: Api) -> None:
    assert as_admin.get("/admin/password_change/")["Location"] == "/account/password"


@pytest.mark.django_db
def test_logging_out_of_the_admin_ends_the_session(as_admin: Api) -> None:
    assert as_admin.get("/admin/logout/").status_code == 405
    assert as_admin.post("/admin/logout/")["Location"] == "/login"
    assert as_admin.get("/").status_code == 302


@pytest.mark.django_db
def test_the_admin_has_our_name(as_admin: Api) -> None:
    assert b"<title>Administration | RouterDash</title>" in as_admin.get("/admin/").content


@pytest.mark.django_db
def test_access_depends_on_the_role_and_not_on_groups(as_admin: Api) -> None:
    assert as_admin.get("/admin/auth/group/").status_code == 404


@pytest.mark.django_db
def test_schedules_cannot_be_edited_in_the_admin(as_admin: Api) -> None:
    assert as_admin.get("/admin/django_q/schedule/add/").status_code == 404
    assert b"django_q" not in as_admin.get("/admin/").content
