"""Additions of the adoption of a database of llmlb to the core."""

import logging
import sqlite3
from contextlib import closing

from django.db import Error

from endpoints.slices import Slice
from gateway.base.config import Config
from routerdash.cli import NAME

log = logging.getLogger(__name__)


class AdoptionSlice(Slice):
    def refused_database(self, config: Config) -> str:
        """Return why a database of llmlb, which only `adopt` takes over, cannot be used.

        The file is opened read-only, so that it is not changed.
        """
        from routerdash.adoption import llmlb_schema
        from routerdash.processes.prepare import uri

        path = config.database_path
        if path is None or not path.exists():
            return ""
        try:
            with closing(sqlite3.connect(uri(path, "ro"), uri=True)) as database_file:
                tables = llmlb_schema.tables(database_file)
                interrupted = llmlb_schema.is_half_adopted(database_file)
        except sqlite3.Error:
            return ""  # Django reports the error of this file
        if interrupted:
            return f"the adoption of this database was interrupted; run `{NAME} adopt` again, then start"
        if llmlb_schema.is_reference(tables) and "django_migrations" not in tables:
            return f"this database belongs to llmlb; adopt it with `{NAME} adopt`, then start again"
        return ""

    def prepare(self, config: Config) -> None:
        """Count the requests that llmlb served with this database, if any."""
        from metrics.storage import database
        from routerdash.adoption import history

        try:
            history.catch_up(config.zone, log.info)
        except Exception as error:
            if isinstance(error, Error) and database.is_away(error):
                raise
            log.exception("requests of llmlb could not be counted; the start continues without them")

    def before_pruning(self, config: Config) -> None:
        """Count rows of llmlb before they are deleted."""
        from routerdash.adoption import history

        history.catch_up(config.zone, log.info)


SLICE = AdoptionSlice()
