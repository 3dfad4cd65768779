from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from routerdash.processes import background


class Command(BaseCommand):
    """The command in Django's list of commands. routerdash.cli runs `background` without Django."""

    help = background.HELP
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        background.add_arguments(parser)

    def handle(self, *args: Any, alive: int, **options: Any) -> None:
        background.run(alive)
