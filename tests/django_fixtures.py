"""Fixtures of all tests with Django: clients, a frozen clock, and empty caches."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import time_machine
from django.core.management.color import no_style
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import TransactionTestCase

from access.directory import KeyEntry, access, read_key
from access.logins import failures
from access.models import READ_ENDPOINTS, User
from access.sessions.store import sessions
from endpoints.model_names.name_cache import model_names
from endpoints.registry import registry
from metrics.costs.price_cache import price_cache
from metrics.storage.notices import notices
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.metrics.records import NOW
from tests.payload_types import compared_responses


class PublishedKeys:
    """API keys by hash, as control looks them up: without the database, except for the first time."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyEntry | None] = {}

    def find(self, hashed: str) -> KeyEntry | None:
        if hashed not in self.keys:
            self.keys[hashed] = read_key(hashed)
        return self.keys[hashed]


@pytest.fixture(autouse=True, scope="session")
def _compared_responses() -> Iterator[None]:
    """Compare each response of the API with the payload that its view declares."""
    with compared_responses():
        yield


@pytest.fixture
def empty_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty the caches of this process before and after a test."""
    access.forget()
    registry.forget()
    model_names.forget()
    price_cache.forget()
    published = PublishedKeys()
    access.find_key = published.find
    monkeypatch.setattr(access, "_listeners", [published.keys.update])
    monkeypatch.setattr(registry, "_listeners", [])
    monkeypatch.setattr(model_names, "_listeners", [])
    failures.clear()
    sessions.forget()
    notices.forget()
    yield
    access.forget()
    registry.forget()
    model_names.forget()
    price_cache.forget()
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


# Rows for each model, written by migrations; no test changes them.
OF_MODELS = {"django_content_type", "auth_permission"}
# Triggers fill these while other tables are emptied.
LOGS = {"registry_changes", "deleted_keys"}


@cache
def _tables() -> list[str]:
    return sorted(set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - OF_MODELS)


def _with_rows(tables: list[str]) -> set[str]:
    quote = connection.ops.quote_name
    selects = (f"SELECT {n} WHERE EXISTS (SELECT 1 FROM {quote(table)})" for n, table in enumerate(tables))
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(selects))
        return {tables[number] for (number,) in cursor.fetchall()}


def _empty_tables(_: TransactionTestCase) -> None:
    """Empty the database after a test with committed transactions. Django's `flush` also finds all tables anew, writes
    the rows of each model anew, and truncates empty tables, which takes most of the time of such a test.
    """
    tables, on_postgresql = _tables(), connection.vendor == "postgresql"
    if on_postgresql:
        tables = sorted(_with_rows(tables) | LOGS)
    statements = connection.ops.sql_flush(no_style(), tables, allow_cascade=on_postgresql)
    connection.ops.execute_sql_flush(statements)


@pytest.fixture(scope="session", autouse=True)
def _quick_flush() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TransactionTestCase, "_fixture_teardown", _empty_tables)
        yield


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
