import threading
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import Error, connection

from access import directory
from access.directory import KeyEntry, access, read_key_entries
from access.models import ApiKey, Role, User, hash_key
from tests.access.people import key_for, make_admin, make_user, without_database
from tests.endpoints.conftest import meanwhile

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def test_the_users_are_read_once_in_one_query(django_assert_num_queries: Any) -> None:
    for number in range(5):
        key_for(make_user(f"user{number}"))
    with django_assert_num_queries(1):
        assert len(access.users()) == 5
    with django_assert_num_queries(0):
        assert len(access.users()) == 5


def test_no_users_are_read_once_too(django_assert_num_queries: Any) -> None:
    access.users()
    with django_assert_num_queries(0):
        assert access.user(str(uuid.uuid4())) is None


def test_users_of_the_last_run_are_used_until_the_first_read(django_assert_num_queries: Any) -> None:
    viewer = make_user()
    access.remember(lambda: {"1": viewer})
    with django_assert_num_queries(0):
        assert dict(access.users()) == {"1": viewer}
    access.reload()
    assert dict(access.users()) == {str(viewer.pk): viewer}


def test_an_unknown_key_is_none() -> None:
    assert access.key("unknown") is None


def test_a_user_is_found_by_id() -> None:
    viewer = make_user()
    assert access.user(str(viewer.pk)) == viewer


def test_a_user_is_returned_as_a_copy() -> None:
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
    stored_key = access.key(hash_key(key))
    assert stored_key is not None
    assert stored_key.id == str(ApiKey.objects.get().pk)
    assert stored_key.owner_id == str(admin.pk)
    assert stored_key.permissions == ("endpoints.read", "openai.inference")
    assert stored_key.expires_at == expires.timestamp()


def test_a_key_without_expiry_has_none() -> None:
    stored_key = access.key(hash_key(key_for(make_admin())))
    assert stored_key is not None
    assert stored_key.expires_at is None


@pytest.mark.parametrize("permissions", [None, "openai.inference", {}])
def test_permissions_that_are_not_a_list_grant_none(permissions: Any) -> None:
    key = key_for(make_admin())
    ApiKey.objects.update(permissions=permissions)
    stored_key = access.key(hash_key(key))
    assert stored_key is not None
    assert stored_key.permissions == ()


def test_a_reload_reads_changes_without_signals() -> None:
    viewer = make_user()
    access.users()
    User.objects.update(role="admin")
    access.reload()
    user = access.user(str(viewer.pk))
    assert user is not None
    assert user.is_admin


def test_keys_that_are_read_again_are_reported(django_assert_num_queries: Any) -> None:
    ada = make_admin()
    known = hash_key(key_for(ada, "endpoints.read"))
    other = hash_key(key_for(ada, name="other"))
    access.users()
    reported: list[Mapping[str, KeyEntry | None]] = []
    access.subscribe(reported.append)
    with django_assert_num_queries(2):  # the second one looks for a key that replaced the deleted one
        access.read_again((), (known, "of a deleted key"))
    assert reported == [{known: access.key(known), "of a deleted key": None}]
    reported.clear()
    access.read_again((str(ada.pk),), ())
    assert [set(changed) for changed in reported] == [{known, other}]
    access.read_again((), ())
    assert len(reported) == 1


@pytest.mark.django_db(transaction=True)
def test_a_key_that_is_deleted_while_another_thread_reads_it_stays_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The change log's thread has read the key. Before it reports that, a request deletes the key."""
    secret = key_for(make_admin())
    access.users()
    reported: list[KeyEntry | None] = []
    monkeypatch.setattr(access, "_listeners", [lambda keys: reported.extend(keys.values())])
    deletion = threading.Thread(target=meanwhile, args=(lambda: ApiKey.objects.all().delete(),))

    def read(*args: Any, **options: Any) -> Iterator[KeyEntry]:
        yield from [*read_key_entries(*args, **options)]
        if deletion.ident is None:
            deletion.start()
            deletion.join(0.5)  # it cannot end before this report

    monkeypatch.setattr(directory, "read_key_entries", read)
    access.read_again((), [hash_key(secret)])
    deletion.join()
    assert [key is not None for key in reported] == [True, False]


def test_many_keys_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "AT_ONCE", 2)
    ada = make_admin()
    hashes = [hash_key(key_for(ada, name=f"key {number}")) for number in range(5)]
    assert [key.hash for key in read_key_entries(access.users(), hashes=hashes)] == sorted(hashes)


def test_keys_are_read_in_the_order_of_their_hashes() -> None:
    ada = make_admin()
    hashes = sorted(hash_key(key_for(ada, name=f"key {number}")) for number in range(5))
    users = access.users()
    assert [key.hash for key in read_key_entries(users)] == hashes
    assert [key.hash for key in read_key_entries(users, after=hashes[1], limit=2)] == hashes[2:4]
    assert list(read_key_entries(users, hashes=())) == []
    assert list(read_key_entries(users, owner_ids=())) == []


def test_without_users_nothing_is_read_again(django_assert_num_queries: Any) -> None:
    """A command that edits users needs no directory."""
    with django_assert_num_queries(0):
        access.refresh(("any",), ("any",))


def test_the_first_read_raises_if_the_database_fails() -> None:
    with pytest.raises(Error):
        without_database(access.users)


def test_a_failed_reload_keeps_all_users() -> None:
    viewer = make_user()
    access.users()
    with pytest.raises(Error):
        without_database(access.reload)
    assert access.user(str(viewer.pk)) == viewer


def test_an_edit_that_cannot_be_read_again_keeps_the_users(caplog: pytest.LogCaptureFixture) -> None:
    viewer = make_user()
    access.users()
    reported: list[int] = []
    access.subscribe(lambda keys: reported.append(1))
    failed = access.failed_reads
    without_database(lambda: access.refresh((str(viewer.pk),), ("any",)))
    assert access.user(str(viewer.pk)) == viewer
    assert reported == []
    assert (access.outdated, access.failed_reads) == (True, failed + 1)
    assert "could not be read again" in caplog.text
    access.reload()
    assert not access.outdated


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL stores times after year 9999")
@pytest.mark.parametrize("moment", ["infinity", "10000-01-01 04:59:59+00", "-infinity"])
def test_an_unreadable_expiry_affects_no_other_key(moment: str) -> None:
    ada = make_admin()
    odd, fine = key_for(ada, "endpoints.read"), key_for(ada, "endpoints.read", name="fine")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE api_keys SET expires_at = %s WHERE key_hash = %s", (moment, hash_key(odd)))
    access.reload()
    stored_key = access.key(hash_key(odd))
    assert access.key(hash_key(fine)) is not None
    assert stored_key is not None
    assert (stored_key.expires_at == 0) == moment.startswith("-")


def test_the_key_of_a_demoted_administrator_is_read_only() -> None:
    ada = make_admin()
    key = key_for(ada, "endpoints.manage", "endpoints.read", "openai.inference")
    ada.role = Role.VIEWER
    ada.save()
    access.reload()
    stored_key = access.key(hash_key(key))
    assert stored_key is not None
    assert set(stored_key.permissions) == {"endpoints.read", "openai.inference"}


def test_administrators_with_a_generated_password_are_listed() -> None:
    ada = make_admin(must_change_password=True)
    make_admin("grace")
    make_user(must_change_password=True)
    assert access.generated_passwords() == []
    access.reload()
    assert access.generated_passwords() == [(str(ada.pk), "ada", ada.created_at)]
