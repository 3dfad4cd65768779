"""Django's admin under our own login."""

import pytest
from django.test import Client

from tests.access.people import Api


def test_nobody_logs_in_on_the_admins_own_page(client: Client) -> None:
    response = client.get("/admin/")
    assert (response.status_code, response["Location"]) == (302, "/admin/login/?next=/admin/")
    assert client.get(response["Location"])["Location"] == "/login?next=/admin/"


def test_the_login_leads_back_to_the_admin(client: Client) -> None:
    assert client.get("/admin/login/")["Location"] == "/login?next=/admin/"


@pytest.mark.django_db
def test_a_viewer_is_led_to_the_overview(as_viewer: Api) -> None:
    assert as_viewer.get("/admin/login/?next=/admin/")["Location"] == "/"


@pytest.mark.django_db
def test_passwords_are_changed_on_our_page(as_admin: Api) -> None:
    assert as_admin.get("/admin/password_change/")["Location"] == "/account/password"


@pytest.mark.django_db
def test_logging_out_of_the_admin_is_logging_out(as_admin: Api) -> None:
    assert as_admin.get("/admin/logout/").status_code == 405
    assert as_admin.post("/admin/logout/")["Location"] == "/login"
    assert as_admin.get("/").status_code == 302


@pytest.mark.django_db
def test_the_admin_is_named_after_us(as_admin: Api) -> None:
    assert b"<title>Administration | RouterDash</title>" in as_admin.get("/admin/").content


@pytest.mark.django_db
def test_access_goes_by_role_and_not_by_group(as_admin: Api) -> None:
    assert as_admin.get("/admin/auth/group/").status_code == 404


@pytest.mark.django_db
def test_nobody_schedules_any_function_of_their_choice(as_admin: Api) -> None:
    assert as_admin.get("/admin/django_q/schedule/add/").status_code == 404
    assert b"django_q" not in as_admin.get("/admin/").content
