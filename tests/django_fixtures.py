"""Fixtures of all tests with Django: clients, a frozen clock, and empty caches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import time_machine
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from access.directory import KeyEntry, access, read_key
from access.logins import failures
from access.models import READ_ENDPOINTS, User
from access.sessions.store import sessions
from endpoints.model_names.registry import model_names
from endpoints.registry import registry
from metrics.prices.registry import price_registry
from metrics.storage.notices import notices
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.metrics.records import NOW


class PublishedKeys:
    """API keys by hash, as control looks them up: without the database, except for the first time."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyEntry | None] = {}

    def find(self, hashed: str) -> KeyEntry | None:
        if hashed not in self.keys:
            self.keys[hashed] = read_key(hashed)
        return self.keys[hashed]


@pytest.fixture
def empty_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty the caches of this process before and after a test."""
    access.forget()
    registry.forget()
    model_names.forget()
    price_registry.forget()
    published = PublishedKeys()
    access.find_key = published.find
    monkeypatch.setattr(access, "_key_listeners", [published.keys.update])
    monkeypatch.setattr(registry, "_listeners", [])
    monkeypatch.setattr(model_names, "_listeners", [])
    failures.clear()
    sessions.forget()
    notices.forget()
    yield
    access.forget()
    registry.forget()
    model_names.forget()
    price_registry.forget()
    notices.forget()


@pytest.fixture
def frozen_clock() -> Iterator[None]:
    """Stop the clock at the time of the records in tests/metrics/records.py."""
    with time_machine.travel(NOW, tick=False):
        yield


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
    """Yield the database connections that any thread opens in the meantime."""
    made: list[BaseDatabaseWrapper] = []

    def connected(connection: BaseDatabaseWrapper, **_: Any) -> None:
        made.append(connection)

    connection_created.connect(connected)
    try:
        yield made
    finally:
        connection_created.disconnect(connected)
