import argparse
import logging
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, transaction

from gateway.base import logs
from metrics.costs import repricing
from metrics.reconcile import repair

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = (
        "Compute the costs of past requests again with the present price book. Without --apply, only print what would "
        "change. Requests whose rows retention has deleted keep their costs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", type=_moment, required=True, help="requests that completed then or later")
        parser.add_argument("--apply", action="store_true", help="change the costs, and log each change")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "reprice")
        apply = options["apply"]
        try:
            with transaction.atomic():
                if apply:
                    repair.lock()
                changes = repricing.reprice(options["since"], settings.ROUTERDASH.zone, apply=apply)
        except Error as error:
            raise CommandError(f"the costs cannot be computed: {' '.join(str(error).split())}") from error
        for change in changes:
            self.stdout.write(str(change))
            if apply:
                log.warning("repriced since %s: %s", options["since"].isoformat(), change)
        if not changes:
            self.stdout.write("no cost differs")
        elif not apply:
            self.stdout.write("nothing was changed: use --apply to change these costs")


def _moment(text: str) -> datetime:
    """Parse a moment, in the time zone of RouterDash if it has none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date or time, such as 2026-11-01 or 2026-11-01T12:00Z"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=settings.ROUTERDASH.zone)
