import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import Error, connection

from access.directory import access
from access.models import ApiKey, Role, User, hash_key
from tests.access.people import key_for, make_admin, make_user, without_database

pytestmark = pytest.mark.django_db


def test_it_is_read_once_in_two_queries(django_assert_num_queries: Any) -> None:
    for number in range(5):
        key_for(make_user(f"user{number}"))
    with django_assert_num_queries(2):
        assert len(access.directory().users) == 5
    with django_assert_num_queries(0):
        assert len(access.directory().keys) == 5


def test_an_empty_directory_is_read_once_too(django_assert_num_queries: Any) -> None:
    access.directory()
    with django_assert_num_queries(0):
        assert access.user(str(uuid.uuid4())) is None
        assert access.key("unknown") is None


def test_a_user_is_found_by_id() -> None:
    viewer = make_user()
    assert access.user(str(viewer.pk)) == viewer


def test_a_user_is_handed_out_as_a_copy() -> None:
    viewer = make_user()
    first = access.user(str(viewer.pk))
    assert first is not None
    first.role = "admin"
    second = access.user(str(viewer.pk))
    assert second is not None
    assert second.role == "viewer"


def test_a_key_is_found_by_its_hash() -> None:
    admin = make_admin()
    expires = datetime(2027, 1, 1, tzinfo=UTC)
    key = key_for(admin, "endpoints.read", "openai.inference", expires_at=expires)
    found = access.key(hash_key(key))
    assert found is not None
    assert found.id == str(ApiKey.objects.get().pk)
    assert found.owner_id == str(admin.pk)
    assert found.permissions == ("endpoints.read", "openai.inference")
    assert found.expires_at == expires.timestamp()


def test_a_key_without_expiry_has_none() -> None:
    found = access.key(hash_key(key_for(make_admin())))
    assert found is not None
    assert found.expires_at is None


@pytest.mark.parametrize("permissions", [None, "openai.inference", {}])
def test_permissions_that_are_no_list_are_none(permissions: Any) -> None:
    key = key_for(make_admin())
    ApiKey.objects.update(permissions=permissions)
    found = access.key(hash_key(key))
    assert found is not None
    assert found.permissions == ()


def test_a_reload_takes_in_what_came_past_signals() -> None:
    viewer = make_user()
    access.directory()
    User.objects.update(role="admin")
    access.reload()
    found = access.user(str(viewer.pk))
    assert found is not None
    assert found.is_admin


def test_listeners_are_told_of_reloads_but_not_of_the_first_look() -> None:
    told: list[int] = []
    access.subscribe(lambda: told.append(len(access.directory().users)))
    access.directory()
    make_user()
    access.reload()
    assert told == [1]


def test_a_failing_database_is_told_by_the_first_look() -> None:
    with pytest.raises(Error):
        without_database(access.directory)


def test_a_failing_reload_keeps_everybody() -> None:
    viewer = make_user()
    access.directory()
    with pytest.raises(Error):
        without_database(access.reload)
    assert access.user(str(viewer.pk)) == viewer


def test_a_reload_that_may_fail_is_quiet() -> None:
    viewer = make_user()
    access.directory()
    told: list[int] = []
    access.subscribe(lambda: told.append(1))
    without_database(access.reload_if_possible)
    assert access.user(str(viewer.pk)) == viewer
    assert told == []
    access.reload_if_possible()
    assert told == [1]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only there a moment may lie beyond the calendar")
@pytest.mark.parametrize("moment", ["infinity", "10000-01-01 04:59:59+00", "-infinity"])
def test_an_expiry_that_cannot_be_read_hides_no_other_key(moment: str) -> None:
    ada = make_admin()
    odd, fine = key_for(ada, "endpoints.read"), key_for(ada, "endpoints.read", name="fine")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE api_keys SET expires_at = %s WHERE key_hash = %s", (moment, hash_key(odd)))
    access.reload()
    found = access.key(hash_key(odd))
    assert access.key(hash_key(fine)) is not None
    assert found is not None
    assert (found.expires_at == 0) == moment.startswith("-")


def test_the_key_of_a_demoted_administrator_only_reads() -> None:
    ada = make_admin()
    key = key_for(ada, "endpoints.manage", "endpoints.read", "openai.inference")
    ada.role = Role.VIEWER
    ada.save()
    access.reload()
    found = access.key(hash_key(key))
    assert found is not None
    assert set(found.permissions) == {"endpoints.read", "openai.inference"}


def test_names_of_keys_are_told_from_memory(django_assert_num_queries: Any) -> None:
    key = key_for(make_user(), name="notebook")
    access.forget()
    with django_assert_num_queries(0):
        assert access.key_names() == {}
    found = access.key(hash_key(key))
    assert found is not None
    assert access.key_names() == {found.id: "notebook"}


def test_administrators_with_a_generated_password_are_told() -> None:
    ada = make_admin(must_change_password=True)
    make_admin("grace")
    make_user(must_change_password=True)
    assert access.generated_passwords() == []
    access.reload()
    assert access.generated_passwords() == [(str(ada.pk), "ada", ada.created_at)]
