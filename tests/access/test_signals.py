from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.signals import user_logged_in
from django.db import transaction

from access.directory import access
from access.models import ApiKey, User
from endpoints import changes
from tests.access.people import key_for, make_user

pytestmark = pytest.mark.django_db


def counted() -> int:
    return changes.read().get(changes.ACCESS, 0)


EDITS: dict[str, Callable[[User], Any]] = {
    "a user": lambda user: make_user("new"),
    "a user's save": lambda user: user.save(),
    "a user's role": lambda user: user.save(update_fields=["role"]),
    "a user's end": lambda user: user.delete(),
    "a key": lambda user: key_for(user, name="new"),
    "a key's name": lambda user: ApiKey.objects.get().save(update_fields=["name"]),
    "a key's end": lambda user: ApiKey.objects.get().delete(),
}
every_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


@pytest.fixture
def user(db: None) -> User:
    user = make_user()
    key_for(user)
    return user


@every_edit
def test_edits_are_counted_for_other_processes(user: User, edit: Callable[[User], Any]) -> None:
    before = counted()
    edit(user)
    assert counted() > before


@every_edit
def test_edits_that_roll_back_are_not_counted(user: User, edit: Callable[[User], Any]) -> None:
    before = counted()
    with transaction.atomic():
        edit(user)
        transaction.set_rollback(True)
    assert counted() == before


@every_edit
def test_edits_are_read_again_on_commit(
    user: User, edit: Callable[[User], Any], django_capture_on_commit_callbacks: Any
) -> None:
    before = access.directory()
    with django_capture_on_commit_callbacks(execute=True):
        edit(user)
        assert access.directory() is before
    assert access.directory() is not before


def test_a_login_alone_concerns_nobody_else(user: User, django_capture_on_commit_callbacks: Any) -> None:
    before = counted()
    with django_capture_on_commit_callbacks() as callbacks:
        user.save(update_fields=["last_login"])
    assert counted() == before
    assert callbacks == []


def test_djangos_own_note_of_a_login_is_disconnected() -> None:
    names = {str(key) for (key, *_), *_ in user_logged_in.receivers}
    assert "update_last_login" not in names
    assert "access.note_login" in names


def test_a_deleted_user_takes_the_keys_out_of_the_directory(
    user: User, django_capture_on_commit_callbacks: Any
) -> None:
    assert access.directory().keys
    with django_capture_on_commit_callbacks(execute=True):
        user.delete()
    assert not access.directory().keys
    assert not access.directory().users
