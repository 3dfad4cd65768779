"""Edge cases: error responses of all kinds, backups, interrupted adoptions."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.test import Client, RequestFactory

from access.directory import access
from gateway.base.config import Config, load
from gateway.ipc.live_page import LivePage
from gateway.registry.writer import RegistryWriter
from metrics.memory.runtime import runtime
from routerdash.processes import data_directory, prepare
from routerdash.processes.control import Control
from routerdash.processes.data_directory import CannotStart
from routerdash.processes.wiring import make_services
from routerdash.web import errors
from tests.access.people import Api
from tests.metrics.records import NOW, request
from tests.metrics.world import World, without
from tests.reference.make_reference_db import make
from tests.routerdash.commands import manage, one_line, python
from tests.routerdash.processes.test_prepare import serve

HEADER = "Content-Security-Policy"


# Responses


def test_a_form_without_a_csrf_token_gets_our_error_page() -> None:
    response = Client(enforce_csrf_checks=True).post("/login", {"username": "ada", "password": "x"})
    assert response.status_code == 403
    assert b"<style" not in response.content
    assert b"The form has expired. Reload its page and submit it again." in response.content


@pytest.mark.django_db
def test_a_refused_schema_is_refused_in_json(anybody: Api) -> None:
    response = anybody.get("/api/schema/")
    assert response.status_code == 401
    assert response["Content-Type"] == "application/json"


def test_errors_of_django_have_the_error_shape_of_the_api() -> None:
    response = errors.api_error(PermissionDenied(), {"request": RequestFactory().get("/api/x"), "view": None})
    assert response is not None
    assert set(response.data) == {"error"}


@pytest.mark.parametrize("path", ["/", "/account/password", "/admin/"])
@pytest.mark.django_db(transaction=True)
def test_a_logged_in_user_gets_an_error_without_the_database(as_viewer: Api, path: str) -> None:
    """Control started without a database: it has no users yet."""
    as_viewer.raise_request_exception = False
    access.forget()
    with without("users"):
        assert as_viewer.get(path).status_code == 503


@pytest.mark.django_db(transaction=True)
def test_live_events_without_the_database_respond_with_a_json_error(as_viewer: Api) -> None:
    access.forget()
    with without("users"):
        response = as_viewer.get("/api/dashboard/events")
    assert response.status_code == 503
    assert response["Content-Type"] == "application/json"


def test_health_does_not_contain_the_address_of_the_database(
    client: Client, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the database driver contain host, port and user; these two paths need no login."""
    monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
    shown_world.writer.backlog.error = 'connection to server at "10.0.0.5", port 5432 failed: FATAL: role "figures"'
    for path in ("/health", "/ready"):
        assert "10.0.0.5" not in client.get(path).content.decode()


@pytest.mark.django_db(transaction=True)
def test_requests_are_counted_after_a_start_without_a_database(
    config: Config, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overview shows it; no other figure would change without the database."""
    monkeypatch.setattr(settings, "ROUTERDASH", config)
    data_directory.create(config)
    with closing(RegistryWriter(config.registry_dir, LivePage(config.live_page_path))) as writer:
        writer.rebuild("the last one", {})
    shown_world.follower.database_id = None
    control = Control(make_services(config))
    with without("endpoints"):
        control._load_at_start()
        shown_world.gateway(request(), database_id="the last one")
        assert shown_world.follower.figures().totals.get("requests_ok") == 1
    control.services.close()


# Backups


def installation(path: Path) -> Config:
    """An installation with a database."""
    made = load({"ROUTERDASH_DATA_DIR": str(path)})
    data_directory.create(made)
    prepare.create_database(made)
    return made


def store(config: Config, table: str) -> None:
    assert config.database_path is not None
    with closing(sqlite3.connect(config.database_path)) as database:
        database.execute(f"CREATE TABLE {table} (value)")


def tables(path: Path | None) -> list[str]:
    assert path is not None
    with closing(sqlite3.connect(path)) as copy:
        return [name for (name,) in copy.execute("SELECT name FROM sqlite_master")]


@time_machine.travel(NOW, tick=False)
def test_a_second_backup_within_the_second_does_not_replace_the_first(tmp_path: Path) -> None:
    config = installation(tmp_path)
    store(config, "first")
    first = prepare.backup(config, "before-adopt")
    store(config, "second")
    prepare.backup(config, "before-adopt")
    assert tables(first) == ["first"]


@pytest.mark.parametrize("name", ["data #1", "what?", "100%41"])
def test_a_database_in_a_directory_with_an_unusual_name_is_copied(tmp_path: Path, name: str) -> None:
    config = installation(tmp_path / name)
    store(config, "kept")
    assert tables(prepare.backup(config)) == ["kept"]


def test_a_failed_backup_is_reported_in_one_line(tmp_path: Path) -> None:
    config = installation(tmp_path)
    (tmp_path / "backups").write_text("a file")
    with pytest.raises(CannotStart):
        prepare.backup(config)


def test_a_refused_database_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "llmlb.sqlite3"
    make(path, requests=5)
    before = path.read_bytes()
    assert serve(tmp_path / "data", DATABASE_URL=f"sqlite:///{path}").code == 2
    assert path.read_bytes() == before


# Adoption


def adopt(path: Path, data_dir: Path) -> Any:
    return manage(
        "adopt",
        ROUTERDASH_DATA_DIR=str(data_dir),
        DATABASE_URL=f"sqlite:///{path}",
        ROUTERDASH_LOG_LEVEL="error",
    )


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "llmlb.sqlite3"
    make(path, requests=5)
    return path


def test_adopt_reports_an_unusable_data_directory(original: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = adopt(original, tmp_path / "file")
    assert done.code == 2
    assert one_line(done.err)
    assert done.err.startswith("adopt: ROUTERDASH_DATA_DIR ")


def test_adopt_reports_a_failed_copy(original: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "backups").write_text("a file")
    done = adopt(original, tmp_path / "data")
    assert done.code == 2
    assert one_line(done.err)


def test_adopt_accepts_a_database_in_a_directory_with_an_unusual_name(tmp_path: Path) -> None:
    path = tmp_path / "data #1" / "llmlb.sqlite3"
    path.parent.mkdir()
    make(path, requests=5)
    assert adopt(path, tmp_path / "data").code == 0


def test_a_failed_adoption_keeps_the_journal_mode(original: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(original)) as connection:
        connection.execute("CREATE TABLE rollup_days (of_somebody_else)")
    before = original.read_bytes()[18:20]
    assert adopt(original, tmp_path / "data").code == 2
    assert original.read_bytes()[18:20] == before


KILLED = """
from django.core.management import call_command
from routerdash.adoption import adoption
adoption._mark_as_done()
call_command("migrate", verbosity=0)
"""


def test_a_killed_adoption_is_finished_by_the_next(original: Path, tmp_path: Path) -> None:
    environment = {"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": f"sqlite:///{original}"}
    assert python(KILLED, **environment).code == 0
    assert adopt(original, tmp_path / "data").code == 0
    with closing(sqlite3.connect(original)) as database:
        assert database.execute("SELECT count(*) FROM endpoint_baselines").fetchone() == (4,)
        assert database.execute("SELECT SUM(value) FROM metric_totals WHERE name LIKE 'requests%'").fetchone() == (12,)


# Logs


def test_django_q_logs_in_our_format(tmp_path: Path) -> None:
    code = (
        "import logging; from gateway.base import logs; logs.configure(config, 'background'); "
        "logging.getLogger('django-q').warning('a worker died')"
    )
    done = python(code, ROUTERDASH_DATA_DIR=str(tmp_path), ROUTERDASH_LOG_FORMAT="json")
    assert json.loads(done.err)["message"] == "a worker died"
