"""Preparation before RouterDash runs: files that must exist, and files that must never be created or overwritten."""

import os
import sqlite3
import stat
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import time_machine

from access.models import PERMISSIONS, ApiKey, User, hash_key
from endpoints.changes import triggers
from gateway.base.config import Config, load
from gateway.registry import old_snapshot
from metrics.models import Installation
from metrics.storage.database import database_id
from routerdash.processes import data_directory, prepare
from routerdash.processes.data_directory import CannotStart
from tests.access.people import key_for, make_user
from tests.metrics.records import NOW
from tests.metrics.world import add_endpoint, rows, without
from tests.reference.make_reference_db import make
from tests.router import free_port
from tests.routerdash.commands import Done, manage, one_line, python
from tests.routerdash.publication import store

pytestmark = pytest.mark.every_database

KEY = "sk_" + "a1B2" * 8


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def set_up(config: Config, **settings: str) -> Config:
    """The same installation with other settings."""
    return load({"ROUTERDASH_DATA_DIR": str(config.data_dir), "ROUTERDASH_TIME_ZONE": "UTC", **settings})


# The data directory


def test_the_data_directory_is_created_for_its_owner_only(config: Config) -> None:
    data_directory.create(config)
    assert mode(config.data_dir) == mode(config.journal_dir) == 0o700


def test_a_directory_readable_by_others_is_restricted(config: Config) -> None:
    config.data_dir.mkdir(mode=0o755, parents=True)
    data_directory.create(config)
    assert mode(config.data_dir) == 0o700


def test_parent_directories_are_created(config: Config) -> None:
    deep = set_up(config, ROUTERDASH_DATA_DIR=str(config.data_dir / "a" / "b"))
    data_directory.create(deep)
    assert deep.journal_dir.is_dir()


def test_the_secret_key_is_created_once(config: Config) -> None:
    data_directory.create(config)
    path = config.data_dir / "secret-key"
    made = path.read_text()
    data_directory.create(config)
    assert path.read_text() == made
    assert mode(path) == 0o600


@pytest.mark.parametrize("below", [".", "data"])
def test_a_file_in_place_of_the_directory_is_reported(config: Config, below: str) -> None:
    config.data_dir.parent.mkdir(exist_ok=True)
    config.data_dir.write_text("a file")
    wanted = set_up(config, ROUTERDASH_DATA_DIR=str(config.data_dir / below))
    with pytest.raises(CannotStart, match=r"^ROUTERDASH_DATA_DIR /.* cannot be used: ") as error:
        data_directory.create(wanted)
    assert "\n" not in str(error.value)


def test_a_bad_directory_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = serve(tmp_path / "file")
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err)
    assert done.err.startswith("routerdash: ROUTERDASH_DATA_DIR ")


def test_a_bad_setting_stops_the_start_with_one_line(tmp_path: Path) -> None:
    done = manage("serve", ROUTERDASH_DATA_DIR=str(tmp_path), ROUTERDASH_PORT="http")
    assert done.code == 2
    assert one_line(done.err)
    assert done.err.startswith("routerdash: ROUTERDASH_PORT must be ")


# The database's file


def test_the_first_start_creates_a_database(config: Config) -> None:
    data_directory.create(config)
    prepare.create_database(config)
    assert config.database_path is not None
    assert mode(config.database_path) == 0o600
    with closing(sqlite3.connect(config.database_path)) as made:
        assert made.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert made.execute("PRAGMA page_size").fetchone() == (8192,)


@pytest.mark.parametrize("former", ["registry/current", "snapshot"])
def test_a_lost_database_is_not_replaced_by_an_empty_one(config: Config, former: str) -> None:
    data_directory.create(config)
    path = config.data_dir / former
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"1")
    prepare.create_database(config)
    assert config.database_path is not None
    assert not config.database_path.exists()


def test_an_existing_database_is_kept(config: Config) -> None:
    data_directory.create(config)
    assert config.database_path is not None
    config.database_path.write_bytes(b"content")
    prepare.create_database(config)
    assert config.database_path.read_bytes() == b"content"


def test_postgresql_creates_no_file(config: Config) -> None:
    data_directory.create(config)
    prepare.create_database(set_up(config, DATABASE_URL="postgres://postgres@127.0.0.1/nowhere"))
    assert not list(config.data_dir.glob("*.sqlite3"))


def test_a_path_where_no_database_can_be_created_is_reported(config: Config) -> None:
    data_directory.create(config)
    elsewhere = set_up(config, DATABASE_URL=f"sqlite:///{config.data_dir}/secret-key/db.sqlite3")
    with pytest.raises(CannotStart, match=r"^the database /.*db\.sqlite3 cannot be created: "):
        prepare.create_database(elsewhere)


# Backups


@pytest.fixture
def stored(config: Config) -> Config:
    """An installation whose database has one row."""
    data_directory.create(config)
    prepare.create_database(config)
    assert config.database_path is not None
    with closing(sqlite3.connect(config.database_path)) as made:
        made.execute("CREATE TABLE kept (value)")
        made.execute("INSERT INTO kept VALUES (42)")
        made.commit()
    return config


def test_a_backup_has_the_contents_of_the_database(stored: Config) -> None:
    path = prepare.backup(stored)
    assert path is not None
    assert (path.parent, mode(path), mode(path.parent)) == (stored.data_dir / "backups", 0o600, 0o700)
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("SELECT value FROM kept").fetchall() == [(42,)]


def test_a_database_and_its_copies_are_private_from_their_first_moment_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "chmod", lambda *_: None)  # which would come too late
    data_directory.create(config)
    before = os.umask(0)
    try:
        prepare.create_database(config)
        copy = prepare.backup(config)
    finally:
        os.umask(before)
    assert config.database_path is not None
    assert copy is not None
    assert (mode(config.database_path), mode(copy)) == (0o600, 0o600)


def test_a_backups_name_has_reason_and_time(stored: Config) -> None:
    with time_machine.travel(NOW):
        path = prepare.backup(stored, "before-lunch")
    assert path is not None
    assert path.name == "routerdash-before-lunch-20260310T120030Z.sqlite3"


def test_five_backups_are_kept(stored: Config) -> None:
    for minute in range(8):
        with time_machine.travel(NOW + timedelta(minutes=minute)):
            prepare.backup(stored)
    names = sorted(path.name for path in (stored.data_dir / "backups").iterdir())
    assert len(names) == 5
    assert "T120330Z" in names[0]


def test_backups_of_another_reason_are_not_counted(stored: Config) -> None:
    first = prepare.backup(stored, "before-adopt")
    for minute in range(8):
        with time_machine.travel(NOW + timedelta(minutes=minute)):
            prepare.backup(stored)
    assert first is not None
    assert first.exists()


def test_postgresql_is_not_backed_up(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    assert prepare.backup(set_up(config, DATABASE_URL="postgres://postgres@127.0.0.1/nowhere")) is None
    assert "pg_dump" in caplog.text


# Migrations

UP_TO_DATE = """
from routerdash.processes import data_directory, prepare
data_directory.create(config); prepare.create_database(config); prepare.migrate(config)
"""


def serve(data_dir: Path, **environment: str) -> Done:
    """A start that must fail; returns the errors without progress messages."""
    return manage(
        "serve",
        ROUTERDASH_DATA_DIR=str(data_dir),
        ROUTERDASH_LOG_LEVEL="warning",
        ROUTERDASH_PORT=str(free_port()),
        **environment,
    )


def backups(data_dir: Path) -> list[Path]:
    return list((data_dir / "backups").glob("*")) if (data_dir / "backups").exists() else []


def test_a_new_database_is_migrated_without_a_backup(tmp_path: Path) -> None:
    done = python(UP_TO_DATE, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert done.code == 0, done.err
    assert backups(tmp_path) == []
    with closing(sqlite3.connect(tmp_path / "routerdash.sqlite3")) as made:
        assert made.execute("SELECT count(*) FROM installation").fetchone() == (1,)


def test_a_current_database_needs_no_import_of_migrations(tmp_path: Path) -> None:
    code = UP_TO_DATE + "import sys; print(sorted(name for name in sys.modules if '.migrations.0' in name))"
    first, second = (python(code, ROUTERDASH_DATA_DIR=str(tmp_path)) for _ in range(2))
    assert "endpoints.migrations.0001_initial" in first.out
    assert second.out.strip() == "[]"


def test_an_older_database_is_copied_before_it_is_migrated(tmp_path: Path) -> None:
    older = UP_TO_DATE + "from django.core.management import call_command\ncall_command('migrate', 'endpoints', '0001')"
    assert python(older, ROUTERDASH_DATA_DIR=str(tmp_path)).code == 0
    done = python(UP_TO_DATE, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert done.code == 0, done.err
    (copy,) = backups(tmp_path)
    with closing(sqlite3.connect(copy)) as older_database:
        tables = {name for (name,) in older_database.execute("SELECT name FROM sqlite_master")}
    assert "endpoints" in tables
    assert "endpoint_options" not in tables


def test_a_database_at_this_release_is_not_copied(tmp_path: Path) -> None:
    for _ in range(2):
        assert python(UP_TO_DATE, ROUTERDASH_DATA_DIR=str(tmp_path)).code == 0
    assert backups(tmp_path) == []


def test_a_database_of_llmlb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llmlb.sqlite3"
    make(path, requests=5)
    done = serve(tmp_path / "data", DATABASE_URL=f"sqlite:///{path}")
    assert done.code == 2
    assert one_line(done.err)
    assert "belongs to llmlb; adopt it with `manage.py adopt`" in done.err
    with closing(sqlite3.connect(path)) as untouched:
        assert not untouched.execute("SELECT name FROM sqlite_master WHERE name LIKE 'django%'").fetchall()


@pytest.mark.django_db
def test_every_database_has_an_id(config: Config) -> None:
    prepare.migrate(config)
    assert Installation.objects.count() == 1


# Users and keys


@pytest.mark.django_db
def test_the_first_administrator_has_the_configured_password(config: Config) -> None:
    data_directory.create(config)
    prepare.create_first_users(
        set_up(config, ROUTERDASH_ADMIN_PASSWORD="a long pass phrase", ROUTERDASH_ADMIN_USERNAME="root")
    )
    user = User.objects.get()
    assert (user.username, user.is_admin, user.must_change_password) == ("root", True, False)
    assert user.check_password("a long pass phrase")
    assert not (config.data_dir / "initial-password").exists()


@pytest.mark.django_db
def test_a_generated_password_is_left_in_a_file(config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    data_directory.create(config)
    prepare.create_first_users(config)
    path = config.data_dir / "initial-password"
    user = User.objects.get()
    assert user.check_password(path.read_text().strip())
    assert user.must_change_password
    assert mode(path) == 0o600
    assert path.read_text().strip() not in "".join(capfd.readouterr())


@pytest.mark.django_db
def test_on_a_terminal_the_password_is_shown(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_directory.create(config)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    prepare.create_first_users(config)
    printed = capsys.readouterr().out.split()
    assert User.objects.get().check_password(printed[-1])
    assert not (config.data_dir / "initial-password").exists()


@pytest.mark.django_db
def test_there_is_no_second_first_administrator(config: Config) -> None:
    data_directory.create(config)
    for password in ("a long pass phrase", "another pass phrase"):
        prepare.create_first_users(set_up(config, ROUTERDASH_ADMIN_PASSWORD=password))
    assert User.objects.get().check_password("a long pass phrase")


@pytest.mark.django_db
def test_a_viewer_with_the_administrators_name_prevents_the_start(config: Config) -> None:
    data_directory.create(config)
    make_user("admin")
    with pytest.raises(CannotStart) as error:
        prepare.create_first_users(config)
    assert "\n" not in str(error.value)


@pytest.mark.django_db
def test_the_bootstrap_key_follows_the_settings(config: Config) -> None:
    data_directory.create(config)
    prepare.create_first_users(set_up(config, ROUTERDASH_BOOTSTRAP_API_KEY=KEY))
    row = ApiKey.objects.get()
    assert (row.name, row.key_hash, set(row.granted)) == ("bootstrap", hash_key(KEY), set(PERMISSIONS))
    prepare.create_first_users(config)
    assert not ApiKey.objects.exists()


# Complete starts


@pytest.fixture
def to_start(config: Config) -> Config:
    """An installation whose first start is to come."""
    data_directory.create(config)
    return set_up(config, ROUTERDASH_ADMIN_PASSWORD="a long pass phrase")


@pytest.mark.django_db(transaction=True)
def test_everything_is_prepared(to_start: Config) -> None:
    prepare.prepare_database(to_start)
    assert User.objects.count() == Installation.objects.count() == 1
    assert triggers.present()
    assert store.assert_is_as_the_database(to_start).state.version == 1


@pytest.mark.django_db(transaction=True)
def test_a_key_that_was_deleted_while_stopped_is_not_in_the_store(to_start: Config) -> None:
    prepare.prepare_database(to_start)
    for name in ("kept", "revoked"):
        key_for(User.objects.get(), name=name)
    prepare.prepare_database(to_start)
    assert len(store.read(to_start).keys) == 2
    rows("DELETE FROM api_keys WHERE name = 'revoked'")
    prepare.prepare_database(to_start)
    published = store.assert_is_as_the_database(to_start)
    assert [*published.keys] == [ApiKey.objects.get(name="kept").key_hash]


@pytest.mark.django_db(transaction=True)
def test_a_start_needs_a_database_or_a_registry_store(to_start: Config) -> None:
    expected = "^the database cannot be used and there is no registry store to serve from: "
    with without("users"), pytest.raises(CannotStart, match=expected) as error:
        prepare.prepare_database(to_start)
    assert "\n" not in str(error.value)


@pytest.mark.django_db(transaction=True)
def test_without_the_database_a_registry_store_is_enough(to_start: Config, caplog: pytest.LogCaptureFixture) -> None:
    prepare.prepare_database(to_start)
    before = store.read(to_start)
    with without("users"):
        prepare.prepare_database(to_start)
    assert "starting without the database" in caplog.text
    assert store.read(to_start) == before


@pytest.mark.django_db(transaction=True)
def test_without_the_database_an_old_snapshot_is_enough_until_it_returns(to_start: Config) -> None:
    path = to_start.data_dir / old_snapshot.FILE
    path.write_bytes(msgspec.msgpack.encode(old_snapshot.Snapshot(version=9, database_id="old")))
    with without("users"):
        prepare.prepare_database(to_start)
    assert (store.read(to_start).state.database_id, path.exists()) == ("old", True)
    prepare.prepare_database(to_start)
    assert (store.assert_is_as_the_database(to_start).state.database_id, path.exists()) == (database_id(), False)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_old_snapshot", [False, True])
def test_a_store_that_cannot_be_written_prevents_the_first_start(to_start: Config, is_old_snapshot: bool) -> None:
    """With an old snapshot alone, and without the database, the store would be built of that."""
    to_start.registry_dir.write_text("a file")
    if is_old_snapshot:
        content = msgspec.msgpack.encode(old_snapshot.Snapshot(version=9, database_id="old"))
        (to_start.data_dir / old_snapshot.FILE).write_bytes(content)
    with (
        without("users") if is_old_snapshot else nullcontext(),
        pytest.raises(CannotStart, match=r"^the registry store in .* cannot be written: ") as error,
    ):
        prepare.prepare_database(to_start)
    assert "\n" not in str(error.value)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("table", ["meta", "endpoints", "keys"])
def test_a_damaged_store_is_built_anew_by_a_start(to_start: Config, table: str) -> None:
    prepare.prepare_database(to_start)
    add_endpoint()
    key_for(User.objects.get())
    prepare.prepare_database(to_start)
    store.damage_rows(to_start, table)
    ApiKey.objects.update(permissions=["endpoints.read"])
    prepare.prepare_database(to_start)
    store.assert_is_as_the_database(to_start)


@pytest.mark.django_db
def test_no_administrator_is_created_if_the_password_cannot_be_shown(config: Config) -> None:
    data_directory.create(config)
    path = config.data_dir / prepare.INITIAL_PASSWORD_FILE
    path.mkdir()
    with pytest.raises(CannotStart, match="the first password cannot be written"):
        prepare.create_first_users(config)
    assert not User.objects.exists()
    path.rmdir()
    prepare.create_first_users(config)
    assert User.objects.get().check_password(path.read_text().strip())
