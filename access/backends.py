"""Authentication backend and password validators. Logins work while the database is unavailable."""

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
from access.sessions.engine import SessionStore

log = logging.getLogger(__name__)


class Backend(BaseBackend):
    """Backend that checks names and bcrypt passwords against the directory in memory."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if username is None or password is None or len(password.encode()) > MAX_PASSWORD_BYTES:
            return None  # a password over 72 bytes cannot have been set, so it is wrong
        user = _find(username)
        if user is None:
            User().set_password(password)  # takes as long as a check, so timing does not reveal which names exist
            return None
        return user if user.check_password(password) else None

    def get_user(self, user_id: Any) -> User | None:
        return access.user(str(user_id))


def _find(username: str) -> User | None:
    """Return the user with this name. Names are compared after the NFKC normalization of Django's login form."""
    normalized = User.normalize_username(username)
    users = access.users().items()
    return access.user(next((key for key, user in users if User.normalize_username(user.username) == normalized), ""))


@receiver(user_logged_in, dispatch_uid="access.record_login")
def record_login(user: User, request: HttpRequest | None = None, **kwargs: Any) -> None:
    """Store the time of the login. A database error is logged only: users can log in without a database."""
    if request is not None and isinstance(request.session, SessionStore):
        request.session.admin = user.is_admin
    try:
        User.objects.filter(pk=user.pk).update(last_login=timezone.now())
    except Error as error:
        log.warning("the login of %s could not be recorded: %s", user.username, error)


class BcryptLengthValidator:
    """Validator that rejects passwords over 72 bytes, which bcrypt would truncate."""

    def validate(self, password: str, user: User | None = None) -> None:
        if len(password.encode()) > MAX_PASSWORD_BYTES:
            raise ValidationError(too_long(password), code="password_too_long")

    def get_help_text(self) -> str:
        return _("A password may have at most 72 bytes.")


class AdministratorLengthValidator:
    """Validator that requires longer passwords for administrators. Existing passwords stay valid."""

    def __init__(self, min_length: int = 12) -> None:
        self.min_length = min_length

    def validate(self, password: str, user: User | None = None) -> None:
        if user is not None and user.is_admin and len(password) < self.min_length:
            raise ValidationError(
                _("An administrator's password must have at least %(min_length)d characters."),
                code="password_too_short",
                params={"min_length": self.min_length},
            )

    def get_help_text(self) -> str:
        return _("An administrator's password must have at least %(min_length)d characters.") % {
            "min_length": self.min_length
        }
