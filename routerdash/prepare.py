"""What must be there before RouterDash runs: data directory, keys, a database at this release, an administrator."""

import errno
import glob
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, Error, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from access.bootstrap import NameTaken, WeakPassword, ensure_admin, ensure_bootstrap_key
from endpoints import keys
from gateway import files, volumes
from gateway.config import Config
from metrics import adopted, database
from routerdash import reference, secret_key
from routerdash.cli import NAME

log = logging.getLogger(__name__)

INITIAL_PASSWORD_FILE = "initial-password"  # noqa: S105
BACKUPS_KEPT = 5


class CannotStart(Exception):
    """The text is one line for the person at the terminal."""


def data_directory(config: Config) -> None:
    """Make it, for this user alone. Raises CannotStart."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_what_belongs_to_others(config.data_dir)
        config.journal_dir.mkdir(mode=0o700, exist_ok=True)
        os.chmod(config.data_dir, 0o700)
        secret_key.make(config.data_dir / "secret-key")
        keys.sealer()
    except OSError as error:
        hint = "; mount a volume there" if config.in_container and error.errno == errno.EROFS else ""
        raise CannotStart(
            f"ROUTERDASH_DATA_DIR {config.data_dir} cannot be used: {error.strerror or error}{hint}"
        ) from None


def _refuse_what_belongs_to_others(directory: Path) -> None:
    """A volume that another user made, or files of a start as root, would fail later and less clearly."""
    us = os.geteuid()
    if us == 0:
        return
    owners = ((it, _owner(it)) for it in _with_what_is_in_it(directory))
    foreign, owner = next((found for found in owners if found[1] not in (us, None)), (directory, us))
    if owner != us:
        raise CannotStart(
            f"ROUTERDASH_DATA_DIR {directory} cannot be used: {foreign} belongs to user {owner}, but RouterDash runs "
            f"as user {us}. Run `chown -R {us}:{os.getegid()} {directory}` as root, or start RouterDash as the owner"
        )


def _owner(path: Path) -> int | None:
    """Of what it leads to; None if that is nothing."""
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None


def _with_what_is_in_it(directory: Path) -> Iterator[Path]:
    yield directory  # first: what is in one of somebody else's cannot be listed
    yield from directory.iterdir()


def warn_of_lost_data(config: Config) -> None:
    """To the log; the overview says the same for as long as it is so."""
    if config.in_container and volumes.goes_with_the_container(config.data_dir):
        log.warning(
            "no volume is mounted for %s: figures, users and keys are lost with this container", config.data_dir
        )


def create_database(config: Config) -> None:
    """A new SQLite file, only in a data directory that has never had one: a lost database must not come back empty."""
    path = config.database_path
    if path is None or path.exists() or config.snapshot_path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as made:
            # Pages of twice the usual size: half as many are written for as many rows, and fewer of them again.
            made.execute("PRAGMA page_size=8192")
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA user_version=0")
        os.chmod(path, 0o600)
    except (sqlite3.Error, OSError) as error:
        raise CannotStart(f"the database {path} cannot be made: {error}") from None


def bring_up_to_date(config: Config) -> None:
    """Migrations, after a backup; then what every database of ours has. Raises Error, or CannotStart."""
    refuse_reference(config)
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        if "django_migrations" in connection.introspection.table_names():
            backup(config)
        log.info("bringing the database up to date: %d migrations", len(plan))
        call_command("migrate", interactive=False, verbosity=0, database=DEFAULT_DB_ALIAS)
    database.database_id()
    _count_adopted(config)


def _count_adopted(config: Config) -> None:
    """What llmlb served with this database, if it ever did. Raises Error while that is away."""
    try:
        adopted.catch_up(config.zone, log.info)
    except Exception as error:
        if isinstance(error, Error) and database.is_away(error):
            raise
        log.exception("requests of llmlb could not be counted; the start goes on without them")


def refuse_reference(config: Config) -> None:
    """A database of llmlb is taken over by `adopt` alone. Looked at read-only: it stays as it is, to the byte."""
    path = config.database_path
    if path is None or not path.exists():
        return
    try:
        with closing(sqlite3.connect(uri(path, "ro"), uri=True)) as found:
            tables = reference.tables(found)
            cut_off = reference.is_half_adopted(found)
    except sqlite3.Error:
        return  # what is wrong with it is for Django to say
    if cut_off:
        raise CannotStart(f"taking this database over was cut off; run `{NAME} adopt` again, then start")
    if reference.is_reference(tables) and "django_migrations" not in tables:
        raise CannotStart(f"this database belongs to llmlb; take it over with `{NAME} adopt`, then start again")


def backup(config: Config, reason: str = "before-migration") -> Path | None:
    """A copy of a SQLite database, made by SQLite itself; the last few are kept. None on PostgreSQL.

    Raises CannotStart.
    """
    path = config.database_path
    if path is None:
        log.warning("PostgreSQL is not backed up by RouterDash; use pg_dump before upgrades")
        return None
    folder = config.data_dir / "backups"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        target = _new_name(folder, f"{path.stem}-{reason}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        with closing(sqlite3.connect(uri(path, "ro"), uri=True)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        os.chmod(target, 0o600)
        for old in sorted(folder.glob(f"{glob.escape(path.stem)}-{reason}-*.sqlite3"))[:-BACKUPS_KEPT]:
            old.unlink()
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"no copy of the database can be made in {folder}: {error}") from None
    log.info("copied the database to %s", target)
    return target


def _new_name(folder: Path, stem: str) -> Path:
    """A name that no copy has yet: an older one is never overwritten."""
    names = (folder / f"{stem}{end}.sqlite3" for end in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(path for path in names if not path.exists())


def uri(path: Path, mode: str) -> str:
    """For sqlite3: a file in this mode (`ro`, `rw`), whatever characters its name has."""
    return f"file:{quote(str(path))}?mode={mode}"


def people(config: Config) -> None:
    """The first administrator and the bootstrap key, as the settings say. Raises Error, or CannotStart."""
    try:
        with transaction.atomic():  # no administrator without somebody who knows the password
            password = ensure_admin(config)
            if password is not None:
                _hand_over(config, password)
    except (NameTaken, WeakPassword) as error:
        raise CannotStart(str(error)) from None
    except OSError as error:
        raise CannotStart(f"the first password cannot be left in {config.data_dir}: {error.strerror}") from None
    ensure_bootstrap_key(config)


def _hand_over(config: Config, password: str) -> None:
    """A generated password is shown once on a terminal; where there is none, it is left in a file."""
    if sys.stdout.isatty():
        print(f"\n  Log in as {config.admin_username} with the password  {password}\n", flush=True)  # noqa: T201
        return
    path = config.data_dir / INITIAL_PASSWORD_FILE
    files.replace(path, password.encode() + b"\n")
    log.info("the password of %s is in %s", config.admin_username, path)


def whole_database(config: Config) -> None:
    """Made if this is the first start, brought up to date, with its first people. A database that cannot be used is
    left to control, which tries again, as long as there is a snapshot to serve from; else raises CannotStart.
    """
    create_database(config)
    try:
        bring_up_to_date(config)
        people(config)
    except Error as error:
        why = _first_line(error)
        if not config.snapshot_path.exists():
            raise CannotStart(f"the database cannot be used and there is no snapshot to serve from: {why}") from None
        log.warning("starting without the database: %s", why)
    finally:
        connection.close()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
