"""Users as control's own file keeps them, for a start without the database: enough to log in and to be known.

The password's hash is sealed with the key that seals upstream secrets.
"""

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime

import msgspec
from django.db import DEFAULT_DB_ALIAS

from access.models import User
from endpoints.keys import sealer
from gateway.sealing import Unsealable

log = logging.getLogger(__name__)


class Person(msgspec.Struct, frozen=True):
    id: str
    username: str
    role: str
    must_change_password: bool
    view_bodies: bool | None
    created_at: datetime
    password: str  # sealed


def facts(user: User) -> tuple[object, ...]:
    """What is told of a user."""
    return user.username, user.role, user.must_change_password, user.view_bodies, user.password


def tell(user: User) -> str:
    person = Person(
        id=str(user.pk),
        username=user.username,
        role=user.role,
        must_change_password=user.must_change_password,
        view_bodies=user.view_bodies,
        created_at=user.created_at,
        password=sealer().seal(user.password),
    )
    return msgspec.json.encode(person).decode()


def remembered(told: Mapping[str, str]) -> dict[str, User]:
    """Users by their ids. One whose password was sealed with a key that is gone is left out."""
    found = {}
    for text in told.values():
        try:
            person = msgspec.json.decode(text, type=Person)
            found[person.id] = _user(person, sealer().open(person.password))
        except (msgspec.MsgspecError, ValueError, Unsealable) as error:
            log.warning("a user cannot be read from the sessions' file: %s", error)
    return found


def _user(person: Person, password: str) -> User:
    user = User(
        id=uuid.UUID(person.id),
        username=person.username,
        role=person.role,
        must_change_password=person.must_change_password,
        view_bodies=person.view_bodies,
        created_at=person.created_at,
        password=password,
    )
    user._state.adding, user._state.db = False, DEFAULT_DB_ALIAS  # a row that exists
    return user
