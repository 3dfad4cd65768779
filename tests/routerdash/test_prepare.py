"""What must be there before RouterDash runs, and what must never be made or overwritten."""

import sqlite3
import stat
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import time_machine

from access.models import PERMISSIONS, ApiKey, User, hash_key
from gateway.config import Config, load
from metrics.models import Installation
from routerdash import prepare
from routerdash.prepare import CannotStart
from tests.access.people import make_user
from tests.metrics.records import NOW
from tests.metrics.world import without
from tests.reference.make_reference_db import make
from tests.router import free_port
from tests.routerdash.processes import Done, manage, one_line, python

KEY = "sk_" + "a1B2" * 8


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def set_up(config: Config, **settings: str) -> Config:
    """The same installation with other settings."""
    return load({"ROUTERDASH_DATA_DIR": str(config.data_dir), "ROUTERDASH_TIME_ZONE": "UTC", **settings})


# The data directory


def test_the_data_directory_is_made_for_its_owner_alone(config: Config) -> None:
    prepare.data_directory(config)
    assert mode(config.data_dir) == mode(config.journal_dir) == 0o700


def test_a_directory_that_others_could_read_is_closed(config: Config) -> None:
    config.data_dir.mkdir(mode=0o755, parents=True)
    prepare.data_directory(config)
    assert mode(config.data_dir) == 0o700


def test_directories_above_it_are_made(config: Config) -> None:
    deep = set_up(config, ROUTERDASH_DATA_DIR=str(config.data_dir / "a" / "b"))
    prepare.data_directory(deep)
    assert deep.journal_dir.is_dir()


def test_the_secret_key_is_made_once(config: Config) -> None:
    prepare.data_directory(config)
    path = config.data_dir / "secret-key"
    made = path.read_text()
    prepare.data_directory(config)
    assert path.read_text() == made
    assert mode(path) == 0o600


@pytest.mark.parametrize("below", [".", "data"])
def test_a_file_in_its_place_is_named(config: Config, below: str) -> None:
    config.data_dir.parent.mkdir(exist_ok=True)
    config.data_dir.write_text("a file")
    wanted = set_up(config, ROUTERDASH_DATA_DIR=str(config.data_dir / below))
    with pytest.raises(CannotStart, match=r"^ROUTERDASH_DATA_DIR /.* cannot be used: ") as error:
        prepare.data_directory(wanted)
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


def test_the_first_start_makes_a_database(config: Config) -> None:
    prepare.data_directory(config)
    prepare.create_database(config)
    assert config.database_path is not None
    assert mode(config.database_path) == 0o600
    with closing(sqlite3.connect(config.database_path)) as made:
        assert made.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert made.execute("PRAGMA page_size").fetchone() == (8192,)


def test_a_lost_database_is_not_replaced_by_an_empty_one(config: Config) -> None:
    prepare.data_directory(config)
    config.snapshot_path.write_bytes(b"there was one")
    prepare.create_database(config)
    assert config.database_path is not None
    assert not config.database_path.exists()


def test_a_database_that_is_there_is_left_alone(config: Config) -> None:
    prepare.data_directory(config)
    assert config.database_path is not None
    config.database_path.write_bytes(b"content")
    prepare.create_database(config)
    assert config.database_path.read_bytes() == b"content"


def test_postgresql_is_nobodys_file(config: Config) -> None:
    prepare.data_directory(config)
    prepare.create_database(set_up(config, DATABASE_URL="postgres://postgres@127.0.0.1/nowhere"))
    assert not list(config.data_dir.glob("*.sqlite3"))


def test_a_place_where_no_database_can_be_made_is_named(config: Config) -> None:
    prepare.data_directory(config)
    elsewhere = set_up(config, DATABASE_URL=f"sqlite:///{config.data_dir}/secret-key/db.sqlite3")
    with pytest.raises(CannotStart, match=r"^the database /.*db\.sqlite3 cannot be made: "):
        prepare.create_database(elsewhere)


# Backups


@pytest.fixture
def stored(config: Config) -> Config:
    """An installation whose database holds one row."""
    prepare.data_directory(config)
    prepare.create_database(config)
    assert config.database_path is not None
    with closing(sqlite3.connect(config.database_path)) as made:
        made.execute("CREATE TABLE kept (value)")
        made.execute("INSERT INTO kept VALUES (42)")
        made.commit()
    return config


def test_a_backup_holds_what_the_database_holds(stored: Config) -> None:
    path = prepare.backup(stored)
    assert path is not None
    assert (path.parent, mode(path), mode(path.parent)) == (stored.data_dir / "backups", 0o600, 0o700)
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("SELECT value FROM kept").fetchall() == [(42,)]


def test_a_backups_name_says_why_and_when(stored: Config) -> None:
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
from routerdash import prepare
prepare.data_directory(config); prepare.create_database(config); prepare.bring_up_to_date(config)
"""


def serve(data_dir: Path, **environment: str) -> Done:
    """A start that is expected to fail, without the lines that tell how it got so far."""
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


def test_a_database_of_the_reference_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "llmlb.sqlite3"
    make(path, requests=5)
    done = serve(tmp_path / "data", DATABASE_URL=f"sqlite:///{path}")
    assert done.code == 2
    assert one_line(done.err)
    assert "belongs to llmlb; take it over with `manage.py adopt`" in done.err
    with closing(sqlite3.connect(path)) as untouched:
        assert not untouched.execute("SELECT name FROM sqlite_master WHERE name LIKE 'django%'").fetchall()


@pytest.mark.django_db
def test_every_database_has_an_id(config: Config) -> None:
    prepare.bring_up_to_date(config)
    assert Installation.objects.count() == 1


# People


@pytest.mark.django_db
def test_the_first_administrator_has_the_configured_password(config: Config) -> None:
    prepare.data_directory(config)
    prepare.people(set_up(config, ROUTERDASH_ADMIN_PASSWORD="a long pass phrase", ROUTERDASH_ADMIN_USERNAME="root"))
    user = User.objects.get()
    assert (user.username, user.is_admin, user.must_change_password) == ("root", True, False)
    assert user.check_password("a long pass phrase")
    assert not (config.data_dir / "initial-password").exists()


@pytest.mark.django_db
def test_a_generated_password_is_left_in_a_file(config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    prepare.data_directory(config)
    prepare.people(config)
    path = config.data_dir / "initial-password"
    user = User.objects.get()
    assert user.check_password(path.read_text().strip())
    assert user.must_change_password
    assert mode(path) == 0o600
    assert path.read_text().strip() not in "".join(capfd.readouterr())


@pytest.mark.django_db
def test_on_a_terminal_the_password_is_shown_instead(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.data_directory(config)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    prepare.people(config)
    words = capsys.readouterr().out.split()
    assert User.objects.get().check_password(words[-1])
    assert not (config.data_dir / "initial-password").exists()


@pytest.mark.django_db
def test_there_is_no_second_first_administrator(config: Config) -> None:
    prepare.data_directory(config)
    for password in ("a long pass phrase", "another pass phrase"):
        prepare.people(set_up(config, ROUTERDASH_ADMIN_PASSWORD=password))
    assert User.objects.get().check_password("a long pass phrase")


@pytest.mark.django_db
def test_a_viewer_with_the_administrators_name_is_no_start(config: Config) -> None:
    prepare.data_directory(config)
    make_user("admin")
    with pytest.raises(CannotStart) as error:
        prepare.people(config)
    assert "\n" not in str(error.value)


@pytest.mark.django_db
def test_the_bootstrap_key_is_kept_as_the_settings_say(config: Config) -> None:
    prepare.data_directory(config)
    prepare.people(set_up(config, ROUTERDASH_BOOTSTRAP_API_KEY=KEY))
    row = ApiKey.objects.get()
    assert (row.name, row.key_hash, set(row.granted)) == ("bootstrap", hash_key(KEY), set(PERMISSIONS))
    prepare.people(config)
    assert not ApiKey.objects.exists()


# All of it


@pytest.mark.django_db(transaction=True)
def test_everything_is_prepared(config: Config) -> None:
    prepare.data_directory(config)
    prepare.whole_database(set_up(config, ROUTERDASH_ADMIN_PASSWORD="a long pass phrase"))
    assert User.objects.count() == Installation.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_neither_database_nor_snapshot_is_no_start(config: Config) -> None:
    prepare.data_directory(config)
    with without("users"), pytest.raises(CannotStart, match="there is no snapshot to serve from: ") as error:
        prepare.whole_database(config)
    assert "\n" not in str(error.value)


@pytest.mark.django_db(transaction=True)
def test_without_the_database_a_snapshot_is_enough(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    prepare.data_directory(config)
    config.snapshot_path.write_bytes(b"")
    with without("users"):
        prepare.whole_database(config)
    assert "starting without the database" in caplog.text


@pytest.mark.django_db
def test_no_administrator_is_made_whose_password_nobody_learns(config: Config) -> None:
    prepare.data_directory(config)
    path = config.data_dir / prepare.INITIAL_PASSWORD_FILE
    path.mkdir()
    with pytest.raises(prepare.CannotStart, match="the first password cannot be left"):
        prepare.people(config)
    assert not User.objects.exists()
    path.rmdir()
    prepare.people(config)
    assert User.objects.get().check_password(path.read_text().strip())
