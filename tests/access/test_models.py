import hashlib
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.hashers import BCryptPasswordHasher
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from access.models import PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User, hash_key, new_key
from tests.access.people import PASSWORD, make_admin, make_user

pytestmark = pytest.mark.django_db
HASH = "$2b$12$KcjRCsnOgw7JlhC/x.WCfO9pqzQaLoalj/23IE.6gQbt41vSPmsKK"  # of PASSWORD, as llmlb stores it


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def insert_user(password_hash: str = HASH, role: str = "viewer") -> User:
    """Insert a row as llmlb does."""
    columns = "INSERT INTO users (id, username, password_hash, role, created_at)"
    sql(
        f"{columns} VALUES (%s, 'rita', %s, %s, %s)",
        str(uuid.uuid4()),
        password_hash,
        role,
        "2026-04-15T01:02:03+00:00",
    )
    return User.objects.get(username="rita")


# Passwords


def test_a_password_is_stored_as_a_bare_bcrypt_hash() -> None:
    make_user()
    ((stored,),) = sql("SELECT password_hash FROM users")
    assert re.fullmatch(r"\$2b\$\d\d\$[./A-Za-z0-9]{53}", stored)


def test_our_hasher_does_not_update_an_adopted_hash() -> None:
    assert BCryptPasswordHasher().verify(PASSWORD, f"bcrypt${HASH}")
    assert not BCryptPasswordHasher().must_update(f"bcrypt${HASH}")


def test_a_hash_of_llmlb_is_verified() -> None:
    user = insert_user()
    assert user.password == f"bcrypt${HASH}"
    assert user.check_password(PASSWORD)
    assert not user.check_password(PASSWORD + "!")


def test_saving_keeps_an_adopted_hash() -> None:
    insert_user().save()
    assert sql("SELECT password_hash FROM users") == [(HASH,)]


@pytest.mark.parametrize("odd", ["", "plain text", "$argon2id$v=19$m=1", "!unusable"])
def test_a_hash_of_another_algorithm_matches_no_password(odd: str) -> None:
    user = insert_user(odd)
    assert user.password == odd
    assert not user.check_password(odd)


@pytest.mark.parametrize("password", ["x" * 72, "ä" * 36, "パ" * 24, "🔑" * 18])
def test_72_bytes_can_be_set(password: str) -> None:
    user = make_user(password=password)
    assert User.objects.get(pk=user.pk).check_password(password)


@pytest.mark.parametrize("password", ["x" * 73, "ä" * 37, "パ" * 24 + "x", "🔑" * 19])
def test_more_than_72_bytes_are_refused(password: str) -> None:
    with pytest.raises(ValidationError, match="at most 72 bytes"):
        make_user(password=password)
    assert not User.objects.exists()


def test_the_field_is_looked_up_by_the_bare_hash() -> None:
    insert_user()
    assert User.objects.filter(password=f"bcrypt${HASH}").count() == 1


# Users


def test_an_administrator_is_staff_with_every_permission() -> None:
    admin = User.objects.create_superuser("ada", PASSWORD)
    assert (admin.role, admin.is_admin, admin.is_staff, admin.is_superuser) == ("admin", True, True, True)
    assert admin.has_perm("endpoints.change_endpoint")
    assert admin.has_perms(["a", "b"])
    assert admin.has_module_perms("endpoints")


def test_a_viewer_is_not_staff_and_has_no_permission() -> None:
    viewer = make_user()
    assert (viewer.role, viewer.is_admin, viewer.is_staff, viewer.is_superuser) == ("viewer", False, False, False)
    assert not viewer.has_perm("endpoints.view_endpoint")
    assert not viewer.has_perms(["a"])
    assert not viewer.has_module_perms("endpoints")


@pytest.mark.parametrize("granted", [True, False, None])
def test_a_viewer_may_be_granted_bodies_and_nothing_else(granted: bool | None) -> None:
    viewer = User(role="viewer", view_bodies=granted)
    assert viewer.has_perm("metrics.view_bodies") is bool(granted)
    assert not viewer.has_perms(["metrics.view_bodies", "metrics.view_requesthistory"])


def test_permissions_follow_the_role() -> None:
    user = make_user()
    user.role = "admin"
    assert user.is_staff
    assert user.is_superuser


def test_a_user_of_llmlb_has_the_defaults_of_the_table() -> None:
    user = insert_user()
    assert (user.must_change_password, user.last_login, user.is_active) == (False, None, True)
    assert user.created_at == datetime(2026, 4, 15, 1, 2, 3, tzinfo=UTC)


def test_usernames_are_unique() -> None:
    make_user("vera")
    with pytest.raises(IntegrityError), transaction.atomic():
        make_user("vera")


def test_there_are_two_roles() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        insert_user(role="user")


def test_rows_have_readable_names() -> None:
    admin = make_admin()
    assert str(admin) == "ada"
    assert str(ApiKey.issue(admin, "script", [])[0]) == "script"


# Keys


def test_a_key_is_hashed_like_in_llmlb() -> None:
    assert hash_key("sk_abc") == hashlib.sha256(b"sk_abc").hexdigest()


def test_a_new_key_has_the_format_of_llmlb() -> None:
    keys = {new_key() for _ in range(20)}
    assert len(keys) == 20
    assert all(re.fullmatch(r"sk_[A-Za-z0-9]{32}", key) for key in keys)


def test_the_plain_key_is_not_stored() -> None:
    row, key = ApiKey.issue(make_admin(), "script", PERMISSIONS)
    assert key not in str(sql("SELECT * FROM api_keys"))
    assert (row.key_hash, row.key_prefix) == (hash_key(key), key[:10])


def test_a_given_key_is_stored() -> None:
    assert ApiKey.issue(make_admin(), "script", [], key="sk_given")[1] == "sk_given"


def test_permissions_are_stored_as_a_sorted_list() -> None:
    ApiKey.issue(make_admin(), "script", ["openai.models.read", "endpoints.read"])
    assert ApiKey.objects.get().permissions == ["endpoints.read", "openai.models.read"]


@pytest.mark.parametrize(
    ("stored", "granted"),
    [
        (["openai.inference"], ("openai.inference",)),
        ([], ()),
        (None, ()),
        ("openai.inference", ()),
        ({"openai.inference": True}, ()),
        (["openai.inference", 7, None], ("openai.inference",)),
    ],
)
def test_permissions_that_are_not_a_list_grant_nothing(stored: Any, granted: tuple[str, ...]) -> None:
    row = ApiKey(created_by=make_admin(), name="script", permissions=stored, key_hash="x")
    row.save()
    assert ApiKey.objects.get().granted == granted


def test_a_key_of_llmlb_is_read() -> None:
    admin = make_admin()
    columns = "INSERT INTO api_keys (id, key_hash, name, created_by, created_at, expires_at, key_prefix, permissions)"
    sql(
        f"{columns} VALUES (%s, 'h', 'theirs', %s, %s, %s, 'sk_AbCdEfG', '[\"openai.inference\"]')",
        str(uuid.uuid4()),
        str(admin.pk),
        "2026-04-15T01:02:03+00:00",
        "2027-04-15T01:02:03.123+00:00",
    )
    row = ApiKey.objects.get()
    assert (row.created_by, row.granted) == (admin, ("openai.inference",))
    assert row.expires_at == datetime(2027, 4, 15, 1, 2, 3, 123000, tzinfo=UTC)


def test_names_of_keys_are_unique_per_owner() -> None:
    admin = make_admin()
    ApiKey.issue(admin, "script", [])
    ApiKey.issue(make_user(), "script", [])
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.issue(admin, "script", [])


def test_the_same_key_cannot_be_created_twice() -> None:
    admin = make_admin()
    ApiKey.issue(admin, "one", [], key="sk_same")
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.issue(admin, "two", [], key="sk_same")


def test_keys_are_deleted_with_their_owner() -> None:
    admin = make_admin()
    ApiKey.issue(admin, "script", [])
    admin.delete()
    assert not ApiKey.objects.exists()


def test_an_expiry_is_stored_to_the_microsecond() -> None:
    expires = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)
    ApiKey.issue(make_admin(), "script", [], expires)
    assert ApiKey.objects.get().expires_at == expires


def test_viewers_permissions_are_a_subset() -> None:
    assert set(VIEWER_PERMISSIONS) < set(PERMISSIONS)
    assert len(PERMISSIONS) == 11
