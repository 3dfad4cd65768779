import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from access.models import (
    DELETED,
    INFERENCE,
    VIEWER_PERMISSIONS,
    ApiKey,
    User,
    hash_key,
)
from access.permissions import EFFECTS
from tests.access.people import PASSWORD, Api, key_for, make_admin, make_user, with_key

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
KEYS, USERS = "/admin/access/apikey/", "/admin/access/user/"
NEW = "another battery staple"


def key_form(owner: User, **fields: Any) -> dict[str, Any]:
    empty = {"expires_at_0": "", "expires_at_1": "", "enabled": "on"}
    return {"name": "script", "created_by": str(owner.pk), "permissions": ["endpoints.read"], **empty, **fields}


def make_key(api: Api, owner: User, **fields: Any) -> Any:
    return api.post(KEYS + "add/", key_form(owner, **fields))


def shown_key(response: Any) -> str:
    match = re.search(r"sk_[A-Za-z0-9]{32}", response.content.decode())
    assert match is not None
    return match[0]


def form_errors(response: Any) -> list[str]:
    assert response.status_code == 200
    return list(response.context["adminform"].form.errors)


# API keys


def test_a_new_key_is_shown_in_the_response_that_creates_it(as_admin: Api, admin: User) -> None:
    response = make_key(as_admin, admin)
    assert response.status_code == 200
    assert ApiKey.objects.get().key_hash == hash_key(shown_key(response))
    assert "no-store" in response.headers["Cache-Control"]
    assert b'data-copy="[data-new-key]"' in response.content


@pytest.mark.django_db(transaction=True)
def test_a_key_works(as_admin: Api, admin: User) -> None:
    key = shown_key(make_key(as_admin, admin))
    assert with_key(key).call("GET", "/api/endpoints").status_code == 200


def test_a_key_is_never_shown_again(as_admin: Api, admin: User) -> None:
    response = make_key(as_admin, admin)
    key, row = shown_key(response), ApiKey.objects.get()
    for path in (KEYS, f"{KEYS}{row.pk}/change/", f"{KEYS}{row.pk}/history/", "/admin/"):
        text = as_admin.get(path).content.decode()
        assert key not in text
        assert row.key_hash not in text
    assert key not in str(list(get_messages(response.wsgi_request))) + str(response.cookies)
    assert key not in str(list(LogEntry.objects.values()))


def test_a_key_of_another_owner_and_with_an_expiry(as_admin: Api, viewer: User) -> None:
    make_key(as_admin, viewer, expires_at_0="2999-01-02", expires_at_1="03:04:05")
    row = ApiKey.objects.get()
    assert (row.created_by, row.granted) == (viewer, ("endpoints.read",))
    assert row.expires_at is not None
    assert row.expires_at.isoformat() == "2999-01-02T03:04:05+00:00"


def test_the_form_defaults_to_the_current_user_and_client_permissions(as_admin: Api, admin: User) -> None:
    form = as_admin.get(KEYS + "add/").context["adminform"].form
    assert form.get_initial_for_field(form.fields["created_by"], "created_by") == admin.pk
    assert form.fields["permissions"].initial == VIEWER_PERMISSIONS


def test_the_form_offers_only_permissions_in_use(as_admin: Api) -> None:
    choices = as_admin.get(KEYS + "add/").context["adminform"].form.fields["permissions"].choices
    assert [name for name, _ in choices] == list(EFFECTS)


def test_a_key_keeps_permissions_that_the_form_does_not_offer(as_admin: Api, admin: User) -> None:
    key_for(admin, INFERENCE, "logs.read")
    path = f"{KEYS}{ApiKey.objects.get().pk}/change/"
    form = as_admin.get(path).context["adminform"].form
    assert "logs.read (not used by RouterDash)" in str(form["permissions"])
    assert as_admin.post(path, key_form(admin, permissions=form["permissions"].value())).status_code == 302
    assert set(ApiKey.objects.get().granted) == {INFERENCE, "logs.read"}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": " "}, "name"),
        ({"name": "bootstrap"}, "name"),
        ({"name": " bootstrap "}, "name"),
        ({"permissions": []}, "permissions"),
        ({"permissions": ["nothing.read"]}, "permissions"),
        ({"created_by": ""}, "created_by"),
        ({"expires_at_0": "soon"}, "expires_at"),
    ],
)
def test_a_wrong_field_is_marked(as_admin: Api, admin: User, fields: dict[str, Any], wrong: str) -> None:
    assert form_errors(make_key(as_admin, admin, **fields)) == [wrong]
    assert not ApiKey.objects.exists()


def test_a_name_in_use_is_refused_with_a_message(as_admin: Api, admin: User) -> None:
    key_for(admin)
    response = make_key(as_admin, admin)
    assert form_errors(response)
    assert b"already has an API key with this name" in response.content


def test_a_change_keeps_the_key(as_admin: Api, admin: User) -> None:
    key = key_for(admin, "endpoints.read")
    row = ApiKey.objects.get()
    response = as_admin.post(
        f"{KEYS}{row.pk}/change/", key_form(admin, name="renamed", permissions=["openai.inference"])
    )
    assert response.status_code == 302
    changed = ApiKey.objects.get()
    assert (changed.name, changed.granted, changed.key_hash) == ("renamed", ("openai.inference",), hash_key(key))


def test_the_bootstrap_key_can_be_edited_under_its_name(as_admin: Api, admin: User) -> None:
    key_for(admin, "endpoints.read", name="bootstrap")
    path = f"{KEYS}{ApiKey.objects.get().pk}/change/"
    assert as_admin.post(path, key_form(admin, name="bootstrap")).status_code == 302


def test_keys_are_listed_by_prefix(as_admin: Api, admin: User) -> None:
    key = key_for(admin)
    text = as_admin.get(KEYS + "?q=script").content.decode()
    assert key[:10] in text
    assert key not in text


def test_the_number_of_queries_does_not_grow_with_keys(as_admin: Api) -> None:
    as_admin.get(KEYS)  # the first page of a process also fills its caches
    counts = []
    for number in range(1, 13):
        key_for(make_user(f"user{number}"))
        if number in (2, 12):
            with CaptureQueriesContext(connection) as captured:
                as_admin.get(KEYS)
            counts.append(len(captured))
    assert counts[0] == counts[1]


def test_a_deleted_key_is_removed(as_admin: Api, admin: User) -> None:
    key_for(admin)
    path = f"{KEYS}{ApiKey.objects.get().pk}/delete/"
    assert as_admin.post(path, {"post": "yes"}).status_code == 302
    assert not ApiKey.objects.exists()


# Users


def add_user(api: Api, username: str = "vera", password: str = NEW, role: str = "viewer", **fields: Any) -> Any:
    return api.post(USERS + "add/", {"username": username, "role": role, "new_password": password, **fields})


def change_user(api: Api, user: User, **fields: Any) -> Any:
    sent = {"username": user.username, "role": user.role, "new_password": "", **fields}
    return api.post(f"{USERS}{user.pk}/change/", sent)


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_a_user_is_added_with_a_password(as_admin: Api, role: str) -> None:
    assert add_user(as_admin, role=role).status_code == 302
    user = User.objects.get(username="vera")
    assert (user.role, user.must_change_password) == (role, False)
    assert user.check_password(NEW)


def test_the_role_of_a_user_is_set(as_admin: Api, viewer: User) -> None:
    html = as_admin.get(f"{USERS}{viewer.pk}/change/").content.decode()
    assert '<select name="role"' in html
    assert '<option value="viewer" selected>Viewer</option>' in html


def test_the_add_form_shows_the_password_rules(as_admin: Api, viewer: User) -> None:
    assert b"at least 8 characters" in as_admin.get(USERS + "add/").content
    assert b"to keep the stored value" not in as_admin.get(USERS + "add/").content
    assert b"to keep the stored value" in as_admin.get(f"{USERS}{viewer.pk}/change/").content


def test_a_password_change_can_be_required(as_admin: Api) -> None:
    add_user(as_admin, must_change_password="on")
    assert User.objects.get(username="vera").must_change_password


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"username": " "}, "username"),
        ({"username": "ada"}, "username"),
        ({"role": "user"}, "role"),
        ({"role": ""}, "role"),
        ({"password": ""}, "new_password"),
        ({"password": "short"}, "new_password"),
        ({"password": "password"}, "new_password"),
        ({"password": "x7#" * 25}, "new_password"),
    ],
)
def test_errors_are_marked_on_the_user_form(as_admin: Api, fields: dict[str, str], wrong: str) -> None:
    assert form_errors(add_user(as_admin, **fields)) == [wrong]
    assert User.objects.count() == 1


def test_a_change_without_a_password_keeps_it(as_admin: Api, viewer: User) -> None:
    assert change_user(as_admin, viewer, role="admin").status_code == 302
    user = User.objects.get(username="vera")
    assert user.role == "admin"
    assert user.check_password(PASSWORD)


def test_a_new_password_replaces_the_old_one(as_admin: Api, viewer: User) -> None:
    change_user(as_admin, viewer, new_password=NEW, must_change_password="on")
    user = User.objects.get(username="vera")
    assert user.check_password(NEW)
    assert user.must_change_password


def test_no_page_shows_a_password_or_its_hash(as_admin: Api, viewer: User) -> None:
    text = as_admin.get(f"{USERS}{viewer.pk}/change/").content.decode() + as_admin.get(USERS).content.decode()
    assert viewer.password.removeprefix("bcrypt$") not in text
    assert PASSWORD not in text


def test_whitespace_around_a_password_is_kept(as_admin: Api) -> None:
    add_user(as_admin, password=f" {NEW} ")
    assert User.objects.get(username="vera").check_password(f" {NEW} ")


def test_users_cannot_delete_themselves(as_admin: Api, admin: User) -> None:
    assert as_admin.post(f"{USERS}{admin.pk}/delete/", {"post": "yes"}).status_code == 403
    assert User.objects.filter(pk=admin.pk).exists()


def test_users_cannot_delete_themselves_with_the_bulk_action(as_admin: Api, admin: User, viewer: User) -> None:
    chosen = [str(admin.pk), str(viewer.pk)]
    sent = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
    assert as_admin.post(USERS, sent).status_code == 403
    assert User.objects.count() == 2


def test_another_administrator_can_be_deleted_with_their_keys(as_admin: Api, admin: User) -> None:
    other = make_admin("other")
    key_for(other)
    assert as_admin.post(f"{USERS}{other.pk}/delete/", {"post": "yes"}).status_code == 302
    assert User.objects.get() == admin
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("among_others", [False, True])
def test_log_entries_of_a_deleted_user_remain(as_admin: Api, among_others: bool) -> None:
    people = [make_admin("one"), make_admin("other")]
    LogEntry.objects.bulk_create(LogEntry(user_id=person.pk, action_flag=1, object_repr="theirs") for person in people)
    if among_others:
        chosen = {"action": "delete_selected", "_selected_action": [str(person.pk) for person in people], "post": "yes"}
        assert as_admin.post(USERS, chosen).status_code == 302
    else:
        for person in people:
            person.delete()
    usernames = LogEntry.objects.filter(object_repr="theirs").values_list("user__username", flat=True)
    assert list(usernames) == [DELETED, DELETED]


def test_the_placeholder_of_deleted_users_cannot_be_changed_or_log_in(as_admin: Api, client: Client) -> None:
    placeholder = User.objects.deleted_user()
    assert as_admin.post(f"{USERS}{placeholder.pk}/delete/", {"post": "yes"}).status_code == 403
    assert as_admin.post(f"{USERS}{placeholder.pk}/change/", {"new_password": NEW}).status_code == 403
    assert as_admin.get(f"{USERS}{placeholder.pk}/change/").status_code == 200
    assert not client.login(username=DELETED, password="!")
    assert not placeholder.has_usable_password()


def test_deleting_a_user_lists_the_keys_but_not_the_log(as_admin: Api) -> None:
    other = make_admin("other")
    key_for(other, name="laptop")
    LogEntry.objects.bulk_create(LogEntry(user_id=other.pk, action_flag=1, object_repr=f"row {n}") for n in range(12))
    html = as_admin.get(f"{USERS}{other.pk}/delete/").content.decode()
    assert "other" in html
    assert "laptop" in html
    assert "row 7" not in html


def test_users_can_be_searched_and_filtered(as_admin: Api, viewer: User) -> None:
    assert b"vera" in as_admin.get(USERS + "?q=ver&role__exact=viewer").content


def test_a_change_is_logged_with_its_author(as_admin: Api, admin: User, viewer: User) -> None:
    change_user(as_admin, viewer, role="admin")
    entry = LogEntry.objects.get()
    assert (entry.user_id, entry.object_id) == (admin.pk, str(viewer.pk))


def test_access_to_bodies_is_logged_as_text(as_admin: Api, admin: User) -> None:
    LogEntry.objects.create(user_id=admin.pk, object_repr="a request", action_flag=4, change_message="")
    html = as_admin.get("/admin/admin/logentry/").content.decode()
    assert '<td class="field-action">Viewed</td>' in html


# Access to the admin


@pytest.mark.parametrize("path", ["/admin/", KEYS, KEYS + "add/", USERS, USERS + "add/"])
def test_viewers_have_no_pages_of_administrators(as_viewer: Api, path: str) -> None:
    response = as_viewer.get(path, follow=True)
    assert response.redirect_chain[-1] == ("/", 302)


@pytest.mark.parametrize("path", ["/admin/", KEYS, USERS])
def test_anonymous_users_are_redirected_to_the_login(anybody: Api, path: str) -> None:
    assert anybody.get(path, follow=True).redirect_chain[-1] == (f"/login?next={path}", 302)


def test_viewers_cannot_post_to_the_admin(as_viewer: Api, viewer: User) -> None:
    change_user(as_viewer, viewer, role="admin")
    make_key(as_viewer, viewer)
    add_user(as_viewer, "mallory", role="admin")
    assert User.objects.get().role == "viewer"
    assert not ApiKey.objects.exists()


def test_groups_are_not_offered(as_admin: Api) -> None:
    assert as_admin.get("/admin/auth/group/").status_code == 404
    assert b"Groups" not in as_admin.get("/admin/").content


def test_results_are_counted_after_a_search(as_admin: Api) -> None:
    as_admin.post("/admin/access/user/add/", {"username": "another", "role": "viewer", "password": "a long enough one"})
    log = "/admin/admin/logentry/"
    assert "Show all" not in as_admin.get(log).content.decode()
    assert "Show all" in as_admin.get(f"{log}?q=another").content.decode()


def test_a_new_administrators_password_is_longer_than_a_viewers(as_admin: Api) -> None:
    given = {"username": "bob", "role": "admin", "new_password": "kumquat-9 x"}
    response = as_admin.post("/admin/access/user/add/", given)
    assert "at least 12 characters" in response.content.decode()
    assert as_admin.post("/admin/access/user/add/", {**given, "role": "viewer"}).status_code == 302


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the words are those of SQLite")
def test_the_list_of_keys_is_not_sorted(as_admin: Api, admin: User) -> None:
    """A page of a million keys took seconds."""
    key_for(admin)
    with CaptureQueriesContext(connection) as captured:
        as_admin.get(KEYS)
    (query,) = (
        captured_query["sql"]
        for captured_query in captured.captured_queries
        if 'ORDER BY "api_keys"' in captured_query["sql"]
    )
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {query} LIMIT 50")  # as of a list with several pages
        steps = [row[3] for row in cursor.fetchall()]
    assert "SCAN api_keys USING INDEX api_keys_created" in steps
    assert not [step for step in steps if "ORDER BY" in step]
