from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from access.directory import access
from access.models import User
from endpoints.model_names.name_cache import model_names
from endpoints.registry import registry
from tests.access.people import PASSWORD, Api, make_user, session_of, without_database
from tests.access.test_models import insert_user
from tests.markup import one_line

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
NEW = "another battery staple"


def login(api: Api, username: str = "vera", password: str = PASSWORD, target: str = "") -> Any:
    return api.post("/login", {"username": username, "password": password, "next": target})


def logged_in(api: Api) -> bool:
    return api.get("/account/password").status_code == 200


def change(api: Api, old: str = PASSWORD, new: str = NEW, again: str | None = None) -> Any:
    sent = {"old_password": old, "new_password1": new, "new_password2": new if again is None else again}
    return api.post("/account/password", sent)


# Login


def test_the_login_page_is_public(anybody: Api) -> None:
    response = anybody.get("/login")
    assert response.status_code == 200
    assert b'name="password"' in response.content


def test_the_right_password_opens_the_overview(anybody: Api, viewer: User) -> None:
    response = login(anybody)
    assert (response.status_code, response.headers["Location"]) == (302, "/")
    assert logged_in(anybody)


def test_an_adopted_user_logs_in(anybody: Api) -> None:
    insert_user()
    assert login(anybody, "rita").status_code == 302


@pytest.mark.parametrize(
    ("username", "password"),
    [("vera", "wrong"), ("nobody", PASSWORD), ("", ""), ("vera", ""), ("vera", PASSWORD + "x" * 72), ("ve\0ra", "x")],
)
def test_wrong_credentials_do_not_log_in(anybody: Api, viewer: User, username: str, password: str) -> None:
    response = login(anybody, username, password)
    assert response.status_code == 200
    assert b"The user name or password is wrong." in response.content
    assert not logged_in(anybody)


def test_a_wrong_password_and_an_unknown_name_look_the_same(anybody: Api, viewer: User) -> None:
    pages = [login(anybody, name, "wrong").context["form"].errors for name in ("vera", "nobody")]
    assert pages[0] == pages[1]


def test_a_failed_login_keeps_the_name_and_escapes_it(anybody: Api) -> None:
    response = login(anybody, '"><script>', "wrong")
    assert b'"><script>' not in response.content
    assert b"&quot;&gt;&lt;script&gt;" in response.content


def test_users_can_log_in_without_the_database(anybody: Api, viewer: User) -> None:
    access.users()
    registry.all()
    model_names.all()
    assert without_database(lambda: login(anybody)).headers["Location"] == "/"
    assert without_database(lambda: anybody.get("/")).status_code == 200


@pytest.mark.parametrize("target", ["/admin/", "/account/password", "/?filter=1"])
def test_a_login_redirects_to_the_requested_page(anybody: Api, viewer: User, target: str) -> None:
    assert login(anybody, target=target).headers["Location"] == target


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "http:evil.example",
        "javascript:alert(1)",
        "\\\\evil.example",
    ],
)
def test_a_login_does_not_redirect_to_other_hosts(anybody: Api, viewer: User, target: str) -> None:
    assert login(anybody, target=target).headers["Location"] == "/"


def test_a_page_redirects_to_the_login_and_back(anybody: Api, viewer: User) -> None:
    response = anybody.get("/account/password")
    assert response.headers["Location"] == "/login?next=/account/password"
    shown = anybody.get(response.headers["Location"])
    assert b'name="next" value="/account/password"' in shown.content


def test_the_admin_redirects_to_the_same_login(anybody: Api) -> None:
    response = anybody.get("/admin/endpoints/endpoint/", follow=True)
    assert response.redirect_chain[-1] == ("/login?next=/admin/endpoints/endpoint/", 302)


def test_the_admins_own_login_is_the_same(anybody: Api) -> None:
    assert anybody.get("/admin/login/").headers["Location"] == "/login?next=/admin/"


def test_a_logged_in_user_is_redirected_from_the_login(as_viewer: Api) -> None:
    assert as_viewer.get("/login").headers["Location"] == "/"


def test_a_login_needs_a_csrf_token(viewer: User) -> None:
    api = Api(enforce_csrf_checks=True)
    assert login(api).status_code == 403
    assert not logged_in(api)


# Logout


@pytest.mark.parametrize("path", ["/logout", "/admin/logout/"])
def test_a_logout_ends_the_session(as_admin: Api, path: str) -> None:
    assert as_admin.post(path).headers["Location"] == "/login"
    assert not logged_in(as_admin)


@pytest.mark.parametrize("path", ["/logout", "/admin/logout/"])
def test_a_get_request_does_not_log_out(as_admin: Api, path: str) -> None:
    assert as_admin.get(path).status_code == 405
    assert logged_in(as_admin)


def test_a_logout_needs_a_csrf_token(viewer: User) -> None:
    api = session_of(viewer, enforce_csrf_checks=True)
    assert api.post("/logout").status_code == 403
    assert logged_in(api)


# Changing the password


@pytest.mark.django_db(transaction=True)
def test_a_changed_password_is_the_only_one_that_works(as_viewer: Api) -> None:
    assert change(as_viewer).headers["Location"] == "/"
    assert logged_in(as_viewer)
    assert login(Api(), password=PASSWORD).status_code == 200
    assert login(Api(), password=NEW).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_other_sessions_end_with_the_old_password(as_viewer: Api, viewer: User) -> None:
    other = session_of(viewer)
    change(as_viewer)
    assert not logged_in(other)


@pytest.mark.django_db(transaction=True)
def test_a_new_user_continues_after_the_change() -> None:
    api = session_of(make_user(must_change_password=True))
    assert api.get("/").headers["Location"] == "/account/password"
    assert b"at least 8 characters" in api.get("/account/password").content
    assert b"This password was generated" in api.get("/account/password").content
    change(api)
    assert not User.objects.get().must_change_password
    assert api.get("/").status_code == 200


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("wrong", NEW, NEW),
        (PASSWORD, NEW, "different"),
        (PASSWORD, "short", "short"),
        (PASSWORD, "password", "password"),
        (PASSWORD, "", ""),
        (PASSWORD, "x7#" * 25, "x7#" * 25),
        (PASSWORD, "パ7" * 19, "パ7" * 19),
    ],
)
def test_a_bad_change_is_refused_on_the_page(as_viewer: Api, old: str, new: str, again: str) -> None:
    response = change(as_viewer, old, new, again)
    assert response.status_code == 200
    assert response.context["form"].errors
    assert User.objects.get().check_password(PASSWORD)


def test_changing_needs_a_login(anybody: Api) -> None:
    assert change(anybody).headers["Location"].startswith("/login")


def test_the_admins_own_page_is_the_same(as_admin: Api) -> None:
    assert as_admin.get("/admin/password_change/").headers["Location"] == "/account/password"


@pytest.fixture
def data_dir(settings: Any, tmp_path: Path) -> Path:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, data_dir=tmp_path)
    return tmp_path


@pytest.mark.parametrize(("new", "kept"), [(NEW, False), ("short", True)])
def test_the_file_of_the_first_password_is_deleted_after_the_change(
    as_admin: Api, data_dir: Path, new: str, kept: bool
) -> None:
    (data_dir / "initial-password").write_text(PASSWORD)
    change(as_admin, new=new)
    assert (data_dir / "initial-password").exists() is kept


def test_a_missing_password_file_is_no_error(as_admin: Api, data_dir: Path) -> None:
    assert change(as_admin).status_code == 302


def test_pages_cannot_be_framed_and_load_nothing_from_other_hosts(anybody: Api) -> None:
    headers = anybody.get("/login").headers
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'self'" in headers["Content-Security-Policy"]


# The theme


@pytest.mark.parametrize("chosen", ["system", "light", "dark"])
def test_a_theme_is_set_without_scripts(anybody: Api, chosen: str) -> None:
    response = anybody.post("/account/theme", {"theme": chosen, "next": "/login?next=/models"})
    assert (response["Location"], anybody.cookies["routerdash_theme"].value) == ("/login?next=/models", chosen)


@pytest.mark.parametrize("sent", [{"theme": "pink"}, {}, {"theme": "pink", "next": "https://evil.example/"}])
def test_an_unknown_theme_is_ignored(anybody: Api, sent: dict[str, str]) -> None:
    assert anybody.post("/account/theme", sent)["Location"] == "/"
    assert "routerdash_theme" not in anybody.cookies
    assert anybody.get("/account/theme").status_code == 405


@pytest.mark.parametrize(("now", "then"), [("system", "light"), ("light", "dark"), ("dark", "system")])
def test_a_page_offers_the_next_theme(as_viewer: Api, now: str, then: str) -> None:
    as_viewer.cookies["routerdash_theme"] = now
    assert f'name="theme" value="{then}"' in one_line(as_viewer.get("/account/password").content.decode())
