import argparse
import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error

from gateway.base import logs
from metrics.reconcile import audit
from metrics.reconcile.audit import AuditOptions, AuditReport
from metrics.reconcile.scope import ForeignDatabase


class Command(BaseCommand):
    help = (
        "Check that the figures in the database, in the journals and in a running RouterDash agree. Exit code 0: they "
        "agree; 1: they differ, each difference is printed; 2: they could not be checked."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        parser.add_argument(
            "--thorough",
            action="store_true",
            help="also read every row and page, which takes minutes instead of seconds",
        )
        parser.add_argument(
            "--since",
            type=_moment,
            help="compare figures with the history only from this moment on, for example the last change of retention, "
            "history or time zone",
        )
        parser.add_argument("--repair", action="store_true", help="compute differing derived figures again")
        parser.add_argument("--allow-decrease", action="store_true", help="allow a repair to decrease counts")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "reconcile")
        if options["allow_decrease"] and not options["repair"]:
            self._refuse("--allow-decrease needs --repair")
        options_of_audit = AuditOptions(options["since"], options["thorough"])
        try:
            if options["repair"]:
                report = audit.repair(settings.ROUTERDASH, options_of_audit, allow_decrease=options["allow_decrease"])
            else:
                report = audit.check(settings.ROUTERDASH, options_of_audit)
        except ForeignDatabase as error:
            self._refuse(f"this database is not RouterDash's: {error}")
        except (Error, OSError) as error:
            self._refuse(f"the figures cannot be checked: {' '.join(str(error).split()) or type(error).__name__}")
        self._print(report, as_json=options["json"])
        sys.exit(1 if report.differences else 0)

    def _print(self, report: AuditReport, *, as_json: bool) -> None:
        if as_json:
            content = {"clean": not report.differences, **asdict(report)}
            self.stdout.write(json.dumps(content, default=str))
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
    """Parse a moment, in the time zone of RouterDash if it has none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a date such as 2026-11-25 or 2026-11-25T13:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=settings.ROUTERDASH.zone)
