"""Preparation of the database at a start: it is created, migrated to this release, and gets an administrator."""

import glob
import logging
import sqlite3
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import iter_modules
from urllib.parse import quote

from django.apps import apps
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, Error, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from access.bootstrap import NameTaken, WeakPassword, ensure_admin, ensure_bootstrap_key
from endpoints.clouds.environment import ensure_cloud_endpoints
from endpoints.slices import slices
from gateway.base import files
from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from gateway.registry import folders, old_snapshot
from gateway.registry.schema import Damaged
from gateway.registry.writer import RegistryWriter
from metrics.storage import database
from routerdash.processes.data_directory import CannotStart
from routerdash.publication.synchronisation import serve_without_database, synchronise

log = logging.getLogger(__name__)

INITIAL_PASSWORD_FILE = "initial-password"  # noqa: S105
BACKUPS_KEPT = 5


def create_database(config: Config) -> None:
    """Create a SQLite file, but only in a data directory that never had one: an empty file must not replace a lost one.

    Raises CannotStart.
    """
    path = config.database_path
    if path is None or path.exists() or _has_served(config):
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.create_empty(path)
        with closing(sqlite3.connect(path)) as database_file:
            # Pages of twice the default size: half as many are written for the same rows, and fewer repeatedly.
            database_file.execute("PRAGMA page_size=8192")
            database_file.execute("PRAGMA journal_mode=WAL")
            database_file.execute("PRAGMA user_version=0")
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise CannotStart(f"the database {path} cannot be created: {error}") from None


def migrate(config: Config) -> None:
    """Migrate the database if necessary, after a backup; then add its id, and what slices complete.

    Raises django.db.Error, or CannotStart.
    """
    refuse_foreign(config)
    if not is_migrated():
        _run_migrations(config)
    database.database_id()
    for one in slices():
        one.prepare(config)


def is_prepared(config: Config) -> bool:
    """Return True if the database is there, belongs to RouterDash, and has all migrations. Raises django.db.Error."""
    path = config.database_path
    if path is not None and not path.exists():
        return False
    try:
        refuse_foreign(config)
    except CannotStart:
        return False
    return is_migrated()


def is_migrated() -> bool:
    """Return True if the database has all migrations of this release. Their names suffice: none is imported."""
    folders = {app.label: Path(app.path) / "migrations" for app in apps.get_app_configs()}
    present = {(label, name) for label, folder in folders.items() for _, name, _ in iter_modules([str(folder)])}
    return present <= MigrationRecorder(connection).applied_migrations().keys()


def _run_migrations(config: Config) -> None:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        if "django_migrations" in connection.introspection.table_names():
            backup(config)
        log.info("migrating the database: %d migrations", len(plan))
        call_command("migrate", interactive=False, verbosity=0, database=DEFAULT_DB_ALIAS)


def refuse_foreign(config: Config) -> None:
    """Raise CannotStart for a database that belongs to another program."""
    for one in slices():
        if reason := one.refused_database(config):
            raise CannotStart(reason)


def backup(config: Config, reason: str = "before-migration") -> Path | None:
    """Copy a SQLite database by SQLite's backup function, and delete all but the last BACKUPS_KEPT copies.

    Return the path of the copy; None on PostgreSQL. Raises CannotStart.
    """
    path = config.database_path
    if path is None:
        log.warning("RouterDash does not back up PostgreSQL; use pg_dump before upgrades")
        return None
    folder = config.data_dir / "backups"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        target = _new_name(folder, f"{path.stem}-{reason}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        files.create_empty(target)
        with closing(sqlite3.connect(uri(path, "ro"), uri=True)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        for old in sorted(folder.glob(f"{glob.escape(path.stem)}-{reason}-*.sqlite3"))[:-BACKUPS_KEPT]:
            old.unlink()
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"the database cannot be copied to {folder}: {error}") from None
    log.info("copied the database to %s", target)
    return target


def _new_name(folder: Path, stem: str) -> Path:
    """Return an unused file name: an older copy is never overwritten."""
    names = (folder / f"{stem}{end}.sqlite3" for end in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(path for path in names if not path.exists())


def uri(path: Path, mode: str) -> str:
    """Return the URI by which sqlite3 opens a file in this mode (`ro`, `rw`); all characters of the name are quoted."""
    return f"file:{quote(str(path))}?mode={mode}"


def create_first_users(config: Config) -> None:
    """Create the first administrator, and the bootstrap key and endpoints of clouds of the settings.

    Raises Error, or CannotStart.
    """
    try:
        with transaction.atomic():  # no administrator with a lost password
            password = ensure_admin(config)
            if password is not None:
                _deliver_password(config, password)
    except (NameTaken, WeakPassword) as error:
        raise CannotStart(str(error)) from None
    except OSError as error:
        raise CannotStart(f"the first password cannot be written to {config.data_dir}: {error.strerror}") from None
    ensure_bootstrap_key(config)
    ensure_cloud_endpoints(config)


def _deliver_password(config: Config, password: str) -> None:
    """Show a generated password once on the terminal, or write it to a file if there is no terminal."""
    if sys.stdout.isatty():
        print(f"\n  Log in as {config.admin_username} with the password  {password}\n", flush=True)  # noqa: T201
        return
    path = config.data_dir / INITIAL_PASSWORD_FILE
    files.replace(path, password.encode() + b"\n")
    log.info("the password of %s is in %s", config.admin_username, path)


def prepare_database(config: Config) -> None:
    """Create the database at the first start, migrate it, add its first users, and bring the registry store up to it.

    So what has changed in the database while RouterDash was stopped, such as a deleted API key, is in effect before the
    first request. If the database cannot be used but a registry store exists, gateways serve from it and control
    retries. Raises CannotStart if there is none.
    """
    create_database(config)
    try:
        writer = RegistryWriter(config.registry_dir, LivePage(config.live_page_path))
        try:
            _synchronise(config, writer)
        finally:
            writer.close()
    except (OSError, sqlite3.Error, Damaged) as error:
        raise CannotStart(f"the registry store in {config.registry_dir} cannot be written: {error}") from None
    finally:
        connection.close()


def _synchronise(config: Config, writer: RegistryWriter) -> None:
    """Raise CannotStart, or the errors of the writer if there is nothing to serve from."""
    try:
        migrate(config)
        create_first_users(config)
        synchronise(writer, config.data_dir)
    except Error as error:
        reason = _first_line(error)
        if not serve_without_database(writer, config.data_dir):
            raise CannotStart(
                f"the database cannot be used and there is no registry store to serve from: {reason}"
            ) from None
        log.warning("starting without the database: %s; the registry store is used", reason)
    except (OSError, sqlite3.Error, Damaged) as error:
        if not writer.is_usable:
            raise
        log.error("the registry store cannot be written: %s; gateways begin with its last state", error)


def _has_served(config: Config) -> bool:
    """Return True if gateways have served from this data directory before."""
    return (config.registry_dir / folders.CURRENT).exists() or (config.data_dir / old_snapshot.FILE).exists()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
