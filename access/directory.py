"""Directory of access: users in memory, API keys by lookup. Authentication of a request does not read the database.

A process reads the users again on commit of any change of a user (access.signals), and when the change log names one,
because another process or program has changed it (endpoints.changes). API keys, of which there may be a million, are
not kept here: control looks them up in the registry store of the gateways (routerdash.publication).
"""

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from django.db import connection
from django.db.models import Case, F, Q, When
from django.db.models.functions import Greatest, Least

from access.keys.rules import read_rules
from access.models import READING, ApiKey, User, granted_permissions
from access.sessions.store import sessions
from endpoints.cached_table import Refreshed
from endpoints.fields import LAST_EXPIRY_YEAR
from gateway.registry.key_rules import KeyRules

AT_ONCE = 500  # hashes or ids in one query


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """An API key. If its owner is no administrator (any more), only reading permissions remain."""

    id: str
    hash: str
    owner_id: str
    permissions: tuple[str, ...]
    expires_at: float | None  # seconds since 1970
    external: bool = False  # it may use external endpoints
    enabled: bool = True
    rules: KeyRules | None = None  # None: no restrictions
    bulk: bool = False  # its requests are bulk requests
    replaced: str = ""  # hash of the key that this one replaced
    replaced_until: float | None = None  # seconds since 1970, at which that one expires


class Access(Refreshed[Mapping[str, KeyEntry | None]]):
    """Users of one process, and lookups of API keys. Listeners get changed keys by hash; None: it was deleted."""

    def __init__(self) -> None:
        super().__init__("users and keys")
        self._users: Mapping[str, User] | None = None
        self._remembered: Callable[[], Mapping[str, User]] = dict
        self.find_key: Callable[[str], KeyEntry | None] = read_key  # finds an API key by its hash

    def connect(self, *, find_key: Callable[[str], KeyEntry | None]) -> None:
        """Look up API keys in another way than in the database, by their hash."""
        self.find_key = find_key

    def users(self) -> Mapping[str, User]:
        """Return the users by id; the first call reads the database. Raises django.db.Error if that fails.

        Before the first read of the database, these are the users that control stored in its last run.
        """
        return self._users if self._users is not None else self._remembered() or self._read()

    def user(self, user_id: str) -> User | None:
        """Return a copy of the user, so that the caller may set attributes on it."""
        user = self.users().get(user_id)
        return copy(user) if user else None

    def remember(self, users: Callable[[], Mapping[str, User]]) -> None:
        """Use these users until the first read of the database. `users` is called once, if they are needed."""
        self._remembered = cache(users)

    def key(self, hashed: str) -> KeyEntry | None:
        """Return the API key with this hash, which may have expired."""
        return self.find_key(hashed)

    def generated_passwords(self) -> list[tuple[str, str, datetime]]:
        """Return id, name and creation time of each administrator that must change a generated password."""
        users = self._users if self._users is not None else self._remembered()
        pending = ((user_id, user) for user_id, user in users.items() if user.is_admin and user.must_change_password)
        return [(user_id, str(user.username), user.created_at) for user_id, user in pending]

    def reload(self) -> None:
        """Read the users again, and end the sessions that they do not allow.

        Raises django.db.Error; the previous users then stay in use.
        """
        with self._writing:
            sessions.follow(self._read())
        self.outdated = False

    def read_again(self, user_ids: Collection[str], hashes: Collection[str]) -> None:
        """Read users and API keys that have changed, and the keys of these users. Raises django.db.Error.

        In a process that has not read any users this does nothing: nobody needs them.
        """
        if self._users is None:
            return
        with self._writing:
            self._read_again(user_ids, hashes)

    def _read_again(self, user_ids: Collection[str], hashes: Collection[str]) -> None:
        if user_ids:
            self.reload()
        keys = {key.hash: key for key in read_key_entries(self.users(), owner_ids=user_ids)} if user_ids else {}
        keys |= {key.hash: key for key in read_key_entries(self.users(), hashes=hashes)} if hashes else {}
        changed: dict[str, KeyEntry | None] = {hashed: keys.get(hashed) for hashed in (*hashes, *keys)}
        if changed:
            self._notify(changed)

    def refresh(self, user_ids: Collection[str] = (), hashes: Collection[str] = ()) -> None:
        """Read again on commit of an edit. A database error is logged, and the old users and keys stay."""
        self._try(lambda: self.read_again(user_ids, hashes))

    def forget(self) -> None:
        """Reset to the unloaded state, for tests."""
        self._users = None
        self._remembered = dict
        self.find_key = read_key

    def _read(self) -> Mapping[str, User]:
        self._users = MappingProxyType(read_users())
        return self._users


def read_users() -> dict[str, User]:
    """Return all users by id, from the database. Raises django.db.Error."""
    return {str(user.pk): user for user in User.objects.all()}


def read_key(hashed: str) -> KeyEntry | None:
    """Return an API key from the database. Raises django.db.Error."""
    return next(read_key_entries(access.users(), hashes=(hashed,)), None)


def read_key_entries(
    users: Mapping[str, User],
    *,
    owner_ids: Collection[str] | None = None,
    hashes: Collection[str] | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Iterator[KeyEntry]:
    """Return API keys from the database, sorted by hash. Raises django.db.Error.

    `owner_ids`, `hashes`: only the keys of these users, or with these hashes, also those that replaced a key with one
    of these. `after`: only hashes after this one.
    """
    if owner_ids is not None:
        yield from _entries_in(users, "created_by", owner_ids)
    elif hashes is not None:
        keys = list(_entries_in(users, "key_hash", hashes))
        yield from keys
        known = {key.hash for key in keys}
        replacing = _entries_in(users, "replaced_hash", [hashed for hashed in hashes if hashed not in known])
        yield from (key for key in replacing if key.hash not in known)
    else:
        yield from _entries(users, Q() if after is None else Q(key_hash__gt=after), limit)


def _entries_in(users: Mapping[str, User], column: str, values: Collection[str]) -> Iterator[KeyEntry]:
    listed = sorted(values)
    for start in range(0, len(listed), AT_ONCE):
        yield from _entries(users, Q(**{f"{column}__in": listed[start : start + AT_ONCE]}), None)


def existing_keys(ids: Iterable[str]) -> set[str]:
    """Return those of these ids that API keys have. Raises django.db.Error."""
    listed = sorted(set(ids))
    existing: set[str] = set()
    for start in range(0, len(listed), AT_ONCE):
        valid = [key_id for key_id in listed[start : start + AT_ONCE] if is_uuid(key_id)]
        existing.update(map(str, ApiKey.objects.filter(id__in=valid).values_list("id", flat=True)))
    return existing


def is_uuid(text: str) -> bool:
    """Return True for an id of a key or user, as the database has it."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _entries(users: Mapping[str, User], condition: Q, limit: int | None) -> Iterator[KeyEntry]:
    rows = ApiKey.objects.filter(condition).order_by("key_hash")
    expires: F | Case = F("expires_at")
    if connection.vendor == "postgresql":
        # It has timestamps that Python cannot represent, such as infinity: one of them would make the query fail.
        bounds = datetime(LAST_EXPIRY_YEAR, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)
        clamped = Greatest(Least(F("expires_at"), bounds[0]), bounds[1])
        expires = Case(When(expires_at__isnull=False, then=clamped))
    columns = rows.annotate(expires=expires).values_list(*_COLUMNS)
    for row in (columns if limit is None else columns[:limit]).iterator():
        yield _entry(users, _KeyRow(*row))


class _KeyRow(NamedTuple):
    id: object
    key_hash: str
    created_by_id: object
    permissions: object
    expires: datetime | None
    external: bool | None
    enabled: bool | None
    rules: object
    bulk: bool | None
    replaced_hash: str | None
    replaced_until: datetime | None


_COLUMNS = _KeyRow._fields


def _entry(users: Mapping[str, User], row: _KeyRow) -> KeyEntry:
    owner = users.get(str(row.created_by_id))
    granted: Iterable[str] = granted_permissions(row.permissions)
    if owner is not None and not owner.is_admin:
        granted = (name for name in granted if name in READING)
    return KeyEntry(
        str(row.id),
        row.key_hash,
        str(row.created_by_id),
        tuple(granted),
        row.expires.timestamp() if row.expires else None,
        bool(row.external),
        row.enabled is not False,
        read_rules(row.rules),
        bool(row.bulk),
        row.replaced_hash or "",
        row.replaced_until.timestamp() if row.replaced_until else None,
    )


access = Access()
