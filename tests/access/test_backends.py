import logging
from typing import Any

import pytest
from django.contrib.auth import authenticate, password_validation
from django.core.exceptions import ValidationError
from django.utils import timezone

from access.backends import Backend, record_login
from access.directory import access
from access.models import User
from tests.access.people import PASSWORD, Api, make_user, without_database
from tests.access.test_models import insert_user

pytestmark = pytest.mark.django_db


def known(username: str, password: str) -> str | None:
    user = authenticate(username=username, password=password)
    return None if user is None else user.get_username()


@pytest.mark.parametrize(
    ("username", "password", "expected"),
    [
        ("vera", PASSWORD, "vera"),
        ("vera", PASSWORD + " ", None),
        ("vera", PASSWORD.upper(), None),
        ("vera", "", None),
        ("Vera", PASSWORD, None),
        ("nobody", PASSWORD, None),
        ("", "", None),
    ],
)
def test_only_the_right_name_and_password_log_in(username: str, password: str, expected: str | None) -> None:
    make_user("vera")
    assert known(username, password) == expected


def test_an_adopted_hash_logs_in() -> None:
    insert_user()
    assert known("rita", PASSWORD) == "rita"
    assert known("rita", "wrong") is None


@pytest.mark.parametrize("password", ["x" * 73, PASSWORD + "x" * 72, "🔑" * 19])
def test_a_password_over_72_bytes_is_wrong(password: str) -> None:
    make_user("vera", password="x" * 72)
    assert known("vera", password) is None


def test_an_unknown_name_computes_a_hash_like_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str | None] = []
    monkeypatch.setattr(User, "set_password", lambda self, password: hashed.append(password))
    assert known("nobody", "guess") is None
    assert hashed == ["guess"]


@pytest.mark.parametrize("credentials", [{}, {"username": "vera"}, {"password": PASSWORD}, {"token": "x"}])
def test_a_name_or_password_alone_authenticates_no_user(credentials: dict[str, str]) -> None:
    make_user("vera")
    assert Backend().authenticate(None, **credentials) is None


def test_a_user_is_found_by_id() -> None:
    user = make_user()
    assert Backend().get_user(user.pk) == user
    assert Backend().get_user(str(user.pk)) == user
    assert Backend().get_user("nobody") is None


def test_logging_in_needs_no_database_once_the_users_are_read(django_assert_num_queries: Any) -> None:
    make_user("vera")
    access.users()
    with django_assert_num_queries(0):
        assert known("vera", PASSWORD) == "vera"


# The time of the last login


def test_a_login_is_recorded() -> None:
    before = timezone.now()
    user = make_user()
    Api().force_login(user)
    user.refresh_from_db()
    assert user.last_login is not None
    assert user.last_login >= before


def test_a_login_that_cannot_be_recorded_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    user = make_user()
    with caplog.at_level(logging.WARNING, "access.backends"):
        without_database(lambda: record_login(user))
    assert "could not be recorded" in caplog.text


# Validators


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("x7#" * 25, "password_too_long"),
        ("ä7#" * 19, "password_too_long"),
        ("short7#", "password_too_short"),
        ("password", "password_too_common"),
        ("vera1234", "password_too_similar"),
    ],
)
def test_a_bad_password_is_refused_when_it_is_set(password: str, code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        password_validation.validate_password(password, User(username="vera1234"))
    assert code in [error.code for error in refused.value.error_list]


def test_a_good_password_is_accepted() -> None:
    assert password_validation.validate_password(PASSWORD, User(username="vera")) is None  # type: ignore[func-returns-value]


def test_the_length_limit_is_in_the_help_text() -> None:
    assert "A password may have at most 72 bytes." in password_validation.password_validators_help_texts()


def test_administrators_passwords_are_longer() -> None:
    password_validation.validate_password("kumquat-9 x", User(username="vera"))
    with pytest.raises(ValidationError, match="at least 12 characters"):
        password_validation.validate_password("kumquat-9 x", User(username="ada", role="admin"))
    password_validation.validate_password("kumquat-9 xy", User(username="ada", role="admin"))


def test_the_error_of_a_long_password_gives_its_length() -> None:
    with pytest.raises(ValidationError, match="at most 72 bytes; this one has 192") as refused:
        User().set_password("秘" * 64)
    assert "24 Japanese characters" in refused.value.messages[0]
