"""Fixtures of all tests with Django: who calls, and a process that remembers nothing of the test before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from access.directory import access
from access.logins import failures
from access.models import READ_ENDPOINTS, User
from access.sessions import sessions
from endpoints.registry import registry
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test left in the caches of this process must not be there for the next."""
    for cache in (access, registry):
        cache.forget()
        monkeypatch.setattr(cache, "_listeners", [])
    failures.clear()
    sessions.forget()
    yield
    access.forget()
    registry.forget()


@pytest.fixture
def admin(db: None) -> User:
    return make_admin()


@pytest.fixture
def viewer(db: None) -> User:
    return make_user()


@pytest.fixture
def as_admin(admin: User) -> Api:
    return session_of(admin)


@pytest.fixture
def as_viewer(viewer: User) -> Api:
    return session_of(viewer)


@pytest.fixture
def script(admin: User) -> Api:
    """A client with a key that may read endpoints."""
    return with_key(key_for(admin, READ_ENDPOINTS))


@pytest.fixture
def anybody(db: None) -> Api:
    return Api()


@contextmanager
def connections_made() -> Iterator[list[BaseDatabaseWrapper]]:
    """Those to the database that are made meanwhile, by any thread."""
    made: list[BaseDatabaseWrapper] = []

    def connected(connection: BaseDatabaseWrapper, **_: Any) -> None:
        made.append(connection)

    connection_created.connect(connected)
    try:
        yield made
    finally:
        connection_created.disconnect(connected)
