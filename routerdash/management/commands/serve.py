from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from routerdash.processes import serve


class Command(BaseCommand):
    """The command in Django's list of commands. routerdash.cli runs `serve` without Django."""

    help = serve.HELP
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        serve.add_arguments(parser)

    def handle(self, *args: Any, workers: int | None = None, **options: Any) -> None:
        serve.run(workers)
