import sys
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from gateway import logs
from routerdash import adoption
from routerdash.cli import NAME


class Command(BaseCommand):
    help = (
        "Take over the llmlb database that DATABASE_URL names, in place: a copy is made first, nothing that is there "
        "is changed. Never asks."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only look and tell")
        parser.add_argument(
            "--encrypt-keys",
            action="store_true",
            help="also move the servers' keys from plain text into RouterDash's sealed column; llmlb then has none",
        )

        parser.add_argument(
            "--drop-indexes",
            action="store_true",
            help="also drop llmlb's indexes of the history, which no page uses; says how to make them again",
        )

    def handle(self, *args: Any, dry_run: bool, encrypt_keys: bool, drop_indexes: bool, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "adopt")
        path = settings.ROUTERDASH.database_path
        if path is None:
            self._refuse("adopt takes over SQLite files; llmlb has no other database")
        try:
            found = adoption.look(path, only_look=dry_run)
            self._tell(found)
            if dry_run:
                self.stdout.write("dry run: nothing was changed")
                return
            if not found.adopted:
                adoption.adopt(settings.ROUTERDASH, path, self.stdout.write)
                self.stdout.write(f"{path} is RouterDash's now; start it with `{NAME} serve`")
            if encrypt_keys and found.plain_keys:
                count = adoption.encrypt_keys(settings.ROUTERDASH, self.stdout.write)
                self.stdout.write(f"{count} keys are sealed; llmlb cannot read them any more")
            if drop_indexes and found.idle_indexes:
                adoption.drop_indexes(found, self.stdout.write)
        except adoption.CannotAdopt as error:
            self._refuse(str(error))

    def _tell(self, found: adoption.Found) -> None:
        if found.adopted:
            self.stdout.write("this database is RouterDash's already")
        for table, count in found.rows.items():
            self.stdout.write(f"{table}: {count} rows")
        if found.plain_keys:
            self.stdout.write(
                f"{found.plain_keys} keys of servers stand in plain text, as llmlb left them; --encrypt-keys seals them"
            )

        if found.idle_indexes:
            self.stdout.write(
                f"{len(found.idle_indexes)} indexes of request_history are used by no page and cost each request; "
                "--drop-indexes drops them"
            )

    def _refuse(self, text: str) -> NoReturn:
        self.stderr.write(f"adopt: {text}")
        sys.exit(2)
