from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.signals import user_logged_in
from django.db import transaction

from access.directory import KeyEntry, access
from access.models import ApiKey, User
from endpoints.changes import triggers
from endpoints.changes.models import RegistryChange
from tests.access.people import key_for, make_user

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _triggers(db: None) -> None:
    triggers.ensure()


def logged() -> set[tuple[str, str]]:
    """Kind and id of what the change log names, for other processes."""
    changes = set(RegistryChange.objects.values_list("kind", "object_id"))
    RegistryChange.objects.all().delete()
    return changes


Edit = Callable[[User], Any]


def set_role(user: User) -> None:
    user.role = "admin"
    user.save(update_fields=["role"])


def set_password(user: User) -> None:
    user.set_password("another pass phrase")
    user.save()


def expire(user: User) -> None:
    key = ApiKey.objects.get()
    key.expires_at = datetime(2027, 1, 1, tzinfo=UTC)
    key.save(update_fields=["expires_at"])


USERS: dict[str, Edit] = {
    "a user": lambda user: make_user("new"),
    "a user's password": set_password,
    "a user's role": set_role,
    "a user's end": lambda user: user.delete(),
}
KEYS: dict[str, Edit] = {
    "a key": lambda user: key_for(user, name="new"),
    "a key's expiry": expire,
    "a key's end": lambda user: ApiKey.objects.get().delete(),
}
EDITS = USERS | KEYS
every_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


@pytest.fixture
def user(db: None) -> User:
    user = make_user()
    key_for(user)
    return user


@every_edit
def test_edits_are_logged_for_other_processes(user: User, edit: Edit) -> None:
    logged()
    edit(user)
    assert logged()


@every_edit
def test_rolled_back_edits_are_not_logged(user: User, edit: Edit) -> None:
    logged()
    with transaction.atomic():
        edit(user)
        transaction.set_rollback(True)
    assert logged() == set()


@pytest.mark.parametrize("edit", USERS.values(), ids=USERS)
def test_users_are_read_again_on_commit(user: User, edit: Edit, django_capture_on_commit_callbacks: Any) -> None:
    before = access.users()
    with django_capture_on_commit_callbacks(execute=True):
        edit(user)
        assert access.users() is before
    assert access.users() is not before


@pytest.mark.parametrize("edit", KEYS.values(), ids=KEYS)
def test_edits_of_keys_read_the_key_alone(user: User, edit: Edit, django_capture_on_commit_callbacks: Any) -> None:
    before = access.users()
    reported: list[Mapping[str, KeyEntry | None]] = []
    access.subscribe(reported.append)
    with django_capture_on_commit_callbacks(execute=True):
        edit(user)
        assert reported == []
    (changed,) = reported
    assert len(changed) == 1
    assert list(changed.values()) == [access.key(hashed) for hashed in changed]
    assert access.users() is before


def test_a_role_changes_the_keys_of_the_user(user: User, django_capture_on_commit_callbacks: Any) -> None:
    access.users()
    reported: list[Mapping[str, KeyEntry | None]] = []
    access.subscribe(reported.append)
    with django_capture_on_commit_callbacks(execute=True):
        set_role(user)
    assert [key.key_hash for key in ApiKey.objects.all()] == [*reported[0]]


def test_a_login_does_not_count_as_an_edit(user: User, django_capture_on_commit_callbacks: Any) -> None:
    logged()
    user.last_login = datetime(2026, 4, 15, tzinfo=UTC)
    with django_capture_on_commit_callbacks() as callbacks:
        user.save(update_fields=["last_login"])
    assert logged() == set()
    assert callbacks == []


def test_djangos_last_login_signal_is_disconnected() -> None:
    names = {str(key) for (key, *_), *_ in user_logged_in.receivers}
    assert "update_last_login" not in names
    assert "access.record_login" in names


def test_deleting_a_user_deletes_the_keys(user: User, django_capture_on_commit_callbacks: Any) -> None:
    assert access.users()
    hashed = ApiKey.objects.get().key_hash
    reported: dict[str, KeyEntry | None] = {}
    access.subscribe(reported.update)
    with django_capture_on_commit_callbacks(execute=True):
        user.delete()
    assert (reported, access.key(hashed), dict(access.users())) == ({hashed: None}, None, {})
