import sys
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from access.models import MANAGE_KEYS
from gateway.base import logs
from routerdash.adoption import adoption
from routerdash.cli import NAME


class Command(BaseCommand):
    help = (
        "Adopt the llmlb database that DATABASE_URL names, in place. The database is copied first, and existing data "
        "is not changed. The command does not prompt."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only inspect the database and print the result")
        parser.add_argument(
            "--encrypt-keys",
            action="store_true",
            help="also move the endpoints' API keys from plain text to RouterDash's sealed column; llmlb then has none",
        )

        parser.add_argument(
            "--drop-indexes",
            action="store_true",
            help="also drop llmlb's indexes of the history, which no page uses; print the SQL that creates them again",
        )

    def handle(self, *args: Any, dry_run: bool, encrypt_keys: bool, drop_indexes: bool, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "adopt")
        path = settings.ROUTERDASH.database_path
        if path is None:
            self._refuse("only SQLite files can be adopted; llmlb has no other database")
        try:
            contents = adoption.inspect(path, read_only=dry_run)
            self._print(contents)
            if dry_run:
                self.stdout.write("dry run: nothing was changed")
                return
            if not contents.adopted:
                adoption.adopt(settings.ROUTERDASH, path, self.stdout.write)
                self.stdout.write(f"{path} now belongs to RouterDash; start it with `{NAME} serve`")
            if encrypt_keys and contents.plain_keys:
                count = adoption.encrypt_keys(settings.ROUTERDASH, self.stdout.write)
                self.stdout.write(f"{count} keys are sealed; llmlb can no longer read them")
            if drop_indexes and contents.idle_indexes:
                adoption.drop_indexes(contents, self.stdout.write)
        except adoption.CannotAdopt as error:
            self._refuse(str(error))

    def _print(self, contents: adoption.AdoptableDatabase) -> None:
        if contents.adopted:
            self.stdout.write("this database already belongs to RouterDash")
        for table, count in contents.rows.items():
            self.stdout.write(f"{table}: {count} rows")
        if contents.plain_keys:
            self.stdout.write(
                f"{contents.plain_keys} API keys of endpoints are in plain text, as llmlb stored them; "
                "--encrypt-keys seals them"
            )

        if contents.managing_keys and not contents.adopted:
            names = ", ".join(repr(name) for name in contents.managing_keys)
            self.stdout.write(
                f"warning: API keys with the permission {MANAGE_KEYS}: {names}. No route of llmlb asked for it; here "
                "it lets a key read and change the limits and budgets of all keys and of everyone. Remove it in the "
                "admin (Access, API keys) where it is not meant"
            )

        if contents.idle_indexes:
            self.stdout.write(
                f"{len(contents.idle_indexes)} indexes of request_history are used by no page and slow down each "
                "request; --drop-indexes drops them"
            )

    def _refuse(self, text: str) -> NoReturn:
        self.stderr.write(f"adopt: {text}")
        sys.exit(2)
