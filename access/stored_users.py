"""Stored form of users in control's session file, for logins after a start without the database.

The password hash is sealed with the key that seals upstream secrets. It is opened only if the database is away, because
the library for that takes 8 MiB.
"""

import logging
import uuid
from collections.abc import Iterable
from datetime import datetime

import msgspec
from django.db import DEFAULT_DB_ALIAS

from access.models import Role, User
from endpoints.sealer import sealer
from gateway.base.sealing import Unsealable

log = logging.getLogger(__name__)


class StoredUser(msgspec.Struct, frozen=True):
    id: str
    username: str
    role: str
    must_change_password: bool
    view_bodies: bool | None
    created_at: datetime
    password: str  # sealed
    mark: str = ""  # of the password, by Sealer.mark: shows whether the user has another one now

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN

    def is_of(self, user: User) -> bool:
        """Return True if this is what the user is now. It opens no password."""
        return (self.username, self.role, self.must_change_password, self.view_bodies, self.mark) == (
            user.username,
            user.role,
            user.must_change_password,
            user.view_bodies,
            sealer().mark(user.password),
        )


def stored_user(user: User) -> StoredUser:
    return StoredUser(
        id=str(user.pk),
        username=user.username,
        role=user.role,
        must_change_password=user.must_change_password,
        view_bodies=user.view_bodies,
        created_at=user.created_at,
        password=sealer().seal(user.password),
        mark=sealer().mark(user.password),
    )


def encode_user(user: StoredUser) -> str:
    return msgspec.json.encode(user).decode()


def decode_users(texts: Iterable[str]) -> dict[str, StoredUser]:
    """Return the users by id. A user that cannot be decoded is logged and left out."""
    users = {}
    for text in texts:
        try:
            user = msgspec.json.decode(text, type=StoredUser)
            users[str(uuid.UUID(user.id))] = user
        except (msgspec.MsgspecError, ValueError) as error:
            _warn(error)
    return users


def open_users(stored: Iterable[StoredUser]) -> dict[str, User]:
    """Return the users by id. A user whose password was sealed with another key is logged and left out."""
    users = {}
    for user in stored:
        try:
            users[user.id] = _user(user, sealer().open(user.password))
        except Unsealable as error:
            _warn(error)
    return users


def _warn(error: Exception) -> None:
    log.warning("a user cannot be read from the session file: %s; this user is left out", error)


def _user(stored: StoredUser, password: str) -> User:
    user = User(
        id=uuid.UUID(stored.id),
        username=stored.username,
        role=stored.role,
        must_change_password=stored.must_change_password,
        view_bodies=stored.view_bodies,
        created_at=stored.created_at,
        password=password,
    )
    user._state.adding, user._state.db = False, DEFAULT_DB_ALIAS  # mark it as an existing row
    return user
