"""Django's settings that depend on ours."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from django.conf import settings as django_settings

from gateway.base.config import load
from routerdash.settings import database
from tests.routerdash.commands import python

QUERY = "from django.db import connection\nprint(connection.cursor().execute('%s').fetchone())"


def test_sqlite_files_are_opened_and_never_created(tmp_path: Path) -> None:
    settings = database(load({"ROUTERDASH_DATA_DIR": str(tmp_path)}))
    assert settings["NAME"] == f"file:{tmp_path}/routerdash.sqlite3?mode=rw"
    done = python(QUERY % "SELECT 1", ROUTERDASH_DATA_DIR=str(tmp_path))
    assert "unable to open database file" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_have_any_name(tmp_path: Path) -> None:
    settings = database(load({"DATABASE_URL": f"sqlite:///{tmp_path}/load balancer #1?.db"}))
    assert settings["NAME"] == f"file:{tmp_path}/load%20balancer%20%231%3F.db?mode=rw"


def test_writers_wait_for_each_other_from_the_beginning() -> None:
    assert database(load({}))["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_sqlite_uses_a_write_ahead_log(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "routerdash.sqlite3")) as made:
        made.execute("CREATE TABLE t (x)")
    assert python(QUERY % "PRAGMA journal_mode", ROUTERDASH_DATA_DIR=str(tmp_path)).out == "('wal',)\n"


def test_caches_of_sqlite_have_a_limit_together(tmp_path: Path) -> None:
    """Each thread has a connection, whose cache grows to 20 MB when a page counts the rows of a large table."""
    with closing(sqlite3.connect(tmp_path / "routerdash.sqlite3")):
        pass
    done = python(QUERY % "PRAGMA soft_heap_limit", ROUTERDASH_DATA_DIR=str(tmp_path))
    assert done.out == "(64000000,)\n"


SAME_CONNECTION = """
from django.db import close_old_connections, connection
connection.ensure_connection()
opened = connection.connection
close_old_connections()
print(connection.connection is opened)
"""


def test_only_background_jobs_use_a_connection_again(tmp_path: Path) -> None:
    """Threads of control end with their request, and would leave their connections open."""
    file = tmp_path / "routerdash.sqlite3"
    file.touch()
    for role, expected in (("background", "True"), ("control", "False")):
        done = python(SAME_CONNECTION, ROUTERDASH_DATA_DIR=str(tmp_path), ROUTERDASH_ROLE=role)
        assert done.out.split() == [expected], done.err


def test_postgresql_is_configured_by_its_url() -> None:
    settings = database(load({"DATABASE_URL": "postgres://me:secret@db.example.com:5433/figures"}))
    assert settings["ENGINE"] == "routerdash.postgresql"
    assert [settings[name] for name in ("HOST", "PORT", "NAME", "USER", "PASSWORD")] == [
        "db.example.com",
        5433,
        "figures",
        "me",
        "secret",
    ]
    assert settings["OPTIONS"]["connect_timeout"] == 5


@pytest.mark.parametrize(("url", "secure"), [("https://llm.example.com", True), ("http://llm.local", False)])
def test_cookies_are_secure_behind_tls(tmp_path: Path, url: str, secure: bool) -> None:
    code = "print(settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE, settings.CSRF_TRUSTED_ORIGINS)"
    done = python(code, ROUTERDASH_DATA_DIR=str(tmp_path), ROUTERDASH_PUBLIC_URL=url)
    assert done.out == f"{secure} {secure} ['{url}']\n"


def test_debug_is_off() -> None:
    assert django_settings.DEBUG is False


def test_reading_settings_writes_no_file(tmp_path: Path) -> None:
    assert python("print(1)", ROUTERDASH_DATA_DIR=str(tmp_path / "data")).out == "1\n"
    assert list(tmp_path.iterdir()) == []


NAMES = "print(settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME)"


def test_cookies_have_the_host_prefix_only_with_https(tmp_path: Path) -> None:
    secure = python(NAMES, ROUTERDASH_DATA_DIR=str(tmp_path), ROUTERDASH_PUBLIC_URL="https://llm.example.com")
    assert secure.out == "__Host-routerdash_session __Host-routerdash_csrf\n"
    plain = python(NAMES, ROUTERDASH_DATA_DIR=str(tmp_path), ROUTERDASH_PUBLIC_URL="http://llm.local")
    assert plain.out == "routerdash_session routerdash_csrf\n"


RESPONSE = """
import django; django.setup()
from django.test import Client
response = Client().get("/health")
print(response.headers.get("Strict-Transport-Security"))
"""


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"ROUTERDASH_PUBLIC_URL": "https://llm.example.com"}, "max-age=31536000"),
        ({"ROUTERDASH_PUBLIC_URL": "https://llm.example.com", "ROUTERDASH_HSTS_SECONDS": "60"}, "max-age=60"),
        ({"ROUTERDASH_PUBLIC_URL": "https://llm.example.com", "ROUTERDASH_HSTS_SECONDS": "0"}, "None"),
        ({"ROUTERDASH_PUBLIC_URL": "http://llm.local"}, "None"),
    ],
)
def test_hsts_is_one_year(tmp_path: Path, settings: dict[str, str], header: str) -> None:
    done = python(RESPONSE, ROUTERDASH_DATA_DIR=str(tmp_path), **settings)
    assert done.out == f"{header}\n", done.err
