"""Stored form of users in control's session file, for logins after a start without the database.

The password hash is sealed with the key that seals upstream secrets.
"""

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime

import msgspec
from django.db import DEFAULT_DB_ALIAS

from access.models import User
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


def facts(user: User) -> tuple[object, ...]:
    """Return the stored attributes of a user, to detect changes."""
    return user.username, user.role, user.must_change_password, user.view_bodies, user.password


def encode_user(user: User) -> str:
    stored = StoredUser(
        id=str(user.pk),
        username=user.username,
        role=user.role,
        must_change_password=user.must_change_password,
        view_bodies=user.view_bodies,
        created_at=user.created_at,
        password=sealer().seal(user.password),
    )
    return msgspec.json.encode(stored).decode()


def decode_users(texts: Mapping[str, str]) -> dict[str, User]:
    """Return the users by id.

    A user that cannot be decoded, or whose password was sealed with another key, is logged and left out.
    """
    users = {}
    for text in texts.values():
        try:
            stored = msgspec.json.decode(text, type=StoredUser)
            users[stored.id] = _user(stored, sealer().open(stored.password))
        except (msgspec.MsgspecError, ValueError, Unsealable) as error:
            log.warning("a user cannot be read from the session file: %s; this user is left out", error)
    return users


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
