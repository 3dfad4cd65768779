"""Users and API keys in memory, so that a request needs no database to know who asks.

Read whole on commit of any change (access.signals), when another process counted one, and every 30 seconds anyway.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from django.db import Error, close_old_connections, connection

from access.models import READING, ApiKey, User
from access.sessions import sessions
from endpoints.fields import LAST_EXPIRY_YEAR

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    id: str
    hash: str
    owner_id: str
    permissions: tuple[str, ...]
    expires_at: float | None  # seconds since 1970
    name: str = ""


@dataclass(frozen=True, slots=True)
class Directory:
    users: Mapping[str, User]  # by id, as text
    keys: Mapping[str, KeyEntry]  # by hash


Listener = Callable[[], None]


class Access:
    """Where a process looks users and keys up."""

    def __init__(self) -> None:
        self._directory: Directory | None = None
        self._remembered: Mapping[str, User] = {}
        self._writing = threading.Lock()
        self._listeners: list[Listener] = []

    def directory(self) -> Directory:
        """Reads the database the first time. Raises django.db.Error if that fails."""
        return self._directory or self._read()

    def users(self) -> Mapping[str, User]:
        """By their ids; before the database has been read once, those that control remembers of its last run."""
        if self._directory is None and self._remembered:
            return self._remembered
        return self.directory().users

    def user(self, user_id: str) -> User | None:
        """A copy: whoever gets it may set attributes on it."""
        found = self.users().get(user_id)
        return copy(found) if found else None

    def remember(self, users: Mapping[str, User]) -> None:
        """Go by these users until the database has been read once. Their keys are not known: scripts have to wait."""
        self._remembered = users

    def key(self, hashed: str) -> KeyEntry | None:
        return self.directory().keys.get(hashed)

    def key_names(self) -> dict[str, str]:
        """What API keys are called, by their ids; none while nothing has been read."""
        return {key.id: key.name for key in self._directory.keys.values()} if self._directory else {}

    def generated_passwords(self) -> list[tuple[str, str, datetime]]:
        """Administrators who must still change theirs: id, name, and when they were made."""
        users = self._directory.users if self._directory else self._remembered
        found = ((user_id, user) for user_id, user in users.items() if user.is_admin and user.must_change_password)
        return [(user_id, str(user.username), user.created_at) for user_id, user in found]

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def reload(self) -> None:
        """Read everything again. Raises django.db.Error, and then keeps what it had."""
        sessions.follow(self._read().users)
        for listener in self._listeners:
            listener()

    def reload_if_possible(self) -> None:
        try:
            self.reload()
        except Error as error:
            log.warning("users and keys could not be read again: %s", error)
            close_old_connections()  # the next look, within 30 seconds, tries again

    def forget(self) -> None:
        """As if never loaded; for tests."""
        self._directory = None
        self._remembered = {}

    def _read(self) -> Directory:
        with self._writing:
            users = {str(user.pk): user for user in User.objects.all()}
            keys = {row.key_hash: _entry(row, users) for row in _rows()}
            self._directory = Directory(MappingProxyType(users), MappingProxyType(keys))
            return self._directory


access = Access()


def _rows() -> Iterable[ApiKey]:
    """All keys. PostgreSQL's moments that Python has none for (infinity, say) must not hide the other rows."""
    if connection.vendor != "postgresql":
        return ApiKey.objects.all()
    fields = ", ".join(str(field.column) for field in ApiKey._meta.concrete_fields if field.name != "expires_at")
    expiry = "CASE WHEN expires_at IS NOT NULL THEN GREATEST(LEAST(expires_at, %s), %s) END AS expires_at"
    bounds = (datetime(LAST_EXPIRY_YEAR, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC))
    return ApiKey.objects.raw(f"SELECT {fields}, {expiry} FROM api_keys", bounds)  # noqa: S608


def _entry(row: ApiKey, users: Mapping[str, User]) -> KeyEntry:
    """A key may do what it says, and no more than its owner: whoever is no administrator any more only reads."""
    expires = row.expires_at.timestamp() if row.expires_at else None
    owner = users.get(str(row.created_by_id))
    granted = row.granted if owner is None or owner.is_admin else tuple(it for it in row.granted if it in READING)
    return KeyEntry(str(row.pk), row.key_hash, str(row.created_by_id), granted, expires, row.name)
