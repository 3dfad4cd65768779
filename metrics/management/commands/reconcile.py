import argparse
import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error

from gateway import logs
from metrics.reconcile import audit
from metrics.reconcile.audit import Asked, NotOurs, Report


class Command(BaseCommand):
    help = (
        "Check the figures: database, journals and what a running RouterDash tells must agree. Exit code 0: they do; "
        "1: they differ, each difference is printed; 2: it could not look."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
        parser.add_argument(
            "--thorough", action="store_true", help="also read every row and page: minutes, not seconds"
        )
        parser.add_argument(
            "--since",
            type=_moment,
            help="compare nothing older with the history: after a change of retention, history or time zone",
        )
        parser.add_argument("--repair", action="store_true", help="build anew what is derived")
        parser.add_argument("--allow-decrease", action="store_true", help="a repair may make counts smaller")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "reconcile")
        if options["allow_decrease"] and not options["repair"]:
            self._refuse("--allow-decrease goes with --repair")
        asked = Asked(options["since"], options["thorough"])
        try:
            if options["repair"]:
                report = audit.mend(settings.ROUTERDASH, asked, allow_decrease=options["allow_decrease"])
            else:
                report = audit.look(settings.ROUTERDASH, asked)
        except NotOurs as error:
            self._refuse(f"this database is not RouterDash's: {error}")
        except (Error, OSError) as error:
            self._refuse(f"cannot look: {' '.join(str(error).split()) or type(error).__name__}")
        self._tell(report, as_json=options["json"])
        sys.exit(1 if report.differences else 0)

    def _tell(self, report: Report, *, as_json: bool) -> None:
        if as_json:
            told = {"clean": not report.differences, **asdict(report)}
            self.stdout.write(json.dumps(told, default=str))
            return
        for change in report.changes:
            self.stdout.write(f"repaired {change}")
        for difference in report.differences:
            self.stdout.write(str(difference))
        for note in report.notes:
            self.stdout.write(f"note: {note}")
        self.stdout.write(f"{len(report.differences)} differences" if report.differences else "all figures agree")

    def _refuse(self, text: str) -> None:
        self.stderr.write(f"reconcile: {text}")
        sys.exit(2)


def _moment(text: str) -> datetime:
    """In RouterDash's time zone where it names none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("a date such as 2026-11-25, or 2026-11-25T13:00") from None
    return found if found.tzinfo else found.replace(tzinfo=settings.ROUTERDASH.zone)
