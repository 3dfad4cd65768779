from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from access.bootstrap import BOOTSTRAP, WeakPassword, ensure_admin, ensure_bootstrap_key
from access.directory import access
from access.models import PERMISSIONS, ApiKey, User, hash_key
from gateway.base import config
from tests.access.people import PASSWORD, key_for, make_admin, make_user

pytestmark = pytest.mark.django_db
KEY, OTHER = "sk_" + "a" * 32, "sk_" + "b" * 32


def settings(**environment: str) -> config.Config:
    return config.load({f"ROUTERDASH_{name}": value for name, value in environment.items()})


def with_key(key: str = "") -> config.Config:
    return settings(BOOTSTRAP_API_KEY=key)


# The first administrator


def test_the_first_administrator_must_change_the_generated_password() -> None:
    password = ensure_admin(settings())
    admin = User.objects.get()
    assert (admin.username, admin.role, admin.must_change_password) == ("admin", "admin", True)
    assert password is not None
    assert len(password) >= 16
    assert admin.check_password(password)


def test_generated_passwords_differ() -> None:
    first = ensure_admin(settings())
    User.objects.all().delete()
    assert ensure_admin(settings()) != first


def test_a_configured_password_is_used_and_need_not_change() -> None:
    assert ensure_admin(settings(ADMIN_USERNAME="root", ADMIN_PASSWORD=PASSWORD)) is None
    admin = User.objects.get()
    assert (admin.username, admin.must_change_password) == ("root", False)
    assert admin.check_password(PASSWORD)


def test_a_configured_password_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        ensure_admin(settings(ADMIN_PASSWORD=PASSWORD))
    assert "created the administrator admin" in caplog.text
    assert PASSWORD not in caplog.text


def test_an_administrator_of_any_name_is_enough() -> None:
    make_admin("ada")
    assert ensure_admin(settings(ADMIN_PASSWORD="another battery staple")) is None
    assert User.objects.get().check_password(PASSWORD)


def test_viewers_are_not_enough() -> None:
    make_user("vera")
    ensure_admin(settings())
    assert User.objects.filter(role="admin").count() == 1


# The bootstrap key


@pytest.fixture
def ada(db: None) -> User:
    return make_admin("ada", created_at=datetime(2026, 1, 1, tzinfo=UTC))


def bootstrap_keys() -> list[str]:
    return list(ApiKey.objects.filter(name=BOOTSTRAP).values_list("key_hash", flat=True))


def test_the_key_belongs_to_the_oldest_administrator(ada: User) -> None:
    make_admin("younger", created_at=datetime(2026, 2, 1, tzinfo=UTC))
    make_user("older", created_at=datetime(2025, 1, 1, tzinfo=UTC))
    ensure_bootstrap_key(with_key(KEY))
    row = ApiKey.objects.get()
    assert (row.name, row.created_by, row.key_hash, row.key_prefix) == ("bootstrap", ada, hash_key(KEY), KEY[:10])
    assert set(row.granted) == set(PERMISSIONS)
    assert row.expires_at is None


def test_a_second_start_creates_no_second_key(ada: User) -> None:
    ensure_bootstrap_key(with_key(KEY))
    before = ApiKey.objects.get().pk
    ensure_bootstrap_key(with_key(KEY))
    assert ApiKey.objects.get().pk == before


def test_another_key_replaces_the_old_one(ada: User) -> None:
    ensure_bootstrap_key(with_key(KEY))
    ensure_bootstrap_key(with_key(OTHER))
    assert bootstrap_keys() == [hash_key(OTHER)]


def test_the_key_is_removed_with_its_setting(ada: User) -> None:
    ensure_bootstrap_key(with_key(KEY))
    ensure_bootstrap_key(with_key())
    assert bootstrap_keys() == []


def test_a_key_of_another_user_stays_theirs(ada: User) -> None:
    key_for(ada, name="mine", key=KEY)
    ensure_bootstrap_key(with_key(KEY))
    assert ApiKey.objects.get().name == "mine"


@pytest.mark.parametrize("config", [with_key(), with_key(KEY)])
def test_other_keys_are_unchanged(ada: User, config: config.Config) -> None:
    key_for(ada, name="mine")
    ensure_bootstrap_key(config)
    assert ApiKey.objects.filter(name="mine").exists()


def test_without_an_administrator_there_is_no_key(db: None) -> None:
    make_user()
    ensure_bootstrap_key(with_key(KEY))
    assert not ApiKey.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("change", [lambda: with_key(OTHER), with_key])
def test_a_replaced_key_is_invalid_at_once(change: Callable[[], Any]) -> None:
    make_admin()
    ensure_bootstrap_key(with_key(KEY))
    assert access.key(hash_key(KEY)) is not None
    ensure_bootstrap_key(change())
    assert access.key(hash_key(KEY)) is None


def test_the_key_is_never_logged(ada: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        ensure_bootstrap_key(with_key(KEY))
    assert KEY not in caplog.text


def test_a_users_key_with_the_same_name_stays() -> None:
    ada = make_admin()
    theirs = key_for(ada, "openai.inference", name=BOOTSTRAP)
    ensure_bootstrap_key(with_key())
    ensure_bootstrap_key(with_key(KEY))
    assert {row.key_hash for row in ApiKey.objects.all()} == {hash_key(theirs), hash_key(KEY)}
    ensure_bootstrap_key(with_key())
    assert [row.key_hash for row in ApiKey.objects.all()] == [hash_key(theirs)]


@pytest.mark.parametrize("password", ["a", "eleven char", "password1234", "administrator"])
def test_the_first_password_follows_the_password_rules(password: str) -> None:
    with pytest.raises(WeakPassword, match=r"^ROUTERDASH_ADMIN_PASSWORD cannot be used: ") as refused:
        ensure_admin(settings(ADMIN_PASSWORD=password, ADMIN_USERNAME="administrator"))
    assert "\n" not in str(refused.value)
    assert not User.objects.exists()


def test_a_weak_first_password_is_ignored_if_an_administrator_exists() -> None:
    make_admin()
    assert ensure_admin(settings(ADMIN_PASSWORD="a")) is None
