"""Edge cases: the last administrator, unusual names and expiries, the bootstrap key."""

import pytest
from django.db import connection

from access.bootstrap import NameTaken, ensure_admin, ensure_bootstrap_key
from access.models import READ_ENDPOINTS, ApiKey, Role, User
from gateway.base import config
from tests.access.people import Api, key_for, make_user, with_key
from tests.access.test_admin import change_user, form_errors, key_form
from tests.access.test_models import sql
from tests.access.test_views import change, login

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]
on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL does not accept such a value")


# Logins


@pytest.mark.django_db(transaction=True)
def test_a_changed_password_keeps_the_time_of_the_login() -> None:
    make_user()
    api = Api()
    login(api)
    assert User.objects.get().last_login is not None
    change(api)
    assert User.objects.get().last_login is not None


def test_a_login_that_returns_to_the_login_page_goes_to_the_overview(as_viewer: Api) -> None:
    assert as_viewer.get("/login?next=/login").status_code == 302


@pytest.mark.parametrize("username", ["ﾀﾛｳ", "e\u0301va"])
def test_a_name_in_any_unicode_form_logs_in(anybody: Api, username: str) -> None:
    make_user(username)
    assert login(anybody, username).status_code == 302


# Administrators


def test_the_last_administrator_keeps_the_role(as_admin: Api, admin: User) -> None:
    assert form_errors(change_user(as_admin, admin, role="viewer"))
    assert User.objects.get().role == "admin"


def test_the_error_names_a_viewer_with_the_administrators_name() -> None:
    make_user("admin")
    with pytest.raises(NameTaken, match="ROUTERDASH_ADMIN_USERNAME"):
        ensure_admin(config.load({}))
    assert not User.objects.filter(role=Role.ADMIN).exists()


def test_a_configured_password_over_72_bytes_is_refused_as_a_setting() -> None:
    with pytest.raises(config.ConfigError, match="ROUTERDASH_ADMIN_PASSWORD"):
        ensure_admin(config.load({"ROUTERDASH_ADMIN_PASSWORD": "x" * 73}))


# Keys


def test_the_bootstrap_key_cannot_be_renamed(as_admin: Api, admin: User) -> None:
    ensure_bootstrap_key(config.load({"ROUTERDASH_BOOTSTRAP_API_KEY": "sk_" + "a" * 32}))
    as_admin.call("PUT", f"/api/me/api-keys/{ApiKey.objects.get().pk}", {"name": "mine"})
    ensure_bootstrap_key(config.load({}))
    assert not ApiKey.objects.exists()


def test_an_expiry_in_the_past_is_refused_by_the_admin_too(as_admin: Api, admin: User) -> None:
    sent = key_form(admin, expires_at_0="2020-01-01", expires_at_1="00:00:00")
    as_admin.post("/admin/access/apikey/add/", sent)
    assert not ApiKey.objects.exists()


@on_sqlite
def test_a_key_with_an_unreadable_expiry_is_expired(admin: User) -> None:
    key = key_for(admin, READ_ENDPOINTS)
    sql("UPDATE api_keys SET expires_at = '31.12.2025'")
    assert with_key(key).call("GET", "/api/endpoints").status_code == 401
