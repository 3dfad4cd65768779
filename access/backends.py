"""Logging in, and knowing who is logged in while the database is away."""

import logging
from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ValidationError
from django.db import Error
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from access.directory import access
from access.models import MAX_PASSWORD_BYTES, User, too_long
from access.session_engine import SessionStore

log = logging.getLogger(__name__)


class Backend(BaseBackend):
    """Names and bcrypt passwords, against the directory in memory."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if username is None or password is None or len(password.encode()) > MAX_PASSWORD_BYTES:
            return None  # over 72 bytes it cannot have been set: it is simply wrong
        found = _find(username)
        if found is None:
            User().set_password(password)  # as slow as a wrong password: names cannot be told apart by time
            return None
        return found if found.check_password(password) else None

    def get_user(self, user_id: Any) -> User | None:
        return access.user(str(user_id))


def _find(username: str) -> User | None:
    """By name, in the form that Django's login form brings it into (NFKC)."""
    wanted = User.normalize_username(username)
    users = access.users().items()
    return access.user(next((key for key, user in users if User.normalize_username(user.username) == wanted), ""))


@receiver(user_logged_in, dispatch_uid="access.note_login")
def note_login(user: User, request: HttpRequest | None = None, **kwargs: Any) -> None:
    """The time of the login, if the database takes it: without one, people still get in."""
    if request is not None and isinstance(request.session, SessionStore):
        request.session.admin = user.is_admin
    try:
        User.objects.filter(pk=user.pk).update(last_login=timezone.now())
    except Error as error:
        log.warning("the login of %s could not be noted: %s", user.username, error)


class BcryptLengthValidator:
    """A password that bcrypt would cut is refused when it is set."""

    def validate(self, password: str, user: User | None = None) -> None:
        if len(password.encode()) > MAX_PASSWORD_BYTES:
            raise ValidationError(too_long(password), code="password_too_long")

    def get_help_text(self) -> str:
        return _("A password has at most 72 bytes.")


class AdministratorLengthValidator:
    """Administrators' passwords are longer than the others'. One that is set already goes on."""

    def __init__(self, min_length: int = 12) -> None:
        self.min_length = min_length

    def validate(self, password: str, user: User | None = None) -> None:
        if user is not None and user.is_admin and len(password) < self.min_length:
            raise ValidationError(
                _("The password of an administrator has at least %(min_length)d characters."),
                code="password_too_short",
                params={"min_length": self.min_length},
            )

    def get_help_text(self) -> str:
        return _("The password of an administrator has at least %(min_length)d characters.") % {
            "min_length": self.min_length
        }
