"""The account page: a user's own sessions, other users' sessions, and the reason why a session ended."""

from typing import Any

import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.backends.base import UpdateError

from access.models import User
from access.sessions.browsers import browser_of
from access.sessions.engine import SessionStore
from access.sessions.store import sessions
from tests.access.people import PASSWORD, Api, make_user, session_of, without_database
from tests.access.test_views import NEW, change, logged_in, login

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1 (KHTML) Version/18.0 Safari/604.1"
EDGE = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36 Edg/140.0"


def page(api: Api) -> str:
    return str(api.get("/account").content.decode())


def id_of(api: Api) -> str:
    store = api.session
    assert isinstance(store, SessionStore)
    return store.id


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox, Linux"),
        (SAFARI, "Safari, iPhone"),
        (EDGE, "Edge, Windows"),
        ("curl/8.5.0", "curl"),
        ("x" * 200, "x" * 60),
        ("", ""),
    ],
)
def test_browsers_are_listed_by_name(agent: str, name: str) -> None:
    assert browser_of(agent) == name


def test_the_page_lists_a_users_sessions(viewer: User) -> None:
    here, there = Api(headers={"User-Agent": FIREFOX}), Api(headers={"User-Agent": SAFARI}, REMOTE_ADDR="192.0.2.7")
    login(here)
    login(there)
    session_of(make_user("somebody else"))
    text = page(here)
    assert ("Firefox, Linux" in text, "Safari, iPhone" in text, "192.0.2.7" in text) == (True, True, True)
    assert text.count("<tr>") == 1 + 2
    assert text.count("this browser") == 1
    assert "somebody else" not in text


def test_a_browsers_name_is_escaped(viewer: User) -> None:
    api = Api(headers={"User-Agent": "<script>alert(1)</script>"})
    login(api)
    assert "<script>alert" not in page(api)


def test_one_session_is_ended_and_no_other(viewer: User) -> None:
    here, there, third = (session_of(viewer) for _ in range(3))
    assert here.post("/account", {"end": id_of(there)[:16]}).headers["Location"] == "/account"
    assert "1 session has ended." in page(here)
    assert [logged_in(api) for api in (here, there, third)] == [True, False, True]


def test_all_others_are_ended(viewer: User) -> None:
    here, there, third = (session_of(viewer) for _ in range(3))
    here.post("/account", {"end": "others"})
    assert "2 sessions have ended." in page(here)
    assert [logged_in(api) for api in (here, there, third)] == [True, False, False]


@pytest.mark.parametrize("end", ["", "0", "z" * 16, "0" * 64])
def test_an_unknown_session_id_ends_no_session(viewer: User, end: str) -> None:
    here, there = session_of(viewer), session_of(viewer)
    here.post("/account", {"end": end})
    assert "This session no longer exists." in page(here)
    assert logged_in(there)


def test_a_user_cannot_end_sessions_of_other_users(viewer: User) -> None:
    here, other = session_of(viewer), session_of(make_user("olga"))
    here.post("/account", {"end": id_of(other)[:16]})
    assert logged_in(other)
    assert here.post("/account", {"user": str(User.objects.get(username="olga").pk)}).status_code == 403
    assert logged_in(other)


def test_an_administrator_ends_a_users_sessions(as_admin: Api, viewer: User) -> None:
    theirs = session_of(viewer)
    assert "vera" in page(as_admin)
    as_admin.post("/account", {"user": str(viewer.pk)})
    assert not logged_in(theirs)
    assert logged_in(as_admin)
    assert "vera" not in page(as_admin)


def test_sessions_ended_in_the_admin_are_logged(as_admin: Api, viewer: User) -> None:
    theirs = session_of(viewer)
    assert "End all sessions" in as_admin.get(f"/admin/access/user/{viewer.pk}/change/").content.decode()
    as_admin.post("/admin/access/user/", {"action": "end_sessions", "_selected_action": str(viewer.pk)})
    assert not logged_in(theirs)
    assert LogEntry.objects.get().get_change_message() == "All sessions were ended."


def test_ending_sessions_needs_a_csrf_token(viewer: User) -> None:
    here, there = session_of(viewer, enforce_csrf_checks=True), session_of(viewer)
    assert here.post("/account", {"end": "others"}).status_code == 403
    assert logged_in(there)


def test_sessions_are_listed_and_ended_while_the_database_is_away(as_admin: Api, viewer: User) -> None:
    theirs, mine = session_of(viewer), session_of(User.objects.get(username="ada"))
    page(as_admin)
    assert b"vera" in without_database(lambda: as_admin.get("/account")).content
    without_database(lambda: as_admin.post("/account", {"user": str(viewer.pk)}))
    without_database(lambda: as_admin.post("/account", {"end": "others"}))
    assert not logged_in(theirs)
    assert not logged_in(mine)


# Passwords


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("keep", [False, True])
def test_a_new_password_ends_the_other_sessions_unless_they_are_kept(viewer: User, keep: bool) -> None:
    here, there = session_of(viewer), session_of(viewer)
    before = here.cookies[settings.SESSION_COOKIE_NAME].value
    sent = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
    here.post("/account/password", {**sent, "keep_sessions": "on"} if keep else sent)
    assert logged_in(here)
    assert logged_in(there) is keep
    copy = Api()
    copy.cookies[settings.SESSION_COOKIE_NAME] = before
    assert not logged_in(copy)


@pytest.mark.django_db(transaction=True)
def test_a_password_set_by_an_administrator_ends_the_sessions(as_admin: Api, viewer: User) -> None:
    theirs = session_of(viewer)
    given = {"username": "vera", "role": "viewer", "new_password": NEW}
    assert as_admin.post(f"/admin/access/user/{viewer.pk}/change/", given).status_code == 302
    assert sessions.of(str(viewer.pk)) == []
    assert not logged_in(theirs)


@pytest.mark.django_db(transaction=True)
def test_a_deleted_users_sessions_end(viewer: User) -> None:
    theirs = session_of(viewer)
    user_id = str(viewer.pk)
    assert logged_in(theirs)
    viewer.delete()
    assert sessions.of(user_id) == []
    assert not logged_in(theirs)


# Cookies without a valid session


def stale(value: str, **options: Any) -> Api:
    api = Api(**options)
    api.cookies[settings.SESSION_COOKIE_NAME] = value
    return api


@pytest.mark.parametrize(
    ("cookie", "shown"),
    [
        (".eJxVjDs:1vQ2Xc:signature", "You were logged out because RouterDash was updated. Log in again."),
        ("token:signature", "Your session has ended. Log in again."),
        ("anything", "Your session has ended. Log in again."),
    ],
)
def test_the_login_page_shows_once_why_a_session_ended(cookie: str, shown: str, anybody: Api) -> None:
    api = stale(cookie)
    response = api.get("/account", follow=True)
    assert shown in response.content.decode()
    assert response.cookies[settings.SESSION_COOKIE_NAME]["max-age"] == 0
    assert shown not in Api().get("/login").content.decode()


def test_a_logout_shows_no_message_about_an_ended_session(as_viewer: Api) -> None:
    as_viewer.post("/logout")
    assert "session has ended" not in as_viewer.get("/login").content.decode()


def test_a_session_that_ends_during_a_request_is_not_restored(as_viewer: Api, viewer: User) -> None:
    """A request that changes its session while the session is ended elsewhere must not restore it."""
    store = as_viewer.session
    assert store["_auth_user_id"]
    sessions.end_all_of(str(viewer.pk))
    store["more"] = 1
    with pytest.raises(UpdateError):
        store.save()
    assert sessions.of(str(viewer.pk)) == []


def test_the_password_page_offers_to_stay_logged_in_elsewhere(as_viewer: Api) -> None:
    assert "Stay logged in on my other browsers" in as_viewer.get("/account/password").content.decode()
    assert change(as_viewer, new="short", again="short").status_code == 200
