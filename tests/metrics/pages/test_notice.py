"""Administrators of an installation that is upgraded see once that requests are routed in another way."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from access.models import User
from metrics.models import Installation
from metrics.storage import database
from metrics.storage.notices import ADAPTIVE_BY_DEFAULT, notices
from tests.access.people import session_of, without_database

DISMISS = f"/notices/{ADAPTIVE_BY_DEFAULT}/dismiss"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_caches")]


@pytest.fixture
def _upgraded() -> None:
    database.database_id()
    Installation.objects.update(notices=[ADAPTIVE_BY_DEFAULT, "another"])


def shows(user: User) -> bool:
    response = session_of(user).get("/")
    assert response.status_code == 200
    return f'data-notice="{ADAPTIVE_BY_DEFAULT}"' in response.content.decode()


@pytest.mark.usefixtures("_upgraded")
def test_administrators_see_the_notice_until_it_is_dismissed(admin: User, viewer: User) -> None:
    assert (shows(admin), shows(viewer)) == (True, False)
    response = session_of(admin).post(DISMISS)
    assert (response.status_code, response.headers["location"]) == (302, "/")
    assert not shows(admin)
    notices.forget()  # a restart
    assert not shows(admin)
    assert Installation.objects.get().notices == ["another"]


@pytest.mark.usefixtures("_upgraded")
def test_only_a_post_of_an_administrator_dismisses(admin: User, viewer: User) -> None:
    assert session_of(viewer).post(DISMISS).status_code == 403
    assert session_of(admin).get(DISMISS).status_code == 405
    assert shows(admin)


@pytest.mark.usefixtures("_upgraded")
def test_who_stays_with_the_old_balancer_sees_nothing(admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, balancer="least_inflight"))
    assert not shows(admin)


def test_a_new_installation_has_no_notice(admin: User) -> None:
    assert not shows(admin)  # before its first start is over
    database.database_id()
    notices.forget()
    assert not shows(admin)
    session_of(admin).post(DISMISS)
    assert Installation.objects.get().notices is None


def test_a_notice_is_read_once() -> None:
    database.database_id()
    assert notices.unread() == frozenset()
    assert without_database(notices.unread) == frozenset()


@pytest.mark.usefixtures("_upgraded")
def test_a_notice_appears_once_the_database_can_be_read() -> None:
    assert without_database(notices.unread) == frozenset()
    assert ADAPTIVE_BY_DEFAULT in notices.unread()


# The upgrade


@pytest.fixture
def _before() -> Iterator[None]:
    executor = MigrationExecutor(connection)
    latest = executor.loader.graph.leaf_nodes()  # other apps may depend on it
    executor.migrate([("metrics", "0015_queue_class")])
    yield
    MigrationExecutor(connection).migrate(latest)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_before")
@pytest.mark.parametrize("existed", [True, False])
def test_an_upgrade_adds_the_notice(existed: bool) -> None:
    executor = MigrationExecutor(connection)
    if existed:
        before = executor.loader.project_state([("metrics", "0015_queue_class")]).apps
        before.get_model("metrics", "Installation").objects.create(
            database_id="x", created_at="2026-01-01T00:00:00+00:00"
        )
    executor.migrate([("metrics", "0016_notices")])
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    database.database_id()
    assert Installation.objects.get().notices == ([ADAPTIVE_BY_DEFAULT] if existed else None)
